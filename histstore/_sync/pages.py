# Generated from histstore/_async/pages.py by tools/unasync.py; do not edit.
"""Reading a page: which entries of the log one `read()` asks for, and when they suffice."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from operator import index
from typing import Any, Final

from ..log.base import Base
from ..log.columns import Log, read_log
from ..log.head import Head
from ..log.tail import Tail
from ..log.unreadable import BrokenChainError
from ..protocol import reads
from ..protocol.call import Call
from ..protocol.content import check_absent, replayed
from ..protocol.heads import RawHead, fold
from ..protocol.reads import Loaded
from ..protocol.run import RunRef
from ..snapshot import slice_bounds

FIRST: Final = 64
"""Entries of the first request, if it is unknown how far back the page lies."""
GUESS: Final = 1024
"""Most entries of the first request, however long the tail. How many messages an entry holds is not known yet."""
CHUNK: Final = 16 << 20
"""About how many bytes of the log one request asks for, so that each fits into the time of a try."""


class OvertakenError(Exception):
    """Rivals have trimmed entries that the page needs, or deleted the run, since the page was begun."""


@dataclass(slots=True)
class Excerpt:
    """A part of a run's content.

    Attributes:
        head: The head whose content it is.
        start: Index of the first message.
        messages: The messages.
        pins: Their pins.
    """

    head: Head
    start: int
    messages: list[Any]
    pins: list[bool]


def part_of(base: Base, start: int | None, stop: int | None) -> Excerpt:
    """Return a part of content that is known in full."""
    low, high = slice_bounds(start, stop, base.length)
    return Excerpt(base.head, low, base.messages(low, high), base.pins[low:high])


class PageReader:
    """Reads messages `start` to `stop` of a run's newest content.

    The page shows the moment of the first request. Later saves do not move the log entries that hold it, so they cost
    the reader nothing. Only if a rival trims those entries or deletes the run does the page begin again. Then one
    request reads the whole log, so that no rival can come in between.

    Args:
        where: The run.
        ask: Sends a read, and returns its reply.
        start: Index of the first message, as in a list slice.
        stop: Index after the last one, as in a list slice.
        at_once: Whether to read the whole log at once, as `load` does.

    Attributes:
        etag: The etag of the head that the current read began with; empty: none yet, or the run is absent.
    """

    def __init__(
        self,
        where: RunRef,
        ask: Callable[[Call], Loaded],
        start: int | None,
        stop: int | None,
        at_once: bool,
    ) -> None:
        self.etag = b""
        self._where = where
        self._ask = ask
        self._start = start if start is None else index(start)
        self._stop = stop if stop is None else index(stop)
        # A page from near the beginning to near the end needs what a load needs.
        self._at_once = at_once and 0 <= (self._start or 0) < FIRST and (self._stop is None or self._stop < 0)

    def read(self) -> Excerpt | None:
        """Return the page; None if the run is absent.

        Raises:
            BrokenChainError: Head and entries do not prove each other.
        """
        self.etag = b""
        if not self._at_once:
            try:
                return self._read_backwards()
            except OvertakenError:
                self._at_once = True
        loaded = self._ask(reads.all_entries(self._where, name="read"))
        raw = self._begin(loaded)
        if raw is None:
            return None
        return part_of(replayed(raw, loaded.items), self._start, self._stop)

    def _begin(self, loaded: Loaded) -> RawHead | None:
        raw = loaded.head
        self.etag = raw.etag if raw is not None else b""
        if raw is None:
            check_absent(loaded)
        return raw

    def _read_backwards(self) -> Excerpt | None:
        """Read backwards from the newest entry, until the page is complete."""
        loaded = self._ask(reads.newest_entries(self._where, None, self._first_count()))
        raw = self._begin(loaded)
        if raw is None:
            return None
        log, meta = read_log(loaded.items[::-1]), loaded.meta or b""
        low, high = slice_bounds(self._start, self._stop, raw.length)
        # If all entries are here and most messages are wanted, one replay decodes them fastest.
        mostly_wanted = 2 * (high - low) > raw.length
        if mostly_wanted and len(log) and log.versions[0] <= raw.checkpoint:
            return part_of(fold(raw, log, None), self._start, self._stop)
        newest = log[-1] if len(log) else None
        if newest is None or (newest.version, newest.etag) != (raw.version, raw.etag):
            raise BrokenChainError(raw.version, "the head names an entry that the log does not end with")
        if not raw.made_by(newest, meta):
            raise BrokenChainError(raw.version, "the head does not say what the newest entry says")
        tail, logs = Tail(raw.length, low, high), [log]
        while True:
            tail.back(log)
            if not tail.missing:
                return Excerpt(newest.head(newest.revision(), meta), low, *tail.page(raw.version))
            log = self._entries_before(raw, log, tail.reach())
            logs.append(log)
            if mostly_wanted and log.versions[0] <= raw.checkpoint:
                return part_of(fold(raw, Log.joined(logs[::-1]), None), self._start, self._stop)

    def _first_count(self) -> int:
        """Return the number of entries of the first request."""
        if self._start is None or self._start >= 0:
            return FIRST
        # A save holds two messages as a rule. A short tail takes one request even if each save holds one.
        return min(max((1 - self._start) // 2, min(-self._start, reads.DELTA)), GUESS)

    def _entries_before(self, raw: RawHead, log: Log, count: int) -> Log:
        """Return the `count` entries before `log`, or all of them if there are at most twice as many."""
        oldest = log[0]
        left = oldest.version - raw.checkpoint
        if left <= 0:
            raise BrokenChainError(raw.version, "a message is missing from the log")
        if 2 * count >= left:
            count = left
        limit = CHUNK * (raw.version - raw.checkpoint + 1) // max(raw.logged, 1)
        first = oldest.version - max(1, min(count, limit))
        loaded = self._ask(reads.entries_between(self._where, first, oldest.version))
        older = read_log(loaded.items)
        if not len(older) or (older.versions[-1], older[-1].etag) != (oldest.version - 1, oldest.parent):
            if loaded.head is None or loaded.head.etag != raw.etag:
                raise OvertakenError
            raise BrokenChainError(oldest.version, "an entry is missing or out of order")
        return older
