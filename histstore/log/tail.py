"""Some messages of a conversation, found by reading its log backwards."""

from __future__ import annotations

from itertools import repeat
from typing import Any

from . import message_codec
from .body import COUNT_BY_FRAME, Body, decode_body
from .columns import Log
from .replay import HOLE
from .unreadable import BrokenChainError, unreadable


class Tail:
    """Messages `start` to `stop` of a conversation, found by following its log back from the newest entry.

    `_places` describes the content before the oldest entry seen so far, from index `_origin` on. It holds each
    message's place in the page, or a hole for a message that the page does not want. Going back over an entry removes
    the messages that it added from the end, and puts holes where it cut. So each entry costs what it changed, however
    long the page is.

    Attributes:
        missing: Number of the page's messages that older entries hold.

    Args:
        length: Number of messages of the conversation.
        start: Index of the first message wanted.
        stop: Index after the last one.
    """

    def __init__(self, length: int, start: int, stop: int) -> None:
        self.missing = stop - start
        self._length = length
        self._origin = start
        self._places = [*range(self.missing), *repeat(HOLE, length - stop)]
        self._parts: list[bytes | memoryview] = [b""] * self.missing
        self._pins = [False] * self.missing
        self._seen = 0
        self._added = 0

    def back(self, entries: Log) -> None:
        """Go back over the entries before those seen so far. Stop when no message is missing any more.

        Raises:
            BrokenChainError: The entries' claims do not add up.
            UnsupportedVersionError: A body is in a codec that this reader does not have.
        """
        rows = zip(entries.versions, entries.claims(), entries.bodies, strict=True)
        places, missing = self._places, self.missing
        for version, (i, j, length, _), data in reversed(list(rows)):
            if not missing:
                break
            count = COUNT_BY_FRAME.get(data[:2])
            body = None
            if count is None:
                body = _read_body(version, data)
                count = len(body.added)
            kept = length - count
            before = kept + j - i
            if length != self._length or kept < 0 or not i <= j <= before:
                raise BrokenChainError(version, "the lengths do not add up")
            if body is not None and (body.flips or body.fills):
                missing -= self._undo_flips_and_fills(body)
            # The messages that the entry added stand at the end.
            first = max(kept - self._origin, 0)
            if len(places) - first != places[first:].count(HOLE):
                added = (body or _read_body(version, data)).added
                skipped = max(self._origin - kept, 0)
                for part, place in zip(added[skipped:], places[first:], strict=True):
                    if place != HOLE:
                        self._parts[place] = part
                        missing -= 1
            del places[first:]
            if i <= self._origin:
                self._origin += j - i
            elif i != j:
                at = i - self._origin
                places[at:at] = repeat(HOLE, j - i)
            self._length = before
            self._seen += 1
            self._added += count
        self.missing = missing

    def _undo_flips_and_fills(self, body: Body) -> int:
        """Turn the pins that an entry turned, and take the messages that it filled in. Return how many were taken."""
        places, origin = self._places, self._origin
        fills = {index: (pin, part) for index, pin, part in body.fills}
        for index in body.flips:
            place = places[index - origin] if origin <= index < origin + len(places) else HOLE
            if place != HOLE and index not in fills:
                self._pins[place] = not self._pins[place]
        filled = 0
        for index, (pin, part) in fills.items():
            place = places[index - origin] if origin <= index < origin + len(places) else HOLE
            if place != HOLE:
                self._pins[place] ^= pin
                self._parts[place] = part
                places[index - origin] = HOLE
                filled += 1
        return filled

    def reach(self) -> int:
        """Estimate how many older entries hold the missing messages, if they add as many as those seen so far.

        The estimate is never below the number of entries seen. So a few steps reach the end, whatever the older entries
        hold.
        """
        first = next((at for at, place in enumerate(self._places) if place != HOLE), 0)
        deep = len(self._places) - first
        return max(self._seen, -(-deep * self._seen // max(self._added, 1)))

    def page(self, version: int) -> tuple[list[Any], list[bool]]:
        """Return the messages and their pins. Call it when no message is missing.

        Args:
            version: The version of the conversation, for the error's text.

        Raises:
            BrokenChainError: The stored bytes are not messages.
        """
        try:
            return message_codec.decode(self._parts), self._pins
        except ValueError as error:
            raise BrokenChainError(version, str(error)) from error


def _read_body(version: int, data: bytes) -> Body:
    try:
        return decode_body(data)
    except ValueError as error:
        raise unreadable(version, error) from error
