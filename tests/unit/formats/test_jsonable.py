"""jsonable: what other libraries hold becomes JSON values, with pydantic and without."""

from __future__ import annotations

import array
import collections
import collections.abc
import dataclasses
import datetime as dt
import decimal
import enum
import fractions
import ipaddress
import json
import math
import pathlib
import pickle
import re
import subprocess
import sys
import types
import uuid
from typing import TYPE_CHECKING, Annotated, Any, Literal, NamedTuple, TypedDict

import langchain_core.messages
import numpy
import pydantic
import pydantic.dataclasses
import pydantic_core
import pytest

from histstore import (
    ConversationSnapshot,
    JSONValue,
    LeaseInfo,
    Revision,
    RunId,
    SnapshotError,
    UserMessage,
    jsonable,
)
from histstore.values.frozen import MAX_DEPTH

from ...support.ids import stable
from ...support.samples import PLAIN, TYPED, faithful

if TYPE_CHECKING:
    import openai.types.chat

# The clients of openai and anthropic are imported where they are used: each takes a second, in every worker process.


class Role(str, enum.Enum):  # noqa: UP042  (what the issue is about)
    USER = "user"


class Modern(enum.StrEnum):
    USER = "user"


class Number(enum.IntEnum):
    ONE = 1


class Pair(enum.Enum):
    BOTH = (1, Role.USER)


class Bits(enum.Flag):
    A = 1
    B = 2


@dataclasses.dataclass
class Part:
    text: str
    at: dt.datetime | None = None
    parts: list[Part] = dataclasses.field(default_factory=list)


class Point(NamedTuple):
    x: int
    y: Any


class Chat(TypedDict):
    role: str
    content: Any


class Words(str):
    __slots__ = ()


class Count(int):
    pass


class Ratio(float):
    pass


UTC = dt.UTC
ID = uuid.UUID(int=5)

STANDARD: list[tuple[Any, Any]] = [
    (Role.USER, "user"),
    (Modern.USER, "user"),
    (Number.ONE, 1),
    (Pair.BOTH, [1, "user"]),
    (Bits.B, 2),
    (dt.datetime(2026, 1, 2, 3, 4, 5), "2026-01-02T03:04:05"),
    (dt.datetime(2026, 1, 2, 3, 4, 5, 6000, tzinfo=UTC), "2026-01-02T03:04:05.006000Z"),
    (dt.datetime(2026, 1, 2, tzinfo=dt.timezone(dt.timedelta(hours=-2, minutes=-30))), "2026-01-02T00:00:00-02:30"),
    (dt.date(2026, 1, 2), "2026-01-02"),
    (dt.time(1, 2, 3), "01:02:03"),
    (dt.time(1, 2, 3, 4, tzinfo=UTC), "01:02:03.000004Z"),
    (dt.timedelta(0), "PT0S"),
    (dt.timedelta(days=1, seconds=3661.5), "P1DT1H1M1.5S"),
    (dt.timedelta(days=-1, microseconds=5), "-PT23H59M59.999995S"),
    (dt.timedelta(days=400), "P1Y35D"),
    (dt.timedelta(days=365, minutes=2), "P1YT2M"),
    (ID, "00000000-0000-0000-0000-000000000005"),
    (decimal.Decimal("1.10"), "1.10"),
    (decimal.Decimal("1E+5"), "1E+5"),
    (fractions.Fraction(1, 3), "1/3"),
    (complex(1, -2), "1-2j"),
    (complex(0, 2), "2j"),
    (pathlib.Path("a/b"), "a/b"),
    (ipaddress.ip_address("1.2.3.4"), "1.2.3.4"),
    (ipaddress.ip_network("1.2.3.0/24"), "1.2.3.0/24"),
    (ipaddress.ip_address("::1"), "::1"),
    (re.compile("a+"), "a+"),
    ((1, (2, Role.USER)), [1, [2, "user"]]),
    ({3}, [3]),
    (frozenset({"a"}), ["a"]),
    (collections.deque([1, 2]), [1, 2]),
    (Point(1, Point(2, 3)), [1, [2, 3]]),
    (collections.OrderedDict(a=1), {"a": 1}),
    (collections.defaultdict(list, a=[1]), {"a": [1]}),
    (collections.Counter("aab"), {"a": 2, "b": 1}),
    (Part("x", dt.datetime(2026, 1, 2), [Part("y")]), {
        "text": "x",
        "at": "2026-01-02T00:00:00",
        "parts": [{"text": "y", "at": None, "parts": []}],
    }),
    (Chat(role=Role.USER, content=[Role.USER]), {"role": "user", "content": ["user"]}),
    (Words("w"), "w"),
    (Count(3), 3),
    (Ratio(0.5), 0.5),
    (2**200, 2**200),
    ({1: "a", 1.5: "b", Role.USER: "c", Number.ONE.name: 1, ID: 2, dt.date(2026, 1, 2): 3}, {
        "1": "a", "1.5": "b", "user": "c", "ONE": 1, str(ID): 2, "2026-01-02": 3,
    }),
    ({decimal.Decimal("1.5"): 1, pathlib.Path("p"): 2}, {"1.5": 1, "p": 2}),
]  # fmt: skip
"""What pydantic converts too, and to what."""

OURS: list[tuple[Any, Any]] = [
    (b"\xff\x00", b"\xff\x00"),
    (bytearray(b"\xff"), b"\xff"),
    (memoryview(b"abcd")[::2], b"ac"),
    ({None: 1, True: 2, False: 3}, {"null": 1, "true": 2, "false": 3}),
    ({Number.ONE: 1}, {"1": 1}),
    (collections.ChainMap({"a": 1}, {"b": 2}), {"b": 2, "a": 1}),
    (collections.UserDict(a=b"x"), {"a": b"x"}),
    (types.MappingProxyType({"a": 1}), {"a": 1}),
    (collections.UserList([1]), [1]),
    (collections.UserString("s"), "s"),
    (range(3), [0, 1, 2]),
    (array.array("i", [1, 2]), [1, 2]),
    ({"a": 1}.keys(), ["a"]),
    ({"a": 1}.values(), [1]),
    ({"a": 1}.items(), [["a", 1]]),
    ({"b", "a", "c"}, ["a", "b", "c"]),
]
"""What pydantic refuses, or would not give back."""


def same(found: Any, wanted: Any) -> bool:
    return bool(faithful(found) == faithful(wanted))


@pytest.mark.parametrize(("value", "wanted"), [*STANDARD, *OURS], ids=lambda value: stable(value)[:40])
def test_the_standard_library(value: Any, wanted: Any) -> None:
    """Each type has one form, and a snapshot takes it and gives it back."""
    found = jsonable(value)
    assert same(found, wanted)
    assert same(jsonable({"k": [value]}), {"k": [wanted]})
    snapshot = ConversationSnapshot([{"content": found}], meta={"m": found})
    assert ConversationSnapshot.from_json(snapshot.to_json()) == snapshot


@pytest.mark.parametrize(("value", "wanted"), STANDARD, ids=lambda value: stable(value)[:40])
def test_it_agrees_with_pydantic(value: Any, wanted: Any) -> None:
    """A value has the same form in a pydantic model and beside it."""
    assert same(pydantic_core.to_jsonable_python(value), wanted)
    assert same(jsonable(pydantic.create_model("Holder", held=(Any, ...))(held=value)), {"held": wanted})


def test_it_needs_no_pydantic() -> None:
    """Where pydantic is not installed the standard library's types come out the same, and nothing else changes."""
    code = """
import sys, importlib.abc

class Blocked(importlib.abc.MetaPathFinder):
    def find_spec(self, name, path, target=None):
        if name.split(".")[0] in ("pydantic", "pydantic_core", "numpy", "typing_extensions", "fastapi"):
            raise ImportError(name)

sys.meta_path.insert(0, Blocked())
import dataclasses, pickle
import histstore, histstore.sync
from histstore import SnapshotError, UserMessage, jsonable

@dataclasses.dataclass
class Part:
    text: str

assert jsonable({"part": Part("x"), "message": UserMessage("hi")}) == {
    "part": {"text": "x"}, "message": {"User": {"blocks": [{"Text": {"text": "hi"}}]}}
}
assert not hasattr(UserMessage, "__pydantic_serializer__")
for make in (lambda: jsonable([object()]), lambda: histstore.ConversationSnapshot([{"a": Part("x")}])):
    try:
        make()
    except SnapshotError as error:
        print(error, file=sys.stderr)
    else:
        raise AssertionError
values = pickle.load(sys.stdin.buffer)
pickle.dump([jsonable(value) for value in values], sys.stdout.buffer)
"""
    # Only what pickles without this module's own classes.
    values = [
        value
        for value, _ in [*STANDARD, *OURS]
        if not isinstance(value, (memoryview, types.MappingProxyType, collections.abc.MappingView))
        and __name__.encode() not in pickle.dumps(value)
    ]
    assert len(values) > 30
    done = subprocess.run(
        [sys.executable, "-c", code], input=pickle.dumps(values), capture_output=True, check=False, timeout=60
    )
    assert done.returncode == 0, done.stderr.decode()
    assert same(pickle.loads(done.stdout), [jsonable(value) for value in values])
    assert b"value[0] is a object, which has no JSON form: convert it" in done.stderr
    assert b"is a __main__.Part, not a JSON value: pass the whole value through histstore.jsonable(...)" in done.stderr


@pytest.mark.parametrize("value", PLAIN, ids=repr)
def test_json_values_come_back_as_fresh_ones(value: Any) -> None:
    """A JSON value is its own form; the dicts and lists are new."""
    held = [value]
    found: Any = jsonable(held)
    assert same(found, held)
    assert found is not held
    if isinstance(value, dict):
        assert found[0] is not value
    frozen = ConversationSnapshot(meta={"m": value}).meta
    assert type(jsonable(frozen)) is dict
    assert type(jsonable(frozen)) is type(json.loads("{}"))


def test_values_of_histstore() -> None:
    """Messages are what to_dict() returns; a revision and a run id are text."""
    revision = Revision(3, b"\xff" * 16)
    assert jsonable({"at": revision, RunId("r"): TYPED}) == {
        "at": str(revision),
        "r": [message.to_dict() for message in TYPED],
    }
    assert type(jsonable(RunId("r"))) is str
    snapshot = ConversationSnapshot(TYPED)
    assert jsonable(snapshot) == json.loads(snapshot.to_json())
    lease = LeaseInfo("w", 3, dt.datetime(2026, 1, 2, tzinfo=UTC), 2.5)
    assert jsonable([lease]) == [{"holder": "w", "fence": 3, "since": "2026-01-02T00:00:00Z", "expires_in": 2.5}]


# ---------------------------------------------------------------------------------------- pydantic


class Content(pydantic.BaseModel):
    text: str
    kind: Role = Role.USER
    at: dt.datetime | None = None


class Note(pydantic.BaseModel):
    model_config = pydantic.ConfigDict(extra="allow")
    role: Literal["user"] = "user"
    contents: list[Content] = pydantic.Field(default_factory=list, alias="contentList")
    secret: Annotated[int, pydantic.PlainSerializer(lambda n: f"#{n}", when_used="json")] = 3


class Raw(pydantic.BaseModel):
    data: bytes
    at: dt.datetime


@pydantic.dataclasses.dataclass
class Strict:
    amount: int = pydantic.Field(alias="theAmount")


def test_pydantic_models() -> None:
    """A model is its JSON form, by alias and with its defaults, so that the model reads it back."""
    note = Note(contentList=[Content(text="a", at=dt.datetime(2026, 1, 2, tzinfo=UTC))], more=(ID, {Role.USER}))
    found: Any = jsonable({"note": note})
    assert found == {
        "note": {
            "role": "user",
            "contentList": [{"text": "a", "kind": "user", "at": "2026-01-02T00:00:00Z"}],
            "secret": "#3",
            "more": [str(ID), ["user"]],
        }
    }
    content = Content(text="a", at=dt.datetime(2026, 1, 2, tzinfo=UTC))
    assert Content.model_validate(jsonable(content)) == content
    assert jsonable(Strict(theAmount=3)) == {"theAmount": 3}
    assert jsonable(pydantic.RootModel[list[Role]]([Role.USER])) == ["user"]
    assert jsonable(pydantic.AnyUrl("https://example.com/x")) == "https://example.com/x"


@pytest.mark.parametrize("data", [b"", b"text", b"\xff\xfe", bytes(range(256))])
def test_a_models_bytes_stay_bytes(data: bytes) -> None:
    """pydantic would take them for UTF-8, fail where they are not, and give text back."""
    raw = Raw(data=data, at=dt.datetime(2026, 1, 2, tzinfo=UTC))
    found: Any = jsonable(raw)
    assert found == {"data": data, "at": "2026-01-02T00:00:00Z"}
    assert Raw.model_validate(found) == raw


def openai_completion() -> openai.types.chat.ChatCompletion:
    import openai.types.chat

    return openai.types.chat.ChatCompletion.model_validate({
        "id": "c1", "object": "chat.completion", "created": 1, "model": "m",
        "choices": [{
            "index": 0, "finish_reason": "tool_calls", "logprobs": None,
            "message": {
                "role": "assistant", "content": None, "refusal": None,
                "tool_calls": [{"id": "t1", "type": "function", "function": {"name": "f", "arguments": "{}"}}],
            },
        }],
    })  # fmt: skip


def test_an_openai_message_goes_back_into_a_request() -> None:
    """What the API sent, and not the fields that it did not: "function_call": null would be refused."""
    import openai.types.chat

    message = openai_completion().choices[0].message
    found: Any = jsonable(message)
    assert found == {
        "role": "assistant",
        "content": None,
        "refusal": None,
        "tool_calls": [{"id": "t1", "type": "function", "function": {"name": "f", "arguments": "{}"}}],
    }
    pydantic.TypeAdapter(openai.types.chat.ChatCompletionAssistantMessageParam).validate_python(found)
    assert type(message).model_validate(found) == message
    assert jsonable({"nested": [message]}) == {"nested": [found]}


def test_openai_responses_go_back_into_a_request() -> None:
    """Output items of the Responses API, as the client itself would send them back."""
    import openai.types.responses

    call = openai.types.responses.ParsedResponseFunctionToolCall.model_validate(
        {"arguments": '{"a": 1}', "call_id": "c", "name": "f", "type": "function_call", "parsed_arguments": {"a": 1}}
    )
    assert jsonable([call]) == [{"arguments": '{"a": 1}', "call_id": "c", "name": "f", "type": "function_call"}]


def test_an_anthropic_message_goes_back_into_a_request() -> None:
    """A message's content blocks are the next request's content."""
    import anthropic.types

    message = anthropic.types.Message.model_validate({
        "id": "m1", "type": "message", "role": "assistant", "model": "claude", "stop_reason": "tool_use",
        "stop_sequence": None, "usage": {"input_tokens": 1, "output_tokens": 2},
        "content": [
            {"type": "text", "text": "hé"},
            {"type": "thinking", "thinking": "t", "signature": "s"},
            {"type": "tool_use", "id": "t1", "name": "f", "input": {"a": [1]}},
        ],
    })  # fmt: skip
    found: Any = jsonable({"role": message.role, "content": message.content})
    assert found == {
        "role": "assistant",
        "content": [
            {"type": "text", "text": "hé"},
            {"type": "thinking", "thinking": "t", "signature": "s"},
            {"type": "tool_use", "id": "t1", "name": "f", "input": {"a": [1]}},
        ],
    }
    pydantic.TypeAdapter(anthropic.types.MessageParam).validate_python(found)
    assert anthropic.types.Message.model_validate(jsonable(message)) == message


def test_langchain_messages_come_back() -> None:
    """With their type, which is a default, and so that LangChain reads them."""
    messages = [
        langchain_core.messages.SystemMessage("s"),
        langchain_core.messages.HumanMessage([{"type": "text", "text": "hi"}], id="1"),
        langchain_core.messages.AIMessage(
            "", tool_calls=[{"name": "f", "args": {"a": 1}, "id": "t1", "type": "tool_call"}]
        ),
        langchain_core.messages.ToolMessage("done", tool_call_id="t1", artifact={"at": ID}),
    ]
    found: Any = jsonable(messages)
    ConversationSnapshot(found)
    adapter = pydantic.TypeAdapter(list[langchain_core.messages.AnyMessage])
    back = adapter.validate_python(found)
    assert [type(message) for message in back] == [type(message) for message in messages]
    assert back[:3] == messages[:3]
    assert back[3].artifact == {"at": str(ID)}  # type: ignore[union-attr]


# ------------------------------------------------------------------------------------------- NumPy


@pytest.mark.parametrize(
    ("value", "wanted"),
    [
        (numpy.float32(1.5), 1.5),
        (numpy.float64(2.5), 2.5),
        (numpy.longdouble(0.5), 0.5),
        (numpy.int64(-3), -3),
        (numpy.uint8(255), 255),
        (numpy.bool_(True), True),
        (numpy.str_("a"), "a"),
        (numpy.bytes_(b"\xff"), b"\xff"),
        (numpy.datetime64("2026-01-02"), "2026-01-02"),
        (numpy.datetime64("2026-01-02T03:04:05.123456789"), "2026-01-02T03:04:05.123456789"),
        (numpy.timedelta64(90, "m"), "PT1H30M"),
        (numpy.array([[1, 2], [3, 4]]), [[1, 2], [3, 4]]),
        (numpy.array([1.5], dtype="float32"), [1.5]),
        (numpy.array(["2026-01-02"], dtype="datetime64[ns]"), ["2026-01-02T00:00:00.000000000"]),
        (numpy.array([[True]]), [[True]]),
        (numpy.array([Role.USER, None, ID], dtype=object), ["user", None, str(ID)]),
        (numpy.array(3), 3),
        (numpy.array([]), []),
        ({numpy.int64(3): numpy.float32(0.5)}, {"3": 0.5}),
        (numpy.array([(1, b"x")], dtype=[("a", "i4"), ("b", "S1")]), [[1, b"x"]]),
    ],
    ids=repr,
)
def test_numpy(value: Any, wanted: Any) -> None:
    """Scalars are numbers, arrays are lists, times are text."""
    assert same(jsonable(value), wanted)
    assert same(jsonable([value]), [wanted])


# ---------------------------------------------------------------------------------------- refusals


class Loose(pydantic.BaseModel):
    held: Any = None
    ratio: float = 1.0


class Broken(pydantic.BaseModel):
    x: int = 1

    @pydantic.field_serializer("x")
    def fail(self, value: int) -> int:
        raise RuntimeError("its content")


class Settings(pydantic.BaseModel):
    """What a model says of its JSON form only."""

    model_config = pydantic.ConfigDict(ser_json_timedelta="float", extra="allow")

    wait: dt.timedelta = dt.timedelta(seconds=1.5)
    at: dt.date = pydantic.Field(dt.date(2026, 1, 2), alias="when")
    data: Any = None

    @pydantic.field_serializer("at", when_used="json")
    def year(self, at: dt.date) -> int:
        return at.year

    @pydantic.computed_field
    def twice(self) -> dt.timedelta:
        return self.wait * 2


@pytest.mark.parametrize("data", [None, b"text", b"\xff", [{"a": b"\xff"}], dt.date(2026, 1, 2)], ids=repr)
@pytest.mark.parametrize("more", [{}, {"more": b"\xff"}], ids=["declared", "extra"])
def test_a_fields_form_does_not_hang_on_another_field(data: Any, more: Any) -> None:
    """A model's settings and JSON serializers hold, whether bytes stand somewhere else in it or not."""
    kept = data.isoformat() if isinstance(data, dt.date) else data
    found = jsonable(Settings(data=data, **more))
    assert found == {"wait": 1.5, "when": 2026, "data": kept, "twice": 3.0} | more
    assert list(found) == list(Settings(**more).model_dump(mode="python", by_alias=True))


class Whole(pydantic.BaseModel):
    data: bytes

    @pydantic.model_serializer
    def whole(self) -> dict[str, Any]:
        return {"data": self.data, "on": dt.date(2026, 1, 2)}


@pytest.mark.parametrize("data", [b"text", b"\xff"])
def test_bytes_stay_bytes_under_a_models_own_serializer(data: bytes) -> None:
    assert jsonable(Whole(data=data)) == {"data": data, "on": "2026-01-02"}


class Itself(pydantic.BaseModel):
    def model_dump(self, **_options: Any) -> Any:
        return self


@dataclasses.dataclass
class Unset:
    x: int = dataclasses.field(init=False)


class Closed(collections.abc.Mapping[str, int]):
    """A view of something that is not there any more."""

    def __getitem__(self, key: str) -> int:
        raise RuntimeError("its content")

    def __iter__(self) -> collections.abc.Iterator[str]:
        return iter("a")

    def __len__(self) -> int:
        return 1


class Unbound:
    """A proxy outside of its context, as web frameworks have them."""

    @property
    def __class__(self) -> Any:
        raise RuntimeError("its content")


class Tree(pydantic.BaseModel):
    child: Tree | None = None


def loop(kind: Any) -> Any:
    if kind is Tree:
        tree = Tree()
        tree.child = tree
        return tree
    if kind is Part:
        part = Part("x")
        part.parts.append(part)
        return part
    found: Any = kind()
    if isinstance(found, dict):
        found["a"] = (found,)
    else:
        found.append({"a": found})
    return found


@pytest.mark.parametrize(
    ("value", "text"),
    [
        ({"a": [object()]}, r"^value\['a'\]\[0\] is a object, which has no JSON form: convert it"),
        ([int], r"^value\[0\] is a type, which"),
        ([(item for item in "ab")], r"^value\[0\] is a generator, which can be read only once: make it a list"),
        (Part("x", parts=[3, math.nan]), r"^value\['parts'\]\[1\] is nan, which JSON cannot hold: use None or a str"),  # type: ignore[list-item]
        (numpy.array([1.0, math.inf]), r"^value\[1\] is inf"),
        (Loose(held=[1.5, math.nan]), r"^value\['held'\]\[1\] is nan"),
        (Loose(ratio=-math.inf), r"^value\['ratio'\] is -inf"),
        ([numpy.datetime64("NaT", "s")], r"^value\[0\] is NaT"),
        (numpy.timedelta64(1, "M"), "no timedelta can hold"),
        (numpy.longdouble("0.1"), "no float can hold"),
        ({"a": ("\ud83d",)}, r"^value\['a'\]\[0\] has a lone surrogate"),
        ({Words("\ud83d"): 1}, "^a key of value has a lone surrogate"),
        ({"a": {(1, 2): 3}}, r"^value\['a'\] has a key of type tuple.*make it a str"),
        ({b"x": 1}, "has a key of type bytes"),
        ({math.nan: 1}, "has a key of type float"),
        ({1: "a", "1": "b"}, "has two keys that become '1': rename one"),
        ([Broken()], r"^value\[0\] is a .*Broken whose model_dump\(\) fails"),
        ([Unset()], r"^value\[0\] is a .*Unset that cannot be read \(AttributeError\): mend it, or pick its parts"),
        ([Closed()], r"^value\[0\] is a .*Closed that cannot be read \(RuntimeError\)"),
        ([Unbound()], r"^value\[0\] is a .*Unbound that cannot be read \(RuntimeError\)"),
        ([fractions.Fraction(10**5000, 3)], r"^value\[0\] is a fractions.Fraction that cannot be read"),
        ([{10**5000: 1}], r"^value\[0\] has a key with more digits than Python writes as text: make it a str"),
        (Itself(), "contains itself"),
        (loop(list), "contains itself"),
        (loop(dict), "contains itself"),
        (loop(Tree), "contains itself"),
        (loop(Part), "contains itself"),
    ],
    ids=lambda value: value if isinstance(value, str) else None,
)
def test_what_has_no_json_form_is_refused_with_its_path(value: Any, text: str) -> None:
    """One line that names the path and the mend, and no content."""
    with pytest.raises(SnapshotError, match=text) as caught:
        jsonable(value)
    assert "\n" not in str(caught.value)
    assert len(str(caught.value)) < 300
    assert "its content" not in str(caught.value)


def test_nesting_is_bounded() -> None:
    """As deep as a snapshot takes, and no deeper; whatever nests."""
    for wrap in (
        lambda v: [v],
        lambda v: {"k" * 50: v},
        lambda v: (v,),
        lambda v: Part("x", parts=[v]),
        lambda v: Loose(held=v),
    ):
        value: Any = 1
        for _ in range(1000):
            value = wrap(value)
        with pytest.raises(SnapshotError, match="nests more than 100 levels, or contains itself: flatten it") as caught:
            jsonable(value)
        assert len(str(caught.value)) < 300
    for depth in (MAX_DEPTH, MAX_DEPTH + 1):
        value = Role.USER
        for _ in range(depth):
            value = (value,)
        if depth == MAX_DEPTH:
            ConversationSnapshot([{"a": 1}, UserMessage("hi")], meta={"m": 1})
            assert json.dumps(jsonable(value)) == "[" * depth + '"user"' + "]" * depth
        else:
            with pytest.raises(SnapshotError, match="nests more"):
                jsonable(value)


def test_its_type() -> None:
    """What it returns goes into a store of JSON values."""
    found: JSONValue = jsonable((1, 2))
    assert found == [1, 2]
