"""The self-test of a connection."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator

import pytest
import redis

from histstore.protocol.backend import probe as probe_call
from histstore.protocol.scripts import ALL, PROBE

from .sending import commands, exchange
from .world import World


@pytest.fixture
def raw(server_url: str) -> Iterator[redis.Redis]:
    """A client that speaks RESP2: in RESP3 what SUBSCRIBE answers is no reply, but comes in between."""
    client = redis.Redis.from_url(server_url, protocol=2)
    yield client
    client.close()


def probe(world: World, client: redis.Redis) -> list[str]:
    *_, problems = exchange(client, *probe_call(world.keys).commands(False, False))
    return [line.decode() for line in problems]


def test_a_server_that_allows_everything_has_no_problems(make_world: Callable[..., World]) -> None:
    """The probe answers with an empty list, twice too, and leaves no key behind."""
    world = make_world("")
    for _ in range(2):
        assert probe(world, world.client) == []
        assert not world.client.exists(world.keys.head)


def test_the_probe_runs_every_command_of_every_script() -> None:
    """What a script uses and the probe does not would fail between two writes instead of at the start."""
    tried = set(re.findall(r"^try\('([A-Z]+)'", PROBE.source, re.MULTILINE))
    for script in ALL:
        used = commands(script.name)
        assert used, script.name
        assert used <= tried, f"{script.name}: {used - tried}"
    assert tried == set().union(*(commands(script.name) for script in ALL if script is not PROBE)), "tried in vain"


def test_each_missing_permission_is_named(make_world: Callable[..., World]) -> None:
    """For each command of the scripts alone: without the permission, the probe names that command and no other."""
    world = make_world("")
    tried = commands(PROBE.name)
    assert len(tried) > 15, tried
    with world.limited() as without:
        for command in sorted(tried):
            found = {line.rpartition(" (")[2].rstrip(")") for line in probe(world, without([command]))}
            world.client.delete(world.keys.head)
            assert command in found, f"{command}: {found}"
