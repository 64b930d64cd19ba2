"""The changes that a store writes: what each plans onto which content."""

from __future__ import annotations

import os
from typing import Any

import pytest

from histstore import KEEP, ConversationSnapshot, SnapshotError
from histstore.log.base import Base
from histstore.log.changes import Append, Change, Replace, Rewrite, Splice, content_of, meta_of
from histstore.log.plan import Writer, grow


def writer() -> Writer:
    return Writer(os.urandom(16), 0, 1 << 30)


def written(change: Change, base: Base | None = None) -> Base | None:
    """Returns the content after a change; None: it changes nothing."""
    plan = change.plan(base.head if base is not None else None, base, 0, writer())
    return None if plan is None else grow(base, plan, plan.entry.revision(), change.pinned)


def content(*messages: Any, meta: dict[str, Any] | None = None) -> Base:
    base = written(Replace(ConversationSnapshot(messages, meta=meta)))
    assert base is not None
    return base


def test_replace_makes_the_run_what_the_snapshot_is() -> None:
    base = written(Replace(ConversationSnapshot(["x"], [True], {"k": 1})), content("a", "b"))
    assert base is not None
    after = content_of(base)
    assert (after.messages, after.pinned, after.meta) == (("x",), (True,), {"k": 1})


def test_replace_writes_an_empty_run() -> None:
    base = written(Replace(ConversationSnapshot()))
    assert base is not None
    assert base.length == 0


def test_replace_by_the_same_changes_nothing() -> None:
    base = content("a")
    assert written(Replace(content_of(base)), base) is None


@pytest.mark.parametrize("pinned", [False, True])
def test_append_adds_at_the_end(pinned: bool) -> None:
    base = written(Append(["b", "c"], pinned, KEEP), content("a", meta={"k": 1}))
    assert base is not None
    after = content_of(base)
    assert after.messages == ("a", "b", "c")
    assert after.pinned == (False, pinned, pinned)
    assert after.meta == {"k": 1}


def test_append_needs_no_content() -> None:
    head = content("a").head
    plan = Append(["b"], False, KEEP).plan(head, None, 0, writer())
    assert plan is not None
    assert plan.entry.header.length == 2
    assert not Append.needs_base


def test_append_of_nothing_makes_no_empty_run() -> None:
    assert Append([], False, KEEP).plan(None, None, 0, writer()) is None
    assert Append([], False, {}).plan(None, None, 0, writer()) is None
    assert Append([], False, {"k": 1}).plan(None, None, 0, writer()) is not None


@pytest.mark.parametrize("meta", [KEEP, {"k": 2}])
def test_append_cleans_up_a_log_that_is_mostly_dead(meta: Any) -> None:
    """The few live messages are written again, with the new ones, and readers start there."""
    base: Base | None = content(*["x" * 1000] * 100, meta={"k": 1})
    for _ in range(40):
        base = written(Splice(0, None, ["y" * 1000], False, KEEP), base) or base
        if base is not None and base.head.logged - base.head.size > 90_000:
            break
    assert base is not None
    plan = Append(["z"], True, meta).plan(base.head, base, 0, writer())
    assert plan is not None
    after = grow(base, plan, plan.entry.revision(), True)
    assert after is not None
    assert content_of(after).messages[-1] == "z"
    assert content_of(after).pinned[-1]
    assert meta_of(after) == ({"k": 1} if meta is KEEP else meta)


@pytest.mark.parametrize("change", [lambda: Append(["b"], 1, KEEP), lambda: Splice(0, "x", [], False, KEEP)])  # type: ignore[arg-type]
def test_arguments_are_checked_before_anything_is_planned(change: Any) -> None:
    with pytest.raises(SnapshotError):
        change()


def test_splice_replaces_a_part() -> None:
    base = written(Splice(1, 2, ["x", "y"], False, {"k": 2}), content("a", "b", "c"))
    assert base is not None
    assert content_of(base).messages == ("a", "x", "y", "c")
    assert meta_of(base) == {"k": 2}


def test_splice_of_nothing_makes_no_empty_run() -> None:
    assert Splice(0, 0, [], False, KEEP).plan(None, None, 0, writer()) is None
    assert written(Splice(0, 0, ["a"], False, KEEP)) is not None


def test_rewrite_is_a_full_checkpoint_of_the_same() -> None:
    base = written(Append(["b"], False, KEEP), content("a", meta={"k": 1}))
    assert base is not None
    plan = Rewrite().plan(base.head, base, 0, writer())
    assert plan is not None
    assert plan.entry.checkpoint == plan.entry.version == 3
    after = grow(base, plan, plan.entry.revision())
    assert after is not None
    assert (content_of(after), meta_of(after)) == (content_of(base), {"k": 1})


def test_rewrite_of_an_absent_run_is_nothing() -> None:
    assert Rewrite().plan(None, None, 0, writer()) is None


def test_the_meta_of_content_is_decoded_once() -> None:
    base = content("a", meta={"k": 1})
    base.mapping = None
    assert meta_of(base) is meta_of(base)
