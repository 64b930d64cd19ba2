"""The replay of a run's log into its content.

A reader starts at the entry that the newest entry names as its checkpoint. It does not know what the conversation held
before that entry. Such a message is a *hole*. A checkpoint is complete because every hole is cut away or filled by the
end of the replay. A full checkpoint cuts everything away in its own entry. An anchor names an older entry as the start,
and fills in the few old messages that are still wanted, such as a kept system prompt. In both cases the chain of etags
is proven over everything that was read.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import accumulate, chain, repeat
from typing import Any, Final

from . import body, message_codec
from .base import Base
from .body import Bodies
from .columns import Log
from .entry import ENTRY_OVERHEAD, Entry
from .head import Head
from .message_codec import NO_META
from .unreadable import BrokenChainError, unreadable

HOLE: Final = -1
"""The place of a message that this reader does not have."""

_NO_EXTRAS: Final[tuple[Sequence[int], bytes | None, Sequence[tuple[int, bool]]]] = ((), None, ())


def replay(entries: Sequence[Entry], base: Base | None = None) -> Base:
    """Return the content at the last of `entries`, which follow `base` or start at a checkpoint.

    Raises:
        BrokenChainError: They do not follow it, or their claims do not match their content.
        UnsupportedVersionError: A body is in a codec that this reader does not have.
    """
    first, last = entries[0], entries[-1]
    if base is None:
        if first.version != last.checkpoint:
            raise BrokenChainError(last.version, "the checkpoint that the newest entry names is not there")
    elif first.parent != base.head.etag or first.version != base.head.version + 1:
        raise BrokenChainError(first.version, "the entries do not follow the base")
    log = Log.of(entries)
    bodies = _decode_bodies(log)
    return _appended(log, last, bodies, base) or _Replay(log, bodies, base).run()


def _decode_bodies(log: Log) -> Bodies:
    try:
        return body.decode_bodies(log.bodies)
    except ValueError as error:
        problem = error
    # Decode them one by one, to find out which of them is wrong.
    for version, data in zip(log.versions, log.bodies, strict=True):
        try:
            decoded = body.decode_body(data)
            message_codec.decode([*decoded.added, *(part for _, _, part in decoded.fills)])
        except ValueError as error:
            raise unreadable(version, error) from error
    raise unreadable(log.versions[-1], problem) from problem


def _appended(log: Log, last: Entry, bodies: Bodies, base: Base | None) -> Base | None:
    """Return the content after entries that only append, as most do. Return None if one of them does more.

    The first replay that follows a base extends the base's lists in place.
    """
    n, checkpoint = (base.length, base.head.checkpoint) if base is not None else (0, last.checkpoint)
    cut_from, cut_to, lengths, checkpoints = zip(*log.claims(), strict=True)
    ends = tuple(accumulate(bodies.counts, initial=n))
    if not (cut_from == cut_to == ends[:-1] and lengths == ends[1:] and set(checkpoints) == {checkpoint}):
        return None
    flips: list[int] = []
    meta = base.head.meta if base is not None else NO_META
    for place, (more_flips, new_meta, fills) in bodies.extras.items():
        if fills or (more_flips and not n <= min(more_flips) <= max(more_flips) < ends[place + 1]):
            return None
        flips += more_flips
        meta = new_meta if new_meta is not None else meta
    _check_size(last, (base.head.size if base is not None else 0) + sum(bodies.sizes))
    head = last.head(last.revision(), meta)
    pins = [False] * len(bodies.sizes)
    for index in flips:
        pins[index - n] = not pins[index - n]
    born = _births(log, bodies)
    costs = _costs(log)
    if base is None:
        return Base(head, bodies.messages, bodies.sizes, born, pins, costs)
    return _extended(base, head, bodies, born, pins, costs)


def _extended(
    base: Base, head: Head, bodies: Bodies, born: list[int], pins: list[bool], costs: list[tuple[int, int]]
) -> Base:
    """Return the content after `base` with the messages of `bodies` at its end."""
    n = base.length
    items, sizes, all_born, all_pins, all_costs = base.items, base.sizes, base.born, base.pins, base.costs
    if not base.claim():
        items, sizes, all_born, all_pins = items[:n], sizes[:n], all_born[:n], all_pins[:n]
        all_costs = all_costs[: base.cost_count]
    items += bodies.messages
    sizes += bodies.sizes
    all_born += born
    all_pins += pins
    all_costs += costs
    return Base(head, items, sizes, all_born, all_pins, all_costs)


def _births(log: Log, bodies: Bodies) -> list[int]:
    """Return the version that holds each message."""
    return list(chain.from_iterable(map(repeat, log.versions, bodies.counts)))


def _costs(log: Log) -> list[tuple[int, int]]:
    """Return the version of each entry and its bytes in the log."""
    return list(zip(log.versions, map(ENTRY_OVERHEAD.__add__, map(len, log.bodies)), strict=True))


def _check_size(last: Entry, size: int) -> None:
    if size != last.header.size:
        raise BrokenChainError(last.version, "the sizes do not add up")


class _Replay:
    """Applies entries of any kind, one after the other.

    All messages stand in one long row: those of the base, then those of the bodies. To cut, append and fill in means to
    change `order`, which holds places in that row.
    """

    def __init__(self, log: Log, bodies: Bodies, base: Base | None) -> None:
        self.log = log
        self.bodies = bodies
        self.base = base
        self.added = base.length if base is not None else 0  # the place of the next message
        self.checkpoint = 0  # the highest so far
        if base is not None:
            self.order = list(range(self.added))
            self.pins = base.pins[: self.added]
            self.meta = base.head.meta
            return
        first = log[0]
        i, j, length, _ = next(log.claims())
        _, _, fills = bodies.extras.get(0, _NO_EXTRAS)
        before = length - (bodies.counts[0] - len(fills)) + j - i
        if not 0 <= before < 2**32:
            raise BrokenChainError(first.version, "the lengths do not add up")
        self.order = [HOLE] * before
        self.pins = [False] * before
        self.meta = NO_META

    def run(self) -> Base:
        """Return the content at the last entry."""
        for place, (version, claims) in enumerate(zip(self.log.versions, self.log.claims(), strict=True)):
            try:
                self._apply(version, claims, place)
            except ValueError as error:
                raise BrokenChainError(version, str(error)) from error
        return self._content()

    def _apply(self, version: int, claims: tuple[int, int, int, int], place: int) -> None:
        """Apply one entry, given its claims and its place among the bodies."""
        order, pins = self.order, self.pins
        i, j, length, checkpoint = claims
        count = self.bodies.counts[place]
        flips, meta, fills = self.bodies.extras.get(place, _NO_EXTRAS)
        if not i <= j <= len(order):
            raise ValueError("the cut lies outside of the conversation")
        if i != j:
            del order[i:j], pins[i:j]
        start, filled = self.added, self.added + count - len(fills)
        self.added += count
        order += range(start, filled)
        pins += [False] * (filled - start)
        n = len(order)
        if n != length:
            raise ValueError("the lengths do not add up")
        for index in flips:
            if index >= n:
                raise ValueError("a pin lies outside of the conversation")
            pins[index] = not pins[index]
        for at, (index, pin) in enumerate(fills, filled):
            if index >= n:
                raise ValueError("a filled-in message lies outside of the conversation")
            order[index], pins[index] = at, pin
        if meta is not None:
            self.meta = meta
        elif checkpoint == version:
            self.meta = NO_META  # a full checkpoint replaces everything, also the meta
        if checkpoint > version:
            raise ValueError("the checkpoint lies in the future")
        self.checkpoint = max(self.checkpoint, checkpoint)

    def _content(self) -> Base:
        base, bodies, last = self.base, self.bodies, self.log[-1]
        if HOLE in self.order:
            raise BrokenChainError(last.version, "a message is missing from the log")
        items, sizes, costs = bodies.messages, bodies.sizes, _costs(self.log)
        born = _births(self.log, bodies)
        if base is not None:
            n = base.length
            items, sizes, born = base.items[:n] + items, base.sizes[:n] + sizes, base.born[:n] + born
            costs = base.costs[: base.cost_count] + costs
        items, sizes, born = (self._in_order(row) for row in (items, sizes, born))
        _check_size(last, sum(sizes))
        head = last.head(last.revision(), self.meta)
        costs = [cost for cost in costs if cost[0] >= self.checkpoint]
        return Base(head, items, sizes, born, self.pins, costs)

    def _in_order(self, row: Sequence[Any]) -> list[Any]:
        return list(map(row.__getitem__, self.order))
