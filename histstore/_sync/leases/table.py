# Generated from histstore/_async/leases/table.py by tools/unasync.py; do not edit.
"""All leases of a backend in one process and event loop: acquire, hold, lose, release, close."""

from __future__ import annotations

import logging
import math
import os
from collections.abc import Sequence
from contextlib import ExitStack
from typing import Any, Protocol

from ...errors import CorruptSnapshotError, HistoryStoreError
from ...policy import RetryPolicy
from ...protocol import leases as protocol
from ...protocol.leases import BROKEN, CLOSED, DELETED, Loss, Occupancy
from ...protocol.run import RunRef
from ..compat import io, tasks
from ..compat.scope import AbandonedBodies
from ..transport.runner import Delivery, Runner
from .acquire import Acquirer
from .doorbell import Doorbell
from .registry import HeldLease, Registry
from .release import Releaser
from .renew import Renewer
from .requests import PATIENCE, LeaseRequests

log = logging.getLogger("histstore")


class HasLeases(Protocol):
    """A seat, as the table of leases sees it."""

    leases: LeaseTable


class Tables(Protocol):
    """The tables of one backend, one for each event loop of this process."""

    def here(self) -> HasLeases:
        """Return the seat of the event loop that runs here."""

    def leases(self) -> list[LeaseTable]:
        """Return the tables of all event loops of this process."""


class LeaseTable:
    """All leases of a backend in one process and event loop, held and waited for.

    Args:
        runner: Sends calls.
        namespace: The keys' namespace.
        policy: When a request about a lease is tried again.
        tables: The backend's tables, this one among them.
        place: The process's id, and the event loop; None in the blocking twin.

    Attributes:
        tables: The same tables.
        registry: The leases and acquisitions.
        requests: Sends requests about leases.
        releaser: Releases leases.
        doorbell: Calls the waiters.
        abandoned: The bodies that have ended without releasing their lease.
        renewer: Renews leases in the background.
        acquirer: Acquires leases.
    """

    def __init__(
        self, runner: Runner, namespace: str, policy: RetryPolicy, tables: Tables, place: tuple[int, Any]
    ) -> None:
        self.tables = tables
        self.registry = Registry(place)
        self.requests = LeaseRequests(runner, policy)
        self.releaser = Releaser(self.registry, self.requests, namespace)
        self.doorbell = Doorbell(runner, namespace, self.releaser.refuse)
        self.abandoned = AbandonedBodies(self._release_abandoned)
        self.renewer = Renewer(self.registry, runner, self.abandoned)
        self.acquirer = Acquirer(
            self.registry, self.requests, self.doorbell, self.renewer.alarm.set, self.releaser.abandon
        )

    def collect_abandoned(self) -> None:
        """Release the leases of bodies that have ended without doing so, if there are any."""
        if self.abandoned.found:
            self.abandoned.collect()

    def _release_abandoned(self) -> None:
        """Release the leases of abandoned bodies, and repeat releases that were interrupted."""
        registry = self.registry
        with registry.guard:
            leases = [lease for lease in registry.held.values() if lease.scope.abandoned]
            acquisitions = [each for each, scope in registry.pending.items() if scope.abandoned]
        for acquisition in acquisitions:
            self.acquirer.give_up(acquisition)
        for lease in leases:
            self.releaser.begin(lease, PATIENCE)
            registry.remove(lease.token.holder)
            lease.over.set()
        self.releaser.repeat()

    def release(self, lease: HeldLease, error: BaseException | None) -> None:
        """Release a lease. If this is cancelled, it raises at once, and the lease is released all the same.

        Args:
            lease: The lease. If the server says that it was lost, its record says so afterwards.
            error: The error that ended the body.
        """
        registry = self.registry
        if registry.pid != os.getpid():
            # A forked child leaves the body, but the lease is its parent's. A thread that is gone in the child may
            # hold the locks here.
            lease.released = True
            return
        work = self.releaser.begin(lease, max(lease.remaining(registry.now()), PATIENCE))
        try:
            if registry.closed:
                registry.remove(lease.token.holder)
                return
            loss = lease.scope.finish(work, self.releaser.jobs, error)
            if loss is not None:
                lease.add_loss(loss)
        finally:
            lease.over.set()

    # ------------------------------------------------------------------------- without their holders

    def break_lease(self, where: RunRef, policy: RetryPolicy | None) -> bool:
        """Fence the holder of a run, or the last one, and serve the next waiter; return whether there was a holder."""
        occupancy = self._occupancy(where, policy)
        # The release names the holder, so that a late copy does not break the lease of the next one. It is sent even if
        # there seems to be no holder: a server that may not be written to, a replica say, does not know the holder.
        call = protocol.release(where, occupancy.holder, force=True)
        self.requests.send(where, call, math.inf, Delivery(), policy)
        for table in self.tables.leases():
            lease = table.registry.held.get(occupancy.holder)
            if lease is not None:
                # Otherwise the body would learn of it only from the next renewal.
                table.registry.lose(lease, Loss(None, BROKEN))
        return bool(occupancy.holder)

    def revoke(self, leases: Sequence[HeldLease]) -> None:
        """Interrupt the bodies of leases whose run was deleted; otherwise they would learn of it from a renewal."""
        for lease in leases:
            self.registry.lose(lease, Loss(None, DELETED))

    def serve(self, where: RunRef, policy: RetryPolicy | None) -> None:
        """Serve the next waiter of a run that was deleted. Does not raise, because waiters come without it too."""
        try:
            try:
                waiting = self._occupancy(where, policy).waiting
            except CorruptSnapshotError:
                # The delete has left only the queue alone. If it is of a foreign type, it is deleted here.
                self.requests.send(where, protocol.drop_queue(where), math.inf, Delivery(), policy)
                return
            if waiting:
                self.requests.send(where, protocol.release(where, ""), math.inf, Delivery(), policy)
        except HistoryStoreError as error:
            log.warning("whoever waits for run %r comes later: %s", str(where.run_id), error)

    def _occupancy(self, where: RunRef, policy: RetryPolicy | None) -> Occupancy:
        reply = self.requests.send(where, protocol.occupancy(where), math.inf, Delivery(), policy)
        return protocol.read_occupancy(where, reply)

    # -------------------------------------------------------------------------------------- closing

    def drain(self, seconds: float) -> None:
        """Let nothing new begin, and wait until no lease is held, for `seconds` at most.

        Lost leases are not waited for. If the caller itself is in all the leases that are left, they are not either.
        """
        registry = self.registry
        end, caller, event = io.monotonic() + seconds, tasks.caller(), tasks.Event()
        with registry.guard:
            registry.closing = True
            registry.watchers.add(event)
        self.doorbell.wake()
        try:
            while True:
                event.clear()  # before the look, so that a lease that leaves after the look is noticed
                self.collect_abandoned()  # nobody waits for a body that is gone
                with registry.guard:
                    held = [lease for lease in registry.held.values() if lease.loss is None]
                left = end - io.monotonic()
                if left <= 0 or all(lease.scope.caller == caller for lease in held):
                    return
                tasks.wait(event, left)
        finally:
            with registry.guard:
                registry.watchers.discard(event)

    def close(self) -> None:
        """Release all leases and abandon all acquisitions, and wait until that is done."""
        registry = self.registry
        self.collect_abandoned()
        with registry.guard:
            registry.closing = registry.closed = True
            held = registry.active()
            pending = [each for each in registry.pending if each.known]
        # A request of an acquisition may be under way just now, so each release counts as ambiguous.
        calls = [lease.release() for lease in held] + [each.release(ambiguous=True) for each in pending]
        for lease in held:
            # The body continues without its lease, which nobody renews from now on.
            registry.lose(lease, Loss(None, CLOSED))
        try:
            if calls:
                self.requests.send_releases(calls)
        finally:
            self._end_work()

    def finish_releases(self) -> None:
        """Wait a moment for the releases under way, because the event loop is about to end."""
        self.releaser.jobs.wait(PATIENCE)

    def _end_work(self) -> None:
        self.renewer.stop()
        # Each of these runs, even if this is cancelled meanwhile.
        with ExitStack() as stack:
            stack.callback(self.releaser.close)
            stack.callback(self.releaser.end_refusals)
            stack.callback(self.renewer.end)
            stack.callback(self.doorbell.close)

    # ----------------------------------------------------------------------------- ended event loops

    def disown(self) -> None:
        """Leave all leases to the parent process: this one was forked from it."""
        self.registry.disown()
