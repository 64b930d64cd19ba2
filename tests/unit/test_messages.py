"""Typed messages and JSON values: frozen, comparable, and checked when they are made."""

from __future__ import annotations

import collections
import copy
import enum
import math
import pickle
from typing import Any

import pydantic
import pytest

from histstore import (
    AssistantMessage,
    Base64Source,
    Document,
    FileSource,
    Image,
    Reasoning,
    SnapshotError,
    Text,
    ToolCall,
    ToolResult,
    ToolResultContent,
    ToolResultImage,
    ToolResultText,
    UrlSource,
    UserMessage,
)
from histstore.messages import freeze_message, freeze_messages
from histstore.values.frozen import MAX_DEPTH, FrozenDict, FrozenList, freeze_json

from ..support.ids import stable
from ..support.samples import PLAIN, TYPED, faithful

MESSAGES: list[Any] = TYPED


def test_a_str_stands_for_one_text() -> None:
    """UserMessage("hi") is UserMessage([Text("hi")]), and so for the others."""
    assert UserMessage("hi") == UserMessage([Text("hi")]) == UserMessage(iter([Text("hi")]))
    assert AssistantMessage("hi").blocks == (Text("hi"),)
    assert ToolResult("1", "ok") == ToolResult("1", ToolResultContent("ok"))
    assert ToolResultContent("ok") == ToolResultContent([ToolResultText("ok")], is_error=False)
    assert UserMessage("hi") != AssistantMessage("hi")


@pytest.mark.parametrize("message", MESSAGES, ids=repr)
def test_typed_messages_are_values(message: Any) -> None:
    """Equal, hashable, picklable and copyable, with the same types inside."""
    for twin in (pickle.loads(pickle.dumps(message)), copy.deepcopy(message), copy.copy(message)):
        assert twin == message
        assert hash(twin) == hash(message)
        assert faithful(twin) == faithful(message)
        assert repr(twin) == repr(message)


@pytest.mark.parametrize("message", MESSAGES, ids=repr)
def test_typed_messages_are_frozen(message: Any) -> None:
    """No attribute of a message or of a block can be set, removed or added."""
    for thing in (message, *message.blocks):
        name = thing.__match_args__[0]
        with pytest.raises(AttributeError):
            setattr(thing, name, "changed")
        with pytest.raises(AttributeError):
            delattr(thing, name)
        with pytest.raises((AttributeError, TypeError)):
            thing.something_new = 1


def test_tool_arguments_are_frozen_to_the_bottom() -> None:
    """What the caller does to its dict afterwards, or tries to do to the message's, changes nothing."""
    args: dict[str, Any] = {"list": [1, {"a": 1}]}
    call = ToolCall("1", "f", args)
    args["list"].append(2)
    args["more"] = True
    assert call.args == {"list": [1, {"a": 1}]}
    changes: list[Any] = [
        lambda d: d.__setitem__("a", 1),
        lambda d: d.pop("list"),
        lambda d: d.update(a=1),
        lambda d: d.clear(),
        lambda d: d.setdefault("x", 1),
        lambda d: d.popitem(),
        lambda d: d.__delitem__("list"),
        lambda d: d.__ior__({"a": 1}),
        lambda d: d["list"].append(1),
        lambda d: d["list"].__setitem__(0, 1),
        lambda d: d["list"].extend([1]),
        lambda d: d["list"].sort(),
        lambda d: d["list"].reverse(),
        lambda d: d["list"].insert(0, 1),
        lambda d: d["list"].pop(),
        lambda d: d["list"].remove(1),
        lambda d: d["list"].clear(),
        lambda d: d["list"].__iadd__([1]),
        lambda d: d["list"].__imul__(2),
        lambda d: d["list"].__delitem__(0),
        lambda d: d["list"][1].__setitem__("a", 2),
    ]
    for change in changes:
        with pytest.raises(TypeError, match="do not change"):
            change(call.args)
    assert call.args == {"list": [1, {"a": 1}]}
    assert dict(call.args) | {"b": 1} == {"list": [1, {"a": 1}], "b": 1}


def test_frozen_collections_are_like_the_plain_ones() -> None:
    """Equal to the plain value, pickled and copied to it, read by whoever reads dicts and lists."""
    frozen = freeze_json({"a": [1, {"b": 2}]}, "x")
    assert type(frozen) is FrozenDict
    assert type(frozen["a"]) is FrozenList
    assert frozen == {"a": [1, {"b": 2}]}
    for twin in (copy.deepcopy(frozen), *(pickle.loads(pickle.dumps(frozen, n)) for n in range(6))):
        assert twin == frozen
        assert [type(twin), type(twin["a"]), type(twin["a"][1])] == [dict, list, dict]
    assert type(copy.copy(frozen)) is dict
    assert copy.copy(frozen)["a"] is frozen["a"]
    assert type(copy.copy(frozen["a"])) is list
    assert isinstance(frozen, dict)
    assert isinstance(frozen["a"], list)
    assert freeze_json(frozen, "x") is frozen


class Colour(enum.StrEnum):
    RED = "red"


class Model(pydantic.BaseModel):
    role: Colour = Colour.RED


@pytest.mark.parametrize(
    ("value", "text"),
    [
        (
            {"a": [1, (2,)]},
            r"m\['a'\]\[1\] is a tuple, not a JSON value: pass the whole value through histstore\.",
        ),
        (
            {"a": {1, 2}},
            r"m\['a'\] is a set, not a JSON value: pass the whole value through histstore\.",
        ),
        (
            {"a": Model()},
            r"m\['a'\] is a .*Model, not a JSON value: pass the whole value through histstore\.",
        ),
        (Colour.RED, r"m is a .*Colour, not a JSON value: pass the whole value through histstore\."),
        (
            collections.OrderedDict(a=1),
            r"m is a collections.OrderedDict.*pass the whole value through histstore\.",
        ),
        ({"a": math.nan}, r"m\['a'\] is nan, which JSON cannot hold"),
        ([1, [-math.inf]], r"m\[1\]\[0\] is -inf, which JSON cannot hold"),
        (
            {1: "a"},
            r"m has a key of type int: make the keys plain str, or pass the whole value through histstore\.",
        ),
        (
            {Colour.RED: 1},
            r"m has a key of type .*Colour: make the keys plain str, or pass the whole value through histstore\.",
        ),
        ({"a": "\ud800"}, r"m\['a'\] has a lone surrogate.*join.*surrogatepass"),
        ({"\udfff": 1}, r"a key of m has a lone surrogate.*surrogatepass"),
        (bytearray(b"x"), r"m is a bytearray"),
        (object(), r"m is a object, not a JSON value: convert it to dict"),
        (1j, r"m is a complex, not a JSON value: pass the whole value through histstore\."),
        (object(), r"m is a object, not a JSON value"),
    ],
    ids=stable,
)
def test_what_is_no_json_names_the_path_and_the_mend(value: Any, text: str) -> None:
    """The error says where it is and what to call."""
    with pytest.raises(SnapshotError, match=text):
        freeze_json(value, "m")
    with pytest.raises(SnapshotError, match=r"ToolCall\.args"):
        ToolCall("1", "f", value)


def nested(depth: int, leaf: Any = 1) -> Any:
    value = leaf
    for level in range(depth):
        value = [value] if level % 2 else {"k": value}
    return value


def test_nesting_is_bounded() -> None:
    """A hundred levels are fine; one more, and a value that contains itself, are errors, not crashes."""
    deep = freeze_json(nested(MAX_DEPTH), "m")
    assert deep == nested(MAX_DEPTH)
    for value in (
        nested(MAX_DEPTH + 1),
        nested(100_000),
        {"more": deep},
        [deep],
        {"a": [freeze_json(nested(99), "m")]},
    ):
        with pytest.raises(SnapshotError, match="nests more than 100 levels"):
            freeze_json(value, "m")
    assert freeze_json({"a": freeze_json(nested(99), "m")}, "m") == {"a": nested(99)}
    loop: list[Any] = []
    loop.append(loop)
    with pytest.raises(SnapshotError, match="contains itself"):
        freeze_json(loop, "m")
    loops: dict[str, Any] = {}
    loops["x" * 1000] = loops
    with pytest.raises(SnapshotError, match="contains itself") as caught:
        freeze_json(loops, "m")
    assert len(str(caught.value)) < 400


def test_a_list_is_no_message() -> None:
    """A list as a message is a forgotten star; inside a message it is a list."""
    with pytest.raises(SnapshotError, match=r"messages\[0\] is a list.*\*"):
        freeze_messages([[UserMessage("hi")]])
    with pytest.raises(SnapshotError, match=r"messages\[7\] is a list.*\*"):
        freeze_messages([freeze_json([1], "m")], 7)
    assert freeze_message({"a": [1]}, "m") == {"a": [1]}


@pytest.mark.parametrize("message", PLAIN, ids=repr)
def test_json_values_are_messages(message: Any) -> None:
    """Every JSON value but a list."""
    frozen = freeze_message(message, "m")
    assert faithful(frozen) == faithful(message)
    assert freeze_message(frozen, "m") is frozen


@pytest.mark.parametrize(
    ("make", "text"),
    [
        (lambda: UserMessage(3), "takes a str or a list of blocks, not a int"),
        (lambda: UserMessage(Text("a")), r"put the Text into \[\.\.\.\]"),
        (
            lambda: UserMessage(["a"]),
            r"UserMessage.blocks\[0\] is a str: give one of Document, Image, Text, ToolResult",
        ),
        (lambda: UserMessage([Text("a"), ToolCall("1", "f", {})]), r"UserMessage.blocks\[1\]"),
        (lambda: AssistantMessage([ToolResult("1", "a")]), r"AssistantMessage.blocks\[0\]"),
        (lambda: AssistantMessage([Image(UrlSource("a"))]), r"AssistantMessage.blocks\[0\]"),
        (lambda: Text(3), "Text.text is a int: give a plain str"),
        (lambda: Text(Colour.RED), "Text.text is a"),
        (lambda: Text("\ud83d"), "Text.text has a lone surrogate"),
        (lambda: Image("http://x"), "Image.source is a str: give a Base64Source"),
        (lambda: Document(None), "Document.source"),
        (lambda: ToolResultImage({}), "ToolResultImage.source"),
        (lambda: Base64Source("image/png", b"x"), "Base64Source.data is a bytes"),
        (lambda: FileSource(1), "FileSource.id"),
        (lambda: ToolCall(1, "f", {}), "ToolCall.id"),
        (lambda: ToolCall("1", None, {}), "ToolCall.name"),
        (lambda: ToolResult("1", 3), "ToolResult.content is a int"),
        (lambda: ToolResult(None, "x"), "ToolResult.call_id"),
        (lambda: ToolResultContent("x", is_error=1), "is_error is not a bool"),
        (lambda: ToolResultContent([Text("x")]), r"ToolResultContent.blocks\[0\] is a .*Text"),
        (lambda: Reasoning("x", 3), "Reasoning.signature"),
        (lambda: Reasoning(None), "Reasoning.text"),
    ],
)
def test_a_wrong_field_is_refused_when_the_message_is_made(make: Any, text: str) -> None:
    """A typed message that exists is valid; the error names the field."""
    with pytest.raises(SnapshotError, match=text):
        make()
