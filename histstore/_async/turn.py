"""One turn of a conversation: under the lease, loaded inside it, saved at its end."""

from __future__ import annotations

from types import TracebackType
from typing import TYPE_CHECKING, Generic

from .._retry import RetryPolicy
from ..errors import ConflictError, NotReplicatedError, SnapshotError
from ..snapshot import ANY, SEEN, Attempt, ConversationSnapshot, Expect, M, Revision
from .lease import Lease, LeaseScope

if TYPE_CHECKING:
    from .store import RedisHistoryStore


class Turn(Generic[M]):
    """One worker's turn. Made by `RedisHistoryStore.turn`.

    Attributes:
        lease: The lease that it is taken under.
        revision: What the run was loaded as, or last saved as; None: the run is absent.
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
        self._open: tuple[Attempt, ConversationSnapshot[M]] | None = None
        self.lease = lease
        self.revision: Revision | None = snapshot.revision if snapshot is not None else None
        self.snapshot: ConversationSnapshot[M] = snapshot if snapshot is not None else ConversationSnapshot()
        self._saved = self.snapshot

    @property
    def messages(self) -> tuple[M, ...]:
        """The messages of `snapshot`."""
        return self.snapshot.messages

    def append(self, *messages: M, pinned: bool = False) -> None:
        """Adds messages at the end, to be saved with the next save."""
        self.snapshot = self.snapshot.append(*messages, pinned=pinned)

    def replace(self, snapshot: ConversationSnapshot[M]) -> None:
        """Puts another conversation in place of `snapshot`, to be saved with the next save."""
        if not isinstance(snapshot, ConversationSnapshot):
            raise SnapshotError(f"replace() takes a ConversationSnapshot, not a {type(snapshot).__name__}")
        self.snapshot = snapshot

    async def save(self) -> Revision | None:
        """Saves what is pending, and goes on.

        A save whose outcome is open, of this turn, is settled first.

        Returns:
            The run's new revision; None: nothing was pending.

        Raises:
            LeaseLostError: The lease is not held any more. Nothing was written.
            Exception: What `RedisHistoryStore.save` raises.
        """
        self.lease._refuse_if_over()
        settled = await self._settle()
        if self.snapshot is self._saved and not self._store._pends(self.snapshot, self.revision):
            return settled
        snapshot, before = self.snapshot, self._store.unsettled
        try:
            revision = await self._store.save(snapshot, expected=self.revision, lease=self.lease, retry=self._retry)
        except NotReplicatedError as error:
            self.revision, self._saved = error.revision, snapshot
            raise
        except BaseException:
            attempt = self._store.unsettled
            # One that the store had open before is not of this turn.
            if attempt is not None and attempt != before and attempt.parent == self.revision:
                self._open = attempt, snapshot
            raise
        self.revision, self._saved = revision, snapshot
        return revision

    async def _settle(self) -> Revision | None:
        if self._open is None:
            return None
        attempt, snapshot = self._open
        try:
            revision = await self._store.resolve(attempt, retry=self._retry)
        except NotReplicatedError as error:
            self.revision, self._saved, self._open = error.revision, snapshot, None
            raise
        self._open = None
        if revision is not None:
            self.revision, self._saved = revision, snapshot
        return revision

    def __repr__(self) -> str:
        return f"<Turn of run {str(self._store.run_id)!r} at {self.revision}>"


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

    async def __aenter__(self) -> Turn[M]:
        seen = self._store.revision
        lease = await self._scope.__aenter__()
        try:
            # Inside the lease: what was loaded before it was granted may be a rival's past.
            snapshot = await self._store.load(retry=self._retry)
            actual = snapshot.revision if snapshot is not None else None
            wanted = seen if self._expected is SEEN else self._expected
            if wanted is not ANY and wanted != actual:
                raise ConflictError(wanted if isinstance(wanted, Revision) else None, actual)
        except BaseException as error:
            await self._scope.__aexit__(type(error), error, error.__traceback__)
            raise
        self._turn = Turn(self._store, lease, snapshot, self._retry)
        return self._turn

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        turn = self._turn
        assert turn is not None
        if error is None:
            # From here on a loss is told by the save itself; to cancel it would leave its outcome open.
            self._scope.leave()
            try:
                await turn.save()
            except BaseException as failed:
                await self._scope.__aexit__(type(failed), failed, failed.__traceback__)
                raise
            # The turn is saved: that the lease was lost after that is no failure of it.
            await self._scope.give_up(None)
            return
        await self._scope.__aexit__(kind, error, trace)
