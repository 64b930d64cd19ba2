"""The public policies: their values, and what durable saves wait for."""

from __future__ import annotations

import pickle
from typing import Any

import pytest

from histstore import Durability, RetryPolicy, SnapshotError


@pytest.mark.parametrize(
    "wrong",
    [
        {"attempts": 0}, {"attempts": -1}, {"attempts": 1.0}, {"attempts": True}, {"attempts": None},
        {"deadline": 0}, {"deadline": -1}, {"deadline": float("nan")}, {"deadline": float("inf")}, {"deadline": "1"},
        {"base": -0.1}, {"base": float("inf")}, {"base": None}, {"cap": -1}, {"cap": True},
    ],
    ids=repr,
)  # fmt: skip
def test_a_wrong_policy_cannot_be_made(wrong: dict[str, Any]) -> None:
    """The error names the option."""
    with pytest.raises(SnapshotError, match=f"RetryPolicy.{next(iter(wrong))}"):
        RetryPolicy(**wrong)


@pytest.mark.parametrize(
    "wrong",
    [
        {"replicas": -1}, {"replicas": 1.0}, {"replicas": True}, {"fsync": 1}, {"fsync": None},
        {"timeout": 0}, {"timeout": 0.0001}, {"timeout": float("inf")}, {"timeout": "1"},
    ],
    ids=repr,
)  # fmt: skip
def test_a_wrong_durability_cannot_be_made(wrong: dict[str, Any]) -> None:
    """A timeout of nothing would be WAIT's "for ever"."""
    with pytest.raises(SnapshotError, match=f"Durability.{next(iter(wrong))}"):
        Durability(**wrong)


def test_defaults_and_values() -> None:
    """The documented defaults; frozen, comparable, picklable."""
    assert RetryPolicy() == RetryPolicy(attempts=6, deadline=30.0, base=0.05, cap=2.0)
    assert Durability() == Durability(replicas=0, fsync=False, timeout=1.0)
    for value, name in ((RetryPolicy(attempts=2), "attempts"), (Durability(replicas=1), "replicas")):
        assert pickle.loads(pickle.dumps(value)) == value
        with pytest.raises(AttributeError):
            setattr(value, name, 3)


@pytest.mark.parametrize(
    ("durability", "command", "wanted"),
    [
        (Durability(), ("WAIT", "0", "1000"), 0),
        (Durability(replicas=2, timeout=0.25), ("WAIT", "2", "250"), 2),
        (Durability(fsync=True), ("WAITAOF", "1", "0", "1000"), 1),
        (Durability(replicas=1, fsync=True, timeout=0.0015), ("WAITAOF", "1", "1", "2"), 2),
    ],
)
def test_what_a_durable_save_waits_for(durability: Durability, command: tuple[Any, ...], wanted: int) -> None:
    """WAIT for replicas, WAITAOF with the disk; never 0 milliseconds."""
    assert (durability.command(), durability.wanted) == (command, wanted)


@pytest.mark.parametrize(
    ("durability", "reply", "copies"),
    [
        (Durability(replicas=1, fsync=True), [0, 2], 1),
        (Durability(replicas=1, fsync=True), [1, 0], 1),
        (Durability(replicas=1, fsync=True), [1, 3], 2),
        (Durability(fsync=True), [0, 1], 0),
        (Durability(fsync=True), [1, 0], 1),
        (Durability(replicas=2), 3, 2),
        (Durability(replicas=2), 1, 1),
        (Durability(replicas=2), TimeoutError("lost"), 0),
    ],
)
def test_a_replica_does_not_stand_in_for_the_disk(durability: Durability, reply: object, copies: int) -> None:
    """Each kind of copy counts up to what was asked of it, so that `wanted` is only reached by all of them."""
    assert durability.copies(reply) == copies
