"""A lease as its holder sees it, and the scope in which it is held."""

from __future__ import annotations

import os
from types import TracebackType
from typing import TYPE_CHECKING, NoReturn

from ...errors import HistoryStoreError, LeaseLostError, LockError, name_run, quoted
from ...policy import RetryPolicy
from ...protocol import leases as _leasing
from ...protocol.leases import Lost
from ...protocol.requests import Call, Carried, Where
from ...snapshot import RunId
from ..compat import tasks
from ..transport.runner import Delivery

if TYPE_CHECKING:
    from ..backend import RedisBackend
    from .table import Leases


class Lease:
    """A run's lease: while it is held, nobody else can save the run. Made by `RedisHistoryStore.lock`.

    Compare-and-set protects the data; the lease protects the minutes of work that a turn costs.

    It belongs to the process and the event loop in which it was entered. Another loop, or a forked child, that saves
    under it or renews it gets a LockError. A child that leaves its copy of the body does not touch the lease. Other
    threads of the process may read `lost`, `remaining()` and `check()`.
    """

    def __init__(
        self,
        leases: Leases,
        where: Where,
        carried: Carried,
        ttl: float,
        renews: bool,
        until: float,
        scope: tasks.Scope,
    ) -> None:
        self._leases = leases
        self._where = where
        self._carried = carried
        self._ttl = ttl
        self._renews = renews
        self._until = until
        self._next = until - ttl * 2 / 3 if renews else until
        self._scope = scope
        self._asking = False
        self._missed = False
        self._late = False
        self._place = ""
        self._lost: Lost | None = None
        self._ended = False
        self._over = tasks.Event()

    @property
    def run_id(self) -> RunId:
        """The run."""
        return self._where.run_id

    @property
    def fence(self) -> int:
        """The fencing token: higher than that of every lease of the run before."""
        return self._carried.fence

    @property
    def holder(self) -> str:
        """Who holds it: host, process, and a random part."""
        return self._carried.holder

    @property
    def lost(self) -> bool:
        """Whether it is lost, for good: it is another's, was broken, or its time is over and it could not be renewed.

        A lease whose time is over because this process stood still may yet be renewed when it goes on, if nobody else
        has taken or waits for the run. Until that is decided, it is not lost, and `remaining()` is 0.
        """
        return self._lost is not None

    def remaining(self) -> float:
        """Returns the seconds for which it is surely held if it is not renewed, counted from when it was asked for."""
        if self._lost is not None or self._ended or self._leases.pid != os.getpid():
            return 0.0
        return max(0.0, self._until - self._leases.now())

    def check(self) -> None:
        """Raises if it is not surely held any more. If its time is over, this decides that it is lost. No I/O.

        Raises:
            LeaseLostError: It is not.
            LockError: It is the parent's of this process.
        """
        if self._leases.pid != os.getpid():
            self._refuse_elsewhere()
        if self._until <= self._leases.now():
            self._leases.lose(self, Lost(None), lapsed=True)
        self._refuse_if_over()

    async def wait_lost(self) -> bool:
        """Waits until it is lost or given up; returns whether it was lost. Cancelling it is harmless.

        Raises:
            LockError: It was entered in another process or event loop.
        """
        self._refuse_elsewhere()
        await tasks.wait(self._over, None)
        return self._lost is not None

    async def renew(self) -> None:
        """Prolongs it by its full time from now.

        Cancelling it is harmless: the lease lives on, for the old or for the new time.

        Raises:
            LeaseLostError: It is another's, or was given up.
            LockError: It was entered in another process or event loop.
            BackendUnavailableError: The server could not be used; the lease may still be held, see `remaining`.
        """
        try:
            self._refuse_elsewhere()
            self._refuse_if_over()
            delivery = Delivery()
            reply = await self._leases.send(self._where, self._renewal(), self.remaining(), delivery)
            lost = _leasing.read_over(self._where, self._carried, reply)
            if lost is not None:
                self._leases.lose(self, lost)
                raise self._error()
            self._leases.prolonged(self, delivery.began)
            self._refuse_if_over()
        except HistoryStoreError as error:
            name_run(error, self.run_id)
            raise

    @property
    def _held(self) -> bool:
        """Whether it is neither lost nor given up, as far as is known."""
        return self._lost is None and not self._ended

    def _renewal(self) -> Call:
        return _leasing.renew(self._where, self._carried, round(self._ttl * 1000))

    def _giving_up(self) -> Call:
        return _leasing.release(self._where, self._carried.holder, self._place, late=self._late)

    def _prolonged(self, began: float) -> None:
        self._missed = False
        self._until = max(self._until, began + self._ttl)
        self._next = began + self._ttl / 3 if self._renews else self._until

    def _refuse_if_over(self) -> None:
        """Raises where the server need not be asked."""
        if self._lost is not None or self._ended:
            raise self._error()

    @property
    def _is_here(self) -> bool:
        """Whether it was entered in this process and event loop."""
        return self._leases.here

    def _refuse_elsewhere(self) -> None:
        """Raises where another process or event loop has entered it."""
        if not self._leases.here:
            raise self._leases.elsewhere(self._where)

    def __reduce__(self) -> NoReturn:
        raise LockError(
            f"the lease of run {quoted(self.run_id)} cannot be pickled: it belongs to the process that entered it; "
            "lock() the run where the work is done"
        )

    def _error(self) -> LeaseLostError:
        lost = self._lost or Lost(None, "it was given up")
        return LeaseLostError(self.fence, lost.current, lost.reason, run_id=self.run_id)

    def __repr__(self) -> str:
        state = "lost" if self._lost is not None else "given up" if self._ended else f"{self.remaining():.1f} s left"
        return f"<Lease of run {quoted(self.run_id)} with fence {self.fence}: {state}>"


class LeaseScope:
    """What `RedisHistoryStore.lock` returns: the lease is held while it is entered.

    On loss, if `cancel` says so, the task that entered is cancelled once. The exit takes that request back and raises
    LeaseLostError instead; a cancellation by somebody else goes before it, and an error of the body gets a note.
    """

    def __init__(
        self,
        backend: RedisBackend,
        where: Where,
        ttl: float,
        acquire_timeout: float | None,
        renew: bool,
        cancel: bool,
        policy: RetryPolicy | None,
    ) -> None:
        self._backend = backend
        self._leases = backend._here().leases
        self._where = where
        self._ttl = ttl
        self._timeout = acquire_timeout
        self._renew = renew
        self._scope = tasks.Scope(cancel, self._leases.strays)
        self._policy = policy
        self._lease: Lease | None = None

    async def __aenter__(self) -> Lease:
        try:
            if self._lease is not None:
                raise LockError("this lock() was entered before: call lock() anew each time")
            if self._leases is not self._backend._here().leases:
                raise LockError("this lock() was called in another process or event loop: call it where it is entered")
            if self._leases.of(self._where) is not None:
                raise LockError("the run is already leased here: use that lease, or leave it")
            self._scope.begin(self)
            self._lease = await self._leases.acquire(
                self._where, self._ttl, self._timeout, self._renew, self._policy, self._scope
            )
            self._scope.enter()
            self._leases.carry(self._lease)
            if self._lease._lost is not None:
                lost = self._lease._error()  # before there was a body to cancel
                await self.give_up(lost)
                raise lost
            return self._lease
        except HistoryStoreError as error:
            name_run(error, self._where.run_id)
            raise

    def leave(self) -> None:
        """The body has ended: a loss cancels nothing any more."""
        self._scope.leave()

    async def give_up(self, error: BaseException | None) -> Lease:
        """Gives the lease up. If it was lost it says so; whether that matters is the caller's to know.

        Args:
            error: What came out of the body.
        """
        assert self._lease is not None
        self.leave()
        await self._leases.end(self._lease, self._scope, error)
        return self._lease

    def ends_with(self, end: object) -> None:
        """Takes note of what a `with` statement holds, before it enters."""
        self._scope.ends_with(end)

    def __reduce__(self) -> NoReturn:
        raise LockError("a lock() cannot be pickled: call lock() where the work is done")

    @tasks.Exit
    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        lease = await self.give_up(error)
        if lease._lost is None:
            return
        lost = lease._error()
        if error is None or self._scope.stopped(error):
            raise lost from error
        if not isinstance(error, LeaseLostError):
            error.add_note(str(lost))
