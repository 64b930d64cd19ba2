"""Plain messages inside a snapshot: read-only, and dicts and lists to everybody who reads them."""

from __future__ import annotations

import contextlib
import copy
import json
import pickle
import threading
from collections.abc import Callable, Iterator
from datetime import UTC, datetime
from http.server import BaseHTTPRequestHandler, HTTPServer
from typing import Any

import orjson
import pydantic
import pytest
from typing_extensions import TypedDict

from histstore import AssistantMessage, ConversationSnapshot, Page, Revision, RunId, RunInfo, SnapshotError, ToolCall
from histstore.values.frozen import MAX_DEPTH, FrozenDict, FrozenList, OpenDict, OpenList

from ...support.ids import stable
from ...support.samples import PLAIN, TYPED, faithful

TEXT = r"^a snapshot's messages do not change: copy\.deepcopy\(\) gives one that does, splice\(\) puts it back"
QUESTION: dict[str, Any] = {"role": "user", "content": "Où est mon colis ?"}
CALL: dict[str, Any] = {
    "role": "assistant",
    "content": [
        {"type": "text", "text": "I look."},
        {"type": "tool_use", "id": "t1", "name": "f", "input": {"a": [1]}},
    ],
}
RESULT: dict[str, Any] = {
    "role": "user",
    "content": [{"type": "tool_result", "tool_use_id": "t1", "content": [{"type": "text", "text": "42"}]}],
}
CALL_OPENAI: dict[str, Any] = {
    "role": "assistant",
    "content": None,
    "tool_calls": [{"id": "t1", "type": "function", "function": {"name": "f", "arguments": '{"a": [1]}'}}],
}


def frozen(value: Any) -> Any:
    (message,) = ConversationSnapshot([value]).messages
    return message


def kinds_in(value: Any) -> set[type]:
    """Returns the types of the dicts and lists in a value."""
    if not isinstance(value, (dict, list, tuple)):
        return set()
    items = value.values() if isinstance(value, dict) else value
    return {type(value)}.union(*map(kinds_in, items))


# ---------------------------------------------------------------------------------------- read-only

# What dict and list offer for reading. All else that a Python gives them is a mutator, or is new and to be looked at.
READERS = {
    "__class__", "__class_getitem__", "__contains__", "__dir__", "__doc__", "__eq__", "__format__", "__ge__",
    "__getattribute__", "__getitem__", "__getstate__", "__gt__", "__hash__", "__init_subclass__", "__iter__", "__le__",
    "__len__", "__lt__", "__ne__", "__new__", "__reduce__", "__reduce_ex__", "__repr__", "__reversed__", "__sizeof__",
    "__str__", "__subclasshook__", "copy",
}  # fmt: skip
DICT_READERS = READERS | {"__or__", "__ror__", "fromkeys", "get", "items", "keys", "values"}
LIST_READERS = READERS | {"__add__", "__mul__", "__rmul__", "count", "index"}


@pytest.mark.parametrize("name", sorted(set(dir(dict)) - DICT_READERS))
@pytest.mark.parametrize("arguments", [(), ("role",), ({"role": "x"},), ("role", "x")], ids=len)
def test_no_method_changes_a_dict(name: str, arguments: tuple[Any, ...]) -> None:
    """Each mutator that this Python gives a dict refuses, whatever it is called with."""
    message = frozen(CALL)
    for value in (message, message["content"][1]["input"]):
        with pytest.raises(TypeError, match=TEXT):
            getattr(value, name)(*arguments)
    assert faithful(message) == faithful(CALL)


@pytest.mark.parametrize("name", sorted(set(dir(list)) - LIST_READERS))
@pytest.mark.parametrize("arguments", [(), (0,), ([1],), (0, 1)], ids=len)
def test_no_method_changes_a_list(name: str, arguments: tuple[Any, ...]) -> None:
    """Each mutator that this Python gives a list refuses, whatever it is called with."""
    message = frozen(CALL)
    for value in (message["content"], message["content"][1]["input"]["a"]):
        with pytest.raises(TypeError, match=TEXT):
            getattr(value, name)(*arguments)
    assert faithful(message) == faithful(CALL)


def test_no_statement_changes_a_message() -> None:
    """Assignment, deletion, the augmented operators, keyword arguments, a change of class."""
    message = frozen(CALL)
    content = message["content"]
    changes: list[Callable[[dict[str, Any]], object]] = [
        lambda scope: exec("message['a'] = 1", scope),
        lambda scope: exec("del message['role']", scope),
        lambda scope: exec("message |= {'a': 1}", scope),
        lambda scope: exec("content += [1]", scope),
        lambda scope: exec("content *= 2", scope),
        lambda scope: exec("content[:] = []", scope),
        lambda scope: exec("del content[0]", scope),
        lambda scope: exec("message.update(a=1)", scope),
        lambda scope: exec("message.__init__(a=1)", scope),
        lambda scope: exec("content.sort(key=str)", scope),
        lambda scope: exec("message.__class__ = OpenDict", scope),
        lambda scope: exec("content.__class__ = OpenList", scope),
    ]
    for change in changes:
        scope = {"message": message, "content": content, "OpenDict": OpenDict, "OpenList": OpenList}
        with pytest.raises(TypeError, match=TEXT):
            change(scope)
    assert faithful(message) == faithful(CALL)


def test_the_error_says_what_to_do_in_one_line() -> None:
    """And doing it works: a deep copy can be changed, `splice` and `with_meta` put it back."""
    snapshot = ConversationSnapshot([CALL], meta={"tags": ["a"]})
    for value in (snapshot.messages[0], snapshot.meta):
        with pytest.raises(TypeError, match=TEXT) as caught:
            value["new"] = 1
        assert "\n" not in str(caught.value)
        assert len(str(caught.value)) < 300
    message, meta = copy.deepcopy(snapshot.messages[0]), copy.deepcopy(snapshot.meta)
    message["content"].append(1)
    meta["tags"].append("b")
    changed = snapshot.splice(0, 1, message).with_meta(meta)
    assert changed.messages == ({"role": "assistant", "content": [*CALL["content"], 1]},)
    assert changed.meta == {"tags": ["a", "b"]}
    assert snapshot.messages == (CALL,)


def test_every_way_in_freezes_a_copy_to_the_bottom() -> None:
    """The constructor, `append`, `splice`, `from_json`: what the caller keeps is no part of the snapshot."""
    empty = ConversationSnapshot[Any]()
    for make in (
        lambda message: ConversationSnapshot([message]),
        lambda message: ConversationSnapshot(iter([message]), [True]),
        lambda message: empty.append(message),
        lambda message: empty.append("other", message).splice(0, 1),
        lambda message: empty.splice(0, 0, message),
        lambda message: ConversationSnapshot.from_json(ConversationSnapshot([message]).to_json()),
    ):
        mine = copy.deepcopy(CALL)
        snapshot = make(mine)
        mine["content"][1]["input"]["a"].append({1})
        mine["content"].clear()
        assert snapshot.messages == (CALL,)
        assert kinds_in(snapshot.messages[0]) == {FrozenDict, FrozenList}


@pytest.mark.parametrize("value", PLAIN, ids=repr)
def test_copies_are_fresh_and_mutable(value: Any) -> None:
    """Each call gives its own, to the bottom; typed messages are as they are."""
    snapshot = ConversationSnapshot([value, *TYPED])
    one, two = snapshot.copies(), snapshot.copies()
    assert faithful(one) == faithful(two) == faithful([value, *TYPED])
    assert kinds_in(one[0]) <= {dict, list}
    assert all(copied is typed for copied, typed in zip(one[1:], TYPED, strict=True))
    if isinstance(value, dict):
        one[0]["new"] = 1
        assert "new" not in two[0]
        assert "new" not in snapshot.messages[0]


# -------------------------------------------------------------------------------------------- trust


def test_what_is_frozen_is_neither_checked_nor_copied() -> None:
    """A message that goes from one snapshot to another is the same object."""
    message = frozen(CALL)
    snapshot = ConversationSnapshot([message]).append(message).splice(0, 0, message)
    assert [each is message for each in snapshot.messages] == [True] * 3
    assert frozen({"inner": message})["inner"] is message
    assert ToolCall("1", "f", message).args is message


@pytest.mark.parametrize(
    "wrong", [{1, 2}, ("a",), float("nan"), object(), "\ud800", {1: 2}, bytearray(b"x")], ids=stable
)
def test_nobody_makes_a_frozen_value_of_unchecked_content(wrong: Any) -> None:
    """Helpers that rebuild a container call its class: that gives a plain one, which is checked like any other."""
    message = frozen(CALL)
    rebuilt = type(message)({"content": wrong})
    assert type(rebuilt) is dict
    assert type(type(message["content"])([wrong])) is list
    assert type(type(message).fromkeys("a", wrong)) is dict
    for value in (rebuilt, type(message)(content=wrong), type(message)([("content", wrong)])):
        with pytest.raises(SnapshotError, match=r"messages\[0\]"):
            ConversationSnapshot([value])
        with pytest.raises(SnapshotError, match=r"messages\[0\]"):
            ConversationSnapshot().append(value)
        with pytest.raises(SnapshotError, match=r"messages\[0\]"):
            ConversationSnapshot().splice(0, 0, value)


def test_subclasses_are_not_trusted() -> None:
    """A class made of a frozen one is no JSON value, as other subclasses of dict are none."""

    class Mine(FrozenDict):
        def __new__(cls) -> Any:
            return dict.__new__(cls)

        def __init__(self) -> None:
            dict.__init__(self, a={1})

    with pytest.raises(SnapshotError, match="Mine, not a JSON value"):
        ConversationSnapshot([Mine()])


def test_what_is_frozen_nests_no_deeper_inside_another() -> None:
    """The encoder would overflow the C stack: a message put into a message again and again is refused at last."""
    message: Any = 1
    for _ in range(MAX_DEPTH):
        message = frozen({"inner": message})
    for wrong in ({"inner": message}, {"inner": [message["inner"]]}):
        with pytest.raises(SnapshotError, match="nests more than 100 levels"):
            frozen(wrong)


def test_one_that_is_changed_while_it_is_copied() -> None:
    """The snapshot holds JSON values whatever another thread does to the dict meanwhile."""
    message: dict[str, Any] = {"content": ["x"] * 50, "n": 0}
    stop = threading.Event()

    def change() -> None:
        while not stop.is_set():
            message["content"] = [message["n"]] * 50
            message["content"] = {"set": {1}}
            message[f"k{message['n'] % 7}"] = message["n"] = message["n"] + 1
            message.pop("k3", None)

    thread = threading.Thread(target=change)
    thread.start()
    try:
        for _ in range(300):
            with contextlib.suppress(SnapshotError):
                found = frozen(message)
                assert kinds_in(found) <= {FrozenDict, FrozenList}
                json.dumps(found)
    finally:
        stop.set()
        thread.join()


# ------------------------------------------------------------------------- like plain dicts and lists


@pytest.mark.parametrize("value", PLAIN, ids=repr)
def test_equal_to_the_plain_value(value: Any) -> None:
    """Both ways, and as an instance of its class; repr and iteration are the plain one's."""
    found = frozen(value)
    assert found == value
    assert value == found
    assert (found != value) is False
    assert repr(found) == repr(value)
    assert isinstance(found, type(value))
    if isinstance(value, dict):
        assert list(found) == list(value)
        assert dict(found) == {**found} == value
        assert hash(found) == hash(frozen(copy.deepcopy(value)))


def test_operators_and_copy_give_plain_ones() -> None:
    """`|`, `+`, `*`, slices and copy(): what they return may be changed."""
    message = frozen(CALL)
    content = message["content"]
    for made in (message | {}, {} | message, message.copy(), copy.copy(message), dict(message)):
        assert type(made) is dict
        assert made == CALL
        made["new"] = 1
    added = content + [], [] + content  # noqa: RUF005
    for many in (*added, content * 1, 1 * content, content[:], content.copy(), copy.copy(content)):
        assert type(many) is list
        assert many == CALL["content"]
        many.append(1)
    assert message == CALL


@pytest.mark.parametrize("protocol", range(pickle.HIGHEST_PROTOCOL + 1))
@pytest.mark.parametrize("value", [CALL, {}, {"a": []}, PLAIN[3]], ids=repr)
def test_pickle_and_deepcopy_give_plain_ones(value: Any, protocol: int) -> None:
    """Mutable to the bottom."""
    message = frozen(value)
    for twin in (pickle.loads(pickle.dumps(message, protocol)), copy.deepcopy(message), copy.deepcopy([message])[0]):
        assert faithful(twin) == faithful(value)
        assert kinds_in(twin) <= {dict, list}


DEEP: Any = 1
for _level in range(MAX_DEPTH // 2):
    DEEP = {"k": [DEEP]}


def test_the_deepest_message_is_pickled_and_copied() -> None:
    """A hundred levels."""
    message = frozen(DEEP)
    assert pickle.loads(pickle.dumps(message)) == copy.deepcopy(message) == DEEP
    assert ConversationSnapshot([DEEP]).copies() == [DEEP]


REVISION = Revision(3, bytes(16))
NOW = datetime.now(UTC)


@pytest.mark.parametrize("twin_of", [lambda value: pickle.loads(pickle.dumps(value)), copy.deepcopy, copy.copy])
def test_values_that_hold_frozen_ones_stay_frozen(twin_of: Any) -> None:
    """A tool call, a snapshot, a page and what is known about a run: pickled or copied, they are as they were."""
    snapshot = ConversationSnapshot([CALL, AssistantMessage([ToolCall("1", "f", CALL)])], [True, False], {"m": [1]})
    page = Page(snapshot.messages, snapshot.pinned, 0, 2, snapshot.meta, REVISION)
    info = RunInfo(RunId("run"), REVISION, 2, 9, snapshot.meta, NOW, NOW, None, None)
    call = ToolCall("1", "f", {"a": [1]})
    for value in (snapshot, page, info, call):
        twin = twin_of(value)
        assert twin == value
        assert type(twin) is type(value)
        if value is not snapshot:
            assert hash(twin) == hash(value)
    for twin in (twin_of(snapshot), twin_of(page)):
        assert kinds_in(twin.messages) == {tuple, FrozenDict, FrozenList}
        assert kinds_in(twin.messages[1].blocks[0].args) == {FrozenDict, FrozenList}
        assert kinds_in(twin.meta) == {FrozenDict, FrozenList}
    assert kinds_in(twin_of(info).meta) == {FrozenDict, FrozenList}
    assert kinds_in(twin_of(call).args) == {FrozenDict, FrozenList}


def test_json_and_orjson_write_the_same() -> None:
    """As of the plain message."""
    for value in (QUESTION, CALL, RESULT, CALL_OPENAI, {"a": [[]], "b": {}}):
        message = frozen(value)
        assert json.dumps(message, indent=1) == json.dumps(value, indent=1)
        assert orjson.dumps(message) == orjson.dumps(value)
        assert orjson.dumps([message, {"x": message}]) == orjson.dumps([value, {"x": value}])


class Part(TypedDict):
    type: str
    text: str


class Said(TypedDict):
    role: str
    content: list[Part]


class Request(pydantic.BaseModel):
    free: dict[str, Any]
    many: list[dict[str, Any]]
    parts: list[Any]
    anything: Any
    said: Said


def test_pydantic_takes_them() -> None:
    """In fields of every kind, strict or not; what it writes is the plain message's."""
    said = {"role": "user", "content": [{"type": "text", "text": "é"}]}

    def fields(call: Any, parts: Any, said: Any) -> dict[str, Any]:
        return {"free": call, "many": [call, call], "parts": parts, "anything": call, "said": said}

    plain = Request(**fields(CALL, CALL["content"], said))
    for strict in (False, True):
        given = fields(frozen(CALL), frozen(CALL)["content"], frozen(said))
        made = Request.model_validate(given, strict=strict)
        assert made == plain
        assert made.model_dump() == plain.model_dump()
        assert made.model_dump_json() == plain.model_dump_json()
        made.free["new"] = made.many[0]["new"] = 1  # its own containers are its own
        made.parts.append(1)
        assert given == fields(CALL, CALL["content"], said)


# ------------------------------------------------------------------------------------ model clients

OPENAI_REPLY = {
    "id": "c1", "object": "chat.completion", "created": 1, "model": "m",
    "choices": [{"index": 0, "finish_reason": "stop", "message": {"role": "assistant", "content": "here"}}],
}  # fmt: skip
RESPONSES_REPLY = {
    "id": "r1", "object": "response", "created_at": 1, "model": "m", "output": [], "status": "completed",
    "parallel_tool_calls": False, "tool_choice": "auto", "tools": [],
}  # fmt: skip
ANTHROPIC_REPLY = {
    "id": "m1", "type": "message", "role": "assistant", "model": "m", "content": [{"type": "text", "text": "here"}],
    "stop_reason": "end_turn", "stop_sequence": None, "usage": {"input_tokens": 1, "output_tokens": 1},
}  # fmt: skip


class Model(HTTPServer):
    """A server that answers as model providers do, and keeps what it was asked."""

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), Handler)
        self.bodies: list[Any] = []
        self.url = f"http://127.0.0.1:{self.server_address[1]}"


class Handler(BaseHTTPRequestHandler):
    server: Model

    def do_POST(self) -> None:
        self.server.bodies.append(json.loads(self.rfile.read(int(self.headers["Content-Length"]))))
        replies = {"/chat/completions": OPENAI_REPLY, "/responses": RESPONSES_REPLY, "/v1/messages": ANTHROPIC_REPLY}
        reply = json.dumps(replies[self.path.partition("?")[0]]).encode()
        self.send_response(200)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(reply)))
        self.end_headers()
        self.wfile.write(reply)

    def log_message(self, format: str, *args: Any) -> None:
        pass


@pytest.fixture
def model() -> Iterator[Model]:
    server = Model()
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
    thread.start()
    try:
        yield server
    finally:
        server.shutdown()
        thread.join()
        server.server_close()


OPENAI_TALK = [
    QUESTION,
    CALL_OPENAI,
    {"role": "tool", "tool_call_id": "t1", "content": [{"type": "text", "text": "4"}]},
]
ANTHROPIC_TALK = [QUESTION, CALL, RESULT]


async def test_the_clients_of_openai_send_them(model: Model) -> None:
    """Chat completions and responses, blocking and asyncio: the request holds the plain messages."""
    import openai

    messages: Any = ConversationSnapshot(OPENAI_TALK).messages
    with openai.OpenAI(base_url=model.url, api_key="k", max_retries=0) as client:
        assert client.chat.completions.create(model="m", messages=list(messages)).choices[0].message.content == "here"
        client.chat.completions.create(model="m", messages=messages)
        client.responses.create(model="m", input=list(messages))
    async with openai.AsyncOpenAI(base_url=model.url, api_key="k", max_retries=0) as async_client:
        await async_client.chat.completions.create(model="m", messages=messages)
    assert [body.get("messages", body.get("input")) for body in model.bodies] == [OPENAI_TALK] * 4
    assert messages == tuple(OPENAI_TALK)


async def test_the_clients_of_anthropic_send_them(model: Model) -> None:
    """Blocking and asyncio: the request holds the plain messages."""
    import anthropic

    messages: Any = ConversationSnapshot(ANTHROPIC_TALK).messages
    with anthropic.Anthropic(base_url=model.url, api_key="k", max_retries=0) as client:
        client.messages.create(model="m", max_tokens=9, messages=messages)
        client.messages.create(model="m", max_tokens=9, messages=list(messages))
    async with anthropic.AsyncAnthropic(base_url=model.url, api_key="k", max_retries=0) as async_client:
        await async_client.messages.create(model="m", max_tokens=9, messages=messages)
    assert [body["messages"] for body in model.bodies] == [ANTHROPIC_TALK] * 3
    assert messages == tuple(ANTHROPIC_TALK)
