"""Many entries of a run's log, read and proven together."""

from __future__ import annotations

import struct
from collections.abc import Iterable, Iterator, Sequence
from itertools import chain, pairwise, repeat
from typing import Any, overload

from . import header
from .entry import Entry, read_entry
from .header import Header
from .unreadable import BrokenChainError


class Log(Sequence[Entry]):
    """Consecutive entries, kept as columns. An Entry is made only when it is asked for.

    A load of a log of appends asks only for the first and the last entry.
    """

    __slots__ = ("bodies", "headers", "times", "versions")

    def __init__(
        self, versions: Sequence[int], headers: Sequence[bytes], bodies: Sequence[bytes], times: Sequence[bytes]
    ) -> None:
        self.versions = versions
        self.headers = headers
        self.bodies = bodies
        self.times = times

    @staticmethod
    def of(entries: Sequence[Entry]) -> Log:
        """Return the same entries as columns."""
        if isinstance(entries, Log):
            return entries
        columns = [(entry.version, entry.header.pack(), entry.body, entry.saved) for entry in entries]
        return Log(*zip(*columns, strict=True)) if columns else Log((), (), (), ())

    @staticmethod
    def joined(logs: Sequence[Log]) -> Log:
        """Return consecutive logs as one."""
        return Log(
            list(chain.from_iterable(log.versions for log in logs)),
            list(chain.from_iterable(log.headers for log in logs)),
            list(chain.from_iterable(log.bodies for log in logs)),
            list(chain.from_iterable(log.times for log in logs)),
        )

    def __len__(self) -> int:
        return len(self.versions)

    @overload
    def __getitem__(self, place: int) -> Entry: ...
    @overload
    def __getitem__(self, place: slice) -> list[Entry]: ...
    def __getitem__(self, place: int | slice) -> Entry | list[Entry]:
        if isinstance(place, slice):
            return list(self)[place]
        return Entry(self.versions[place], Header.unpack(self.headers[place]), self.bodies[place], self.times[place])

    def __iter__(self) -> Iterator[Entry]:
        rows = zip(self.versions, header.unpack_all(self.headers), self.bodies, self.times, strict=True)
        return map(tuple.__new__, repeat(Entry), rows)

    def claims(self) -> Iterator[tuple[int, int, int, int]]:
        """Return `i`, `j`, `length` and `checkpoint` of each entry."""
        return header.claims(self.headers)


def read_entries(items: Iterable[Any]) -> list[Entry]:
    """Read consecutive stream entries. Prove each one, and that none is missing between them.

    Raises:
        BrokenChainError: An entry is not what was saved, or one is missing.
    """
    return list(read_log(items))


def read_log(items: Iterable[Any]) -> Log:
    """Read and prove entries as `read_entries` does, without making them one by one.

    Raises:
        BrokenChainError: An entry is not what was saved, or one is missing.
    """
    items = list(items)
    if not items:
        return Log((), (), (), ())
    try:
        log = _read_proven(items)
    except (ValueError, TypeError, AttributeError, LookupError, struct.error):
        log = None
    if log is not None:
        return log
    # Read them one by one, to find out which of them is wrong.
    entries = [read_entry(item) for item in items]
    for before, entry in pairwise(entries):
        if entry.version != before.version + 1 or entry.parent != before.etag:
            raise BrokenChainError(entry.version, "an entry is missing or out of order")
    return Log.of(entries)


def _read_proven(items: Sequence[Any]) -> Log | None:
    """Read and prove entries by columns. Return None, or raise any error of wrong types, if something is wrong."""
    ids, fields = zip(*items, strict=True)
    _, headers, _, times, _, bodies = zip(*fields, strict=True)
    first = int(ids[0].partition(b"-")[2])
    versions = range(first, first + len(ids))
    if list(ids) != list(map(b"0-%d".__mod__, versions)) or set(map(len, headers)) != {header.SIZE}:
        return None
    return Log(versions, headers, bodies, times) if header.are_linked(versions, headers, bodies) else None


def since(items: Sequence[Any], version: int) -> Sequence[Any]:
    """Return the stream entries from `version` on. A log keeps older ones until they are trimmed.

    Raises:
        BrokenChainError: An item is not a stream entry.
    """
    try:
        if not items or items[0][0] == b"0-%d" % version:
            return items
        return [item for item in items if int(item[0].partition(b"-")[2]) >= version]
    except (TypeError, ValueError, LookupError, AttributeError):
        raise BrokenChainError(None, "an entry of the log is not readable") from None
