"""Messages to CBOR and back, and what damaged bytes decode to."""

from __future__ import annotations

import random
from functools import reduce
from typing import Any

import cbor2
import pytest
from hypothesis import given

from histstore import AssistantMessage, ToolCall, UserMessage, messages
from histstore.log.message_codec import decode, decode_meta, encode, encode_meta
from histstore.values.frozen import FrozenDict, FrozenList

from ...support.samples import PLAIN, TYPED, faithful
from ...support.strategies import JSON


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
