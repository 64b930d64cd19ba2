# Generated from histstore/_async/reads.py by tools/unasync.py; do not edit.
"""Reading a run: its newest content, a past version, a page, its revisions."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any, Final, TypeVar

from ..errors import ConflictError, SnapshotError
from ..info import Page, RunInfo
from ..log.base import Base
from ..log.columns import read_entries
from ..log.entry import Entry, read_entry
from ..log.head import Head, read_meta
from ..log.unreadable import BrokenChainError
from ..policy import Budget, RetryPolicy
from ..protocol import deletes, reads
from ..protocol.content import (
    Doubt,
    advanced,
    check_absent,
    check_held,
    follows,
    past,
    proven_head,
    replayed,
)
from ..protocol.heads import RawHead
from ..protocol.info import info, read_info
from ..protocol.reads import DELTA
from ..protocol.replies import VERSIONS
from ..revision import Revision
from ..snapshot import ConversationSnapshot, slice_bounds
from .pages import Excerpt, PageReader, part_of
from .run import Run

T = TypeVar("T")

REVISIONS: Final = 64
"""Revisions that one request of `revisions()` reads."""


class Reads:
    """Reads one run. What it returns is proven to be what was saved.

    Args:
        run: The run.
    """

    __slots__ = ("_known", "_run", "_where")

    def __init__(self, run: Run) -> None:
        self._run = run
        self._known = run.known
        self._where = run.where

    # ------------------------------------------------------------------------ the public reads

    def newest(self, policy: RetryPolicy) -> ConversationSnapshot[Any] | None:
        """Return the conversation; None if the run is absent."""
        with self._run.exclusive(policy):
            base = self.content(policy)
            self._known.see(base)
            return self._known.snapshot(base) if base is not None else None

    def at(self, at: int | Revision, policy: RetryPolicy) -> ConversationSnapshot[Any]:
        """Return the conversation at a version or revision. The store's own revision does not move."""
        version = at.version if isinstance(at, Revision) else at
        if type(version) is not int or not 0 < version < VERSIONS:
            raise SnapshotError("at= is a version from 1, or a Revision")
        budget = self._run.budget("load", policy)

        def attempt(doubt: Doubt) -> ConversationSnapshot[Any]:
            loaded = self._run.read_within(budget, reads.entries_up_to(self._where, version))
            doubt.etag = loaded.head.etag if loaded.head is not None else b""
            return self._known.new_snapshot(past(loaded, at, version))

        with self._run.exclusive(policy):
            return _confirmed(attempt, budget.policy)

    def page(self, start: int | None, stop: int | None, policy: RetryPolicy) -> Page[Any] | None:
        """Return some of the messages; None if the run is absent."""
        slice_bounds(start, stop, 0)
        budget = self._run.budget("read", policy)
        with self._run.exclusive(policy):
            base = self._known.base
            # If a page has shown that rivals are far ahead, the remembered content would only cost a request.
            if base is not None and base.head.revision == self._known.revision:
                base = self._advance(base, budget)
                if base is not None:
                    return self._page_of(part_of(base, start, stop))
            found = self._find(start, stop, budget)
            if found is None:
                self._known.see(None)
                return None
            return self._page_of(found)

    def info(self, policy: RetryPolicy) -> RunInfo | None:
        """Return what is known about the run; None if it is absent and nobody holds it."""
        reply, _ = self._run.send(info(self._where), policy)
        return read_info(self._where, reply)

    def revisions(self, after: Entry | None, count: int, budget: Budget) -> tuple[list[Entry], int]:
        """Return up to `count` entries older than `after`, newest first, and the oldest version that the run keeps.

        Args:
            after: The oldest entry that was read before; None: begin with the newest.
            count: Number of entries.
            budget: The time for all requests of this step.

        Raises:
            RevisionGoneError: The log does not hold `after` any more.
            BrokenChainError: An entry is damaged or missing.
        """
        before = after.version if after is not None else None
        for _ in range(2):  # again, because after a failover two servers may have answered
            loaded = self._run.read_within(budget, reads.newest_entries(self._where, before, count, name="revisions"))
            found = read_entries(loaded.items[::-1])[::-1]
            if after is None or follows(found, after):
                return found, loaded.head.first if loaded.head is not None else 0
            held = self._run.read_within(
                budget, reads.newest_entries(self._where, after.version + 1, 1, name="revisions")
            )
            check_held(held, after)
        raise BrokenChainError(before, "an entry is missing or out of order")

    # --------------------------------------------------------------- what writes need to know

    def content(self, policy: RetryPolicy) -> Base | None:
        """Return the newest content; None if the run is absent. Reads what the store lacks, and remembers nothing."""
        base = self._known.base
        if base is not None:
            try:
                loaded = self._run.read(reads.delta(self._where, base), policy)
                if loaded.head is not None and loaded.head.version - base.head.version > DELTA:
                    loaded = self._run.read(reads.entries_after(self._where, base.head.version), policy)
                found = advanced(loaded, base)
            except BrokenChainError:
                found = None  # whether this is damage is decided by the full read
            if found is not None:
                return found
        return _confirmed(partial(self._content_in_full, policy), policy)

    def content_at(self, head: Head, policy: RetryPolicy) -> Base:
        """Read the content at a head.

        Raises:
            ConflictError: The run has moved on.
        """
        base = self.content(policy)
        if base is None or base.head.revision != head.revision:
            raise ConflictError(head.revision, base.head.revision if base is not None else None)
        return base

    def head(self, policy: RetryPolicy) -> Head | None:
        """Read the run's head, proven; None if the run is absent."""
        return proven_head(self._run.read(reads.head_only(self._where), policy))

    def raw_head(self, policy: RetryPolicy) -> RawHead | None:
        """Read the run's head, not held against its log; None if the run is absent."""
        return self._run.read(reads.head_only(self._where), policy).head

    def last_logged(self, policy: RetryPolicy) -> Revision | None:
        """Return the revision of the log's newest entry, where the head names none; None if the log names none."""
        (items,), _ = self._run.send(deletes.last_entry(self._where), policy)
        try:
            return read_entry(items[0]).revision()
        except (BrokenChainError, LookupError, TypeError):
            return None

    # -------------------------------------------------------------------------------- helpers

    def _content_in_full(self, policy: RetryPolicy, doubt: Doubt) -> Base | None:
        if self._run.options.keep_revisions == 0:
            loaded = self._run.read(reads.all_entries(self._where), policy)
        else:
            # The log also holds past revisions: ask first where the newest content starts.
            head = self.raw_head(policy)
            start = head.checkpoint if head is not None else 0
            loaded = self._run.read(reads.entries_from(self._where, start), policy)
            # After a failover, two servers may have answered. The log of the second one may start at an earlier entry.
            while loaded.head is not None and loaded.head.checkpoint < start:
                start = loaded.head.checkpoint
                loaded = self._run.read(reads.entries_from(self._where, start), policy)
        if loaded.head is None:
            check_absent(loaded)
            return None
        doubt.etag = loaded.head.etag
        return replayed(loaded.head, loaded.items)

    def _advance(self, base: Base, budget: Budget) -> Base | None:
        """Return the newest content, grown from what the store remembers; None: read it from the log."""
        try:
            loaded = self._run.read_within(budget, reads.delta(self._where, base, name="read"))
            if loaded.head is None or loaded.head.version - base.head.version > DELTA:
                return None
            newest = advanced(loaded, base)
        except BrokenChainError:
            return None  # whether this is damage is decided by the read of the log
        if newest is not None:
            self._known.see(newest)
        return newest

    def _find(self, start: int | None, stop: int | None, budget: Budget) -> Excerpt | None:
        """Read a page from the log."""
        at_once = self._run.options.keep_revisions == 0  # else the log may hold far more than the page needs
        reader = PageReader(self._where, partial(self._run.read_within, budget), start, stop, at_once)

        def attempt(doubt: Doubt) -> Excerpt | None:
            try:
                return reader.read()
            finally:
                doubt.etag = reader.etag

        return _confirmed(attempt, budget.policy)

    def _page_of(self, excerpt: Excerpt) -> Page[Any]:
        head = self._known.head = excerpt.head
        meta = read_meta(head.meta)
        return Page(tuple(excerpt.messages), tuple(excerpt.pins), excerpt.start, head.length, meta, head.revision)


def _confirmed(attempt: Callable[[Doubt], T], policy: RetryPolicy) -> T:
    """Return what a read returns. Report damage only if a second read of the same head shows it, too.

    Args:
        attempt: Reads once, and notes the etag of the head that it found.
        policy: How often to read.

    Raises:
        BrokenChainError: The run is damaged, or its head changed with every read.
    """
    doubt = Doubt()
    for _ in range(policy.attempts + 1):
        doubt.begin()
        try:
            return attempt(doubt)
        except BrokenChainError as error:
            if doubt.confirmed(error):
                break
    assert doubt.error is not None
    raise doubt.error
