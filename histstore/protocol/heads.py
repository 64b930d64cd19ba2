"""A run's head as it is read from the server, and the proofs that head and log belong together."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Final

from ..errors import UnsupportedVersionError
from ..log.base import Base
from ..log.entry import Entry
from ..log.head import Head, timestamp
from ..log.replay import replay
from ..log.unreadable import FORMAT, BrokenChainError
from ..revision import Revision
from .replies import VERSIONS, number, number_or_none

FIELDS: Final = (
    "format", "version", "etag", "length", "size", "checkpoint", "logged", "check", "first", "saved",
)  # fmt: skip
"""The fields that `read_raw_head` reads, in order."""


@dataclass(slots=True)
class RawHead:
    """A run's head as it was read: its fields have the right form, but are not proven yet.

    Attributes:
        version: The newest version.
        etag: Its etag.
        length: Number of messages.
        size: Their encoded bytes.
        checkpoint: The version of the entry where readers start.
        logged: Bytes of the log from that entry on.
        check: The digest over the head.
        first: The version of the oldest entry in the log.
        saved: When the newest save was written, in milliseconds since 1970 as text.
    """

    version: int
    etag: bytes
    length: int
    size: int
    checkpoint: int
    logged: int
    check: bytes
    first: int
    saved: bytes

    def head(self, meta: bytes, fence: int | None = None) -> Head:
        """Return the head, proven against its check.

        Raises:
            BrokenChainError: It is not the head that was saved.
        """
        revision = Revision(self.version, self.etag, timestamp(self.saved), fence, self.length, self.size)
        head = Head(revision, self.length, self.size, self.checkpoint, self.logged, meta)
        if head.check() != self.check:
            raise BrokenChainError(self.version, "the head does not match its check")
        return head

    def made_by(self, entry: Entry, meta: bytes) -> bool:
        """Return whether this is the head that an entry made, given the run's encoded meta."""
        header = entry.header
        own = self.version, self.etag, self.length, self.size, self.checkpoint, self.logged
        of_entry = entry.version, header.etag, header.length, header.size, header.checkpoint, header.logged
        return own == of_entry and entry.check(meta) == self.check


def read_raw_head(fields: Sequence[Any]) -> RawHead | None:
    """Read the values of `FIELDS`. Return None if the run is absent.

    Raises:
        BrokenChainError: The head is not readable.
        UnsupportedVersionError: A newer format wrote it.
    """
    format_, version, etag, length, size, checkpoint, logged, check, first, saved = fields
    if etag is None and version is None:
        return None
    if format_ != b"1" and (number_or_none(format_) or 0) > FORMAT:
        raise UnsupportedVersionError(number(format_), FORMAT)
    try:
        if etag is None or version is None or len(etag) != 16 or format_ != b"1":
            raise ValueError("not a head")
        raw = RawHead(
            int(version),
            bytes(etag),
            int(length),
            int(size),
            int(checkpoint),
            int(logged),
            bytes(check),
            int(first),
            saved,
        )
        if not 0 < raw.version < VERSIONS or min(raw.length, raw.size, raw.checkpoint, raw.logged, raw.first) < 0:
            raise ValueError("out of range")
        if max(raw.length, raw.size, raw.checkpoint, raw.logged, raw.first) >= 2**63:
            raise ValueError("out of range")
    except (TypeError, ValueError):
        raise BrokenChainError(number_or_none(version, VERSIONS), "the head is not readable") from None
    return raw


def same_head(raw: RawHead, base: Base) -> bool:
    """Return whether `base` is the content at a head.

    Raises:
        BrokenChainError: The etag is the base's, but the rest of the head is not.
    """
    if raw.etag != base.head.etag:
        return False
    raw.head(base.head.meta)
    if raw.version != base.head.version:
        raise BrokenChainError(raw.version, "the head's version is not its etag's")
    return True


def fold(raw: RawHead, entries: Sequence[Entry], base: Base | None) -> Base:
    """Return the content at a head, from the entries after `base` or from the head's checkpoint on.

    Raises:
        BrokenChainError: Entries and head do not prove each other.
        UnsupportedVersionError: A body is in a codec that this reader does not have.
    """
    if base is None and entries and entries[0].version < raw.checkpoint:
        entries = [entry for entry in entries if entry.version >= raw.checkpoint]
    if not entries or entries[-1].version != raw.version or entries[-1].etag != raw.etag:
        raise BrokenChainError(raw.version, "the head names an entry that the log does not end with")
    base_at_head = replay(entries, base)
    if (
        base_at_head.head.checkpoint != raw.checkpoint
        or base_at_head.head.length != raw.length
        or base_at_head.head.size != raw.size
    ):
        raise BrokenChainError(raw.version, "the head does not say what the newest entry says")
    raw.head(base_at_head.head.meta)
    return base_at_head
