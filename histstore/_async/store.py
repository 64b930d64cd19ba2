"""The Redis store of one run: a thin shell around plan, protocol and runner."""

from __future__ import annotations

import os
import random
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from functools import partial
from typing import TYPE_CHECKING, Any, Final, Generic, NoReturn, TypeVar, cast, overload

from ..errors import (
    BackendError,
    BackendUnavailableError,
    ConflictError,
    CorruptSnapshotError,
    HistoryStoreError,
    LeaseLostError,
    NotReplicatedError,
    OutcomeUnknownError,
    RevisionGoneError,
    SnapshotError,
    name_run,
    one_line,
    quoted,
)
from ..log.base import Base
from ..log.columns import read_entries, read_log, since
from ..log.entry import Entry, read_entry
from ..log.head import Head, read_meta, timestamp
from ..log.message_codec import NO_META, encode_meta
from ..log.plan import Plan, Target, Writer, grow, plan_append, plan_save, worth_a_checkpoint
from ..log.replay import replay
from ..log.unreadable import BrokenChainError
from ..messages import JSONValue, freeze_messages
from ..policy import Budget, RetryPolicy, policy_of
from ..protocol import deletes, reads, saves
from ..protocol.call import Call
from ..protocol.deletes import Peeked
from ..protocol.heads import RawHead, fold, same_head
from ..protocol.info import info, read_info
from ..protocol.keys import run_keys
from ..protocol.reads import Loaded
from ..protocol.run import Where
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
    Origin,
    Page,
    Revision,
    RunId,
    RunInfo,
    add_origin,
    brief,
    find_origin,
    from_parts,
    frozen_meta,
    parts,
    slice_bounds,
)
from .compat import io
from .leases.lease import HELD, Lease, LeaseScope, current_lease, token_of

# unasync: off
# unasync: on
from .pages import Found, PageReader, part_of
from .transport.runner import Delivery
from .turn import TurnScope

if TYPE_CHECKING:
    from .backend import RedisBackend

T = TypeVar("T")

CONFLICT_PAUSE: Final = 0.02
"""Seconds that the first pause after a lost race is at most: a rival's save takes a fraction of that."""


@dataclass(slots=True)
class _Pending:
    """A write that was sent and not answered, and what to remember if it turns out to have been applied.

    Attributes:
        call: Its request, which knows its name.
        plan: The save; None: a delete.
        base: The content that the save went onto, if it was at hand.
        snapshot: The snapshot that was saved, if one was.
        pinned: Whether an append's messages are pinned.
        seen: Whether the store has seen what the write went onto.
        before: The store's revision when it was sent.
        pid: The process that sent it.
    """

    call: Call
    plan: Plan | None
    base: Base | None
    snapshot: ConversationSnapshot[Any] | None
    pinned: bool
    seen: bool
    before: Revision | None
    pid: int


class RedisHistoryStore(Generic[M]):
    """One run's conversation in Redis, for one writer. Made by `RedisBackend.store(run_id)`.

    Making one costs no I/O. It remembers what it last loaded or saved, so that a turn sends only the turn
    and an unchanged load receives next to nothing. Tasks may share a store: its calls take turns. So may event loops,
    one after the other or at once. A forked process goes on from what the store had seen, and leaves to its parent what
    that had open: `unsettled` names it, and `resolve(attempt)` settles it if the parent is gone.

    Every method may raise BackendUnavailableError (nothing was written) and, if it writes,
    OutcomeUnknownError. A call that is cancelled leaves a write that it had sent in `unsettled`; the next
    write settles it first, and `resolve()` does so at once.
    """

    def __init__(self, backend: RedisBackend, run_id: RunId) -> None:
        self._backend = backend
        self._where = Where(backend.namespace, run_id, run_keys(backend.namespace, run_id))
        self._lock = io.Lock()
        self._pid = os.getpid()
        # Of processes that were forked meanwhile: a thread that is gone there may hold the lock that they inherit.
        self._locks: dict[int, io.Lock] = {}
        self._head: Head | None = None
        self._base: Base | None = None
        self._given: tuple[Base, ConversationSnapshot[Any]] | None = None
        self._pending: _Pending | None = None
        # What the last write came to. Each write forgets it before all else: a signal may end it at its next step.
        self._settled: Revision | None = None

    @property
    def run_id(self) -> RunId:
        """The run."""
        return self._where.run_id

    @property
    def revision(self) -> Revision | None:
        """What this store last loaded, read or saved; None: nothing, or that the run is absent."""
        return self._head.revision if self._head is not None else None

    @property
    def unsettled(self) -> Attempt | None:
        """The write that was sent and whose answer has not come; None when there is none."""
        return self._pending.call.attempt if self._pending is not None else None

    def __reduce__(self) -> NoReturn:
        raise BackendError(
            "a store cannot be pickled, because it remembers what this process has seen and sent: pickle the backend "
            "and the run id, and call backend.store(run_id) there"
        )

    def __repr__(self) -> str:
        return f"<RedisHistoryStore of run {quoted(self.run_id)} at {brief(self.revision)}>"

    def _mine(self, retry: RetryPolicy | None) -> io.Held:
        """Returns the lock that lets the calls take turns. Whoever may not use the backend must not wait for it."""
        pid = self._backend._here().pid
        if pid != self._pid:
            self._lock, self._pid = self._locks.setdefault(pid, io.Lock()), pid
        text = "another call of this store was under way until the deadline; nothing was written"
        return io.Held(self._lock, self._policy(retry).deadline, BackendUnavailableError, text)

    # ------------------------------------------------------------------------------------- loading

    async def load(
        self, *, at: int | Revision | None = None, retry: RetryPolicy | None = None
    ) -> ConversationSnapshot[M] | None:
        """Returns the conversation; None when the run was never written to, or was deleted.

        Its messages are read-only, plain ones too: `copies()` gives some to change. While the run does not change, a
        load returns the same snapshot. Cancelling it is harmless.

        Args:
            at: A version, or a revision, to load instead of the newest. It does not move `revision`.
            retry: The policy for this call.

        Raises:
            RevisionGoneError: What `at` names is not there (any more).
            CorruptSnapshotError: Stored bytes are not what was saved.
            UnsupportedVersionError: The run was written by a newer format.
            BackendUnavailableError: The server could not be used within the deadline.
        """
        try:
            if at is not None:
                return await self._load_at(at, retry)
            async with self._mine(retry):
                base = await self._fetch(retry)
                self._seen(base)
                return self._give(base) if base is not None else None
        except HistoryStoreError as error:
            name_run(error, self.run_id)
            raise

    async def _load_at(self, at: int | Revision, retry: RetryPolicy | None) -> ConversationSnapshot[Any]:
        version = at.version if isinstance(at, Revision) else at
        if type(version) is not int or not 0 < version < 10**15:
            raise SnapshotError("at= is a version from 1, or a Revision")
        budget = self._budget("load", retry)
        async with self._mine(retry):
            doubt = _Doubt()
            for _ in range(budget.policy.attempts + 1):
                etag = None
                try:
                    loaded = await self._ask(budget, reads.entries_up_to(self._where, version))
                    etag = loaded.head.etag if loaded.head is not None else b""
                    return self._snapshot_of(self._past(loaded, at, version))
                except BrokenChainError as error:
                    if doubt.confirmed(error, etag):
                        break
            raise self._corrupt(doubt.error)

    def _past(self, loaded: Loaded, at: int | Revision, version: int) -> Base:
        """Returns the content at a past version, from the log up to it."""
        head, items = loaded.head, loaded.items
        if head is None:
            if items:
                raise BrokenChainError(None, "there is a log, but no head")
            raise RevisionGoneError(at, None, None)
        if not head.first <= version <= head.version:
            raise RevisionGoneError(at, head.first, head.version)
        last = read_entry(items[-1]) if items else None
        if last is None or last.version != version:
            raise BrokenChainError(version, "an entry is missing")
        if isinstance(at, Revision) and last.etag != at.etag:
            raise RevisionGoneError(at, head.first, head.version)
        if last.checkpoint < head.first:
            raise RevisionGoneError(at, head.first, head.version, reason="trimmed")
        if len(items) < version - last.checkpoint + 1:
            raise BrokenChainError(version, "an entry is missing")
        return replay(read_log(items[last.checkpoint - version - 1 :]))

    async def _fetch(self, retry: RetryPolicy | None) -> Base | None:
        """Returns the newest content, reading what this store does not have yet. Remembers nothing."""
        if self._base is not None:
            known = self._base.head.version
            try:
                loaded = await self._read(reads.delta(self._where, self._base), retry)
                if loaded.head is not None and loaded.head.version - known > reads.DELTA:
                    loaded = await self._read(reads.entries_after(self._where, known), retry)
                found = _advance(loaded, self._base)
            except BrokenChainError:
                found = None  # what is in the way of the short read is told, or not, by the full one
            if found is not None:
                return found
        seen: object = None
        problem: BrokenChainError | None = None
        # Damage is only reported when a second read of the same head shows it too.
        for _ in range(self._policy(retry).attempts + 1):
            etag: object = b""
            try:
                loaded = await self._read_all(retry)
                etag = loaded.head.etag if loaded.head is not None else b""
                if loaded.head is None:
                    if not loaded.items:
                        return None
                    raise BrokenChainError(None, "there is a log, but no head")
                return _replayed(loaded.head, loaded.items)
            except BrokenChainError as error:
                if problem is not None and etag == seen:
                    break
                problem, seen = error, etag
        raise self._corrupt(problem)

    async def _read_all(self, retry: RetryPolicy | None) -> Loaded:
        if self._backend.keep_revisions == 0:
            return await self._read(reads.all_entries(self._where), retry)
        # The log holds past revisions too: ask first where the newest one starts.
        head = (await self._read(reads.head_only(self._where), retry)).head
        return await self._read(reads.entries_from(self._where, head.checkpoint if head is not None else 0), retry)

    async def _run(
        self, call: Call, retry: RetryPolicy | None, delivery: Delivery | None = None
    ) -> tuple[Any, int | None]:
        try:
            return await self._backend._here().runner.run(call, self._policy(retry), delivery)
        except BrokenChainError as error:
            raise self._corrupt(error) from error

    async def _read(self, call: Call, retry: RetryPolicy | None) -> Loaded:
        reply, _ = await self._backend._here().runner.run(call, self._policy(retry))
        return reads.read_loaded(reply)

    async def _ask(self, budget: Budget, call: Call) -> Loaded:
        """Sends one of the reads of a call whose time is bounded as a whole."""
        reply, _ = await self._backend._here().runner.run(call, budget.policy, None, budget.left())
        return reads.read_loaded(reply)

    async def _read_raw_head(self, retry: RetryPolicy | None) -> RawHead | None:
        try:
            return (await self._read(reads.head_only(self._where), retry)).head
        except BrokenChainError as error:
            raise self._corrupt(error) from error

    async def _read_head(self, retry: RetryPolicy | None) -> Head | None:
        """Returns the run's head now; None: the run is absent."""
        try:
            loaded = await self._read(reads.head_only(self._where), retry)
            (entries,) = loaded.items
            if loaded.head is None:
                if entries:
                    raise BrokenChainError(None, "there is a log, but no head")
                return None
            if entries != loaded.head.version - loaded.head.first + 1:
                raise BrokenChainError(loaded.head.version, "the log does not hold what the head says")
            return loaded.head.head(loaded.meta or b"")
        except BrokenChainError as error:
            raise self._corrupt(error) from error

    def _seen(self, base: Base | None) -> None:
        self._base = base
        self._head = base.head if base is not None else None

    def _give(self, base: Base) -> ConversationSnapshot[Any]:
        """Returns a snapshot of `base`: the last one again, if it was of the same."""
        given = self._given
        # One that has been saved to another run since then calls that run's revision its own.
        if given is None or given[0] is not base or given[1].revision != base.head.revision:
            given = self._given = (base, self._snapshot_of(base))
        return given[1]

    def _snapshot_of(self, base: Base) -> ConversationSnapshot[Any]:
        if base.mapping is None:
            base.mapping = self._meta_of(base.head)
        snapshot = from_parts(base.messages(), base.pins[: base.length], base.mapping)
        add_origin(snapshot, self._where.key, Origin(base.head.revision, base))
        return snapshot

    def _meta_of(self, head: Head) -> Mapping[str, JSONValue]:
        try:
            return read_meta(head.meta)
        except BrokenChainError as error:
            raise self._corrupt(error) from error

    def _corrupt(self, error: BrokenChainError | None) -> Exception:
        version, reason = (error.version, error.reason) if error is not None else (None, "the head keeps changing")
        return self._where.corrupt(version, reason)

    def _budget(self, name: str, retry: RetryPolicy | None) -> Budget:
        """Begins to count the time of a call that reads more than once."""
        return Budget(self._policy(retry), name, io.monotonic)

    def _policy(self, retry: RetryPolicy | None) -> RetryPolicy:
        if retry is None:
            return self._backend.retry
        try:
            return policy_of(retry, self._backend.retry)
        except SnapshotError as error:
            name_run(error, self.run_id)
            raise

    # -------------------------------------------------------------------------------------- saving

    @overload
    async def save(
        self,
        snapshot: ConversationSnapshot[M],
        *,
        expected: Revision | Expect | None = SEEN,
        lease: Lease | None = None,
        retry: RetryPolicy | None = None,
    ) -> Revision: ...
    @overload
    async def save(
        self: RedisHistoryStore[AnyMessage],
        snapshot: ConversationSnapshot[NewMessage],
        *,
        expected: Revision | Expect | None = SEEN,
        lease: Lease | None = None,
        retry: RetryPolicy | None = None,
    ) -> Revision: ...
    async def save(
        self,
        snapshot: ConversationSnapshot[Any],
        *,
        expected: Revision | Expect | None = SEEN,
        lease: Lease | None = None,
        retry: RetryPolicy | None = None,
    ) -> Revision:
        """Saves a conversation, if the run is still where it is expected to be.

        Only what changed travels. Content that did not change writes nothing and returns the current revision.

        Args:
            snapshot: The conversation.
            expected: A revision; None: the run is absent; SEEN: what the snapshot was loaded or saved as
                or grew from, or, if it was built from scratch or comes from another run, `self.revision`;
                ANY: whatever is there is overwritten. A run is known by namespace and id: to copy one to the
                same id on another server, say None.
            lease: The lease that the save carries; None: that of the `lock` or `turn` that this is called in.
            retry: The policy for this call.

        Returns:
            The run's new revision.

        Raises:
            ConflictError: The run is not at the expected revision. Nothing was written.
            LockedError: Another worker holds the run's lease. Nothing was written.
            LeaseLostError: The lease that the save carries is not held any more. Nothing was written.
            LockError: The lease was entered in another process or event loop. Nothing was written.
            SnapshotError: The snapshot cannot be saved.
            NotReplicatedError: Saved, but `Durability` was not reached.
            RevisionGoneError: An answer was lost, and the run's memory has since gone with it: whether this
                save was ever applied cannot be known.
            CorruptSnapshotError: The run is damaged.
            OutcomeUnknownError: It may have been saved; `resolve()` says.
        """
        self._settled = None
        try:
            if not isinstance(snapshot, ConversationSnapshot):
                hint = ": a Page is not the whole conversation, load() it" if isinstance(snapshot, Page) else ""
                raise SnapshotError(f"save() takes a ConversationSnapshot, not a {type(snapshot).__name__}{hint}")
            _check_expected(expected)
            lease = self._carrying(lease)
            async with self._mine(retry):
                if self._pending is not None:
                    await self._settle(retry)
                origin = find_origin(snapshot, self._where.key)
                if expected is ANY:
                    return await self._whatever(
                        lambda head: self._save_onto(head, origin, snapshot, lease, retry), retry
                    )
                newest = self.revision if origin is None else origin[0].revision
                wanted = newest if isinstance(expected, Expect) else expected
                return await self._save_onto(await self._head_at(wanted, origin, retry), origin, snapshot, lease, retry)
        except HistoryStoreError as error:
            name_run(error, self.run_id)
            raise

    async def _save_onto(
        self,
        parent: Head | None,
        origin: tuple[Origin, int] | None,
        snapshot: ConversationSnapshot[Any],
        lease: Lease | None,
        retry: RetryPolicy | None,
    ) -> Revision:
        base, shared = self._base_at(parent, origin)
        messages, pins, length = parts(snapshot)
        target = Target(messages, pins, length, snapshot.meta, shared)
        plan = plan_save(parent, base, target, self._writer(lease))
        revision = await self._commit(plan, parent, base, lease, retry, snapshot=snapshot)
        if revision is not None:
            return revision
        assert parent is not None  # only content that a parent already has is unchanged
        await self._confirm(parent, base, lease, retry)
        add_origin(snapshot, self._where.key, Origin(parent.revision, base))
        return parent.revision

    @overload
    async def append(
        self,
        *messages: M,
        pinned: bool = False,
        meta: Mapping[str, JSONValue] | Keep = KEEP,
        expected: Revision | Expect | None = SEEN,
        lease: Lease | None = None,
        retry: RetryPolicy | None = None,
    ) -> Revision: ...
    @overload
    async def append(
        self: RedisHistoryStore[AnyMessage],
        *messages: NewMessage,
        pinned: bool = False,
        meta: Mapping[str, JSONValue] | Keep = KEEP,
        expected: Revision | Expect | None = SEEN,
        lease: Lease | None = None,
        retry: RetryPolicy | None = None,
    ) -> Revision: ...
    async def append(
        self,
        *messages: Any,
        pinned: bool = False,
        meta: Mapping[str, JSONValue] | Keep = KEEP,
        expected: Revision | Expect | None = SEEN,
        lease: Lease | None = None,
        retry: RetryPolicy | None = None,
    ) -> Revision | None:
        """Adds messages at the end. Only they travel, and the conversation need not be at hand.

        Args:
            *messages: What to add.
            pinned: Whether it is pinned.
            meta: The run's meta from now on; KEEP: as it is.
            expected: As for `save`; SEEN is `self.revision`. With ANY, `self.revision` does not move past
                messages that this store has not seen.
            lease: As for `save`.
            retry: The policy for this call.

        Returns:
            The run's new revision. Without messages and meta, a run that is absent stays absent: None, which the type
            leaves out, since no other call returns it.

        Raises:
            Exception: What `save` raises.
        """
        self._settled = None
        try:
            frozen = freeze_messages(messages)
            if type(pinned) is not bool:
                raise SnapshotError("pinned is True or False")
            encoded = None if isinstance(meta, Keep) else encode_meta(frozen_meta(meta))
            _check_expected(expected)
            lease = self._carrying(lease)
            async with self._mine(retry):
                if self._pending is not None:
                    await self._settle(retry)
                if expected is ANY:
                    return await self._whatever(
                        lambda head: self._append_onto(head, frozen, pinned, encoded, lease, retry), retry
                    )
                wanted = self.revision if isinstance(expected, Expect) else expected
                parent = await self._head_at(wanted, None, retry)
                return await self._append_onto(parent, frozen, pinned, encoded, lease, retry, seen=True)
        except HistoryStoreError as error:
            name_run(error, self.run_id)
            raise

    async def _append_onto(
        self,
        parent: Head | None,
        messages: list[Any],
        pinned: bool,
        meta: bytes | None,
        lease: Lease | None,
        retry: RetryPolicy | None,
        seen: bool = False,
    ) -> Revision | None:
        if parent is None and not messages and meta in (None, NO_META):
            await self._nothing(lease, retry)
            return None
        base, _ = self._base_at(parent, None)
        if base is not None and parent is not None and worth_a_checkpoint(parent):
            target = Target(
                [*base.messages(), *messages],
                [*base.pins[: base.length], *([pinned] * len(messages))],
                base.length + len(messages),
                self._meta_of(parent) if meta is None else read_meta(meta),
            )
            plan = plan_save(parent, base, target, self._writer(lease))
        else:
            plan = plan_append(parent, messages, pinned, meta, self._writer(lease))
        seen = seen or parent is None or parent.revision == self.revision
        revision = await self._commit(plan, parent, base, lease, retry, pinned=pinned, seen=seen)
        if revision is not None:
            return revision
        assert parent is not None
        await self._confirm(parent, base if seen else None, lease, retry, seen=seen)
        return parent.revision

    @overload
    async def splice(
        self,
        start: int | None,
        stop: int | None,
        *messages: M,
        pinned: bool = False,
        meta: Mapping[str, JSONValue] | Keep = KEEP,
        expected: Revision | Expect | None = SEEN,
        lease: Lease | None = None,
        retry: RetryPolicy | None = None,
    ) -> Revision: ...
    @overload
    async def splice(
        self: RedisHistoryStore[AnyMessage],
        start: int | None,
        stop: int | None,
        *messages: NewMessage,
        pinned: bool = False,
        meta: Mapping[str, JSONValue] | Keep = KEEP,
        expected: Revision | Expect | None = SEEN,
        lease: Lease | None = None,
        retry: RetryPolicy | None = None,
    ) -> Revision: ...
    async def splice(
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
        """Puts `messages` in place of those from `start` to `stop`: list-slice indices.

        Only the cut and the new messages travel (and, if some are put into the middle, what stands after
        them). A store that does not have the conversation at hand reads it first.

        Args:
            start: Index of the first message to replace.
            stop: Index after the last one.
            *messages: What stands there instead.
            pinned: Whether the new messages are pinned. The others keep their pins.
            meta: The run's meta from now on; KEEP: as it is.
            expected: As for `append`.
            lease: As for `save`.
            retry: The policy for this call.

        Returns:
            The run's new revision. Without messages and meta, a run that is absent stays absent: None, which the type
            leaves out, since no other call returns it.

        Raises:
            Exception: What `save` raises.
        """
        self._settled = None
        try:
            added = freeze_messages(messages)
            frozen = None if isinstance(meta, Keep) else frozen_meta(meta)
            slice_bounds(start, stop, 0)
            _check_expected(expected)
            lease = self._carrying(lease)

            async def onto(head: Head | None, seen: bool = False) -> Revision | None:
                base = await self._base_of(head, retry)
                before = self._snapshot_of(base) if base is not None else ConversationSnapshot[Any]()
                after = before.splice(start, stop, *added, pinned=pinned)
                if frozen is not None:
                    after = after.with_meta(frozen)
                values, pins, length = parts(after)
                if head is None and not length and not after.meta:
                    await self._nothing(lease, retry)
                    return None
                target = Target(values, pins, length, after.meta)
                seen = seen or head is None or head.revision == self.revision
                plan = plan_save(head, base, target, self._writer(lease))
                revision = await self._commit(plan, head, base, lease, retry, seen=seen)
                if revision is None:
                    assert head is not None
                    await self._confirm(head, base, lease, retry, seen=seen)
                    return head.revision
                return revision

            async with self._mine(retry):
                await self._settle(retry)
                if expected is ANY:
                    return await self._whatever(onto, retry)
                wanted = self.revision if isinstance(expected, Expect) else expected
                return await onto(await self._head_at(wanted, None, retry), seen=True)
        except HistoryStoreError as error:
            name_run(error, self.run_id)
            raise

    async def update(
        self,
        fn: Callable[
            [ConversationSnapshot[M] | None],
            ConversationSnapshot[M] | None | Awaitable[ConversationSnapshot[M] | None],
        ],
        *,
        lease: Lease | None = None,
        retry: RetryPolicy | None = None,
    ) -> Revision | None:
        """Loads, lets `fn` change the conversation, saves; again when a rival was faster.

        Args:
            fn: Gets the snapshot, or None when the run is absent, and returns the one to save. It may be
                async, and may run again. Returning what it was given saves nothing.
            lease: As for `save`.
            retry: The policy for this call. Its deadline also bounds the tries after lost races; the time that `fn`
                takes does not count.

        Returns:
            The run's revision; None when `fn` left an absent run absent.

        Raises:
            ConflictError: Rivals were faster until the deadline. Nothing was written.
            LockedError: Another worker holds the run's lease. Nothing was written.
            Exception: What `load`, `save` and `fn` raise.
        """
        self._settled = None
        policy = self._policy(retry)
        deadline = io.monotonic() + policy.deadline
        races = 0
        try:
            if not callable(fn):
                raise SnapshotError(f"update() takes a function of the snapshot, not a {type(fn).__name__}")
            self._carrying(lease)  # before `fn` works in vain
            async with self._mine(retry):
                await self._settle(retry)
        except HistoryStoreError as error:
            name_run(error, self.run_id)
            raise
        while True:
            before = await self.load(retry=retry)
            # Now, since `fn` may save the snapshot elsewhere, which gives it that run's revision.
            seen = before.revision if before is not None else None
            began = io.monotonic()
            after = await io.maybe_await(fn(before))
            deadline += io.monotonic() - began
            if after is before:
                return seen
            try:
                return await self.save(after, expected=seen, lease=lease, retry=retry)
            except OutcomeUnknownError as error:
                try:
                    revision = await self.resolve(error.attempt, retry=retry)
                except BackendError as cause:
                    raise error from cause  # that the question failed says nothing of the save
                if revision is not None:
                    return revision
                why = error.reason or "no answer in time"
                text = f"update: {one_line(why, 150)}; nothing was written, repeating is safe"
                lost: Exception = BackendUnavailableError(text, run_id=self.run_id)
            except ConflictError as error:
                lost = error
            pause = _pause(races, policy)
            if io.monotonic() + pause >= deadline:
                raise lost
            races += 1
            await io.sleep(pause)

    async def _whatever(self, write: Callable[[Head | None], Awaitable[T]], retry: RetryPolicy | None) -> T:
        """Writes onto whatever is there: reads the head, compares and sets, again when a rival was faster."""
        policy = self._policy(retry)
        for tries in range(policy.attempts):
            if tries:
                await io.sleep(_pause(tries, policy))
            head = await self._read_head(retry)
            try:
                return await write(head)
            except ConflictError:
                if tries + 1 == policy.attempts:
                    raise
        raise AssertionError("a policy has one attempt at least")

    # --------------------------------------------------------------------------- the write itself

    async def _head_at(
        self, wanted: Revision | None, origin: tuple[Origin, int] | None, retry: RetryPolicy | None
    ) -> Head | None:
        """Returns the head that a write expects; reads it only if nothing here remembers it."""
        if wanted is None:
            return None
        if origin is not None and origin[0].base is not None and origin[0].revision == wanted:
            return cast("Head", origin[0].base.head)
        for known in (self._head, self._base.head if self._base is not None else None):
            if known is not None and known.revision == wanted:
                return known
        head = await self._read_head(retry)
        if head is None or head.revision != wanted:
            raise ConflictError(wanted, head.revision if head is not None else None)
        return head

    def _base_at(self, parent: Head | None, origin: tuple[Origin, int] | None) -> tuple[Base | None, int]:
        """Returns the content at `parent` if it is remembered, and how much of it a snapshot shares."""
        if parent is None:
            return None, 0
        if origin is not None and origin[0].base is not None and origin[0].revision == parent.revision:
            return origin[0].base, origin[1]
        if self._base is not None and self._base.head.revision == parent.revision:
            return self._base, 0
        return None, 0

    async def _base_of(self, head: Head | None, retry: RetryPolicy | None) -> Base | None:
        """Returns the content at `head`, reading it if need be."""
        if head is None:
            return None
        base, _ = self._base_at(head, None)
        if base is None:
            base = await self._fetch(retry)
            if base is None or base.head.revision != head.revision:
                raise ConflictError(head.revision, base.head.revision if base is not None else None)
        return base

    def _writer(self, lease: Lease | None) -> Writer:
        return Writer(os.urandom(16), token_of(lease).fence, self._backend.max_snapshot_bytes)

    def _carrying(self, given: object) -> Lease | None:
        """Returns the lease that a write carries.

        Raises:
            LeaseLostError: It is known to be lost.
            SnapshotError: What was given is no lease of this run.
        """
        if given is None:
            # unasync: off
            if not HELD.get():  # nearly always; the blocking twin has to look for abandoned bodies
                return None
            # unasync: on
            lease = current_lease(self._backend._here().leases, self._where)
        elif not isinstance(given, Lease):
            raise SnapshotError(f"lease= is what `store.lock()` gives when it is entered, not a {type(given).__name__}")
        elif given._record.where.key != self._where.key:
            raise SnapshotError(f"the lease is of run {quoted(given.run_id)}, and the store of {quoted(self.run_id)}")
        else:
            lease = given
        if lease is not None:
            lease._refuse_if_over()
            if lease is given and lease._table is not self._backend._here().leases:
                lease._refuse_elsewhere()
        return lease

    async def _commit(
        self,
        plan: Plan | None,
        parent: Head | None,
        base: Base | None,
        lease: Lease | None,
        retry: RetryPolicy | None,
        *,
        snapshot: ConversationSnapshot[Any] | None = None,
        pinned: bool = False,
        seen: bool = True,
        keep: int | None = None,
    ) -> Revision | None:
        """Sends and remembers a planned save; None when there is nothing to write."""
        if plan is None:
            return None
        backend, where, carried = self._backend, self._where, token_of(lease)
        expected = parent.revision if parent is not None else None
        keep = backend.keep_revisions if keep is None else keep
        call = saves.save(where, plan, expected, carried, ttl=backend.ttl_ms, keep=keep, now=time.time())
        pending = self._pending = _Pending(call, plan, base, snapshot, pinned, seen, self.revision, self._pid)
        reply, acked = await self._deliver(call, retry)
        try:
            revision = _heard(lease, saves.read_save, where, plan, expected, carried, reply)
        except HistoryStoreError:
            self._pending = None  # refused
            raise
        if revision is None:
            self._pending = None
            raise await self._cancelled("save", parent, lease, retry)
        self._apply(pending, revision)
        self._settled = revision
        self._pending = None  # now that the result is recorded: in between, it is pending and can be settled
        if acked is not None:
            self._check_copies(revision, acked)
        return revision

    async def _cancelled(
        self, what: str, parent: Head | None, lease: Lease | None, retry: RetryPolicy | None
    ) -> Exception:
        """Returns why a write was refused whose refusal was lost on its way; or that it was resolved elsewhere.

        Making another attempt of it instead would break the word of whoever was told "never".
        """
        if parent is not None:
            await self._confirm(parent, None, lease, retry, seen=False)
        else:
            head = await self._read_head(retry)
            if head is not None:
                return ConflictError(None, head.revision)
        return BackendUnavailableError(f"{what}: it was settled as never applied; nothing was written, repeat it")

    def _check_copies(self, revision: Revision, acked: int | None) -> None:
        wanted = self._backend.durability.wanted
        if acked is not None and acked < wanted:
            raise NotReplicatedError(revision, acked, wanted)

    async def _deliver(self, call: Call, retry: RetryPolicy | None) -> tuple[Any, int | None]:
        """Sends a write. It stays in `_pending` until its outcome is recorded, or if that is open."""
        delivery, pending = Delivery(), self._pending
        try:
            return await self._backend._here().runner.run(call, self._policy(retry), delivery)
        except OutcomeUnknownError:
            raise
        except (BackendError, BrokenChainError) as error:
            self._pending = None
            if isinstance(error, BrokenChainError):
                raise self._corrupt(error) from error
            raise
        except BaseException:
            # A cancellation, or what a signal's handler raises: whatever it is, it says nothing of what was sent.
            # Where a loop has ended, this comes late, when its tasks are thrown away: another write may be pending.
            if not delivery.sent and self._pending is pending:
                self._pending = None
            raise

    def _apply(self, write: _Pending, revision: Revision, *, late: bool = False) -> None:
        """Remembers an applied write."""
        plan = write.plan
        # A write that is settled late must not take the store back to before what it loaded meanwhile.
        moves = write.seen and (not late or self.revision == write.before)
        if plan is None:
            if moves:
                self._seen(None)
            return
        base = grow(write.base, plan, revision, write.pinned)
        if write.snapshot is not None:
            add_origin(write.snapshot, self._where.key, Origin(revision, base))
        if moves:
            self._head = plan.entry.head(revision, plan.meta) if base is None else base.head
            if base is not None:
                self._base = base

    async def _confirm(
        self,
        parent: Head,
        base: Base | None,
        lease: Lease | None,
        retry: RetryPolicy | None,
        seen: bool = True,
    ) -> None:
        """Proves that the run is still at `parent`, for a save that has nothing to write."""
        call = saves.compare(self._where, parent.revision, token_of(lease), self._backend.ttl_ms)
        reply, _ = await self._run(call, retry)
        _heard(lease, saves.read_compare, self._where, parent.revision, token_of(lease), reply)
        if seen:
            self._settled = parent.revision
            self._head = parent
            self._base = base if base is not None else self._base

    async def _nothing(self, lease: Lease | None, retry: RetryPolicy | None) -> None:
        """Proves that the run is absent, for a write that adds nothing to it: that makes no empty run."""
        reply, _ = await self._run(saves.compare(self._where, None, token_of(lease), None), retry)
        _heard(lease, saves.read_compare, self._where, None, token_of(lease), reply)
        self._seen(None)

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
        """Returns a context manager that holds the run's lease: one worker at a time, in the order in which they came.

        Inside, saves of this run carry the lease by themselves, in the task that entered and in tasks that it
        starts; `lease=` hands it over by name. Others' saves of the run are refused with LockedError.

        When it is lost, `lease.lost` becomes true, and the task that entered is cancelled once; the exit raises
        LeaseLostError. A cancellation by somebody else goes before that, and another error of the body gets a note.
        Being cancelled while waiting leaves nothing behind. An asyncio body that blocks the loop keeps the lease from
        being renewed.

        Args:
            ttl: Seconds that the lease lives without being renewed: how long others wait if this process dies.
            acquire_timeout: Seconds to wait for it at most; 0: try once; None: wait for ever.
            renew: Whether it is renewed in the background, at a third of `ttl`. If not, it is lost after `ttl`.
            cancel: Whether the task that entered is cancelled when it is lost. Say False where entry and exit may be
                in different tasks: async generators, fixtures, streaming responses.
            retry: The policy for the requests that take it.

        Raises:
            LockTimeoutError: Others held it until `acquire_timeout`.
            LockError: It is already held here: by this task, or by one that started this task inside. Or this task's
                context holds a lease of the run that was entered in another event loop, or before a fork.
            LeaseLostError: At the exit: it was lost meanwhile.
            BackendUnavailableError: The server could not be used.
            BackendError: The backend is closing, or closed.
            SnapshotError: An argument is out of range.
        """
        try:
            for name, value in (("renew", renew), ("cancel", cancel)):
                if type(value) is not bool:
                    raise SnapshotError(f"{name} is True or False")
            if type(ttl) not in (int, float) or not 0.01 <= ttl <= 86400 * 365:
                raise SnapshotError("ttl is a number of seconds, from 0.01 to a year")
            if acquire_timeout is not None and (
                type(acquire_timeout) not in (int, float) or not 0 <= acquire_timeout <= 86400 * 365
            ):
                raise SnapshotError("acquire_timeout is a number of seconds from 0 to a year, or None")
            self._policy(retry)  # before anything is asked for
            return LeaseScope(
                self._backend._here,
                self._where,
                ttl=ttl,
                acquire_timeout=acquire_timeout,
                renew=renew,
                cancel=cancel,
                retry=retry,
            )
        except HistoryStoreError as error:
            name_run(error, self.run_id)
            raise

    def turn(
        self,
        *,
        ttl: float = 30.0,
        acquire_timeout: float | None = None,
        expected: Revision | Expect | None = ANY,
        cancel: bool = True,
        retry: RetryPolicy | None = None,
    ) -> TurnScope[M]:
        """Returns a context manager for one turn: it takes the lease, loads, and saves on a clean exit.

        Nothing is saved on an exception; what was appended before it is still in `turn.snapshot`. Write through the
        turn: what the store itself saves or deletes in between moves the run on, and the turn's save conflicts.

        Args:
            ttl: As for `lock`.
            acquire_timeout: As for `lock`.
            expected: What the run has to be at, or ConflictError before any work is done; SEEN: `self.revision`;
                ANY: whatever it is at.
            cancel: As for `lock`.
            retry: The policy for the calls of the turn.

        Raises:
            ConflictError: The run is not at the expected revision.
            Exception: What `lock`, `load` and `save` raise.
        """
        self._settled = None
        try:
            _check_expected(expected)
            scope = self.lock(ttl=ttl, acquire_timeout=acquire_timeout, cancel=cancel, retry=retry)
            return TurnScope(self, scope, expected, retry)
        except HistoryStoreError as error:
            name_run(error, self.run_id)
            raise

    def _pends(self, snapshot: ConversationSnapshot[Any], at: Revision | None) -> bool:
        """Whether saving `snapshot` at a revision that this store has seen would write something. No I/O."""
        if at is None:
            return bool(snapshot.messages or snapshot.meta)
        head = self._base.head if self._base is not None else None
        if head is None or head.revision != at:
            return True
        base, shared = self._base_at(head, find_origin(snapshot, self._where.key))
        messages, pins, length = parts(snapshot)
        target = Target(messages, pins, length, snapshot.meta, shared)
        return plan_save(head, base, target, self._writer(None)) is not None

    # ------------------------------------------------------------------------------ open outcomes

    async def resolve(self, attempt: Attempt | None = None, *, retry: RetryPolicy | None = None) -> Revision | None:
        """Settles a write whose outcome is open, for good.

        Args:
            attempt: What an OutcomeUnknownError, or `unsettled`, named, here or in another process (`Attempt.parse`
                reads its text); None: this store's own.
            retry: The policy for this call.

        Returns:
            The revision that the write made (of a delete: the revision that it deleted); None: it was not
            applied and never will be. With nothing to settle: what this store's last write came to.

        Raises:
            RevisionGoneError: It can no longer be told; no copy of the write will be applied from now on.
            NotReplicatedError: It was applied, but `Durability` is not reached.
            SnapshotError: The attempt is another run's.
        """
        try:
            if attempt is not None and not isinstance(attempt, Attempt):
                raise SnapshotError("attempt= is an Attempt, or None (Attempt.parse reads one from text)")
            if attempt is not None and (attempt.namespace, attempt.run_id) != self._where.key:
                raise SnapshotError(
                    f"the attempt is that of run {quoted(attempt.run_id)}: resolve it with that run's store"
                )
            async with self._mine(retry):
                self._disown()
                if self._pending is not None and attempt in (None, self.unsettled):
                    return await self._settle(retry, durably=True)
                if attempt is None:
                    return self._settled
                reply, acked = await self._run(saves.resolve(self._where, attempt), retry)
                revision = saves.read_resolve(self._where, attempt, reply, datetime.now(UTC), self._backend.ttl_ms)
                if revision is not None:
                    self._check_copies(revision, acked)
                return revision
        except HistoryStoreError as error:
            name_run(error, self.run_id)
            raise

    async def _settle(self, retry: RetryPolicy | None, *, durably: bool = False) -> Revision | None:
        """Settles what is open. What comes next waits for the copies itself, unless `durably`."""
        self._disown()
        pending = self._pending
        if pending is None:
            return None
        attempt = pending.call.attempt
        assert attempt is not None  # only what may have been written is pending
        reply, acked = await self._run(saves.resolve(self._where, attempt), retry)
        try:
            revision = saves.read_resolve(self._where, attempt, reply, datetime.now(UTC), self._backend.ttl_ms)
        except HistoryStoreError:
            self._pending = None  # there is no more to learn
            raise
        if revision is not None:
            self._apply(pending, revision, late=True)
        self._settled = revision if durably else None
        self._pending = None
        if durably and revision is not None:
            self._check_copies(revision, acked)
        return revision

    def _disown(self) -> None:
        """Leaves to the parent what it had open when this process was forked: its call may still be under way."""
        if self._pending is not None and self._pending.pid != self._pid:
            self._pending = None

    # ---------------------------------------------------------------------------- parts and history

    async def read(
        self, start: int | None = None, stop: int | None = None, *, retry: RetryPolicy | None = None
    ) -> Page[M] | None:
        """Returns some of the messages; None when the run is absent.

        A tail costs the tail, and no page costs more than a load. What is returned is proven to be what was saved,
        entry by entry; only `load` proves the whole chain.

        The page, its `length`, `meta` and `revision` are of one moment: that of the call's first answer. What rivals
        save while the rest is read is not in it. Only if they trim what the page needs meanwhile, or delete the run, is
        it read anew, and of a later moment. The policy's deadline bounds the whole.

        Args:
            start: Index of the first message, as in a list slice.
            stop: Index after the last one, as in a list slice.
            retry: The policy for this call.

        Raises:
            CorruptSnapshotError: Stored bytes are not what was saved.
            BackendUnavailableError: It was not done within the deadline.
        """
        try:
            slice_bounds(start, stop, 0)
            budget = self._budget("read", retry)
            async with self._mine(retry):
                # Once a page has shown that rivals are far ahead, what is remembered only costs a request.
                if self._base is not None and self._base.head.revision == self.revision:
                    base = await self._grown(self._base, budget)
                    if base is not None:
                        return self._page_of(part_of(base, start, stop))
                return await self._page(start, stop, budget)
        except HistoryStoreError as error:
            name_run(error, self.run_id)
            raise

    async def _page(self, start: int | None, stop: int | None, budget: Budget) -> Page[Any] | None:
        at_once = self._backend.keep_revisions == 0  # else the log may hold far more than the page needs
        reader = PageReader(self._where, partial(self._ask, budget), start, stop, at_once)
        doubt = _Doubt()
        for _ in range(budget.policy.attempts + 1):
            try:
                found = await reader.read()
            except BrokenChainError as error:
                if doubt.confirmed(error, reader.etag):
                    break
                continue
            if found is None:
                self._seen(None)
                return None
            return self._page_of(found)
        raise self._corrupt(doubt.error)

    async def _grown(self, base: Base, budget: Budget) -> Base | None:
        """Returns the newest content, grown from what this store remembers; None: read it from the log."""
        try:
            loaded = await self._ask(budget, reads.delta(self._where, base, name="read"))
            if loaded.head is None or loaded.head.version - base.head.version > reads.DELTA:
                return None
            newest = _advance(loaded, base)
        except BrokenChainError:
            return None  # whether this is damage is for the full read to say
        if newest is not None:
            self._seen(newest)
        return newest

    def _page_of(self, found: Found) -> Page[Any]:
        head = self._head = found.head
        meta = self._meta_of(head)
        return Page(tuple(found.messages), tuple(found.pins), found.start, head.length, meta, head.revision)

    async def info(self, *, retry: RetryPolicy | None = None) -> RunInfo | None:
        """Returns what is known about the run; None when it is absent and nobody holds it. No messages travel.

        Raises:
            CorruptSnapshotError: The run's head is damaged.
        """
        try:
            reply, _ = await self._run(info(self._where), retry)
            return read_info(self._where, reply)
        except HistoryStoreError as error:
            name_run(error, self.run_id)
            raise

    async def revisions(self, *, limit: int | None = None, retry: RetryPolicy | None = None) -> AsyncIterator[Revision]:
        """Yields revisions that `load(at=)` reaches, newest first.

        It asks the server for some at a time. The policy's deadline bounds each time that the caller waits for it to do
        so, however many requests that takes. The time between is the caller's own.

        Args:
            limit: At most so many; None: all.
            retry: The policy for each step.

        Raises:
            CorruptSnapshotError: An entry of the log is damaged.
            RevisionGoneError: The run was deleted, or trimmed past what was yielded, and goes on without it.
            BackendUnavailableError: A step was not done within the deadline.
        """
        try:
            if limit is not None and (type(limit) is not int or limit < 0):
                raise SnapshotError("limit is a whole number from 0, or None")
            left = limit
            after: Entry | None = None
            while left is None or left > 0:
                count = 64 if left is None else min(left, 64)
                before = after.version if after is not None else None
                budget = self._budget("revisions", retry)
                try:
                    loaded = await self._ask(budget, reads.newest_entries(self._where, before, count, name="revisions"))
                    found = read_entries(loaded.items[::-1])[::-1]
                    if (
                        found
                        and after is not None
                        and (found[0].version, found[0].etag) != (after.version - 1, after.parent)
                    ):
                        await self._still(after, budget)
                        raise BrokenChainError(after.version, "an entry is missing or out of order")
                except BrokenChainError as error:
                    raise self._corrupt(error) from error
                first = loaded.head.first if loaded.head is not None else 0
                for entry in found:
                    if entry.checkpoint < first:
                        return
                    yield entry.revision()
                if len(found) < count:
                    return
                after = found[-1]
                left = None if left is None else left - len(found)
        except HistoryStoreError as error:
            name_run(error, self.run_id)
            raise

    async def _still(self, entry: Entry, budget: Budget) -> None:
        """Raises RevisionGoneError if the log does not hold `entry` any more: the run was made anew meanwhile."""
        loaded = await self._ask(budget, reads.newest_entries(self._where, entry.version + 1, 1, name="revisions"))
        held = read_entries(loaded.items)
        if not held or held[0].etag != entry.etag:
            head = loaded.head
            raise RevisionGoneError(entry.revision(), head.first if head else None, head.version if head else None)

    async def trim(self, *, retry: RetryPolicy | None = None) -> Revision | None:
        """Drops past revisions now, and with them what was spliced away: until then `at=` reaches it.

        Writes a new revision with the same content, unless there is nothing to drop. A snapshot that was loaded
        before is of the old one: load again before the next save.

        Returns:
            The run's revision; None when it is absent.

        Raises:
            Exception: What `save` raises.
        """
        self._settled = None
        try:
            lease = self._carrying(None)
            async with self._mine(retry):
                await self._settle(retry)
                head = await self._read_raw_head(retry)
                if head is None:
                    return None
                if head.first == head.version:
                    return Revision(head.version, head.etag, timestamp(head.saved), None, head.length, head.size)

                async def rewrite(_head: Head | None) -> Revision:
                    base = await self._fetch(retry)
                    if base is None:
                        raise ConflictError(None, None)
                    target = Target(base.messages(), base.pins, base.length, self._meta_of(base.head))
                    plan = plan_save(base.head, base, target, self._writer(lease), full=True)
                    seen = base.head.revision == self.revision
                    revision = await self._commit(plan, base.head, base, lease, retry, seen=seen, keep=0)
                    assert revision is not None  # a full checkpoint is always written
                    return revision

                return await self._whatever(rewrite, retry)
        except HistoryStoreError as error:
            name_run(error, self.run_id)
            raise

    async def delete(
        self,
        *,
        expected: Revision | Expect | None = ANY,
        lease: Lease | None = None,
        retry: RetryPolicy | None = None,
    ) -> bool:
        """Deletes the run, damaged or not. Obeys leases.

        Args:
            expected: As for `append`; with None an existing run is a conflict.
            lease: As for `save`.
            retry: The policy for this call.

        Returns:
            Whether there was a run to delete.

        Raises:
            ConflictError: The run is not at the expected revision, or keeps moving. Nothing was written.
            LockedError: Another worker holds the run's lease. Nothing was written.
            OutcomeUnknownError: It may have been deleted; `resolve()` says.
        """
        self._settled = None
        try:
            _check_expected(expected)
            lease = self._carrying(lease)
            async with self._mine(retry):
                return await self._delete(expected, lease, retry, force=False)
        except HistoryStoreError as error:
            name_run(error, self.run_id)
            raise

    async def _delete(
        self, expected: Revision | Expect | None, lease: Lease | None, retry: RetryPolicy | None, *, force: bool
    ) -> bool:
        try:
            await self._settle(retry)
        except CorruptSnapshotError:
            self._pending = None  # the damage that keeps it from being settled is what is to be deleted
        policy = self._policy(retry)
        wanted = self.revision if expected is SEEN else expected
        for tries in range(policy.attempts):
            reply, _ = await self._run(deletes.peek(self._where), retry)
            there = deletes.read_peek(reply)
            if there is None and isinstance(wanted, Revision):
                raise ConflictError(wanted, None)
            if there is not None and there.revision is None and wanted is not ANY:
                raise self._where.corrupt(None, "its head is not readable")
            if there is None and not force:
                self._seen(None)
                return False
            absent = there is None
            if there is None:
                there = Peeked(b"", None)  # by force: the run's lease may have a holder to fence, run or no run
            if wanted is not ANY and there.revision != wanted:
                raise ConflictError(wanted if isinstance(wanted, Revision) else None, there.revision)
            revision = there.revision or await self._last_logged(retry)
            ticket, now = os.urandom(16), datetime.now(UTC)
            attempt = Attempt("delete", self._where.namespace, self.run_id, there.revision, revision, ticket, now)
            call = deletes.delete(self._where, attempt, there.etag, token_of(lease), force)
            if absent:
                call.write = None  # nothing whose outcome matters: it may be repeated as it is
            self._pending = _Pending(call, None, None, None, False, True, self.revision, self._pid)
            reply, _ = await self._deliver(call, retry)
            try:
                deleted = _heard(lease, deletes.read_delete, self._where, attempt, token_of(lease), reply)
            except ConflictError:
                self._pending = None  # refused
                if wanted is not ANY or tries + 1 == policy.attempts:
                    raise
                await io.sleep(_pause(tries, policy))
                continue
            except HistoryStoreError:
                self._pending = None
                raise
            if deleted is None:
                self._pending = None
                raise BackendUnavailableError("delete: it was settled as never applied; nothing was deleted, repeat it")
            self._seen(None)
            self._settled = attempt.revision if deleted else None
            self._pending = None
            return deleted
        raise AssertionError("a policy has one attempt at least")

    async def _last_logged(self, retry: RetryPolicy | None) -> Revision | None:
        """Returns the revision of the log's newest entry, where the head names none; None: nor does the log."""
        (items,), _ = await self._run(deletes.last_entry(self._where), retry)
        try:
            return read_entry(items[0]).revision()
        except (BrokenChainError, LookupError, TypeError):
            return None


class _Doubt:
    """What did not add up. It is damage when a second look at the same head shows it, too.

    Attributes:
        error: What the last look showed.
    """

    def __init__(self) -> None:
        self.error: BrokenChainError | None = None
        self._etag: bytes | None = None

    def confirmed(self, error: BrokenChainError, etag: bytes | None) -> bool:
        """Notes what a look at a head showed; returns whether the look before it showed the same head."""
        known = self.error is not None and self._etag == etag
        self.error, self._etag = error, etag
        return known


def _heard(lease: Lease | None, read: Callable[..., T], *args: Any) -> T:
    """Returns what `read` makes of a reply, and lets a lease know when the server says that it is lost."""
    try:
        return read(*args)
    except LeaseLostError as error:
        if lease is not None:
            lease._lose(error.current)
        raise


def _replayed(head: RawHead, items: Sequence[Any]) -> Base:
    """Returns the content at a head, from the log that was read with it."""
    return fold(head, read_log(since(items, head.checkpoint)), None)


def _advance(loaded: Loaded, base: Base) -> Base | None:
    """Returns the newest content from `base` and what was read after it; None: read in full."""
    head = loaded.head
    if head is None:
        return None
    if same_head(head, base):
        return base
    entries = read_entries(loaded.items)
    if entries and entries[0].parent == base.head.etag:
        return fold(head, entries, base)
    if entries and entries[0].version <= head.checkpoint:
        return fold(head, entries, None)
    return None


def _check_expected(expected: object) -> None:
    if expected is not None and not isinstance(expected, (Revision, Expect)):
        raise SnapshotError("expected= is a Revision, None, SEEN or ANY (Revision.parse reads one from text)")


def _pause(races: int, policy: RetryPolicy) -> float:
    """Returns a jittered pause after a lost race, in seconds."""
    return random.uniform(0, min(policy.cap, CONFLICT_PAUSE * 2 ** min(races, 8)))  # noqa: S311 (no secret)
