"""Compares what is stored with its source, message by message."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, fields
from typing import Any, Self

from .transcripts import encode


@dataclass(frozen=True, slots=True)
class Account:
    """What became of the messages of one conversation, or of many.

    Attributes:
        expected: Messages of the source.
        stored: Messages that are stored, whatever they are.
        right: Messages of the source that are stored at their own place.
        lost: Messages of the source that are not stored.
        doubled: Messages of the source that are stored more often than they should be.
        misplaced: Messages that stand before others which they should follow.
        foreign: Stored messages that the source does not have at all.
    """

    expected: int = 0
    stored: int = 0
    right: int = 0
    lost: int = 0
    doubled: int = 0
    misplaced: int = 0
    foreign: int = 0

    def __add__(self, other: Account) -> Account:
        return Account(*(getattr(self, each.name) + getattr(other, each.name) for each in fields(self)))

    @property
    def perfect(self) -> bool:
        """Whether every message is stored once, in order, and nothing else is."""
        return self.right == self.expected == self.stored

    @classmethod
    def of(cls, source: Sequence[Any], stored: Sequence[Any]) -> Self:
        """Compares two conversations."""
        want, have = [encode(message) for message in source], [encode(message) for message in stored]
        wanted, there = Counter(want), Counter(have)
        common = (wanted & there).total()
        return cls(
            expected=len(want),
            stored=len(have),
            right=sum(one == other for one, other in zip(want, have, strict=False)),
            lost=(wanted - there).total(),
            doubled=sum(max(0, there[message] - wanted[message]) for message in wanted),
            misplaced=0 if want == have else common - _longest_common(want, have),
            foreign=sum(count for message, count in there.items() if message not in wanted),
        )


def _longest_common(one: Sequence[bytes], other: Sequence[bytes]) -> int:
    """Returns the length of the longest sequence that stands, with gaps, in both."""
    row = [0] * (len(other) + 1)
    for item in one:
        corner = 0
        for at, candidate in enumerate(other, 1):
            corner, row[at] = row[at], corner + 1 if item == candidate else max(row[at], row[at - 1])
    return row[-1]
