"""Parts of a conversation out of its newest entries: as the library finds them, and as slowly as can be."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from histstore.log.body import decode_body
from histstore.log.columns import Log
from histstore.log.entry import Entry
from histstore.log.message_codec import decode
from histstore.log.tail import Tail

Part = tuple[list[Any], list[bool]]


def tail(entries: Sequence[Entry], start: int, stop: int, chunks: Sequence[int] = ()) -> Part | None:
    """Returns messages `start` to `stop` and their pins; None when older entries are needed.

    Args:
        entries: The newest entries.
        start: Index of the first message.
        stop: Index after the last one.
        chunks: How many entries to go back at a time, before the rest in one go.
    """
    found = Tail(entries[-1].header.length, start, stop)
    end = len(entries)
    for count in (*chunks, end):
        found.back(Log.of(entries[max(0, end - count) : end]))
        end = max(0, end - count)
    return found.page(entries[-1].version) if not found.missing else None


def followed(entries: Sequence[Entry], start: int, stop: int) -> Part | None:
    """Returns the same, looking at every wanted index again for each entry."""
    wanted: list[int | None] = list(range(start, stop))
    parts: list[Any] = [None] * len(wanted)
    pins = [False] * len(wanted)
    for entry in reversed(entries):
        body = decode_body(entry.body)
        kept = entry.header.length - len(body.added)
        fills = {index: (pin, part) for index, pin, part in body.fills}
        for place, index in enumerate(wanted):
            if index is None:
                continue
            if index in fills:
                pins[place] ^= fills[index][0]
                parts[place] = fills[index][1]
            else:
                pins[place] ^= index in body.flips
                if index < kept:
                    wanted[place] = index if index < entry.header.i else index + entry.header.j - entry.header.i
                    continue
                parts[place] = body.added[index - kept]
            wanted[place] = None
    if any(index is not None for index in wanted):
        return None
    return decode(parts), pins
