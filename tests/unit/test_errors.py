"""The error tree: data as attributes, pickle, and texts that say what to do."""

from __future__ import annotations

import copy
import pickle
from typing import Any

import pytest

import histstore
from histstore import (
    Attempt,
    BackendError,
    BackendUnavailableError,
    ConflictError,
    CorruptSnapshotError,
    HistoryStoreError,
    LeaseLostError,
    LockedError,
    LockError,
    LockTimeoutError,
    NotReplicatedError,
    OutcomeUnknownError,
    Revision,
    RevisionGoneError,
    RunId,
    SnapshotError,
    SnapshotTooLargeError,
    UnsupportedVersionError,
)

ONE, TWO = Revision(1, bytes(16)), Revision(2, bytes(15) + b"\x01")
ATTEMPT = Attempt("save", "histstore", RunId("run"), ONE, TWO, b"t" * 16)

ERRORS: list[tuple[HistoryStoreError, dict[str, Any], list[str]]] = [
    (SnapshotError("messages[0] is a list"), {}, ["messages[0]"]),
    (SnapshotTooLargeError(2_000, 1_000), {"size": 2000, "limit": 1000}, ["2,000", "1,000", "max_snapshot_bytes"]),
    (
        ConflictError(ONE, TWO),
        {"expected": ONE, "actual": TWO},
        [str(ONE), str(TWO), "load again", "nothing was written"],
    ),
    (ConflictError(None, TWO), {"expected": None, "actual": TWO}, ["absent", str(TWO)]),
    (ConflictError(ONE, None), {"expected": ONE, "actual": None}, ["absent", str(ONE)]),
    (LockError("locked"), {}, ["locked"]),
    (LockTimeoutError("w1", 2.5), {"holder": "w1", "expires_in": 2.5}, ["w1", "2.5 s", "try again"]),
    (LockTimeoutError(None, None), {"holder": None, "expires_in": None}, ["another worker"]),
    (LockedError("w1", 3.0), {"holder": "w1", "expires_in": 3.0}, ["w1", "3.0 s", "nothing was written", "wait"]),
    (LeaseLostError(5, 6), {"fence": 5, "current": 6}, ["5", "6", "write nothing", "take the lease anew"]),
    (LeaseLostError(5, None), {"fence": 5, "current": None}, ["lapsed"]),
    (LeaseLostError(5, None, "the backend was closed"), {"fence": 5, "current": None}, ["(the backend was closed)"]),
    (
        RevisionGoneError(ONE, 3, 7),
        {"requested": ONE, "oldest": 3, "newest": 7},
        [str(ONE), "3 to 7", "keep_revisions"],
    ),
    (RevisionGoneError(1, None, None), {"requested": 1, "oldest": None, "newest": None}, ["absent", "load()"]),
    (
        CorruptSnapshotError("run", 3, "why"),
        {"run_id": "run", "version": 3, "reason": "why"},
        ["'run'", "3", "why", "delete()"],
    ),
    (CorruptSnapshotError("run", None, "why"), {"run_id": "run", "version": None, "reason": "why"}, ["why", "backup"]),
    (UnsupportedVersionError(999, 1), {"found": 999, "supported": 1}, ["unsupported snapshot version 999", "upgrade"]),
    (NotReplicatedError(TWO, 0, 1), {"revision": TWO, "acked": 0, "wanted": 1}, [str(TWO), "0 of 1", "do not repeat"]),
    (BackendError("this backend is closed: make a new one"), {}, ["make a new one"]),
    (BackendUnavailableError("load: no answer"), {}, ["no answer"]),
    (OutcomeUnknownError(ATTEMPT), {"attempt": ATTEMPT}, ["'run'", str(TWO), "resolve()"]),
]


@pytest.mark.parametrize(("error", "data", "texts"), ERRORS, ids=lambda value: type(value).__name__)
def test_errors_carry_data_and_say_what_to_do(error: HistoryStoreError, data: dict[str, Any], texts: list[str]) -> None:
    """Attributes as documented; the text names them and the way out."""
    for name, value in data.items():
        assert getattr(error, name) == value
    for text in texts:
        assert text in str(error)


@pytest.mark.parametrize(("error", "data", "texts"), ERRORS, ids=lambda value: type(value).__name__)
@pytest.mark.parametrize("protocol", range(2, pickle.HIGHEST_PROTOCOL + 1))
def test_errors_survive_pickle(error: HistoryStoreError, data: dict[str, Any], texts: list[str], protocol: int) -> None:
    """Worker pools ship errors between processes: type, text, attributes and notes arrive."""
    error = copy.copy(error)
    error.add_note("a note")
    twin = pickle.loads(pickle.dumps(error, protocol))
    assert type(twin) is type(error)
    assert str(twin) == str(error)
    assert twin.args == error.args
    assert twin.__notes__ == ["a note"]
    for name, value in data.items():
        assert getattr(twin, name) == value


def test_every_error_is_tested_here() -> None:
    """A new error class needs a row above."""
    public = {name for name in histstore.__all__ if name.endswith("Error")}
    assert public - {"HistoryStoreError"} == {type(error).__name__ for error, _, _ in ERRORS}


def test_the_tree() -> None:
    """Who catches what."""
    tree = {
        SnapshotError: (HistoryStoreError, ValueError),
        SnapshotTooLargeError: (SnapshotError,),
        ConflictError: (HistoryStoreError,),
        LockError: (HistoryStoreError,),
        LockTimeoutError: (LockError, TimeoutError),
        LockedError: (LockError,),
        LeaseLostError: (LockError,),
        RevisionGoneError: (HistoryStoreError,),
        CorruptSnapshotError: (HistoryStoreError,),
        UnsupportedVersionError: (HistoryStoreError,),
        NotReplicatedError: (HistoryStoreError,),
        BackendError: (HistoryStoreError,),
        BackendUnavailableError: (BackendError,),
        OutcomeUnknownError: (BackendError,),
    }
    for kind, bases in tree.items():
        assert kind.__bases__ == bases
    # A conflict is no outage, and damage is no bad input.
    assert not issubclass(CorruptSnapshotError, (ValueError, BackendError))
    assert not issubclass(NotReplicatedError, BackendError)


def test_an_attempt_is_a_frozen_value() -> None:
    """An attempt goes to another process and is settled there."""
    assert pickle.loads(pickle.dumps(ATTEMPT)) == ATTEMPT
    with pytest.raises(AttributeError):
        ATTEMPT.kind = "delete"  # type: ignore[misc]
