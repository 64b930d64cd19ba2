"""Log entries for tests: made by hand, and as the server returns them."""

from __future__ import annotations

import random
from typing import Any

from histstore import AssistantMessage, ToolCall, UserMessage
from histstore.log.base import Base
from histstore.log.entry import Entry
from histstore.log.head import Head
from histstore.log.header import Header
from histstore.log.plan import Target, Writer, grow, plan_append, plan_save

NO_LIMIT = 1 << 62
"""A limit of snapshots that no test reaches."""


def make_entry(
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
    """Returns an entry with the etag that belongs to it, whatever it claims."""
    header = Header.sealed(
        version,
        body,
        parent=parent,
        op=op,
        cut=cut,
        length=length,
        size=size,
        checkpoint=checkpoint,
        logged=logged,
        fence=fence,
    )
    return Entry(version, header, body)


def item(entry: Entry, saved: bytes = b"1700000000000") -> Any:
    """Returns an entry as it stands in the stream."""
    return [b"0-%d" % entry.version, [b"h", entry.header.pack(), b"t", saved, b"b", entry.body]]


def chain(count: int) -> tuple[list[Entry], Base]:
    """A conversation of `count` saves: one message each, every third pinned."""
    entries: list[Entry] = []
    base: Base | None = None
    head: Head | None = None
    messages: list[Any] = []
    for number in range(count):
        messages.append(UserMessage(f"{number}" * 300))
        pins = [n % 3 == 0 for n in range(len(messages))]
        plan = plan_save(
            head,
            base,
            Target(messages[:], pins, len(messages), {"n": number}),
            Writer(bytes([number] * 16), 0, NO_LIMIT),
        )
        assert plan is not None
        entries.append(plan.entry)
        base, head = grow(base, plan, plan.entry.revision()), plan.head
    assert base is not None
    return entries, base


def turns(count: int, first: Base | None = None, plain: bool = False) -> tuple[list[Entry], Base]:
    """Appends of two messages each."""
    entries: list[Entry] = []
    base, head = first, first.head if first is not None else None
    for number in range(count):
        text = f"{number} " * 200
        messages = [{"role": "user", "content": text}, {"role": "assistant", "content": text}]
        if not plain:
            messages = [UserMessage(text), AssistantMessage(text)]
        plan = plan_append(head, messages, False, None, Writer(bytes(16), number, NO_LIMIT))
        assert plan is not None
        entries.append(plan.entry)
        base, head = grow(base, plan, plan.entry.revision()), plan.head
    assert base is not None
    return entries, base


def history(seed: int, steps: int = 120) -> tuple[list[Entry], list[Base]]:
    """A random run: appends, windows that slide, pins, meta, checkpoints; the content after each save, as saved."""
    rng = random.Random(seed)
    entries: list[Entry] = []
    bases: list[Base] = []
    base: Base | None = None
    head: Head | None = None
    messages: list[Any] = []
    pins: list[bool] = []
    meta: dict[str, Any] = {}
    for number in range(steps):
        for _ in range(rng.randrange(3)):
            text = f"{number} " * rng.randrange(60)
            messages.append(
                rng.choice([UserMessage(text), AssistantMessage([ToolCall("1", "f", {"a": [1]})]), {"t": text}])
            )
            pins.append(rng.random() < 0.2)
        if rng.random() < 0.3 and messages:
            place = rng.randrange(len(messages))
            stop = place + rng.randrange(4)
            del messages[place:stop], pins[place:stop]
        if rng.random() < 0.2 and pins:
            place = rng.randrange(len(pins))
            pins[place] = not pins[place]
        if rng.random() < 0.3:
            meta = {"job": number}
        target = Target(messages[:], pins[:], len(messages), meta)
        plan = plan_save(head, base, target, Writer(rng.randbytes(16), 0, NO_LIMIT), full=rng.random() < 0.02)
        if plan is not None:
            entries.append(plan.entry)
            base, head = grow(base, plan, plan.entry.revision()), plan.head
            assert base is not None
            bases.append(base)
    return entries, bases
