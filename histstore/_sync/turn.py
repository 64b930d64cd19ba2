# Generated from histstore/_async/turn.py by tools/unasync.py; do not edit.
"""One turn of a conversation: under the lease, loaded inside it, saved at its end."""

from __future__ import annotations

from collections.abc import Mapping
from types import TracebackType
from typing import TYPE_CHECKING, Any, Generic, NoReturn, overload

from ..errors import (
    BackendUnavailableError,
    ConflictError,
    HistoryStoreError,
    LockError,
    NotReplicatedError,
    SnapshotError,
    name_run,
    quoted,
)
from ..messages import JSONValue
from ..policy import RetryPolicy
from ..snapshot import (
    ANY,
    KEEP,
    SEEN,
    AnyMessage,
    Attempt,
    ConversationSnapshot,
    Expect,
    Keep,
    M,
    NewMessage,
    Revision,
    brief,
    find_origin,
    frozen_meta,
)
from .compat import io, tasks
from .compat.scope import Exit
from .leases.lease import Lease, LeaseScope

if TYPE_CHECKING:
    from .store import RedisHistoryStore


class Turn(Generic[M]):
    """One worker's turn. Made by `RedisHistoryStore.turn`.

    Tasks of the body may share it: `append` and `replace` take effect at once and as a whole, and saves come one after
    the other. Each saves all that is pending when its own time has come.

    Attributes:
        lease: The lease that it is taken under.
        snapshot: The conversation, with what was appended; also after the turn has ended.
    """

    def __init__(
        self,
        store: RedisHistoryStore[M],
        lease: Lease,
        snapshot: ConversationSnapshot[M] | None,
        retry: RetryPolicy | None,
    ) -> None:
        self._store = store
        self._retry = retry
        self._saving = io.Lock()
        self._guard = tasks.Guard()
        self.lease = lease
        self.snapshot: ConversationSnapshot[M] = snapshot if snapshot is not None else ConversationSnapshot()
        # Where the run is, what it holds there, and how often that has changed. In one, so that nobody who interrupts
        # a save comes between them.
        revision = snapshot.revision if snapshot is not None else None
        self._at: tuple[Revision | None, ConversationSnapshot[M], int] = (revision, self.snapshot, 0)
        # What a save has begun to send, and the revision that it went by before: until it is known what became of it.
        self._sending: tuple[ConversationSnapshot[M], Revision | None] | None = None

    @property
    def revision(self) -> Revision | None:
        """What the run was loaded as, or last saved as; None: the run is absent."""
        return self._at[0]

    @property
    def messages(self) -> tuple[M, ...]:
        """The messages of `snapshot`."""
        return self.snapshot.messages

    @property
    def meta(self) -> Mapping[str, JSONValue]:
        """The read-only mapping of `snapshot`. Set it to save another one with the next save.

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
            meta: The run's meta from now on; KEEP: as it is.

        Raises:
            SnapshotError: A message or `meta` cannot be saved. Nothing was added.
        """
        try:
            with self._guard:
                grown = self.snapshot.append(*messages, pinned=pinned)
                self.snapshot = grown if meta is KEEP else grown.with_meta(frozen_meta(meta))
        except HistoryStoreError as error:
            name_run(error, self._store.run_id)
            raise

    @overload
    def replace(self, snapshot: ConversationSnapshot[M]) -> None: ...
    @overload
    def replace(self: Turn[AnyMessage], snapshot: ConversationSnapshot[NewMessage]) -> None: ...
    def replace(self, snapshot: ConversationSnapshot[Any]) -> None:
        """Puts another conversation in place of `snapshot`, to be saved with the next save."""
        try:
            if not isinstance(snapshot, ConversationSnapshot):
                raise SnapshotError(f"replace() takes a ConversationSnapshot, not a {type(snapshot).__name__}")
            with self._guard:
                self.snapshot = snapshot
        except HistoryStoreError as error:
            name_run(error, self._store.run_id)
            raise

    def save(self) -> Revision | None:
        """Saves what is pending, and goes on.

        A save whose outcome is open, of this turn, is settled first. Cancelling one of several saves disturbs no other.

        Returns:
            The run's revision that holds all that was pending, also where another save of this turn has saved it
            meanwhile; None: nothing was pending.

        Raises:
            LeaseLostError: The lease is not held any more. Nothing was written.
            Exception: What `RedisHistoryStore.save` raises.
        """
        try:
            self.lease._refuse_if_over()
            self._refuse_elsewhere()
            changes = self._at[2]
            deadline = self._store._policy(self._retry).deadline
            text = "another save of this turn was under way until the deadline; this one wrote nothing, repeat it"
            # All else is decided inside: what another save does meanwhile moves the turn on.
            with io.Held(self._saving, deadline, BackendUnavailableError, text):
                return self._save(changes)
        except HistoryStoreError as error:
            name_run(error, self._store.run_id)
            raise

    def _save(self, changes: int) -> Revision | None:
        """Saves, as the only one. `changes` is how often the turn had moved on when it was asked for."""
        if self._at[2] != changes and self._sending is None and not self._pends():
            return self.revision  # even if the lease was given up since: another save has done it
        self.lease._refuse_if_over()
        self._settle()
        if not self._pends():
            return self.revision if self._at[2] != changes else None
        snapshot = self.snapshot
        self._sending = snapshot, self._known(snapshot)
        try:
            revision = self._store.save(snapshot, expected=self.revision, lease=self.lease, retry=self._retry)
        except BaseException:
            self._recall()
            raise
        self._moved(snapshot, revision)
        return revision

    def _refuse_elsewhere(self) -> None:
        if self.lease._table is not self._store._backend._here().leases:
            self.lease._refuse_elsewhere()

    def _pends(self) -> bool:
        """Whether there is something to save."""
        return self.snapshot is not self._at[1] or self._store._pends(self.snapshot, self.revision)

    def _settle(self) -> None:
        """Settles a save that was begun and whose outcome is open."""
        attempt = self._recall()
        if attempt is None or self._sending is None:
            return
        snapshot, _ = self._sending
        try:
            revision = self._store.resolve(attempt, retry=self._retry)
        except NotReplicatedError as error:
            self._moved(snapshot, error.revision)
            raise
        if revision is not None:
            self._moved(snapshot, revision)
        self._sending = None

    def _recall(self) -> Attempt | None:
        """Looks up what became of the save that was begun last; returns its attempt if only the server knows. No I/O.

        The store remembers: a write that is open by its snapshot, and one that was applied in the snapshot itself. So
        nothing is lost where a save is interrupted just before or after it is noted here.
        """
        if self._sending is None:
            return None
        snapshot, before = self._sending
        pending = self._store._pending
        if pending is not None and pending.snapshot is snapshot:
            return pending.call.attempt
        now = self._known(snapshot)
        if now is not None and now != before:
            self._moved(snapshot, now)
        self._sending = None
        return None

    def _known(self, snapshot: ConversationSnapshot[M]) -> Revision | None:
        """Returns the run's revision that a snapshot is, or grew from."""
        origin = find_origin(snapshot, self._store._where.key)
        return origin[0].revision if origin is not None else None

    def _moved(self, snapshot: ConversationSnapshot[M], revision: Revision) -> None:
        self._at = revision, snapshot, self._at[2] + 1
        self._sending = None

    def __reduce__(self) -> NoReturn:
        raise LockError(
            "a turn cannot be pickled: it belongs to the process that takes it; pickle turn.snapshot instead"
        )

    def __repr__(self) -> str:
        return f"<Turn of run {quoted(self._store.run_id)} at {brief(self.revision)}>"


class TurnScope(Generic[M]):
    """What `RedisHistoryStore.turn` returns: the turn is taken while it is entered."""

    def __init__(
        self,
        store: RedisHistoryStore[M],
        scope: LeaseScope,
        expected: Revision | Expect | None,
        retry: RetryPolicy | None,
    ) -> None:
        self._store = store
        self._scope = scope
        self._expected = expected
        self._retry = retry
        self._turn: Turn[M] | None = None

    def __enter__(self) -> Turn[M]:
        self._store._settled = None  # a turn that is interrupted before its save has come to nothing
        seen = self._store.revision
        lease = self._scope.__enter__()
        try:
            # Inside the lease: what was loaded before it was granted may be a rival's past.
            snapshot = self._store.load(retry=self._retry)
            actual = snapshot.revision if snapshot is not None else None
            wanted = seen if self._expected is SEEN else self._expected
            if wanted is not ANY and wanted != actual:
                named = wanted if isinstance(wanted, Revision) else None
                raise ConflictError(named, actual, run_id=self._store.run_id)
        except BaseException as error:
            self._scope.__exit__(type(error), error, error.__traceback__)
            raise
        self._turn = Turn(self._store, lease, snapshot, self._retry)
        return self._turn

    def watch_exit(self, held: object) -> None:
        """Watch the function that a `with` statement holds, before the body is entered."""
        self._scope.watch_exit(held)

    def __reduce__(self) -> NoReturn:
        raise LockError("a turn() cannot be pickled: call turn() where the work is done")

    @Exit
    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        turn = self._turn
        assert turn is not None
        if error is None and (turn.lease._is_here or turn._pends()):
            # From here on a loss is told by the save itself; to cancel it would leave its outcome open.
            self._scope.leave()
            try:
                turn.save()
                while turn.snapshot is not turn._at[1]:  # a task that the body has left behind appended meanwhile
                    turn.save()
            except BaseException as failed:
                self._scope.__exit__(type(failed), failed, failed.__traceback__)
                raise
            # The turn is saved: that the lease was lost after that is no failure of it.
            self._scope.release(None)
            return
        self._scope.__exit__(kind, error, trace)
