"""What a save writes: checkpoints and anchors, replayed as a reader replays them."""

from __future__ import annotations

import random
from typing import Any

import pytest

from histstore import SnapshotTooLargeError, UserMessage
from histstore.log.base import Base
from histstore.log.columns import read_entries
from histstore.log.entry import ENTRY_OVERHEAD, Entry
from histstore.log.head import Head
from histstore.log.message_codec import encode, encode_meta
from histstore.log.plan import SLACK, Plan, Target, Writer, grow, plan_append, plan_save
from histstore.log.replay import replay

from ...support.entries import NO_LIMIT
from ...support.samples import faithful
from ...support.tails import tail


class Log:
    """A run as the save script keeps it: the entries since the newest one's checkpoint."""

    def __init__(self) -> None:
        self.entries: list[Entry] = []
        self.head: Head | None = None

    def write(self, plan: Plan, trim: bool = True) -> None:
        entry = plan.entry
        assert entry.version == (self.head.version if self.head else 0) + 1
        assert entry.parent == (self.head.etag if self.head else bytes(16))
        assert 0 < entry.checkpoint <= entry.version
        if self.head is not None:
            assert entry.checkpoint >= self.head.checkpoint, "a checkpoint moved back"
        self.entries.append(entry)
        if trim:
            self.entries = [each for each in self.entries if each.version >= entry.checkpoint]
        assert self.entries[0].version <= entry.checkpoint, "trimmed away what readers start from"
        self.head = plan.head

    def items(self) -> list[Any]:
        return [(f"0-{e.version}".encode(), [b"h", e.header.pack(), b"t", b"1000", b"b", e.body]) for e in self.entries]

    def read(self) -> Base:
        assert self.head is not None
        entries = [entry for entry in read_entries(self.items()) if entry.version >= self.head.checkpoint]
        return replay(entries)


def same(one: Base, two: Base) -> None:
    """Two ways to know a run must agree on all of it."""
    n = one.length
    assert (one.head, two.head.check()) == (two.head, one.head.check())
    for name in ("items", "sizes", "born", "pins"):
        assert getattr(one, name)[:n] == getattr(two, name)[:n], name
    assert one.costs[: one.cost_count] == two.costs[: two.cost_count]


@pytest.mark.parametrize("seed", range(40))
def test_random_histories_replay(seed: int) -> None:
    """Splices, pins, meta, windows and appends: a reader's replay, the writer's memory and the target agree.

    The log is trimmed as the save script does; anchors fill in what trimming took away.
    """
    rng = random.Random(seed)
    log = Log()
    messages: list[Any] = []
    pins: list[bool] = []
    meta: dict[str, Any] = {}
    base: Base | None = None
    old: Base | None = None
    kinds: set[str] = set()

    def fresh(number: int) -> Any:
        text = f"{number} " + "x" * rng.choice((0, 10, 300, 2000))
        return UserMessage(text) if rng.random() < 0.5 else {"content": text}

    # A kept system prompt, now and then a big one: what makes anchors worth while.
    messages, pins = [UserMessage("s" * rng.choice((10, 3000, 20_000)))], [True]
    for step in range(120):
        where = f"seed {seed}, step {step}"
        kind = rng.choice(("turn", "turn", "turn", "window", "splice", "pin", "meta", "append", "none"))
        shared = 0
        if kind == "turn":
            shared = len(messages)
            added = [fresh(step) for _ in range(rng.randrange(1, 3))]
            messages, pins = messages + added, pins + [rng.random() < 0.2 for _ in added]
        elif kind == "window":
            cut = slice(1, max(1, len(messages) - 12))
            messages, pins = messages[:], pins[:]
            del messages[cut], pins[cut]
        elif kind == "splice":
            low = rng.randrange(len(messages) + 1)
            high = min(len(messages), low + rng.randrange(4))
            added = [fresh(step) for _ in range(rng.randrange(3))]
            messages = messages[:low] + added + messages[high:]
            pins = pins[:low] + [False] * len(added) + pins[high:]
        elif kind == "pin" and pins:
            at = rng.randrange(len(pins))
            pins = [*pins[:at], not pins[at], *pins[at + 1 :]]
        elif kind == "meta":
            meta = rng.choice(({}, {"a": 1}, {"a": True}, {"b": "y" * 300}))
        writer = Writer(rng.randbytes(16), 0, NO_LIMIT)
        if kind == "append" and log.head is not None and base is not None:
            added, pin = [fresh(step)], rng.random() < 0.5
            plan = plan_append(log.head, added, pin, None, writer)
            messages, pins = messages + added, [*pins, pin]
            assert plan is not None
            log.write(plan)
            base = grow(base, plan, plan.entry.revision(), pin)
        else:
            known = base if rng.random() < 0.95 else None  # a writer that does not have the content at hand
            target = Target(messages, pins, len(messages), meta, shared if known is not None and base is known else 0)
            if shared and known is not None and shared != known.length:
                target = Target(messages, pins, len(messages), meta)
            plan = plan_save(log.head, known, target, writer, full=rng.random() < 0.01)
            if plan is None:
                assert known is not None
                assert known.messages() == messages, where
                assert known.pins[: known.length] == pins, where
                assert known.head.meta == encode_meta(meta), where
                continue
            log.write(plan)
            kinds.add("anchor" if plan.filled else "full" if plan.entry.checkpoint == plan.entry.version else "delta")
            base = grow(known, plan, plan.entry.revision())
            if known is not None:
                dead = sum(len(e.body) + ENTRY_OVERHEAD for e in log.entries) - plan.head.size
                live = max(plan.head.size, SLACK)
                assert dead <= live * 3 // 2 + ENTRY_OVERHEAD + len(plan.entry.body), where
        found = log.read()
        assert found.messages() == messages, where
        assert found.pins == pins, where
        assert found.head.meta == encode_meta(meta), where
        assert found.head.size == sum(len(encode(message)) for message in messages) == sum(found.sizes), where
        assert found.head == log.head, where
        assert base is not None
        same(base, found)
        assert [faithful(m) for m in base.messages()] == [faithful(m) for m in messages], where
        if old is not None and old.head.version >= log.entries[0].version - 1 and old.head.version < found.head.version:
            newer = [entry for entry in log.entries if entry.version > old.head.version]
            later = replay(newer, old)
            assert (later.items, later.pins, later.head) == (found.items, found.pins, found.head), where
        low, high = sorted(rng.randrange(len(messages) + 1) for _ in range(2))
        part = tail(log.entries, low, high)
        assert part is not None, where
        assert [faithful(m) for m in part[0]] == [faithful(m) for m in messages[low:high]], where
        assert part[1] == pins[low:high], where
        if rng.random() < 0.1:
            base = found
        if rng.random() < 0.1:
            old = found
    assert "delta" in kinds
    assert kinds & {"anchor", "full"}, f"seed {seed} never made a checkpoint"


def test_a_sliding_window_makes_anchors() -> None:
    """A window under a kept prompt is trimmed by anchors that send the prompt again, not the window."""
    log = Log()
    base: Base | None = None
    messages: list[Any] = [UserMessage("s" * 2000), *(UserMessage(f"{n} " + "x" * 900) for n in range(50))]
    bodies, anchors = [], 0
    for number in range(200):
        messages = [messages[0], *messages[3:], *(UserMessage(f"{number} {k}" + "x" * 900) for k in range(2))]
        target = Target(messages, [True] + [False] * 50, 51, {})
        plan = plan_save(log.head, base, target, Writer(bytes(16), 0, NO_LIMIT))
        assert plan is not None
        log.write(plan)
        anchors += bool(plan.filled)
        bodies.append(len(plan.entry.body))
        base = grow(base, plan, plan.entry.revision())
        same(log.read(), base)  # type: ignore[arg-type]
    assert anchors > 2
    assert max(bodies[1:]) < 10_000
    assert sum(bodies[1:]) / 199 < 2500


def test_two_appends_onto_one_base_do_not_share_a_tail() -> None:
    """Of two writers that grow one remembered content, the second does not see the first one's messages."""
    writer = Writer(bytes(16), 0, NO_LIMIT)
    first = plan_save(None, None, Target([UserMessage("0")], [False], 1, {}), writer)
    assert first is not None
    base = grow(None, first, first.entry.revision())
    assert base is not None
    grown = []
    for name in ("a", "b"):
        plan = plan_append(base.head, [UserMessage(name)], name == "a", None, writer)
        assert plan is not None
        after = grow(base, plan, plan.entry.revision(), name == "a")
        assert after is not None
        grown.append(after)
    assert [each.messages() for each in grown] == [[UserMessage("0"), UserMessage(n)] for n in "ab"]
    assert [each.pins[: each.length] for each in grown] == [[False, True], [False, False]]
    assert base.messages() == [UserMessage("0")]


def test_nothing_to_write() -> None:
    """Content that did not change makes no entry, unless a full checkpoint is asked for."""
    writer = Writer(bytes(16), 0, NO_LIMIT)
    messages: list[Any] = [UserMessage("0"), {"a": 1}]
    target = Target(messages, [True, False], 2, {"m": 1})
    first = plan_save(None, None, target, writer)
    assert first is not None
    base = grow(None, first, first.entry.revision())
    assert plan_save(first.head, base, target, writer) is None
    assert plan_append(first.head, [], False, None, writer) is None
    assert plan_append(first.head, [], False, encode_meta({"m": 1}), writer) is None
    full = plan_save(first.head, base, target, writer, full=True)
    assert full is not None
    assert full.entry.checkpoint == full.entry.version == 2
    assert plan_save(first.head, base, Target(messages, [True, False], 2, {"m": True}), writer) is not None
    changed = plan_save(first.head, base, Target([messages[0], {"a": True}], [True, False], 2, {"m": 1}), writer)
    assert changed is not None
    assert (changed.entry.header.i, changed.entry.header.j) == (1, 2)


def test_the_limit() -> None:
    """The whole snapshot counts, however little of it is sent."""
    writer = Writer(bytes(16), 0, 3000)
    first = plan_save(None, None, Target([UserMessage("x" * 2000)], [False], 1, {}), writer)
    assert first is not None
    with pytest.raises(SnapshotTooLargeError) as caught:
        plan_append(first.head, [UserMessage("x" * 2000)], False, None, writer)
    assert (caught.value.limit, caught.value.size // 100) == (3000, 40)
    with pytest.raises(SnapshotTooLargeError):
        plan_save(None, None, Target([UserMessage("x" * 4000)], [False], 1, {}), writer)
