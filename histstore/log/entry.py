"""One entry of a run's log, which is one save."""

from __future__ import annotations

import struct
from typing import Any, Final, NamedTuple

from ..revision import Revision, known_revision
from .head import Head, head_check, timestamp
from .header import Header
from .unreadable import BrokenChainError

ENTRY_OVERHEAD: Final = 100
"""Bytes that an entry takes in the log besides its body, approximately."""


class Entry(NamedTuple):
    """One save in the log. Its content is `parent[:i] + parent[j:]`, and what the body adds.

    It is a tuple because a load makes one for every entry that it reads.

    Attributes:
        version: Its version: 1 for a run's first entry.
        header: Its header.
        body: Its body, in whichever codec the writer chose.
        saved: When the server wrote it, in milliseconds since 1970 as text; empty: not written yet.
    """

    version: int
    header: Header
    body: bytes
    saved: bytes = b""

    @property
    def parent(self) -> bytes:
        """The etag of the entry before it."""
        return self.header.parent

    @property
    def etag(self) -> bytes:
        """The etag that names it."""
        return self.header.etag

    @property
    def checkpoint(self) -> int:
        """The version of the entry where its readers start."""
        return self.header.checkpoint

    def sound(self) -> bool:
        """Return whether the etag matches what the entry holds."""
        return self.header.etag == self.header.link(self.version, self.body)

    def revision(self) -> Revision:
        """Return the revision that this entry made."""
        return self.saved_at(self.saved)

    def saved_at(self, milliseconds: int | bytes | str | None) -> Revision:
        """Return the revision that this entry made, with a time on the server's clock."""
        header = self.header
        return known_revision(
            self.version, header.etag, timestamp(milliseconds), header.fence or None, header.length, header.size
        )

    def head(self, revision: Revision, meta: bytes) -> Head:
        """Return the head that this entry made.

        Args:
            revision: The entry's revision.
            meta: The run's encoded meta.
        """
        header = self.header
        return Head(revision, header.length, header.size, header.checkpoint, header.logged, meta)

    def check(self, meta: bytes) -> bytes:
        """Return the check of that head."""
        header = self.header
        return head_check(
            self.version,
            header.etag,
            meta,
            length=header.length,
            size=header.size,
            checkpoint=header.checkpoint,
            logged=header.logged,
        )


def read_entry(item: Any) -> Entry:
    """Read one stream entry, and prove its own etag.

    Raises:
        BrokenChainError: It is not an entry of histstore, or its bytes are not what was saved.
    """
    version = None
    try:
        stream_id, (_, header, _, saved, _, body) = item
        version = int(stream_id.partition(b"-")[2])
        if type(body) is not bytes:
            raise TypeError
        entry = Entry(version, Header.unpack(header), body, saved)
        sound = stream_id == b"0-%d" % version and entry.sound()
    except (ValueError, TypeError, AttributeError, struct.error):
        raise BrokenChainError(version, "an entry of the log is not readable") from None
    if not sound:
        raise BrokenChainError(version, "an entry's bytes do not match its etag")
    return entry
