"""The JSON wire format: messages to JSON values and back.

Messages and blocks are externally tagged; sources and tool-result blocks have a "type". A plain message is
`{"Json": value}`. Bytes are `{"$bytes": base64}`. So that no other object looks like that, an object with one key that
starts with "$" gains another "$".
"""

from __future__ import annotations

import base64
import binascii
import json
from collections.abc import Callable
from typing import Any

from .. import messages as m
from ..values.base_errors import SnapshotError
from ..values.forms import JsonObject, JSONValueForm, register
from ..values.frozen import check_json, freeze_json


def dumps(document: dict[str, Any], indent: int | None) -> bytes:
    """Return a document as JSON in UTF-8. Non-ASCII text is not escaped.

    Args:
        document: The document.
        indent: Number of spaces per level; None writes one line.

    Raises:
        SnapshotError: The document cannot be written.
    """
    separators = (",", ":") if indent is None else None
    try:
        return json.dumps(document, indent=indent, ensure_ascii=False, allow_nan=False, separators=separators).encode()
    except (ValueError, TypeError, OverflowError) as error:
        # TypeError: C code changed a message past its methods. OverflowError: the indent is too large.
        raise SnapshotError(f"the snapshot has no JSON form: {error}") from error


def loads(data: bytes | str) -> Any:
    """Return the document in a JSON text.

    Raises:
        SnapshotError: The text is no JSON or not UTF-8, holds NaN or an infinity, or nests too deep.
    """
    if not isinstance(data, (str, bytes, bytearray)):
        raise SnapshotError(f"JSON is read from bytes or str, not from a {type(data).__name__}")
    try:
        text = data if isinstance(data, str) else bytes(data).decode()
        return json.loads(text, parse_constant=_no_constant)
    except SnapshotError:
        raise
    except RecursionError:
        raise SnapshotError("the JSON nests too deep: flatten it") from None
    except UnicodeDecodeError as error:
        raise SnapshotError(f"the JSON is not UTF-8 (byte {error.start}): convert the file") from None
    except json.JSONDecodeError as error:
        # The cause is dropped: its text quotes no content, but its attributes hold the document.
        raise SnapshotError(f"not JSON: {error.msg} at line {error.lineno}, column {error.colno}") from None
    except ValueError:
        raise SnapshotError("the JSON holds a number that cannot be read: shorten it, or make it a string") from None


def _no_constant(name: str) -> Any:
    raise SnapshotError(f"the JSON holds {name}, which is no JSON: use null or a string")


# --------------------------------------------------------------------------------------- messages


def message_to_json(message: Any) -> dict[str, Any]:
    """Return the wire form of a typed or a plain message."""
    if type(message) is m.UserMessage:
        return {"User": {"blocks": [_block_to_json(block) for block in message.blocks]}}
    if type(message) is m.AssistantMessage:
        return {"Assistant": {"blocks": [_block_to_json(block) for block in message.blocks]}}
    return {"Json": value_to_json(message)}


def message_from_json(data: Any, path: str) -> Any:
    """Return the message in a wire form. Raise SnapshotError with the path if there is none."""
    tag, body = _tagged(data, path)
    try:
        match tag:
            case "User":
                return m.UserMessage(_blocks_from_json(body, f"{path}.User", _USER))
            case "Assistant":
                return m.AssistantMessage(_blocks_from_json(body, f"{path}.Assistant", _ASSISTANT))
            case "Json":
                return m.freeze_message(value_from_json(body), f"{path}.Json")
    except SnapshotError as error:
        raise _with_path(error, path) from None
    raise SnapshotError(f"{path} has the unknown tag {tag[:40]!r}: User, Assistant and Json are known")


def _block_to_json(block: Any) -> dict[str, Any]:
    match block:
        case m.Text(text):
            return {"Text": {"text": text}}
        case m.ToolResult(call_id, content):
            return {"ToolResult": {"call_id": call_id, "content": _content_to_json(content)}}
        case m.Image(source):
            return {"Image": {"source": _source_to_json(source)}}
        case m.Document(source):
            return {"Document": {"source": _source_to_json(source)}}
        case m.ToolCall(id, name, args):
            return {"ToolCall": {"id": id, "name": name, "args": _args_to_json(args)}}
        case m.Reasoning(text, signature):
            return {"Reasoning": {"text": text, "signature": signature}}
        case m.RedactedReasoning(data):
            return {"RedactedReasoning": {"data": data}}
    raise AssertionError(f"no JSON form for {type(block).__name__}")


def _content_to_json(content: m.ToolResultContent) -> dict[str, Any]:
    body: dict[str, Any] = {"blocks": [_result_to_json(part) for part in content.blocks]}
    if content.is_error:
        body["is_error"] = True
    return body


def _result_to_json(part: m.ToolResultBlock) -> dict[str, Any]:
    if isinstance(part, m.ToolResultText):
        return {"type": "text", "text": part.text}
    return {"type": "image", "source": _source_to_json(part.source)}


def _source_to_json(source: m.Source) -> dict[str, Any]:
    match source:
        case m.Base64Source(media_type, data):
            return {"type": "base64", "media_type": media_type, "data": data}
        case m.UrlSource(url):
            return {"type": "url", "url": url}
        case m.FileSource(id):
            return {"type": "file_id", "id": id}


def _tool_call(body: Any, path: str) -> m.ToolCall:
    # Newer writers of the original format (after 1.0.0-rc.3) name the field call_id. Older readers know only id.
    name = "call_id" if isinstance(body, dict) and "id" not in body and "call_id" in body else "id"
    args = freeze_json(value_from_json(_field(body, "args", path), _BYTES_ONLY), f"{path}.args")
    return m.ToolCall(_string(body, name, path), _string(body, "name", path), args)


def _tool_result(body: Any, path: str) -> m.ToolResult:
    content = _content_from_json(_field(body, "content", path), f"{path}.content")
    return m.ToolResult(_string(body, "call_id", path), content)


def _content_from_json(content: Any, path: str) -> m.ToolResultContent:
    blocks = _array(_field(content, "blocks", path), f"{path}.blocks")
    is_error = content.get("is_error", False)
    if type(is_error) is not bool:
        raise SnapshotError(f"{path}.is_error is not true or false")
    parts = [_result_from_json(part, f"{path}.blocks[{i}]") for i, part in enumerate(blocks)]
    return m.ToolResultContent(parts, is_error)


def _result_from_json(part: Any, path: str) -> m.ToolResultBlock:
    match _string(part, "type", path):
        case "text":
            return m.ToolResultText(_string(part, "text", path))
        case "image":
            return m.ToolResultImage(_source_from_json(_field(part, "source", path), f"{path}.source"))
    raise SnapshotError(f"{path}.type is unknown: text and image are known")


def _source_from_json(source: Any, path: str) -> m.Source:
    match _string(source, "type", path):
        case "base64":
            return m.Base64Source(_string(source, "media_type", path), _string(source, "data", path))
        case "url":
            return m.UrlSource(_string(source, "url", path))
        case "file_id":
            return m.FileSource(_string(source, "id", path))
    raise SnapshotError(f"{path}.type is unknown: base64, url and file_id are known")


def _reasoning(body: Any, path: str) -> m.Reasoning:
    signature = body.get("signature") if isinstance(body, dict) else None
    if signature is not None:
        signature = _string(body, "signature", path)
    return m.Reasoning(_string(body, "text", path), signature)


def _text(body: Any, path: str) -> m.Text:
    return m.Text(_string(body, "text", path))


_USER = {
    "Text": _text,
    "ToolResult": _tool_result,
    "Image": lambda body, path: m.Image(_source_from_json(_field(body, "source", path), f"{path}.source")),
    "Document": lambda body, path: m.Document(_source_from_json(_field(body, "source", path), f"{path}.source")),
}
_ASSISTANT = {
    "Text": _text,
    "ToolCall": _tool_call,
    "Reasoning": _reasoning,
    "RedactedReasoning": lambda body, path: m.RedactedReasoning(_string(body, "data", path)),
}


def _blocks_from_json(body: Any, path: str, readers: dict[str, Any]) -> list[Any]:
    blocks = []
    for index, block in enumerate(_array(_field(body, "blocks", path), f"{path}.blocks")):
        where = f"{path}.blocks[{index}]"
        tag, content = _tagged(block, where)
        if tag not in readers:
            raise SnapshotError(f"{where} has the unknown tag {tag[:40]!r}: {', '.join(readers)} are known")
        blocks.append(readers[tag](content, f"{where}.{tag}"))
    return blocks


# ------------------------------------------------------------------------------------ JSON values

_BYTES_ONLY = "$bytes"
"""The escape for tool arguments: only an object that looks like bytes gains a "$" there.

The original format has this field, too, and its readers must find the arguments as the model wrote them."""


def value_to_json(value: Any, escape: str = "$") -> Any:
    """Return `value` with bytes, and objects that look like bytes, in their JSON form.

    Args:
        value: A JSON value.
        escape: "$", or "$bytes" to escape only objects that look like bytes.
    """
    if isinstance(value, bytes):
        return {"$bytes": base64.b64encode(value).decode()}
    if isinstance(value, dict):
        if len(value) == 1:
            ((key, item),) = value.items()
            if _escaped(key, escape):
                return {f"${key}": value_to_json(item, escape)}
        return {key: value_to_json(item, escape) for key, item in value.items()}
    if isinstance(value, list):
        return [value_to_json(item, escape) for item in value]
    return value


def _args_to_json(args: Any) -> Any:
    return value_to_json(args, _BYTES_ONLY)


def value_from_json(data: Any, escape: str = "$") -> Any:
    """Return the value that `value_to_json` wrote with the same `escape`. Leave other objects as they are."""
    try:
        return _value_from_json(data, escape)
    except RecursionError:
        raise SnapshotError("the JSON nests too deep: flatten it") from None


def _value_from_json(data: Any, escape: str) -> Any:
    if isinstance(data, dict):
        if len(data) == 1:
            ((key, item),) = data.items()
            if key == "$bytes" and isinstance(item, str):
                try:
                    return base64.b64decode(item, validate=True)
                except (binascii.Error, ValueError):
                    pass  # An object of the user's that was never escaped. It stays as it is.
            elif isinstance(key, str) and key.startswith("$$") and _escaped(key[1:], escape):
                return {key[1:]: _value_from_json(item, escape)}
        return {key: _value_from_json(item, escape) for key, item in data.items()}
    if isinstance(data, list):
        return [_value_from_json(item, escape) for item in data]
    return data


def _escaped(key: str, escape: str) -> bool:
    if escape == _BYTES_ONLY:
        return key[:1] == "$" and key.lstrip("$") == "bytes"
    return key.startswith("$")


# ------------------------------------------------------------------------------------------ fields


def _tagged(data: Any, path: str) -> tuple[str, Any]:
    if not isinstance(data, dict) or len(data) != 1:
        raise SnapshotError(f'{path} is not an object with one key, its tag: write {{"Tag": {{...}}}}')
    ((tag, body),) = data.items()
    if not isinstance(tag, str):
        raise SnapshotError(f"{path} has a key of type {type(tag).__name__}: make the keys plain str")
    return tag, body


def _field(body: Any, name: str, path: str) -> Any:
    if not isinstance(body, dict):
        raise SnapshotError(f"{path} is not an object")
    if name not in body:
        raise SnapshotError(f"{path}.{name} is missing")
    return body[name]


def _string(body: Any, name: str, path: str) -> str:
    value = _field(body, name, path)
    if not isinstance(value, str):
        raise SnapshotError(f"{path}.{name} is not a string")
    return value


def _array(value: Any, path: str) -> list[Any]:
    if not isinstance(value, list):
        raise SnapshotError(f"{path} is not an array")
    return value


# ------------------------------------------------------------------------ to_dict and from_dict


def _reader(kind: type, read: Callable[[Any, str], Any]) -> Callable[[Any, str], Any]:
    """Return a reader that accepts only forms of values of one type."""

    def checked(data: Any, path: str) -> Any:
        try:
            value = read(data, path)
        except SnapshotError as error:
            raise _with_path(error, path) from None
        if type(value) is kind:
            return value
        name = type(value).__name__
        if isinstance(value, JsonObject):
            raise SnapshotError(f"{path}: this is the form of a {name}: read it with {name}.from_dict()")
        raise SnapshotError(f'{path}: this is the form of a plain message: take what stands under "Json"')

    return checked


def _with_path(error: SnapshotError, path: str) -> SnapshotError:
    """Return an error whose text names the path. The checks of a value know its class and field, not its path."""
    text = str(error)
    return error if text.startswith(path) else SnapshotError(f"{path}: {text}")


def _block_from_json(data: Any, path: str) -> Any:
    tag, body = _tagged(data, path)
    if tag not in _BLOCKS:
        raise SnapshotError(f"{path} has the unknown tag {tag[:40]!r}: {', '.join(_BLOCKS)} are known")
    return _BLOCKS[tag](body, f"{path}.{tag}")


_BLOCKS: dict[str, Any] = {**_USER, **_ASSISTANT}


def _json_from_form(data: Any, path: str) -> Any:
    # Checked first, because reading a value that nests without end would exhaust the stack.
    check_json(data, path)
    return value_from_json(data, _BYTES_ONLY)


_KINDS: list[tuple[type, Callable[[Any], Any], Callable[[Any, str], Any], str]] = [
    (m.UserMessage, message_to_json, message_from_json, "USER"),
    (m.AssistantMessage, message_to_json, message_from_json, "ASSISTANT"),
    (m.Text, _block_to_json, _block_from_json, "TEXT"),
    (m.Image, _block_to_json, _block_from_json, "IMAGE"),
    (m.Document, _block_to_json, _block_from_json, "DOCUMENT"),
    (m.ToolResult, _block_to_json, _block_from_json, "TOOL_RESULT"),
    (m.ToolCall, _block_to_json, _block_from_json, "TOOL_CALL"),
    (m.Reasoning, _block_to_json, _block_from_json, "REASONING"),
    (m.RedactedReasoning, _block_to_json, _block_from_json, "REDACTED_REASONING"),
    (m.ToolResultContent, _content_to_json, _content_from_json, "RESULT_CONTENT"),
    (m.ToolResultText, _result_to_json, _result_from_json, "RESULT_TEXT"),
    (m.ToolResultImage, _result_to_json, _result_from_json, "RESULT_IMAGE"),
    (m.Base64Source, _source_to_json, _source_from_json, "BASE64_SOURCE"),
    (m.UrlSource, _source_to_json, _source_from_json, "URL_SOURCE"),
    (m.FileSource, _source_to_json, _source_from_json, "FILE_SOURCE"),
]
for _kind, _write, _read, _schema in _KINDS:
    register(_kind, _write, _reader(_kind, _read), _schema)
register(JSONValueForm, _args_to_json, _json_from_form, "ANYTHING")
