"""What one store remembers of its run, and the life of its writes. Pure: no I/O, tested without a server.

The life of a write:

    planned ──send──▶ sent ──apply──▶ applied
                       │ └───refuse─▶ refused: nothing was written
                       └─interrupt──▶ unsettled ──settle──▶ applied, or never
                                   └▶ refused, if no byte of it was sent

`Known.pending` holds a write from before its first byte is sent until its outcome is recorded. So a call that is
cancelled, or a process that loses its connection, leaves the write where the next call finds it.

In the blocking shell, a signal's handler may raise between any two bytecodes. Therefore each transition records the
outcome first and clears `pending` last. A write that is interrupted in between is settled once more, which comes to
the same outcome. And each write clears `result` before all else, because a signal may end it at its next step.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from .attempt import Attempt
from .lineage import Origin
from .log.base import Base
from .log.changes import content_of
from .log.head import Head
from .log.plan import Plan, grow
from .protocol.call import Call
from .protocol.run import RunRef
from .revision import Revision
from .snapshot import ConversationSnapshot, add_origin

Descent = tuple[Origin, int] | None
"""The origin of a snapshot in this run, and the number of leading messages that they share; None: it has none."""


@dataclass(slots=True)
class Write:
    """One write, and what its store remembers once it turns out to have been applied.

    Attributes:
        call: Its request.
        plan: The planned save; None: a delete.
        base: The content that the save goes onto, if it is known.
        snapshot: The snapshot that is saved, if one is.
        pinned: Whether an append's messages are pinned.
        seen: Whether the store has seen the content that the write goes onto.
        before: The store's revision before the write.
        pid: The process that sends it.
    """

    call: Call
    plan: Plan | None
    base: Base | None
    snapshot: ConversationSnapshot[Any] | None
    pinned: bool
    seen: bool
    before: Revision | None
    pid: int


class Known:
    """The memory of one store.

    Args:
        where: The run.

    Attributes:
        head: The head that this store last loaded, read or saved; None: none, or the run is absent.
        base: The newest content that it knows in full.
        pending: The write that has no recorded outcome.
        result: The revision that the last write came to, if it came to one.
    """

    __slots__ = ("_handed_out", "base", "head", "pending", "result", "where")

    def __init__(self, where: RunRef) -> None:
        self.where = where
        self.head: Head | None = None
        self.base: Base | None = None
        self.pending: Write | None = None
        self.result: Revision | None = None
        self._handed_out: tuple[Base, ConversationSnapshot[Any]] | None = None

    # ------------------------------------------------------------------------------------ content

    @property
    def revision(self) -> Revision | None:
        """The revision of `head`."""
        return self.head.revision if self.head is not None else None

    def see(self, base: Base | None) -> None:
        """Remember the newest content; None: the run is absent."""
        self.base = base
        self.head = base.head if base is not None else None

    def snapshot(self, base: Base) -> ConversationSnapshot[Any]:
        """Return a snapshot of some content; the same one again while the content is the same.

        Raises:
            BrokenChainError: The meta does not decode.
        """
        given = self._handed_out
        # A snapshot that was saved to another run since then has that run's revision.
        if given is None or given[0] is not base or given[1].revision != base.head.revision:
            given = self._handed_out = (base, self.new_snapshot(base))
        return given[1]

    def new_snapshot(self, base: Base) -> ConversationSnapshot[Any]:
        """Return a new snapshot of some content of this run, which knows its revision.

        Raises:
            BrokenChainError: The meta does not decode.
        """
        snapshot = content_of(base)
        add_origin(snapshot, self.where.key, Origin(base.head.revision, base))
        return snapshot

    def head_at(self, revision: Revision, descent: Descent) -> Head | None:
        """Return the head at a revision, if this store or the snapshot's origin remembers it."""
        if descent is not None and descent[0].base is not None and descent[0].revision == revision:
            found: Head = descent[0].base.head
            return found
        for head in (self.head, self.base.head if self.base is not None else None):
            if head is not None and head.revision == revision:
                return head
        return None

    def base_at(self, parent: Head | None, descent: Descent) -> tuple[Base | None, int]:
        """Return the content at `parent`, if it is remembered, and how many messages a snapshot shares with it."""
        if parent is None:
            return None, 0
        if descent is not None and descent[0].base is not None and descent[0].revision == parent.revision:
            return descent[0].base, descent[1]
        if self.base is not None and self.base.head.revision == parent.revision:
            return self.base, 0
        return None, 0

    # --------------------------------------------------------------------- the life of a write

    @property
    def unsettled(self) -> Attempt | None:
        """The attempt of the pending write; None if there is none."""
        return self.pending.call.attempt if self.pending is not None else None

    def send(self, write: Write) -> None:
        """Note that a write is about to be sent: from now on it is pending."""
        self.pending = write

    def apply(self, write: Write, revision: Revision | None, *, late: bool = False, report: bool = True) -> None:
        """Record that a write was applied. May be repeated.

        Args:
            write: The write.
            revision: The revision that a save made or a delete deleted; None: a delete found no run.
            late: Whether the store has made other calls since the write was sent.
            report: Whether `resolve()` reports the outcome from now on.
        """
        plan = write.plan
        # A write that is settled late must not take the store back behind what it loaded meanwhile.
        moves = write.seen and (not late or self.revision == write.before)
        if plan is not None and revision is not None:  # only a delete has no plan, or finds no run
            base = grow(write.base, plan, revision, write.pinned)
            if write.snapshot is not None:
                add_origin(write.snapshot, self.where.key, Origin(revision, base))
            if moves:
                self.head = plan.entry.head(revision, plan.meta) if base is None else base.head
                if base is not None:
                    self.base = base
        elif moves:
            self.see(None)
        self.result = revision if report else None
        self.pending = None

    def refuse(self, write: Write) -> None:
        """Record that nothing was written."""
        # The coroutine of a loop that has ended may come here late. By then another write may be pending.
        if self.pending is write:
            self.pending = None

    def interrupt(self, write: Write, sent: bool) -> None:
        """Record that a call ended without an answer: the write is unsettled, unless no byte of it was sent."""
        if not sent:
            self.refuse(write)

    def settle(self, write: Write, revision: Revision | None, *, report: bool) -> None:
        """Record what became of an unsettled write.

        Args:
            write: The write.
            revision: The revision that it made or deleted; None: it was not applied and never will be.
            report: Whether `resolve()` reports the outcome from now on.
        """
        if revision is not None:
            self.apply(write, revision, late=True, report=report)
        else:
            self.result = None
            self.pending = None

    def confirm(self, parent: Head | None, base: Base | None, seen: bool) -> None:
        """Record that the run is still at `parent`, for a write that changes nothing.

        Args:
            parent: The head; None: the run is absent.
            base: The content at `parent`, if it is known.
            seen: Whether this store has seen that content.
        """
        if parent is None:
            self.see(None)
        elif seen:
            self.result = parent.revision
            self.head = parent
            if base is not None:
                self.base = base

    def forget_unsettled(self) -> None:
        """Give up the pending write without knowing its outcome: the damage that hides it is to be deleted."""
        self.pending = None

    def disown(self, pid: int) -> None:
        """Leave a pending write to the process that sent it: after a fork, the parent's call may still run.

        Args:
            pid: This process.
        """
        if self.pending is not None and self.pending.pid != pid:
            self.pending = None
