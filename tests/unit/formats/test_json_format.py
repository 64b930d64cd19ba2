"""The seed's JSON wire format, both ways, and what is refused."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from histstore import (
    AssistantMessage,
    Base64Source,
    ConversationSnapshot,
    Document,
    FileSource,
    Image,
    Reasoning,
    RedactedReasoning,
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
from ...support.strategies import JSON

DATA = Path(__file__).resolve().parents[2] / "data"
Snapshot = ConversationSnapshot[Any]

# tests/data/all_blocks.json, as the seed's own writer made it.
ALL_BLOCKS = Snapshot(
    [
        UserMessage(
            [
                Text("Plot the sales in the attached sheet, élève 👋"),
                Image(Base64Source("image/png", "iVBORw0KGgo=")),
                Document(FileSource("file_011CNha8iCJcU1wXNR6q4V8w")),
            ]
        ),
        AssistantMessage(
            [
                Reasoning("I should read the sheet first.", "EqQBCgIYAhIM1gbcDa9GJwZA2b3hGgxBdjrkzLoky3dl1pkiMOYds"),
                RedactedReasoning("EmwKAhgBEgy3va3pzix/LafPsn4aDFIT2Xlxh0L5L8rLVyIwxtE3rAFBa8cr3qpP"),
                Text("Reading it now."),
                ToolCall(
                    "toolu_01A09q90qw90lq917835lq9",
                    "read_sheet",
                    {"path": "sales.xlsx", "limit": 2**64 - 1, "ratio": 0.1, "nested": {"deep": [None, True, -1]}},
                ),
            ]
        ),
        UserMessage(
            [
                ToolResult(
                    "toolu_01A09q90qw90lq917835lq9",
                    ToolResultContent(
                        [
                            ToolResultText("404: no such file"),
                            ToolResultImage(UrlSource("https://example.com/chart.png")),
                        ],
                        is_error=True,
                    ),
                )
            ]
        ),
        AssistantMessage([Reasoning("", None), Text("")]),
    ],
    [True, False, False, True],
)


def read(messages: Any, **more: Any) -> Any:
    """Reads a document with these messages in wire form."""
    document = {"version": 1, "messages": messages, "pinned": [False] * len(messages), **more}
    return Snapshot.from_json(json.dumps(document))


def user_block(block: Any) -> Any:
    return read([{"User": {"blocks": [block]}}]).messages[0].blocks[0]


def assistant_block(block: Any) -> Any:
    return read([{"Assistant": {"blocks": [block]}}]).messages[0].blocks[0]


# ---------------------------------------------------------------------------------------- the fixtures


@pytest.mark.parametrize("name", ["all_blocks.json", "tool_call_id_renamed.json"])
def test_the_seed_s_files_are_read(name: str) -> None:
    """A tool call's field may be named id, or call_id as later writers have it."""
    found = Snapshot.from_json((DATA / name).read_bytes())
    assert found == ALL_BLOCKS
    assert [faithful(message) for message in found.messages] == [faithful(m) for m in ALL_BLOCKS.messages]


def test_the_seed_s_file_is_written() -> None:
    """Value for value, in the same order of fields, with id, which all readers know; indented it is the file."""
    data = (DATA / "all_blocks.json").read_bytes()
    assert ALL_BLOCKS.to_json(indent=2) == data.rstrip()
    assert json.loads(ALL_BLOCKS.to_json()) == json.loads(data)
    assert b"\n" not in ALL_BLOCKS.to_json()
    assert "élève 👋".encode() in ALL_BLOCKS.to_json()


def test_an_empty_conversation() -> None:
    """meta is written only when there is some."""
    assert Snapshot.from_json((DATA / "empty.json").read_bytes()) == Snapshot()
    assert Snapshot().to_json() == b'{"version":1,"messages":[],"pinned":[]}'
    assert Snapshot(meta={"a": b"\x00"}).to_json().endswith(b'"pinned":[],"meta":{"a":{"$bytes":"AA=="}}}')


def test_another_version_is_refused() -> None:
    """The error names it, and is not taken for damage."""
    with pytest.raises(UnsupportedVersionError, match="unsupported snapshot version 999") as caught:
        Snapshot.from_json((DATA / "bad_version.json").read_bytes())
    assert (caught.value.found, caught.value.supported) == (999, 1)
    for version in (0, -1, 2):
        with pytest.raises(UnsupportedVersionError):
            Snapshot.from_json(json.dumps({"version": version, "messages": [], "pinned": []}))


def test_unequal_lengths_are_refused() -> None:
    """The error counts both."""
    with pytest.raises(SnapshotError, match="length mismatch: 1 messages, 0 pins"):
        Snapshot.from_json((DATA / "bad_lengths.json").read_bytes())


# ------------------------------------------------------------------------------------------- both ways


def test_everything_goes_both_ways() -> None:
    """Typed and plain messages side by side, with pins and meta."""
    snapshot = Snapshot(TYPED + PLAIN, [n % 2 == 0 for n in range(len(TYPED + PLAIN))], {"$x": b"1", "n": 2**70})
    for data in (snapshot.to_json(), snapshot.to_json(indent=4), snapshot.to_json().decode()):
        found = Snapshot.from_json(data)
        assert [faithful(message) for message in found.messages] == [faithful(m) for m in snapshot.messages]
        assert (found.pinned, faithful(dict(found.meta))) == (snapshot.pinned, faithful(dict(snapshot.meta)))


@given(JSON)
def test_any_json_value_goes_both_ways(value: Any) -> None:
    """As a message, in a tool call's arguments and in meta: no object is mistaken for bytes."""
    snapshot = Snapshot([{"v": value}, AssistantMessage([ToolCall("1", "f", value)])], meta={"v": value})
    found = Snapshot.from_json(snapshot.to_json())
    assert faithful(found.messages[0]) == faithful({"v": value})
    assert faithful(found.messages[1]) == faithful(snapshot.messages[1])
    assert faithful(dict(found.meta)) == faithful(dict(snapshot.meta))


@pytest.mark.parametrize(
    ("value", "written"),
    [
        (b"hi", {"$bytes": "aGk="}),
        ({"$bytes": "aGk="}, {"$$bytes": "aGk="}),
        ({"$$bytes": "aGk="}, {"$$$bytes": "aGk="}),
        ({"$ref": 1}, {"$$ref": 1}),
        ({"$": {"$a": b""}}, {"$$": {"$$a": {"$bytes": ""}}}),
        ({"$a": 1, "$b": 2}, {"$a": 1, "$b": 2}),
        ({"a": {"$b": [1]}}, {"a": {"$$b": [1]}}),
        ("$x", "$x"),
    ],
)
def test_dollars(value: Any, written: Any) -> None:
    """An object with one key that starts with "$" gains a "$"; larger ones stay as they are."""
    document = json.loads(Snapshot([value]).to_json())
    assert document["messages"] == [{"Json": written}]
    assert faithful(read([{"Json": written}]).messages[0]) == faithful(value)


@pytest.mark.parametrize(
    ("args", "written"),
    [
        ({"$ref": 1}, {"$ref": 1}),
        ({"$$ref": 1}, {"$$ref": 1}),
        ({"$bytes": 1}, {"$$bytes": 1}),
        (b"", {"$bytes": ""}),
    ],
)
def test_tool_arguments_stay_as_the_model_wrote_them(args: Any, written: Any) -> None:
    """The seed's readers know no escapes: only what could be taken for bytes gains a "$" there."""
    document = json.loads(Snapshot([AssistantMessage([ToolCall("1", "f", args)])]).to_json())
    assert document["messages"][0]["Assistant"]["blocks"][0]["ToolCall"]["args"] == written
    assert faithful(assistant_block({"ToolCall": {"id": "1", "name": "f", "args": written}}).args) == faithful(args)


def test_somebody_else_s_bytes_object_stays_what_it_is() -> None:
    """What is not base64, or not a string, is read as an object."""
    for value in ({"$bytes": "not base64!"}, {"$bytes": 3}, {"$bytes": "AA"}, {"$bytes": "AA==", "b": 1}):
        assert read([{"Json": value}]).messages[0] == value


def test_unknown_fields_are_ignored() -> None:
    """Later writers may add fields; cache hints are among them."""
    found = Snapshot.from_json(
        json.dumps(
            {
                "version": 1,
                "future": True,
                "pinned": [False, True],
                "messages": [
                    {"User": {"blocks": [{"Text": {"text": "a", "cache_control": {"type": "x"}}}], "name": "x"}},
                    {
                        "User": {
                            "blocks": [
                                {
                                    "ToolResult": {
                                        "call_id": "1",
                                        "more": 1,
                                        "content": {"blocks": [{"type": "text", "text": "b", "x": 1}], "y": 1},
                                    }
                                },
                                {"Image": {"source": {"type": "url", "url": "u", "z": 1}, "alt": "x"}},
                            ]
                        }
                    },
                ],
            }
        )
    )
    expected = [UserMessage("a"), UserMessage([ToolResult("1", "b"), Image(UrlSource("u"))])]
    assert found == Snapshot(expected, [False, True])


def test_is_error_is_written_only_when_true() -> None:
    """As the seed has it; absent reads as false."""
    for is_error in (False, True):
        snapshot = Snapshot([UserMessage([ToolResult("1", ToolResultContent("x", is_error))])])
        assert (b"is_error" in snapshot.to_json()) is is_error
        assert Snapshot.from_json(snapshot.to_json()) == snapshot


def test_id_wins_over_call_id() -> None:
    """Both may be there; without either the error names the field that is written."""
    both = assistant_block({"ToolCall": {"id": "a", "call_id": "b", "name": "f", "args": 1}})
    assert both.id == "a"
    with pytest.raises(SnapshotError, match=r"messages\[0\].Assistant.blocks\[0\].ToolCall.id is missing"):
        assistant_block({"ToolCall": {"name": "f", "args": 1}})


# ------------------------------------------------------------------------------------------- refusals


@pytest.mark.parametrize(
    ("message", "text"),
    [
        ("User", r"messages\[0\] is not an object with one key"),
        ({}, r"messages\[0\] is not an object with one key"),
        ({"User": {}, "Assistant": {}}, r"messages\[0\] is not an object with one key"),
        ({"System": {}}, r"messages\[0\] has the unknown tag 'System': User, Assistant and Json"),
        ({"User": []}, r"messages\[0\].User is not an object"),
        ({"User": {}}, r"messages\[0\].User.blocks is missing"),
        ({"User": {"blocks": {}}}, r"messages\[0\].User.blocks is not an array"),
        ({"User": {"blocks": ["x"]}}, r"messages\[0\].User.blocks\[0\] is not an object with one key"),
        ({"User": {"blocks": [{"ToolCall": {}}]}}, r"messages\[0\].User.blocks\[0\] has the unknown tag 'ToolCall'"),
        ({"Assistant": {"blocks": [{"Image": {}}]}}, r"messages\[0\].Assistant.blocks\[0\] has the unknown tag"),
        ({"User": {"blocks": [{"Text": {}}]}}, r"messages\[0\].User.blocks\[0\].Text.text is missing"),
        ({"User": {"blocks": [{"Text": {"text": 1}}]}}, r"messages\[0\].User.blocks\[0\].Text.text is not a string"),
        ({"User": {"blocks": [{"Image": {"source": {}}}]}}, r"blocks\[0\].Image.source.type is missing"),
        (
            {"User": {"blocks": [{"Image": {"source": {"type": "ftp"}}}]}},
            r"source.type is unknown: base64, url and file_id",
        ),
        ({"User": {"blocks": [{"Document": {"source": {"type": "url"}}}]}}, r"Document.source.url is missing"),
        ({"User": {"blocks": [{"ToolResult": {"content": {"blocks": []}}}]}}, r"ToolResult.call_id is missing"),
        (
            {"User": {"blocks": [{"ToolResult": {"call_id": "1", "content": []}}]}},
            r"ToolResult.content is not an object",
        ),
        (
            {"User": {"blocks": [{"ToolResult": {"call_id": "1", "content": {"blocks": [], "is_error": 1}}}]}},
            r"ToolResult.content.is_error is not true or false",
        ),
        (
            {"User": {"blocks": [{"ToolResult": {"call_id": "1", "content": {"blocks": [{"type": "pdf"}]}}}]}},
            r"ToolResult.content.blocks\[0\].type is unknown",
        ),
        (
            {"Assistant": {"blocks": [{"Reasoning": {"text": "", "signature": 1}}]}},
            r"Reasoning.signature is not a string",
        ),
        ({"Assistant": {"blocks": [{"RedactedReasoning": {}}]}}, r"RedactedReasoning.data is missing"),
        ({"Assistant": {"blocks": [{"ToolCall": {"id": "1", "name": "f"}}]}}, r"ToolCall.args is missing"),
        ({"Json": [1]}, r"messages\[0\].Json is a list"),
    ],
)
def test_errors_name_the_path(message: Any, text: str) -> None:
    """Where it is, and what was expected there."""
    with pytest.raises(SnapshotError, match=text):
        read([message])


@pytest.mark.parametrize(
    ("data", "text"),
    [
        (b"", "not JSON"),
        (b"{", "not JSON: .* at line 1, column 2"),
        (b"[]", "a snapshot is a JSON object"),
        (b"null", "a snapshot is a JSON object"),
        (b"{}", "version is missing"),
        (b'{"version": "1"}', "version is missing, or is not a number"),
        (b'{"version": true, "messages": [], "pinned": []}', "version is missing, or is not a number"),
        (b'{"version": 1}', "messages is missing"),
        (b'{"version": 1, "messages": [], "pinned": {}}', "pinned is missing, or is not an array"),
        (b'{"version": 1, "messages": [{"Json": 1}], "pinned": [1]}', "pinned is made of True and False"),
        (b'{"version": 1, "messages": [], "pinned": [], "meta": [1]}', "meta is a mapping"),
        (b"\xff\xfe", "not UTF-8"),
        (b'{"version": 1, "messages": [{"Json": NaN}], "pinned": [false]}', "NaN"),
        (b'{"version": 1, "messages": [{"Json": -Infinity}], "pinned": [false]}', "-Infinity"),
        (b'{"version": 1, "messages": [{"Json": 1e400}], "pinned": [false]}', r"messages\[0\].Json is inf"),
        (b'{"version": 1, "messages": [{"Json": {"a": "\\ud800"}}], "pinned": [false]}', r"messages\[0\].Json\['a'\]"),
        (
            b'{"version": 1, "messages": [{"User": {"blocks": [{"Text": {"text": "\\ud800"}}]}}], "pinned": [false]}',
            "surrogate",
        ),
        (
            b'{"version": 1, "messages": [{"Json": ' + b"9" * 5000 + b'}], "pinned": [false]}',
            "number that cannot be read",
        ),
        (b'{"version": 1, "messages": [{"Json": ' + b"[" * 200_000, "nests too deep"),
        (
            b'{"version": 1, "messages": [{"Json": ' + b'{"a":' * 150 + b"1" + b"}" * 150 + b'}], "pinned": [false]}',
            "nests",
        ),
        (
            b'{"version": 1, "messages": [{"Json": ' + b'{"a":' * 900 + b"1" + b"}" * 900 + b'}], "pinned": [false]}',
            "nests",
        ),
        (None, "bytes or str, not from a NoneType"),
        ({"version": 1}, "bytes or str, not from a dict"),
    ],
    ids=lambda value: repr(value)[:40],
)
def test_what_is_no_snapshot_is_a_snapshot_error(data: Any, text: str) -> None:
    """Never a crash, a hang, or a half-read conversation."""
    with pytest.raises(SnapshotError, match=text):
        Snapshot.from_json(data)


@given(st.integers(0, 10**6), st.sampled_from(list('{}[]",:0nX\\')))
def test_mutated_files_are_read_or_refused(at: int, char: str) -> None:
    """One changed character of the seed's file: a snapshot, or a documented error."""
    text = (DATA / "all_blocks.json").read_text()
    at %= len(text)
    try:
        found = Snapshot.from_json(text[:at] + char + text[at + 1 :])
    except (SnapshotError, UnsupportedVersionError):
        return
    assert len(found.messages) == len(found.pinned)


def test_errors_hold_no_content() -> None:
    """A file that is no JSON may be a conversation all the same: it is not quoted."""
    with pytest.raises(SnapshotError) as caught:
        Snapshot.from_json('{"version": 1, "messages": [{"Json": "my secret"')
    error: BaseException = caught.value
    assert "secret" not in str(error)
    assert error.__cause__ is None
    assert error.__suppress_context__


def test_a_number_too_long_for_json() -> None:
    """An integer that Python would not write in decimal is refused, and says so."""
    with pytest.raises(SnapshotError, match="no JSON form"):
        Snapshot([10**5000]).to_json()


def test_a_message_is_written_as_it_was_when_the_snapshot_was_made() -> None:
    """What its owner does to it afterwards changes no snapshot."""
    message: dict[str, Any] = {"a": [1]}
    snapshot = Snapshot([message])
    message["a"].append({1, 2})
    assert b'"messages":[{"Json":{"a":[1]}}]' in snapshot.to_json()
