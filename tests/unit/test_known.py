"""What a store remembers, and each transition in the life of a write: without a server."""

from __future__ import annotations

import contextlib
import os
import sys
from collections.abc import Callable
from typing import Any, Final

import pytest

from histstore import ConversationSnapshot, Revision, RunId
from histstore.attempt import Attempt
from histstore.known import Known, Write
from histstore.log.base import Base
from histstore.log.changes import Append, Change, Replace, content_of
from histstore.log.plan import Plan, Writer, grow
from histstore.protocol import deletes, saves
from histstore.protocol.call import Call
from histstore.protocol.keys import run_keys
from histstore.protocol.run import NO_LEASE, RunRef
from histstore.snapshot import find_origin

from ..support.interrupts import TimeLimitError, Tripwire

RUN: Final = RunId("run")
PID: Final = os.getpid()
LATER: Final = 1_700_000_000_000
"""The server's clock, in milliseconds."""


@pytest.fixture
def where() -> RunRef:
    return RunRef("test", RUN, run_keys("test", RUN))


@pytest.fixture
def known(where: RunRef) -> Known:
    return Known(where)


def planned(known: Known, change: Change, *, seen: bool = True, base: Base | None = None) -> tuple[Write, Revision]:
    """Returns a write of `change` onto `base`, or else onto what is known, and the revision that it makes."""
    base = base or known.base
    parent = base.head if base is not None else None
    plan = change.plan(parent, base, 0, Writer(os.urandom(16), 0, 1 << 20))
    assert plan is not None
    return _write(known, plan, base, change, seen), plan.entry.saved_at(LATER)


def _write(known: Known, plan: Plan, base: Base | None, change: Change, seen: bool) -> Write:
    expected = base.head.revision if base is not None else None
    call = saves.save(known.where, plan, expected, NO_LEASE, ttl=None, keep=0, now=0.0)
    return Write(call, plan, base, change.snapshot, change.pinned, seen, known.revision, PID)


def deleted(known: Known) -> Write:
    attempt = Attempt("delete", "test", RUN, known.revision, known.revision, b"t" * 16)
    call = deletes.delete(known.where, attempt, b"", NO_LEASE, force=False)
    return Write(call, None, None, None, False, True, known.revision, PID)


def apply(known: Known, change: Change) -> Revision:
    """Writes a change, and returns the new revision."""
    write, revision = planned(known, change)
    known.result = None
    known.send(write)
    known.apply(write, revision)
    return revision


def append(*messages: Any) -> Append:
    return Append(messages, False, {"n": len(messages)})


def contents(known: Known) -> list[Any]:
    assert known.base is not None
    return list(known.base.messages())


# ------------------------------------------------------------------------------------- transitions


def test_a_new_store_knows_nothing(known: Known) -> None:
    assert (known.revision, known.head, known.base, known.result, known.unsettled) == (None,) * 5


def test_a_write_is_pending_before_it_is_sent(known: Known) -> None:
    """Whoever is interrupted while it is sent finds its name."""
    write, revision = planned(known, append("a"))
    known.send(write)
    assert known.pending is write
    assert known.unsettled is not None
    assert known.unsettled.revision == revision
    assert known.revision is None


def test_an_applied_write_is_the_newest_content(known: Known) -> None:
    first = apply(known, append("a"))
    second = apply(known, append("b"))
    assert known.pending is None
    assert (known.revision, known.result) == (second, second)
    assert second.version == first.version + 1
    assert contents(known) == ["a", "b"]


def test_an_applied_save_names_its_snapshot(known: Known) -> None:
    snapshot = ConversationSnapshot(["a"])
    revision = apply(known, Replace(snapshot))
    assert snapshot.revision == revision
    found = find_origin(snapshot, known.where.key)
    assert found is not None
    assert found[0].base is known.base


def test_a_refused_write_leaves_everything_as_it_was(known: Known) -> None:
    before = apply(known, append("a"))
    write, _ = planned(known, append("b"))
    known.result = None
    known.send(write)
    known.refuse(write)
    assert (known.pending, known.result, known.revision) == (None, None, before)
    assert contents(known) == ["a"]


def test_a_late_refusal_does_not_forget_another_write(known: Known) -> None:
    """A coroutine of a loop that has ended is thrown away in the middle of a write of the next loop."""
    old, _ = planned(known, append("a"))
    known.send(old)
    new, _ = planned(known, append("b"))
    known.send(new)
    known.refuse(old)
    known.interrupt(old, sent=False)
    assert known.pending is new


@pytest.mark.parametrize("sent", [False, True])
def test_an_interrupted_write_is_unsettled_if_a_byte_was_sent(known: Known, sent: bool) -> None:
    write, _ = planned(known, append("a"))
    known.send(write)
    known.interrupt(write, sent)
    assert known.pending is (write if sent else None)
    assert (known.unsettled is not None) is sent


@pytest.mark.parametrize("report", [False, True])
def test_an_unsettled_write_that_was_applied_is_the_newest_content(known: Known, report: bool) -> None:
    apply(known, append("a"))
    write, revision = planned(known, append("b"))
    known.result = None
    known.send(write)
    known.interrupt(write, sent=True)
    known.settle(write, revision, report=report)
    assert (known.pending, known.revision) == (None, revision)
    assert known.result == (revision if report else None)
    assert contents(known) == ["a", "b"]


def test_an_unsettled_write_that_never_will_be_applied_changes_nothing(known: Known) -> None:
    before = apply(known, append("a"))
    write, _ = planned(known, append("b"))
    known.send(write)
    known.settle(write, None, report=True)
    assert (known.pending, known.result, known.revision) == (None, None, before)
    assert contents(known) == ["a"]


def test_a_late_settle_does_not_take_the_store_back(known: Known) -> None:
    """The store has loaded newer content before it learned that its own write came in between."""
    apply(known, append("a"))
    base = known.base
    assert base is not None
    snapshot = content_of(base).append("b")
    write, revision = planned(known, Replace(snapshot))
    known.send(write)
    rival, _ = planned(known, append("x", "y"), base=base)
    assert rival.plan is not None
    newer = grow(base, rival.plan, rival.plan.entry.saved_at(LATER + 1))
    assert newer is not None
    known.see(newer)
    known.settle(write, revision, report=True)
    assert known.base is newer
    assert known.revision == newer.head.revision
    assert known.result == revision
    assert snapshot.revision == revision


def test_a_write_onto_unseen_content_does_not_move_the_store(known: Known) -> None:
    """An append with ANY onto what a rival has saved: the store has not seen that."""
    apply(known, append("a"))
    mine = known.base
    rival, later = planned(known, append("x"))
    assert rival.plan is not None
    theirs = grow(mine, rival.plan, later)
    write, revision = planned(known, append("b"), seen=False, base=theirs)
    known.send(write)
    known.apply(write, revision)
    assert known.base is mine
    assert known.result == revision
    assert known.pending is None


def test_an_append_without_its_base_moves_the_head_only(known: Known) -> None:
    apply(known, append("a"))
    base = known.base
    assert base is not None
    plan = append("b").plan(base.head, None, 0, Writer(os.urandom(16), 0, 1 << 20))
    assert plan is not None
    write = _write(known, plan, None, append("b"), True)
    known.send(write)
    known.apply(write, plan.entry.saved_at(LATER))
    assert known.base is base
    assert known.head is not None
    assert known.head.length == 2


@pytest.mark.parametrize("there", [True, False])
def test_a_delete_leaves_nothing_known(known: Known, there: bool) -> None:
    revision = apply(known, append("a"))
    write = deleted(known)
    known.result = None
    known.send(write)
    known.apply(write, revision if there else None)
    assert (known.pending, known.base, known.head) == (None, None, None)
    assert known.result == (revision if there else None)


def test_a_delete_that_is_settled_late_does_not_forget_a_later_load(known: Known) -> None:
    revision = apply(known, append("a"))
    write = deleted(known)
    known.send(write)
    other = Known(known.where)
    apply(other, append("new"))
    known.see(other.base)
    known.settle(write, revision, report=True)
    assert known.base is other.base


def test_a_forked_process_leaves_the_write_to_its_parent(known: Known) -> None:
    write, _ = planned(known, append("a"))
    known.send(write)
    known.disown(PID)
    assert known.pending is write
    known.disown(PID + 1)
    assert known.pending is None


def test_a_write_whose_outcome_damage_hides_can_be_given_up(known: Known) -> None:
    write, _ = planned(known, append("a"))
    known.send(write)
    known.forget_unsettled()
    assert known.unsettled is None


@pytest.mark.parametrize("seen", [True, False])
def test_a_confirmed_parent_is_what_the_store_is_at(known: Known, seen: bool) -> None:
    other = Known(known.where)
    revision = apply(other, append("a"))
    known.confirm(other.head, other.base, seen)
    assert known.revision == known.result == (revision if seen else None)
    assert known.base is (other.base if seen else None)


def test_a_confirmed_parent_keeps_the_content_that_is_known(known: Known) -> None:
    apply(known, append("a"))
    base = known.base
    known.confirm(known.head, None, True)
    assert known.base is base


def test_a_confirmed_absence_forgets_the_run(known: Known) -> None:
    apply(known, append("a"))
    known.confirm(None, None, False)
    assert (known.head, known.base) == (None, None)


# -------------------------------------------------------------------------------------- interrupts


def _interrupted(step: Callable[[Known, Write, Revision], None], after: int, where: RunRef) -> bool:
    """Interrupts a transition before one of its bytecodes, then settles what is pending; returns whether it did."""
    known = Known(where)
    apply(known, append("a"))
    snapshot = ConversationSnapshot(["a", "b"])
    write, revision = planned(known, Replace(snapshot))
    known.result = None
    known.send(write)
    tripwire = Tripwire(after)
    with tripwire.armed(), contextlib.suppress(TimeLimitError):
        tripwire.run(lambda: step(known, write, revision))
    if known.pending is not None:
        assert known.pending is write
        known.settle(write, revision, report=True)
    assert known.pending is None, after
    assert known.result == known.revision == revision, after
    assert contents(known) == ["a", "b"], after
    assert snapshot.revision == revision, after
    return tripwire.fired > 0


@pytest.mark.alone
@pytest.mark.parametrize(
    "step",
    [
        lambda known, write, revision: known.apply(write, revision),
        lambda known, write, revision: known.settle(write, revision, report=True),
    ],
    ids=["apply", "settle"],
)
def test_a_signal_at_any_bytecode_loses_no_outcome(
    step: Callable[[Known, Write, Revision], None], where: RunRef
) -> None:
    """Either the outcome is recorded, or the write is still pending and is settled once more."""
    before = sys.gettrace()
    try:
        after = 1
        while _interrupted(step, after, where):
            after += 1
    finally:
        sys.settrace(before)
    assert after > 20


# --------------------------------------------------------------------------------------- memory


def test_the_same_content_gives_the_same_snapshot(known: Known) -> None:
    apply(known, append("a"))
    assert known.base is not None
    snapshot = known.snapshot(known.base)
    assert known.snapshot(known.base) is snapshot
    apply(known, append("b"))
    assert known.snapshot(known.base) is not snapshot


def test_a_snapshot_that_became_another_runs_is_made_anew(known: Known) -> None:
    apply(known, append("a"))
    assert known.base is not None
    snapshot = known.snapshot(known.base)
    other = Known(RunRef("test", RunId("other"), run_keys("test", RunId("other"))))
    apply(other, Replace(snapshot))
    again = known.snapshot(known.base)
    assert again is not snapshot
    assert again.revision == known.revision


def test_heads_and_contents_are_found_by_revision(known: Known) -> None:
    revision = apply(known, append("a"))
    base = known.base
    assert base is not None
    assert known.head_at(revision, None) is known.head
    assert known.base_at(known.head, None) == (base, 0)
    snapshot = known.snapshot(base).append("b")
    descent = find_origin(snapshot, known.where.key)
    elsewhere = Known(known.where)
    assert elsewhere.head_at(revision, None) is None
    assert elsewhere.base_at(base.head, None) == (None, 0)
    assert elsewhere.head_at(revision, descent) is base.head
    assert elsewhere.base_at(base.head, descent) == (base, 1)
    assert elsewhere.base_at(None, descent) == (None, 0)


def test_a_call_without_an_attempt_has_nothing_unsettled(known: Known) -> None:
    write = deleted(known)
    write.call = Call("delete", [("DEL",)])
    known.send(write)
    assert known.unsettled is None
