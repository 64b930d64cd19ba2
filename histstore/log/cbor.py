"""CBOR (RFC 8949) around cbor2: array heads written by hand, and a strict reader.

cbor2 spends more time on a short list than on the items in it. Therefore the short arrays of a save are put together
here from heads, and cbor2 encodes only the items. The tests compare every head with what cbor2 writes.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Any, Final

import cbor2

from ..values.frozen import OpenDict

SHORT: Final = 24
"""Arrays with fewer items than this have a head of one byte."""

UNDEFINED: Final = b"\xf7"
"""The encoded value `undefined`, which no message holds."""


def array_head(count: int) -> bytes:
    """Return the first bytes of an array with `count` items."""
    if count < SHORT:
        return bytes((0x80 + count,))
    width = next(width for width in (1, 2, 4, 8) if count < 1 << 8 * width)
    return bytes((0x97 + width.bit_length(),)) + count.to_bytes(width, "big")


# Encoded bytes of a natural number, by its length in bits. A number of five bits takes one byte or two: its entry is a
# size that no sum matches.
_UINT_SIZES: Final = (1, 1, 1, 1, 1, 1 << 64, 2, 2, 2, *[3] * 8, *[5] * 16, *[9] * 32).__getitem__


def uint_sizes(numbers: Iterable[int]) -> Iterator[int]:
    """Return how many bytes each number below 2**64 takes when it is encoded.

    The answer for 16 to 31 is a size that is far too large. Check by encoding when the sizes do not add up.
    """
    return map(_UINT_SIZES, map(int.bit_length, numbers))


def _refuse(_value: Any, _immutable: bool = False) -> Any:
    raise ValueError("a tag that histstore never writes")


# All tags that cbor2 interprets, except big integers (2 and 3). A body holds JSON values only.
_NO_TAGS: Final[dict[int, Callable[..., Any]]] = dict.fromkeys(
    [0, 1, 4, 5, 25, 28, 29, 30, 35, 36, 37, 52, 54, 100, 256, 258, 260, 261, 1004, 43000, 55799], _refuse
)

# cbor2 calls its hook with a dict and a flag. A property's getter accepts these two arguments and passes on the first.
# So each dict becomes an OpenDict without running any Python code.
_OPENED: Final[Callable[..., Any]] = property(OpenDict).__get__


def load(data: bytes, hook: Callable[..., Any] | None = None) -> Any:
    """Decode one item.

    Args:
        data: Bytes that begin with the encoded item. Whatever follows it is ignored.
        hook: What cbor2 calls with each dict.

    Raises:
        ValueError: The bytes do not begin with an item, or it holds a tag or a duplicate key.
    """
    try:
        return cbor2.loads(
            data, tag_hook=_refuse, object_hook=hook, semantic_decoders=_NO_TAGS, allow_duplicate_keys=False
        )
    except (cbor2.CBORError, ValueError, TypeError, OverflowError, RecursionError, MemoryError) as error:
        raise ValueError(f"not CBOR of ours: {type(error).__name__}") from error


def load_sequence(parts: Sequence[bytes | memoryview], separator: bytes = b"") -> list[Any]:
    """Decode the items of all `parts` in one pass. Each dict becomes an OpenDict.

    Args:
        parts: Encoded items.
        separator: An encoded item to put before each part and after the last one.

    Raises:
        ValueError: The joined bytes are not a sequence of items.
    """
    items: list[Any] = load(separator.join((b"\x9f", *parts, b"\xff")), _OPENED)
    return items
