"""Messages and meta to CBOR and back.

A plain JSON message is encoded as it is. A typed message becomes an array `[kind, block, ...]`, which a plain message
never is. In it, a Text block is its str, and every other block is an array that starts with its kind.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from itertools import chain
from math import isfinite
from typing import Any

import cbor2

from .. import messages as m
from ..errors import SnapshotError
from ..values.build import open_twin, trusted
from ..values.frozen import MAX_DEPTH, FrozenDict, FrozenList, OpenDict, OpenList, freeze_json
from .cbor import array_head, load, load_sequence

_USER, _ASSISTANT = 0, 1
_TOOL_RESULT, _IMAGE, _DOCUMENT, _TOOL_CALL, _REASONING, _REDACTED = 1, 2, 3, 4, 5, 6
_BASE64, _URL, _FILE = 0, 1, 2

NO_META = cbor2.dumps({})
"""The encoded empty meta."""

# The first bytes of a message of one block. Most messages are one text, and cbor2 is slow with short lists.
_HEADS_OF_ONE_BLOCK = {
    kind: array_head(2) + cbor2.dumps(number)
    for kind, number in ((m.UserMessage, _USER), (m.AssistantMessage, _ASSISTANT))
}
_KINDS = {m.UserMessage: _USER, m.AssistantMessage: _ASSISTANT}


def encode(message: Any) -> bytes:
    """Encode one message of a snapshot. A plain message was checked when it was frozen.

    Raises:
        SnapshotError: Foreign code has changed the frozen message into something that is no JSON value.
    """
    try:
        head = _HEADS_OF_ONE_BLOCK.get(type(message))
        if head is None:
            return cbor2.dumps(message)
        blocks = message.blocks
        if len(blocks) == 1 and type(blocks[0]) is m.Text:
            return head + cbor2.dumps(blocks[0].text)
        packed = [block.text if type(block) is m.Text else _pack_block(block) for block in blocks]
        return cbor2.dumps([_KINDS[type(message)], *packed])
    except (cbor2.CBORError, ValueError, TypeError, RecursionError) as error:
        # C code can change a frozen message: eval() writes __builtins__ into the mapping that it receives.
        raise SnapshotError(
            "a message was changed past its methods and is no JSON value any more: pass copies() to code that changes "
            "messages, and load() anew with a new store"
        ) from error


def decode(parts: Sequence[bytes | memoryview]) -> list[Any]:
    """Decode many messages in one pass over their joined bytes. Plain messages come back frozen.

    Raises:
        ValueError: The bytes are not messages.
    """
    if not parts:
        return []
    messages = load_sequence(parts)
    if len(messages) != len(parts):
        raise ValueError(f"{len(parts)} messages decode to {len(messages)}")
    build_messages(messages)
    return messages


def encode_meta(meta: Any) -> bytes:
    """Encode a snapshot's meta, which was checked when the snapshot was made."""
    return cbor2.dumps(meta) if meta else NO_META


def decode_meta(data: bytes) -> Any:
    """Decode a snapshot's meta into a read-only mapping.

    Raises:
        ValueError: The bytes are not a mapping of JSON values.
    """
    meta = load(data)
    if type(meta) is not dict:
        raise ValueError("the meta is not a mapping")
    try:
        return freeze_json(meta, "meta")
    except SnapshotError as error:
        raise ValueError(str(error)) from error


def _pack_block(block: Any) -> Any:
    match block:
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


def build_messages(values: list[Any]) -> None:
    """Turn decoded values into messages, in place. Arrays become typed messages; dicts become frozen ones.

    Raises:
        ValueError: A value is not a message.
    """
    kinds = set(map(type, values))
    if OpenDict in kinds:
        dicts = values if len(kinds) == 1 else [item for item in values if type(item) is OpenDict]
        for start in range(0, len(dicts), _BATCH):
            _freeze(dicts[start : start + _BATCH])
    if list in kinds:
        _build_typed(values)
    if not kinds <= _DECODED and not _all_json([item for item in values if type(item) not in m.SETTLED]):
        raise ValueError("a message that is no JSON value")


def _build_typed(values: list[Any]) -> None:
    """Replace each array with the typed message that it encodes.

    The classes' own checks are skipped. In decoded data only types and shapes can be wrong, and a decoded str is valid.
    """
    block_kind, user, assistant = m.Text, m.UserMessage, m.AssistantMessage
    for place, item in enumerate(values):
        if type(item) is not list:
            continue
        if len(item) == 2:
            kind, text = item
            # CPython keeps one object for each small number, and `is` is the fastest comparison. A number that is
            # not that object takes the slower path below.
            if type(text) is str and (kind is _USER or kind is _ASSISTANT):
                block = _OpenText()
                block.text = text
                block.__class__ = block_kind
                if kind is _USER:
                    made: Any = _OpenUser()
                    made.blocks = (block,)
                    made.__class__ = user
                else:
                    made = _OpenAssistant()
                    made.blocks = (block,)
                    made.__class__ = assistant
                values[place] = made
                continue
        values[place] = _message(item)


def _message(data: list[Any]) -> Any:
    try:
        kind = _int(data[0])
        readers = _BLOCKS[kind]
        blocks = tuple([_block(part, readers) for part in data[1:]])
    except (ValueError, TypeError, LookupError) as error:
        raise ValueError("an array that is no typed message") from error
    if kind == _USER:
        made = _OpenUser()
        made.blocks = blocks
        made.__class__ = m.UserMessage
    else:
        made = _OpenAssistant()
        made.blocks = blocks
        made.__class__ = m.AssistantMessage
    return made


_OpenText = open_twin(m.Text)
_OpenUser, _OpenAssistant = open_twin(m.UserMessage), open_twin(m.AssistantMessage)


def _block(data: Any, readers: Mapping[int, Callable[[list[Any]], Any]]) -> Any:
    if type(data) is not str:
        return readers[_int(_list(data)[0])](data)
    made = _OpenText()
    made.text = data
    made.__class__ = m.Text
    return made


def _tool_call(data: list[Any]) -> Any:
    _, id, name, args = data
    if type(id) is not str or type(name) is not str:
        raise TypeError
    made = _OpenToolCall()
    made.id = id
    made.name = name
    made.args = _frozen(args, MAX_DEPTH)
    made.__class__ = m.ToolCall
    return made


def _tool_result(data: list[Any]) -> Any:
    _, call_id, is_error, *parts = data
    if type(call_id) is not str or type(is_error) is not bool:
        raise TypeError
    content = _OpenContent()
    content.blocks = tuple([_result_block(part) for part in parts])
    content.is_error = is_error
    content.__class__ = m.ToolResultContent
    made = _OpenToolResult()
    made.call_id = call_id
    made.content = content
    made.__class__ = m.ToolResult
    return made


_OpenToolCall, _OpenToolResult = open_twin(m.ToolCall), open_twin(m.ToolResult)
_OpenContent, _OpenResultText = open_twin(m.ToolResultContent), open_twin(m.ToolResultText)


def _result_block(data: Any) -> Any:
    if type(data) is not str:
        return trusted(m.ToolResultImage, _source(data))
    made = _OpenResultText()
    made.text = data
    made.__class__ = m.ToolResultText
    return made


def _reasoning(data: list[Any]) -> Any:
    _, text, signature = data
    return trusted(m.Reasoning, _str(text), None if signature is None else _str(signature))


def _redacted(data: list[Any]) -> Any:
    _, text = data
    return trusted(m.RedactedReasoning, _str(text))


def _image(data: list[Any]) -> Any:
    _, source = data
    return trusted(m.Image, _source(source))


def _document(data: list[Any]) -> Any:
    _, source = data
    return trusted(m.Document, _source(source))


def _source(data: Any) -> Any:
    kind, *fields = _list(data)
    return trusted(_SOURCES[_int(kind)], *map(_str, fields))


_BLOCKS: dict[int, dict[int, Callable[[list[Any]], Any]]] = {
    _USER: {_TOOL_RESULT: _tool_result, _IMAGE: _image, _DOCUMENT: _document},
    _ASSISTANT: {_TOOL_CALL: _tool_call, _REASONING: _reasoning, _REDACTED: _redacted},
}
_SOURCES: dict[int, type] = {_BASE64: m.Base64Source, _URL: m.UrlSource, _FILE: m.FileSource}


def _str(value: Any) -> str:
    if type(value) is not str:
        raise TypeError
    return value


def _int(value: Any) -> int:
    # In a dict, True and 1.0 are the same keys as 1.
    if type(value) is not int:
        raise TypeError
    return value


def _list(value: Any) -> list[Any]:
    if type(value) is not list:
        raise TypeError
    return value


_SCALARS = frozenset({str, int, bool, type(None), bytes})
_KEYS = frozenset({str})
_DECODED = _SCALARS | {OpenDict, list}


def _all_json(scalars: Iterable[Any]) -> bool:
    return all(type(item) in _SCALARS or (type(item) is float and isfinite(item)) for item in scalars)


_BATCH = 64
"""Number of messages that are frozen together. Passes over all of 10,000 nested messages miss the processor's cache,
and took 1.2 to 1.6 times as long."""


def _freeze(dicts: list[Any]) -> None:
    """Freeze decoded dicts in place, at every level.

    All values of one level are checked together. Checking them one by one would take twice as long.
    """
    lists: list[Any] = []
    for _ in range(MAX_DEPTH):
        if not _KEYS.issuperset(map(type, chain.from_iterable(dicts))):
            raise ValueError("a message with a key that is no text")
        values = list(chain.from_iterable(map(dict.values, dicts)))
        kinds = set(map(type, values))
        inner: list[Any] = []
        if list in kinds:
            for each in dicts:
                for key, item in each.items():
                    if type(item) is list:
                        each[key] = item = OpenList(item)
                        inner.append(item)
        if lists:
            items = list(chain.from_iterable(lists))
            more = set(map(type, items))
            if list in more:
                for each in lists:
                    for index, item in enumerate(each):
                        if type(item) is list:
                            each[index] = item = OpenList(item)
                            inner.append(item)
            values += items
            kinds |= more
        for each in dicts:
            each.__class__ = FrozenDict
        for each in lists:
            each.__class__ = FrozenList
        if not kinds <= _DECODED and not _all_json([item for item in values if type(item) not in _DECODED]):
            raise ValueError("a message that is no JSON value")
        dicts, lists = [], inner
        if OpenDict in kinds:
            dicts = values if len(kinds) == 1 else [item for item in values if type(item) is OpenDict]
        elif not lists:
            return
    raise ValueError("a message that nests too deep")


def _frozen(value: Any, depth: int) -> Any:
    """Return a decoded value, frozen at every level. A dict is frozen in place.

    Args:
        value: The decoded value.
        depth: Levels that it may nest.

    Raises:
        ValueError: It nests too deep.
        TypeError: It is no JSON value.
    """
    kind = type(value)
    if kind in _SCALARS or (kind is float and isfinite(value)):
        return value
    if depth == 0:
        raise ValueError
    if kind is OpenDict and _KEYS.issuperset(map(type, value)):
        if not _SCALARS.issuperset(map(type, value.values())):
            for key, item in value.items():
                if type(item) not in _SCALARS:
                    value[key] = _frozen(item, depth - 1)
        value.__class__ = FrozenDict
        return value
    if kind is list:
        made: Any = OpenList([_frozen(item, depth - 1) for item in value])
        made.__class__ = FrozenList
        return made
    raise TypeError
