"""An entry's header: its fields, their packed form, and the etag over them."""

from __future__ import annotations

import hashlib
import struct
from collections.abc import Iterator, Sequence
from itertools import repeat
from typing import Final, NamedTuple

ABSENT: Final = bytes(16)
"""The parent of a run's first entry."""

# Big-endian. An etag covers the version, then the packed header without the etag itself, then the body.
_NUMBERS: Final = "IIIQQQQ"
_PACKED: Final = struct.Struct(f">16s16s16s{_NUMBERS}")
_LINK: Final = struct.Struct(f">Q16s16s{_NUMBERS}")
# The same two layouts, with the fields after the etag in one piece.
_TAIL_SIZE: Final = _PACKED.size - 32
_PIECES: Final = struct.Struct(f">16s16s{_TAIL_SIZE}s")
_LINK_OF_PIECES: Final = struct.Struct(f">Q16s{_TAIL_SIZE}s")
# Of a packed header: i, j, length and checkpoint.
_CLAIMS: Final = struct.Struct(">48xIII8xQ16x")
_ETAG: Final = hashlib.blake2b(digest_size=16, person=b"histstore1")

SIZE: Final = _PACKED.size
"""Bytes of a packed header."""


class Header(NamedTuple):
    """What an entry says of itself, in the order in which it is packed.

    Everything that a reader relies on is covered by the etag. A header that names the wrong place to start reading is
    as fatal as a damaged message.

    Attributes:
        parent: The etag of the entry before it; `ABSENT` for the first.
        etag: The entry's etag.
        op: 16 random bytes that name the save.
        i: Index of the first message that the entry cuts out of its parent.
        j: Index after the last one.
        length: Number of messages of the content after the entry.
        size: Their encoded bytes.
        checkpoint: The version of the entry where readers start.
        logged: Bytes of the log from that entry on, including `ENTRY_OVERHEAD` for each entry.
        fence: The fencing token of the lease that the save carried; 0: none.
    """

    parent: bytes
    etag: bytes
    op: bytes
    i: int
    j: int
    length: int
    size: int
    checkpoint: int
    logged: int
    fence: int

    @staticmethod
    def sealed(
        version: int,
        body: bytes,
        *,
        parent: bytes,
        op: bytes,
        cut: tuple[int, int],
        length: int,
        size: int,
        checkpoint: int,
        logged: int,
        fence: int,
    ) -> Header:
        """Return the header of a new entry, with the etag that belongs to it.

        Args:
            version: The entry's version.
            body: Its body.
            parent: As in the class, and so are the others.
            op: 16 random bytes that name the save.
            cut: `i` and `j`.
            length: Number of messages.
            size: Their encoded bytes.
            checkpoint: The version of the entry where readers start.
            logged: Bytes of the log from that entry on.
            fence: The fencing token; 0: none.
        """
        i, j = cut
        etag = _digest(_LINK.pack(version, parent, op, i, j, length, size, checkpoint, logged, fence), body)
        # Not `Header(…)`: that runs Python code, and every save would pay for it.
        return tuple.__new__(Header, (parent, etag, op, i, j, length, size, checkpoint, logged, fence))

    @staticmethod
    def unpack(data: bytes) -> Header:
        """Read a packed header.

        Raises:
            struct.error: It has the wrong length.
        """
        return tuple.__new__(Header, _PACKED.unpack(data))

    def pack(self) -> bytes:
        """Return the form that the save script reads and the log keeps."""
        return _PACKED.pack(*self)

    def link(self, version: int, body: bytes) -> bytes:
        """Compute the etag that the header must have: BLAKE2b-128 (RFC 7693) over version, header and body."""
        return _digest(_LINK.pack(version, self[0], *self[2:]), body)


def _digest(link: bytes, body: bytes) -> bytes:
    digest = _ETAG.copy()
    digest.update(link)
    digest.update(body)
    return digest.digest()


def unpack_all(headers: Sequence[bytes]) -> Iterator[Header]:
    """Read many packed headers."""
    return map(tuple.__new__, repeat(Header), _PACKED.iter_unpack(b"".join(headers)))


def claims(headers: Sequence[bytes]) -> Iterator[tuple[int, int, int, int]]:
    """Return `i`, `j`, `length` and `checkpoint` of each packed header."""
    return _CLAIMS.iter_unpack(b"".join(headers))


def are_linked(versions: Sequence[int], headers: Sequence[bytes], bodies: Sequence[bytes]) -> bool:
    """Return whether each entry's etag matches its content, and its parent is the entry before it.

    Works on packed headers of the right size, without making a Header of each: a load of a long log spends most of its
    time on such steps.
    """
    parents, etags, rests = zip(*_PIECES.iter_unpack(b"".join(headers)), strict=True)
    if parents[1:] != etags[:-1]:
        return False
    fresh = _ETAG.copy
    for link, body, etag in zip(map(_LINK_OF_PIECES.pack, versions, parents, rests), bodies, etags, strict=True):
        digest = fresh()
        digest.update(link)
        digest.update(body)
        if digest.digest() != etag:
            return False
    return True
