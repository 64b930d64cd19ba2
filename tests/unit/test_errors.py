"""The error tree: data as attributes, pickle, and texts that say what to do."""

from __future__ import annotations

import copy
import pickle
import re
from collections.abc import Callable
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

import histstore
import histstore.errors
from histstore import (
    Attempt,
    BackendConfigError,
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
from histstore.errors import ConnectionOptionError
from histstore.values.text import quoted

ONE, TWO = Revision(1, bytes(16)), Revision(2, bytes(15) + b"\x01")
LONG = Revision(12_345_678, b"\xff" * 16)
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
    (
        RevisionGoneError(1, None, None),
        {"requested": 1, "oldest": None, "newest": None, "reason": "absent"},
        ["absent", "load()"],
    ),
    (RevisionGoneError(ONE, 3, 7), {"reason": "trimmed"}, ["trimmed", "keep_revisions"]),
    (RevisionGoneError(4, 3, TWO, reason="trimmed"), {"reason": "trimmed"}, ["trimmed", str(TWO)]),
    (RevisionGoneError(99, 1, TWO), {"reason": "never"}, ["never had version 99", f"newest is {TWO}", "load()"]),
    (RevisionGoneError(TWO, 1, ONE), {"reason": "lost"}, ["failover", f"at {ONE} now", "load()"]),
    (RevisionGoneError(ONE, 1, TWO), {"reason": "lost"}, ["failover", "load()"]),
    (
        RevisionGoneError(ONE, TWO, TWO, reason="forgotten"),
        {"reason": "forgotten"},
        ["told any more", f"at {TWO}", "load()"],
    ),
    (RevisionGoneError(0, None, None, reason="forgotten"), {"reason": "forgotten"}, ["the run is absent", "load()"]),
    (
        CorruptSnapshotError("run", 3, "why"),
        {"run_id": "run", "version": 3, "reason": "why"},
        ["'run'", "3", "why", "delete()"],
    ),
    (CorruptSnapshotError("run", None, "why"), {"run_id": "run", "version": None, "reason": "why"}, ["why", "backup"]),
    (UnsupportedVersionError(999, 1), {"found": 999, "supported": 1}, ["unsupported snapshot version 999", "upgrade"]),
    (NotReplicatedError(TWO, 0, 1), {"revision": TWO, "acked": 0, "wanted": 1}, [str(TWO), "0 of 1", "do not repeat"]),
    (BackendError("this backend is closed: make a new one"), {}, ["make a new one"]),
    (BackendConfigError("load: log-in: WRONGPASS: check the password"), {}, ["check the password"]),
    (BackendUnavailableError("load: no answer"), {}, ["no answer"]),
    (OutcomeUnknownError(ATTEMPT), {"attempt": ATTEMPT, "run_id": "run"}, ["'run'", str(TWO), "resolve()"]),
]
ABOUT_A_RUN: list[Callable[[str], HistoryStoreError]] = [
    lambda run: SnapshotError("messages[0] is a list", run_id=run),
    lambda run: SnapshotTooLargeError(2_000_000_000, 1_000_000_000, run_id=run),
    lambda run: ConflictError(LONG, LONG, run_id=run),
    lambda run: ConflictError(None, LONG, run_id=run),
    lambda run: ConflictError(LONG, None, run_id=run),
    lambda run: LockError("the run is already leased here: use that lease, or leave it", run_id=run),
    lambda run: LockTimeoutError(run, 86400 * 365.0, run_id=run),
    lambda run: LockTimeoutError(None, None, run_id=run),
    lambda run: LockedError(run, 86400 * 365.0, run_id=run),
    lambda run: LeaseLostError(2**40, 2**40 + 1, run_id=run),
    lambda run: LeaseLostError(2**40, None, "the backend was closed", run_id=run),
    lambda run: RevisionGoneError(LONG, None, None, run_id=run),
    lambda run: RevisionGoneError(LONG, 12_345_679, LONG, run_id=run),
    lambda run: RevisionGoneError(LONG, 1, LONG, reason="trimmed", run_id=run),
    lambda run: RevisionGoneError(12_345_679, 1, LONG, run_id=run),
    lambda run: RevisionGoneError(LONG, 1, LONG, run_id=run),
    lambda run: RevisionGoneError(LONG, LONG, LONG, reason="forgotten", run_id=run),
    lambda run: RevisionGoneError(0, LONG, LONG, reason="forgotten", run_id=run),
    lambda run: CorruptSnapshotError(run, 12_345_678, run),
    lambda run: UnsupportedVersionError(run, 1, run_id=run),
    lambda run: NotReplicatedError(LONG, 0, 3, run_id=run),
    lambda run: BackendError("this backend is closed: make a new one", run_id=run),
    lambda run: BackendConfigError(f"save: log-in ({run}): WRONGPASS: check the password", run_id=run),
    lambda run: BackendUnavailableError(f"save: {run}; nothing was written, repeating is safe", run_id=run),
    lambda run: OutcomeUnknownError(Attempt("delete", run, RunId(run), LONG, LONG, b"t" * 16), run),
]
RUNS = ["run", "x" * 5_000, "two\nlines\r\x1b[31m\x00", "\u2028\u202e\x85" * 40, "日本語🎉" * 50, "'\"\\" * 100]


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


@pytest.mark.parametrize("run", RUNS, ids=lambda run: ascii(run[:10]))
@pytest.mark.parametrize("make", ABOUT_A_RUN)
def test_an_error_about_a_run_names_it(make: Callable[[str], HistoryStoreError], run: str) -> None:
    """As an attribute, whole, and in its text, short; so does the twin in another process."""
    error = make(run)
    for twin in (error, pickle.loads(pickle.dumps(error)), copy.copy(error)):
        assert twin.run_id == run
        shown = quoted(run)
        assert shown in str(twin) or (len(shown) == 48 and shown[:31] in str(twin) and shown[-15:] in str(twin))
        assert str(twin) == str(error)


@given(st.text(st.characters(exclude_categories=["Cs"]), min_size=1), st.integers(1, 300))
def test_a_text_is_one_short_line_whatever_it_quotes(run: str, times: int) -> None:
    """Run ids and holders of any length and any characters, servers that are talkative."""
    for make in ABOUT_A_RUN:
        text = str(make(run * times))
        assert len(text) < 300
        assert text.isprintable()
        assert "\n" not in text


@pytest.mark.parametrize("run", RUNS, ids=lambda run: ascii(run[:10]))
@pytest.mark.parametrize("make", ABOUT_A_RUN)
def test_what_to_do_is_never_cut_off(make: Callable[[str], HistoryStoreError], run: str) -> None:
    """What is cut is what a name or a server's message fills a text with, not our own words."""
    error, short = make(run), make("r")
    advice = re.split(r"[:;]", str(short))[-1].strip()
    assert len(advice) > 10
    assert str(error).endswith(advice)


def test_errors_without_a_run_say_so() -> None:
    """One about a whole backend has None, and so have those that users made without one, as before."""
    assert BackendError("closed").run_id is None
    assert str(BackendError("closed")) == "closed"
    assert repr(BackendError("closed")) == "BackendError('closed')"
    for error, data, _ in ERRORS:
        if "run_id" not in data:
            assert error.run_id is None
            assert not str(error).startswith("run ")


@pytest.mark.parametrize("name", sorted(name for name in histstore.__all__ if name.endswith("Error")))
def test_every_error_documents_what_it_carries(name: str) -> None:
    """Each attribute that an error of a class has, its run among them."""
    kind = getattr(histstore, name)
    documented = set(re.findall(r"^        (\w+): ", kind.__doc__, re.MULTILINE))
    errors = [*(row[0] for row in ERRORS), *(make("r") for make in ABOUT_A_RUN)]
    carried = {key for each in errors if type(each) is kind for key in vars(each)} | {"run_id"}
    assert documented == carried


def test_every_error_is_tested_here() -> None:
    """A new error class needs a row above."""
    public = {name for name in histstore.__all__ if name.endswith("Error")}
    assert public - {"HistoryStoreError"} == {type(make("r")).__name__ for make in ABOUT_A_RUN}
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
        BackendConfigError: (BackendError,),
        ConnectionOptionError: (BackendConfigError, SnapshotError),
        BackendUnavailableError: (BackendError,),
        OutcomeUnknownError: (BackendError,),
    }
    for kind, bases in tree.items():
        assert kind.__bases__ == bases
    # A conflict is no outage, and damage is no bad input.
    assert not issubclass(CorruptSnapshotError, (ValueError, BackendError))
    assert not issubclass(NotReplicatedError, BackendError)


def test_a_connection_option_is_bad_input_and_a_mistake_in_the_settings() -> None:
    """Handlers of either class catch it, as documented; a password that is refused is no bad input."""
    error = pickle.loads(pickle.dumps(ConnectionOptionError("the URL's scheme is 'http'")))
    assert isinstance(error, SnapshotError)
    assert isinstance(error, BackendConfigError)
    assert isinstance(error, ValueError)
    assert not issubclass(BackendConfigError, (SnapshotError, BackendUnavailableError))


def test_an_attempt_is_a_frozen_value() -> None:
    """An attempt goes to another process and is settled there."""
    assert pickle.loads(pickle.dumps(ATTEMPT)) == ATTEMPT
    with pytest.raises(AttributeError):
        ATTEMPT.kind = "delete"  # type: ignore[misc]


def test_every_error_names_the_module_that_users_import_it_from() -> None:
    """In tracebacks and in pickles."""
    found = [getattr(histstore.errors, name) for name in histstore.errors.__all__ if name.endswith("Error")]
    assert {error.__module__ for error in found} == {"histstore.errors"}
    assert len(found) == 17
