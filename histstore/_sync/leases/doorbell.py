# Generated from histstore/_async/leases/doorbell.py by tools/unasync.py; do not edit.
"""The doorbell: how those who wait in this process hear that a run was handed to them."""

from __future__ import annotations

import logging
import math
from collections.abc import Callable
from typing import Any, Final

from redis import exceptions as redis_errors

from ...errors import BackendError
from ...policy import listening_options
from ...protocol.leases import Ring, new_channel, read_ring
from ..compat import io, tasks
from ..transport.runner import Runner

MARGIN: Final = 0.002
"""Seconds after the end of a lease at which its waiters ask: the server counts in whole milliseconds."""
STAGGER: Final = 0.005
"""Seconds between the times at which one waiter and the next in the queue ask."""

POLL: Final = 0.25
"""Seconds between two questions of a waiter whose backend has no connection to listen on (max_connections=1)."""

NEAR: Final = 16
"""Waiters of one process that are woken to ask sooner; those behind them have time."""

log = logging.getLogger("histstore")


class Waiter:
    """One who waits for a run's lease.

    Attributes:
        event: Set when it is to look again, sooner than it had thought.
        ask_at: When to ask, if the doorbell has not rung by then.
        turn_at: When to ask because the doorbell said that it is its turn. Nothing that rings after that puts it off.
    """

    __slots__ = ("ask_at", "event", "turn_at")

    def __init__(self) -> None:
        self.event = tasks.Event()
        self.ask_at = math.inf
        self.turn_at = math.inf

    @property
    def due(self) -> float:
        """When to ask."""
        return min(self.ask_at, self.turn_at)

    def asks(self) -> bool:
        """Forgets what rang so far, which is older than the answer that it asks for; returns whether its turn rang."""
        called = self.turn_at < math.inf
        self.ask_at = self.turn_at = math.inf
        return called

    def call(self, rank: int) -> None:
        """It is its turn, after those that were called before it and could not be counted: they may be alive."""
        self.turn_at = min(self.turn_at, io.monotonic() + rank * STAGGER)
        self.event.set()

    def arm(self, expires_in: float, rank: int, wake: bool = True) -> None:
        """Sets when to ask: after the lease's end, in the order of the queue.

        Args:
            expires_in: Seconds until then.
            rank: Waiters that are to ask before.
            wake: Whether to do so also if it is sooner than before, which takes waking up.
        """
        when = io.monotonic() + expires_in + MARGIN + rank * STAGGER
        if when >= self.ask_at:
            self.ask_at = when
        elif wake:
            self.ask_at = when
            self.event.set()


class Doorbell:
    """One subscription for all waiters of a backend, opened when the first of them has to wait.

    What it says is advice: nobody enters by it. A waiter that hears nothing asks when the lease that it waits for has
    ended.

    Args:
        runner: Where its connection comes from.
        namespace: What its channel's name starts with.
        stray: Is told of a turn that is nobody's who waits here.

    Attributes:
        uncounted: Whether it hears though the server does not count it: it listens at a replica, say.
        listening: Whether it hears.
    """

    def __init__(self, runner: Runner, namespace: str, stray: Callable[[Ring], None]) -> None:
        self.channel = new_channel(namespace)
        self._runner = runner
        self._stray = stray
        self._waiters: dict[bytes, dict[str, Waiter]] = {}
        self._guard = tasks.Guard()
        self._routine = tasks.Routine(self._listen, "histstore-doorbell")
        self._connection: io.Connection | None = None
        self._tried = tasks.Event()
        self._closing = tasks.Event()
        self._active = False
        self.listening = False
        self.uncounted = False

    def expect(self, key: bytes, holder: str) -> Waiter:
        """Begins to wait for the lease `key`. To be done before the server is asked: it may answer at once."""
        waiter = Waiter()
        with self._guard:
            self._waiters.setdefault(key, {})[holder] = waiter
        return waiter

    def forget(self, key: bytes, holder: str) -> None:
        """Ends the wait."""
        with self._guard:
            waiters = self._waiters.get(key, {})
            waiters.pop(holder, None)
            if not waiters:
                self._waiters.pop(key, None)

    def told(self, waiter: Waiter, expires_in: float, rank: int) -> None:
        """Takes an answer's word for when the lease ends, unless the doorbell has said sooner since it was asked.

        What rang may be newer than the answer: the lease was given up, say, and handed to one who does not claim it.
        If it is older, the waiter asks once too often.
        """
        if not self._runner.may_listen:
            expires_in = min(expires_in, POLL)
        with self._guard:
            heard = waiter.ask_at
            waiter.arm(expires_in, rank)
            waiter.ask_at = min(waiter.ask_at, heard)

    def open(self, timeout: float) -> None:
        """Returns when the doorbell can be heard, or after a failed try to hear it, or after `timeout` seconds."""
        if self.listening:
            return
        if not self._runner.may_listen:
            self.uncounted = True  # whoever asks so often is told in time, too
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
            self._listen_on()
        finally:
            self._active = False  # whatever ended it, the next who waits starts it anew

    def _listen_on(self) -> None:
        while self._wanted():
            try:
                connection = self._connect()
                connection.listen(("SUBSCRIBE", self.channel), self._heard)
            except (redis_errors.RedisError, OSError, BackendError) as error:
                log.debug("the doorbell is silent: %s", error)
            finally:
                self.listening = False
                if self._connection is not None:
                    self._connection.close()
                    self._connection = None
                self._tried.set()

    def _connect(self) -> io.Connection:
        for attempt in io.Retrying(sleep=self._pause, **listening_options(self._gone)):
            with attempt:
                connection = self._runner.connect()
                with self._guard:
                    # Who closes the doorbell ends the listening by the connection; if it saw none yet, nobody would.
                    self._connection = connection
                    closing = self._closing.is_set()
                if closing:
                    raise BackendError("this backend was closed")
                return connection
        raise AssertionError("tenacity ends with a result or an error")

    def _pause(self, seconds: float) -> None:
        self._tried.set()
        tasks.wait(self._closing, seconds)

    def _wanted(self) -> bool:
        """Decides whether to listen on; whoever begins to wait after a "no" starts it anew."""
        with self._guard:
            self._active = not self._gone()
            return self._active

    def _gone(self) -> bool:
        """Whether nobody is left to listen."""
        return self._closing.is_set() or not self._waiters

    def _all(self) -> list[Waiter]:
        return [waiter for waiters in self._waiters.values() for waiter in waiters.values()]

    def _heard(self, message: Any) -> None:
        match message:
            case [b"message", _, data]:
                ring = read_ring(data)
                if ring is not None:
                    self._ring(ring)
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
            # Whatever rang while nobody listened, each waiter finds out by asking.
            with self._guard:
                for waiter in self._all():
                    waiter.arm(-1.0, 0)

    def _ring(self, ring: Ring) -> None:
        with self._guard:
            waiters = self._waiters.get(ring.key, {})
            if ring.holder is None:
                for place, waiter in enumerate(waiters.values()):
                    waiter.arm(ring.expires_in, ring.rank + place, wake=place < NEAR)
                return
            called = waiters.get(ring.holder)
            if called is not None:
                called.call(ring.rank)
        if called is None:
            self._stray(ring)

    def wake(self) -> None:
        """Wakes all who wait: they have to look whether they still may."""
        with self._guard:
            for waiter in self._all():
                waiter.event.set()

    def close(self) -> None:
        """Stops listening, and wakes all who wait."""
        with self._guard:
            self._closing.set()
            self._tried.set()  # nobody listens any more: who waits for that has waited enough
        self.wake()
        self._routine.end(self._connection)
