"""The bodies of log entries: one by one, many at once, and in codecs that this reader has or lacks."""

from __future__ import annotations

import random
import zlib
from typing import Any

import cbor2
import pytest

from histstore import UserMessage
from histstore.log.body import CODECS, COUNT_BY_FRAME, Body, decode_bodies, decode_body, encode_body
from histstore.log.message_codec import decode, encode, encode_meta
from histstore.log.unreadable import UnknownCodecError

BODIES = [
    Body([]),
    Body([b"\x01", b"\x02\x03"]),
    Body([b"\x01"], flips=[0, 3]),
    Body([], meta=encode_meta({})),
    Body([b"\x01"], [1], encode_meta({"a": 1})),
    Body([b"\x01"], [], encode_meta({"a": 1}), [(0, True, b"\x05"), (7, False, b"\x06\x07")]),
    Body([], [2], None, [(1, False, b"\x05")]),
]


@pytest.mark.parametrize("body", BODIES, ids=range(len(BODIES)))
def test_bodies_come_back(body: Body) -> None:
    """What is added, pins, meta and fills, without decoding the messages."""
    found = decode_body(encode_body(body))
    assert [bytes(part) for part in found.added] == list(body.added)
    assert (list(found.flips), found.meta) == (list(body.flips), body.meta)
    assert [(i, pin, bytes(part)) for i, pin, part in found.fills] == list(body.fills)


def test_a_body_is_small() -> None:
    """A turn of two messages costs a few bytes besides them."""
    assert len(encode_body(Body([b"x" * 1000, b"y" * 1000]))) <= 2010


@pytest.mark.parametrize(
    "data",
    [
        b"",
        b"\x01",
        cbor2.dumps([]),
        cbor2.dumps([[5]]),
        cbor2.dumps([[-1]]),
        cbor2.dumps([["a"]]),
        cbor2.dumps([[], [-1]]),
        cbor2.dumps([[], [], "meta"]),
        cbor2.dumps([[], [], None, [1]]),
        cbor2.dumps([[1], [], None, [0, 0, 1, 1]]) + b"\x01",
        cbor2.dumps([[], [], None, [], []]),
        cbor2.dumps([[True]]),
        cbor2.dumps([[2**63]]),
        cbor2.dumps({"a": 1}),
    ],
    ids=lambda data: data.hex(),
)
def test_bytes_that_are_no_body(data: bytes) -> None:
    """Headers that do not fit what follows are ValueError."""
    with pytest.raises(ValueError, match=r"body|CBOR"):
        decode_body(data)


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
def test_bytes_that_are_no_body_among_bodies(data: bytes) -> None:
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


@pytest.mark.parametrize("count", [0, 1, 2, 23, 24, 300])
def test_a_body_of_messages_only_begins_with_its_count(count: int) -> None:
    """Which spares who goes back over the log to read the rest; of long ones, and of those that say more, it cannot."""
    data = encode_body(Body([X] * count))
    assert COUNT_BY_FRAME.get(data[:2]) == (count if count < 24 else None)
    for more in (
        Body([X] * count, flips=[0]),
        Body([X] * count, meta=encode_meta({})),
        Body([], (), None, [(0, True, X)]),
    ):
        assert encode_body(more)[:2] not in COUNT_BY_FRAME


PLAIN_BODIES = [*BODIES, Body([X] * 300), Body([X] * 300, flips=list(range(300)))]


def test_a_plain_body_begins_as_an_array_does() -> None:
    """That byte says how a body is written, and all but 0x80 to 0x9f are left for other codecs."""
    assert {encode_body(body)[0] for body in PLAIN_BODIES} <= set(range(0x80, 0xA0))
    assert CODECS.keys().isdisjoint(range(0x80, 0xA0))


@pytest.mark.parametrize("codec", [byte for byte in range(256) if not 0x80 <= byte <= 0x9F])
def test_a_codec_that_is_not_known(codec: int) -> None:
    """Alone, or among others, and whatever follows: the byte is named, and nothing is made of it."""
    good = encode_body(Body([X]))
    for data in (bytes((codec,)), bytes((codec,)) + good, bytes((codec,)) + bytes(40)):
        with pytest.raises(UnknownCodecError, match=f"0x{codec:02x}") as caught:
            decode_body(data)
        assert caught.value.codec == codec
        for bodies in ([data], [good, data], [data, good], [good, data, good]):
            with pytest.raises(UnknownCodecError) as caught:
                decode_bodies(bodies)
            assert caught.value.codec == codec


def test_a_codec_that_is_known(monkeypatch: pytest.MonkeyPatch) -> None:
    """What it makes of a body is read as if it had been stored, also between plain ones."""

    def inflate(data: bytes) -> bytes:
        try:
            return zlib.decompress(data[1:])
        except zlib.error as error:
            raise ValueError(str(error)) from error

    monkeypatch.setitem(CODECS, 0x28, inflate)
    plain = [encode_body(Body([encode(UserMessage(f"{n}"))], [n], encode_meta({"n": n}))) for n in range(3)]
    mixed = [plain[0], b"\x28" + zlib.compress(plain[1]), plain[2]]
    assert decode_bodies(mixed) == decode_bodies(plain)
    one, other = decode_body(mixed[1]), decode_body(plain[1])
    assert (one.added, one.flips, one.meta) == (other.added, other.flips, other.meta)
    for damaged in (mixed[1][:-5], b"\x28"):
        with pytest.raises(ValueError, match=r"."):
            decode_body(damaged)
        with pytest.raises(ValueError, match=r"."):
            decode_bodies([plain[0], damaged])
