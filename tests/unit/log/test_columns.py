"""Many entries read together: the same proofs as entry by entry."""

from __future__ import annotations

import random
from typing import Any

import pytest

from histstore.log.columns import read_entries, since
from histstore.log.entry import read_entry
from histstore.log.replay import replay
from histstore.log.unreadable import BrokenChainError

from ...support.entries import chain, history, item, turns


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


def test_only_entries_from_the_checkpoint_on_are_read() -> None:
    """What lies before it may be damaged, or gone."""
    entries, _ = turns(5)
    items = list(map(item, entries))
    assert since(items, 1) is items
    assert since(items, 3) == items[2:]
    assert since(items[:1] + items[3:], 4) == items[3:]
    assert since([], 4) == []
