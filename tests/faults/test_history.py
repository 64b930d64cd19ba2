"""The history checker itself: it passes what is right, and catches each kind of planted violation."""

from __future__ import annotations

from typing import Any

import pytest

from histstore import (
    BackendUnavailableError,
    ConversationSnapshot,
    NotReplicatedError,
    OutcomeUnknownError,
    Revision,
    RunId,
)
from histstore.attempt import Attempt

from ..support.history import History, HistoryViolation, message


def _snapshot(*tokens: str) -> ConversationSnapshot[Any]:
    return ConversationSnapshot([message(token) for token in tokens])


def _unknown() -> OutcomeUnknownError:
    return OutcomeUnknownError(Attempt("save", "ns", RunId("r"), None, Revision(1, bytes(16)), bytes(16)))


def _ended(history: History, *tokens: str, error: BaseException | None = None) -> Any:
    call = history.append("c", *tokens)
    try:
        with call:
            if error is not None:
                raise error
    except BaseException as raised:
        assert raised is error
    return call


def test_a_right_history_passes() -> None:
    """Saved once, in order; refused nowhere; unknown there or not; overlapping calls in either order."""
    history = History()
    _ended(history, "a", "a2")
    late, early = history.append("x", "late"), history.append("y", "early")
    late.saved(Revision(3, bytes(16)))
    early.saved(Revision(2, bytes(16)))
    _ended(history, "refused", error=BackendUnavailableError("down"))
    _ended(history, "there", error=_unknown())
    _ended(history, "not there", error=_unknown())
    _ended(history, "weak", error=NotReplicatedError(Revision(5, bytes(16)), 0, 1))
    load = history.load("z")
    load.returned(_snapshot("a", "a2", "early", "late", "there", "weak"))
    history.check(["a", "a2", "early", "late", "there", "weak"])
    assert history.counts() == {"saved": 4, "refused": 1, "unknown": 2}


@pytest.mark.parametrize(
    ("final", "complaint"),
    [
        ([], "is lost"),
        (["a"], "is lost"),
        (["a", "b", "a"], "stored 2 times"),
        (["b", "a"], "stands after it"),
        (["a", "b", "refused"], "refused append of .* is stored"),
        (["a", "b", "unknown", "unknown"], "stored 2 times"),
        (["a", "b", "foreign"], "appended by nobody"),
    ],
)
def test_a_final_log_that_contradicts_what_was_told_is_caught(final: list[str], complaint: str) -> None:
    """Lost, doubled, reordered, refused but stored, unknown but twice, and what nobody appended."""
    history = History()
    _ended(history, "a")
    _ended(history, "b")
    _ended(history, "refused", error=BackendUnavailableError("down"))
    _ended(history, "unknown", error=_unknown())
    with pytest.raises(HistoryViolation, match=complaint):
        history.check(final)


def test_an_append_that_was_torn_apart_or_mixed_with_another_is_caught() -> None:
    """The messages of one call stand together, in order, or not at all."""
    history = History()
    _ended(history, "a", "b")
    other = history.append("d", "other")
    other.saved(None)
    for final, complaint in [
        (["a", "other"], "torn"),
        (["a", "other", "b"], "not stored as one"),
        (["b", "a", "other"], "not stored as one"),
    ]:
        with pytest.raises(HistoryViolation, match=complaint):
            history.check(final)


def test_an_unknown_append_is_ordered_after_what_ended_before_it_began() -> None:
    """Also a call without an answer cannot take effect before it was made."""
    history = History()
    _ended(history, "a")
    _ended(history, "unknown", error=_unknown())
    history.check(["a", "unknown"])
    with pytest.raises(HistoryViolation, match="stands after it"):
        history.check(["unknown", "a"])


def test_what_resolve_said_counts() -> None:
    """Resolved as saved it must be there, resolved as never it must not."""
    history = History()
    saved, never = _ended(history, "s", error=_unknown()), _ended(history, "n", error=_unknown())
    saved.settle(Revision(1, bytes(16)))
    never.settle(None)
    history.check(["s"])
    with pytest.raises(HistoryViolation, match="is lost"):
        history.check([])
    with pytest.raises(HistoryViolation, match="is stored"):
        history.check(["s", "n"])


def test_versions_that_fall_along_the_log_are_caught() -> None:
    """An acknowledged revision's version is its place in the chain."""
    history = History()
    first, second = history.append("x", "a"), history.append("y", "b")
    first.saved(Revision(2, bytes(16)))
    second.saved(Revision(1, bytes(16)))
    history.check(["b", "a"])
    with pytest.raises(HistoryViolation, match="version"):
        history.check(["a", "b"])


def test_loads_that_are_no_prefix_stale_or_early_are_caught() -> None:
    """A load returns a state of the log, no older than what was finished before, none of it from the future."""
    history = History()
    _ended(history, "a")
    history.load("z").returned(_snapshot())
    with pytest.raises(HistoryViolation, match="stale"):
        history.check(["a"])

    history = History()
    _ended(history, "a")
    history.load("y").returned(_snapshot("a", "b"))
    history.load("z").returned(_snapshot("a"))
    _ended(history, "b")
    with pytest.raises(HistoryViolation, match="before its append began"):
        history.check(["a", "b"])
    with pytest.raises(HistoryViolation, match="stale"):
        history.check(["a", "b"])

    history = History()
    _ended(history, "a")
    history.load("z").returned(_snapshot("x"))
    with pytest.raises(HistoryViolation, match="no prefix"):
        history.check(["a"])
