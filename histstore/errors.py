"""The public error tree.

Every error carries its data as attributes and survives `pickle`, because worker pools ship errors between processes.
Its text says what to do next. No text holds a password or a message's content.

An error about a run names the run, in `run_id` and in its text. A text is one line of fewer than 300 characters,
whatever a run id, a holder's name or a server's message contains.
"""

from __future__ import annotations

from .attempt import Attempt
from .revision import Revision
from .values.base_errors import HistoryStoreError, SnapshotError, SnapshotTooLargeError, UnsupportedVersionError
from .values.text import LONGEST_NAME, one_line, quoted

__all__ = [
    "BackendConfigError",
    "BackendError",
    "BackendUnavailableError",
    "ConflictError",
    "ConnectionOptionError",
    "CorruptSnapshotError",
    "HistoryStoreError",
    "LeaseLostError",
    "LockError",
    "LockTimeoutError",
    "LockedError",
    "NotReplicatedError",
    "OutcomeUnknownError",
    "RevisionGoneError",
    "SnapshotError",
    "SnapshotTooLargeError",
    "UnsupportedVersionError",
    "name_run",
]


class ConflictError(HistoryStoreError):
    """The run is not at the revision that was expected. This call wrote nothing.

    Attributes:
        expected: The revision that the caller expected; None if it expected an absent run.
        actual: The run's current revision; None if the run is absent.
        run_id: The run, or the path of the file; None for a store in memory.
    """

    def __init__(self, expected: Revision | None, actual: Revision | None, *, run_id: str | None = None) -> None:
        self.expected = expected
        self.actual = actual
        advice = "load again, redo the change on what was loaded and save, or let update() do that"
        if expected is None:
            # The usual cause: a new store, or a snapshot built from scratch, has seen no revision.
            advice = "load() first, or let update() do that, or append(…, expected=ANY) to what is there"
        super().__init__(
            f"expected {_at(expected)}, but the run is {_at(actual)}; nothing was written: {advice}", run_id=run_id
        )


class LockError(HistoryStoreError):
    """Base of the errors about leases.

    Attributes:
        run_id: The run whose lease the error is about.
    """


class LockTimeoutError(LockError, TimeoutError):
    """A lease was not acquired in time.

    Attributes:
        holder: The name of the holder; None if it is not known.
        expires_in: Seconds until the lease expires unless it is renewed; None if that is not known.
        run_id: The run.
    """

    def __init__(self, holder: str | None, expires_in: float | None, *, run_id: str | None = None) -> None:
        self.holder = holder
        self.expires_in = expires_in
        super().__init__(f"the run is held by {_holder(holder, expires_in)}: try again later", run_id=run_id)


class LockedError(LockError):
    """A save or delete without the run's live lease. This call wrote nothing.

    Attributes:
        holder: The name of the holder.
        expires_in: Seconds until the lease expires unless it is renewed.
        run_id: The run.
    """

    def __init__(self, holder: str, expires_in: float, *, run_id: str | None = None) -> None:
        self.holder = holder
        self.expires_in = expires_in
        super().__init__(
            f"the run is held by {_holder(holder, expires_in)}; nothing was written: wait for the lease, or take it",
            run_id=run_id,
        )


class LeaseLostError(LockError):
    """A newer holder exists, or the lease lapsed, was broken or released. A save that raises this wrote nothing.

    Attributes:
        fence: The fencing token of the lease that was lost.
        current: The run's current fencing token; None if it is not known.
        run_id: The run.
    """

    def __init__(
        self, fence: int, current: int | None, reason: str | None = None, *, run_id: str | None = None
    ) -> None:
        self.fence = fence
        self.current = current
        now = reason or ("it lapsed" if current is None else f"the run is at fence {current} now")
        super().__init__(
            f"the lease with fence {fence} was lost ({now}): saves that carry it are refused and write nothing; "
            "stop this work, and take the lease anew",
            run_id=run_id,
        )


class RevisionGoneError(HistoryStoreError):
    """A revision does not exist: it was trimmed or lost, or never existed, or the server no longer knows.

    Attributes:
        requested: The requested revision or version.
        oldest: The oldest version in the log; None if there is none.
        newest: The newest revision; None if the run is absent.
        reason: Why the revision does not exist. "absent": the run does not exist. "trimmed": it is older than what the
            run keeps. "never": the run has not reached that version. "lost": another history replaced it, after a
            failover or a delete. "forgotten": the server no longer remembers whether that write was applied.
        run_id: The run.
    """

    def __init__(
        self,
        requested: Revision | int,
        oldest: Revision | int | None,
        newest: Revision | int | None,
        *,
        reason: str | None = None,
        run_id: str | None = None,
    ) -> None:
        self.requested = requested
        self.oldest = oldest
        self.newest = newest
        self.reason = _why_gone(requested, oldest, newest) if reason is None else reason
        at = "absent" if newest is None else f"at {newest}"
        match self.reason:
            case "absent":
                text = (
                    f"revision {requested} is gone, the run is absent: load() returns None, and a save begins it anew"
                )
            case "trimmed":
                # An entry may still be in the log when the entries that it builds on are trimmed.
                held = f"the run holds {oldest} to {newest}" if _version(requested) < _version(oldest) else f"now {at}"
                text = (
                    f"revision {requested} was trimmed ({held}): load() what is there now, "
                    "and set keep_revisions to keep past ones reachable"
                )
            case "never":
                text = f"the run has never had version {requested} (its newest is {newest}): load() the newest"
            case "forgotten" if requested == 0:
                text = f"it cannot be told any more what became of the write (the run is {at}): load() what is there"
            case "forgotten":
                text = (
                    f"it cannot be told any more whether revision {requested} was ever applied (the run is {at}), and "
                    "it will not be from now on: load() what is there"
                )
            case _:
                text = (
                    f"revision {requested} is not in the run's history (it is {at} now): it was lost with a failover, "
                    "or the run was deleted and begun anew; load() what is there"
                )
        super().__init__(text, run_id=run_id)


class CorruptSnapshotError(HistoryStoreError):
    """Stored bytes fail their digest or do not decode.

    Attributes:
        run_id: The run, or the path of the file.
        version: The version at which the damage shows; None if it is not known.
        reason: A description of the damage.
    """

    _names_run = True

    def __init__(self, run_id: str, version: int | None, reason: str) -> None:
        self.version = version
        self.reason = reason
        where = "" if version is None else f" at version {version}"
        super().__init__(
            f"run {quoted(run_id)} is damaged{where}: {one_line(reason, 120)}; "
            "restore it from a backup, or delete() it to start anew",
            run_id=run_id,
        )


class NotReplicatedError(HistoryStoreError):
    """The primary applied a save, but fewer copies than requested confirmed it.

    The store is at `revision` now. Do not repeat the save: it stands unless a failover loses it. The next save, or a
    load that names the revision, notices such a loss.

    Attributes:
        revision: The saved revision.
        acked: Number of copies that confirmed in time.
        wanted: Number of copies that `Durability` requested.
        run_id: The run, or the path of the file.
    """

    def __init__(self, revision: Revision, acked: int, wanted: int, *, run_id: str | None = None) -> None:
        self.revision = revision
        self.acked = acked
        self.wanted = wanted
        super().__init__(
            f"revision {revision} is saved, but only {acked} of {wanted} copies confirmed it in time: do not repeat "
            "the save; check the replicas, or raise Durability.timeout",
            run_id=run_id,
        )


class BackendError(HistoryStoreError):
    """The server failed, refused or did not answer; the redis error is the cause.

    Attributes:
        run_id: The run that the call was about; None if it was about the backend as a whole.
    """


class BackendUnavailableError(BackendError):
    """The server could not be used. Nothing was written; repeating the call is safe.

    Attributes:
        run_id: The run that the call was about; None if it was about the backend as a whole.
    """


class BackendConfigError(BackendError):
    """The settings of the client or of the server are wrong, and trying again cannot help.

    Examples are a wrong password, a missing permission, a database out of range, or a certificate that is not
    accepted. The error is raised at once, without another try. The call wrote nothing. The text says what to change.

    Attributes:
        run_id: The run that the call was about; None if it was about the backend as a whole.
    """


class ConnectionOptionError(BackendConfigError, SnapshotError):
    """A URL or a connection option cannot be used. Constructors raise it, without any I/O.

    It is bad input and a wrong setting, so handlers of either class catch it.
    """


class OutcomeUnknownError(BackendError):
    """A write was sent, and no reply says whether it was applied.

    Attributes:
        attempt: The write. `resolve(attempt)` finds out for good whether it was applied. `Attempt.parse` reads
            `str(attempt)` in another process.
        reason: The failure of the last try.
        run_id: The run.
    """

    _names_run = True

    def __init__(self, attempt: Attempt, reason: str = "") -> None:
        self.attempt = attempt
        revision = "" if attempt.revision is None else f" as revision {attempt.revision}"
        self.reason = reason
        # So short that the advice after it is never cut.
        why = f" ({one_line(reason, 96)})" if reason else ""
        super().__init__(
            f"the {attempt.kind} of run {quoted(attempt.run_id)}{revision} may have been applied{why}: "
            "call resolve() before repeating it",
            run_id=attempt.run_id,
        )


def name_run(error: HistoryStoreError, run_id: str) -> None:
    """Set the run that an error is about, unless the error already names one."""
    if error.run_id is None:
        error.run_id = run_id


def _why_gone(requested: Revision | int, oldest: Revision | int | None, newest: Revision | int | None) -> str:
    if newest is None:
        return "absent"
    if _version(requested) < _version(oldest):
        return "trimmed"
    # A caller can make up a number. A revision was once returned by a save, so it existed.
    return "never" if isinstance(requested, int) and requested > _version(newest) else "lost"


def _version(revision: Revision | int | None) -> int:
    if revision is None:
        return 0
    return revision if isinstance(revision, int) else revision.version


def _at(revision: Revision | None) -> str:
    return "absent" if revision is None else f"at revision {revision}"


def _holder(holder: str | None, expires_in: float | None) -> str:
    name = "another worker" if holder is None else one_line(holder, LONGEST_NAME)
    return name if expires_in is None else f"{name} for another {expires_in:.1f} s unless renewed"
