"""Acquiring a lease: asking the server, waiting in line, and leaving nothing behind on failure."""

from __future__ import annotations

import math
from collections.abc import Callable

from ...errors import (
    BackendConfigError,
    BackendError,
    BackendUnavailableError,
    CorruptSnapshotError,
    LockTimeoutError,
)
from ...policy import RetryPolicy
from ...protocol import leases as protocol
from ...protocol.lease_record import Acquisition
from ...protocol.leases import Granted, Taken, Ticket, new_holder
from ...protocol.run import LeaseToken, RunRef
from ..compat import io, tasks
from ..compat.scope import Scope
from ..transport.runner import Delivery
from .doorbell import Doorbell, Waiter
from .registry import HeldLease, Registry
from .requests import LeaseRequests

UNLIMITED = 1e9
"""Seconds that stand for no limit where an infinite number will not do."""


class _Line:
    """A line of the acquisitions of one process that want the same lease. One passes at a time.

    So they enter the server's queue in the order in which they came (threads: nearly so).
    """

    __slots__ = ("lock", "users")

    def __init__(self) -> None:
        self.lock = io.Lock()
        self.users: list[Acquisition] = []


class Acquirer:
    """Acquires leases for one process and event loop.

    Args:
        registry: Where the leases and acquisitions are entered.
        requests: Sends the requests.
        doorbell: Calls the waiters.
        watch: Has the leases looked at, at the time that it is given.
        abandon: Releases what the server may know of an acquisition.
    """

    def __init__(
        self,
        registry: Registry,
        requests: LeaseRequests,
        doorbell: Doorbell,
        watch: Callable[[float], None],
        abandon: Callable[[Acquisition], None],
    ) -> None:
        self._registry = registry
        self._guard = registry.guard
        self._requests = requests
        self._doorbell = doorbell
        self._watch = watch
        self._abandon = abandon
        self._lines: dict[bytes, _Line] = {}

    async def acquire(
        self,
        where: RunRef,
        scope: Scope,
        policy: RetryPolicy | None,
        *,
        ttl: float,
        timeout: float | None,
        renews: bool,
    ) -> HeldLease:
        """Return a run's lease. A caller that fails or is cancelled leaves neither lease nor place in the queue behind.

        Args:
            where: The run.
            scope: The body that the lease is for.
            policy: When requests are tried again; None: as always.
            ttl: Seconds that the lease lives after each renewal.
            timeout: Seconds to wait; 0: ask once; None: without a limit.
            renews: Whether to renew it in the background.

        Raises:
            LockTimeoutError: Another holder has the lease.
            BackendError: The backend is closing, or the server could not be used.
        """
        registry = self._registry
        acquisition = Acquisition(where, Ticket(new_holder(), round(ttl * 1000), self._doorbell.channel))
        deadline = None if timeout is None else io.monotonic() + timeout
        with self._guard:
            registry.pending[acquisition] = scope
        try:
            for _ in range((policy or self._requests.policy).attempts):
                granted = await (
                    self._ask_once(acquisition, policy) if timeout == 0 else self._wait(acquisition, deadline, policy)
                )
                if acquisition.until > io.monotonic():
                    break
            else:
                raise BackendUnavailableError("lock: answers take longer than the lease lives: choose a longer ttl")
            token = LeaseToken(granted.fence, acquisition.ticket.holder)
            lease = HeldLease(where, token, ttl, renews, acquisition.until, scope)
            with self._guard:
                registry.held[token.holder] = lease
            self._watch(lease.renew_at)
            if registry.closing:
                raise BackendError(
                    "this backend is closing, and nothing new begins in it: make a new one. The lease is given up again"
                )
            # The release has to name these: a copy that arrives later would otherwise leave a lease, or a place in the
            # queue, that nobody knows of.
            lease.ambiguous = acquisition.ambiguous
            if acquisition.queued:
                lease.place = acquisition.ticket.place
        except BaseException:
            self.give_up(acquisition)
            raise
        with self._guard:
            registry.pending.pop(acquisition, None)
        return lease

    def give_up(self, acquisition: Acquisition) -> None:
        """Leave the line and the doorbell, and leave nothing of an acquisition on the server. May be repeated."""
        key = acquisition.where.keys.lease
        self._leave_line(key, acquisition)
        self._doorbell.unregister(key, acquisition.ticket.holder)
        self._abandon(acquisition)

    async def _ask_once(self, acquisition: Acquisition, policy: RetryPolicy | None) -> Granted:
        answer = await self._ask(acquisition, None, policy)
        if isinstance(answer, Taken):
            raise LockTimeoutError(answer.holder, answer.expires_in)
        return answer

    async def _wait(self, acquisition: Acquisition, deadline: float | None, policy: RetryPolicy | None) -> Granted:
        """Ask until the lease is granted, and wait for the doorbell or the lease's expiry in between."""
        key, holder = acquisition.where.keys.lease, acquisition.ticket.holder
        try:
            waiter = self._doorbell.register(key, holder)
            try:
                lock = self._enter_line(key, acquisition)
                async with io.Held(lock, _left(deadline, UNLIMITED), _timed_out, ""):
                    waiter.ask_at = waiter.called_at = math.inf  # messages so far are older than the reply to come
                    answer = await self._join_queue(acquisition, deadline, policy)
            finally:
                self._leave_line(key, acquisition)
            while isinstance(answer, Taken):
                self._doorbell.plan(waiter, answer.expires_in, answer.rank or 0)
                await self._sleep(waiter, answer, deadline)
                called = waiter.clear()
                acquisition.called = acquisition.called or called
                # Only the reply grants the lease: a message may be old, or come from a server that did not grant it.
                answer = await self._ask(acquisition, deadline, policy)
                if called and isinstance(answer, Taken):
                    # It was passed over though it is alive: it listens where the server does not count it.
                    self._doorbell.uncounted = True
            return answer
        finally:
            self._doorbell.unregister(key, holder)

    async def _sleep(self, waiter: Waiter, answer: Taken, deadline: float | None) -> None:
        """Sleep until a waiter has to ask.

        Raises:
            LockTimeoutError: The deadline came first.
            BackendError: The backend is closing.
        """
        answered = io.monotonic()
        while io.monotonic() < waiter.due:
            if deadline is not None and io.monotonic() >= deadline:
                left = max(0.0, answer.expires_in - (io.monotonic() - answered))
                raise LockTimeoutError(answer.holder, left)
            await tasks.wait(waiter.event, _left(deadline, waiter.due - io.monotonic()))
            waiter.event.clear()
            if self._registry.closing:
                raise _closing()

    async def _join_queue(
        self, acquisition: Acquisition, deadline: float | None, policy: RetryPolicy | None
    ) -> Granted | Taken:
        """Ask for the lease, and for a place in the queue if another holder has it."""
        acquisition.queued = self._doorbell.listening
        answer = await self._ask(acquisition, deadline, policy)
        if isinstance(answer, Taken) and not acquisition.queued:
            # A waiter has to listen before it enters the queue.
            await self._doorbell.open(_left(deadline, self._requests.runner.try_timeout))
            acquisition.queued = True
            answer = await self._ask(acquisition, deadline, policy)
        return answer

    def _enter_line(self, key: bytes, acquisition: Acquisition) -> io.Lock:
        """Enter the line of those who want the lease `key`; return its lock."""
        with self._guard:
            line = self._lines.get(key)
            if line is None:
                line = self._lines[key] = _Line()
            line.users.append(acquisition)
            return line.lock

    def _leave_line(self, key: bytes, acquisition: Acquisition) -> None:
        """Leave the line, if it was entered. May be repeated."""
        with self._guard:
            line = self._lines.get(key)
            if line is not None:
                if acquisition in line.users:
                    line.users.remove(acquisition)
                if not line.users:
                    del self._lines[key]

    async def _ask(
        self, acquisition: Acquisition, deadline: float | None, policy: RetryPolicy | None
    ) -> Granted | Taken:
        """Send the request for the lease; return the reply."""
        with self._guard:
            if self._registry.closing:
                raise _closing()
            # From here on the request may be under way, so whoever closes the backend meanwhile has to release it.
            known, acquisition.known = acquisition.known, True
        where, delivery = acquisition.where, Delivery()
        answered = refused = False
        try:
            uncounted = acquisition.called or self._doorbell.uncounted
            call = protocol.acquire(where, acquisition.ticket, queue=acquisition.queued, uncounted=uncounted)
            reply = await self._requests.send(where, call, _left(deadline, math.inf), delivery, policy)
            answered = True
        except (BackendConfigError, BackendUnavailableError, CorruptSnapshotError):
            # If each copy was surely refused, the server knows nothing of it, and there is nothing to release.
            refused = not delivery.ambiguous
            raise
        finally:
            unanswered = delivery.sent and not answered and not refused
            acquisition.known = known or (delivery.sent and not refused)
            acquisition.ambiguous = acquisition.ambiguous or delivery.ambiguous or unanswered
            acquisition.began = delivery.began
        answer = protocol.read_acquire(where, reply)
        acquisition.until = acquisition.began + acquisition.ticket.ttl_ms / 1000
        if answer is None:
            raise BackendUnavailableError("lock: it was settled as given up; nothing was acquired, repeat it")
        if isinstance(answer, Taken) and not acquisition.queued and not acquisition.ambiguous:
            acquisition.known = False
        return answer


def _left(deadline: float | None, most: float) -> float:
    """Return the seconds until `deadline`, at most `most`."""
    return most if deadline is None else max(0.0, min(most, deadline - io.monotonic()))


def _closing() -> BackendError:
    return BackendError("this backend is closing, and nothing new begins in it: make a new one")


def _timed_out(_text: str) -> LockTimeoutError:
    return LockTimeoutError(None, None)
