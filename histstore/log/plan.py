"""What a save writes: an entry that turns what the run holds into what it is to hold."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final

from ..errors import SnapshotTooLargeError
from ..messages import JSONValue
from ..revision import Revision
from .base import Base
from .body import Body, encode_body, encode_messages
from .cut import find_cut
from .entry import ENTRY_OVERHEAD, Entry
from .head import Head
from .header import ABSENT, Header
from .message_codec import NO_META, encode, encode_meta

SLACK: Final = 4096
"""Dead bytes in a log that are never worth a checkpoint."""


# A save makes one of each of these classes. They are not frozen: that would double the time to make one.


@dataclass(slots=True)
class Target:
    """What the run is to hold: the lists behind a snapshot, of which the first `length` items count.

    Attributes:
        messages: The messages.
        pins: Whether each message is pinned.
        length: How many of them count.
        meta: The meta.
        shared: How many leading messages, with their pins, are known to be the base's own.
    """

    messages: Sequence[Any]
    pins: Sequence[bool]
    length: int
    meta: Mapping[str, JSONValue]
    shared: int = 0


@dataclass(slots=True)
class Plan:
    """An entry to write, and what the store will remember once it is written.

    Attributes:
        entry: The entry.
        meta: The encoded meta of the run after the entry.
        items: The messages that the entry adds.
        sizes: Their encoded bytes.
        pins: The pins of the whole new content; None: the old pins, and one value for all added messages.
        filled: Indices of the messages that an anchor fills in.
        meta_changed: Whether the save must write the head's meta.
        mapping: The mapping that `meta` was encoded from; None: unknown.
    """

    entry: Entry
    meta: bytes
    items: list[Any]
    sizes: list[int]
    pins: list[bool] | None
    filled: list[int]
    meta_changed: bool
    mapping: Mapping[str, JSONValue] | None

    @property
    def head(self) -> Head:
        """The head that the entry makes, without the time that only the server knows."""
        return self.entry.head(self.entry.revision(), self.meta)


@dataclass(slots=True)
class Writer:
    """What a save adds to the content.

    Attributes:
        op: 16 random bytes, made once for a save and kept over its retries.
        fence: The fencing token of the lease that the save carries; 0: none.
        limit: The largest snapshot allowed, in bytes.
    """

    op: bytes
    fence: int
    limit: int


def plan_save(
    parent: Head | None, base: Base | None, target: Target, writer: Writer, full: bool = False
) -> Plan | None:
    """Plan the save of `target` onto `parent`. Return None if the content did not change.

    Args:
        parent: The head to save onto; None: the run is absent.
        base: The content at `parent`; None: not cached, and the save is a full checkpoint.
        target: The content to save.
        writer: The save's own marks.
        full: Write a full checkpoint, even if the content did not change.

    Raises:
        SnapshotTooLargeError: The snapshot is too large.
    """
    if parent is None or base is None:
        items, pins = list(target.messages[: target.length]), list(target.pins[: target.length])
        return _plan_full(parent, writer, items, _encoded(items), pins, encode_meta(target.meta), mapping=target.meta)
    n = base.length
    if target.shared == n and not (full or True in target.pins[n : target.length] or worth_a_checkpoint(parent)):
        meta = None if target.meta is base.mapping else encode_meta(target.meta)
        plan = plan_append(parent, target.messages[n : target.length], False, meta, writer)
        if plan is not None:
            plan.mapping = target.meta
        return plan
    change = _compare(parent, base, target)
    if full:
        return _full_checkpoint(parent, base, target, change, writer)
    if not change:
        return None
    body = encode_body(Body(change.parts, change.flips, change.meta if change.meta_changed else None))
    logged = parent.logged + len(body) + ENTRY_OVERHEAD
    dead, tolerated = logged - change.size, max(change.size, SLACK)
    if (dead > tolerated and change.i < change.j) or dead > tolerated * 3 // 2:
        start, resent = _anchor_start(base, change)
        # A window soon drops the few old messages that an anchor would resend now: wait for that if they are many.
        if dead > tolerated * 3 // 2 or resent <= max(512, len(body) // 5):
            if start is None:
                return _full_checkpoint(parent, base, target, change, writer)
            return _anchor(parent, base, target, change, writer, start)
    entry = _entry(
        parent, writer, body, change.cut, length=target.length, size=change.size, start=parent.checkpoint, logged=logged
    )
    sizes = list(map(len, change.parts))
    return Plan(entry, change.meta, change.items, sizes, change.pins, [], change.meta_changed, target.meta)


def plan_append(
    parent: Head | None, messages: Sequence[Any], pinned: bool, meta: bytes | None, writer: Writer
) -> Plan | None:
    """Plan an append, which needs no base. Return None if there is nothing to write.

    Args:
        parent: The head to append to; None: the run is absent.
        messages: Frozen messages.
        pinned: Whether they are pinned.
        meta: The encoded meta of the run from now on; None: unchanged.
        writer: The save's own marks.

    Raises:
        SnapshotTooLargeError: The snapshot would be too large.
    """
    items, encoded = list(messages), _encoded(messages)
    if parent is None:
        meta = NO_META if meta is None else meta
        return _plan_full(None, writer, items, encoded, [pinned] * len(items), meta, mapping=None)
    n = parent.length
    new_meta = parent.meta if meta is None else meta
    meta_changed = new_meta != parent.meta
    if not messages and not meta_changed:
        return None
    sizes = list(map(len, encoded))
    size = parent.size + sum(sizes)
    length = n + len(items)
    if pinned or meta_changed:
        flips = list(range(n, length)) if pinned else []
        body = encode_body(Body(encoded, flips, new_meta if meta_changed else None))
    else:
        body = encode_messages(encoded, sizes)
    logged = parent.logged + len(body) + ENTRY_OVERHEAD
    entry = _entry(parent, writer, body, (n, n), length=length, size=size, start=parent.checkpoint, logged=logged)
    return Plan(entry, new_meta, items, sizes, None, [], meta_changed, None)


def worth_a_checkpoint(head: Head) -> bool:
    """Return whether a run's log holds more dead bytes than live ones."""
    return head.logged - head.size > max(head.size, SLACK)


def grow(base: Base | None, plan: Plan, revision: Revision, pins_appended: bool = False) -> Base | None:
    """Return the content after `plan` was applied to `base`. Return None if `base` is not the plan's parent.

    Args:
        base: The content at the plan's parent; None: not cached.
        plan: What was written.
        revision: The new revision, with the time that the server returned.
        pins_appended: Whether the messages of an append are pinned.
    """
    entry = plan.entry
    header = entry.header
    head = entry.head(revision, plan.meta)
    added = len(plan.items)
    cost = (entry.version, len(entry.body) + ENTRY_OVERHEAD)
    if header.checkpoint == entry.version:
        pins = plan.pins if plan.pins is not None else [pins_appended] * added
        grown = Base(head, plan.items, plan.sizes, [entry.version] * added, pins, [cost])
        grown.mapping = plan.mapping
        return grown
    if base is None or base.head.etag != header.parent:
        return None
    n, i, j = base.length, header.i, header.j
    if i == j == n and plan.pins is None and not plan.filled and base.claim():
        items, sizes, born, pins, costs = base.items, base.sizes, base.born, base.pins, base.costs
    else:
        items, sizes = base.items[:i] + base.items[j:n], base.sizes[:i] + base.sizes[j:n]
        born, pins = base.born[:i] + base.born[j:n], base.pins[:i] + base.pins[j:n]
        costs = [old for old in base.costs[: base.cost_count] if old[0] >= header.checkpoint]
    items += plan.items
    sizes += plan.sizes
    born += [entry.version] * added
    pins += [pins_appended] * added
    for index in plan.filled:
        born[index] = entry.version
    costs.append(cost)
    if plan.pins is not None:
        pins = plan.pins
    grown = Base(head, items, sizes, born, pins, costs)
    grown.mapping = base.mapping if plan.mapping is None and not plan.meta_changed else plan.mapping
    return grown


# -------------------------------------------------------------------------------------------- changes


@dataclass(slots=True)
class _Change:
    """How a target differs from the base.

    Attributes:
        i: Index of the first message that is cut out of the base.
        j: Index after the last one.
        items: The messages to add.
        parts: The same, encoded.
        pins: The pins of the whole new content; None: the base's, and unpinned for the added messages.
        flips: Indices in the new content whose pin differs from what the cut leaves.
        size: Encoded bytes of the whole new content.
        meta: The encoded meta.
        meta_changed: Whether it differs from the head's.
    """

    i: int
    j: int
    items: list[Any]
    parts: list[bytes]
    pins: list[bool] | None
    flips: list[int]
    size: int
    meta: bytes
    meta_changed: bool

    def __bool__(self) -> bool:
        return bool(self.items or self.i != self.j or self.flips or self.meta_changed)

    @property
    def cut(self) -> tuple[int, int]:
        return self.i, self.j

    def kept(self, row: Sequence[Any], length: int) -> list[Any]:
        """Return what the cut leaves of a row of the base's, whose first `length` items count."""
        return [*row[: self.i], *row[self.j : length]]


def _compare(parent: Head, base: Base, target: Target) -> _Change:
    n = base.length
    new_pins = list(target.pins[: target.length])
    if target.shared == n:
        i = j = n
        items = list(target.messages[n : target.length])
        flips = [index for index in range(n, target.length) if new_pins[index]]
        pins = new_pins if flips else None
    else:
        items = list(target.messages[: target.length])
        i, j = find_cut(base.items[:n], items)
        items = items[i + n - j :]
        left = base.pins[:i] + base.pins[j:n] + [False] * len(items)
        flips = [index for index, (old, new) in enumerate(zip(left, new_pins, strict=True)) if old != new]
        pins = new_pins
    parts = _encoded(items)
    size = parent.size + sum(map(len, parts))
    if i < j:
        size -= sum(base.sizes[i:j])
    meta = encode_meta(target.meta)
    return _Change(i, j, items, parts, pins, flips, size, meta, meta != parent.meta)


def _entry(
    parent: Head | None,
    writer: Writer,
    body: bytes,
    cut: tuple[int, int],
    *,
    length: int,
    size: int,
    start: int | None,
    logged: int,
) -> Entry:
    """Return the entry after `parent`. Its readers start at version `start`; None: at the entry itself."""
    if size > writer.limit:
        raise SnapshotTooLargeError(size, writer.limit)
    version, etag = 1, ABSENT
    if parent is not None:
        version, etag = parent.revision.version + 1, parent.revision.etag
    header = Header.sealed(
        version,
        body,
        parent=etag,
        op=writer.op,
        cut=cut,
        length=length,
        size=size,
        checkpoint=version if start is None else start,
        logged=logged,
        fence=writer.fence,
    )
    # Not `Entry(…)`: that runs Python code, and every save would pay for it.
    return tuple.__new__(Entry, (version, header, body, b""))


# ---------------------------------------------------------------------------------------- checkpoints


def _plan_full(
    parent: Head | None,
    writer: Writer,
    items: list[Any],
    encoded: list[bytes],
    pins: list[bool],
    meta: bytes,
    *,
    mapping: Mapping[str, JSONValue] | None,
) -> Plan:
    """Plan an entry that holds everything, so that readers need no older one."""
    sizes = list(map(len, encoded))
    flips = [index for index, pin in enumerate(pins) if pin]
    body = encode_body(Body(encoded, flips, None if meta == NO_META else meta))
    entry = _entry(
        parent,
        writer,
        body,
        (0, parent.length if parent is not None else 0),
        length=len(items),
        size=sum(sizes),
        start=None,
        logged=len(body) + ENTRY_OVERHEAD,
    )
    return Plan(entry, meta, items, sizes, pins, [], parent is None or meta != parent.meta, mapping)


def _full_checkpoint(parent: Head, base: Base, target: Target, change: _Change, writer: Writer) -> Plan:
    """Plan an entry that replaces the whole log."""
    kept, pins = change.kept(base.items, base.length), list(target.pins[: target.length])
    items, encoded = kept + change.items, _encoded(kept) + change.parts
    return _plan_full(parent, writer, items, encoded, pins, change.meta, mapping=target.meta)


def _anchor(parent: Head, base: Base, target: Target, change: _Change, writer: Writer, start: int) -> Plan:
    """Plan an entry that resends the messages older than version `start`, so that its readers can start there."""
    n = base.length
    kept, kept_sizes = change.kept(base.items, n), change.kept(base.sizes, n)
    filled = [index for index, version in enumerate(change.kept(base.born, n)) if version < start]
    pins = list(target.pins[: target.length])
    fills = [(index, pins[index], encode(kept[index])) for index in filled]
    if any(len(part) != kept_sizes[index] for index, _, part in fills):
        # C code has changed a frozen message (`obj.__dict__ = message`, heapq). The sizes of an anchor would not add
        # up, and the run would be damaged for everybody. A full checkpoint holds the messages as they are now.
        return _full_checkpoint(parent, base, target, change, writer)
    # Readers that start at `start` have not seen the meta either.
    body = encode_body(Body(change.parts, change.flips, change.meta, fills))
    retained = sum(cost for version, cost in base.costs[: base.cost_count] if version >= start)
    entry = _entry(
        parent,
        writer,
        body,
        change.cut,
        length=target.length,
        size=change.size,
        start=start,
        logged=retained + len(body) + ENTRY_OVERHEAD,
    )
    sizes = list(map(len, change.parts))
    return Plan(entry, change.meta, change.items, sizes, pins, filled, change.meta_changed, target.meta)


def _anchor_start(base: Base, change: _Change) -> tuple[int | None, int]:
    """Return the version where an anchor's readers start, and the bytes that it resends.

    Of the versions that leave at most a quarter of dead bytes, it is the one that resends least. None means that a full
    checkpoint is better.
    """
    n, size = base.length, change.size
    costs = base.costs[: base.cost_count]
    live: dict[int, int] = {}
    resent = 0
    for version, bytes_ in zip(change.kept(base.born, n), change.kept(base.sizes, n), strict=True):
        live[version] = live.get(version, 0) + bytes_
        resent += bytes_
    retained = sum(cost for _, cost in costs)
    best = None
    older = sum(bytes_ for version, bytes_ in live.items() if version < costs[0][0]) if costs else 0
    for version, cost in costs:
        if retained + older <= size + max(size // 4, SLACK) and older < resent:
            best, resent = version, older
            break
        older += live.get(version, 0)
        retained -= cost
    return (best, resent) if best is not None and resent * 2 <= size else (None, size)


def _encoded(messages: Iterable[Any]) -> list[bytes]:
    return list(map(encode, messages))
