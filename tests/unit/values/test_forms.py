"""The JSON forms of values: to_dict, from_dict, pydantic, JSON schemas, and what else asks a value what it is."""

from __future__ import annotations

import base64
import copy
import dataclasses
import datetime as dt
import json
import pickle
import subprocess
import sys
from typing import Any, Generic, TypeVar

import jsonschema
import pydantic
import pydantic_core
import pytest
from fastapi.encoders import jsonable_encoder
from hypothesis import given, settings
from hypothesis import strategies as st

import histstore
from histstore import (
    AssistantMessage,
    Attempt,
    Base64Source,
    ConversationSnapshot,
    Document,
    FileSource,
    Image,
    JSONValue,
    LeaseInfo,
    Message,
    Page,
    Reasoning,
    RedactedReasoning,
    Revision,
    RunId,
    RunInfo,
    SnapshotError,
    Text,
    ToolCall,
    ToolResult,
    ToolResultContent,
    ToolResultImage,
    ToolResultText,
    UnsupportedVersionError,
    UrlSource,
    UserMessage,
)

from ...support.samples import PLAIN, TYPED, faithful

M = TypeVar("M")
NOW = dt.datetime(2026, 1, 2, 3, 4, 5, 678000, tzinfo=dt.UTC)
THREE, FOUR = Revision(3, b"\xff" * 16), Revision(4, bytes(range(16)))
META = {"title": "hé", "raw": b"\xff\x00", "deep": [None, {"$ref": "x"}, {"$bytes": "aGk="}]}
LEASE = LeaseInfo("worker", 7, NOW, 12.5)
HELD = LEASE.to_dict()
INFO = RunInfo(RunId("run"), THREE, 2, 300, META, NOW, NOW, None, LEASE)
ABSENT = RunInfo(RunId("run"), None, 0, 0, {}, None, None, NOW, LEASE)
PAGE: Page[Any] = Page((*TYPED, *PLAIN), (True,) * (len(TYPED) + len(PLAIN)), 3, 99, META, FOUR)
MADE = Revision(4, bytes(range(16)), None, 7, 2, 300)
ATTEMPT = Attempt("save", "histstore", RunId("run"), THREE, MADE, b"\xff" * 16, NOW)
DELETE = Attempt("delete", "histstore", RunId("run"), THREE, None, b"\xff" * 16)
SNAPSHOT: ConversationSnapshot[Any] = ConversationSnapshot([*TYPED, *PLAIN], meta=META)

BLOCKS: list[Any] = [
    Text("hé"), Image(UrlSource("u")), Document(FileSource("f")), ToolCall("1", "f", {"a": b"\xff", "$ref": 1}),
    ToolResult("1", ToolResultContent([ToolResultText("x"), ToolResultImage(Base64Source("image/png", "eA=="))], True)),
    Reasoning("r"), Reasoning("r", "s"), RedactedReasoning("d"), ToolResultContent("x"), ToolResultText("x"),
    ToolResultImage(UrlSource("u")), Base64Source("m", "d"), UrlSource("u"), FileSource("f"),
]  # fmt: skip
OBJECTS: list[Any] = [*TYPED, *BLOCKS, LEASE, INFO, ABSENT, PAGE, ATTEMPT, DELETE, SNAPSHOT]
VALUES: list[Any] = [*OBJECTS, THREE]


def form(value: Any) -> Any:
    return str(value) if isinstance(value, Revision) else value.to_dict()


def back(value: Any, data: Any) -> Any:
    return Revision.parse(data) if isinstance(value, Revision) else type(value).from_dict(data)


# ----------------------------------------------------------------------------------- to_dict, from_dict


@pytest.mark.parametrize("message", TYPED, ids=repr)
def test_a_messages_form_is_the_seeds(message: Any) -> None:
    """What a snapshot's JSON holds for the message."""
    document = json.loads(ConversationSnapshot([message]).to_json())
    assert message.to_dict() == document["messages"][0]
    assert message.role == ("user" if type(message) is UserMessage else "assistant")


def test_the_forms() -> None:
    """The forms are a contract with readers in other languages."""
    assert UserMessage("hé").to_dict() == {"User": {"blocks": [{"Text": {"text": "hé"}}]}}
    assert INFO.to_dict() == {
        "run_id": "run",
        "revision": f"3-{'ff' * 16}",
        "length": 2,
        "size": 300,
        "meta": {
            "title": "hé",
            "raw": {"$bytes": base64.b64encode(b"\xff\x00").decode()},
            "deep": [None, {"$$ref": "x"}, {"$$bytes": "aGk="}],
        },
        "created_at": "2026-01-02T03:04:05.678000Z",
        "saved_at": "2026-01-02T03:04:05.678000Z",
        "expires_at": None,
        "lease": {"holder": "worker", "fence": 7, "since": "2026-01-02T03:04:05.678000Z", "expires_in": 12.5},
    }
    assert ABSENT.to_dict()["revision"] is None
    assert ATTEMPT.to_dict() == {
        "kind": "save",
        "namespace": "histstore",
        "run_id": "run",
        "parent": str(THREE),
        "revision": str(FOUR),
        "fence": 7,
        "length": 2,
        "size": 300,
        "ticket": "ff" * 16,
        "made_at": "2026-01-02T03:04:05.678000Z",
    }
    assert Page((UserMessage("a"), {"b": b""}), (True, False), 1, 3, {}, FOUR).to_dict() == {
        "messages": [UserMessage("a").to_dict(), {"Json": {"b": {"$bytes": ""}}}],
        "pinned": [True, False],
        "start": 1,
        "length": 3,
        "meta": {},
        "revision": str(FOUR),
    }
    assert SNAPSHOT.to_dict() == json.loads(SNAPSHOT.to_json())


@pytest.mark.parametrize("value", OBJECTS, ids=lambda value: type(value).__name__)
def test_from_dict_reads_what_to_dict_wrote(value: Any) -> None:
    """Also through JSON text. The dicts are new, plain and JSON to the bottom."""
    data = value.to_dict()
    text = json.dumps(data, allow_nan=False)
    for given_ in (data, json.loads(text)):
        twin = type(value).from_dict(given_)
        assert twin == value
        assert type(twin) is type(value)
        if type(value) not in (RunInfo, LeaseInfo, Page, Attempt, ConversationSnapshot):
            assert faithful(twin) == faithful(value)
    data.clear()
    assert value.to_dict() == json.loads(text)


def test_an_attempts_form_keeps_what_resolve_returns() -> None:
    """Fence, length and size are not compared, so they are looked at one by one."""
    twin = Attempt.from_dict(json.loads(json.dumps(ATTEMPT.to_dict())))
    assert twin.made_at == NOW
    assert twin.revision is not None
    assert (twin.revision.fence, twin.revision.length, twin.revision.size) == (7, 2, 300)


def test_the_ailoop_form_of_a_renamed_field_is_read() -> None:
    """Later writers of the seed say call_id for a tool call's id."""
    assert ToolCall.from_dict(
        {
            "ToolCall": {"call_id": "1", "name": "f", "args": {}},
        }
    ) == ToolCall("1", "f", {})


@pytest.mark.parametrize(
    ("read", "data", "text"),
    [
        (UserMessage, 3, r"^UserMessage is not an object with one key, its tag: write"),
        (UserMessage, {}, r"^UserMessage is not an object with one key"),
        (UserMessage, {"role": "user", "content": "x"}, r"^UserMessage is not an object with one key"),
        (UserMessage, {"Nobody": {}}, r"^UserMessage has the unknown tag 'Nobody'"),
        (UserMessage, {"User": {}}, r"^UserMessage\.User\.blocks is missing"),
        (UserMessage, {"User": {"blocks": [{"Text": {"text": 3}}]}}, r"^UserMessage\.User\.blocks\[0\]\.Text\.text is"),
        (UserMessage, {"User": {"blocks": [{"Text": {"text": "\ud83d"}}]}}, r"^UserMessage: Text.text has a lone"),
        (UserMessage, AssistantMessage("x").to_dict(), r"form of a AssistantMessage: read it with AssistantMessage\."),
        (UserMessage, {"Json": 3}, 'form of a plain message: take what stands under "Json"'),
        (Text, Image(UrlSource("u")).to_dict(), r"form of a Image: read it with Image\.from_dict"),
        (Text, {"Nothing": {}}, "unknown tag 'Nothing'"),
        (UrlSource, {"type": "file_id", "id": "x"}, r"read it with FileSource\.from_dict"),
        (UrlSource, None, "UrlSource is not an object"),
        (ToolResultContent, {"blocks": 3}, r"^ToolResultContent\.blocks is not an array"),
        (ToolCall, {"ToolCall": {"id": "1", "name": "f", "args": float("nan")}}, r"ToolCall\.ToolCall\.args is nan"),
        (RunInfo, [], r"^RunInfo is not an object: give what to_dict\(\) returned"),
        (RunInfo, {}, r"^RunInfo\.run_id is missing"),
        (RunInfo, INFO.to_dict() | {"length": "3"}, r"^RunInfo\.length is a str, and not int"),
        (RunInfo, INFO.to_dict() | {"length": True}, r"^RunInfo\.length is a bool"),
        (RunInfo, INFO.to_dict() | {"run_id": ""}, r"^RunInfo\.run_id: a run id is not empty"),
        (RunInfo, INFO.to_dict() | {"revision": "3"}, r"^RunInfo\.revision: a revision is written as"),
        (RunInfo, INFO.to_dict() | {"revision": 3}, r"^RunInfo\.revision is a int, and not str or null"),
        (RunInfo, INFO.to_dict() | {"saved_at": "today"}, r"^RunInfo\.saved_at: "),
        (RunInfo, INFO.to_dict() | {"saved_at": "2026-01-02"}, r"^RunInfo\.saved_at: the time has no time zone"),
        (RunInfo, INFO.to_dict() | {"meta": {"a": object()}}, r"^RunInfo\.meta: meta\['a'\] is a object"),
        (RunInfo, INFO.to_dict() | {"meta": {"$bytes": "aGk="}}, r"^RunInfo\.meta: meta is a mapping"),
        (RunInfo, INFO.to_dict() | {"lease": {"holder": 3}}, r"^RunInfo\.lease\.holder is a int"),
        (Page, PAGE.to_dict() | {"messages": [{"User": 3}]}, r"^Page\.messages\[0\]\.User is not an object"),
        (Page, PAGE.to_dict() | {"pinned": []}, r"^Page has \d+ messages and 0 pins"),
        (Page, PAGE.to_dict() | {"pinned": [1]}, "pinned is made of True and False"),
        (Attempt, ATTEMPT.to_dict() | {"kind": "load"}, r'^Attempt\.kind is "save" or "delete"'),
        (Attempt, ATTEMPT.to_dict() | {"ticket": "xx"}, r"^Attempt\.ticket: "),
        (ConversationSnapshot, {"version": 1}, "messages is missing"),
        # What Python holds and JSON does not.
        (UserMessage, {1: 2}, r"^UserMessage has a key of type int: make the keys plain str"),
        (UserMessage, {"User": {"blocks": [{None: 2}]}}, r"^UserMessage\.User\.blocks\[0\] has a key"),
        (Text, {1: 2}, r"^Text has a key of type int"),
        (UserMessage, {"Json": {1: 2}}, r"^UserMessage\.Json has a key of type int"),
        (ToolCall, {"ToolCall": {"id": "1", "name": "f", "args": {1: 2}}}, r"ToolCall\.args has a key of type int"),
        (Page, PAGE.to_dict() | {"messages": [{"Json": {1: 2}}], "pinned": [True]}, r"^Page\.messages\[0\]\.Json has"),
        (ConversationSnapshot, {"version": 1, "messages": [], "pinned": [], "meta": {1: 2}}, "^meta has a key of type"),
        (RunInfo, INFO.to_dict() | {"length": -1}, r"^RunInfo\.length: give a whole number from 0"),
        (RunInfo, INFO.to_dict() | {"size": 10**5000}, r"^RunInfo\.size: give a whole number"),
        (RunInfo, INFO.to_dict() | {"saved_at": "0001-01-01T00:00:00+14:00"}, r"^RunInfo\.saved_at: date value"),
        (RunInfo, INFO.to_dict() | {"lease": HELD | {"expires_in": 10**5000}}, r"^RunInfo\.lease\.expires_in: int too"),
        (RunInfo, INFO.to_dict() | {"lease": HELD | {"expires_in": float("nan")}}, r"\.lease\.expires_in: nan is no"),
        (RunInfo, INFO.to_dict() | {"lease": HELD | {"holder": "\ud83d"}}, r"^RunInfo\.lease\.holder: .* lone surr"),
        (Page, PAGE.to_dict() | {"start": -1}, r"^Page\.start: give a whole number"),
        (Attempt, ATTEMPT.to_dict() | {"ticket": "00"}, r"^Attempt\.ticket: give 32 hex digits"),
        (Attempt, ATTEMPT.to_dict() | {"namespace": ""}, r"^Attempt\.namespace: a namespace is not empty"),
        (Attempt, ATTEMPT.to_dict() | {"namespace": "\ud83d"}, r"^Attempt\.namespace: .* lone surrogate"),
        (Attempt, ATTEMPT.to_dict() | {"fence": 10**19}, r"^Attempt\.fence: give a whole number"),
        (Attempt, ATTEMPT.to_dict() | {"made_at": "9999-12-31T23:59:59-14:00"}, r"^Attempt\.made_at: date value"),
    ],
)  # fmt: skip
def test_from_dict_names_the_path(read: Any, data: Any, text: str) -> None:
    """What is no form is a SnapshotError of one line, and through pydantic a ValidationError that says the same."""
    with pytest.raises(SnapshotError, match=text) as caught:
        read.from_dict(data)
    assert "\n" not in str(caught.value)
    assert len(str(caught.value)) < 300
    with pytest.raises(pydantic.ValidationError, match="value_error"):
        pydantic.TypeAdapter(read).validate_python(data)


def test_a_version_of_any_length_is_named() -> None:
    """Python writes no decimal number of more than 4,300 digits."""
    with pytest.raises(UnsupportedVersionError, match=r"unsupported snapshot version 0x.*upgrade histstore"):
        ConversationSnapshot.from_dict({"version": 10**5000})


def test_data_that_nests_without_end_is_refused() -> None:
    """Neither a deep body nor a dict within itself overflows the stack."""
    loop: dict[str, Any] = {}
    loop["a"] = loop
    deep: Any = 1
    for _ in range(5000):
        deep = [deep]
    for value in (loop, deep):
        for read, data in (
            (ToolCall, {"ToolCall": {"id": "1", "name": "f", "args": value}}),
            (RunInfo, INFO.to_dict() | {"meta": {"a": value}}),
            (Page, PAGE.to_dict() | {"messages": [{"Json": value}], "pinned": [True]}),
        ):
            with pytest.raises(SnapshotError, match="nests"):
                read.from_dict(data)  # type: ignore[attr-defined]
        with pytest.raises(pydantic.ValidationError, match="nests"):
            pydantic.TypeAdapter(JSONValue).validate_python(value)


# ------------------------------------------------------------------------------------- who else asks


@pytest.mark.parametrize("value", VALUES, ids=lambda value: type(value).__name__)
def test_fastapis_encoder_gives_the_form(value: Any) -> None:
    """An endpoint without a response model goes through it. A dataclass would lose its role there."""
    assert jsonable_encoder(value) == form(value)
    assert jsonable_encoder({"a": [value]}) == {"a": [form(value)]}
    assert json.loads(json.dumps(value, default=vars)) == form(value)
    with pytest.raises(TypeError):
        iter(value)


def test_the_encoder_keeps_the_role() -> None:
    """The line of the issue."""
    assert jsonable_encoder(UserMessage("hé")) == {"User": {"blocks": [{"Text": {"text": "hé"}}]}}
    assert jsonable_encoder(RunId("run")) == "run"


@pytest.mark.parametrize("value", VALUES, ids=lambda value: type(value).__name__)
def test_values_are_no_dataclasses_to_others(value: Any) -> None:
    """orjson, msgspec and FastAPI ask for these marks. What a dataclass can do beside that, a value can."""
    assert not dataclasses.is_dataclass(value)
    for twin in (copy.copy(value), copy.deepcopy(value), *(pickle.loads(pickle.dumps(value, p)) for p in range(2, 6))):
        assert twin == value
    if type(value) is ConversationSnapshot:
        return
    assert value.__replace__() == value
    name = value.__match_args__[0]
    assert getattr(value.__replace__(**{name: getattr(value, name)}), name) == getattr(value, name)
    with pytest.raises(AttributeError):
        setattr(value, name, None)
    with pytest.raises((AttributeError, TypeError)):
        value.something_new = 1
    with pytest.raises((AttributeError, TypeError)):
        value.__dict__ = {}
    assert "__dict__" not in type(value).__slots__


def test_fields_that_are_not_compared_survive_a_copy() -> None:
    """A revision's time and size, an attempt's time."""
    revision = Revision(3, b"x" * 16, NOW, 4, 5, 6)
    for twin in (copy.copy(revision), pickle.loads(pickle.dumps(revision)), revision.__replace__(version=4)):
        assert (twin.saved_at, twin.fence, twin.length, twin.size) == (NOW, 4, 5, 6)
    assert revision.__replace__(version=4).version == 4
    with pytest.raises(SnapshotError):
        revision.__replace__(version=0)


def test_values_pickled_by_a_dataclass_are_read() -> None:
    """Jobs and caches hold pickles of values made before they were no dataclasses any more."""
    old = (
        b"\x80\x04\x95G\x00\x00\x00\x00\x00\x00\x00\x8c\x12histstore.messages\x94\x8c\x0bUserMessage\x94\x93\x94)\x81"
        b"\x94]\x94h\x00\x8c\x04Text\x94\x93\x94)\x81\x94]\x94\x8c\x03h\xc3\xa9\x94ab\x85\x94ab."
    )
    assert pickle.loads(old) == UserMessage("hé")


# ---------------------------------------------------------------------------------------- pydantic


class Envelope(pydantic.BaseModel):
    message: Message
    either: Message | dict[str, Any]
    anything: Any = None
    value: JSONValue = None
    several: list[Message | JSONValue] = []
    run: RunId | None = None
    at: Revision | None = None
    info: RunInfo | None = None
    page: Page[Message] | None = None
    attempt: Attempt | None = None
    lease: LeaseInfo | None = None
    snapshot: ConversationSnapshot[Any] | None = None


class Wrapped(pydantic.BaseModel, Generic[M]):
    held: M


def test_a_model_holds_and_writes_values() -> None:
    """Every kind of field, in a model that goes to JSON and comes back the same."""
    envelope = Envelope(
        message=UserMessage("hé"),
        either=AssistantMessage([ToolCall("1", "f", {"raw": b"\xff"})]),
        anything=[UserMessage("any"), INFO, THREE],
        value={"raw": b"\xff", "ref": {"$ref": "x"}},
        several=[UserMessage("a"), {"role": "user", "content": b"\xff"}, 3, None],
        run="run",  # type: ignore[arg-type]
        at=str(THREE),  # type: ignore[arg-type]
        info=INFO,
        page=PAGE,
        attempt=ATTEMPT,
        lease=LEASE,
        snapshot=SNAPSHOT,
    )
    assert type(envelope.run) is RunId
    assert envelope.at == THREE
    text = envelope.model_dump_json()
    found = json.loads(text)
    assert found == jsonable_encoder(envelope) == envelope.model_dump() == envelope.model_dump(mode="json")
    assert found["message"] == UserMessage("hé").to_dict()
    assert found["anything"] == [UserMessage("any").to_dict(), INFO.to_dict(), str(THREE)]
    assert found["value"] == {"raw": {"$bytes": "/w=="}, "ref": {"$ref": "x"}}
    assert found["several"][1] == {"role": "user", "content": {"$bytes": "/w=="}}
    again = Envelope.model_validate_json(text)
    assert again.model_copy(update={"anything": envelope.anything}) == envelope
    assert Envelope.model_validate(found).model_dump_json() == text
    assert Wrapped[UserMessage].model_validate({"held": UserMessage("x").to_dict()}).held == UserMessage("x")


@pytest.mark.parametrize("value", VALUES, ids=lambda value: type(value).__name__)
def test_pydantic_takes_a_value_and_its_form(value: Any) -> None:
    """An instance stays itself; the form of another type is refused. `Any` writes the form too."""
    adapter: pydantic.TypeAdapter[Any] = pydantic.TypeAdapter(type(value))
    assert adapter.validate_python(value) is value
    assert adapter.validate_python(form(value)) == value
    assert adapter.validate_json(adapter.dump_json(value)) == value
    assert adapter.dump_python(value) == form(value)
    assert pydantic_core.to_jsonable_python({"a": [value]}) == {"a": [form(value)]}
    assert json.loads(pydantic_core.to_json(value)) == form(value)
    with pytest.raises(pydantic.ValidationError):
        adapter.validate_python({"nothing": 1})
    with pytest.warns(UserWarning, match="Pydantic serializer warnings"):
        adapter.dump_python("of another type")


def test_a_run_id_is_validated() -> None:
    """Any text but an empty one, and a UUID."""
    adapter = pydantic.TypeAdapter(RunId)
    assert type(adapter.validate_python("run")) is RunId
    assert adapter.dump_json(RunId("run")) == b'"run"'
    for bad in ("", 3, "\ud83d"):
        with pytest.raises(pydantic.ValidationError, match="run id"):
            adapter.validate_python(bad)


def test_an_unknown_version_is_a_validation_error() -> None:
    """pydantic passes on what is no ValueError, and FastAPI would answer 500."""
    with pytest.raises(pydantic.ValidationError, match="unsupported snapshot version 2"):
        pydantic.TypeAdapter(ConversationSnapshot).validate_python({"version": 2, "messages": [], "pinned": []})


@pytest.mark.parametrize("value", PLAIN, ids=repr)
def test_json_values_through_pydantic(value: Any) -> None:
    """The alias names itself, which pydantic cannot follow by itself. Types and values survive, bytes too."""
    adapter: pydantic.TypeAdapter[Any] = pydantic.TypeAdapter(JSONValue)
    assert faithful(adapter.validate_json(adapter.dump_json([value]))) == faithful([value])
    for kind in (Message | JSONValue, list[JSONValue], dict[str, JSONValue]):
        assert pydantic.TypeAdapter(kind).json_schema() is not None
    both: pydantic.TypeAdapter[Any] = pydantic.TypeAdapter(Message | JSONValue)
    assert faithful(both.validate_json(both.dump_json(value))) == faithful(value)
    with pytest.raises(pydantic.ValidationError, match="not a JSON value"):
        adapter.validate_python({"a": (1,)})


_texts = st.text(max_size=5)
_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | _texts | st.binary(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(_texts | st.just("$bytes"), inner, max_size=3),
    max_leaves=6,
)
_sources = st.builds(Base64Source, _texts, _texts) | st.builds(UrlSource, _texts) | st.builds(FileSource, _texts)
_results = st.builds(
    ToolResultContent,
    st.lists(st.builds(ToolResultText, _texts) | st.builds(ToolResultImage, _sources), max_size=2),
    st.booleans(),
)
_user = st.builds(
    UserMessage,
    st.lists(
        st.builds(Text, _texts)
        | st.builds(Image, _sources)
        | st.builds(Document, _sources)
        | st.builds(ToolResult, _texts, _results),
        max_size=3,
    ),
)
_assistant = st.builds(
    AssistantMessage,
    st.lists(
        st.builds(Text, _texts)
        | st.builds(ToolCall, _texts, _texts, _values)
        | st.builds(Reasoning, _texts, st.none() | _texts)
        | st.builds(RedactedReasoning, _texts),
        max_size=3,
    ),
)


MESSAGES: pydantic.TypeAdapter[Any] = pydantic.TypeAdapter(Message)
JSON_VALUES: pydantic.TypeAdapter[Any] = pydantic.TypeAdapter(JSONValue)
SCHEMA = jsonschema.Draft202012Validator(MESSAGES.json_schema())


@given(message=_user | _assistant)
@settings(deadline=None)
def test_every_message_comes_back(message: Any) -> None:
    """Through its dict, through pydantic in both modes, through FastAPI's encoder: same types, same values."""
    for twin in (
        type(message).from_dict(message.to_dict()),
        MESSAGES.validate_json(MESSAGES.dump_json(message)),
        MESSAGES.validate_python(jsonable_encoder(message)),
    ):
        assert faithful(twin) == faithful(message)
    SCHEMA.validate(message.to_dict())


@given(value=_values)
@settings(deadline=None)
def test_every_json_value_comes_back(value: Any) -> None:
    """Through pydantic's JSON."""
    assert faithful(JSON_VALUES.validate_json(JSON_VALUES.dump_json(value))) == faithful(value)


@pytest.mark.parametrize("value", VALUES, ids=lambda value: type(value).__name__)
def test_forms_match_their_json_schema(value: Any) -> None:
    """What OpenAPI documents promise. A broken form does not match."""
    for mode in ("validation", "serialization"):
        schema = pydantic.TypeAdapter(type(value)).json_schema(mode=mode)  # type: ignore[arg-type]
        jsonschema.Draft202012Validator.check_schema(schema)
        jsonschema.validate(form(value), schema)
        with pytest.raises(jsonschema.ValidationError):
            jsonschema.validate({"nothing": 1}, schema)


def test_values_have_names_in_a_models_schema() -> None:
    """A message in a model has a name of its own in the document."""
    schema = Envelope.model_json_schema()
    assert {"UserMessage", "AssistantMessage", "RunInfo", "Page", "Attempt", "LeaseInfo"} <= schema["$defs"].keys()
    assert schema["$defs"]["UserMessage"]["title"] == "UserMessage"
    assert {"$ref": "#/$defs/UserMessage"} in schema["properties"]["message"]["anyOf"]


def test_every_public_value_has_a_form() -> None:
    """A value that is added needs a row above."""
    tested = {type(value).__name__ for value in VALUES} | {"RunId"}
    public = {name for name in histstore.__all__ if hasattr(getattr(histstore, name), "__get_pydantic_core_schema__")}
    assert public - {"JSONValue"} == tested - {"JSONValue"}
    for name in public & tested - {"RunId", "Revision"}:
        assert callable(getattr(histstore, name).from_dict)


def test_import_loads_no_pydantic() -> None:
    """Neither the import, nor making, saving or writing values: pydantic is there only when it asks."""
    code = (
        "import sys, histstore, histstore.sync; histstore.UserMessage('x').to_dict(); "
        "histstore.ConversationSnapshot([histstore.UserMessage('x')]).to_json(); "
        "print([m for m in ('pydantic', 'pydantic_core', 'typing_extensions', 'numpy') if m in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, timeout=60)
    assert done.stdout.strip() == "[]"
