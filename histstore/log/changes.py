"""The changes that a store writes. Each knows how to plan itself onto the content that it finds. Pure."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from typing import Any

from ..arguments import not_a_snapshot
from ..errors import SnapshotError
from ..messages import JSONValue, freeze_messages
from ..revision import Keep
from ..snapshot import ConversationSnapshot, from_parts, parts, slice_bounds
from ..values.frozen import freeze_meta
from .base import Base
from .head import Head, read_meta
from .message_codec import NO_META, encode_meta
from .plan import Plan, Target, Writer, plan_append, plan_save, worth_a_checkpoint


class Change(ABC):
    """What a write does to a run.

    Attributes:
        snapshot: The snapshot that is saved; None if the change is of another kind.
        pinned: Whether the messages that an append adds are pinned.
        needs_base: Whether the content at the parent must be known.
        replaces_all: Whether the run holds only what the writer knows afterwards, whatever it held before.
        drops_history: Whether past revisions are trimmed with the write.
    """

    __slots__ = ()

    snapshot: ConversationSnapshot[Any] | None = None
    pinned = False
    needs_base = False
    replaces_all = False
    drops_history = False

    @abstractmethod
    def plan(self, parent: Head | None, base: Base | None, shared: int, writer: Writer) -> Plan | None:
        """Plan the change; None if it changes nothing.

        Args:
            parent: The head that it goes onto; None: the run is absent.
            base: The content at `parent`, if it is known.
            shared: Leading messages that the change has in common with `base`, at least.
            writer: The write's own marks.

        Raises:
            SnapshotTooLargeError: The new content would be too large.
            BrokenChainError: The run's meta does not decode.
        """


class Replace(Change):
    """Save a snapshot: the run then holds exactly that.

    Args:
        snapshot: The snapshot.

    Raises:
        SnapshotError: It is none.
    """

    __slots__ = ("snapshot",)

    replaces_all = True
    snapshot: ConversationSnapshot[Any]

    def __init__(self, snapshot: ConversationSnapshot[Any]) -> None:
        if not isinstance(snapshot, ConversationSnapshot):
            raise not_a_snapshot(snapshot)
        self.snapshot = snapshot

    def plan(self, parent: Head | None, base: Base | None, shared: int, writer: Writer) -> Plan | None:
        """Plan the save."""
        messages, pins, length = parts(self.snapshot)
        return plan_save(parent, base, Target(messages, pins, length, self.snapshot.meta, shared), writer)


class Append(Change):
    """Add messages at the end. The content need not be known.

    Args:
        messages: The messages.
        pinned: Whether they are pinned.
        meta: The run's new meta; KEEP: unchanged.

    Raises:
        SnapshotError: A message or the meta cannot be saved.
    """

    __slots__ = ("_messages", "_meta", "pinned")

    def __init__(self, messages: Sequence[Any], pinned: bool, meta: Mapping[str, JSONValue] | Keep) -> None:
        self._messages = freeze_messages(messages)
        if type(pinned) is not bool:
            raise SnapshotError("pinned is True or False")
        self.pinned = pinned
        self._meta = None if isinstance(meta, Keep) else encode_meta(freeze_meta(meta))

    def plan(self, parent: Head | None, base: Base | None, shared: int, writer: Writer) -> Plan | None:
        """Plan the append, as a checkpoint if the log holds more dead bytes than live ones."""
        messages, meta = self._messages, self._meta
        if parent is None and not messages and meta in (None, NO_META):
            return None  # nothing is added to a run that is absent: that makes no empty run
        if base is None or parent is None or not worth_a_checkpoint(parent):
            return plan_append(parent, messages, self.pinned, meta, writer)
        target = Target(
            [*base.messages(), *messages],
            [*base.pins[: base.length], *([self.pinned] * len(messages))],
            base.length + len(messages),
            read_meta(parent.meta if meta is None else meta),
        )
        return plan_save(parent, base, target, writer)


class Splice(Change):
    """Put messages in place of others.

    Args:
        start: List-slice index of the first message to replace.
        stop: List-slice index after the last one.
        messages: The new messages.
        pinned: Whether they are pinned.
        meta: The run's new meta; KEEP: unchanged.

    Raises:
        SnapshotError: A message or the meta cannot be saved, or an index is none.
    """

    __slots__ = ("_messages", "_meta", "_pinned", "_start", "_stop")

    needs_base = True

    def __init__(
        self,
        start: int | None,
        stop: int | None,
        messages: Sequence[Any],
        pinned: bool,
        meta: Mapping[str, JSONValue] | Keep,
    ) -> None:
        self._messages = freeze_messages(messages)
        self._meta = None if isinstance(meta, Keep) else freeze_meta(meta)
        slice_bounds(start, stop, 0)
        self._start, self._stop, self._pinned = start, stop, pinned

    def plan(self, parent: Head | None, base: Base | None, shared: int, writer: Writer) -> Plan | None:
        """Plan the splice of the content at `parent`."""
        before = ConversationSnapshot[Any]() if base is None else content_of(base)
        after = before.splice(self._start, self._stop, *self._messages, pinned=self._pinned)
        if self._meta is not None:
            after = after.with_meta(self._meta)
        messages, pins, length = parts(after)
        if parent is None and not length and not after.meta:
            return None
        return plan_save(parent, base, Target(messages, pins, length, after.meta), writer)


class Rewrite(Change):
    """Write the same content again as a full checkpoint, and trim all that came before it."""

    __slots__ = ()

    needs_base = True
    drops_history = True

    def plan(self, parent: Head | None, base: Base | None, shared: int, writer: Writer) -> Plan | None:
        """Plan the checkpoint; None if the run is absent."""
        if base is None:
            return None
        target = Target(base.messages(), base.pins, base.length, meta_of(base))
        return plan_save(base.head, base, target, writer, full=True)


def meta_of(base: Base) -> Mapping[str, JSONValue]:
    """Return the meta of some content, decoded once.

    Raises:
        BrokenChainError: It does not decode.
    """
    if base.mapping is None:
        base.mapping = read_meta(base.head.meta)
    return base.mapping


def content_of(base: Base) -> ConversationSnapshot[Any]:
    """Return a new snapshot of some content. It does not know yet which revision it is.

    Raises:
        BrokenChainError: The meta does not decode.
    """
    mapping = meta_of(base)
    return from_parts(base.messages(), base.pins[: base.length], mapping)
