"""The body of a log entry: what the entry adds to its parent.

The first byte of a body names its codec. A plain body is a CBOR sequence (RFC 8742): a header array, then the messages.
Its first byte is therefore the head of an array, 0x80 to 0x9f. Every other first byte is free for codecs that wrap a
plain body, such as compression; `CODECS` lists those that this reader has.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import chain, repeat
from operator import add, is_, itemgetter
from typing import Any, Final

import cbor2

from .cbor import SHORT, UNDEFINED, array_head, load, load_sequence, uint_sizes
from .message_codec import build_messages
from .unreadable import UnknownCodecError

CODECS: Final[dict[int, Callable[[bytes], bytes]]] = {}
"""Functions that turn a body into a plain one, by the body's first byte. They raise ValueError for damaged bytes."""

_PLAIN: Final = frozenset(range(0x80, 0xA0))
_CODEC_OF: Final = itemgetter(0)

# The first bytes of a body that only adds messages, by the number of messages: an array of the array of their sizes.
_FRAMES: Final = tuple(array_head(1) + array_head(count) for count in range(SHORT))

COUNT_BY_FRAME: Final = {frame: count for count, frame in enumerate(_FRAMES)}
"""Number of messages in a plain body that only adds messages, by the body's first two bytes.

Longer bodies, and those that say more, are not listed.
"""


@dataclass(slots=True)
class Body:
    """What an entry adds to its parent.

    Attributes:
        added: Encoded messages to append after the kept ones.
        flips: Indices in the new content whose pin differs from what the cut left. An added message starts unpinned.
        meta: The encoded meta; None: unchanged.
        fills: Index, pin and encoded message of older messages that readers who start at this entry need.
    """

    added: Sequence[bytes | memoryview]
    flips: Sequence[int] = ()
    meta: bytes | None = None
    fills: Sequence[tuple[int, bool, bytes | memoryview]] = ()


def encode_messages(added: Sequence[bytes | memoryview], sizes: Sequence[int]) -> bytes:
    """Return the body that adds encoded messages of these sizes, and nothing else."""
    if len(sizes) < SHORT:
        return b"".join((_FRAMES[len(sizes)], *map(cbor2.dumps, sizes), *added))
    return b"".join((cbor2.dumps([sizes]), *added))


def encode_body(body: Body) -> bytes:
    """Return the plain form: the header `[sizes, flips, meta, fills]` without empty tails, then the messages."""
    sizes = list(map(len, body.added))
    if not (body.flips or body.meta or body.fills):
        return encode_messages(body.added, sizes)
    sizes += [len(part) for _, _, part in body.fills]
    header: list[Any] = [sizes, list(body.flips), body.meta, [v for i, pin, _ in body.fills for v in (i, int(pin))]]
    while len(header) > 1 and not header[-1]:
        header.pop()
    return b"".join((cbor2.dumps(header), *body.added, *(part for _, _, part in body.fills)))


def decode_body(data: bytes) -> Body:
    """Read one body without decoding its messages.

    Raises:
        UnknownCodecError: The body's codec is not in `CODECS`.
        ValueError: The bytes are not a body.
    """
    data = _plain(data)
    header = load(data)
    if type(header) is not list:
        raise ValueError("a body without a header")
    sizes, flips, meta, fills = _fields(header)
    if not _naturals(sizes):
        raise ValueError("a body with a broken header")
    count = len(sizes) - len(fills)
    at = len(data) - sum(sizes)
    if count < 0 or at < 1:
        raise ValueError("a body shorter than its messages")
    view = memoryview(data)
    parts = []
    for size in sizes:
        parts.append(view[at : at + size])
        at += size
    filled = [(index, pin, part) for (index, pin), part in zip(fills, parts[count:], strict=True)]
    return Body(parts[:count], flips, meta, filled)


def _plain(data: bytes) -> bytes:
    """Return the plain form of a body."""
    if not data:
        raise ValueError("a body without a header")
    codec = _CODEC_OF(data)
    if codec in _PLAIN:
        return data
    decoder = CODECS.get(codec)
    if decoder is None:
        raise UnknownCodecError(codec)
    return decoder(data)


@dataclass(frozen=True, slots=True)
class Bodies:
    """What many consecutive entries add.

    Attributes:
        messages: The decoded messages in order. Of each entry, the added ones come before the filled-in ones.
        sizes: Encoded size of each message, in bytes.
        counts: Number of messages of each entry.
        extras: Pin flips, meta, and index and pin of each filled-in message, by the entry's place. Entries that only
            add messages are not listed.
    """

    messages: list[Any]
    sizes: list[int]
    counts: list[int]
    extras: dict[int, tuple[list[int], bytes | None, list[tuple[int, bool]]]]


def decode_bodies(bodies: Sequence[bytes]) -> Bodies:
    """Read many bodies and decode their messages, in one pass over all bytes.

    Raises:
        UnknownCodecError: The codec of a body is not in `CODECS`.
        ValueError: One of them is not a body or holds what is not a message. The error does not say which.
    """
    if not _PLAIN.issuperset(map(_CODEC_OF, filter(None, bodies))):
        bodies = list(map(_plain, bodies))
    try:
        headers, lists, messages = _split(bodies)
        if not (_ARRAYS.issuperset(map(type, headers)) and _ARRAYS.issuperset(map(type, lists))):
            raise ValueError("a body without a header")
        sizes: list[int] = list(chain.from_iterable(lists))
        if not _INTS.issuperset(map(type, sizes)) or min(sizes, default=0) < 0:
            raise ValueError("a body with a broken header")
        counts, simple = list(map(len, lists)), set(map(len, headers)) == {1}
        if not ((simple and _all_fit(counts, sizes, bodies)) or all(map(_fits, headers, lists, bodies))):
            raise ValueError("a body shorter or longer than its messages")
    except (TypeError, LookupError) as error:
        raise ValueError("a body without a header") from error
    extras = {}
    if not simple:
        extras = {place: _extra(header) for place, header in enumerate(headers) if len(header) > 1}
    build_messages(messages)
    return Bodies(messages, sizes, counts, extras)


def _split(bodies: Sequence[bytes]) -> tuple[Sequence[Any], list[Any], list[Any]]:
    """Decode plain bodies into their headers, the sizes in each header, and the messages of all."""
    # The separator is a value that no message holds. A body that ends inside an item swallows it, and is noticed.
    items = load_sequence(bodies, UNDEFINED)
    end = cbor2.undefined
    # Most logs consist of turns of equal length. Then everything stands at regular places, and no loop is needed.
    step = (len(items) - 1) // max(len(bodies), 1)
    if step > 1 and len(items) == 1 + step * len(bodies) and all(map(is_, items[::step], repeat(end))):
        headers = items[1::step]
        lists = list(map(itemgetter(0), headers))
        if set(map(len, lists)) == {step - 2}:
            del items[::step], items[:: step - 1]
            return headers, lists, items
    headers, lists, messages = [], [], []
    at = 1
    for _ in bodies:
        header = items[at]
        headers.append(header)
        lists.append(header[0])
        start = at + 1
        at = start + len(header[0])
        messages += items[start:at]
        if items[at] is not end:
            raise ValueError("a body that is not what its header says")
        at += 1
    if at != len(items):
        raise ValueError("more than bodies")
    return headers, lists, messages


def _all_fit(counts: list[int], sizes: list[int], bodies: Sequence[bytes]) -> bool:
    """Return True if each body is as long as its header and its messages together.

    This works for bodies that hold nothing but messages, and as many as each other. Otherwise it returns False, and
    `_fits` must look at each body.
    """
    count = counts[0]
    if not 0 < count < SHORT or len(set(counts)) > 1:
        return False
    whole = map(add, sizes, uint_sizes(sizes))
    return list(map(sum, zip(*[whole] * count, strict=True), repeat(2))) == list(map(len, bodies))


def _fits(header: list[Any], sizes: list[int], data: bytes) -> bool:
    """Return whether a body is as long as its header and its messages together."""
    size = sum(sizes)
    # Most headers are of this form, and need not be encoded again to learn their length.
    if len(header) == 1 and len(sizes) < SHORT and 2 + size + sum(uint_sizes(sizes)) == len(data):
        return True
    return len(cbor2.dumps(header)) + size == len(data)


_INTS: Final = frozenset({int})
_ARRAYS: Final = frozenset({list})


def _fields(header: list[Any]) -> tuple[Any, list[int], bytes | None, list[tuple[int, bool]]]:
    """Return the four fields of a header. All but the sizes are checked."""
    if not 1 <= len(header) <= 4:
        raise ValueError("a body without a header" if not header else "a body with a broken header")
    sizes, flips, meta, fills = header + [[], [], None, []][len(header) :]
    if not _naturals(flips) or not _naturals(fills) or type(meta) not in (bytes, type(None)):
        raise ValueError("a body with a broken header")
    if len(fills) % 2:
        raise ValueError("a body shorter than its messages")
    return sizes, flips, meta, [(index, bool(pin)) for index, pin in zip(fills[::2], fills[1::2], strict=True)]


def _extra(header: list[Any]) -> tuple[list[int], bytes | None, list[tuple[int, bool]]]:
    """Return what a header says besides the sizes."""
    sizes, flips, meta, fills = _fields(header)
    if len(fills) > len(sizes):
        raise ValueError("a body shorter than its messages")
    return flips, meta, fills


def _naturals(value: Any) -> bool:
    return type(value) is list and all(type(item) is int and item >= 0 for item in value)
