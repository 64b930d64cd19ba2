# Generated from histstore/_async/leases/registry.py by tools/unasync.py; do not edit.
"""The leases that one process and event loop holds, acquires and releases."""

from __future__ import annotations

import functools
import os
from dataclasses import dataclass, field
from typing import Any

from ...errors import LockError, name_run
from ...protocol.lease_record import Acquisition, LeaseRecord
from ...protocol.leases import Loss
from ...protocol.run import RunRef
from ..compat import io, tasks
from ..compat.scope import Scope


@dataclass(slots=True, eq=False)
class HeldLease(LeaseRecord):
    """A lease's record, and the body that runs under it.

    Attributes:
        scope: The body.
        over: Set when the lease is lost or released.
    """

    scope: Scope
    over: tasks.Event = field(default_factory=tasks.Event, init=False)


class Registry:
    """All leases of a backend in one process and event loop.

    Args:
        place: The process's id, and the event loop; None in the blocking twin.

    Attributes:
        pid: The process's id; negative in a process that was forked from it.
        loop: The event loop.
        now: Returns the time by which leases expire. Any thread may call it.
        guard: Guards `held`, `pending` and `watchers`, and the lines of acquisitions. A forked child must not take it:
            a thread that is gone there may hold it.
        held: The leases, by holder, until their release has ended.
        pending: The acquisitions under way, each with its scope.
        watchers: Events that are set whenever a lease leaves, or is lost.
        closing: Whether nothing new may begin.
        closed: Whether the backend has released everything, or is about to.
    """

    def __init__(self, place: tuple[int, Any]) -> None:
        self.pid, self.loop = place
        self.now = io.clock()
        self.guard = tasks.Guard()
        self.held: dict[str, HeldLease] = {}
        self.pending: dict[Acquisition, Scope] = {}
        self.watchers: set[tasks.Event] = set()
        self.closing = False
        self.closed = False

    @property
    def inherited(self) -> bool:
        """Whether this process is a fork of the one that the leases belong to."""
        return self.pid != os.getpid()

    @property
    def here(self) -> bool:
        """Whether the leases belong to this process and the event loop that runs here."""
        return self.pid == os.getpid() and tasks.runs(self.loop)

    @property
    def loop_ended(self) -> bool:
        """Whether the event loop has ended that the leases belong to: their bodies never continue."""
        return self.pid == os.getpid() and tasks.has_ended(self.loop)

    def disown(self) -> None:
        """Leave the leases to the parent, in a forked child, even if the child has the parent's id one day."""
        self.pid = -abs(self.pid)

    def elsewhere(self, where: RunRef) -> LockError:
        """Return the error for a use of these leases in another process or event loop."""
        place = f"process {abs(self.pid)}, of which this is a fork" if self.inherited else "another event loop"
        error = LockError(
            f"the lease was entered in {place}, and does not count here: use it there; to lock() the run here, start "
            "this work outside of that lock"
        )
        name_run(error, where.run_id)
        return error

    def active(self, where: RunRef | None = None) -> list[HeldLease]:
        """Return the leases that are neither lost nor released: those of one run, or all."""
        with self.guard:
            return [
                lease
                for lease in self.held.values()
                if lease.active and (where is None or lease.where.key == where.key)
            ]

    def remove(self, holder: str) -> None:
        """Remove a lease, if it is there, and notify the watchers."""
        with self.guard:
            self.held.pop(holder, None)
            for event in self.watchers:
                event.set()

    def lose(self, lease: HeldLease, loss: Loss, *, if_expired: bool = False) -> None:
        """Record that a lease is lost, for good, and interrupt its body.

        Args:
            lease: The lease.
            loss: What is known about the loss.
            if_expired: Whether to do so only if its time is over: a renewal may have succeeded meanwhile.
        """
        with self.guard:
            if not lease.active or (if_expired and lease.until > self.now()):
                return
            lease.loss = loss
        tasks.run_in(self.loop, functools.partial(self._interrupt, lease))

    def _interrupt(self, lease: HeldLease) -> None:
        with self.guard:
            for event in self.watchers:
                event.set()
        lease.over.set()
        lease.scope.interrupt()

    def extend(self, lease: HeldLease, began: float) -> None:
        """Record that a renewal succeeded which was sent at `began`. A lease that is lost by now stays lost."""
        with self.guard:
            if lease.active:
                lease.extend(began)
