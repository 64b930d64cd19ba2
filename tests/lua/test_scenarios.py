"""Every scenario, on the real scripts."""

from __future__ import annotations

import contextlib
import re
from collections.abc import Callable

import pytest

from histstore.protocol.scripts import ALL, PROBE

from .scenarios import SCENARIOS
from .world import World

_REPLIES: dict[str, set[tuple[str, str]]] = {}


def _run(name: str, make_world: Callable[..., World]) -> set[tuple[str, str]]:
    if name not in _REPLIES:
        world = make_world(name)
        SCENARIOS[name](world)
        _REPLIES[name] = world.replies
    return _REPLIES[name]


@pytest.mark.parametrize("name", SCENARIOS)
def test_scenario(name: str, make_world: Callable[..., World]) -> None:
    """The scenario's own docstring says what holds."""
    _run(name, make_world)


def test_every_reply_that_a_header_lists_is_provoked_and_no_other(make_world: Callable[..., World]) -> None:
    """The first words of the scripts' replies, over all scenarios, are exactly those of the `Returns` lines."""
    declared = set()
    for script in ALL:
        header = script.source.split("\n\nlocal ")[0]
        returns = header[header.index("-- Returns") :]
        declared |= {(script.name, word) for word in re.findall(r'\{"(\w+)"', returns)}
    assert {name for name, _ in declared} == {script.name for script in ALL if script is not PROBE}
    replies: set[tuple[str, str]] = set()
    for name in SCENARIOS:
        # A scenario that this server's generation skips provokes nothing.
        with contextlib.suppress(pytest.skip.Exception):
            replies |= _run(name, make_world)
    assert replies == declared
