"""Reads of a run's head together with entries of its log.

Each builder names the public call that the read serves, in `name`. Error texts and observers show that name.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Final

from ..errors import HistoryStoreError
from ..log.base import Base
from ..log.unreadable import BrokenChainError
from .call import LARGE, Call, Command, read_call
from .heads import FIELDS, RawHead, read_raw_head
from .replies import MALFORMED
from .run import RunRef

DELTA: Final = 32
"""Entries that a reader expects at most when its content is nearly up to date. Its request shares a connection."""
_DELTA: Final = b"%d" % DELTA


def delta(where: RunRef, base: Base, *, name: str = "load") -> Call:
    """Build the read of the first `DELTA` entries after `base`."""
    keys, head = where.keys, base.head
    entries: Command = ("XRANGE", keys.log, f"(0-{head.version}", "+", "COUNT", _DELTA)
    # The next saves are expected to be as large as the newest one, unless that was the first or a checkpoint.
    version, cost = base.costs[base.cost_count - 1]
    large = version != head.checkpoint and cost > LARGE // 4
    return read_call(where, name, ("HMGET", keys.head, *FIELDS), entries, large=large)


def all_entries(where: RunRef, *, name: str = "load") -> Call:
    """Build the read of all entries in the log."""
    return _range(where, "-", "+", name)


def entries_after(where: RunRef, version: int, *, name: str = "load") -> Call:
    """Build the read of the entries after version `version`."""
    return _range(where, f"(0-{version}", "+", name)


def entries_from(where: RunRef, version: int, *, name: str = "load") -> Call:
    """Build the read of the entries from version `version` on."""
    return _range(where, f"0-{version}", "+", name)


def entries_up_to(where: RunRef, version: int, *, name: str = "load") -> Call:
    """Build the read of the entries up to version `version`."""
    return _range(where, "-", f"0-{version}", name)


def _range(where: RunRef, start: str, stop: str, name: str) -> Call:
    keys = where.keys
    return read_call(where, name, ("HMGET", keys.head, *FIELDS), ("XRANGE", keys.log, start, stop), large=True)


def entries_between(where: RunRef, first: int, before: int, *, name: str = "read") -> Call:
    """Build the read of the entries from version `first` to below `before`."""
    keys = where.keys
    # Streams are faster forwards.
    entries: Command = ("XRANGE", keys.log, f"0-{first}", f"(0-{before}")
    return read_call(where, name, ("HMGET", keys.head, *FIELDS), entries, large=before - first > DELTA)


def newest_entries(where: RunRef, before: int | None, count: int, *, name: str = "read") -> Call:
    """Build the read of the head with its meta, and of the newest `count` entries below version `before`.

    The entries come newest first.
    """
    keys = where.keys
    stop = "+" if before is None else f"(0-{before}"
    entries: Command = ("XREVRANGE", keys.log, stop, "-", "COUNT", b"%d" % count)
    return read_call(where, name, ("HMGET", keys.head, *FIELDS, "meta"), entries, large=count > DELTA)


def head_only(where: RunRef, *, name: str = "load") -> Call:
    """Build the read of the head with its meta, and of the number of entries in the log."""
    keys = where.keys
    return read_call(where, name, ("HMGET", keys.head, *FIELDS, "meta"), ("XLEN", keys.log))


@dataclass(slots=True)
class Loaded:
    """A head and the entries that were read with it, at one moment.

    Attributes:
        head: The head; None: the run is absent.
        items: Raw stream entries. Of `head_only`, the number of entries.
        meta: The head's encoded meta; None: it was not asked for, or there is none.
    """

    head: RawHead | None
    items: list[Any]
    meta: bytes | None = None


def read_loaded(reply: Any) -> Loaded:
    """Read the reply to any of the reads above.

    Raises:
        BrokenChainError: The head is not readable.
        UnsupportedVersionError: A newer format wrote it.
    """
    try:
        fields, items = reply
        if isinstance(fields, Exception) or isinstance(items, Exception):
            raise BrokenChainError(None, "a key of the run holds what histstore did not put there")
        head = read_raw_head(fields[:10])
        return Loaded(head, items if type(items) is list else [items], fields[10] if len(fields) > 10 else None)
    except HistoryStoreError:
        raise
    except MALFORMED:
        raise BrokenChainError(None, "the server answered with what no head and no entries are") from None
