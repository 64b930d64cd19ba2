# Generated from histstore/_async/store.py by tools/unasync.py; do not edit.
"""The Redis store of one run: the public calls that write, hold its lease, and take a turn."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, overload

from ..arguments import check_expected, check_function, check_lock
from ..attempt import Attempt
from ..log.changes import Append, Replace, Splice
from ..messages import AnyMessage, JSONValue, M, NewMessage
from ..options import Options
from ..policy import RetryPolicy
from ..revision import ANY, KEEP, SEEN, Expect, Keep, Revision, RunId
from ..snapshot import ConversationSnapshot
from .leases.lease import Lease, LeaseScope
from .readable import ReadableRun
from .seats import Seat
from .terms import terms_of
from .turn import TurnScope
from .writes import Writes


class RedisHistoryStore(ReadableRun[M]):
    """One run's conversation in Redis, for one writer. Made by `RedisBackend.store(run_id)`.

    Making one costs no I/O. A store remembers what it last loaded or saved. So a turn sends only what is new, and a
    load of an unchanged run receives next to nothing.

    Threads may share a store: its calls run one after the other. So may event loops, at once or one after the other. A
    forked process continues from what the store had seen. A write that the parent had not finished stays the parent's:
    `unsettled` names it there, and `resolve(attempt)` settles it if the parent is gone.

    Every method may raise BackendUnavailableError: nothing was written. Every method that writes may raise
    OutcomeUnknownError. If a call is cancelled after it sent a write, `unsettled` names that write. The next write
    settles it first, and `resolve()` does so at once.
    """

    def __init__(self, here: Callable[[], Seat], options: Options, run_id: RunId) -> None:
        super().__init__(here, options, run_id)
        self._writes = Writes(self._run, self._reads)

    # -------------------------------------------------------------------------------------- saving

    @overload
    def save(
        self, snapshot: ConversationSnapshot[M], *, expected: Revision | Expect | None = SEEN,
        lease: Lease | None = None, retry: RetryPolicy | None = None,
    ) -> Revision: ...  # fmt: skip
    @overload
    def save(
        self: RedisHistoryStore[AnyMessage], snapshot: ConversationSnapshot[NewMessage], *,
        expected: Revision | Expect | None = SEEN, lease: Lease | None = None, retry: RetryPolicy | None = None,
    ) -> Revision: ...  # fmt: skip
    def save(
        self,
        snapshot: ConversationSnapshot[Any],
        *,
        expected: Revision | Expect | None = SEEN,
        lease: Lease | None = None,
        retry: RetryPolicy | None = None,
    ) -> Revision:
        """Save a conversation, if the run is still where it is expected to be.

        Only changes are sent. If the content is unchanged, nothing is written, and the current revision is returned.

        Args:
            snapshot: The conversation.
            expected: Where the run is expected to be. A revision; None: absent; ANY: anywhere, whatever is there is
                overwritten; SEEN: the revision that the snapshot was loaded or saved as or grew from, or
                `self.revision` if it was built from scratch or comes from another run. A run is known by namespace and
                id: to copy one to the same id on another server, pass None.
            lease: The lease that the save carries; None: that of the `lock` or `turn` that this is called in.
            retry: The policy for this call.

        Returns:
            The run's new revision.

        Raises:
            ConflictError: The run is not at the expected revision. Nothing was written.
            LockedError: Another worker holds the run's lease. Nothing was written.
            LeaseLostError: The lease that the save carries was lost. Nothing was written.
            LockError: The lease was entered in another process or event loop. Nothing was written.
            SnapshotError: The snapshot cannot be saved.
            NotReplicatedError: The save was applied, but `Durability` was not reached.
            RevisionGoneError: A reply was lost, and then the server's memory of this save. Nobody can know whether it
                was ever applied; it will not be from now on.
            CorruptSnapshotError: The run is damaged.
            OutcomeUnknownError: The save may have been applied; `resolve()` says whether.
        """
        self._known.result = None
        with self._errors:
            change = Replace(snapshot)
            check_expected(expected)
            revision = self._writes.write(change, expected, terms_of(self._run, lease, self._run.policy(retry)))
        assert revision is not None  # a saved run is not absent
        return revision

    @overload
    def append(
        self, *messages: M, pinned: bool = False, meta: Mapping[str, JSONValue] | Keep = KEEP,
        expected: Revision | Expect | None = SEEN, lease: Lease | None = None, retry: RetryPolicy | None = None,
    ) -> Revision: ...  # fmt: skip
    @overload
    def append(
        self: RedisHistoryStore[AnyMessage], *messages: NewMessage, pinned: bool = False,
        meta: Mapping[str, JSONValue] | Keep = KEEP, expected: Revision | Expect | None = SEEN,
        lease: Lease | None = None, retry: RetryPolicy | None = None,
    ) -> Revision: ...  # fmt: skip
    def append(
        self,
        *messages: Any,
        pinned: bool = False,
        meta: Mapping[str, JSONValue] | Keep = KEEP,
        expected: Revision | Expect | None = SEEN,
        lease: Lease | None = None,
        retry: RetryPolicy | None = None,
    ) -> Revision | None:
        """Add messages at the end. Only they are sent, and the store need not know the conversation.

        Args:
            *messages: The messages.
            pinned: Whether they are pinned.
            meta: The run's meta from now on; KEEP: unchanged.
            expected: As for `save`; SEEN is `self.revision`. With ANY, `self.revision` does not move past messages
                that this store has not seen.
            lease: As for `save`.
            retry: The policy for this call.

        Returns:
            The run's new revision. Without messages and meta an absent run stays absent, and None is returned. The
            type leaves None out, because no other call returns it.

        Raises:
            Exception: The errors of `save`.
        """
        self._known.result = None
        with self._errors:
            change = Append(messages, pinned, meta)
            check_expected(expected)
            return self._writes.write(change, expected, terms_of(self._run, lease, self._run.policy(retry)))

    @overload
    def splice(
        self, start: int | None, stop: int | None, *messages: M, pinned: bool = False,
        meta: Mapping[str, JSONValue] | Keep = KEEP, expected: Revision | Expect | None = SEEN,
        lease: Lease | None = None, retry: RetryPolicy | None = None,
    ) -> Revision: ...  # fmt: skip
    @overload
    def splice(
        self: RedisHistoryStore[AnyMessage], start: int | None, stop: int | None, *messages: NewMessage,
        pinned: bool = False, meta: Mapping[str, JSONValue] | Keep = KEEP, expected: Revision | Expect | None = SEEN,
        lease: Lease | None = None, retry: RetryPolicy | None = None,
    ) -> Revision: ...  # fmt: skip
    def splice(
        self,
        start: int | None,
        stop: int | None,
        *messages: Any,
        pinned: bool = False,
        meta: Mapping[str, JSONValue] | Keep = KEEP,
        expected: Revision | Expect | None = SEEN,
        lease: Lease | None = None,
        retry: RetryPolicy | None = None,
    ) -> Revision | None:
        """Replace the messages from `start` to `stop`, which are list-slice indices.

        Only the cut and the new messages are sent; after an insertion in the middle also the messages behind it. A
        store that does not know the conversation reads it first.

        Args:
            start: Index of the first message to replace.
            stop: Index after the last one.
            *messages: The new messages.
            pinned: Whether the new messages are pinned. The others keep their pins.
            meta: The run's meta from now on; KEEP: unchanged.
            expected: As for `append`.
            lease: As for `save`.
            retry: The policy for this call.

        Returns:
            As for `append`.

        Raises:
            Exception: The errors of `save`.
        """
        self._known.result = None
        with self._errors:
            change = Splice(start, stop, messages, pinned, meta)
            check_expected(expected)
            return self._writes.write(change, expected, terms_of(self._run, lease, self._run.policy(retry)))

    def update(
        self,
        fn: Callable[
            [ConversationSnapshot[M] | None],
            ConversationSnapshot[M] | None,
        ],
        *,
        lease: Lease | None = None,
        retry: RetryPolicy | None = None,
    ) -> Revision | None:
        """Load, let `fn` change the conversation, save; again if a rival was faster.

        Args:
            fn: Receives the snapshot, or None if the run is absent, and returns the one to save. It may be async, and
                may be called again. If it returns its argument, nothing is saved.
            lease: As for `save`.
            retry: The policy for this call. Its deadline also bounds the tries after lost races. The time that `fn`
                takes does not count.

        Returns:
            The run's revision; None if `fn` left an absent run absent.

        Raises:
            ConflictError: Rivals were faster until the deadline. Nothing was written.
            LockedError: Another worker holds the run's lease. Nothing was written.
            Exception: The errors of `load`, `save` and `fn`.
        """
        self._known.result = None
        with self._errors:
            check_function(fn)
            policy = self._run.policy(retry)
        return self._writes.update(fn, lease, policy)

    def trim(self, *, retry: RetryPolicy | None = None) -> Revision | None:
        """Drop past revisions now, and with them all spliced-away messages: until then `at=` still reaches them.

        This writes a new revision with the same content, unless there is nothing to drop. Snapshots that were loaded
        before belong to the old revision: load again before the next save.

        Returns:
            The run's revision; None if it is absent.

        Raises:
            Exception: The errors of `save`.
        """
        self._known.result = None
        with self._errors:
            return self._writes.trim(self._run.policy(retry))

    def delete(
        self,
        *,
        expected: Revision | Expect | None = ANY,
        lease: Lease | None = None,
        retry: RetryPolicy | None = None,
    ) -> bool:
        """Delete the run, damaged or not. A lease that another worker holds prevents it.

        Args:
            expected: As for `append`; with None an existing run is a conflict.
            lease: As for `save`.
            retry: The policy for this call.

        Returns:
            Whether there was a run to delete.

        Raises:
            ConflictError: The run is not at the expected revision, or keeps changing. Nothing was written.
            LockedError: Another worker holds the run's lease. Nothing was written.
            OutcomeUnknownError: The run may have been deleted; `resolve()` says whether.
        """
        self._known.result = None
        with self._errors:
            check_expected(expected)
            return self._writes.delete(expected, terms_of(self._run, lease, self._run.policy(retry)))

    def resolve(self, attempt: Attempt | None = None, *, retry: RetryPolicy | None = None) -> Revision | None:
        """Settle a write whose outcome is open, for good.

        Args:
            attempt: The attempt that an OutcomeUnknownError or `unsettled` named, here or in another process
                (`Attempt.parse` reads its text); None: this store's own.
            retry: The policy for this call.

        Returns:
            The revision that the write made, or that a delete deleted; None: it was not applied and never will be. If
            nothing is open: the outcome of this store's last write.

        Raises:
            RevisionGoneError: The server has forgotten the outcome. It will not apply the write from now on.
            NotReplicatedError: The write was applied, but `Durability` is not reached.
            SnapshotError: The attempt belongs to another run.
        """
        with self._errors:
            return self._writes.outcomes.resolve(attempt, self._run.policy(retry))

    # ------------------------------------------------------------------------------ leases and turns

    def lock(
        self,
        *,
        ttl: float = 30.0,
        acquire_timeout: float | None = None,
        renew: bool = True,
        cancel: bool = True,
        retry: RetryPolicy | None = None,
    ) -> LeaseScope:
        """Return a context manager that holds the run's lease: one worker at a time, first come, first served.

        Inside, saves of this run carry the lease by themselves, in the task that entered and in tasks that it starts;
        `lease=` passes it on by name. The server refuses saves of the run by others with LockedError.

        If the lease is lost, `lease.lost` becomes true, the task that entered is cancelled once, and the exit raises
        LeaseLostError. A cancellation by somebody else takes precedence, and another error of the body gets a note.
        A waiter that is cancelled leaves nothing behind. An asyncio body that blocks the event loop prevents renewal.

        Args:
            ttl: Lifetime of the lease without renewal, in seconds: how long others wait if this process dies.
            acquire_timeout: Longest wait for the lease, in seconds; 0: try once; None: wait for ever.
            renew: Whether the lease is renewed in the background, every third of `ttl`. If not, it is lost after `ttl`.
            cancel: Whether the task that entered is cancelled when the lease is lost. Pass False where entry and exit
                may be in different tasks: async generators, fixtures, streaming responses.
            retry: The policy for the requests that take the lease.

        Raises:
            LockTimeoutError: Others held the lease until `acquire_timeout`.
            LockError: This task already holds it, or is one that the holder started inside. Or this task's context has
                a lease of the run that was entered in another event loop, or before a fork.
            LeaseLostError: At the exit: the lease was lost meanwhile.
            BackendUnavailableError: The server could not be used.
            BackendError: The backend is closing, or closed.
            SnapshotError: An argument is out of range.
        """
        with self._errors:
            check_lock(ttl, acquire_timeout, renew, cancel)
            self._run.policy(retry)  # a wrong one fails before anything is sent
            return LeaseScope(self._run, ttl, acquire_timeout, renew, cancel, retry)

    def turn(
        self,
        *,
        ttl: float = 30.0,
        acquire_timeout: float | None = None,
        expected: Revision | Expect | None = ANY,
        cancel: bool = True,
        retry: RetryPolicy | None = None,
    ) -> TurnScope[M]:
        """Return a context manager for one turn: it takes the lease, loads, and saves on a clean exit.

        On an exception nothing is saved; messages that were appended before stay in `turn.snapshot`. Write through the
        turn. If the store itself saves or deletes in between, the turn's save raises ConflictError.

        Args:
            ttl: As for `lock`.
            acquire_timeout: As for `lock`.
            expected: Where the run has to be, or entry raises ConflictError before any work is done; SEEN:
                `self.revision`; ANY: anywhere.
            cancel: As for `lock`.
            retry: The policy for the calls of the turn.

        Raises:
            ConflictError: The run is not at the expected revision.
            Exception: The errors of `lock`, `load` and `save`.
        """
        self._known.result = None
        with self._errors:
            check_expected(expected)
            scope = self.lock(ttl=ttl, acquire_timeout=acquire_timeout, cancel=cancel, retry=retry)
            return TurnScope(self._writes, scope, expected, self._run.policy(retry))
