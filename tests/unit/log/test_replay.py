"""The replay of a log: the same content as was saved, or an error; and what it costs."""

from __future__ import annotations

import gc
import random
import sys
import tracemalloc
from typing import Any

import cbor2
import pytest

from histstore import UserMessage
from histstore.errors import UnsupportedVersionError
from histstore.log.base import Base
from histstore.log.body import Body, encode_body
from histstore.log.columns import read_entries
from histstore.log.entry import Entry
from histstore.log.head import timestamp
from histstore.log.header import ABSENT
from histstore.log.message_codec import encode, encode_meta
from histstore.log.replay import replay
from histstore.log.unreadable import BrokenChainError
from histstore.values.frozen import FrozenDict

from ...support.entries import chain, history, item, make_entry, turns
from ...support.tails import tail

X = encode(UserMessage("x"))


def test_a_chain_reads_back() -> None:
    """Stream entries in, the same content out; the revision knows time, length and size."""
    entries, base = chain(6)
    found = replay(read_entries(map(item, entries)))
    assert (found.items, found.pins, found.sizes, found.born) == (base.items, base.pins, base.sizes, base.born)
    assert found.head.meta == encode_meta({"n": 5})
    assert found.head.revision.saved_at == timestamp(1700000000000)
    assert (found.head.revision.length, found.head.revision.size) == (6, sum(base.sizes))
    assert entries[0].parent == ABSENT


def crafted(before: Base, **changes: Any) -> Entry:
    """An entry after `before` with a right etag and wrong claims."""
    body = encode_body(changes.pop("body", Body([encode(UserMessage("x"))])))
    values = {
        "version": before.head.version + 1, "parent": before.head.etag, "op": bytes(16), "i": before.length,
        "j": before.length, "length": before.length + 1, "size": before.head.size + len(encode(UserMessage("x"))),
        "checkpoint": before.head.checkpoint, "logged": 0, "fence": 0, "body": body,
    } | changes  # fmt: skip
    values["cut"] = (values.pop("i"), values.pop("j"))
    entry = make_entry(**values)
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


def state(base: Base) -> tuple[Any, ...]:
    n = base.length
    columns = (base.items[:n], base.sizes[:n], base.born[:n], base.pins[:n], base.costs[: base.cost_count])
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


def test_a_body_that_is_cut_short_does_not_reach_into_the_next() -> None:
    """Joined for one decode, two bodies must not make sense where each alone makes none."""
    # The first ends inside a map of one. What follows would complete it, and look like a header again.
    first = encode_body(Body([b"\xa1\x61a"]))
    second = encode_body(Body([cbor2.dumps([[45]]), cbor2.dumps("x" * 38)]))
    assert len(second) == len(cbor2.dumps([[45]])) + 45
    one = make_entry(1, ABSENT, bytes(16), (0, 0), 1, 3, 1, 0, 0, first)
    two = make_entry(2, one.etag, bytes(16), (1, 1), 2, 48, 1, 0, 0, second)
    with pytest.raises(BrokenChainError) as caught:
        replay([one, two])
    assert caught.value.version == 1


def made(parent: Entry | None, length: int, size: int, body: Body, checkpoint: int = 1, **cut: int) -> Entry:
    """An entry after `parent` that appends, unless it is told to cut."""
    version, etag, n = (parent.version + 1, parent.etag, parent.header.length) if parent is not None else (1, ABSENT, 0)
    at = cut.get("at", n), cut.get("to", n)
    return make_entry(version, etag, bytes(16), at, length, size, checkpoint, 0, 0, encode_body(body))


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
        three = made(two, two.header.length + 1, 3 * size, Body([X]))
        with pytest.raises(BrokenChainError, match=reason) as caught:
            replay([one, two, three])
        assert caught.value.version == 2


def test_a_hole_is_never_filled_with_another_message() -> None:
    """An old message that a checkpoint forgot to fill in is missing, whatever the sizes say."""
    entry = make_entry(5, bytes(range(16)), bytes(16), (1, 1), 2, 2 * len(X), 5, 0, 0, encode_body(Body([X])))
    with pytest.raises(BrokenChainError, match="missing from the log"):
        replay([entry])


def test_the_entry_that_does_not_decode_is_named() -> None:
    """Of many that are decoded at once."""
    entries, base = turns(3)
    bad = encode_body(Body([b"\x82\x00"]))
    head = base.head
    entry = make_entry(4, head.etag, bytes(16), (6, 6), 7, head.size + 2, 1, 0, 0, bad)
    after = make_entry(5, entry.etag, bytes(16), (7, 7), 8, head.size + 3, 1, 0, 0, encode_body(Body([b"\x01"])))
    with pytest.raises(BrokenChainError) as caught:
        replay([*entries, entry, after])
    assert caught.value.version == 4


def test_meta_of_a_load() -> None:
    """The newest that was said; a full checkpoint that says none leaves none."""
    size = len(X)
    one = made(None, 1, size, Body([X], (), encode_meta({"a": 1})))
    two = made(one, 2, 2 * size, Body([X]))
    three = made(two, 1, size, Body([X]), checkpoint=3, at=0)
    assert replay([one, two]).head.meta == encode_meta({"a": 1})
    assert replay([three], replay([one, two])).head.meta == encode_meta({})


def test_plain_messages_are_decoded_once() -> None:
    """Who asks gets the same frozen objects, in a list of their own."""
    entries, _ = turns(3, plain=True)
    base = replay(entries)
    first, second = base.messages(), base.messages()
    assert first is not second
    assert list(map(id, first)) == list(map(id, second))
    assert base.messages(1, 3) == first[1:3]
    assert set(map(type, first)) == {FrozenDict}


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
    entry = make_entry(5, head.etag, bytes(16), (8, 8), 8, head.size, 1, 0, 0, body)
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


def test_a_body_of_a_newer_writer_is_not_damage() -> None:
    """Its etag proves that the writer wrote that codec: who lacks it is told to upgrade, wherever the entry stands."""
    entries, base = turns(2)
    head = base.head
    body = b"\x28" + encode_body(Body([X]))
    newer = make_entry(3, head.etag, bytes(16), (4, 4), 5, head.size + len(X), 1, 0, 0, body)
    after = make_entry(4, newer.etag, bytes(16), (5, 5), 6, head.size + 2 * len(X), 1, 0, 0, encode_body(Body([X])))
    proven = read_entries(map(item, [*entries, newer, after]))
    for run, before in ((proven, None), (proven[2:], replay(proven[:2]))):
        with pytest.raises(
            UnsupportedVersionError, match=r"codec 0x28.*upgrade histstore, or give the backend the opt"
        ):
            replay(run, before)
    with pytest.raises(UnsupportedVersionError, match="codec 0x28"):
        tail(proven, 0, 6)
    part = tail(proven, 5, 6)  # which lies in front of it
    assert part is not None
    assert part[0] == [UserMessage("x")]


def test_a_damaged_body_is_damage_whatever_its_first_byte() -> None:
    """A bit of the codec's byte that has turned is found by the etag, before anything is made of it."""
    entries, _ = turns(2)
    stored = [item(entry) for entry in entries]
    for bit in range(8):
        body = bytearray(stored[1][1][5])
        body[0] ^= 1 << bit
        damaged = [stored[0], [stored[1][0], [*stored[1][1][:5], bytes(body)]]]
        with pytest.raises(BrokenChainError, match="do not match its etag"):
            read_entries(damaged)
