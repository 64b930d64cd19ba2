"""From the reply to a read to a run's content: what the entries prove, and what to read instead. No I/O."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from ..errors import RevisionGoneError
from ..log.base import Base
from ..log.columns import read_entries, read_log, since
from ..log.entry import Entry, read_entry
from ..log.head import Head
from ..log.replay import replay
from ..log.unreadable import BrokenChainError
from ..revision import Revision
from .heads import RawHead, fold, same_head
from .reads import Loaded


class Doubt:
    """Decides whether a failed proof is damage: it is when two reads of the same head both fail.

    A single failure proves nothing. Reads outside of a transaction may see two moments of the run.

    Attributes:
        etag: The etag of the head that the current read found; empty while it has found none.
        error: The error of the latest read.
    """

    __slots__ = ("_previous", "error", "etag")

    def __init__(self) -> None:
        self.etag = b""
        self.error: BrokenChainError | None = None
        self._previous: bytes | None = None

    def begin(self) -> None:
        """Begin another read."""
        self.etag = b""

    def confirmed(self, error: BrokenChainError) -> bool:
        """Note that the current read failed; return whether the one before failed at the same head."""
        known = self.error is not None and self._previous == self.etag
        self.error, self._previous = error, self.etag
        return known


def check_absent(loaded: Loaded) -> None:
    """Check that a run without a head has no log either.

    Raises:
        BrokenChainError: It has.
    """
    if loaded.items:
        raise BrokenChainError(None, "there is a log, but no head")


def proven_head(loaded: Loaded) -> Head | None:
    """Return the head that `head_only` read, proven by its check; None if the run is absent.

    Raises:
        BrokenChainError: The head is not the one that was saved, or the log's length disagrees with it.
    """
    (entries,) = loaded.items
    raw = loaded.head
    if raw is None:
        if entries:
            raise BrokenChainError(None, "there is a log, but no head")
        return None
    if entries != raw.version - raw.first + 1:
        raise BrokenChainError(raw.version, "the log does not hold what the head says")
    return raw.head(loaded.meta or b"")


def replayed(head: RawHead, items: Sequence[Any]) -> Base:
    """Return the content at a head, from the log that was read with it."""
    return fold(head, read_log(since(items, head.checkpoint)), None)


def advanced(loaded: Loaded, base: Base) -> Base | None:
    """Return the newest content, from `base` and the entries read after it; None if a full read is needed.

    Raises:
        BrokenChainError: Head and entries do not prove each other.
    """
    head = loaded.head
    if head is None:
        return None
    if same_head(head, base):
        return base
    entries = read_entries(loaded.items)
    if entries and entries[0].parent == base.head.etag:
        return fold(head, entries, base)
    if entries and entries[0].version <= head.checkpoint:
        return fold(head, entries, None)
    return None


def past(loaded: Loaded, at: int | Revision, version: int) -> Base:
    """Return the content at a past version, from the log up to it.

    Args:
        loaded: The head and the entries up to `version`.
        at: What the caller asked for: the version, or a revision that has it.
        version: The version.

    Raises:
        RevisionGoneError: The run does not have this version or revision any more, or never had it.
        BrokenChainError: The log does not prove the content.
    """
    head, items = loaded.head, loaded.items
    if head is None:
        check_absent(loaded)
        raise RevisionGoneError(at, None, None)
    if not head.first <= version <= head.version:
        raise RevisionGoneError(at, head.first, head.version)
    last = read_entry(items[-1]) if items else None
    if last is None or last.version != version:
        raise BrokenChainError(version, "an entry is missing")
    if isinstance(at, Revision) and last.etag != at.etag:
        raise RevisionGoneError(at, head.first, head.version)
    if last.checkpoint < head.first:
        raise RevisionGoneError(at, head.first, head.version, reason="trimmed")
    if len(items) < version - last.checkpoint + 1:
        raise BrokenChainError(version, "an entry is missing")
    return replay(read_log(items[last.checkpoint - version - 1 :]))


def follows(entries: Sequence[Entry], after: Entry | None) -> bool:
    """Return whether `entries`, newest first, continue the log downwards from `after`; None: from its end."""
    if not entries or after is None:
        return True
    return (entries[0].version, entries[0].etag) == (after.version - 1, after.parent)


def check_held(loaded: Loaded, entry: Entry) -> None:
    """Check that the log still holds `entry`, which was read before.

    Raises:
        RevisionGoneError: It does not: the run was deleted and made anew, or trimmed.
        BrokenChainError: The log is damaged.
    """
    held = read_entries(loaded.items)
    if not held or held[0].etag != entry.etag:
        head = loaded.head
        raise RevisionGoneError(entry.revision(), head.first if head else None, head.version if head else None)
