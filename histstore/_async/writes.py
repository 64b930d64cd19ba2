"""Writing a run: from a change to a recorded outcome. `known` describes the life of a write."""

from __future__ import annotations

import os
import random
import time
from collections.abc import Callable
from datetime import UTC, datetime
from typing import Any, Final, TypeVar

from ..attempt import Attempt
from ..errors import (
    BackendError,
    BackendUnavailableError,
    ConflictError,
    CorruptSnapshotError,
    HistoryStoreError,
    OutcomeUnknownError,
)
from ..known import Descent, Write
from ..lineage import Origin
from ..log.changes import Change, Replace, Rewrite
from ..log.head import Head, timestamp
from ..log.plan import Plan, Writer
from ..log.unreadable import BrokenChainError
from ..policy import RetryPolicy
from ..protocol import deletes, saves
from ..protocol.deletes import Peeked
from ..revision import ANY, SEEN, Expect, Revision
from ..snapshot import ConversationSnapshot, add_origin, find_origin
from ..values.text import one_line
from .compat import io
from .leases.lease import Lease
from .outcomes import Outcomes
from .reads import Reads
from .run import Run
from .terms import Terms, read_reply, terms_of

T = TypeVar("T")

CONFLICT_PAUSE: Final = 0.02
"""Upper bound of the first pause after a lost race, in seconds. A rival's save takes a fraction of that."""


class Writes:
    """Writes one run.

    Attributes:
        run: The run.
        reads: Reads it.
        outcomes: Sends its writes and settles them.
    """

    __slots__ = ("_known", "_where", "outcomes", "reads", "run")

    def __init__(self, run: Run, reads: Reads) -> None:
        self.run = run
        self.reads = reads
        self.outcomes = Outcomes(run)
        self._known = run.known
        self._where = run.where

    # ---------------------------------------------------------------------------------- a write

    async def write(self, change: Change, expected: Revision | Expect | None, terms: Terms) -> Revision | None:
        """Write a change onto the run, if the run is where it is expected to be.

        Settles a write that is still open first.

        Returns:
            The new revision, or the current one if there was nothing to write; None: the run is still absent.
        """
        known, policy = self._known, terms.policy
        async with self.run.exclusive(policy):
            if known.pending is not None:
                await self.outcomes.settle(policy)
            descent = None if change.snapshot is None else find_origin(change.snapshot, self._where.key)
            if expected is ANY:
                return await self._onto_any(change, descent, terms)
            seen = known.revision if descent is None else descent[0].revision
            wanted = seen if isinstance(expected, Expect) else expected
            parent = None
            if wanted is not None:
                parent = known.head_at(wanted, descent)
                if parent is None:
                    parent = await self.reads.head(policy)
                    if parent is None or parent.revision != wanted:
                        raise ConflictError(wanted, parent.revision if parent is not None else None)
            return await self._onto(parent, change, descent, terms, seen=True)

    async def _onto_any(self, change: Change, descent: Descent, terms: Terms) -> Revision | None:
        """Write onto whatever is there: read the head, compare and set; again if a rival was faster."""
        policy = terms.policy
        for tries in range(policy.attempts):
            if tries:
                await io.sleep(_pause(tries, policy))
            head = await self.reads.head(terms.policy)
            seen = change.replaces_all or head is None or head.revision == self._known.revision
            try:
                return await self._onto(head, change, descent, terms, seen=seen)
            except ConflictError:
                if tries + 1 == policy.attempts:
                    raise
        raise AssertionError("a policy has one attempt at least")

    async def _onto(
        self, parent: Head | None, change: Change, descent: Descent, terms: Terms, *, seen: bool
    ) -> Revision | None:
        """Plan a change onto `parent`, send it and record it; if it changes nothing, confirm the parent instead.

        Args:
            parent: The head to write onto; None: the run is absent.
            change: The change.
            descent: The origin of the snapshot that is saved.
            terms: What the write carries.
            seen: Whether this store has seen the content at `parent`.
        """
        base, shared = self._known.base_at(parent, descent)
        if base is None and parent is not None and change.needs_base:
            base = await self.reads.content_at(parent, terms.policy)
        writer = Writer(os.urandom(16), terms.token.fence, self.run.options.max_snapshot_bytes)
        plan = change.plan(parent, base, shared, writer)
        if plan is None:
            await self._confirm(parent, terms)
            self._known.confirm(parent, base, seen)
            if parent is None:
                return None
            if change.snapshot is not None:
                add_origin(change.snapshot, self._where.key, Origin(parent.revision, base))
            return parent.revision
        pid = self.run.calls.pid
        expected = parent.revision if parent is not None else None
        keep = 0 if change.drops_history else self.run.options.keep_revisions
        call = saves.save(self._where, plan, expected, terms.token, ttl=self.run.ttl_ms, keep=keep, now=time.time())
        write = Write(call, plan, base, change.snapshot, change.pinned, seen, self._known.revision, pid)
        return await self._commit(write, plan, parent, terms)

    async def _commit(self, write: Write, plan: Plan, parent: Head | None, terms: Terms) -> Revision:
        """Send a planned save, and record what became of it."""
        expected = parent.revision if parent is not None else None
        reply, acked = await self.outcomes.deliver(write, terms.policy)
        try:
            revision = read_reply(terms, saves.read_save, self._where, plan, expected, terms.token, reply)
        except HistoryStoreError:
            self._known.refuse(write)
            raise
        if revision is None:
            self._known.refuse(write)
            raise await self._cancelled(parent, terms)
        self._known.apply(write, revision)
        if acked is not None:
            self.outcomes.check_copies(revision, acked)
        return revision

    async def _cancelled(self, parent: Head | None, terms: Terms) -> Exception:
        """Return the error for a save that the server had marked as never to be applied.

        Its refusal was lost on the way, or somebody else resolved it. Another attempt would break the promise "never"
        that somebody may have received.
        """
        if parent is not None:
            await self._confirm(parent, terms)
        else:
            head = await self.reads.head(terms.policy)
            if head is not None:
                return ConflictError(None, head.revision)
        return BackendUnavailableError("save: it was settled as never applied; nothing was written, repeat it")

    async def _confirm(self, parent: Head | None, terms: Terms) -> None:
        """Prove that the run is still at `parent`, or still absent, for a write that changes nothing."""
        expected, ttl = (parent.revision, self.run.ttl_ms) if parent is not None else (None, None)
        reply, _ = await self.run.send(saves.compare(self._where, expected, terms.token, ttl), terms.policy)
        read_reply(terms, saves.read_compare, self._where, expected, terms.token, reply)

    def would_write(self, snapshot: ConversationSnapshot[Any], at: Revision | None) -> bool:
        """Return whether saving a snapshot at a revision that this store has seen would write something. No I/O."""
        if at is None:
            return bool(snapshot.messages or snapshot.meta)
        head = self._known.base.head if self._known.base is not None else None
        if head is None or head.revision != at:
            return True
        base, shared = self._known.base_at(head, find_origin(snapshot, self._where.key))
        writer = Writer(os.urandom(16), 0, self.run.options.max_snapshot_bytes)
        return Replace(snapshot).plan(head, base, shared, writer) is not None

    # ------------------------------------------------------------------------- update and trim

    async def update(self, fn: Callable[[Any], Any], lease: Lease | None, policy: RetryPolicy) -> Revision | None:
        """Load, call `fn`, save; again after a lost race, until the policy's deadline."""
        run = self.run
        with run.errors:
            deadline = io.monotonic() + policy.deadline
            terms_of(self.run, lease, policy)  # before `fn` works in vain
            async with run.exclusive(policy):
                await self.outcomes.settle(policy)
        races = 0
        while True:
            with run.errors:
                before = await self.reads.newest(policy)
            # Read it now: `fn` may save the snapshot to another run, which gives it that run's revision.
            seen = before.revision if before is not None else None
            began = io.monotonic()
            after = await io.maybe_await(fn(before))
            deadline += io.monotonic() - began
            if after is before:
                return seen
            with run.errors:
                revision, lost = await self._try_to_save(after, seen, lease, policy)
                if lost is None:
                    return revision
                pause = _pause(races, policy)
                if io.monotonic() + pause >= deadline:
                    raise lost
            races += 1
            await io.sleep(pause)

    async def _try_to_save(
        self,
        snapshot: ConversationSnapshot[Any],
        expected: Revision | None,
        lease: Lease | None,
        policy: RetryPolicy,
    ) -> tuple[Revision | None, Exception | None]:
        """Save; return the revision, or the error of an attempt that wrote nothing and may be repeated."""
        self._known.result = None
        try:
            return await self.write(Replace(snapshot), expected, terms_of(self.run, lease, policy)), None
        except ConflictError as error:
            return None, error
        except OutcomeUnknownError as error:
            try:
                revision = await self.outcomes.resolve(error.attempt, policy)
            except (BackendError, BrokenChainError) as cause:
                raise error from cause  # that resolving failed says nothing about the save
            if revision is not None:
                return revision, None
            why = error.reason or "no answer in time"
            text = f"update: {one_line(why, 150)}; nothing was written, repeating is safe"
            return None, BackendUnavailableError(text)

    async def trim(self, policy: RetryPolicy) -> Revision | None:
        """Drop past revisions; return the run's revision, None if it is absent."""
        terms = terms_of(self.run, None, policy)
        async with self.run.exclusive(policy):
            await self.outcomes.settle(policy)
            head = await self.reads.raw_head(policy)
            if head is None:
                return None
            if head.first == head.version:
                return Revision(head.version, head.etag, timestamp(head.saved), None, head.length, head.size)
            return await self._onto_any(Rewrite(), None, terms)

    # --------------------------------------------------------------------------------- deleting

    async def delete(self, expected: Revision | Expect | None, terms: Terms, *, force: bool = False) -> bool:
        """Delete the run, damaged or not; return whether there was one.

        Args:
            expected: Where the run is expected to be.
            terms: What the write carries.
            force: Whether a holder of the run's lease is fenced, instead of obeyed.
        """
        known, policy = self._known, terms.policy
        async with self.run.exclusive(policy):
            try:
                await self.outcomes.settle(policy)
            except (CorruptSnapshotError, BrokenChainError):
                known.forget_unsettled()
            wanted = known.revision if expected is SEEN else expected
            for tries in range(policy.attempts):
                if tries:
                    await io.sleep(_pause(tries - 1, policy))
                peeked = await self._find_to_delete(wanted, policy)
                # By force an absent run is deleted, too: its lease may have a holder to fence.
                if peeked is None and not force:
                    known.see(None)
                    return False
                try:
                    return await self._delete(peeked, terms, force)
                except ConflictError:
                    if wanted is not ANY or tries + 1 == policy.attempts:
                        raise
        raise AssertionError("a policy has one attempt at least")

    async def _find_to_delete(self, wanted: Revision | Expect | None, policy: RetryPolicy) -> Peeked | None:
        """Return the state of the run that is to be deleted; None if it is absent."""
        reply, _ = await self.run.send(deletes.peek(self._where), policy)
        peeked = deletes.read_peek(reply)
        if peeked is None:
            if isinstance(wanted, Revision):
                raise ConflictError(wanted, None)
            return None
        if wanted is not ANY:
            if peeked.revision is None:
                raise self._where.corrupt(None, "its head is not readable")
            if peeked.revision != wanted:
                raise ConflictError(wanted if isinstance(wanted, Revision) else None, peeked.revision)
        return peeked

    async def _delete(self, peeked: Peeked | None, terms: Terms, force: bool) -> bool:
        """Send one compare-and-delete, and record what became of it."""
        where, known = self._where, self._known
        parent, etag = (peeked.revision, peeked.etag) if peeked is not None else (None, b"")
        revision = parent or await self.reads.last_logged(terms.policy)
        ticket, now = os.urandom(16), datetime.now(UTC)
        attempt = Attempt(
            "delete", where.namespace, where.run_id, parent, revision=revision, ticket=ticket, made_at=now
        )
        call = deletes.delete(where, attempt, etag, terms.token, force)
        if peeked is None:
            call.write = None  # it writes nothing whose outcome matters, and may be repeated as it is
        write = Write(call, None, None, None, False, True, known.revision, self.run.calls.pid)
        reply, _ = await self.outcomes.deliver(write, terms.policy)
        try:
            deleted = read_reply(terms, deletes.read_delete, where, attempt, terms.token, reply)
        except HistoryStoreError:
            known.refuse(write)
            raise
        if deleted is None:
            known.refuse(write)
            raise BackendUnavailableError("delete: it was settled as never applied; nothing was deleted, repeat it")
        known.apply(write, attempt.revision if deleted else None)
        return deleted


def _pause(races: int, policy: RetryPolicy) -> float:
    """Return a jittered pause after a lost race, in seconds."""
    return random.uniform(0, min(policy.cap, CONFLICT_PAUSE * 2 ** min(races, 8)))  # noqa: S311 (no secret)
