"""What a save must write: the cut between what the run holds and what it is to hold."""

from __future__ import annotations

import operator
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from itertools import compress, count, islice, repeat
from typing import Any, Final

from ..errors import SnapshotTooLargeError
from ..messages import JSONValue
from ..snapshot import Revision
from . import codec
from .chain import ABSENT, ENTRY_OVERHEAD, Base, Entry, Head

SLACK: Final = 4096
"""Dead bytes that are never worth a checkpoint."""


@dataclass(slots=True)
class Target:
    """What the run is to hold: the lists behind a snapshot, of which the first `length` items count.

    Attributes:
        messages: The messages.
        pins: Their pins.
        length: How many of them count.
        meta: The mapping.
        shared: How many leading messages, with their pins, are known to be the base's own.
    """

    messages: Sequence[Any]
    pins: Sequence[bool]
    length: int
    meta: Mapping[str, JSONValue]
    shared: int = 0


@dataclass(slots=True)
class Plan:
    """An entry to write, and what the store will remember when it is written.

    Attributes:
        entry: The entry.
        meta: The encoded meta that the run has with it.
        items: The messages that it adds.
        sizes: Their encoded sizes.
        pins: The pins of the whole new content, or None: as they were, and unpinned for what is added.
        filled: Indices that an anchor fills in.
        meta_changed: Whether the head's meta is to be written.
        mapping: The mapping that `meta` was encoded from, if it is known.
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
        """The head that it makes, as far as it is known before the server's answer."""
        return self.entry.head(self.entry.revision(), self.meta)


@dataclass(slots=True)
class Writer:
    """What a save brings along besides the content.

    Attributes:
        op: 16 random bytes, made once a save and kept over its retries.
        fence: The fencing token of the lease it carries; 0: none.
        limit: The largest snapshot allowed, in bytes.
    """

    op: bytes
    fence: int
    limit: int


def plan_save(
    parent: Head | None, base: Base | None, target: Target, writer: Writer, full: bool = False
) -> Plan | None:
    """Plans the save of `target` onto `parent`; None when the content did not change.

    Args:
        parent: The head it goes onto; None: the run is absent.
        base: The content at `parent`, when it is at hand; without it the save is a full checkpoint.
        target: The content to save.
        writer: The save's own marks.
        full: Write a full checkpoint, also when the content did not change.

    Raises:
        SnapshotTooLargeError: The snapshot is too large.
    """
    if parent is None or base is None:
        items = list(target.messages[: target.length])
        return _full(parent, items, _encoded(items), list(target.pins[: target.length]), target.meta, writer)
    n = base.length
    flips: list[int] = []
    pins = None
    if target.shared == n:
        pinned = True in target.pins[n : target.length]
        if not (full or pinned or worth_a_checkpoint(parent)):
            new_meta = None if target.meta is base.mapping else codec.encode_meta(target.meta)
            plan = plan_append(parent, target.messages[n : target.length], False, new_meta, writer)
            if plan is not None:
                plan.mapping = target.meta
            return plan
        i = j = n
        items = list(target.messages[n : target.length])
        if pinned:
            pins = list(target.pins[: target.length])
            flips = [k for k in range(n, target.length) if pins[k]]
    else:
        items = list(target.messages[: target.length])
        i, j = find_cut(base.items[:n], items)
        items = items[i + n - j :]
        left = base.pins[:i] + base.pins[j:n] + [False] * len(items)
        pins = list(target.pins[: target.length])
        flips = [k for k, (old, new) in enumerate(zip(left, pins, strict=True)) if old != new]
    meta = codec.encode_meta(target.meta)
    meta_changed = meta != parent.meta
    if not full and not items and i == j and not flips and not meta_changed:
        return None
    parts = _encoded(items)
    sizes = list(map(len, parts))
    size = parent.size + sum(sizes)
    if i < j:
        size -= sum(base.sizes[i:j])
    body = codec.encode_body(codec.Body(parts, flips, meta if meta_changed else None))
    logged = parent.logged + len(body) + ENTRY_OVERHEAD
    dead, bearable = logged - size, max(size, SLACK)
    if full or (dead > bearable and i < j) or dead > bearable * 3 // 2:
        start, resent = None, size
        if not full:
            kept_born, kept_sizes = base.born[:i] + base.born[j:n], base.sizes[:i] + base.sizes[j:n]
            start, resent = _anchor(kept_born, kept_sizes, base.log[: base.log_length], size)
        # A window soon drops the few old messages that an anchor would resend now.
        if full or dead > bearable * 3 // 2 or resent <= max(512, len(body) // 5):
            return _checkpoint(parent, base, target, (i, j), items, parts, flips, meta, writer, size, start)
    entry = _entry(parent, writer, (i, j), target.length, size, parent.checkpoint, logged, body)
    return Plan(entry, meta, items, sizes, pins, [], meta_changed, target.meta)


def plan_append(
    parent: Head | None, messages: Sequence[Any], pinned: bool, meta: bytes | None, writer: Writer
) -> Plan | None:
    """Plans an append, which needs no base; None when there is nothing to write.

    Args:
        parent: The head it goes onto; None: the run is absent.
        messages: Frozen messages.
        pinned: Whether they are pinned.
        meta: The encoded meta that the run has with it; None: as it is.
        writer: The save's own marks.

    Raises:
        SnapshotTooLargeError: The snapshot would be too large.
    """
    if parent is None:
        items = list(messages)
        return _full(None, items, _encoded(items), [pinned] * len(items), None, writer, meta)
    n = parent.length
    new_meta = parent.meta if meta is None else meta
    meta_changed = new_meta != parent.meta
    if not messages and not meta_changed:
        return None
    items, encoded = list(messages), _encoded(messages)
    sizes = list(map(len, encoded))
    size = parent.size + sum(sizes)
    length = n + len(items)
    if pinned or meta_changed:
        flips = list(range(n, length)) if pinned else []
        body = codec.encode_body(codec.Body(encoded, flips, new_meta if meta_changed else None))
    else:
        body = codec.encode_messages(encoded, sizes)
    logged = parent.logged + len(body) + ENTRY_OVERHEAD
    entry = _entry(parent, writer, (n, n), length, size, parent.checkpoint, logged, body)
    return Plan(entry, new_meta, items, sizes, None, [], meta_changed, None)


def worth_a_checkpoint(head: Head) -> bool:
    """Tells whether there is more dead than alive in a run's log."""
    return head.logged - head.size > max(head.size, SLACK)


def grow(base: Base | None, plan: Plan, revision: Revision, pins_appended: bool = False) -> Base | None:
    """Returns the content after `plan` was applied to `base`; None when it cannot be told.

    Args:
        base: The content at the plan's parent.
        plan: What was written.
        revision: The new revision, as the server told it.
        pins_appended: Whether what an append added is pinned.
    """
    entry = plan.entry
    head = entry.head(revision, plan.meta)
    added = len(plan.items)
    cost = (entry.version, len(entry.body) + ENTRY_OVERHEAD)
    if entry.checkpoint == entry.version:
        pins = plan.pins if plan.pins is not None else [pins_appended] * added
        found = Base(head, plan.items, plan.sizes, [entry.version] * added, pins, [cost])
        found.mapping = plan.mapping
        return found
    if base is None or base.head.etag != entry.parent:
        return None
    n, i, j = base.length, entry.i, entry.j
    if i == j == n and plan.pins is None and not plan.filled and base.claim():
        items, sizes, born, pins, log = base.items, base.sizes, base.born, base.pins, base.log
    else:
        items, sizes = base.items[:i] + base.items[j:n], base.sizes[:i] + base.sizes[j:n]
        born, pins = base.born[:i] + base.born[j:n], base.pins[:i] + base.pins[j:n]
        log = [old for old in base.log[: base.log_length] if old[0] >= entry.checkpoint]
    items += plan.items
    sizes += plan.sizes
    born += [entry.version] * added
    pins += [pins_appended] * added
    for index in plan.filled:
        born[index] = entry.version
    log.append(cost)
    if plan.pins is not None:
        pins = plan.pins
    found = Base(head, items, sizes, born, pins, log)
    found.mapping = base.mapping if plan.mapping is None and not plan.meta_changed else plan.mapping
    return found


# ------------------------------------------------------------------------------------------ entries


def _entry(
    parent: Head | None,
    writer: Writer,
    cut: tuple[int, int],
    length: int,
    size: int,
    checkpoint: int,
    logged: int,
    body: bytes,
) -> Entry:
    if size > writer.limit:
        raise SnapshotTooLargeError(size, writer.limit)
    version, etag = 1, ABSENT
    if parent is not None:
        version, etag = parent.revision.version + 1, parent.revision.etag
    start = checkpoint or version
    return Entry.make(version, etag, writer.op, cut, length, size, start, logged, writer.fence, body)


def _full(
    parent: Head | None,
    items: list[Any],
    encoded: list[bytes],
    pins: list[bool],
    mapping: Mapping[str, JSONValue] | None,
    writer: Writer,
    meta: bytes | None = None,
) -> Plan:
    """Plans an entry that needs no parent. Its meta is `meta`, or else `mapping`."""
    if meta is None:
        meta = codec.encode_meta(mapping)
    sizes = list(map(len, encoded))
    size = sum(sizes)
    flips = [index for index, pin in enumerate(pins) if pin]
    body = codec.encode_body(codec.Body(encoded, flips, None if meta == codec.NO_META else meta))
    cut = (0, parent.length if parent is not None else 0)
    logged = len(body) + ENTRY_OVERHEAD
    entry = _entry(parent, writer, cut, len(items), size, 0, logged, body)
    changed = parent is None or meta != parent.meta
    return Plan(entry, meta, items, sizes, pins, [], changed, mapping)


def _checkpoint(
    parent: Head,
    base: Base,
    target: Target,
    cut: tuple[int, int],
    items: list[Any],
    parts: list[bytes],
    flips: list[int],
    meta: bytes,
    writer: Writer,
    size: int,
    start: int | None,
) -> Plan:
    """Plans an entry after which the log's dead bytes can be trimmed.

    An anchor resends only the messages that are older than `start`, where its readers start. With None
    the entry holds everything.
    """
    i, j = cut
    n = base.length
    kept_born = base.born[:i] + base.born[j:n]
    pins = list(target.pins[: target.length])
    if start is None:
        kept = base.items[:i] + base.items[j:n]
        return _full(parent, kept + items, _encoded(kept) + parts, pins, target.meta, writer, meta)
    filled = [index for index, version in enumerate(kept_born) if version < start]
    kept, kept_sizes = base.items[:i] + base.items[j:n], base.sizes[:i] + base.sizes[j:n]
    fills = [(k, pins[k], codec.encode(kept[k])) for k in filled]
    if any(len(part) != kept_sizes[k] for k, _, part in fills):
        # C code went past a frozen message (`obj.__dict__ = message`, heapq). An anchor of it would add up no more, and
        # the run would be damaged for everybody; a full checkpoint holds all of what the messages are now.
        return _full(parent, kept + items, _encoded(kept) + parts, pins, target.meta, writer, meta)
    # Readers that start here have not seen the meta either.
    body = codec.encode_body(codec.Body(parts, flips, meta, fills))
    logged = sum(cost for version, cost in base.log[: base.log_length] if version >= start) + len(body) + ENTRY_OVERHEAD
    entry = _entry(parent, writer, cut, target.length, size, start, logged, body)
    sizes = list(map(len, parts))
    return Plan(entry, meta, items, sizes, pins, filled, meta != parent.meta, target.meta)


def _anchor(
    born: Sequence[int], sizes: Sequence[int], log: Sequence[tuple[int, int]], size: int
) -> tuple[int | None, int]:
    """Returns where an anchor's readers start, None when a full checkpoint is better, and the bytes resent.

    Of the starts that leave at most a quarter of dead weight, the one that resends least.
    """
    live: dict[int, int] = {}
    for version, bytes_ in zip(born, sizes, strict=True):
        live[version] = live.get(version, 0) + bytes_
    resent = sum(sizes)
    retained = sum(cost for _, cost in log)
    best = None
    older = sum(bytes_ for version, bytes_ in live.items() if version < log[0][0]) if log else 0
    for version, cost in log:
        if retained + older <= size + max(size // 4, SLACK) and older < resent:
            best, resent = version, older
            break
        older += live.get(version, 0)
        retained -= cost
    return (best, resent) if best is not None and resent * 2 <= size else (None, size)


def _encoded(messages: Iterable[Any]) -> list[bytes]:
    return list(map(codec.encode, messages))


# --------------------------------------------------------------------------------------------- cuts


def find_cut(old: Sequence[Any], new: Sequence[Any]) -> tuple[int, int]:
    """Returns (i, j) so that `new` starts with `old[:i] + old[j:]`, with as much kept as one cut can.

    First the longest common prefix, then the longest end of `old` that `new` continues with (the failure function of
    Knuth, Morris and Pratt, so that repeats cost no more). A message that is the same object on both sides is not
    encoded: it is frozen, so it has not changed.
    """
    i = _common(old, new)
    old, new = old[i:], new[i:]
    if not old or not new:
        return i, i + len(old)
    at = next(compress(count(), map(operator.is_, old, repeat(new[0]))), len(old))
    if at < len(old) <= at + len(new) and all(map(operator.is_, islice(old, at, None), new)):
        return i, i + at  # a window that has slid: identity finds the cut, without a step of Python for each message
    old_keys, new_keys = _keys(old, new)
    failure = [0] * len(new_keys)
    matched = 0
    for k in range(1, len(new_keys)):
        while matched and new_keys[k] != new_keys[matched]:
            matched = failure[matched - 1]
        matched += new_keys[k] == new_keys[matched]
        failure[k] = matched
    matched = 0
    for key in old_keys:
        if matched == len(new_keys):
            matched = failure[matched - 1]
        while matched and key != new_keys[matched]:
            matched = failure[matched - 1]
        matched += key == new_keys[matched]
    return i, i + len(old) - matched


def _common(old: Sequence[Any], new: Sequence[Any]) -> int:
    """Returns the length of the common prefix. Identical objects are passed over at C speed."""
    others = compress(count(), map(operator.is_not, old, new))
    # Encodings are compared, not values: Python calls 1, 1.0 and True equal, and 0.0 and -0.0.
    return next((k for k in others if codec.encode(old[k]) != codec.encode(new[k])), min(len(old), len(new)))


def _keys(old: Sequence[Any], new: Sequence[Any]) -> tuple[list[Any], list[Any]]:
    """Returns values that are equal only where the messages are. Objects on both sides are known by their identity."""
    shared = set(map(id, old)).intersection(map(id, new))
    if shared.issuperset(map(id, new)):
        return list(map(id, old)), list(map(id, new))
    old_keys, new_keys = (
        [id(message) if id(message) in shared else codec.encode(message) for message in side] for side in (old, new)
    )
    return old_keys, new_keys
