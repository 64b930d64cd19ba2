"""One turn of a conversation: it takes the lease, loads under it, and saves at its end."""

from __future__ import annotations

from collections.abc import Mapping
from types import TracebackType
from typing import Any, Generic, NoReturn, overload

from ..attempt import Attempt
from ..errors import BackendUnavailableError, ConflictError, LockError, NotReplicatedError, SnapshotError
from ..log.changes import Replace
from ..messages import AnyMessage, JSONValue, M, NewMessage
from ..policy import RetryPolicy
from ..revision import ANY, KEEP, SEEN, Expect, Keep, Revision, brief
from ..snapshot import ConversationSnapshot, find_origin
from ..values.frozen import freeze_meta
from ..values.text import quoted
from .compat import io, tasks
from .compat.scope import Exit
from .leases.lease import Lease, LeaseScope
from .terms import terms_of
from .writes import Writes


class Turn(Generic[M]):
    """One worker's turn. Made by `RedisHistoryStore.turn`.

    Tasks of the body may share it. `append` and `replace` take effect at once and as a whole. Saves run one after the
    other, and each saves everything that is unsaved when it begins.

    Attributes:
        lease: The turn's lease.
        snapshot: The conversation, with what was appended; also after the turn has ended.
    """

    def __init__(
        self,
        writes: Writes,
        lease: Lease,
        snapshot: ConversationSnapshot[M] | None,
        policy: RetryPolicy,
    ) -> None:
        self._run = writes.run
        self._writes = writes
        self._policy = policy
        self._saving = io.Lock()
        self._guard = tasks.Guard()
        self.lease = lease
        self.snapshot: ConversationSnapshot[M] = snapshot if snapshot is not None else ConversationSnapshot()
        # The run's revision, the snapshot that it holds there, and the number of saves. One tuple, so that an
        # interrupted save never leaves two of them from different moments.
        revision = snapshot.revision if snapshot is not None else None
        self._saved: tuple[Revision | None, ConversationSnapshot[M], int] = (revision, self.snapshot, 0)
        # The snapshot of a save that has begun and whose outcome is not recorded here, and that snapshot's revision
        # before the save.
        self._unrecorded: tuple[ConversationSnapshot[M], Revision | None] | None = None

    @property
    def revision(self) -> Revision | None:
        """The revision that was loaded or last saved; None: the run is absent."""
        return self._saved[0]

    @property
    def messages(self) -> tuple[M, ...]:
        """The messages of `snapshot`."""
        return self.snapshot.messages

    @property
    def meta(self) -> Mapping[str, JSONValue]:
        """The read-only meta of `snapshot`. Set it to have the next save write another one.

        Raises:
            SnapshotError: The new value is not a mapping of str to JSON values.
        """
        return self.snapshot.meta

    @meta.setter
    def meta(self, meta: Mapping[str, JSONValue]) -> None:
        self.append(meta=meta)

    @overload
    def append(self, *messages: M, pinned: bool = False, meta: Mapping[str, JSONValue] | Keep = KEEP) -> None: ...
    @overload
    def append(
        self: Turn[AnyMessage],
        *messages: NewMessage,
        pinned: bool = False,
        meta: Mapping[str, JSONValue] | Keep = KEEP,
    ) -> None: ...
    def append(self, *messages: Any, pinned: bool = False, meta: Mapping[str, JSONValue] | Keep = KEEP) -> None:
        """Add messages at the end, to be saved with the next save.

        Args:
            *messages: The messages; none, if only `meta` is to change.
            pinned: Whether they are pinned.
            meta: The run's meta from now on; KEEP: unchanged.

        Raises:
            SnapshotError: A message or `meta` cannot be saved. Nothing was added.
        """
        with self._run.errors, self._guard:
            grown = self.snapshot.append(*messages, pinned=pinned)
            self.snapshot = grown if meta is KEEP else grown.with_meta(freeze_meta(meta))

    @overload
    def replace(self, snapshot: ConversationSnapshot[M]) -> None: ...
    @overload
    def replace(self: Turn[AnyMessage], snapshot: ConversationSnapshot[NewMessage]) -> None: ...
    def replace(self, snapshot: ConversationSnapshot[Any]) -> None:
        """Replace `snapshot` by another conversation, to be saved with the next save.

        Raises:
            SnapshotError: `snapshot` is no snapshot.
        """
        with self._run.errors:
            if not isinstance(snapshot, ConversationSnapshot):
                raise SnapshotError(f"replace() takes a ConversationSnapshot, not a {type(snapshot).__name__}")
            with self._guard:
                self.snapshot = snapshot

    async def save(self) -> Revision | None:
        """Save all unsaved changes; the turn continues.

        If the outcome of an earlier save of this turn is open, that save is settled first. Cancelling one of several
        saves does not disturb the others.

        Returns:
            The run's revision that holds all changes, also if another save of this turn has written them meanwhile;
            None: there were no changes.

        Raises:
            LeaseLostError: The lease was lost or given up. Nothing was written.
            Exception: The errors of `RedisHistoryStore.save`.
        """
        with self._run.errors:
            self.lease._refuse_if_over()
            if self.lease._table is not self._run.here().leases:
                self.lease._refuse_elsewhere()
            count = self._saved[2]
            deadline = self._policy.deadline
            text = "another save of this turn was under way until the deadline; this one wrote nothing, repeat it"
            # Everything else is decided under the lock, because a save that runs before this one moves the turn on.
            async with io.Held(self._saving, deadline, BackendUnavailableError, text):
                return await self._save(count)

    async def _save(self, count: int) -> Revision | None:
        """Save while holding the lock. `count` is the number of saves when this one was asked for."""
        if self._saved[2] != count and self._unrecorded is None and not self.has_changes():
            return self.revision  # another save has done it, even if the lease was given up since
        self.lease._refuse_if_over()
        await self._settle()
        if not self.has_changes():
            return self.revision if self._saved[2] != count else None
        snapshot = self.snapshot
        self._unrecorded = snapshot, self._revision_of(snapshot)
        self._run.known.result = None
        try:
            terms = terms_of(self._run, self.lease, self._policy)
            revision = await self._writes.write(Replace(snapshot), self.revision, terms)
        except BaseException:
            self._open_attempt()
            raise
        assert revision is not None
        self._record(snapshot, revision)
        return revision

    def has_changes(self) -> bool:
        """Return whether a save would write something."""
        return self.snapshot is not self._saved[1] or self._writes.would_write(self.snapshot, self.revision)

    async def _settle(self) -> None:
        """Settle a save of this turn whose outcome is open."""
        attempt = self._open_attempt()
        if attempt is None or self._unrecorded is None:
            return
        snapshot, _ = self._unrecorded
        try:
            revision = await self._writes.outcomes.resolve(attempt, self._policy)
        except NotReplicatedError as error:
            self._record(snapshot, error.revision)
            raise
        if revision is not None:
            self._record(snapshot, revision)
        self._unrecorded = None

    def _open_attempt(self) -> Attempt | None:
        """Record the outcome of the last save that began, if it is known here; else return its attempt. No I/O.

        The store remembers a write with an open outcome by its snapshot, and an applied write in the snapshot itself.
        So no outcome is lost if a save is interrupted just before or after it is recorded here.
        """
        if self._unrecorded is None:
            return None
        snapshot, before = self._unrecorded
        pending = self._run.known.pending
        if pending is not None and pending.snapshot is snapshot:
            return pending.call.attempt
        now = self._revision_of(snapshot)
        if now is not None and now != before:
            self._record(snapshot, now)
        self._unrecorded = None
        return None

    def _revision_of(self, snapshot: ConversationSnapshot[M]) -> Revision | None:
        """Return the run's revision that a snapshot is, or grew from."""
        descent = find_origin(snapshot, self._run.where.key)
        return descent[0].revision if descent is not None else None

    def _record(self, snapshot: ConversationSnapshot[M], revision: Revision) -> None:
        """Record that the run holds `snapshot` at `revision`."""
        self._saved = revision, snapshot, self._saved[2] + 1
        self._unrecorded = None

    async def save_all(self) -> None:
        """Save until there are no changes: tasks that the body has left behind may append meanwhile."""
        await self.save()
        while self.snapshot is not self._saved[1]:
            await self.save()

    def __reduce__(self) -> NoReturn:
        raise LockError(
            "a turn cannot be pickled: it belongs to the process that takes it; pickle turn.snapshot instead"
        )

    def __repr__(self) -> str:
        return f"<Turn of run {quoted(self._run.where.run_id)} at {brief(self.revision)}>"


class TurnScope(Generic[M]):
    """The context manager that `RedisHistoryStore.turn` returns.

    Args:
        writes: Writes the run.
        scope: Holds the lease.
        expected: Where the run has to be when the turn begins.
        policy: The policy for the calls of the turn.
    """

    def __init__(
        self, writes: Writes, scope: LeaseScope, expected: Revision | Expect | None, policy: RetryPolicy
    ) -> None:
        self._writes = writes
        self._scope = scope
        self._expected = expected
        self._policy = policy
        self._turn: Turn[M] | None = None

    async def __aenter__(self) -> Turn[M]:
        known = self._writes.run.known
        known.result = None  # a turn that is interrupted before its save has no result
        seen = known.revision
        lease = await self._scope.__aenter__()
        try:
            # Load under the lease: before it was granted, a rival may have saved.
            snapshot = await self._load(seen if self._expected is SEEN else self._expected)
        except BaseException as error:
            await self._scope.__aexit__(type(error), error, error.__traceback__)
            raise
        self._turn = Turn(self._writes, lease, snapshot, self._policy)
        return self._turn

    async def _load(self, wanted: Revision | Expect | None) -> ConversationSnapshot[M] | None:
        with self._writes.run.errors:
            snapshot = await self._writes.reads.newest(self._policy)
            actual = snapshot.revision if snapshot is not None else None
            if wanted is not ANY and wanted != actual:
                raise ConflictError(wanted if isinstance(wanted, Revision) else None, actual)
            return snapshot

    def watch_exit(self, held: object) -> None:
        """Watch the function that a `with` statement holds, before the body is entered."""
        self._scope.watch_exit(held)

    def __reduce__(self) -> NoReturn:
        raise LockError("a turn() cannot be pickled: call turn() where the work is done")

    @Exit
    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        turn = self._turn
        assert turn is not None
        if error is not None or not (turn.lease._is_here or turn.has_changes()):
            await self._scope.__aexit__(kind, error, trace)
            return
        # From here on the save itself reports a lost lease. A cancellation would leave the save's outcome open.
        self._scope.leave()
        try:
            await turn.save_all()
        except BaseException as failed:
            await self._scope.__aexit__(type(failed), failed, failed.__traceback__)
            raise
        # The turn is saved: a lease that is lost after that is no failure of it.
        await self._scope.release(None)
