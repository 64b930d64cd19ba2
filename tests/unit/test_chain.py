"""The hash chain: what a reader proves before it believes a byte."""

from __future__ import annotations

import dataclasses
import hashlib
import struct
import sys
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from histstore import UserMessage
from histstore.log.chain import (
    ABSENT,
    Base,
    BrokenChainError,
    Entry,
    Head,
    Log,
    Tail,
    read_entries,
    read_entry,
    replay,
    timestamp,
)
from histstore.log.codec import Body, encode, encode_body, encode_meta
from histstore.log.plan import Target, Writer, grow, plan_append, plan_save

from ..support.samples import faithful
from ..support.tails import followed, tail

NO_LIMIT = 1 << 62


def item(entry: Entry) -> Any:
    return (f"0-{entry.version}".encode(), [b"h", entry.header(), b"t", b"1000", b"b", entry.body])


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


def test_the_etag_is_the_documented_digest() -> None:
    """BLAKE2b-128, personalised, over version, parent, op, the header's numbers and the body, big-endian."""
    parent, op, body = bytes(range(16)), bytes(range(16, 32)), b"body"
    entry = Entry.make(7, parent, op, (2, 5), 4, 100, 3, 900, 11, body)
    packed = struct.pack(">Q16s16sIIIQQQQ", 7, parent, op, 2, 5, 4, 100, 3, 900, 11)
    assert entry.etag == hashlib.blake2b(packed + body, digest_size=16, person=b"histstore1").digest()
    assert entry.sound()


def test_a_chain_reads_back() -> None:
    """Stream entries in, the same content out; the revision knows time, length and size."""
    entries, base = chain(6)
    found = replay(read_entries(map(item, entries)))
    assert (found.items, found.pins, found.sizes, found.born) == (base.items, base.pins, base.sizes, base.born)
    assert found.head.meta == encode_meta({"n": 5})
    assert found.head.revision.saved_at == timestamp(1000)
    assert (found.head.revision.length, found.head.revision.size) == (6, sum(base.sizes))
    assert entries[0].parent == ABSENT


def test_every_bit_of_an_entry_is_proven() -> None:
    """One flipped bit anywhere in header or body, or a byte less: an entry that is not believed."""
    entries, _ = chain(3)
    stream_id, (h, header, t, saved, b, body) = item(entries[1])
    for field in ("header", "body"):
        data = header if field == "header" else body
        damaged = [data[:-1], data + b"\x00", b""]
        for place in range(len(data)):
            for bit in (1, 128):
                bad = bytearray(data)
                bad[place] ^= bit
                damaged.append(bytes(bad))
        for bad in damaged:
            fields = [h, bad, t, saved, b, body] if field == "header" else [h, header, t, saved, b, bad]
            with pytest.raises(BrokenChainError) as caught:
                read_entry((stream_id, fields))
            assert caught.value.version == 2


@pytest.mark.parametrize(
    "wrong",
    [
        None, (), (b"0-1",), (b"0-1", []), (b"0-x", [b"h", b"", b"t", b"", b"b", b""]), (b"1-1", None),
        (b"0-1", [b"h", b"short", b"t", b"1", b"b", b""]), ("0-1", [b"h", bytes(92), b"t", b"1", b"b", b""]),
    ],
    ids=repr,
)  # fmt: skip
def test_what_is_no_entry(wrong: Any) -> None:
    """Foreign or mangled stream entries are damage, not a crash."""
    with pytest.raises(BrokenChainError):
        read_entry(wrong)


def test_a_stream_id_is_zero_and_version() -> None:
    """An entry under another id is not the save that it says it is."""
    (entry,), _ = chain(1)
    for stream_id in (b"1-1", b"0-2", b"1", b"0-01", b"00-1"):
        with pytest.raises(BrokenChainError):
            read_entry((stream_id, item(entry)[1]))


def test_a_missing_or_moved_entry_is_noticed() -> None:
    """Every neighbour names its parent."""
    entries, _ = chain(5)
    items = [item(entry) for entry in entries]
    for wrong in (items[:2] + items[3:], [items[1], items[0], *items[2:]], [*items, items[-1]]):
        with pytest.raises(BrokenChainError, match="missing or out of order"):
            read_entries(wrong)
    with pytest.raises(BrokenChainError, match="checkpoint"):
        replay(entries[1:])
    with pytest.raises(BrokenChainError, match="do not follow"):
        replay(entries[3:], replay(entries[:2]))


def crafted(before: Base, **changes: Any) -> Entry:
    """An entry after `before` with a right etag and wrong claims."""
    body = encode_body(changes.pop("body", Body([encode(UserMessage("x"))])))
    values = {
        "version": before.head.version + 1, "parent": before.head.etag, "op": bytes(16), "i": before.length,
        "j": before.length, "length": before.length + 1, "size": before.head.size + len(encode(UserMessage("x"))),
        "checkpoint": before.head.checkpoint, "logged": 0, "fence": 0, "body": body,
    } | changes  # fmt: skip
    values["cut"] = (values.pop("i"), values.pop("j"))
    entry = Entry.make(**values)
    assert entry.sound()
    return entry


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        ({"i": 9, "j": 9}, "cut lies outside"),
        ({"i": 2, "j": 1}, "cut lies outside"),
        ({"length": 3}, "lengths do not add up"),
        ({"size": 1}, "sizes do not add up"),
        ({"checkpoint": 99}, "checkpoint"),
        ({"body": Body([encode(UserMessage("x"))], flips=[9])}, "pin lies outside"),
        ({"body": Body([encode(UserMessage("x"))], fills=[(9, True, encode(1))])}, "message lies outside"),
        ({"body": Body([b"\xff"]), "size": None}, "decode"),
    ],
    ids=lambda value: str(value)[:30],
)  # fmt: skip
def test_an_entry_whose_claims_are_wrong(changes: dict[str, Any], reason: str) -> None:
    """A right digest over wrong claims (another writer's bug) is damage too."""
    entries, base = chain(3)
    if changes.get("size", 0) is None:
        changes = changes | {"size": base.head.size + 1}
    with pytest.raises(BrokenChainError, match=reason):
        replay([*entries, crafted(base, **changes)])


def test_a_right_entry_is_accepted() -> None:
    """The crafting above is wrong only where it means to be."""
    entries, base = chain(3)
    assert replay([*entries, crafted(base)]).messages()[-1] == UserMessage("x")


def test_the_head_is_proven() -> None:
    """Each field of a head changes its check."""
    _, base = chain(2)
    head = base.head
    checks = {head.check()}
    for name, value in [("length", 9), ("size", 9), ("checkpoint", 2), ("logged", 1), ("meta", b"\xa0")]:
        checks.add(dataclasses.replace(head, **{name: value}).check())
    for name, value in [("version", 9), ("etag", bytes(16))]:
        checks.add(dataclasses.replace(head, revision=head.revision.__replace__(**{name: value})).check())
    assert len(checks) == 8


def test_a_tail_needs_only_what_added_it() -> None:
    """None when older entries are needed; the slice otherwise."""
    entries, base = chain(6)
    messages = base.messages()
    for low in range(7):
        for high in range(low, 7):
            for known in range(1, 7):
                found = tail(entries[-known:], low, high)
                if low == high or low >= 6 - known:
                    assert found is not None
                    assert found[0] == messages[low:high]
                    assert found[1] == base.pins[low:high]
                else:
                    assert found is None


# Few different messages, so that neighbours are often equal; indices that mostly exist.
MESSAGE = st.tuples(st.integers(0, 3), st.booleans())
INDEX = st.integers(0, 12)
SAVE = st.tuples(
    st.tuples(INDEX, st.integers(0, 4)) | st.none(),  # cut: where, and how many
    st.lists(MESSAGE, max_size=3),  # added
    st.lists(INDEX, max_size=2, unique=True),  # pins turned
    st.lists(st.tuples(INDEX, st.booleans(), MESSAGE), max_size=2, unique_by=lambda fill: fill[0]),  # filled in
    st.none() | st.just(encode_meta({"n": 1})),
)


def made(number: int, typed: bool) -> Any:
    return UserMessage(f"{number}") if typed else {"role": "user", "n": number}


def run_of(saves: list[Any]) -> tuple[list[Entry], list[Any], list[bool]]:
    """Entries that do whatever an entry can do, and what they come to."""
    entries: list[Entry] = []
    messages: list[Any] = []
    pins: list[bool] = []
    for version, (cut, added, turned, filled, meta) in enumerate(saves, 1):
        i = min(cut[0], len(messages)) if cut is not None else len(messages)
        j = min(i + cut[1], len(messages)) if cut is not None else i
        messages[i:j], pins[i:j] = [], []
        new = [made(*each) for each in added]
        messages += new
        pins += [False] * len(new)
        flips = [index for index in turned if index < len(messages)]
        for index in flips:
            pins[index] = not pins[index]
        fills = [(index, pin, encode(made(*each))) for index, pin, each in filled if index < len(messages)]
        for (index, pin, _), message in zip(fills, [made(*f[2]) for f in filled if f[0] < len(messages)], strict=True):
            messages[index], pins[index] = message, pin
        body = encode_body(Body(list(map(encode, new)), flips, meta, fills))
        parent = entries[-1].etag if entries else ABSENT
        size = sum(map(len, map(encode, messages)))
        entries.append(Entry.make(version, parent, bytes(16), (i, j), len(messages), size, 1, 0, 0, body))
    return entries, messages, pins


@settings(deadline=None, max_examples=400)
@given(st.lists(SAVE, min_size=1, max_size=30), st.data())
def test_a_tail_is_a_slice_of_the_replay(saves: list[Any], data: st.DataObject) -> None:
    """Whatever the log is made of, and in whatever chunks it is read: the messages and pins of the conversation.

    It ends where following each index by itself ends: no entry sooner, and none later.
    """
    entries, messages, pins = run_of(saves)
    truth = replay(entries)
    assert (faithful(truth.messages()), truth.pins) == (faithful(messages), pins)
    low = data.draw(st.integers(0, len(messages)))
    high = data.draw(st.integers(low, len(messages)))
    chunks = data.draw(st.lists(st.integers(1, 9), max_size=5))
    found = tail(entries, low, high, chunks)
    assert found is not None
    assert (faithful(found[0]), found[1]) == (faithful(messages[low:high]), pins[low:high])
    known = entries[-data.draw(st.integers(1, len(entries))) :]
    part, reference = tail(known, low, high, chunks), followed(known, low, high)
    assert (part is None) == (reference is None)
    if part is not None:
        assert (faithful(part[0]), part[1]) == (faithful(messages[low:high]), pins[low:high])


def test_a_tail_looks_at_no_message_twice() -> None:
    """What a page costs is the entries and the page, not one times the other: ten times as much of both is not 100."""

    def steps(count: int, start: int, stop: int) -> int:
        entries, _ = appended(count)
        log = Log.of(entries)
        seen = 0

        def trace(frame: Any, event: str, arg: Any) -> Any:
            nonlocal seen
            seen += event == "line"
            return trace

        found = Tail(count, start, stop)
        before = sys.gettrace()
        sys.settrace(trace)
        try:
            found.back(log)
        finally:
            sys.settrace(before)
        assert not found.missing
        return seen

    for start, stop in [(0, None), (0, 10), (None, None)]:
        few, many = (steps(n, n // 2 if start is None else start, n if stop is None else stop) for n in (100, 1000))
        assert many < 12 * few, (start, stop)


def appended(count: int) -> tuple[list[Entry], Head]:
    """Entries that add one small message each."""
    entries: list[Entry] = []
    head: Head | None = None
    for number in range(count):
        plan = plan_append(head, (UserMessage(str(number)),), False, None, Writer(bytes(16), 0, NO_LIMIT))
        assert plan is not None
        entries.append(plan.entry)
        head = plan.head
    assert head is not None
    return entries, head


@pytest.mark.parametrize("value", [None, b"", "", b"x", b"9" * 30, -(10**20)])
def test_times_that_are_none(value: Any) -> None:
    """What is no time is None, not a crash."""
    assert timestamp(value) is None
