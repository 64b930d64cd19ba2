"""One `read()`: which entries of the log it asks for, and when what it has is enough."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass
from operator import index
from typing import Any, Final

from ..log.base import Base
from ..log.columns import Log, read_log, since
from ..log.head import Head
from ..log.tail import Tail
from ..log.unreadable import BrokenChainError
from ..protocol import reads
from ..protocol.call import Call
from ..protocol.heads import RawHead, fold
from ..protocol.reads import Loaded
from ..protocol.run import Where
from ..snapshot import slice_bounds

FIRST: Final = 64
"""Entries that are read first where nothing says how far back the page lies."""
GUESS: Final = 1024
"""Entries that are read first at most, however long a tail is wanted: what an entry holds is not known yet."""
CHUNK: Final = 16 << 20
"""Bytes of the log that one request asks for, about: so each has the time of a try to itself."""


class OvertakenError(Exception):
    """Since the page was begun, rivals have trimmed what it needs, or the run was deleted."""


@dataclass(slots=True)
class Found:
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


def part_of(base: Base, start: int | None, stop: int | None) -> Found:
    """Returns a part of content that is known in full."""
    low, high = slice_bounds(start, stop, base.length)
    return Found(base.head, low, base.messages(low, high), base.pins[low:high])


class PageReader:
    """Reads messages `start` to `stop` of a run's newest content.

    The page is of the moment of the first request. Saves that come after it do not move the entries of the log that it
    lies in, so they cost the reader nothing. Only where a rival has trimmed those entries, or the run was deleted, the
    page begins anew, with one request for all that the log holds: no rival can come in between.

    Args:
        where: The run.
        ask: Sends a read, and returns what came.
        start: Index of the first message, as in a list slice.
        stop: Index after the last one, as in a list slice.
        at_once: Whether to ask for all that the log holds to begin with, as `load` does.

    Attributes:
        etag: That of the head that the last look began with.
    """

    def __init__(
        self,
        where: Where,
        ask: Callable[[Call], Awaitable[Loaded]],
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

    async def read(self) -> Found | None:
        """Returns the page; None: the run is absent.

        Raises:
            BrokenChainError: What was read does not add up.
        """
        self.etag = b""
        if not self._at_once:
            try:
                return await self._back()
            except OvertakenError:
                self._at_once = True
        loaded = await self._ask(reads.all_entries(self._where, name="read"))
        raw = self._begin(loaded)
        if raw is None:
            return None
        return _replayed(raw, loaded.items, self._start, self._stop)

    def _begin(self, loaded: Loaded) -> RawHead | None:
        raw = loaded.head
        self.etag = raw.etag if raw is not None else b""
        if raw is None and loaded.items:
            raise BrokenChainError(None, "there is a log, but no head")
        return raw

    async def _back(self) -> Found | None:
        """Reads from the newest entry back, until the page is found."""
        loaded = await self._ask(reads.newest_entries(self._where, None, self._first()))
        raw = self._begin(loaded)
        if raw is None:
            return None
        log, meta = read_log(loaded.items[::-1]), loaded.meta or b""
        low, high = slice_bounds(self._start, self._stop, raw.length)
        # Where all is here and most of it wanted, a replay decodes it in one go.
        most = 2 * (high - low) > raw.length
        if most and len(log) and log.versions[0] <= raw.checkpoint:
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
                return Found(newest.head(newest.revision(), meta), low, *tail.page(raw.version))
            log = await self._older(raw, log, tail.reach())
            logs.append(log)
            if most and log.versions[0] <= raw.checkpoint:
                return part_of(fold(raw, Log.joined(logs[::-1]), None), self._start, self._stop)

    def _first(self) -> int:
        """Returns how many entries to begin with."""
        if self._start is None or self._start >= 0:
            return FIRST
        # A save is two messages as a rule. A short tail is to take one request also where it is only one.
        return min(max((1 - self._start) // 2, min(-self._start, reads.DELTA)), GUESS)

    async def _older(self, raw: RawHead, log: Log, count: int) -> Log:
        """Returns the entries before `log`, `count` of them unless it is as well to read them all."""
        oldest = log[0]
        left = oldest.version - raw.checkpoint
        if left <= 0:
            raise BrokenChainError(raw.version, "a message is missing from the log")
        if 2 * count >= left:
            count = left
        most = CHUNK * (raw.version - raw.checkpoint + 1) // max(raw.logged, 1)
        first = oldest.version - max(1, min(count, most))
        loaded = await self._ask(reads.entries_between(self._where, first, oldest.version))
        older = read_log(loaded.items)
        if not len(older) or (older.versions[-1], older[-1].etag) != (oldest.version - 1, oldest.parent):
            if loaded.head is None or loaded.head.etag != raw.etag:
                raise OvertakenError
            raise BrokenChainError(oldest.version, "an entry is missing or out of order")
        return older


def _replayed(raw: RawHead, items: Sequence[Any], start: int | None, stop: int | None) -> Found:
    """Returns a part of the content at a head, from all of the log that was read with it."""
    log = read_log(since(items, raw.checkpoint))
    return part_of(fold(raw, log, None), start, stop)
