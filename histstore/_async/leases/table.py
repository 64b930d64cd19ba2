"""All leases of a backend: taking them, renewing them together, losing them, giving them up."""

from __future__ import annotations

import functools
import logging
import math
import os
from collections.abc import Callable, Coroutine, Sequence
from contextlib import AsyncExitStack
from contextvars import ContextVar
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final

from redis import exceptions as redis_errors

from ...errors import (
    BackendConfigError,
    BackendError,
    BackendUnavailableError,
    CorruptSnapshotError,
    HistoryStoreError,
    LockError,
    LockTimeoutError,
    name_run,
)
from ...log.chain import BrokenChainError
from ...policy import RetryPolicy
from ...protocol import leases as _leasing
from ...protocol.leases import Granted, Lost, Occupied, Ring, Taken, Ticket, new_holder
from ...protocol.requests import Call, Carried, Where
from ..compat import io, tasks
from ..transport.runner import Delivery, Runner
from .doorbell import Doorbell
from .lease import Lease

if TYPE_CHECKING:
    from ..seats import Seats

PATIENCE: Final = 1.0
"""Seconds for which a request about a lease is tried, however little time is left for it to be of use."""

CLOSED: Final = "the backend was closed"
BROKEN: Final = "break_lease took it"
DELETED: Final = "the run was deleted"
ENDED: Final = "its event loop has ended, or the backend was closed"

log = logging.getLogger("histstore")


HELD: Final[ContextVar[tuple[Lease, ...]]] = ContextVar("histstore_held", default=())
"""The leases that this task is in, of all backends and event loops."""


@dataclass(slots=True, eq=False)
class _Acquisition:
    """One way to a lease.

    Attributes:
        where: The run.
        ticket: Its name.
        scope: Where it leads to.
        open: Whether the server may know of it: a lease, a place in the queue, a request on its way.
        late: Whether a copy of a request may still arrive after it was given up.
        queued: Whether it asked for a place in the queue.
        began: When the last request was sent.
        until: When the lease's time is over, once it is granted.
        called: Whether the doorbell has said that it is its turn.
    """

    where: Where
    ticket: Ticket
    scope: tasks.Scope
    open: bool = False
    late: bool = False
    queued: bool = False
    began: float = 0.0
    until: float = 0.0
    called: bool = False

    def leaving(self, late: bool) -> Call:
        """Builds the request that leaves nothing of it on the server."""
        return _leasing.release(self.where, self.ticket.holder, self.ticket.place if self.queued else "", late=late)


class _Turnstile:
    """Where those of one process that want one lease pass one after the other.

    So they stand in the queue in the order in which they came (threads: nearly so).
    """

    __slots__ = ("lock", "users")

    def __init__(self) -> None:
        self.lock = io.Lock()
        self.users: list[_Acquisition] = []


class Leases:
    """All leases of a backend in one process and event loop, held and waited for.

    Attributes:
        pid: The process; in a process that was forked from it, no process's id.
        now: Returns the time by which leases end. Any thread may ask.
    """

    def __init__(
        self, runner: Runner, namespace: str, policy: RetryPolicy, seats: Seats, place: tuple[int, Any]
    ) -> None:
        self._seats = seats
        self.pid, self._loop = place
        self.now = io.clock()
        self._runner = runner
        self._policy = policy
        self._namespace = namespace
        self._doorbell = Doorbell(runner, namespace, self._stray)
        self._inside: dict[str, Lease] = {}
        self._ways: set[_Acquisition] = set()
        # What is on its way to be given up, by holder: an interrupted try is repeated.
        self._leaving: dict[str, tuple[Call, Callable[[], Coroutine[Any, Any, Lost | None]]]] = {}
        self._guard = tasks.Guard()
        self.strays = tasks.Strays(self._give_up_strays)
        self._alarm = tasks.Alarm(self._renew, "histstore-alarm", self.strays)
        self._aside = tasks.Aside("histstore-renewal")
        self._turning_away = tasks.Aside("histstore-turn-away")
        self._jobs = tasks.Jobs()
        self._turnstiles: dict[bytes, _Turnstile] = {}
        self._draining: set[tasks.Event] = set()
        self._closing = False
        self._closed = False

    @property
    def here(self) -> bool:
        """Whether this is the process and the event loop that they belong to."""
        return self.pid == os.getpid() and tasks.runs(self._loop)

    def disown(self) -> None:
        """This process was forked: they are its parent's, even if it has the parent's id one day."""
        self.pid = -abs(self.pid)

    def elsewhere(self, where: Where) -> LockError:
        """Returns the error of who uses a lease of these in another process or event loop."""
        place = "another event loop" if self.pid == os.getpid() else f"process {abs(self.pid)}, of which this is a fork"
        error = LockError(
            f"the lease was entered in {place}, and does not count here: use it there; to lock() the run here, start "
            "this work outside of that lock"
        )
        name_run(error, where.run_id)
        return error

    def of(self, where: Where) -> Lease | None:
        """Returns the lease of a run that this task is in; None: it is in none.

        Raises:
            LockError: It is in one that was entered elsewhere: the context came along to a fork, or another loop.
        """
        if self.strays.found:
            self.strays.look()
        for lease in reversed(HELD.get()):
            theirs = lease._leases
            if theirs is self:
                if lease._where.key == where.key and not lease._ended:
                    return lease
            elif theirs._seats is self._seats and lease._where.key == where.key and not (lease._ended or theirs.over):
                raise theirs.elsewhere(where)
        return None

    @property
    def over(self) -> bool:
        """Whether the event loop has ended that they belong to: their bodies never go on."""
        return self.pid == os.getpid() and tasks.has_ended(self._loop)

    async def send(
        self, where: Where, call: Call, within: float, delivery: Delivery, policy: RetryPolicy | None = None
    ) -> Any:
        """Returns the reply to a request about a lease, which is not tried for much longer than it is of use."""
        policy = self._policy if policy is None else policy
        try:
            reply, _ = await self._runner.run(call, policy, delivery, max(within, PATIENCE))
        except BrokenChainError as error:
            raise where.corrupt(error.version, error.reason) from error
        return reply

    # ---------------------------------------------------------------------------------- taking one

    async def acquire(
        self,
        where: Where,
        ttl: float,
        timeout: float | None,
        renews: bool,
        policy: RetryPolicy | None,
        scope: tasks.Scope,
    ) -> Lease:
        """Returns a run's lease.

        Whoever stops waiting for it, or fails, leaves neither lease nor place in the queue behind.
        """
        way = _Acquisition(where, Ticket(new_holder(), round(ttl * 1000), self._doorbell.channel), scope)
        deadline = None if timeout is None else io.monotonic() + timeout
        with self._guard:
            self._ways.add(way)
        try:
            for _ in range((policy or self._policy).attempts):
                granted = await (self._once(way, policy) if timeout == 0 else self._wait(way, deadline, policy))
                if way.until > io.monotonic():
                    break
            else:
                raise BackendUnavailableError("lock: answers take longer than the lease lives: choose a longer ttl")
            carried = Carried(granted.fence, way.ticket.holder)
            lease = Lease(self, where, carried, ttl, renews, way.until, scope)
            with self._guard:
                self._inside[carried.holder] = lease
            self._alarm.set(lease._next)
            if self._closing:
                raise BackendError(
                    "this backend is closing, and nothing new begins in it: make a new one. The lease is given up again"
                )
            # Copies that may still arrive would otherwise leave a lease, or a place in the queue, that nobody knows of.
            lease._late, lease._place = way.late, way.ticket.place if way.queued else ""
        except BaseException:
            self._abandon(way)
            raise
        with self._guard:
            self._ways.discard(way)
        return lease

    async def _once(self, way: _Acquisition, policy: RetryPolicy | None) -> Granted:
        answer = await self._ask(way, None, policy)
        if isinstance(answer, Taken):
            raise LockTimeoutError(answer.holder, answer.expires_in)
        return answer

    async def _wait(self, way: _Acquisition, deadline: float | None, policy: RetryPolicy | None) -> Granted:
        key, holder = way.where.keys.lease, way.ticket.holder
        try:
            waiter = self._doorbell.expect(key, holder)
            try:
                async with io.Held(self._turnstile(key, way), _left(deadline, 1e9), _timed_out, ""):
                    waiter.ask_at = waiter.turn_at = math.inf  # what has rung so far is older than the answer
                    answer = await self._join(way, deadline, policy)
            finally:
                self._passed(key, way)
            while isinstance(answer, Taken):
                self._doorbell.told(waiter, answer.expires_in, answer.rank or 0)
                answered = io.monotonic()
                while io.monotonic() < waiter.due:
                    if deadline is not None and io.monotonic() >= deadline:
                        left = max(0.0, answer.expires_in - (io.monotonic() - answered))
                        raise LockTimeoutError(answer.holder, left)
                    await tasks.wait(waiter.event, _left(deadline, waiter.due - io.monotonic()))
                    waiter.event.clear()
                    if self._closing:
                        raise _closing()
                called = waiter.asks()
                way.called = way.called or called
                # Only the answer grants the lease: what rang may be old, or have been said by a server that has it not.
                answer = await self._ask(way, deadline, policy)
                if called and isinstance(answer, Taken):
                    # It was passed over, alive as it is: where it listens, the server does not count it.
                    self._doorbell.uncounted = True
            return answer
        finally:
            self._doorbell.forget(key, holder)

    async def _join(self, way: _Acquisition, deadline: float | None, policy: RetryPolicy | None) -> Granted | Taken:
        """Asks for the lease, and for a place in the queue if another holds it."""
        way.queued = self._doorbell.listening
        answer = await self._ask(way, deadline, policy)
        if isinstance(answer, Taken) and not way.queued:
            # Whoever stands in the queue has to be able to hear.
            await self._doorbell.open(_left(deadline, self._runner.try_timeout))
            way.queued = True
            answer = await self._ask(way, deadline, policy)
        return answer

    def _turnstile(self, key: bytes, way: _Acquisition) -> io.Lock:
        """Returns what lets those of this process that want one lease ask for it one after the other."""
        with self._guard:
            turnstile = self._turnstiles.get(key)
            if turnstile is None:
                turnstile = self._turnstiles[key] = _Turnstile()
            turnstile.users.append(way)
            return turnstile.lock

    def _passed(self, key: bytes, way: _Acquisition) -> None:
        """Leaves the turnstile, if it was entered. May be repeated."""
        with self._guard:
            turnstile = self._turnstiles.get(key)
            if turnstile is not None:
                if way in turnstile.users:
                    turnstile.users.remove(way)
                if not turnstile.users:
                    del self._turnstiles[key]

    async def _ask(self, way: _Acquisition, deadline: float | None, policy: RetryPolicy | None) -> Granted | Taken:
        with self._guard:
            if self._closing:
                raise _closing()
            # From here on it may be on its way, and whoever closes the backend meanwhile has to give it up.
            known, way.open = way.open, True
        delivery = Delivery()
        answered = refused = False
        within = _left(deadline, math.inf)
        try:
            uncounted = way.called or self._doorbell.uncounted
            call = _leasing.acquire(way.where, way.ticket, queue=way.queued, uncounted=uncounted)
            reply = await self.send(way.where, call, within, delivery, policy)
            answered = True
        except (BackendConfigError, BackendUnavailableError, CorruptSnapshotError):
            # Each copy was refused for certain: the server knows nothing of it, and there is nothing to give up.
            refused = not delivery.ambiguous
            raise
        finally:
            way.open = known or (delivery.sent and not refused)
            way.late = way.late or delivery.ambiguous or (delivery.sent and not answered and not refused)
            way.began = delivery.began
        answer = _leasing.read_acquire(way.where, reply)
        way.until = way.began + way.ticket.ttl_ms / 1000
        if answer is None:
            raise BackendUnavailableError("lock: it was settled as given up; nothing was acquired, repeat it")
        if isinstance(answer, Taken) and not way.queued and not way.late:
            way.open = False
        return answer

    def _abandon(self, way: _Acquisition) -> None:
        """Leaves nothing of a way to a lease on the server."""
        holder = way.ticket.holder
        self._passed(way.where.keys.lease, way)
        self._doorbell.forget(way.where.keys.lease, holder)
        call = way.leaving(way.late)
        give_up = functools.partial(self._give_up, way.where, Carried(0, holder), call, way.ticket.ttl_ms / 1000)
        with self._guard:
            known = way.open and not self._closed  # who closes the backend has done it
            if known:
                self._leaving[holder] = call, give_up
            self._ways.discard(way)
        self._no_longer_inside(holder)
        if known:
            self._jobs.start(give_up)

    def _stray(self, ring: Ring) -> None:
        """Gives up at once what was handed to nobody: a late copy of a request had queued for one who has left."""
        holder = ring.holder or ""
        with self._guard:
            lease = self._inside.get(holder)
            held = lease is not None and lease._held
            known = self._closed or held or any(way.ticket.holder == holder for way in self._ways)
        where = _leasing.where_it_rang(self._namespace, ring)
        if where is not None and not known:
            self._turning_away.start(functools.partial(self._turn_away, where, holder))

    async def _turn_away(self, where: Where, holder: str) -> None:
        await self._give_up(where, Carried(0, holder), _leasing.release(where, holder, late=True), PATIENCE)

    async def _give_up(self, where: Where, carried: Carried, call: Call, within: float) -> Lost | None:
        """Ends a lease or the wait for one; returns whose it was, if it was another's. Does not raise."""
        if not self.here:
            self._hand_back(carried.holder)
            return None
        delivery = Delivery()
        lost: Lost | None = None
        try:
            lost = _leasing.read_over(where, carried, await self.send(where, call, min(within, 5 * PATIENCE), delivery))
        except HistoryStoreError as error:
            if not self._closed:  # who closes the backend gives all of them up
                log.warning("a lease of run %r was not given up, and lapses: %s", str(where.run_id), error)
        # In this order: whoever is interrupted in between is repeated.
        self._no_longer_inside(carried.holder)
        self._leaving.pop(carried.holder, None)
        # An earlier copy of this may have given it up, and somebody else have it since.
        return None if delivery.ambiguous else lost

    # --------------------------------------------------------------------------------- holding it

    def carry(self, lease: Lease) -> None:
        """Lets this task's saves carry a lease."""
        # Those that have ended are still there where a task was started in one and outlived it.
        HELD.set((*(held for held in HELD.get() if not held._ended), lease))

    async def end(self, lease: Lease, scope: tasks.Scope, error: BaseException | None) -> None:
        """Gives a lease up; whoever is cancelled meanwhile leaves at once, and it is given up all the same."""
        if self.pid != os.getpid():
            # A forked child leaves the body: the lease is its parent's. A thread that is gone in the child may hold the
            # locks here.
            lease._ended = True
            return
        within = max(lease.remaining(), PATIENCE)
        give_up = self._leave(lease, within)
        HELD.set(tuple(held for held in HELD.get() if held is not lease))
        try:
            if self._closed:
                self._no_longer_inside(lease.holder)
                return
            lost = await scope.finish(give_up, self._jobs, error)
            if lost is not None:
                before = lease._lost or lost
                lease._lost = Lost(before.current or lost.current, before.reason)
        finally:
            lease._over.set()

    def _leave(self, lease: Lease, within: float) -> Callable[[], Coroutine[Any, Any, Lost | None]]:
        """Ends a lease here; returns what gives it up."""
        call = lease._giving_up()
        give_up = functools.partial(self._give_up, lease._where, lease._carried, call, within)
        with self._guard:
            lease._ended = True
            if not self._closed:
                self._leaving[lease._carried.holder] = call, give_up
        return give_up

    async def _give_up_strays(self) -> None:
        """Gives up the leases of bodies that are gone, and what was left of giving up others."""
        with self._guard:
            leases = [lease for lease in self._inside.values() if lease._scope.gone]
            ways = [way for way in self._ways if way.scope.gone]
        for way in ways:
            self._abandon(way)
        for lease in leases:
            self._leave(lease, PATIENCE)
            self._no_longer_inside(lease.holder)
            lease._over.set()
        for _, give_up in list(self._leaving.values()):
            await give_up()

    def _no_longer_inside(self, holder: str) -> None:
        with self._guard:
            self._inside.pop(holder, None)
            for event in self._draining:
                event.set()

    def lose(self, lease: Lease, lost: Lost, *, lapsed: bool = False) -> None:
        """Decides that a lease is not held any more, for good, and tells the body that works under it.

        Args:
            lease: The lease.
            lost: What is known of that.
            lapsed: Whether that is so only if its time is over.
        """
        with self._guard:
            if lease._lost is not None or lease._ended or (lapsed and lease._until > self.now()):
                return
            lease._lost = lost
        tasks.tell(self._loop, functools.partial(self._told, lease))

    def _told(self, lease: Lease) -> None:
        with self._guard:
            for event in self._draining:
                event.set()
        lease._over.set()
        lease._scope.interrupt()

    def prolonged(self, lease: Lease, began: float) -> None:
        """Takes it that a renewal was answered that was sent at `began`; what is lost by now stays lost."""
        with self._guard:
            if lease._lost is None and not lease._ended:
                lease._prolonged(began)

    def _renew(self) -> float | None:
        """Has renewed what is due; returns when to look again."""
        if self.strays.found:
            self.strays.look_aside(self._aside)
        now = io.monotonic()
        with self._guard:
            held = [lease for lease in self._inside.values() if lease._held and not lease._asking]
        for lease in held:
            # One whose time is over only because this process stood still has a last try.
            if lease._until <= now and (lease._missed or not lease._renews):
                self.lose(lease, Lost(None), lapsed=True)
        # Those that are nearly due come along: one request for many.
        self._prolong(
            [lease for lease in held if lease._lost is None and lease._renews and lease._next <= now + lease._ttl / 10]
        )
        return self._next_time()

    def _next_time(self) -> float | None:
        with self._guard:
            held = [lease for lease in self._inside.values() if lease._held and not lease._asking]
            return min((lease._next for lease in held), default=None)

    def _prolong(self, leases: list[Lease]) -> None:
        """Begins to renew leases. What others wait for meanwhile, a connection that hangs, is not their concern."""
        for lease in leases:
            lease._asking = True
        if leases:
            self._aside.start(functools.partial(self._renew_together, leases))

    async def _renew_together(self, leases: list[Lease]) -> None:
        began = io.monotonic()
        shortest = min(lease._until - began if lease._until > began else lease._ttl for lease in leases)
        timeout = max(0.02, min(self._runner.try_timeout, shortest / 2))
        replies: list[Any]
        try:
            try:
                replies = await self._runner.together([lease._renewal() for lease in leases], timeout)
            except (redis_errors.RedisError, OSError, HistoryStoreError) as error:
                replies = [error] * len(leases)
            for lease, reply in zip(leases, replies, strict=True):
                self._renewed(lease, reply, began)
        finally:
            for lease in leases:
                lease._asking = False
            following = self._next_time()
            if following is not None:
                self._alarm.set(following)

    def _renewed(self, lease: Lease, reply: Any, began: float) -> None:
        try:
            if isinstance(reply, Exception):
                raise reply
            lost = _leasing.read_over(lease._where, lease._carried, reply)
        except (redis_errors.RedisError, OSError, HistoryStoreError) as error:
            log.debug("a lease of run %r was not renewed: %s", str(lease.run_id), error)
            now = io.monotonic()
            if now >= lease._until:
                self.lose(lease, Lost(None), lapsed=True)
            # Again soon, and more often the less time is left; when it is over, that was it.
            lease._missed = True
            lease._next = min(now + max(0.01, min(lease._ttl / 12, (lease._until - now) / 3)), lease._until)
            return
        if lost is None:
            self.prolonged(lease, began)
        else:
            self.lose(lease, lost)

    # ----------------------------------------------------------------------------- breaking, closing

    async def break_lease(self, where: Where, policy: RetryPolicy | None) -> bool:
        """Fences whoever holds a run, or was the last to, and serves the next waiter."""
        found = await self._occupied(where, policy)
        # By name: a copy of this that comes late must not break the lease of whoever comes next. Also where nobody
        # seems to hold it: a server that may not be written to, a replica say, does not know who does.
        call = _leasing.release(where, found.holder, force=True)
        await self.send(where, call, math.inf, Delivery(), policy)
        for leases in self._seats.leases():
            lease = leases._inside.get(found.holder)
            if lease is not None:
                # Its body would not hear of it before the next renewal.
                leases.lose(lease, Lost(None, BROKEN))
        return bool(found.holder)

    def of_run(self, where: Where) -> list[Lease]:
        """Returns the leases of a run that are held here."""
        with self._guard:
            return [lease for lease in self._inside.values() if lease._held and lease._where.key == where.key]

    async def serve(self, where: Where, policy: RetryPolicy | None) -> None:
        """Serves the next waiter of a run that was deleted. Does not raise: they come by themselves, too."""
        try:
            try:
                waiting = (await self._occupied(where, policy)).waiting
            except CorruptSnapshotError:
                # Of the run's keys the queue is the one that the delete has left alone: a foreign one is cleared here.
                await self.send(where, _leasing.drop_queue(where), math.inf, Delivery(), policy)
                return
            if waiting:
                await self.send(where, _leasing.release(where, ""), math.inf, Delivery(), policy)
        except HistoryStoreError as error:
            log.warning("whoever waits for run %r comes later: %s", str(where.run_id), error)

    async def _occupied(self, where: Where, policy: RetryPolicy | None) -> Occupied:
        reply = await self.send(where, _leasing.occupied(where), math.inf, Delivery(), policy)
        return _leasing.read_occupied(where, reply)

    async def drain(self, seconds: float) -> None:
        """Lets nothing new begin, and waits until nobody is inside, or `seconds` have passed.

        What the calling task itself is inside of is not waited for, nor what is lost.
        """
        end, caller, event = io.monotonic() + seconds, tasks.caller(), tasks.Event()
        with self._guard:
            self._closing = True
            self._draining.add(event)
        self._doorbell.wake()
        try:
            while True:
                event.clear()  # before the look, so that whoever leaves after it is noticed
                if self.strays.found:
                    self.strays.look()  # nobody waits for a body that is gone
                with self._guard:
                    inside = [lease for lease in self._inside.values() if lease._lost is None]
                left = end - io.monotonic()
                if left <= 0 or all(lease._scope.caller == caller for lease in inside):
                    return
                await tasks.wait(event, left)
        finally:
            with self._guard:
                self._draining.discard(event)

    async def close(self) -> None:
        """Gives up all leases and all waiting, and waits until that is done."""
        if self.strays.found:
            self.strays.look()
        with self._guard:
            self._closing = self._closed = True
            held = [lease for lease in self._inside.values() if lease._held]
            ways = [way for way in self._ways if way.open]
        # What a way has asked may be on its way just now.
        calls = [lease._giving_up() for lease in held] + [way.leaving(True) for way in ways]
        for lease in held:
            # Its body works on without it: nobody renews it from now on.
            self.lose(lease, Lost(None, CLOSED))
        try:
            if calls:
                await self.send_all(calls)
        finally:
            await self._end_work()

    async def send_all(self, calls: Sequence[Call]) -> None:
        """Sends requests that give up leases which others have left behind. Does not raise."""
        try:
            await self._runner.together(calls, 2 * PATIENCE)
        except (redis_errors.RedisError, OSError, HistoryStoreError) as error:
            log.warning("%d leases were not given up, and lapse: %s", len(calls), error)

    # unasync: off
    def bury(self) -> list[Call]:
        """Takes all that is held and waited for from an event loop that has ended, or that does not answer.

        Returns:
            The requests that give it up.
        """
        with self._guard:
            self._closing = self._closed = True
            held = list(self._inside.values())
            calls = {lease.holder: lease._giving_up() for lease in held}
            # What a way has asked may be on its way just now.
            calls |= {way.ticket.holder: way.leaving(True) for way in self._ways if way.open}
            calls |= {holder: call for holder, (call, _) in self._leaving.items()}
        for lease in held:
            self.lose(lease, Lost(None, ENDED))
        return list(calls.values())

    @property
    def at_work(self) -> bool:
        """Whether something is held, waited for or being given up. A lease whose time is over is not held."""
        now = self.now()
        return bool(self._ways or self._leaving) or any(lease._until > now for lease in list(self._inside.values()))

    @property
    def put_away(self) -> bool:
        """Whether they are of no use any more: closed, or the parent process's."""
        return self._closed or self.pid < 0

    def give_up_for(self, calls: Sequence[Call]) -> None:
        """Gives up in the background what event loops have left behind that have ended."""
        if calls:
            self._jobs.start(functools.partial(self.send_all, calls))

    # unasync: on
    def _hand_back(self, holder: str) -> None:
        """Has a lease given up where it was entered: a body may be left elsewhere, with a generator that is closed."""
        # unasync: off
        # Whoever closes the backend, or puts this away, has given up everything.
        if holder in self._leaving and not self._closed and self.pid == os.getpid():
            call, give_up = self._leaving[holder]
            if self.over:
                self._seats.here().leases.give_up_for([call])
            else:
                tasks.tell(self._loop, functools.partial(self._jobs.start, give_up))
        # unasync: on

    async def leave(self) -> None:
        """Waits a moment for what is being given up: the event loop is about to end."""
        await self._jobs.wait(PATIENCE)

    async def _end_work(self) -> None:
        await self._alarm.close()
        # Each of them, also where this is cancelled meanwhile.
        async with AsyncExitStack() as stack:
            stack.push_async_callback(self._jobs.close)
            stack.push_async_callback(self._turning_away.end)
            stack.push_async_callback(self._aside.end)
            stack.push_async_callback(self._doorbell.close)


def _left(deadline: float | None, most: float) -> float:
    return most if deadline is None else max(0.0, min(most, deadline - io.monotonic()))


def _closing() -> BackendError:
    return BackendError("this backend is closing, and nothing new begins in it: make a new one")


def _timed_out(_text: str) -> LockTimeoutError:
    return LockTimeoutError(None, None)
