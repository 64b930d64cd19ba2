"""The public error tree.

Every error carries its data as attributes, survives `pickle` (worker pools ship errors between
processes), and says in its text what to do next. No text holds a password or a message's content.

An error about a run names the run, in `run_id` and in its text. A text is one line of fewer than 300 characters,
whatever a run id, a holder's name or a server's message contains.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, ClassVar, Final

if TYPE_CHECKING:
    from .snapshot import Attempt, Revision

LONGEST_TEXT: Final = 299
"""Characters that an error's text has at most."""
LONGEST_NAME: Final = 48
"""Characters that are shown of a run id or a holder's name at most, quotes included."""
LONGEST_ROOM: Final = 120
"""Characters that a text shows of a run id at most where it has the room."""


def one_line(text: str, limit: int = LONGEST_TEXT) -> str:
    """Return `text` on one line of at most `limit` characters, with all that is not printable escaped.

    What is too long loses its middle: a text ends with what to do, and ids often differ at their ends only.
    """
    cut = len(text) > 2 * limit
    if cut:  # none of what lies between can be shown: spare it
        text = text[:limit] + text[-limit:]
    if not text.isprintable():
        text = "".join(char if char.isprintable() else ascii(char)[1:-1] for char in text)
    if not cut and len(text) <= limit:
        return text
    end = (limit - 1) // 3
    return f"{text[: limit - 1 - end]}…{text[-end:]}"


def quoted(name: str, limit: int = LONGEST_NAME) -> str:
    """Return a run id or a holder's name as texts and `repr` show it, in at most `limit` characters."""
    return one_line(repr(str(name)), limit)


def _restore(cls: type[HistoryStoreError], args: tuple[Any, ...], state: dict[str, Any]) -> HistoryStoreError:
    """Rebuilds a pickled error without running its constructor, whose arguments are not `args`."""
    error = cls.__new__(cls, *args)
    error.args = args
    error.__dict__.update(state)
    return error


class HistoryStoreError(Exception):
    """Base of every error that histstore raises on purpose.

    Attributes:
        run_id: The run that the error is about; None: it is about no single run.
    """

    run_id: str | None = None
    _names_run: ClassVar[bool] = False
    """Whether the text of this class names the run by itself."""

    def __init__(self, *args: Any, run_id: str | None = None) -> None:
        super().__init__(*args)
        if run_id is not None:
            self.run_id = run_id

    def __str__(self) -> str:
        text = super().__str__()
        if self.run_id is not None and not self._names_run:
            room = min(LONGEST_ROOM, LONGEST_TEXT - len("run : ") - len(text))
            text = f"run {quoted(self.run_id, max(LONGEST_NAME, room))}: {text}"
        return one_line(text)

    def __repr__(self) -> str:
        return f"{type(self).__name__}({str(self)!r})"

    def __reduce__(self) -> tuple[Any, ...]:
        return _restore, (type(self), self.args, self.__dict__.copy())


class SnapshotError(HistoryStoreError, ValueError):
    """Bad input: a message, a snapshot, a run id, a URL or an option that cannot be used.

    The text names the path of the offending value and the mend.

    Attributes:
        run_id: The run whose store refused the value; None: no store did.
    """


class SnapshotTooLargeError(SnapshotError):
    """A snapshot is larger than the backend's `max_snapshot_bytes`.

    Attributes:
        size: Bytes that the snapshot would take.
        limit: Bytes allowed.
        run_id: The run; None: it is not known.
    """

    def __init__(self, size: int, limit: int, *, run_id: str | None = None) -> None:
        self.size = size
        self.limit = limit
        super().__init__(
            f"the snapshot takes {size:,} bytes and the limit is {limit:,}: drop or summarise old messages, "
            "keep large documents elsewhere and refer to them, or raise max_snapshot_bytes; nothing was written",
            run_id=run_id,
        )


class ConflictError(HistoryStoreError):
    """The run is not at the revision that was expected. This call wrote nothing.

    Attributes:
        expected: The revision that the call named; None: the run was to be absent.
        actual: The run's revision now; None: the run is absent.
        run_id: The run, or the file; None: the store is one in memory.
    """

    def __init__(self, expected: Revision | None, actual: Revision | None, *, run_id: str | None = None) -> None:
        self.expected = expected
        self.actual = actual
        advice = "load again, redo the change on what was loaded and save, or let update() do that"
        if expected is None:
            # A new store, or a snapshot built from scratch, has seen no revision.
            advice = "load() first, or let update() do that, or append(…, expected=ANY) to what is there"
        super().__init__(
            f"expected {_at(expected)}, but the run is {_at(actual)}; nothing was written: {advice}", run_id=run_id
        )


class LockError(HistoryStoreError):
    """Base of the errors about leases.

    Attributes:
        run_id: The run whose lease it is about.
    """


class LockTimeoutError(LockError, TimeoutError):
    """A lease was not acquired in time.

    Attributes:
        holder: Who holds it, when that is known.
        expires_in: Seconds until it expires unless it is renewed, when that is known.
        run_id: The run.
    """

    def __init__(self, holder: str | None, expires_in: float | None, *, run_id: str | None = None) -> None:
        self.holder = holder
        self.expires_in = expires_in
        super().__init__(f"the run is held by {_holder(holder, expires_in)}: try again later", run_id=run_id)


class LockedError(LockError):
    """A save or delete without the run's live lease. This call wrote nothing.

    Attributes:
        holder: Who holds the lease.
        expires_in: Seconds until it expires unless it is renewed.
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
    """A newer holder exists, or the lease lapsed, was broken or given up. A save that this answers wrote nothing.

    Attributes:
        fence: The fencing token of the lease that was lost.
        current: The fencing token that stands now, when that is known.
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
    """A revision is not there: it was trimmed or lost, never was, or nobody can tell any more.

    Attributes:
        requested: The revision, or the version, that was asked for.
        oldest: The oldest version in the log, None when there is none.
        newest: The newest revision, None when the run is absent.
        reason: Why it is not there. "absent": the run is. "trimmed": it is older than what the run keeps. "never": the
            run has not come to that version. "lost": another history has taken its place, after a failover or a delete.
            "forgotten": the server does not remember any more whether that write was applied.
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
                # What an entry in the log builds on may be trimmed before it is.
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
        run_id: The run, or the file.
        version: The version at which the damage shows, when that is known.
        reason: What does not add up.
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


class UnsupportedVersionError(HistoryStoreError):
    """Data written by a newer format than this library reads.

    Attributes:
        found: The format version that the data names.
        supported: The format version that this library reads and writes.
        run_id: The run, or the file; None: the data was given as JSON.
    """

    def __init__(
        self, found: Any, supported: int, *, mend: str = "upgrade histstore", run_id: str | None = None
    ) -> None:
        self.found = found
        self.supported = supported
        try:
            shown = str(found)
        except ValueError:  # Python writes no number of thousands of digits
            shown = hex(found)
        super().__init__(
            f"unsupported snapshot version {one_line(shown, 80)} (this library reads version {supported}): {mend}",
            run_id=run_id,
        )


class NotReplicatedError(HistoryStoreError):
    """A save was applied on the primary, but fewer copies than asked for have it.

    The store has moved on to `revision`. Repeat nothing: the save stands unless a failover loses it,
    which the next save, or a load that names the revision, notices.

    Attributes:
        revision: What was saved.
        acked: Copies that confirmed in time.
        wanted: Copies that `Durability` asked for.
        run_id: The run, or the file.
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
        run_id: The run that the call was about; None: it was about the backend as a whole.
    """


class BackendUnavailableError(BackendError):
    """The server could not be used. Nothing was written; repeating the call is safe.

    Attributes:
        run_id: The run that the call was about; None: it was about the backend as a whole.
    """


class BackendConfigError(BackendError):
    """A mistake in the settings of the client or of the server, which trying again cannot mend.

    A wrong password, a missing permission, a database out of range or a certificate that is not accepted, say. It is
    raised at once, without another try. The call wrote nothing. The text says what to change.

    Attributes:
        run_id: The run that the call was about; None: it was about the backend as a whole.
    """


class ConnectionOptionError(BackendConfigError, SnapshotError):
    """A URL or an option of the connection that cannot be used. Constructors raise it, without any I/O.

    It is bad input as well as a mistake in the settings, so handlers of either class catch it.
    """


class OutcomeUnknownError(BackendError):
    """A write was sent and its answer never came, or left it open: it may or may not have been applied.

    Attributes:
        attempt: Names the write; `resolve(attempt)` says for good whether it was applied. `str(attempt)` is a text
            that `Attempt.parse` reads in another process.
        reason: What the last try came to.
        run_id: The run.
    """

    _names_run = True

    def __init__(self, attempt: Attempt, reason: str = "") -> None:
        self.attempt = attempt
        revision = "" if attempt.revision is None else f" as revision {attempt.revision}"
        self.reason = reason
        # Short enough that the advice after it is never cut.
        why = f" ({one_line(reason, 96)})" if reason else ""
        super().__init__(
            f"the {attempt.kind} of run {quoted(attempt.run_id)}{revision} may have been applied{why}: "
            "call resolve() before repeating it",
            run_id=attempt.run_id,
        )


def name_run(error: HistoryStoreError, run_id: str) -> None:
    """Note which run an error is about, where it does not say so itself."""
    if error.run_id is None:
        error.run_id = run_id


def _why_gone(requested: Revision | int, oldest: Revision | int | None, newest: Revision | int | None) -> str:
    if newest is None:
        return "absent"
    if _version(requested) < _version(oldest):
        return "trimmed"
    # A number may be made up; a revision was given to somebody once.
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
