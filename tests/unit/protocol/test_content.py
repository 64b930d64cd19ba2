"""From the reply to a read to a run's content, without a server."""

from __future__ import annotations

import dataclasses
import os
from typing import Any

import pytest

from histstore import KEEP, ConversationSnapshot, Revision, RevisionGoneError
from histstore.log.base import Base
from histstore.log.changes import Append, Change, Replace
from histstore.log.columns import read_entries
from histstore.log.plan import Plan, Writer, grow
from histstore.log.unreadable import BrokenChainError
from histstore.protocol.content import (
    Doubt,
    advanced,
    check_absent,
    check_held,
    follows,
    past,
    proven_head,
    replayed,
)
from histstore.protocol.heads import RawHead
from histstore.protocol.reads import Loaded


class Log:
    """A run's log and head, as the server keeps them."""

    def __init__(self) -> None:
        self.bases: list[Base] = []
        self.items: list[Any] = []
        for change in (Replace(ConversationSnapshot(["a"])), Append(["b"], False, KEEP), Append(["c"], False, KEEP)):
            self.write(change)

    def write(self, change: Change) -> None:
        base = self.bases[-1] if self.bases else None
        plan = change.plan(base.head if base is not None else None, base, 0, Writer(os.urandom(16), 0, 1 << 20))
        assert plan is not None
        found = grow(base, plan, plan.entry.revision())
        assert found is not None
        self.bases.append(found)
        self.items.append(self._item(plan))

    @staticmethod
    def _item(plan: Plan) -> Any:
        entry = plan.entry
        return [b"0-%d" % entry.version, [b"h", entry.header.pack(), b"t", b"1700000000000", b"b", entry.body]]

    def head(self, version: int = 3, first: int = 1) -> RawHead:
        head = self.bases[version - 1].head
        return RawHead(
            version, head.etag, head.length, head.size, head.checkpoint, head.logged, head.check(), first, b"1"
        )


@pytest.fixture
def log() -> Log:
    return Log()


def messages(base: Base | None) -> list[Any]:
    assert base is not None
    return list(base.messages())


def test_a_full_read_is_replayed(log: Log) -> None:
    assert messages(replayed(log.head(), log.items)) == ["a", "b", "c"]


def test_content_advances_by_what_was_read_after_it(log: Log) -> None:
    assert messages(advanced(Loaded(log.head(), log.items[1:]), log.bases[0])) == ["a", "b", "c"]


def test_unchanged_content_is_the_same_object(log: Log) -> None:
    assert advanced(Loaded(log.head(), []), log.bases[2]) is log.bases[2]


def test_content_of_another_life_of_the_run_is_read_in_full(log: Log) -> None:
    """None of the entries follows, and the run's absence is no content either."""
    assert advanced(Loaded(None, []), log.bases[0]) is None
    other = Log()
    assert advanced(Loaded(log.head(), log.items[1:]), other.bases[0]) is None


def test_a_log_that_does_not_reach_the_head_is_damaged(log: Log) -> None:
    with pytest.raises(BrokenChainError):
        advanced(Loaded(log.head(), log.items[1:2]), log.bases[0])


@pytest.mark.parametrize("version", [1, 2, 3])
def test_past_versions_are_reached(log: Log, version: int) -> None:
    loaded = Loaded(log.head(), log.items[:version])
    assert messages(past(loaded, version, version)) == ["a", "b", "c"][:version]
    revision = log.bases[version - 1].head.revision
    assert messages(past(loaded, revision, version)) == ["a", "b", "c"][:version]


@pytest.mark.parametrize(
    ("at", "first", "reason"),
    [(4, 1, "never"), (1, 2, "trimmed"), (2, 2, "trimmed"), (Revision(2, b"x" * 16), 1, "lost")],
    ids=["newer", "older", "without its checkpoint", "another history"],
)
def test_a_version_that_is_not_there_says_why(log: Log, at: Any, first: int, reason: str) -> None:
    version = at if isinstance(at, int) else at.version
    with pytest.raises(RevisionGoneError) as caught:
        past(Loaded(log.head(first=first), log.items[first - 1 : version]), at, version)
    assert caught.value.reason == reason


def test_a_past_version_of_an_absent_run_is_gone(log: Log) -> None:
    with pytest.raises(RevisionGoneError, match="absent"):
        past(Loaded(None, []), 1, 1)
    with pytest.raises(BrokenChainError, match="no head"):
        past(Loaded(None, log.items), 1, 1)


@pytest.mark.parametrize("items", [[], [0], [1]], ids=["none", "older", "without the first"])
def test_a_past_version_whose_entries_are_missing_is_damaged(log: Log, items: list[int]) -> None:
    with pytest.raises(BrokenChainError, match="an entry is missing"):
        past(Loaded(log.head(), [log.items[at] for at in items]), 2, 2)


def test_a_head_is_proven_by_its_check_and_its_log(log: Log) -> None:
    meta = log.bases[2].head.meta
    head = proven_head(Loaded(log.head(), [3], meta))
    assert head is not None
    assert head.revision == log.bases[2].head.revision
    assert proven_head(Loaded(None, [0])) is None
    for broken in (
        Loaded(None, [3]),
        Loaded(log.head(), [2], meta),
        Loaded(dataclasses.replace(log.head(), length=9), [3], meta),
    ):
        with pytest.raises(BrokenChainError):
            proven_head(broken)


def test_a_log_without_a_head_is_damaged(log: Log) -> None:
    check_absent(Loaded(None, []))
    with pytest.raises(BrokenChainError, match="no head"):
        check_absent(Loaded(None, log.items))


def test_revisions_follow_each_other_downwards(log: Log) -> None:
    first, second, third = read_entries(log.items)
    assert follows([second, first], third)
    assert follows([third], None)
    assert follows([], third)
    assert not follows([first], third)
    assert not follows(read_entries(Log().items)[1::-1], third)


def test_an_entry_that_was_read_before_may_be_gone(log: Log) -> None:
    entry = read_entries(log.items)[1]
    check_held(Loaded(log.head(), [log.items[1]]), entry)
    for loaded in (Loaded(log.head(), []), Loaded(None, []), Loaded(log.head(), [log.items[2]])):
        with pytest.raises(RevisionGoneError):
            check_held(loaded, entry)


def test_damage_is_confirmed_by_two_reads_of_the_same_head() -> None:
    doubt, error = Doubt(), BrokenChainError(1, "broken")
    seen = []
    for etag in (b"1", b"2", b"2"):
        doubt.begin()
        assert doubt.etag == b""
        doubt.etag = etag
        seen.append(doubt.confirmed(error))
    assert seen == [False, False, True]
    assert doubt.error is error
