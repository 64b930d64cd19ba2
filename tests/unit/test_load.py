"""Loads in bulk: the same proofs and the same content as entry by entry, and what they cost."""

from __future__ import annotations

import gc
import random
import sys
import tracemalloc
from functools import reduce
from typing import Any

import cbor2
import pytest

from histstore import AssistantMessage, ToolCall, UserMessage
from histstore.log.chain import ABSENT, Base, BrokenChainError, Entry, Head, read_entries, read_entry, replay, since
from histstore.log.codec import Body, decode, decode_bodies, decode_body, encode, encode_body, encode_meta
from histstore.log.plan import Target, Writer, grow, plan_append, plan_save
from histstore.messages import FrozenDict, FrozenList

NO_LIMIT = 1 << 62


def item(entry: Entry) -> Any:
    return [b"0-%d" % entry.version, [b"h", entry.header(), b"t", b"1700000000000", b"b", entry.body]]


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


def state(base: Base) -> tuple[Any, ...]:
    n = base.length
    columns = (base.items[:n], base.sizes[:n], base.born[:n], base.pins[:n], base.log[: base.log_length])
    return (*columns, base.messages())


@pytest.mark.parametrize("seed", range(20))
def test_a_load_returns_what_was_saved(seed: int) -> None:
    """From a checkpoint, from any base before, in one step or in many: the same content, sizes, pins and meta."""
    entries, bases = history(seed)
    proven = read_entries(map(item, entries))
    rng = random.Random(seed)
    for place in rng.sample(range(len(entries)), 10):
        saved = bases[place]
        start = saved.head.checkpoint - entries[0].version
        loaded = replay(proven[start : place + 1])
        assert (state(loaded), loaded.head.meta) == (state(saved), saved.head.meta)
        middle = rng.randrange(start, place + 1)
        follow = replay(proven[middle + 1 : place + 1], bases[middle]) if middle < place else loaded
        assert (state(follow), follow.head.meta) == (state(saved), saved.head.meta)
    step = replay(proven[:1])
    for entry, saved in zip(proven[1:], bases[1:], strict=True):
        step = replay([entry], step)
        assert state(step) == state(saved)


def test_bulk_reads_what_reading_one_by_one_reads() -> None:
    """Link and etag of many entries are those of each."""
    entries, _ = history(3)
    items = list(map(item, entries))
    assert read_entries(items) == [read_entry(one) for one in items]
    assert [entry.etag for entry in read_entries(items)] == [entry.etag for entry in entries]
    assert read_entries([]) == []


def test_bulk_notices_what_reading_one_by_one_notices() -> None:
    """Wherever a bit, a byte, an id or a field of one entry is wrong, that entry is named."""
    entries, _ = turns(4)
    rng = random.Random(5)
    for place in range(4):
        good = item(entries[place])
        header, body = good[1][1], good[1][5]
        wrong: list[Any] = [
            [b"1-%d" % (place + 1), good[1]], [b"0-%d" % (place + 9), good[1]], [good[0], good[1][:4]], None, [],
            [good[0], [b"h", header[:-1], *good[1][2:]]], [good[0], [*good[1][:5], None]],
            [good[0], [b"h", header + b"\0", *good[1][2:]]], [good[0], [*good[1][:5], body + b"\0"]],
        ]  # fmt: skip
        for _ in range(200):
            field = rng.choice([1, 5])
            bad = bytearray(good[1][field])
            bad[rng.randrange(len(bad))] ^= 1 << rng.randrange(8)
            wrong.append([good[0], [*good[1][:field], bytes(bad), *good[1][field + 1 :]]])
        for one in wrong:
            items = list(map(item, entries))
            items[place] = one
            with pytest.raises(BrokenChainError) as alone:
                read_entry(one)
            with pytest.raises(BrokenChainError) as many:
                read_entries(items)
            assert (many.value.version, many.value.reason) == (alone.value.version, alone.value.reason)


def test_a_neighbour_of_another_chain_is_noticed() -> None:
    """Two lives of a run have the same versions; the parent tells them apart."""
    one, _ = turns(3)
    other, _ = turns(3, plain=True)
    with pytest.raises(BrokenChainError, match="missing or out of order") as caught:
        read_entries(list(map(item, [one[0], other[1]])))
    assert caught.value.version == 2


def test_a_body_that_is_cut_short_does_not_reach_into_the_next() -> None:
    """Joined for one decode, two bodies must not make sense where each alone makes none."""
    # The first ends inside a map of one. What follows would complete it, and look like a header again.
    first = encode_body(Body([b"\xa1\x61a"]))
    second = encode_body(Body([cbor2.dumps([[45]]), cbor2.dumps("x" * 38)]))
    assert len(second) == len(cbor2.dumps([[45]])) + 45
    one = Entry.make(1, ABSENT, bytes(16), (0, 0), 1, 3, 1, 0, 0, first)
    two = Entry.make(2, one.etag, bytes(16), (1, 1), 2, 48, 1, 0, 0, second)
    with pytest.raises(BrokenChainError) as caught:
        replay([one, two])
    assert caught.value.version == 1


X = encode(UserMessage("x"))


def raw(header: Any, rest: bytes = b"") -> bytes:
    return cbor2.dumps(header) + rest


@pytest.mark.parametrize(
    "data",
    [
        b"", b"\x01", b"\xff", raw([]), raw([[5]]), raw([[100]], X), raw([[-1, 5]], X + X), raw([["a"]], X),
        raw([[True]], X), raw([[4.0]], X), raw([b"\4"], X), raw(["a"], X), raw([{4: 1}], X), raw({0: [4]}, X),
        raw([[4]], X + X), raw([[3]], X), raw([[2, 4]], X + X), raw([[4, 4]], X), raw([[], [-1]]),
        raw([[], [1.0]]), raw([[], [], "meta"]), raw([[], [], None, [1]]),
        raw([[True]], b"\x01"), raw([[-1, 3]], b"\x01\x02"), raw([[2] + [1] * 23], bytes(24)),
        raw([[24]], cbor2.dumps("x" * 22)), raw([[16]], cbor2.dumps("x" * 16)),
        raw([[1], [], None, [0, 0, 1, 1]], b"\x01"), raw([[], [], None, [], []]), raw([[], None]), raw([[1]], b"\xff"),
    ],
    ids=lambda data: data.hex(),
)  # fmt: skip
def test_bytes_that_are_no_body(data: bytes) -> None:
    """Alone, first, last or in the midst of right ones."""
    good = encode_body(Body([X], flips=[0]))
    assert decode_bodies([good, good]).messages == [UserMessage("x")] * 2
    for bodies in ([data], [data, good], [good, data], [good, data, good]):
        with pytest.raises(ValueError, match=r"body|CBOR|message"):
            decode_bodies(bodies)


ONE = raw([[4]], X)


@pytest.mark.parametrize(
    "bodies",
    [
        [raw([[1, 3]], X)] * 4, [raw([[8]], X + X)] * 4, [ONE, raw([[1, 3]], X)], [raw([[5], []], X)] * 4,
        [raw([[12]], X + b"\xf7" + ONE), ONE, ONE, ONE],
        [raw([[1, 1]], b"\1\1"), raw([[3]], b"\x64text"), raw([[1, 2, 2]], b"\1\1\1")],
    ],
    ids=["more sizes", "fewer sizes", "one with more sizes", "empty flips", "two in one", "sizes of the next"],
)  # fmt: skip
def test_bodies_that_are_only_alike_on_the_whole(bodies: list[bytes]) -> None:
    """As many values as right ones, marks in the right places, or lengths that add up: each must be right by itself."""
    assert decode_bodies([ONE] * 4).messages == [UserMessage("x")] * 4
    with pytest.raises(ValueError, match=r"body|bodies"):
        decode_bodies(bodies)


@pytest.mark.parametrize("seed", range(5))
def test_what_bulk_accepts_is_accepted_alone(seed: int) -> None:
    """Whatever happened to the bytes: the same messages, pins, meta and fills."""
    rng = random.Random(seed)
    accepted = 0
    for _ in range(400):
        bodies = []
        for _ in range(3):
            parts = [encode(rng.choice([UserMessage("x"), {"a": [1]}, "text", 7])) for _ in range(rng.randrange(3))]
            fills = [(rng.randrange(9), True, X)] if rng.random() < 0.3 else []
            bodies.append(
                encode_body(Body(parts, [rng.randrange(5)], encode_meta({}) if rng.random() < 0.3 else None, fills))
            )
        place = rng.randrange(3)
        changed = bytearray(bodies[place])
        changed[rng.randrange(len(changed))] = rng.randrange(256)
        bodies[place] = bytes(changed[: rng.randrange(1, len(changed) + 3)])
        try:
            found = decode_bodies(bodies)
        except ValueError:
            continue
        accepted += 1
        alone = [decode_body(data) for data in bodies]
        parts = [bytes(part) for body in alone for part in (*body.added, *(fill for _, _, fill in body.fills))]
        assert repr(found.messages) == repr(decode(parts))  # of which some may be no numbers
        assert found.sizes == list(map(len, parts))
        for place, body in enumerate(alone):
            flips, meta, fills = found.extras.get(place, ([], None, []))
            assert (flips, meta, fills) == (body.flips, body.meta, [(index, pin) for index, pin, _ in body.fills])
    assert 0 < accepted < 400


def made(parent: Entry | None, length: int, size: int, body: Body, checkpoint: int = 1, **cut: int) -> Entry:
    """An entry after `parent` that appends, unless it is told to cut."""
    version, etag, n = (parent.version + 1, parent.etag, parent.length) if parent is not None else (1, ABSENT, 0)
    at = cut.get("at", n), cut.get("to", n)
    return Entry.make(version, etag, bytes(16), at, length, size, checkpoint, 0, 0, encode_body(body))


def test_what_an_entry_in_the_midst_claims_is_held_against_it() -> None:
    """Not only of the newest: a pin that a later message would take, a checkpoint that is not there yet."""
    size = len(X)
    one = made(None, 1, size, Body([X]))
    for two, reason in (
        (made(one, 2, 2 * size, Body([X], flips=[2])), "pin lies outside"),
        (made(one, 2, 2 * size, Body([X]), checkpoint=9), "checkpoint lies in the future"),
        (made(one, 3, 2 * size, Body([X])), "lengths do not add up"),
        (made(one, 3, 3 * size, Body([X], fills=[(0, False, X)])), "lengths do not add up"),
    ):
        three = made(two, two.length + 1, 3 * size, Body([X]))
        with pytest.raises(BrokenChainError, match=reason) as caught:
            replay([one, two, three])
        assert caught.value.version == 2


def test_a_hole_is_never_filled_with_another_message() -> None:
    """An old message that a checkpoint forgot to fill in is missing, whatever the sizes say."""
    entry = Entry.make(5, bytes(range(16)), bytes(16), (1, 1), 2, 2 * len(X), 5, 0, 0, encode_body(Body([X])))
    with pytest.raises(BrokenChainError, match="missing from the log"):
        replay([entry])


def test_the_entry_that_does_not_decode_is_named() -> None:
    """Of many that are decoded at once."""
    entries, base = turns(3)
    bad = encode_body(Body([b"\x82\x00"]))
    head = base.head
    entry = Entry.make(4, head.etag, bytes(16), (6, 6), 7, head.size + 2, 1, 0, 0, bad)
    after = Entry.make(5, entry.etag, bytes(16), (7, 7), 8, head.size + 3, 1, 0, 0, encode_body(Body([b"\x01"])))
    with pytest.raises(BrokenChainError) as caught:
        replay([*entries, entry, after])
    assert caught.value.version == 4


def test_only_entries_from_the_checkpoint_on_are_read() -> None:
    """What lies before it may be damaged, or gone."""
    entries, _ = turns(5)
    items = list(map(item, entries))
    assert since(items, 1) is items
    assert since(items, 3) == items[2:]
    assert since(items[:1] + items[3:], 4) == items[3:]
    assert since([], 4) == []


# ------------------------------------------------------------------------------------------ typed messages


def test_the_arguments_of_a_tool_call_are_frozen_to_the_bottom() -> None:
    """As those of one that was made by hand, and as plain messages are."""
    args = {"a": [1, {"b": [[]]}], "c": {"d": None}, "e": 1.5}
    ((block,),) = [message.blocks for message in decode([encode(AssistantMessage([ToolCall("1", "f", args)]))])]
    assert block.args == args
    nested = block.args["a"]
    kinds = [type(block.args), type(nested), type(nested[1]), type(nested[1]["b"]), type(nested[1]["b"][0])]
    assert kinds == [FrozenDict, FrozenList, FrozenDict, FrozenList, FrozenList]
    assert type(block.args["c"]) is FrozenDict
    assert hash(block) == hash(ToolCall("1", "f", args))
    (plain,) = decode([encode({"a": [{}]})])
    assert [type(plain), type(plain["a"]), type(plain["a"][0])] == [FrozenDict, FrozenList, FrozenDict]


@pytest.mark.parametrize(
    "args",
    [
        {1: 2}, {"a": {1: 2}}, float("nan"), [float("inf")], {"a": [cbor2.undefined]}, {"a": cbor2.CBORSimpleValue(9)},
        reduce(lambda inner, _: [inner], range(101), 0),
        reduce(lambda inner, _: {"a": inner}, range(101), 0),
    ],
    ids=lambda args: str(args)[:20],
)  # fmt: skip
def test_arguments_that_are_no_json(args: Any) -> None:
    """Decoding them does not make them right."""
    with pytest.raises(ValueError, match="no typed message"):
        decode([cbor2.dumps([1, [4, "1", "f", args]])])


@pytest.mark.parametrize(
    "data", [[True, "x"], [1.0, "x"], [False, "x"], [0, [True, "1", False]], [0, [1.0, "1", False]], [2, "x"], [-1]]
)
def test_a_kind_is_a_whole_number(data: Any) -> None:
    """True and 1.0, which Python finds under the same key as 1, are no kinds."""
    with pytest.raises(ValueError, match="no typed message"):
        decode([cbor2.dumps(data)])


@pytest.mark.parametrize(
    "text", [b"\x63\xed\xa0\x80", b"\x62\xc0\x80", b"\x64\xf4\x90\x80\x80", b"\x7f\x61\xc3\x61\xa9\xff"]
)
def test_the_decoder_returns_no_text_that_utf_8_cannot_hold(text: bytes) -> None:
    """Surrogates, overlong forms, what lies past Unicode, a character in two chunks: typed messages rely on it."""
    with pytest.raises(ValueError, match="CBOR"):
        decode([b"\x82\x00" + text])


# ---------------------------------------------------------------------------------------------------- cost


def test_plain_messages_are_decoded_once() -> None:
    """Who asks gets the same frozen objects, in a list of their own."""
    entries, _ = turns(3, plain=True)
    base = replay(entries)
    first, second = base.messages(), base.messages()
    assert first is not second
    assert list(map(id, first)) == list(map(id, second))
    assert base.messages(1, 3) == first[1:3]
    assert set(map(type, first)) == {FrozenDict}


NESTED = {
    "role": "assistant",
    "content": [{"type": "text", "text": "é"}, {"type": "tool_use", "input": {"a": [[{"b": 1.5}], [], [None]]}}],
    "tool_calls": [],
    "usage": {"n": 2**70, "ok": True, "raw": b"\x00", "none": None},
}


@pytest.mark.parametrize("message", [NESTED, {}, {"a": {}}, {"a": []}, {"a": [[]]}, {"a": [1, "x"]}, {"a": [{}, [{}]]}])
@pytest.mark.parametrize("others", [[], [{"role": "user", "content": "hi"}], [UserMessage("hi"), 7, "text"]])
def test_what_is_decoded_is_frozen_to_the_bottom(message: Any, others: list[Any]) -> None:
    """Whatever it nests, and whatever stands beside it."""
    found = decode([encode(each) for each in [*others, message, *others, message]])
    assert found == [*others, message, *others, message]
    assert [kinds_in(each) <= {FrozenDict, FrozenList} for each in found] == [True] * len(found)
    assert repr(found[-1]) == repr(message)


def kinds_in(value: Any) -> set[type]:
    """Returns the types of the dicts and lists in a value."""
    if not isinstance(value, (dict, list)):
        return set()
    items = value.values() if isinstance(value, dict) else value
    return {type(value)}.union(*map(kinds_in, items))


@pytest.mark.parametrize(
    "message",
    [
        {1: 2}, {b"a": 1}, {"a": {1: 2}}, {"a": [{1: 2}]}, float("nan"), {"a": float("inf")}, {"a": [float("nan")]},
        cbor2.undefined, {"a": cbor2.undefined}, {"a": [[cbor2.undefined]]}, {"a": [{"b": cbor2.CBORSimpleValue(9)}]},
        reduce(lambda inner, _: {"a": inner}, range(101), 0),
        {"a": reduce(lambda inner, _: [inner], range(100), 0)},
    ],
    ids=lambda message: str(message)[:20],
)  # fmt: skip
@pytest.mark.parametrize("others", [[], [{"a": 1}], [UserMessage("hi"), 1.5]])
def test_plain_messages_that_are_no_json(message: Any, others: list[Any]) -> None:
    """Nothing trusts a frozen message that was not checked: the decoder refuses what no store of ours has written."""
    with pytest.raises(ValueError, match="a message"):
        decode([*map(encode, others), cbor2.dumps(message)])


def test_a_message_as_deep_as_any_is_decoded() -> None:
    """A hundred levels, of dicts and of lists."""
    for message in (
        reduce(lambda inner, _: {"a": inner}, range(100), 0),
        {"a": reduce(lambda inner, _: [inner], range(99), 0)},
    ):
        assert decode([encode(message)]) == [message]


def test_what_follows_a_base_extends_it_in_place() -> None:
    """Once; the base still ends where it did, and another that follows it gets lists of its own."""
    entries, _ = turns(6)
    base = replay(entries[:4])
    before = state(base)
    one = replay(entries[4:], base)
    assert one.items is base.items
    two = replay(entries[4:], base)
    assert two.items is not base.items
    assert state(one) == state(two)
    assert state(base) == before


def test_a_pin_of_the_base_that_changes_leaves_the_base_as_it_is() -> None:
    """Pins are shared only as far as they stay."""
    entries, saved = turns(4)
    base = replay(entries)
    before = state(base)
    body = encode_body(Body([], flips=[1]))
    head = saved.head
    entry = Entry.make(5, head.etag, bytes(16), (8, 8), 8, head.size, 1, 0, 0, body)
    assert replay([entry], base).pins == [False, True, *[False] * 6]
    assert state(base) == before


def test_what_follows_a_base_costs_no_copy_of_it() -> None:
    """A turn that another worker added to 10,000 messages takes the memory of a turn."""
    entries, grown = turns(5000)
    base = replay(entries)
    peaks = []
    for _ in range(3):
        more, grown = turns(1, grown)
        tracemalloc.start()
        base = replay(more, base)
        peaks.append(tracemalloc.get_traced_memory()[1])
        tracemalloc.stop()
    # The first finds lists without spare room. A copy of one of the five takes 80,000 bytes.
    assert max(peaks[1:]) < 20_000
    assert base.length == 10_006


@pytest.mark.parametrize("plain", [False, True], ids=["typed", "plain"])
def test_a_load_leaves_the_collector_to_its_user(plain: bool) -> None:
    """It is the whole process's: who disables it for a while, or enables it, in another thread say, has his way."""
    entries, _ = turns(50, plain=plain)
    items = list(map(item, entries))
    called: set[str] = set()

    def note(_frame: Any, event: str, function: Any) -> None:
        if event == "c_call" and getattr(function, "__module__", None) == "gc":
            called.add(function.__name__)

    before = gc.get_threshold()
    sys.setprofile(note)
    try:
        gc.isenabled()
        replay(read_entries(items)).messages()
    finally:
        sys.setprofile(None)
    assert called == {"isenabled"}
    assert gc.get_threshold() == before


def test_meta_of_a_load() -> None:
    """The newest that was said; a full checkpoint that says none leaves none."""
    size = len(X)
    one = made(None, 1, size, Body([X], (), encode_meta({"a": 1})))
    two = made(one, 2, 2 * size, Body([X]))
    three = made(two, 1, size, Body([X]), checkpoint=3, at=0)
    assert replay([one, two]).head.meta == encode_meta({"a": 1})
    assert replay([three], replay([one, two])).head.meta == encode_meta({})
