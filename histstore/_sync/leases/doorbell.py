# Generated from histstore/_async/leases/doorbell.py by tools/unasync.py; do not edit.
"""The doorbell: how the waiters of this process hear that a lease was handed to them."""

from __future__ import annotations

import logging
from collections.abc import Callable
from typing import Any, Final

from redis import exceptions as redis_errors

from ...errors import BackendError
from ...protocol.leases import Ring, new_channel, read_ring
from ...protocol.waiting import Schedule
from ..compat import io, tasks
from ..compat.background import Routine
from ..transport.listening import open_listener
from ..transport.runner import Runner
from ..transport.transport import Listener

POLL: Final = 0.25
"""Seconds between two requests of a waiter whose backend has no connection to listen on (max_connections=1)."""

WAKE_LIMIT: Final = 16
"""Number of waiters of one process that a message wakes to ask sooner. Those behind them have time."""

log = logging.getLogger("histstore")


class Waiter(Schedule):
    """One waiter for a run's lease: when it asks, and how it is woken.

    Attributes:
        event: Set when it has to look at its times again, sooner than planned.
    """

    def __init__(self) -> None:
        self.event = tasks.Event()

    def ring(self, expires_in: float, rank: int, *, wake: bool = True) -> None:
        """Have it ask after the lease's expiry, in the order of the queue: see `arm`."""
        if self.arm(io.monotonic(), expires_in, rank, wake=wake):
            self.event.set()


class Doorbell:
    """One subscription for all waiters of a backend, opened when the first of them has to wait.

    Its messages are advice: no waiter enters because of one. A waiter that hears nothing asks when the lease that it
    waits for has expired.

    Args:
        runner: Opens its connection.
        namespace: The start of its channel's name.
        unclaimed: Is called with each message that calls a holder who does not wait here.

    Attributes:
        channel: The channel that this process listens on.
        listening: Whether it listens.
        uncounted: Whether it hears although the server does not count it, because it listens at a replica, say.
    """

    def __init__(self, runner: Runner, namespace: str, unclaimed: Callable[[Ring], None]) -> None:
        self.channel = new_channel(namespace)
        self._runner = runner
        self._unclaimed = unclaimed
        self._waiters: dict[bytes, dict[str, Waiter]] = {}
        self._guard = tasks.Guard()
        self._routine = Routine(self._listen, "histstore-doorbell")
        self._connection: Listener | None = None
        self._tried = tasks.Event()
        self._closing = tasks.Event()
        self._active = False
        self.listening = False
        self.uncounted = False

    def register(self, key: bytes, holder: str) -> Waiter:
        """Return a new waiter for the lease `key`. Call this before the request, because messages may overtake it."""
        waiter = Waiter()
        with self._guard:
            self._waiters.setdefault(key, {})[holder] = waiter
        return waiter

    def unregister(self, key: bytes, holder: str) -> None:
        """Remove a waiter, if it is there."""
        with self._guard:
            waiters = self._waiters.get(key, {})
            waiters.pop(holder, None)
            if not waiters:
                self._waiters.pop(key, None)

    def plan(self, waiter: Waiter, expires_in: float, rank: int) -> None:
        """Plan a waiter's next request by a reply that names the expiry: see `Schedule.expect`."""
        if not self._runner.may_listen:
            expires_in = min(expires_in, POLL)
        with self._guard:
            waiter.expect(io.monotonic(), expires_in, rank)

    def open(self, timeout: float) -> None:
        """Start to listen. Return when the doorbell listens, after a failed try, or after `timeout` seconds."""
        if self.listening:
            return
        if not self._runner.may_listen:
            self.uncounted = True  # a waiter that polls learns of its turn in time, too
            return
        with self._guard:
            if not self._active and not self._closing.is_set():
                self._tried.clear()
                try:
                    self._routine.start()
                except BaseException:
                    self._active = False
                    raise
                self._active = True
        tasks.wait(self._tried, timeout)

    def _listen(self) -> None:
        try:
            self._listen_while_needed()
        finally:
            self._active = False  # whatever ended it, the next waiter starts it again

    def _listen_while_needed(self) -> None:
        while self._still_needed():
            try:
                connection = open_listener(
                    self._runner.subscribe, self._keep, pause=self._pause, unneeded=self._unneeded
                )
                connection.listen(("SUBSCRIBE", self.channel), self._receive)
            except (redis_errors.RedisError, OSError, BackendError) as error:
                log.debug("the doorbell is silent: %s", error)
            finally:
                self.listening = False
                if self._connection is not None:
                    self._connection.close()
                    self._connection = None
                self._tried.set()

    def _keep(self, connection: Listener) -> bool:
        with self._guard:
            self._connection = connection
            return self._closing.is_set()

    def _pause(self, seconds: float) -> None:
        self._tried.set()
        tasks.wait(self._closing, seconds)

    def _still_needed(self) -> bool:
        """Decide whether to continue. A waiter that registers after a "no" starts the doorbell again."""
        with self._guard:
            self._active = not self._unneeded()
            return self._active

    def _unneeded(self) -> bool:
        return self._closing.is_set() or not self._waiters

    def _all(self) -> list[Waiter]:
        return [waiter for waiters in self._waiters.values() for waiter in waiters.values()]

    def _receive(self, message: Any) -> None:
        match message:
            case [b"message", _, data]:
                ring = read_ring(data)
                if ring is not None:
                    self._dispatch(ring)
            case [b"subscribe", _, _]:
                self._subscribed()
            case Exception():
                log.warning("the doorbell stays silent, and waiting for leases takes longer: %s", message)
                self._tried.set()

    def _subscribed(self) -> None:
        missed = self._tried.is_set()
        self.listening, self.uncounted = True, False
        self._tried.set()
        if missed:
            # Messages may have been missed while nobody listened. Each waiter finds out by asking.
            with self._guard:
                for waiter in self._all():
                    waiter.ring(-1.0, 0)

    def _dispatch(self, ring: Ring) -> None:
        with self._guard:
            waiters = self._waiters.get(ring.key, {})
            if ring.holder is None:
                for place, waiter in enumerate(waiters.values()):
                    waiter.ring(ring.expires_in, ring.rank + place, wake=place < WAKE_LIMIT)
                return
            called = waiters.get(ring.holder)
            if called is not None:
                called.call(io.monotonic(), ring.rank)
                called.event.set()
        if called is None:
            self._unclaimed(ring)

    def wake(self) -> None:
        """Wake all waiters, so that they check whether they may still wait."""
        with self._guard:
            for waiter in self._all():
                waiter.event.set()

    def close(self) -> None:
        """Stop listening, and wake all waiters."""
        with self._guard:
            self._closing.set()
            self._tried.set()  # nobody listens any more, so nobody needs to wait for that
        self.wake()
        self._routine.end(self._connection)
