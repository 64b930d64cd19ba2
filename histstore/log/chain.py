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
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from itertools import accumulate, chain, pairwise, repeat
from typing import Any, Final, NamedTuple, cast, overload

from ..messages import JSONValue
from ..snapshot import Revision, known_revision
from . import codec

FORMAT: Final = 1
ABSENT: Final = bytes(16)
ENTRY_OVERHEAD: Final = 100
"""Bytes that an entry costs in the log besides its body, about."""
# What is made once a save is not frozen: that would be half the time that making it takes. Nothing changes it.
_HEADER = struct.Struct(">16s16s16sIIIQQQQ")
_Header = tuple[bytes, bytes, bytes, int, int, int, int, int, int, int]
_LINK = struct.Struct(">Q16s16sIIIQQQQ")
# A link is a header with the version before it and without the etag in it.
_HEADER_IN_LINK = struct.Struct(">16s16s60s")
_LINK_OF_HEADER = struct.Struct(">Q16s60s")
# Of a header, what a replay goes by: i, j, length and checkpoint.
_CLAIMS = struct.Struct(">48xIII8xQ16x")
_CHECK = struct.Struct(">Q16sQQQQ")
_EPOCH: Final = datetime(1970, 1, 1, tzinfo=UTC)
_ETAG: Final = hashlib.blake2b(digest_size=16, person=b"histstore1")
_HEAD: Final = hashlib.blake2b(digest_size=8, person=b"histstore1")


class BrokenChainError(Exception):
    """What was read does not add up. Shells turn it into CorruptSnapshotError."""

    def __init__(self, version: int | None, reason: str) -> None:
        self.version = version
        self.reason = reason
        super().__init__(reason)


def timestamp(milliseconds: int | bytes | str | None) -> datetime | None:
    """Returns the UTC time of server milliseconds; None for none, or for what is no time."""
    try:
        return _EPOCH + timedelta(0, 0, 1000 * int(milliseconds)) if milliseconds else None
    except (TypeError, ValueError, OverflowError):
        return None


class Entry(NamedTuple):
    """One save in the log: content = parent[:i] + parent[j:] + what the body adds.

    A tuple, because a load makes one of each entry that it reads.
    """

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
        return self.saved_at(self.saved)

    def head(self, revision: Revision, meta: bytes) -> Head:
        """Returns the head that this entry made.

        Args:
            revision: The entry's revision.
            meta: The run's encoded meta.
        """
        return Head(revision, self.length, self.size, self.checkpoint, self.logged, meta)

    def check(self, meta: bytes) -> bytes:
        """Returns the check of that head."""
        return _check(self.version, self.etag, self.length, self.size, self.checkpoint, self.logged, meta)

    def saved_at(self, milliseconds: int | bytes | str | None) -> Revision:
        """Returns the revision that this entry made, as of a time on the server's clock."""
        return known_revision(
            self.version, self.etag, timestamp(milliseconds), self.fence or None, self.length, self.size
        )


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
    digest = _ETAG.copy()
    digest.update(packed)
    digest.update(body)
    return digest.digest()


def _check(version: int, etag: bytes, length: int, size: int, checkpoint: int, logged: int, meta: bytes) -> bytes:
    digest = _HEAD.copy()
    digest.update(_CHECK.pack(version, etag, length, size, checkpoint, logged) + meta)
    return digest.digest()


def read_entry(item: Any) -> Entry:
    """Reads one stream entry, and proves its own etag.

    Raises:
        BrokenChainError: It is not an entry of ours, or its bytes are not what was saved.
    """
    version = None
    try:
        stream_id, (_, header, _, saved, _, body) = item
        version = int(stream_id.partition(b"-")[2])
        if type(body) is not bytes:
            raise TypeError
        entry = Entry(version, *cast("_Header", _HEADER.unpack(header)), body, saved)
        sound = stream_id == b"0-%d" % version and entry.sound()
    except (ValueError, TypeError, AttributeError, struct.error):
        raise BrokenChainError(version, "an entry of the log is not readable") from None
    if not sound:
        raise BrokenChainError(version, "an entry's bytes do not match its etag")
    return entry


class Log(Sequence[Entry]):
    """Entries in a row, as columns: one is made when it is asked for.

    A load of what was only appended asks for the first and the last.
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
        """Returns the same entries as columns."""
        if isinstance(entries, Log):
            return entries
        columns = [(entry.version, entry.header(), entry.body, entry.saved) for entry in entries]
        return Log(*zip(*columns, strict=True)) if columns else Log((), (), (), ())

    @staticmethod
    def joined(logs: Sequence[Log]) -> Log:
        """Returns logs that follow each other as one."""
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
        header = cast("_Header", _HEADER.unpack(self.headers[place]))
        return Entry(self.versions[place], *header, self.bodies[place], self.times[place])

    def __iter__(self) -> Iterator[Entry]:
        columns = zip(*_HEADER.iter_unpack(b"".join(self.headers)), strict=True)
        rows = zip(self.versions, *columns, self.bodies, self.times, strict=True)
        return map(tuple.__new__, repeat(Entry), rows)

    def claims(self) -> Iterator[tuple[int, ...]]:
        """Returns the columns `i`, `j`, `length` and `checkpoint`."""
        return zip(*_CLAIMS.iter_unpack(b"".join(self.headers)), strict=True)


def read_entries(items: Iterable[Any]) -> list[Entry]:
    """Reads stream entries in order, and proves each one and that none is missing between them."""
    return list(read_log(items))


def read_log(items: Iterable[Any]) -> Log:
    """Does what `read_entries` does, for a replay: without making the entries."""
    items = list(items)
    if not items:
        return Log((), (), (), ())
    try:
        log = _read_proven(items)
    except (ValueError, TypeError, AttributeError, LookupError, struct.error):
        log = None
    if log is not None:
        return log
    # One by one, to tell what is wrong with which.
    entries = [read_entry(item) for item in items]
    for before, entry in pairwise(entries):
        if entry.version != before.version + 1 or entry.parent != before.etag:
            raise BrokenChainError(entry.version, "an entry is missing or out of order")
    return Log.of(entries)


def _read_proven(items: Sequence[Any]) -> Log | None:
    """Reads and proves entries by columns; None, or any error of wrong types, when something is wrong."""
    ids, fields = zip(*items, strict=True)
    _, headers, _, times, _, bodies = zip(*fields, strict=True)
    first = int(ids[0].partition(b"-")[2])
    versions = range(first, first + len(ids))
    if list(ids) != list(map(b"0-%d".__mod__, versions)) or set(map(len, headers)) != {_HEADER.size}:
        return None
    parents, etags, rests = zip(*_HEADER_IN_LINK.iter_unpack(b"".join(headers)), strict=True)
    if parents[1:] != etags[:-1]:
        return None
    fresh = _ETAG.copy
    for link, body, etag in zip(map(_LINK_OF_HEADER.pack, versions, parents, rests), bodies, etags, strict=True):
        digest = fresh()
        digest.update(link)
        digest.update(body)
        if digest.digest() != etag:
            return None
    return Log(versions, headers, bodies, times)


def since(items: Sequence[Any], version: int) -> Sequence[Any]:
    """Returns the stream entries from `version` on. The log holds older ones only until they are trimmed."""
    try:
        if not items or items[0][0] == b"0-%d" % version:
            return items
        return [item for item in items if int(item[0].partition(b"-")[2]) >= version]
    except (TypeError, ValueError, LookupError, AttributeError):
        raise BrokenChainError(None, "an entry of the log is not readable") from None


@dataclass(slots=True)
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
        """The version of the newest revision."""
        return self.revision.version

    @property
    def etag(self) -> bytes:
        """The etag of the newest revision."""
        return self.revision.etag

    def check(self) -> bytes:
        """Returns 8 bytes over the head, so that a damaged one is never built upon."""
        return _check(self.version, self.etag, self.length, self.size, self.checkpoint, self.logged, self.meta)


class Base:
    """A run's content at a revision, as its store remembers it.

    The lists are shared with the bases that grew from this one by appending: only the first
    `head.length` items (of `log` the first `log_length`) belong to it. As in a snapshot, the single
    token in `grow` is the right to extend them in place. `mapping` is a mapping that encodes to the
    head's meta, if one is known.
    """

    __slots__ = ("born", "grow", "head", "items", "log", "log_length", "mapping", "pins", "sizes")

    def __init__(
        self,
        head: Head,
        items: list[Any],
        sizes: list[int],
        born: list[int],
        pins: list[bool],
        log: list[tuple[int, int]],
    ) -> None:
        self.head = head
        self.items = items
        self.sizes = sizes
        self.born = born
        self.pins = pins
        self.log = log
        self.log_length = len(log)
        self.grow: list[None] = [None]
        self.mapping: Mapping[str, JSONValue] | None = None

    def claim(self) -> bool:
        """Returns whether the caller may extend the lists in place. Of all that ask, one may."""
        try:
            self.grow.pop()
        except IndexError:
            return False
        return True

    @property
    def length(self) -> int:
        """The number of messages."""
        return self.head.length

    def messages(self, start: int = 0, stop: int | None = None) -> list[Any]:
        """Returns the messages from `start` to `stop`, in a list of the caller's own."""
        return self.items[start : self.length if stop is None else stop]


def decode_meta(data: bytes) -> Mapping[str, JSONValue]:
    """Decodes a run's meta.

    Raises:
        BrokenChainError: It does not decode.
    """
    try:
        found: Mapping[str, JSONValue] = codec.decode_meta(data)
    except ValueError as error:
        raise BrokenChainError(None, str(error)) from error
    return found


_HOLE: Final = -1


def replay(entries: Sequence[Entry], base: Base | None = None) -> Base:
    """Returns the content at the last of `entries`, which follow `base` or start at a checkpoint.

    Raises:
        BrokenChainError: They do not, or what they say of themselves is not so.
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


def _decode_bodies(entries: Log) -> codec.Bodies:
    try:
        return codec.decode_bodies(entries.bodies)
    except ValueError as error:
        problem = error
    # One by one, to tell what is wrong with which.
    for entry in entries:
        body = _body(entry.version, entry.body)
        try:
            codec.decode([*body.added, *(part for _, _, part in body.fills)])
        except ValueError as error:
            raise BrokenChainError(entry.version, str(error)) from error
    raise BrokenChainError(entries[-1].version, str(problem)) from problem


def _body(version: int, data: bytes) -> codec.Body:
    try:
        return codec.decode_body(data)
    except ValueError as error:
        raise BrokenChainError(version, str(error)) from error


def _appended(entries: Log, last: Entry, bodies: codec.Bodies, base: Base | None) -> Base | None:
    """Returns the content after entries that only append, as most do; None when there are others among them.

    The first that grows a base does so in place.
    """
    n, checkpoint = (base.length, base.head.checkpoint) if base is not None else (0, last.checkpoint)
    cut_from, cut_to, lengths, checkpoints = entries.claims()
    ends = tuple(accumulate(bodies.counts, initial=n))
    if not (cut_from == cut_to == ends[:-1] and lengths == ends[1:] and set(checkpoints) == {checkpoint}):
        return None
    flips: list[int] = []
    meta = base.head.meta if base is not None else _NO_META
    for place, (more_flips, new_meta, fills) in bodies.extras.items():
        if fills or (more_flips and not n <= min(more_flips) <= max(more_flips) < ends[place + 1]):
            return None
        flips += more_flips
        meta = new_meta if new_meta is not None else meta
    _weigh(last, (base.head.size if base is not None else 0) + sum(bodies.sizes))
    head = Head(last.revision(), last.length, last.size, last.checkpoint, last.logged, meta)
    pins = [False] * len(bodies.sizes)
    for index in flips:
        pins[index - n] = not pins[index - n]
    born = _births(entries, bodies)
    costs = _costs(entries)
    if base is None:
        return Base(head, bodies.messages, bodies.sizes, born, pins, costs)
    items, sizes, births, all_pins, log = base.items, base.sizes, base.born, base.pins, base.log
    if not base.claim():
        items, sizes, births, all_pins, log = items[:n], sizes[:n], births[:n], all_pins[:n], log[: base.log_length]
    items += bodies.messages
    sizes += bodies.sizes
    births += born
    all_pins += pins
    log += costs
    return Base(head, items, sizes, births, all_pins, log)


def _births(entries: Log, bodies: codec.Bodies) -> list[int]:
    return list(chain.from_iterable(map(repeat, entries.versions, bodies.counts)))


def _costs(entries: Log) -> list[tuple[int, int]]:
    return list(zip(entries.versions, map(ENTRY_OVERHEAD.__add__, map(len, entries.bodies)), strict=True))


def _weigh(last: Entry, size: int) -> None:
    if size != last.size:
        raise BrokenChainError(last.version, "the sizes do not add up")


class _Replay:
    """Content while entries are applied to it.

    The messages stand in one long row: those of the base, then those of the bodies. What is cut, appended
    and filled in is their places in it.
    """

    def __init__(self, entries: Log, bodies: codec.Bodies, base: Base | None) -> None:
        self.entries = entries
        self.bodies = bodies
        self.base = base
        self.added = base.length if base is not None else 0  # the place of the next message that is added
        self.checkpoint = 0  # the highest one
        if base is not None:
            self.order = list(range(self.added))
            self.pins = base.pins[: self.added]
            self.meta = base.head.meta
            return
        first = entries[0]
        _, _, fills = bodies.extras.get(0, _NOTHING)
        before = first.length - (bodies.counts[0] - len(fills)) + first.j - first.i
        if not 0 <= before < 2**32:
            raise BrokenChainError(first.version, "the lengths do not add up")
        self.order = [_HOLE] * before
        self.pins = [False] * before
        self.meta = _NO_META

    def run(self) -> Base:
        """Returns the content at the last entry."""
        for place, entry in enumerate(self.entries):
            try:
                self._apply(entry, self.bodies.counts[place], *self.bodies.extras.get(place, _NOTHING))
            except ValueError as error:
                raise BrokenChainError(entry.version, str(error)) from error
        return self._content()

    def _apply(
        self, entry: Entry, count: int, flips: Sequence[int], meta: bytes | None, fills: Sequence[tuple[int, bool]]
    ) -> None:
        order, pins = self.order, self.pins
        i, j = entry.i, entry.j
        if not i <= j <= len(order):
            raise ValueError("the cut lies outside of the conversation")
        if i != j:
            del order[i:j], pins[i:j]
        start, filled = self.added, self.added + count - len(fills)
        self.added += count
        order += range(start, filled)
        pins += [False] * (filled - start)
        n = len(order)
        if n != entry.length:
            raise ValueError("the lengths do not add up")
        for index in flips:
            if index >= n:
                raise ValueError("a pin lies outside of the conversation")
            pins[index] = not pins[index]
        for place, (index, pin) in enumerate(fills, filled):
            if index >= n:
                raise ValueError("a filled-in message lies outside of the conversation")
            order[index], pins[index] = place, pin
        if meta is not None:
            self.meta = meta
        elif entry.checkpoint == entry.version:
            self.meta = _NO_META  # a full checkpoint leaves nothing of the old but what it says
        if entry.checkpoint > entry.version:
            raise ValueError("the checkpoint lies in the future")
        self.checkpoint = max(self.checkpoint, entry.checkpoint)

    def _content(self) -> Base:
        base, bodies, last = self.base, self.bodies, self.entries[-1]
        if _HOLE in self.order:
            raise BrokenChainError(last.version, "a message is missing from the log")
        items, sizes, log = bodies.messages, bodies.sizes, _costs(self.entries)
        born = _births(self.entries, bodies)
        if base is not None:
            n = base.length
            items, sizes, born = base.items[:n] + items, base.sizes[:n] + sizes, base.born[:n] + born
            log = base.log[: base.log_length] + log
        items, sizes, born = (self._picked(row) for row in (items, sizes, born))
        _weigh(last, sum(sizes))
        head = Head(last.revision(), last.length, last.size, last.checkpoint, last.logged, self.meta)
        log = [cost for cost in log if cost[0] >= self.checkpoint]
        return Base(head, items, sizes, born, self.pins, log)

    def _picked(self, row: Sequence[Any]) -> list[Any]:
        return list(map(row.__getitem__, self.order))


_NO_META: Final = codec.encode_meta({})
_NOTHING: Final[tuple[Sequence[int], bytes | None, Sequence[tuple[int, bool]]]] = ((), None, ())


# How the body of an entry that only adds messages begins, by how many it adds. A longer list of sizes is rare.
_ADDS: Final = {bytes((0x81, 0x80 + count)): count for count in range(24)}


class Tail:
    """Messages `start` to `stop` of a conversation, found by following its log back from the newest entry.

    `_places` stands for the content before the oldest entry seen so far, from index `_origin` on: each message's place
    in the page, or a hole for a message that the page does not want. An entry's added messages leave at its end, and
    what the entry cut comes back as holes: so each entry costs what it changed, whatever the page's length is.

    Attributes:
        missing: Messages of the page that older entries hold.

    Args:
        length: Messages of the conversation.
        start: Index of the first message wanted.
        stop: Index after the last one.
    """

    def __init__(self, length: int, start: int, stop: int) -> None:
        self.missing = stop - start
        self._length = length
        self._origin = start
        self._places = [*range(self.missing), *repeat(_HOLE, length - stop)]
        self._parts: list[bytes | memoryview] = [b""] * self.missing
        self._pins = [False] * self.missing
        self._seen = 0
        self._added = 0

    def back(self, entries: Log) -> None:
        """Takes what it wants out of the entries before those seen so far. Ends where nothing is missing any more.

        Raises:
            BrokenChainError: What the entries say does not add up.
        """
        cut_from, cut_to, lengths, _ = map(reversed, entries.claims()) if len(entries) else ((), (), (), ())
        places, missing = self._places, self.missing
        for version, i, j, length, data in zip(
            reversed(entries.versions), cut_from, cut_to, lengths, reversed(entries.bodies), strict=True
        ):
            if not missing:
                break
            count = _ADDS.get(data[:2])
            body = None
            if count is None:
                body = _body(version, data)
                count = len(body.added)
            kept = length - count
            before = kept + j - i
            if length != self._length or kept < 0 or not i <= j <= before:
                raise BrokenChainError(version, "the lengths do not add up")
            if body is not None and (body.flips or body.fills):
                missing -= self._turn(body)
            # What the entry added stands at the end.
            first = max(kept - self._origin, 0)
            if len(places) - first != places[first:].count(_HOLE):
                added = (body or _body(version, data)).added
                skipped = max(self._origin - kept, 0)
                for part, place in zip(added[skipped:], places[first:], strict=True):
                    if place != _HOLE:
                        self._parts[place] = part
                        missing -= 1
            del places[first:]
            if i <= self._origin:
                self._origin += j - i
            elif i != j:
                at = i - self._origin
                places[at:at] = repeat(_HOLE, j - i)
            self._length = before
            self._seen += 1
            self._added += count
        self.missing = missing

    def _turn(self, body: codec.Body) -> int:
        """Turns the pins that an entry turns, and takes the messages that it fills in; returns how many."""
        places, origin = self._places, self._origin
        fills = {index: (pin, part) for index, pin, part in body.fills}
        for index in body.flips:
            place = places[index - origin] if origin <= index < origin + len(places) else _HOLE
            if place != _HOLE and index not in fills:
                self._pins[place] = not self._pins[place]
        found = 0
        for index, (pin, part) in fills.items():
            place = places[index - origin] if origin <= index < origin + len(places) else _HOLE
            if place != _HOLE:
                self._pins[place] ^= pin
                self._parts[place] = part
                places[index - origin] = _HOLE
                found += 1
        return found

    def reach(self) -> int:
        """Returns how many older entries hold what is missing, if they add as many messages as those seen so far.

        At least as many as were seen: so a few steps lead to the end, whatever the older ones are like.
        """
        first = next((at for at, place in enumerate(self._places) if place != _HOLE), 0)
        deep = len(self._places) - first
        return max(self._seen, -(-deep * self._seen // max(self._added, 1)))

    def page(self, version: int) -> tuple[list[Any], list[bool]]:
        """Returns the messages and their pins, when none is missing.

        Args:
            version: The version of the conversation, for the error's text.

        Raises:
            BrokenChainError: What is stored is no message.
        """
        try:
            return codec.decode(self._parts), self._pins
        except ValueError as error:
            raise BrokenChainError(version, str(error)) from error
