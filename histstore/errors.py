"""The public error tree.

Every error carries its data as attributes, survives `pickle` (worker pools ship errors between
processes), and says in its text what to do next. No text holds a password or a message's content.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from .snapshot import Attempt, Revision


def _restore(cls: type[HistoryStoreError], args: tuple[Any, ...], state: dict[str, Any]) -> HistoryStoreError:
    """Rebuilds a pickled error without running its constructor, whose arguments are not `args`."""
    error = cls.__new__(cls, *args)
    error.args = args
    error.__dict__.update(state)
    return error


class HistoryStoreError(Exception):
    """Base of every error that histstore raises on purpose."""

    def __reduce__(self) -> tuple[Any, ...]:
        return _restore, (type(self), self.args, self.__dict__.copy())


class SnapshotError(HistoryStoreError, ValueError):
    """Bad input: a message, a snapshot, a run id, a URL or an option that cannot be used.

    The text names the path of the offending value and the mend.
    """


class SnapshotTooLargeError(SnapshotError):
    """A snapshot is larger than the backend's `max_snapshot_bytes`.

    Attributes:
        size: Bytes that the snapshot would take.
        limit: Bytes allowed.
    """

    def __init__(self, size: int, limit: int) -> None:
        self.size = size
        self.limit = limit
        super().__init__(
            f"the snapshot takes {size:,} bytes and the limit is {limit:,}: drop or summarise old messages, "
            "keep large documents elsewhere and refer to them, or raise max_snapshot_bytes; nothing was written"
        )


class ConflictError(HistoryStoreError):
    """The run is not at the revision that was expected. This call wrote nothing.

    Attributes:
        expected: The revision that the call named; None: the run was to be absent.
        actual: The run's revision now; None: the run is absent.
    """

    def __init__(self, expected: Revision | None, actual: Revision | None) -> None:
        self.expected = expected
        self.actual = actual
        super().__init__(
            f"expected {_at(expected)}, but the run is {_at(actual)}; nothing was written: "
            "load again, redo the change on what was loaded and save, or let update() do that"
        )


class LockError(HistoryStoreError):
    """Base of the errors about leases."""


class LockTimeoutError(LockError, TimeoutError):
    """A lease was not acquired in time.

    Attributes:
        holder: Who holds it, when that is known.
        expires_in: Seconds until it expires unless it is renewed, when that is known.
    """

    def __init__(self, holder: str | None, expires_in: float | None) -> None:
        self.holder = holder
        self.expires_in = expires_in
        super().__init__(f"the run is held by {_holder(holder, expires_in)}: try again later")


class LockedError(LockError):
    """A save or delete without the run's live lease. This call wrote nothing.

    Attributes:
        holder: Who holds the lease.
        expires_in: Seconds until it expires unless it is renewed.
    """

    def __init__(self, holder: str, expires_in: float) -> None:
        self.holder = holder
        self.expires_in = expires_in
        super().__init__(
            f"the run is held by {_holder(holder, expires_in)}; nothing was written: wait for the lease, or take it"
        )


class LeaseLostError(LockError):
    """A newer holder exists, or the lease lapsed, was broken or given up. A save that this answers wrote nothing.

    Attributes:
        fence: The fencing token of the lease that was lost.
        current: The fencing token that stands now, when that is known.
    """

    def __init__(self, fence: int, current: int | None, reason: str | None = None) -> None:
        self.fence = fence
        self.current = current
        now = reason or ("it lapsed" if current is None else f"the run is at fence {current} now")
        super().__init__(
            f"the lease with fence {fence} was lost ({now}): saves that carry it are refused and write nothing; "
            "stop this work, and take the lease anew"
        )


class RevisionGoneError(HistoryStoreError):
    """A revision was trimmed, or lost with a failover or a deleted run.

    Attributes:
        requested: The revision, or the version, that was asked for.
        oldest: The oldest revision that can still be loaded, None when there is none.
        newest: The newest revision, None when the run is absent.
    """

    def __init__(self, requested: Revision | int, oldest: Revision | int | None, newest: Revision | int | None) -> None:
        self.requested = requested
        self.oldest = oldest
        self.newest = newest
        held = "the run is absent" if newest is None else f"the run holds {oldest} to {newest}"
        super().__init__(
            f"revision {requested} is gone ({held}): load() what is there now, and set keep_revisions "
            "to keep past revisions reachable"
        )


class CorruptSnapshotError(HistoryStoreError):
    """Stored bytes fail their digest or do not decode.

    Attributes:
        run_id: The run, or the file.
        version: The version at which the damage shows, when that is known.
        reason: What does not add up.
    """

    def __init__(self, run_id: str, version: int | None, reason: str) -> None:
        self.run_id = run_id
        self.version = version
        self.reason = reason
        where = "" if version is None else f" at version {version}"
        super().__init__(
            f"run {run_id!r} is damaged{where}: {reason}; restore it from a backup, or delete() it to start anew"
        )


class UnsupportedVersionError(HistoryStoreError):
    """Data written by a newer format than this library reads.

    Attributes:
        found: The format version that the data names.
        supported: The format version that this library reads and writes.
    """

    def __init__(self, found: Any, supported: int) -> None:
        self.found = found
        self.supported = supported
        super().__init__(
            f"unsupported snapshot version {found} (this library reads version {supported}): upgrade histstore"
        )


class NotReplicatedError(HistoryStoreError):
    """A save was applied on the primary, but fewer copies than asked for have it.

    The store has moved on to `revision`. Repeat nothing: the save stands unless a failover loses it,
    which the next save, or a load that names the revision, notices.

    Attributes:
        revision: What was saved.
        acked: Copies that confirmed in time.
        wanted: Copies that `Durability` asked for.
    """

    def __init__(self, revision: Revision, acked: int, wanted: int) -> None:
        self.revision = revision
        self.acked = acked
        self.wanted = wanted
        super().__init__(
            f"revision {revision} is saved, but only {acked} of {wanted} copies confirmed it in time: do not repeat "
            "the save; check the replicas, or raise Durability.timeout"
        )


class BackendError(HistoryStoreError):
    """The server failed, refused or did not answer; the redis error is the cause."""


class BackendUnavailableError(BackendError):
    """The server could not be used. Nothing was written; repeating the call is safe."""


class OutcomeUnknownError(BackendError):
    """A write was sent and its answer never came, or left it open: it may or may not have been applied.

    Attributes:
        attempt: Names the write; `resolve(attempt)` says for good whether it was applied.
        reason: What the last try came to.
    """

    def __init__(self, attempt: Attempt, reason: str = "") -> None:
        self.attempt = attempt
        revision = "" if attempt.revision is None else f" as revision {attempt.revision}"
        self.reason = reason
        why = f" ({reason})" if reason else ""
        super().__init__(
            f"the {attempt.kind} of run {str(attempt.run_id)!r}{revision} may have been applied{why}: "
            "call resolve() before repeating it"
        )


def _at(revision: Revision | None) -> str:
    return "absent" if revision is None else f"at revision {revision}"


def _holder(holder: str | None, expires_in: float | None) -> str:
    name = "another worker" if holder is None else holder
    return name if expires_in is None else f"{name} for another {expires_in:.1f} s unless renewed"
