# Generated from histstore/_async/leases/renew.py by tools/unasync.py; do not edit.
"""Renewing leases: those that are due at about the same time share one request."""

from __future__ import annotations

import functools
import logging
from typing import Any

from redis import exceptions as redis_errors

from ...errors import HistoryStoreError
from ...protocol.leases import Loss, read_loss
from ..compat import io
from ..compat.background import Alarm, Background
from ..compat.scope import AbandonedBodies
from ..transport.runner import Runner
from .registry import HeldLease, Registry

log = logging.getLogger("histstore")


class Renewer:
    """Renews the leases of a registry in the background, and notices when one has expired.

    Args:
        registry: The leases.
        runner: Sends the renewals.
        abandoned: Bodies whose leases are to be released rather than renewed.

    Attributes:
        alarm: Starts the renewals that are due. To be set for each new lease.
    """

    def __init__(self, registry: Registry, runner: Runner, abandoned: AbandonedBodies) -> None:
        self._registry = registry
        self._runner = runner
        self._abandoned = abandoned
        self.alarm = Alarm(self._renew_due, "histstore-alarm", abandoned.found)
        self._background = Background("histstore-renewal")

    def _renew_due(self) -> float | None:
        """Start the renewals that are due; return when to look again."""
        if self._abandoned.found:
            self._abandoned.collect_in(self._background)
        now = io.monotonic()
        leases = self._idle()
        for lease in leases:
            if lease.expired(now):
                self._registry.lose(lease, Loss(None), if_expired=True)
        due = [lease for lease in leases if lease.loss is None and lease.due(now)]
        for lease in due:
            lease.renewing = True
        if due:
            # In the background: a connection that hangs must not delay the other leases.
            self._background.start(functools.partial(self._renew, due))
        return self._next_time()

    def _idle(self) -> list[HeldLease]:
        """Return the leases that no renewal is under way for."""
        return [lease for lease in self._registry.active() if not lease.renewing]

    def _next_time(self) -> float | None:
        return min((lease.renew_at for lease in self._idle()), default=None)

    def _renew(self, leases: list[HeldLease]) -> None:
        began = io.monotonic()
        shortest = min(lease.until - began if lease.until > began else lease.ttl for lease in leases)
        timeout = max(0.02, min(self._runner.try_timeout, shortest / 2))
        replies: list[Any]
        try:
            try:
                replies = self._runner.run_batch([lease.renewal() for lease in leases], timeout)
            except (redis_errors.RedisError, OSError, HistoryStoreError) as error:
                replies = [error] * len(leases)
            for lease, reply in zip(leases, replies, strict=True):
                self._record(lease, reply, began)
        finally:
            for lease in leases:
                lease.renewing = False
            following = self._next_time()
            if following is not None:
                self.alarm.set(following)

    def _record(self, lease: HeldLease, reply: Any, began: float) -> None:
        """Record the reply to a renewal that was sent at `began`, or the error that came instead."""
        try:
            if isinstance(reply, Exception):
                raise reply
            loss = read_loss(lease.where, lease.token, reply)
        except (redis_errors.RedisError, OSError, HistoryStoreError) as error:
            log.debug("a lease of run %r was not renewed: %s", str(lease.where.run_id), error)
            now = io.monotonic()
            if now >= lease.until:
                self._registry.lose(lease, Loss(None), if_expired=True)
            lease.miss(now)
            return
        if loss is None:
            self._registry.extend(lease, began)
        else:
            self._registry.lose(lease, loss)

    def stop(self) -> None:
        """Start no further renewal."""
        self.alarm.close()

    def end(self) -> None:
        """End the renewals under way."""
        self._background.end()
