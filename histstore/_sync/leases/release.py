# Generated from histstore/_async/leases/release.py by tools/unasync.py; do not edit.
"""Releasing leases, and places in the queue, whatever becomes of the task that held them."""

from __future__ import annotations

import functools
import logging
from collections.abc import Callable

from ...errors import HistoryStoreError
from ...protocol import leases as protocol
from ...protocol.call import Call
from ...protocol.lease_record import Acquisition
from ...protocol.leases import Loss, Ring
from ...protocol.run import LeaseToken, RunRef
from ..compat.background import Background, Jobs
from ..transport.runner import Delivery
from .registry import HeldLease, Registry
from .requests import PATIENCE, LeaseRequests

log = logging.getLogger("histstore")

Work = Callable[[], Loss | None]
"""Sends a release. It does not raise, and may run again if it is interrupted."""


class Releaser:
    """Releases leases and abandons acquisitions.

    Args:
        registry: The leases.
        requests: Sends the releases.
        namespace: The keys' namespace.

    Attributes:
        jobs: Sends the releases that no holder waits for.
        unfinished: The releases under way, by holder: the request, and the work that sends it. An interrupted one is
            repeated.
    """

    def __init__(self, registry: Registry, requests: LeaseRequests, namespace: str) -> None:
        self.jobs = Jobs()
        self.unfinished: dict[str, tuple[Call, Work]] = {}
        self._registry = registry
        self._requests = requests
        self._namespace = namespace
        self._unclaimed = Background("histstore-turn-away")

    def begin(self, lease: HeldLease, within: float) -> Work:
        """Mark a lease as released in this process; return the work that releases it on the server.

        Args:
            lease: The lease.
            within: Seconds for which the release is tried, about.
        """
        call = lease.release()
        work = functools.partial(self._send, lease.where, lease.token, call, within)
        with self._registry.guard:
            lease.released = True
            if not self._registry.closed:
                self.unfinished[lease.token.holder] = call, work
        return work

    def abandon(self, acquisition: Acquisition) -> None:
        """Release what the server may know of an acquisition, in the background."""
        registry, holder = self._registry, acquisition.ticket.holder
        call = acquisition.release(ambiguous=acquisition.ambiguous)
        within = acquisition.ticket.ttl_ms / 1000
        work = functools.partial(self._send, acquisition.where, LeaseToken(0, holder), call, within)
        with registry.guard:
            known = acquisition.known and not registry.closed  # `close` has released it
            if known:
                self.unfinished[holder] = call, work
            registry.pending.pop(acquisition, None)
        registry.remove(holder)
        if known:
            self.jobs.start(work)

    def refuse(self, ring: Ring) -> None:
        """Release a lease at once that was handed to a holder who has left: a late copy of its request had queued."""
        registry, holder = self._registry, ring.holder or ""
        with registry.guard:
            lease = registry.held.get(holder)
            held = lease is not None and lease.active
            wanted = registry.closed or held or any(each.ticket.holder == holder for each in registry.pending)
        where = protocol.run_of_ring(self._namespace, ring)
        if where is not None and not wanted:
            self._unclaimed.start(functools.partial(self._refuse, where, holder))

    def _refuse(self, where: RunRef, holder: str) -> None:
        self._send(where, LeaseToken(0, holder), protocol.release(where, holder, late=True), PATIENCE)

    def repeat(self) -> None:
        """Repeat the releases that were interrupted."""
        for _, work in list(self.unfinished.values()):
            work()

    def _send(self, where: RunRef, token: LeaseToken, call: Call, within: float) -> Loss | None:
        """Release a lease, or a place in the queue; return the loss, if another holder has it. Does not raise."""
        registry = self._registry
        if not registry.here:
            return None
        delivery = Delivery()
        loss: Loss | None = None
        try:
            reply = self._requests.send(where, call, min(within, 5 * PATIENCE), delivery)
            loss = protocol.read_loss(where, token, reply)
        except HistoryStoreError as error:
            if not registry.closed:  # `close` releases all of them
                log.warning("a lease of run %r was not given up, and lapses: %s", str(where.run_id), error)
        # In this order: if this is interrupted in between, the release is repeated.
        registry.remove(token.holder)
        self.unfinished.pop(token.holder, None)
        # After a lost reply the loss proves nothing: an earlier copy may have released the lease, and another holder
        # may have it since.
        return None if delivery.ambiguous else loss

    def close(self) -> None:
        """Wait for all releases that `jobs` sends."""
        self.jobs.close()

    def end_refusals(self) -> None:
        """End the releases of leases that were handed to holders who have left."""
        self._unclaimed.end()
