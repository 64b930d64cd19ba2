"""Messages to CBOR and back; bodies of log entries; and what damaged bytes decode to."""

from __future__ import annotations

import random
from typing import Any

import cbor2
import pytest
from hypothesis import given

from histstore import AssistantMessage, ToolCall, UserMessage, messages
from histstore.log.codec import Body, decode, decode_body, decode_meta, encode, encode_body, encode_meta

from ..support.samples import PLAIN, TYPED, faithful
from .test_json import JSON


@pytest.mark.parametrize("message", TYPED + PLAIN, ids=repr)
def test_messages_come_back(message: Any) -> None:
    """Same type, same value, alone and between others."""
    data = encode(message)
    (alone,) = decode([data])
    assert faithful(alone) == faithful(message)
    three = decode([encode({}), memoryview(data), encode(UserMessage("x"))])
    assert [faithful(m) for m in three] == [faithful({}), faithful(message), faithful(UserMessage("x"))]


@given(JSON)
def test_any_json_value_comes_back(value: Any) -> None:
    """In a plain message, in a tool call and in meta."""
    for message in ({"v": value}, AssistantMessage([ToolCall("1", "f", value)])):
        (found,) = decode([encode(message)])
        assert faithful(found) == faithful(message)
        assert (type(found) in messages.TYPED) == (type(message) in messages.TYPED)
    assert faithful(dict(decode_meta(encode_meta({"v": value})))) == faithful({"v": value})


@given(JSON, JSON)
def test_equal_bytes_mean_equal_values(one: Any, two: Any) -> None:
    """Bytes are what plain messages are compared by: they tell 1, 1.0 and True apart."""
    assert (encode({"v": one}) == encode({"v": two})) == (faithful(one) == faithful(two))


def test_a_plain_message_is_never_read_as_a_typed_one() -> None:
    """Typed messages are arrays, which plain messages never are."""
    assert cbor2.loads(encode(UserMessage("hi"))) == [0, "hi"]
    assert cbor2.loads(encode(AssistantMessage("hi"))) == [1, "hi"]
    assert cbor2.loads(encode({"a": 1})) == {"a": 1}


@pytest.mark.parametrize(
    "data",
    [
        b"",
        b"\xff",
        b"\x01\x01",
        b"\x82\x00",
        b"\x1c",
        cbor2.dumps([]),
        cbor2.dumps([2, "x"]),
        cbor2.dumps(["x"]),
        cbor2.dumps([0, 1]),
        cbor2.dumps([0, []]),
        cbor2.dumps([0, [4, "1", "f", {}]]),
        cbor2.dumps([1, [1, "1", False]]),
        cbor2.dumps([0, [1, "1", 0]]),
        cbor2.dumps([0, [2, [9, "x"]]]),
        cbor2.dumps([0, [2, [0, "x"]]]),
        cbor2.dumps([1, [5, 1, None]]),
        cbor2.dumps([1, [4, 1, "f", {}]]),
        cbor2.dumps([1, [7]]),
        cbor2.dumps([0, {"a": 1}]),
        cbor2.dumps(cbor2.CBORTag(999, 1)),
        b"\xc0\x74" + b"2013-03-21T20:04:00Z",
        b"\xd8\x1c\x81\xd8\x1d\x00",
        b"\xc4\x82\x01\x02",
        b"\xd9\x01\x00\x81\x61a",
        b"\xa2\x61a\x01\x61a\x02",
        b"\x9b\xff\xff\xff\xff\xff\xff\xff\xff",
        b"\x7b\x7f\xff\xff\xff\xff\xff\xff\xff",
        b"\x81" * 50_000 + b"\x01",
        b"\x61\xff",
    ],
    ids=lambda data: data[:12].hex(),
)
def test_bytes_that_are_no_messages(data: bytes) -> None:
    """Tags, duplicate keys, wrong kinds, lengths and depths that lie: ValueError, nothing else."""
    with pytest.raises(ValueError, match=r".") as caught:
        decode([data])
    assert type(caught.value) is ValueError


@pytest.mark.parametrize("seed", range(10))
def test_mutated_bytes(seed: int) -> None:
    """Whatever happened to the bytes, decoding ends in messages or in ValueError."""
    rng = random.Random(seed)
    good = [encode(message) for message in TYPED + PLAIN]
    for _ in range(300):
        data = bytearray(rng.choice(good))
        for _ in range(rng.randrange(1, 4)):
            if data and rng.random() < 0.7:
                data[rng.randrange(len(data))] = rng.randrange(256)
            elif data:
                del data[rng.randrange(len(data)) :]
            else:
                data += rng.randbytes(4)
        try:
            found = decode([bytes(data)])
        except ValueError as error:
            assert type(error) is ValueError, f"seed {seed}, {bytes(data)!r}"
        else:
            assert len(found) == 1


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


@pytest.mark.parametrize(
    "data", [b"", b"\x01", cbor2.dumps([1]), cbor2.dumps({1: 2}), cbor2.dumps({"a": float("nan")})]
)
def test_bytes_that_are_no_meta(data: bytes) -> None:
    """Meta is a mapping of str to JSON values, or damaged."""
    with pytest.raises(ValueError, match=r"."):
        decode_meta(data)


def frozen(value: Any) -> bool:
    if isinstance(value, dict):
        return type(value) is messages.FrozenDict and all(map(frozen, value.values()))
    return not isinstance(value, list) or (type(value) is messages.FrozenList and all(map(frozen, value)))


@pytest.mark.parametrize("count", [1, 63, 64, 65, 200])
def test_each_of_many_messages_is_frozen_and_checked(count: int) -> None:
    """Typed ones among them or not; and one that is no JSON value is refused wherever it stands."""
    for every in (1, 3):
        truth = [{"n": n, "l": [{"a": [n]}]} if n % every == 0 else UserMessage(str(n)) for n in range(count)]
        found = decode(list(map(encode, truth)))
        assert found == truth
        assert all(map(frozen, found))
    parts = list(map(encode, truth))
    for place in {0, count // 2, count - 1}:
        for wrong in (b"\xa1\x01\x01", b"\xa1\x61a\xa1\x61b\xf9\x7e\x00", b"\xa1\x61a\x81\xf7"):
            with pytest.raises(ValueError, match="message"):
                decode([*parts[:place], wrong, *parts[place + 1 :]])
