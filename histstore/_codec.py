"""Messages to CBOR (RFC 8949) and back, and the body of a log entry (a CBOR sequence, RFC 8742).

A JSONValue message is encoded as it is. A typed message is an array, which a JSONValue message never
is: `[kind, block, ...]`, where a Text block is its str and every other block an array that starts
with its kind.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import cbor2

from . import messages as m
from .errors import SnapshotError

_USER, _ASSISTANT = 0, 1
_TOOL_RESULT, _IMAGE, _DOCUMENT, _TOOL_CALL, _REASONING, _REDACTED = 1, 2, 3, 4, 5, 6
_BASE64, _URL, _FILE = 0, 1, 2


# ---------------------------------------------------------------------------------------- messages


def encode(message: Any, path: str = "message") -> bytes:
    """Encodes one message.

    Raises:
        SnapshotError: It is neither a typed message nor a JSONValue (any more: plain values are
            their owner's, and may have been changed since they were put into a snapshot).
    """
    kind = type(message)
    if kind is m.UserMessage:
        return cbor2.dumps([_USER, *map(_pack_block, message.blocks)])
    if kind is m.AssistantMessage:
        return cbor2.dumps([_ASSISTANT, *map(_pack_block, message.blocks)])
    m.check_message(message, path)
    return cbor2.dumps(message)


def is_typed(message: Any) -> bool:
    """Tells whether the identity of `message` proves that its content is unchanged."""
    return type(message) in m.TYPED


def decode(slices: Sequence[bytes | memoryview]) -> list[Any]:
    """Decodes many messages in one pass over their joined bytes.

    Raises:
        ValueError: The bytes are not messages.
    """
    if not slices:
        return []
    found = _loads(b"".join((b"\x9f", *slices, b"\xff")))
    if len(found) != len(slices):
        raise ValueError(f"{len(slices)} messages decode to {len(found)}")
    return [_unpack(item) if type(item) is list else item for item in found]


def encode_meta(meta: Any) -> bytes:
    """Encodes a snapshot's meta, which was checked when it was made."""
    return cbor2.dumps(meta)


def decode_meta(data: bytes) -> Any:
    """Decodes a snapshot's meta into a read-only mapping; raises ValueError."""
    found = _loads(data)
    if type(found) is not dict:
        raise ValueError("the meta is not a mapping")
    try:
        return m.freeze_json(found, "meta")
    except SnapshotError as error:
        raise ValueError(str(error)) from error


def _refuse(_value: Any, _immutable: bool = False) -> Any:
    raise ValueError("a tag that histstore never writes")


# Every tag that cbor2 gives a meaning to but big integers (2 and 3): a body holds JSON values only.
_NO_TAGS: dict[int, Callable[..., Any]] = dict.fromkeys(
    [0, 1, 4, 5, 25, 28, 29, 30, 35, 36, 37, 52, 54, 100, 256, 258, 260, 261, 1004, 43000, 55799], _refuse
)


def _loads(data: bytes) -> Any:
    try:
        return cbor2.loads(data, tag_hook=_refuse, semantic_decoders=_NO_TAGS, allow_duplicate_keys=False)
    except (cbor2.CBORError, ValueError, TypeError, OverflowError, RecursionError, MemoryError) as error:
        raise ValueError(f"not CBOR of ours: {type(error).__name__}") from error


def _pack_block(block: Any) -> Any:
    match block:
        case m.Text(text):
            return text
        case m.ToolCall(id, name, args):
            return [_TOOL_CALL, id, name, args]
        case m.ToolResult(call_id, content):
            parts = [p.text if isinstance(p, m.ToolResultText) else _pack_source(p.source) for p in content.blocks]
            return [_TOOL_RESULT, call_id, content.is_error, *parts]
        case m.Reasoning(text, signature):
            return [_REASONING, text, signature]
        case m.RedactedReasoning(data):
            return [_REDACTED, data]
        case m.Image(source):
            return [_IMAGE, _pack_source(source)]
        case m.Document(source):
            return [_DOCUMENT, _pack_source(source)]
    raise AssertionError(f"no CBOR form for {type(block).__name__}")


def _pack_source(source: m.Source) -> list[Any]:
    match source:
        case m.Base64Source(media_type, data):
            return [_BASE64, media_type, data]
        case m.UrlSource(url):
            return [_URL, url]
        case m.FileSource(id):
            return [_FILE, id]


def _unpack(data: list[Any]) -> m.Message:
    try:
        kind, *blocks = data
        found = [m.Text(block) if type(block) is str else _unpack_block(block) for block in blocks]
        return m.UserMessage(found) if type(kind) is int and kind == _USER else _assistant(kind, found)
    except (SnapshotError, TypeError, IndexError) as error:
        raise ValueError("an array that is no typed message") from error


def _assistant(kind: Any, blocks: list[Any]) -> m.AssistantMessage:
    if type(kind) is not int or kind != _ASSISTANT:
        raise ValueError("a typed message of an unknown kind")
    return m.AssistantMessage(blocks)


def _unpack_block(data: Any) -> Any:
    if type(data) is not list:
        raise ValueError("a block that is no array")
    match data:
        case [4, id, name, args]:
            return m.ToolCall(id, name, args)
        case [1, call_id, bool(is_error), *parts]:
            blocks = [m.ToolResultText(p) if type(p) is str else m.ToolResultImage(_unpack_source(p)) for p in parts]
            return m.ToolResult(call_id, m.ToolResultContent(blocks, is_error))
        case [5, text, signature]:
            return m.Reasoning(text, signature)
        case [6, data]:
            return m.RedactedReasoning(data)
        case [2, source]:
            return m.Image(_unpack_source(source))
        case [3, source]:
            return m.Document(_unpack_source(source))
    raise ValueError("a block of an unknown kind")


def _unpack_source(data: Any) -> m.Source:
    match data:
        case [0, media_type, text]:
            return m.Base64Source(media_type, text)
        case [1, url]:
            return m.UrlSource(url)
        case [2, id]:
            return m.FileSource(id)
    raise ValueError("a source of an unknown kind")


# ------------------------------------------------------------------------------------------ bodies


@dataclass(frozen=True, slots=True)
class Body:
    """What an entry adds to its parent.

    Attributes:
        added: Encoded messages that stand after those kept.
        flips: Indices, in the new content, of pins that differ from what the cut left (new: unpinned).
        meta: The encoded meta; None: unchanged.
        fills: Index to encoded message and pin, for readers that start here (see `_chain`).
    """

    added: Sequence[bytes | memoryview]
    flips: Sequence[int] = ()
    meta: bytes | None = None
    fills: Sequence[tuple[int, bool, bytes | memoryview]] = ()


def encode_body(body: Body) -> bytes:
    """Returns a header item, then the messages: `[sizes, flips, meta, fills]`, short of empty tails."""
    sizes = [len(part) for part in body.added] + [len(part) for _, _, part in body.fills]
    header: list[Any] = [sizes, list(body.flips), body.meta, [v for i, pin, _ in body.fills for v in (i, int(pin))]]
    while len(header) > 1 and not header[-1]:
        header.pop()
    return b"".join((cbor2.dumps(header), *body.added, *(part for _, _, part in body.fills)))


def decode_body(data: bytes) -> Body:
    """Reads what `encode_body` wrote, without decoding the messages; raises ValueError."""
    header = _loads(data)
    if type(header) is not list or not 1 <= len(header) <= 4:
        raise ValueError("a body without a header")
    defaults: list[Any] = [[], [], None, []]
    sizes, flips, meta, fills = header + defaults[len(header) :]
    if not _naturals(sizes) or not _naturals(flips) or not _naturals(fills) or type(meta) not in (bytes, type(None)):
        raise ValueError("a body with a broken header")
    count = len(sizes) - len(fills) // 2
    at = len(data) - sum(sizes)
    if len(fills) % 2 or count < 0 or at < 1:
        raise ValueError("a body shorter than its messages")
    view = memoryview(data)
    parts = []
    for size in sizes:
        parts.append(view[at : at + size])
        at += size
    filled = [(fills[2 * k], bool(fills[2 * k + 1]), parts[count + k]) for k in range(len(fills) // 2)]
    return Body(parts[:count], flips, meta, filled)


def _naturals(value: Any) -> bool:
    return type(value) is list and all(type(item) is int and item >= 0 for item in value)
