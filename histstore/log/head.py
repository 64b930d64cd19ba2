"""The head of a run: its newest revision, and what the next save must know of it."""

from __future__ import annotations

import hashlib
import struct
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Final

from ..messages import JSONValue
from ..revision import Revision
from . import message_codec
from .unreadable import BrokenChainError

_CHECK: Final = struct.Struct(">Q16sQQQQ")
_DIGEST: Final = hashlib.blake2b(digest_size=8, person=b"histstore1")
_EPOCH: Final = datetime(1970, 1, 1, tzinfo=UTC)


# Not frozen: a save makes one, and freezing would take half of the time that making it takes. Nothing changes it.
@dataclass(slots=True)
class Head:
    """The newest revision of a run, and what the next save must know of it.

    Attributes:
        revision: The revision.
        length: Number of messages.
        size: Their encoded bytes.
        checkpoint: The version of the entry where readers start.
        logged: Bytes of the log from that entry on, including `ENTRY_OVERHEAD` for each entry.
        meta: The encoded meta.
    """

    revision: Revision
    length: int
    size: int
    checkpoint: int
    logged: int
    meta: bytes

    @property
    def version(self) -> int:
        """The version of the newest revision."""
        return self.revision.version

    @property
    def etag(self) -> bytes:
        """The etag of the newest revision."""
        return self.revision.etag

    def check(self) -> bytes:
        """Return the head's check (see `head_check`)."""
        return head_check(
            self.version,
            self.etag,
            self.meta,
            length=self.length,
            size=self.size,
            checkpoint=self.checkpoint,
            logged=self.logged,
        )


def head_check(
    version: int, etag: bytes, meta: bytes, *, length: int, size: int, checkpoint: int, logged: int
) -> bytes:
    """Return 8 bytes of digest over a head. They keep a save from building on a damaged head."""
    digest = _DIGEST.copy()
    digest.update(_CHECK.pack(version, etag, length, size, checkpoint, logged) + meta)
    return digest.digest()


def timestamp(milliseconds: int | bytes | str | None) -> datetime | None:
    """Return the UTC time of the server's milliseconds since 1970. Return None if they are missing or no time."""
    try:
        return _EPOCH + timedelta(0, 0, 1000 * int(milliseconds)) if milliseconds else None
    except (TypeError, ValueError, OverflowError):
        return None


def read_meta(data: bytes) -> Mapping[str, JSONValue]:
    """Decode a run's meta.

    Raises:
        BrokenChainError: The bytes are not a mapping of JSON values.
    """
    try:
        meta: Mapping[str, JSONValue] = message_codec.decode_meta(data)
    except ValueError as error:
        raise BrokenChainError(None, str(error)) from error
    return meta
