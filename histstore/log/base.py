"""A run's content at one revision, as its store remembers it."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from ..messages import JSONValue
from .head import Head


class Base:
    """A run's content at one revision, as its store remembers it.

    Bases that grew from each other by appending share their lists. Only the first `head.length` items of a list belong
    to this base, and of `costs` only the first `cost_count`. As in a snapshot, the single item of `claims_left` is the
    right to extend the lists in place.

    Attributes:
        head: The head at the revision.
        items: The messages.
        sizes: Encoded bytes of each message.
        born: The version whose entry holds each message.
        pins: Whether each message is pinned.
        costs: Version of each entry in the log, from the checkpoint on, and the bytes that it takes there.
        cost_count: How many of them belong to this base.
        mapping: A mapping that encodes to the head's meta; None: not decoded yet.
    """

    __slots__ = ("born", "claims_left", "cost_count", "costs", "head", "items", "mapping", "pins", "sizes")

    def __init__(
        self,
        head: Head,
        items: list[Any],
        sizes: list[int],
        born: list[int],
        pins: list[bool],
        costs: list[tuple[int, int]],
    ) -> None:
        self.head = head
        self.items = items
        self.sizes = sizes
        self.born = born
        self.pins = pins
        self.costs = costs
        self.cost_count = len(costs)
        self.claims_left: list[None] = [None]
        self.mapping: Mapping[str, JSONValue] | None = None

    def claim(self) -> bool:
        """Return whether the caller may extend the lists in place. Only the first caller may."""
        # list.pop is atomic: of two threads, one gets the item.
        try:
            self.claims_left.pop()
        except IndexError:
            return False
        return True

    @property
    def length(self) -> int:
        """The number of messages."""
        return self.head.length

    def messages(self, start: int = 0, stop: int | None = None) -> list[Any]:
        """Return the messages from `start` to `stop`, in a new list."""
        return self.items[start : self.length if stop is None else stop]
