"""A lease as its holder sees it, and the scope in which it is held."""

from __future__ import annotations

from collections.abc import Callable
from contextvars import ContextVar
from types import TracebackType
from typing import Final, NoReturn, Protocol

from ...errors import LeaseLostError, LockError
from ...policy import RetryPolicy
from ...protocol.leases import Loss, read_loss
from ...protocol.run import NO_LEASE, LeaseToken, RunRef
from ...protocol.run_errors import RunErrors
from ...revision import RunId
from ...values.text import quoted
from ..compat import tasks
from ..compat.scope import Exit, Scope
from ..transport.runner import Delivery
from .registry import HeldLease
from .table import HasLeases, LeaseTable

HELD: Final[ContextVar[tuple[Lease, ...]]] = ContextVar("histstore_held", default=())
"""The leases that this task is in, of all backends and event loops."""


class Lease:
    """A run's lease: while it is held, nobody else can save the run. Made by `RedisHistoryStore.lock`.

    Compare-and-set protects the data. The lease protects the minutes of work that a turn costs.

    A lease belongs to the process and the event loop in which it was entered. Another loop, or a forked child, that
    saves under it or renews it gets a LockError. A child that leaves its copy of the body does not touch the lease.
    Other threads of the process may read `lost`, `remaining()` and `check()`.
    """

    def __init__(self, table: LeaseTable, record: HeldLease) -> None:
        self._table = table
        self._record = record

    @property
    def run_id(self) -> RunId:
        """The run."""
        return self._record.where.run_id

    @property
    def fence(self) -> int:
        """The fencing token: higher than that of every earlier lease of the run."""
        return self._record.token.fence

    @property
    def holder(self) -> str:
        """The holder's name: host, process, and a random part."""
        return self._record.token.holder

    @property
    def lost(self) -> bool:
        """Whether it is lost, for good: another holder has it, it was broken, or it expired and was not renewed.

        A lease that expired because this process stood still may yet be renewed when the process continues, if nobody
        else has acquired or waits for the run. Until that is decided it is not lost, and `remaining()` is 0.
        """
        return self._record.loss is not None

    def remaining(self) -> float:
        """Return the seconds for which it is surely held without a renewal, counted from when it was asked for."""
        registry = self._table.registry
        return 0.0 if registry.inherited else self._record.remaining(registry.now())

    def check(self) -> None:
        """Raise if it is not surely held any more. If it has expired, this decides that it is lost. No I/O.

        Raises:
            LeaseLostError: It is not held any more.
            LockError: It belongs to the parent of this process.
        """
        registry = self._table.registry
        if registry.inherited:
            self._refuse_elsewhere()
        if self._record.until <= registry.now():
            registry.lose(self._record, Loss(None), if_expired=True)
        self._refuse_if_over()

    async def wait_lost(self) -> bool:
        """Wait until it is lost or released; return whether it was lost. Cancelling the call is harmless.

        Raises:
            LockError: It was entered in another process or event loop.
        """
        self._refuse_elsewhere()
        await tasks.wait(self._record.over, None)
        return self.lost

    async def renew(self) -> None:
        """Renew it for its full time from now.

        Cancelling the call is harmless: the lease is held on, for the old or for the new time.

        Raises:
            LeaseLostError: Another holder has it, or it was released.
            LockError: It was entered in another process or event loop.
            BackendUnavailableError: The server could not be used; the lease may still be held, see `remaining`.
        """
        record, table = self._record, self._table
        with RunErrors(record.where):
            self._refuse_elsewhere()
            self._refuse_if_over()
            delivery = Delivery()
            reply = await table.requests.send(record.where, record.renewal(), self.remaining(), delivery)
            loss = read_loss(record.where, record.token, reply)
            if loss is not None:
                table.registry.lose(record, loss)
                raise record.error()
            table.registry.extend(record, delivery.began)
            self._refuse_if_over()

    @property
    def _is_here(self) -> bool:
        """Whether it was entered in this process and event loop."""
        return self._table.registry.here

    def _refuse_if_over(self) -> None:
        """Raise LeaseLostError if the server need not be asked."""
        self._record.refuse_if_over()

    def _refuse_elsewhere(self) -> None:
        """Raise LockError if it was entered in another process or event loop."""
        if not self._is_here:
            raise self._table.registry.elsewhere(self._record.where)

    def _lose(self, current: int | None) -> None:
        """Record that the server has reported it as lost, and the fence that is valid now."""
        self._table.registry.lose(self._record, Loss(current))

    def __reduce__(self) -> NoReturn:
        raise LockError(
            f"the lease of run {quoted(self.run_id)} cannot be pickled: it belongs to the process that entered it; "
            "lock() the run where the work is done"
        )

    def __repr__(self) -> str:
        state = "lost" if self.lost else "given up" if self._record.released else f"{self.remaining():.1f} s left"
        return f"<Lease of run {quoted(self.run_id)} with fence {self.fence}: {state}>"


def token_of(lease: Lease | None) -> LeaseToken:
    """Return what a write under a lease carries."""
    return lease._record.token if lease is not None else NO_LEASE


def current_lease(table: LeaseTable, where: RunRef) -> Lease | None:
    """Return the lease of a run that this task is in; None: it is in none.

    Args:
        table: The leases of this process and event loop.
        where: The run.

    Raises:
        LockError: The task is in one that was entered elsewhere: its context came along to a fork, or another loop.
    """
    if table.abandoned.found:
        table.abandoned.collect()
    for lease in reversed(HELD.get()):
        owner, record = lease._table, lease._record
        if record.released or record.where.key != where.key:
            continue
        if owner is table:
            return lease
        if owner.tables is table.tables and not owner.registry.loop_ended:
            raise owner.registry.elsewhere(where)
    return None


class LeasedRun(Protocol):
    """A run, as the scope of its lease sees it."""

    @property
    def here(self) -> Callable[[], HasLeases]:
        """Returns the seat of the process and event loop that call it."""

    @property
    def where(self) -> RunRef:
        """The run: its names and keys."""

    @property
    def errors(self) -> RunErrors:
        """Context manager that makes errors name the run."""


class LeaseScope:
    """Holds a lease while it is entered. Made by `RedisHistoryStore.lock`.

    On loss, if `cancel` says so, the task that entered is cancelled once. The exit takes that request back and raises
    LeaseLostError instead. A cancellation by somebody else takes precedence; an error of the body gets a note.

    Args:
        run: The run.
        ttl: Seconds that the lease lives after each renewal.
        acquire_timeout: Seconds to wait for it; 0: ask once; None: without a limit.
        renew: Whether to renew it in the background.
        cancel: Whether a loss cancels the body.
        retry: When requests are tried again; None: as always.
    """

    def __init__(
        self,
        run: LeasedRun,
        ttl: float,
        acquire_timeout: float | None,
        renew: bool,
        cancel: bool,
        retry: RetryPolicy | None,
    ) -> None:
        self._run = run
        self._table = run.here().leases
        self._ttl = ttl
        self._timeout = acquire_timeout
        self._renews = renew
        self._scope = Scope(cancel, self._table.abandoned)
        self._retry = retry
        self._lease: Lease | None = None

    async def __aenter__(self) -> Lease:
        with self._run.errors:
            if self._lease is not None:
                raise LockError("this lock() was entered before: call lock() anew each time")
            table = self._table
            if table is not self._run.here().leases:
                raise LockError("this lock() was called in another process or event loop: call it where it is entered")
            if current_lease(table, self._run.where) is not None:
                raise LockError("the run is already leased here: use that lease, or leave it")
            self._scope.begin(self)
            record = await table.acquirer.acquire(
                self._run.where, self._scope, self._retry, ttl=self._ttl, timeout=self._timeout, renews=self._renews
            )
            self._lease = lease = Lease(table, record)
            self._scope.enter()
            # Released leases are still there if a task was started under one and outlived it.
            HELD.set((*(held for held in HELD.get() if not held._record.released), lease))
            if record.loss is not None:
                lost = record.error()  # before there was a body to cancel
                await self.release(lost)
                raise lost
            return lease

    def leave(self) -> None:
        """End the body: a loss cancels nothing any more."""
        self._scope.leave()

    async def release(self, error: BaseException | None) -> LeaseLostError | None:
        """Release the lease; return the error if it was lost. Whether that matters is for the caller to decide.

        Args:
            error: The error that ended the body.
        """
        lease = self._lease
        assert lease is not None
        self.leave()
        HELD.set(tuple(held for held in HELD.get() if held is not lease))
        record = lease._record
        await self._table.release(record, error)
        return record.error() if record.loss is not None else None

    def watch_exit(self, held: object) -> None:
        """Watch the function that a `with` statement holds, before the body is entered."""
        self._scope.watch_exit(held)

    def __reduce__(self) -> NoReturn:
        raise LockError("a lock() cannot be pickled: call lock() where the work is done")

    @Exit
    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        lost = await self.release(error)
        if lost is None:
            return
        if error is None or self._scope.stopped(error):
            raise lost from error
        if not isinstance(error, LeaseLostError):
            error.add_note(str(lost))
