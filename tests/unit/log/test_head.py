"""The head of a run."""

from __future__ import annotations

import dataclasses
from typing import Any

import pytest

from histstore.log.head import timestamp

from ...support.entries import chain


def test_the_head_is_proven() -> None:
    """Each field of a head changes its check."""
    _, base = chain(2)
    head = base.head
    checks = {head.check()}
    for name, value in [("length", 9), ("size", 9), ("checkpoint", 2), ("logged", 1), ("meta", b"\xa0")]:
        checks.add(dataclasses.replace(head, **{name: value}).check())
    for name, value in [("version", 9), ("etag", bytes(16))]:
        checks.add(dataclasses.replace(head, revision=head.revision.__replace__(**{name: value})).check())
    assert len(checks) == 8


@pytest.mark.parametrize("value", [None, b"", "", b"x", b"9" * 30, -(10**20)])
def test_times_that_are_none(value: Any) -> None:
    """What is no time is None, not a crash."""
    assert timestamp(value) is None
