"""Messages to CBOR (RFC 8949) and back, and the body of a log entry (a CBOR sequence, RFC 8742).

A JSONValue message is encoded as it is. A typed message is an array, which a JSONValue message never
is: `[kind, block, ...]`, where a Text block is its str and every other block an array that starts
with its kind.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from itertools import chain, repeat
from math import isfinite
from operator import add, is_, itemgetter
from typing import Any

import cbor2

from .. import messages as m
from ..errors import SnapshotError

_USER, _ASSISTANT = 0, 1
_TOOL_RESULT, _IMAGE, _DOCUMENT, _TOOL_CALL, _REASONING, _REDACTED = 1, 2, 3, 4, 5, 6
_BASE64, _URL, _FILE = 0, 1, 2


NO_META = cbor2.dumps({})
# How an array of two begins (its head, and the kind): for most messages are one text, and a list takes cbor2 long.
_FIRST = {m.UserMessage: bytes((0x82, _USER)), m.AssistantMessage: bytes((0x82, _ASSISTANT))}


# ---------------------------------------------------------------------------------------- messages


def encode(message: Any) -> bytes:
    """Encodes one message of a snapshot: a typed one, or a plain one that was checked when it was frozen."""
    try:
        first = _FIRST.get(type(message))
        if first is None:
            return cbor2.dumps(message)
        blocks = message.blocks
        if len(blocks) == 1 and type(blocks[0]) is m.Text:
            return first + cbor2.dumps(blocks[0].text)
        packed = [block.text if type(block) is m.Text else _pack_block(block) for block in blocks]
        return cbor2.dumps([first[1], *packed])
    except (cbor2.CBORError, ValueError, TypeError, RecursionError) as error:
        # C code can: eval() writes its __builtins__ into the mapping that it is given.
        raise SnapshotError(
            "a message was changed past its methods and is no JSON value any more: pass copies() to code that changes "
            "messages, and load() anew with a new store"
        ) from error


def decode(slices: Sequence[bytes | memoryview]) -> list[Any]:
    """Decodes many messages in one pass over their joined bytes. Plain ones are frozen.

    Raises:
        ValueError: The bytes are not messages.
    """
    if not slices:
        return []
    found: list[Any] = _loads(b"".join((b"\x9f", *slices, b"\xff")), _OPENED)
    if len(found) != len(slices):
        raise ValueError(f"{len(slices)} messages decode to {len(found)}")
    _build(found)
    return found


def encode_meta(meta: Any) -> bytes:
    """Encodes a snapshot's meta, which was checked when it was made."""
    return cbor2.dumps(meta) if meta else NO_META


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


# The decoder calls its hook with a dict and a flag. A property's getter takes two arguments as well, and passes the
# first one on: so each dict becomes an OpenDict, and no Python code runs for it.
_OPENED: Callable[..., Any] = property(m.OpenDict).__get__


def _loads(data: bytes, hook: Callable[..., Any] | None = None) -> Any:
    try:
        return cbor2.loads(
            data, tag_hook=_refuse, object_hook=hook, semantic_decoders=_NO_TAGS, allow_duplicate_keys=False
        )
    except (cbor2.CBORError, ValueError, TypeError, OverflowError, RecursionError, MemoryError) as error:
        raise ValueError(f"not CBOR of ours: {type(error).__name__}") from error


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


def _build(found: list[Any]) -> None:
    """Makes messages of what was decoded, in place: typed ones of arrays, frozen ones of dicts.

    Raises:
        ValueError: Something is no message.
    """
    kinds = set(map(type, found))
    if m.OpenDict in kinds:
        dicts = found if len(kinds) == 1 else [item for item in found if type(item) is m.OpenDict]
        for start in range(0, len(dicts), _AT_ONCE):
            _freeze(dicts[start : start + _AT_ONCE])
    if list in kinds:
        _build_typed(found)
    if not kinds <= _DECODED and not _all_json([item for item in found if type(item) not in m.SETTLED]):
        raise ValueError("a message that is no JSON value")


def _build_typed(found: list[Any]) -> None:
    """Puts typed messages in the places of arrays.

    Their classes' own checks are left out: of what a decoder returns, only types and shapes can be wrong,
    and a decoded str is known to be valid.
    """
    new, user, assistant = object.__new__, m.UserMessage, m.AssistantMessage
    for place, item in enumerate(found):
        if type(item) is not list:
            continue
        if len(item) == 2:
            kind, text = item
            # What CPython keeps one object of, small numbers, is soonest compared as such. Another just takes longer.
            if type(text) is str and (kind is _USER or kind is _ASSISTANT):
                block = new(m.Text)
                _put_text(block, text)
                if kind is _USER:
                    made: Any = new(user)
                    _put_user_blocks(made, (block,))
                else:
                    made = new(assistant)
                    _put_assistant_blocks(made, (block,))
                found[place] = made
                continue
        found[place] = _message(item)


def _message(data: list[Any]) -> Any:
    try:
        kind = _int(data[0])
        readers = _BLOCKS[kind]
        blocks = tuple([_block(part, readers) for part in data[1:]])
    except (ValueError, TypeError, LookupError) as error:
        raise ValueError("an array that is no typed message") from error
    if kind == _USER:
        made: Any = object.__new__(m.UserMessage)
        _put_user_blocks(made, blocks)
    else:
        made = object.__new__(m.AssistantMessage)
        _put_assistant_blocks(made, blocks)
    return made


(_put_text,) = m.setters(m.Text)
(_put_user_blocks,) = m.setters(m.UserMessage)
(_put_assistant_blocks,) = m.setters(m.AssistantMessage)


def _block(data: Any, readers: Mapping[int, Callable[[list[Any]], Any]]) -> Any:
    if type(data) is not str:
        return readers[_int(_list(data)[0])](data)
    made = object.__new__(m.Text)
    _put_text(made, data)
    return made


def _tool_call(data: list[Any]) -> Any:
    _, id, name, args = data
    if type(id) is not str or type(name) is not str:
        raise TypeError
    made: Any = object.__new__(m.ToolCall)
    _put_id(made, id)
    _put_name(made, name)
    _put_args(made, _frozen(args, m.MAX_DEPTH))
    return made


def _tool_result(data: list[Any]) -> Any:
    _, call_id, is_error, *parts = data
    if type(call_id) is not str or type(is_error) is not bool:
        raise TypeError
    content: Any = object.__new__(m.ToolResultContent)
    _put_parts(content, tuple([_result_block(part) for part in parts]))
    _put_is_error(content, is_error)
    made: Any = object.__new__(m.ToolResult)
    _put_call_id(made, call_id)
    _put_content(made, content)
    return made


_put_id, _put_name, _put_args = m.setters(m.ToolCall)
_put_parts, _put_is_error = m.setters(m.ToolResultContent)
_put_call_id, _put_content = m.setters(m.ToolResult)


def _result_block(data: Any) -> Any:
    if type(data) is not str:
        return m.trusted(m.ToolResultImage, _source(data))
    made: Any = object.__new__(m.ToolResultText)
    _put_result_text(made, data)
    return made


(_put_result_text,) = m.setters(m.ToolResultText)


def _reasoning(data: list[Any]) -> Any:
    _, text, signature = data
    return m.trusted(m.Reasoning, _str(text), None if signature is None else _str(signature))


def _redacted(data: list[Any]) -> Any:
    _, text = data
    return m.trusted(m.RedactedReasoning, _str(text))


def _image(data: list[Any]) -> Any:
    _, source = data
    return m.trusted(m.Image, _source(source))


def _document(data: list[Any]) -> Any:
    _, source = data
    return m.trusted(m.Document, _source(source))


def _source(data: Any) -> Any:
    kind, *fields = _list(data)
    return m.trusted(_SOURCES[_int(kind)], *map(_str, fields))


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
    # True and 1.0 are keys of the same mapping entries as 1.
    if type(value) is not int:
        raise TypeError
    return value


def _list(value: Any) -> list[Any]:
    if type(value) is not list:
        raise TypeError
    return value


_SCALARS = frozenset({str, int, bool, type(None), bytes})
_KEYS = frozenset({str})
_DECODED = _SCALARS | {m.OpenDict, list}


def _all_json(scalars: Iterable[Any]) -> bool:
    return all(type(item) in _SCALARS or (type(item) is float and isfinite(item)) for item in scalars)


_AT_ONCE = 64
"""Messages that are frozen together. With all of 10,000 nested ones each pass over them leaves the processor's cache:
that took 1.2 to 1.6 times as long."""


def _freeze(dicts: list[Any]) -> None:
    """Freezes decoded dicts in place, to the bottom.

    It goes down level by level and looks at a level's values together: one by one they would take twice as long.
    """
    lists: list[Any] = []
    for _ in range(m.MAX_DEPTH):
        if not _KEYS.issuperset(map(type, chain.from_iterable(dicts))):
            raise ValueError("a message with a key that is no text")
        values = list(chain.from_iterable(map(dict.values, dicts)))
        kinds = set(map(type, values))
        inner: list[Any] = []
        if list in kinds:
            for each in dicts:
                for key, item in each.items():
                    if type(item) is list:
                        each[key] = item = m.OpenList(item)
                        inner.append(item)
        if lists:
            items = list(chain.from_iterable(lists))
            more = set(map(type, items))
            if list in more:
                for each in lists:
                    for index, item in enumerate(each):
                        if type(item) is list:
                            each[index] = item = m.OpenList(item)
                            inner.append(item)
            values += items
            kinds |= more
        for each in dicts:
            each.__class__ = m.FrozenDict
        for each in lists:
            each.__class__ = m.FrozenList
        if not kinds <= _DECODED and not _all_json([item for item in values if type(item) not in _DECODED]):
            raise ValueError("a message that is no JSON value")
        dicts, lists = [], inner
        if m.OpenDict in kinds:
            dicts = values if len(kinds) == 1 else [item for item in values if type(item) is m.OpenDict]
        elif not lists:
            return
    raise ValueError("a message that nests too deep")


def _frozen(value: Any, depth: int) -> Any:
    """Freezes one decoded value in place where it can, and returns it."""
    kind = type(value)
    if kind in _SCALARS or (kind is float and isfinite(value)):
        return value
    if depth == 0:
        raise ValueError
    if kind is m.OpenDict and _KEYS.issuperset(map(type, value)):
        if not _SCALARS.issuperset(map(type, value.values())):
            for key, item in value.items():
                if type(item) not in _SCALARS:
                    value[key] = _frozen(item, depth - 1)
        value.__class__ = m.FrozenDict
        return value
    if kind is list:
        made: Any = m.OpenList([_frozen(item, depth - 1) for item in value])
        made.__class__ = m.FrozenList
        return made
    raise TypeError


# ------------------------------------------------------------------------------------------ bodies


@dataclass(slots=True)
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


def encode_messages(added: Sequence[bytes | memoryview], sizes: Sequence[int]) -> bytes:
    """Returns the body that adds messages of these sizes, and nothing else."""
    if len(sizes) > 23:
        return b"".join((cbor2.dumps([sizes]), *added))
    # An array of an array, as cbor2 writes it, which takes longer over lists than over what is in them.
    return b"".join((bytes((0x81, 0x80 + len(sizes))), *map(cbor2.dumps, sizes), *added))


def encode_body(body: Body) -> bytes:
    """Returns a header item, then the messages: `[sizes, flips, meta, fills]`, short of empty tails."""
    sizes = list(map(len, body.added))
    if not (body.flips or body.meta or body.fills):
        return encode_messages(body.added, sizes)
    sizes += [len(part) for _, _, part in body.fills]
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


_MARK = b"\xf7"  # undefined


@dataclass(frozen=True, slots=True)
class Bodies:
    """What many entries add, one after the other.

    Attributes:
        messages: The decoded messages, each entry's added ones and then those that it fills in.
        sizes: Their encoded sizes.
        counts: How many of them are an entry's.
        extras: Of the entries that say more, by place: pin flips, meta, and index and pin of the fills.
    """

    messages: list[Any]
    sizes: list[int]
    counts: list[int]
    extras: dict[int, tuple[list[int], bytes | None, list[tuple[int, bool]]]]


def decode_bodies(bodies: Sequence[bytes]) -> Bodies:
    """Decodes what `encode_body` wrote, messages and all, in one pass over many of them.

    Raises:
        ValueError: One of them is no body, or holds what is no message; it is not told which.
    """
    try:
        headers, lists, messages = _split(bodies)
        if not (_ARRAYS.issuperset(map(type, headers)) and _ARRAYS.issuperset(map(type, lists))):
            raise ValueError("a body without a header")
        sizes: list[int] = list(chain.from_iterable(lists))
        if not _INTS.issuperset(map(type, sizes)) or min(sizes, default=0) < 0:
            raise ValueError("a body with a broken header")
        counts, plain = list(map(len, lists)), set(map(len, headers)) == {1}
        if not ((plain and _all_fit(counts, sizes, bodies)) or all(map(_fits, headers, lists, bodies))):
            raise ValueError("a body shorter or longer than its messages")
    except (TypeError, LookupError) as error:
        raise ValueError("a body without a header") from error
    extras = {}
    if not plain:
        extras = {place: _extra(header) for place, header in enumerate(headers) if len(header) > 1}
    _build(messages)
    return Bodies(messages, sizes, counts, extras)


def _split(bodies: Sequence[bytes]) -> tuple[Sequence[Any], list[Any], list[Any]]:
    """Decodes bodies into their headers, what these begin with, and the messages of all."""
    # A value that no message holds stands after each body: one that ends in the midst of an item swallows it,
    # and is noticed.
    found: list[Any] = _loads(_MARK.join((b"\x9f", *bodies, b"\xff")), _OPENED)
    end = cbor2.undefined
    # Most logs are of turns, as long as each other: then all stands at regular places, which takes no loop.
    step = (len(found) - 1) // max(len(bodies), 1)
    if step > 1 and len(found) == 1 + step * len(bodies) and all(map(is_, found[::step], repeat(end))):
        headers = found[1::step]
        lists = list(map(itemgetter(0), headers))
        if set(map(len, lists)) == {step - 2}:
            del found[::step], found[:: step - 1]
            return headers, lists, found
    headers, lists, messages = [], [], []
    at = 1
    for _ in bodies:
        header = found[at]
        headers.append(header)
        lists.append(header[0])
        start = at + 1
        at = start + len(header[0])
        messages += found[start:at]
        if found[at] is not end:
            raise ValueError("a body that is not what its header says")
        at += 1
    if at != len(found):
        raise ValueError("more than bodies")
    return headers, lists, messages


def _all_fit(counts: list[int], sizes: list[int], bodies: Sequence[bytes]) -> bool:
    """Tells, of bodies of sizes only and of as many as each other, whether these and the messages are all they hold.

    False: that is for `_fits` to tell, of each.
    """
    count = counts[0]
    if not 0 < count < 24 or len(set(counts)) > 1:
        return False
    whole = map(add, sizes, map(_WIDTHS, map(int.bit_length, sizes)))
    return list(map(sum, zip(*[whole] * count, strict=True), repeat(2))) == list(map(len, bodies))


def _fits(header: list[Any], sizes: list[int], data: bytes) -> bool:
    """Tells whether header and messages are all that a body holds."""
    size = sum(sizes)
    # Without encoding the header anew, where it is as most are.
    if len(header) == 1 and len(sizes) < 24 and 2 + size + sum(map(_WIDTHS, map(int.bit_length, sizes))) == len(data):
        return True
    return len(cbor2.dumps(header)) + size == len(data)


# Bytes of an encoded size, by its length in bits. Of five bits it may be one or two: that never fits.
_WIDTHS = (1, 1, 1, 1, 1, 1 << 64, 2, 2, 2, *[3] * 8, *[5] * 16, *[9] * 32).__getitem__
_INTS = frozenset({int})
_ARRAYS = frozenset({list})


def _extra(header: list[Any]) -> tuple[list[int], bytes | None, list[tuple[int, bool]]]:
    """Reads what a header says besides the sizes."""
    if len(header) > 4:
        raise ValueError("a body with a broken header")
    _, flips, meta, fills = header + [[], [], None, []][len(header) :]
    if not _naturals(flips) or not _naturals(fills) or type(meta) not in (bytes, type(None)):
        raise ValueError("a body with a broken header")
    if len(fills) % 2 or len(fills) // 2 > len(header[0]):
        raise ValueError("a body shorter than its messages")
    return flips, meta, [(index, bool(pin)) for index, pin in zip(fills[::2], fills[1::2], strict=True)]
