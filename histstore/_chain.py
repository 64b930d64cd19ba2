"""A run's log as a hash chain: entries, the head, and their replay into content.

A reader starts at the entry that the newest one names as its checkpoint. What the conversation held
before that entry is unknown to it, a *hole*; a checkpoint is complete because by the end of the replay
every hole has been cut away or filled. A full checkpoint cuts everything away in its own entry; an
anchor fills in the few old messages that are still wanted (a kept system prompt, say), and names an
older entry as the start. Either way the chain of etags is proven over all that was read.
"""

from __future__ import annotations

import hashlib
import struct
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from itertools import pairwise
from typing import Any, Final, cast

from . import _codec
from .messages import JSONValue
from .snapshot import Revision

FORMAT: Final = 1
ABSENT: Final = bytes(16)
ENTRY_OVERHEAD: Final = 100
"""Bytes that an entry costs in the log besides its body, about."""
_HEADER = struct.Struct(">16s16s16sIIIQQQQ")
_Header = tuple[bytes, bytes, bytes, int, int, int, int, int, int, int]
_LINK = struct.Struct(">Q16s16sIIIQQQQ")
_CHECK = struct.Struct(">Q16sQQQQ")
_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)


class BrokenChainError(Exception):
    """What was read does not add up. Shells turn it into CorruptSnapshotError."""

    def __init__(self, version: int | None, reason: str) -> None:
        self.version = version
        self.reason = reason
        super().__init__(reason)


def timestamp(milliseconds: int | bytes | str | None) -> datetime | None:
    """Returns the UTC time of server milliseconds; None for none, or for what is no time."""
    try:
        return _EPOCH + timedelta(milliseconds=int(milliseconds)) if milliseconds else None
    except (ValueError, OverflowError):
        return None


@dataclass(frozen=True, slots=True)
class Entry:
    """One save in the log: content = parent[:i] + parent[j:] + what the body adds."""

    version: int
    parent: bytes
    etag: bytes
    op: bytes
    i: int
    j: int
    length: int
    size: int
    checkpoint: int
    logged: int
    fence: int
    body: bytes
    saved: bytes = b""

    @staticmethod
    def make(
        version: int,
        parent: bytes,
        op: bytes,
        cut: tuple[int, int],
        length: int,
        size: int,
        checkpoint: int,
        logged: int,
        fence: int,
        body: bytes,
    ) -> Entry:
        """Makes an entry and the etag that names it."""
        i, j = cut
        etag = _link(version, parent, op, i, j, length, size, checkpoint, logged, fence, body)
        return Entry(version, parent, etag, op, i, j, length, size, checkpoint, logged, fence, body)

    def sound(self) -> bool:
        """Tells whether the etag is that of what the entry holds."""
        return self.etag == _link(
            self.version, self.parent, self.op, self.i, self.j, self.length, self.size,
            self.checkpoint, self.logged, self.fence, self.body,
        )  # fmt: skip

    def header(self) -> bytes:
        """Returns the packed form that the save script reads and the log keeps."""
        return _HEADER.pack(
            self.parent, self.etag, self.op, self.i, self.j, self.length, self.size,
            self.checkpoint, self.logged, self.fence,
        )  # fmt: skip

    def revision(self) -> Revision:
        """Returns the revision that this entry made."""
        return Revision(self.version, self.etag, timestamp(self.saved), self.fence or None, self.length, self.size)


def _link(
    version: int,
    parent: bytes,
    op: bytes,
    i: int,
    j: int,
    length: int,
    size: int,
    checkpoint: int,
    logged: int,
    fence: int,
    body: bytes,
) -> bytes:
    """Returns the etag of an entry: BLAKE2b-128 (RFC 7693) over its place, its parent, its intent and its content.

    All that a reader goes by is under it: a header that says where to start reading is as fatal, when it is
    damaged, as a message.
    """
    packed = _LINK.pack(version, parent, op, i, j, length, size, checkpoint, logged, fence)
    digest = hashlib.blake2b(packed, digest_size=16, person=b"histstore1")
    digest.update(body)
    return digest.digest()


def read_entry(item: Any) -> Entry:
    """Reads one stream entry, and proves its own etag.

    Raises:
        BrokenChainError: It is not an entry of ours, or its bytes are not what was saved.
    """
    version = None
    try:
        stream_id, (_, header, _, saved, _, body) = item
        number, _, rest = stream_id.partition(b"-")
        version = int(number)
        entry = Entry(version, *cast("_Header", _HEADER.unpack(header)), body, saved)
    except (ValueError, TypeError, AttributeError, struct.error):
        raise BrokenChainError(version, "an entry of the log is not readable") from None
    if rest != b"0" or not entry.sound():
        raise BrokenChainError(version, "an entry's bytes do not match its etag")
    return entry


def read_entries(items: Iterable[Any]) -> list[Entry]:
    """Reads stream entries in order, and proves each one and that none is missing between them."""
    entries = [read_entry(item) for item in items]
    for before, entry in pairwise(entries):
        if entry.version != before.version + 1 or entry.parent != before.etag:
            raise BrokenChainError(entry.version, "an entry is missing or out of order")
    return entries


@dataclass(frozen=True, slots=True)
class Head:
    """The newest revision of a run, and what the next save must know of it."""

    revision: Revision
    length: int
    size: int
    checkpoint: int
    logged: int
    meta: bytes

    @property
    def version(self) -> int:
        return self.revision.version

    @property
    def etag(self) -> bytes:
        return self.revision.etag

    def check(self) -> bytes:
        """Returns 8 bytes over the head, so that a damaged one is never built upon."""
        packed = _CHECK.pack(self.version, self.etag, self.length, self.size, self.checkpoint, self.logged)
        return hashlib.blake2b(packed + self.meta, digest_size=8, person=b"histstore1").digest()


class Base:
    """A run's content at a revision, as its store remembers it.

    A typed message is remembered as itself; a plain one as its bytes, since its owner may change it.
    The lists are shared with the bases that grew from this one by appending: only the first
    `head.length` items (of `log` the first `log_length`) belong to it. As in a snapshot, the single
    token in `grow` is the right to extend them in place.
    """

    __slots__ = ("born", "grow", "head", "items", "log", "log_length", "pins", "plain", "sizes")

    def __init__(
        self,
        head: Head,
        items: list[Any],
        sizes: list[int],
        born: list[int],
        pins: list[bool],
        plain: int,
        log: list[tuple[int, int]],
    ) -> None:
        self.head = head
        self.items = items
        self.sizes = sizes
        self.born = born
        self.pins = pins
        self.plain = plain
        self.log = log
        self.log_length = len(log)
        self.grow: list[None] = [None]

    @property
    def length(self) -> int:
        return self.head.length

    def messages(self, start: int = 0, stop: int | None = None) -> list[Any]:
        """Returns the messages: typed ones as they are, plain ones decoded anew."""
        items = self.items[start : self.length if stop is None else stop]
        plain = [index for index, item in enumerate(items) if type(item) is bytes]
        for index, message in zip(plain, _codec.decode([items[index] for index in plain]), strict=True):
            items[index] = message
        return items


def decode_meta(data: bytes) -> Mapping[str, JSONValue]:
    """Decodes a run's meta.

    Raises:
        BrokenChainError: It does not decode.
    """
    try:
        found: Mapping[str, JSONValue] = _codec.decode_meta(data)
    except ValueError as error:
        raise BrokenChainError(None, str(error)) from error
    return found


_HOLE: Final = object()


def replay(entries: Sequence[Entry], base: Base | None = None) -> Base:
    """Returns the content at the last of `entries`, which follow `base` or start at a checkpoint.

    Raises:
        BrokenChainError: They do not, or what they say of themselves is not so.
    """
    state = _Replay(entries, base)
    for entry in entries:
        try:
            state.apply(entry)
        except ValueError as error:
            raise BrokenChainError(entry.version, str(error)) from error
    return state.finish()


class _Replay:
    def __init__(self, entries: Sequence[Entry], base: Base | None) -> None:
        first = entries[0]
        self.last = entries[-1]
        if base is not None:
            if first.parent != base.head.etag or first.version != base.head.version + 1:
                raise BrokenChainError(first.version, "the entries do not follow the base")
            n = base.length
            self.items: list[Any] = base.items[:n]
            self.sizes, self.born, self.pins = base.sizes[:n], base.born[:n], base.pins[:n]
            self.log, self.meta = base.log[: base.log_length], base.head.meta
            return
        if first.version != self.last.checkpoint:
            raise BrokenChainError(self.last.version, "the checkpoint that the newest entry names is not there")
        body = self._body(first)
        before = first.length - len(body.added) + first.j - first.i
        if not 0 <= before < 2**32:
            raise BrokenChainError(first.version, "the lengths do not add up")
        self.items = [_HOLE] * before
        self.sizes, self.born, self.pins = [0] * before, [0] * before, [False] * before
        self.log, self.meta = [], _codec.encode_meta({})

    @staticmethod
    def _body(entry: Entry) -> _codec.Body:
        try:
            return _codec.decode_body(entry.body)
        except ValueError as error:
            raise BrokenChainError(entry.version, str(error)) from error

    def apply(self, entry: Entry) -> None:
        body = self._body(entry)
        i, j, added = entry.i, entry.j, len(body.added)
        if not i <= j <= len(self.items):
            raise ValueError("the cut lies outside of the conversation")
        del self.items[i:j], self.sizes[i:j], self.born[i:j], self.pins[i:j]
        self.items += body.added
        self.sizes += map(len, body.added)
        self.born += [entry.version] * added
        self.pins += [False] * added
        n = len(self.items)
        if n != entry.length:
            raise ValueError("the lengths do not add up")
        for index in body.flips:
            if index >= n:
                raise ValueError("a pin lies outside of the conversation")
            self.pins[index] = not self.pins[index]
        for index, pin, part in body.fills:
            if index >= n:
                raise ValueError("a filled-in message lies outside of the conversation")
            self.items[index], self.sizes[index] = part, len(part)
            self.born[index], self.pins[index] = entry.version, pin
        if body.meta is not None:
            self.meta = body.meta
        elif entry.checkpoint == entry.version:
            self.meta = _codec.encode_meta({})  # a full checkpoint leaves nothing of the old but what it says
        if entry.checkpoint > entry.version:
            raise ValueError("the checkpoint lies in the future")
        self.log = [cost for cost in self.log if cost[0] >= entry.checkpoint] if self._moved(entry) else self.log
        self.log.append((entry.version, len(entry.body) + ENTRY_OVERHEAD))

    def _moved(self, entry: Entry) -> bool:
        return bool(self.log) and self.log[0][0] < entry.checkpoint

    def finish(self) -> Base:
        last = self.last
        if any(item is _HOLE for item in self.items):
            raise BrokenChainError(last.version, "a message is missing from the log")
        if sum(self.sizes) != last.size:
            raise BrokenChainError(last.version, "the sizes do not add up")
        new = [index for index, item in enumerate(self.items) if type(item) is memoryview]
        try:
            found = _codec.decode([self.items[index] for index in new])
        except ValueError as error:
            raise BrokenChainError(last.version, str(error)) from error
        for index, message in zip(new, found, strict=True):
            self.items[index] = message if _codec.is_typed(message) else bytes(self.items[index])
        plain = sum(type(item) is bytes for item in self.items)
        head = Head(last.revision(), last.length, last.size, last.checkpoint, last.logged, self.meta)
        return Base(head, self.items, self.sizes, self.born, self.pins, plain, self.log)


def tail(entries: Sequence[Entry], start: int, stop: int) -> tuple[list[Any], list[bool]] | None:
    """Returns messages `start` to `stop` of the last entry's content, and their pins, from its newest entries.

    Follows each wanted index back through the cuts to the entry that added the message.

    Returns:
        None when older entries than these are needed.

    Raises:
        BrokenChainError: What the entries say does not add up.
    """
    wanted: list[int | None] = list(range(start, stop))
    parts: list[Any] = [None] * len(wanted)
    pins = [False] * len(wanted)
    missing = len(wanted)
    for back, entry in enumerate(reversed(entries)):
        if not missing:
            break
        body = _Replay._body(entry)
        kept = entry.length - len(body.added)
        flips, fills = set(body.flips), {index: (pin, part) for index, pin, part in body.fills}
        before = kept + entry.j - entry.i
        older = entries[len(entries) - back - 2] if back + 1 < len(entries) else None
        if kept < 0 or not entry.i <= entry.j <= before or (older is not None and older.length != before):
            raise BrokenChainError(entry.version, "the lengths do not add up")
        for place, index in enumerate(wanted):
            if index is None:
                continue
            if index in fills:
                pin, parts[place] = fills[index]
                pins[place] ^= pin
            else:
                pins[place] ^= index in flips
                if index < kept:
                    wanted[place] = index if index < entry.i else index + entry.j - entry.i
                    continue
                parts[place] = body.added[index - kept]
            wanted[place] = None
            missing -= 1
    if missing:
        return None
    try:
        return _codec.decode(parts), pins
    except ValueError as error:
        raise BrokenChainError(entries[-1].version if entries else None, str(error)) from error
