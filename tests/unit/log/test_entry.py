"""One entry: its header, its etag, and what a reader proves before it believes a byte."""

from __future__ import annotations

import hashlib
import struct
from typing import Any

import pytest

from histstore.log.entry import read_entry
from histstore.log.unreadable import BrokenChainError

from ...support.entries import chain, item, make_entry


def test_the_etag_is_the_documented_digest() -> None:
    """BLAKE2b-128, personalised, over version, parent, op, the header's numbers and the body, big-endian."""
    parent, op, body = bytes(range(16)), bytes(range(16, 32)), b"body"
    entry = make_entry(7, parent, op, (2, 5), 4, 100, 3, 900, 11, body)
    packed = struct.pack(">Q16s16sIIIQQQQ", 7, parent, op, 2, 5, 4, 100, 3, 900, 11)
    assert entry.etag == hashlib.blake2b(packed + body, digest_size=16, person=b"histstore1").digest()
    assert entry.sound()


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
