"""Workers that take leases, in processes of their own: told what to do over a pipe, and saying what came of it.

A test may stop, continue and kill them. Times are `time.monotonic()`, one clock for all processes of a machine.
"""

from __future__ import annotations

import asyncio
import contextlib
import inspect
import os
import random
import signal
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Any

import histstore
import histstore.sync
from histstore import ANY, RetryPolicy

from .history import message, tokens_of
from .workers import _CONTEXT as CONTEXT

GUARD = 20.0
"""Seconds after which a worker that does not do as it was told fails the test."""

FAST = RetryPolicy(attempts=6, deadline=20.0, base=0.002, cap=0.02)


@dataclass(frozen=True)
class Order:
    """One lease to take.

    Attributes:
        job: What the worker's reports call it.
        run: The run.
        how: "lock" appends to the store inside `lock()`; "turn" appends to a `turn()`.
        token: What to append; None: nothing.
        ttl: The lease's.
        hold: Seconds to stay inside before that; None: until told to go on.
        blocks: Whether the whole process stands still meanwhile, the event loop included.
        until_lost: Whether to stay inside until the lease says that it is lost.
        timeout: `acquire_timeout`.
        cancel: Whether a loss cancels the body.
    """

    job: str
    run: str
    how: str = "lock"
    token: str | None = None
    ttl: float = 30.0
    hold: float | None = None
    blocks: bool = False
    until_lost: bool = False
    timeout: float | None = None
    cancel: bool = True


@dataclass(frozen=True)
class Shift:
    """Many leases to take, one after the other, until told to stop.

    Attributes:
        job: What the worker's reports call it.
        runs: The runs; which comes next, and how, the seed says.
        ttl: The leases'.
        seed: The seed.
    """

    job: str
    runs: tuple[str, ...]
    ttl: float
    seed: str


@dataclass
class Report:
    """What a worker says.

    Attributes:
        job: Of which order.
        kind: "in", "out", ...; the test waits for these.
        at: When it was said.
        facts: What else there is to it.
    """

    job: str
    kind: str
    at: float
    facts: dict[str, Any]

    def __getattr__(self, name: str) -> Any:
        try:
            return self.__dict__["facts"][name]
        except KeyError:
            raise AttributeError(name) from None


# ------------------------------------------------------------------------------------- the test's side


class Worker:
    """A worker process, seen from the test."""

    def __init__(self, shell: str, url: str, **options: Any) -> None:
        self._pipe, theirs = CONTEXT.Pipe()
        self._process = CONTEXT.Process(target=_main, args=(shell, url, {"retry": FAST} | options, theirs), daemon=True)
        self._process.start()
        theirs.close()
        self.reports: list[Report] = []
        self._jobs = 0
        self.dead = False

    def take(self, run: str, **order: Any) -> str:
        """Tells it to take a lease; returns the job's name."""
        self._jobs += 1
        job = order.pop("job", f"{run}#{self._jobs}")
        self._pipe.send(("take", Order(job, run, **order)))
        return str(job)

    def work(self, shift: Shift) -> None:
        self._pipe.send(("work", shift))

    def go(self, job: str) -> None:
        """Tells it to go on with what it holds, or to stop a shift."""
        self._pipe.send(("go", job))

    def cancel(self, job: str) -> None:
        """Tells it to cancel the task of a job (asyncio)."""
        self._pipe.send(("cancel", job))

    def read(self, seconds: float = 0.0) -> None:
        """Takes up what it has said."""
        with contextlib.suppress(EOFError, ConnectionResetError):
            while self._pipe.poll(seconds):
                self.reports.append(self._pipe.recv())
                seconds = 0.0

    def said(self, job: str, kind: str) -> Report | None:
        """Returns what it has said of a job, if it has."""
        self.read()
        return next((report for report in self.reports if (report.job, report.kind) == (job, kind)), None)

    def wait(self, job: str, kind: str, seconds: float = GUARD) -> Report:
        """Returns what it says of a job, when it says so."""
        end = time.monotonic() + seconds
        while (report := self.said(job, kind)) is None:
            heard = [(each.job, each.kind, each.facts) for each in self.reports[-10:]]
            assert time.monotonic() < end, f"no {kind!r} of {job!r}; it said {heard}"
            assert not self.dead, f"it was killed before {kind!r} of {job!r}; it said {heard}"
            self.read(0.05)
        return report

    def signal(self, number: int) -> None:
        assert self._process.pid is not None
        os.kill(self._process.pid, number)

    def freeze(self) -> None:
        """Stops the process in its tracks."""
        self.signal(signal.SIGSTOP)

    def thaw(self) -> None:
        self.signal(signal.SIGCONT)

    def kill(self) -> None:
        """kill -9."""
        self.signal(signal.SIGKILL)
        self.dead = True

    def close(self) -> None:
        """Lets it end, as a program ends that closes its backend."""
        end = time.monotonic() + GUARD
        if not self.dead:
            with contextlib.suppress(OSError):
                self.thaw()
                self._pipe.send(("close", ""))
        while self._process.is_alive():
            self.read(0.005)
            if time.monotonic() > end:
                self.kill()
                raise AssertionError("a worker hangs")
        self._process.join()
        self.read()
        self._pipe.close()
        assert self.dead or self._process.exitcode == 0, f"a worker ended with {self._process.exitcode}"


@contextlib.contextmanager
def crew() -> Iterator[Callable[..., Worker]]:
    """Makes workers that are closed afterwards."""
    with contextlib.ExitStack() as stack:

        def make(shell: str, url: str, **options: Any) -> Worker:
            worker = Worker(shell, url, **options)
            stack.callback(worker.close)
            return worker

        yield make


# --------------------------------------------------------------------------------- the worker's side


def _main(shell: str, url: str, options: dict[str, Any], pipe: Any) -> None:
    (_blocking if shell == "sync" else _asyncio)(url, options, pipe)


def _asyncio(url: str, options: dict[str, Any], pipe: Any) -> None:
    async def main() -> None:
        loop = asyncio.get_running_loop()
        inbox: asyncio.Queue[Any] = asyncio.Queue()
        loop.add_reader(pipe.fileno(), lambda: inbox.put_nowait(_receive(pipe)))
        tasks: dict[str, asyncio.Task[None]] = {}
        async with histstore.RedisBackend.from_url(url, **options) as backend:
            desk = _Desk(pipe, backend, asyncio.Event)
            while True:
                verb, what = await inbox.get()
                if verb == "close":
                    break
                if verb == "cancel":
                    tasks[what].cancel()
                elif verb == "go":
                    desk.gate(what).set()
                else:
                    tasks[what.job] = asyncio.create_task(desk.do(what))
        loop.remove_reader(pipe.fileno())

    asyncio.run(main())


def _blocking(url: str, options: dict[str, Any], pipe: Any) -> None:
    with histstore.sync.RedisBackend.from_url(url, **options) as backend:
        desk = _Desk(pipe, backend, threading.Event)
        while True:
            verb, what = _receive(pipe)
            if verb == "close":
                break
            if verb == "go":
                desk.gate(what).set()
            else:
                # The calls block; the loop is only there to drive the coroutine that both shells share.
                threading.Thread(target=lambda order=what: asyncio.run(desk.do(order)), daemon=True).start()


def _receive(pipe: Any) -> Any:
    try:
        return pipe.recv()
    except EOFError:
        os._exit(1)  # the test is gone


async def _settled(value: Any) -> Any:
    """Returns what a call of either shell comes to."""
    return await value if inspect.isawaitable(value) else value


@dataclass
class _Scope:
    """A lease's or turn's scope of either shell, to be entered with `async with`."""

    inner: Any

    async def __aenter__(self) -> Any:
        enter = getattr(self.inner, "__aenter__", None) or self.inner.__enter__
        return await _settled(enter())

    async def __aexit__(self, *error: Any) -> None:
        leave = getattr(self.inner, "__aexit__", None) or self.inner.__exit__
        await _settled(leave(*error))


@dataclass
class _Desk:
    """Carries orders out."""

    pipe: Any
    backend: Any
    event: Callable[[], Any]
    gates: dict[str, Any] = field(default_factory=dict)
    guard: Any = field(default_factory=threading.Lock)

    def gate(self, job: str) -> Any:
        with self.guard:
            return self.gates.setdefault(job, self.event())

    def say(self, job: str, kind: str, **facts: Any) -> None:
        with self.guard:
            self.pipe.send(Report(job, kind, time.monotonic(), facts))

    async def do(self, order: Order | Shift) -> None:
        if isinstance(order, Shift):
            await self._shift(order)
        else:
            await self._take(order)

    async def _take(self, order: Order) -> None:
        saved: str | None = None
        ended: str | None = None
        store = self.backend.store(order.run)
        try:
            async with _Scope(_scope(store, order.how, order.ttl, order.timeout, order.cancel)) as got:
                lease = got.lease if order.how == "turn" else got
                self.say(order.job, "in", fence=lease.fence, holder=lease.holder, left=lease.remaining())
                try:
                    await self._hold(order, lease)
                    self.say(order.job, "on", lost=lease.lost, left=lease.remaining())
                    if order.token is not None:
                        saved = "running"
                        await _save(store, got, order.how, order.token)
                        saved = "saved"
                except BaseException as error:
                    self.say(order.job, "stopped", error=type(error).__name__, lost=lease.lost)
                    saved = saved and type(error).__name__
                    raise
        except BaseException as error:
            ended = type(error).__name__
        self.say(order.job, "out", saved=saved, error=ended)

    async def _hold(self, order: Order, lease: Any) -> None:
        gate = self.gate(order.job)
        if order.until_lost:
            await _settled(lease.wait_lost())
        elif order.blocks:
            # Nothing else in this process's event loop runs.
            end = time.monotonic() + GUARD
            while not self.pipe.poll() and time.monotonic() < end:
                time.sleep(0.01)  # noqa: ASYNC251
        elif order.hold is not None:
            if isinstance(gate, asyncio.Event):
                await asyncio.sleep(order.hold)
            else:
                time.sleep(order.hold)  # noqa: ASYNC251
        else:
            await _settled(gate.wait())

    async def _shift(self, shift: Shift) -> None:
        rng = random.Random(shift.seed)
        gate = self.gate(shift.job)
        count = 0
        while not gate.is_set():
            count += 1
            how, run = rng.choice(("lock", "turn")), rng.choice(shift.runs)
            store = self.backend.store(run)
            token = f"{os.getpid()}-{count}"
            began = time.monotonic()
            inside = False
            try:
                async with _Scope(_scope(store, how, shift.ttl, rng.choice((None, 5.0)), True)) as got:
                    inside = True
                    lease = got.lease if how == "turn" else got
                    seen = got.snapshot if how == "turn" else await _settled(store.load())
                    seen = tokens_of(seen.messages) if seen is not None else []
                    self.say(shift.job, "saw", run=run, tokens=seen, began=began, fence=lease.fence)
                    await asyncio.sleep(rng.random() * 0.02)
                    for part in range(rng.randrange(1, 4)):
                        await self._one_save(shift.job, run, store, got, how, f"{token}.{part}", lease.fence)
                        await asyncio.sleep(rng.random() * 0.01)
            except histstore.HistoryStoreError as error:
                self.say(shift.job, "failed", run=run, error=type(error).__name__, text=str(error), inside=inside)
        self.say(shift.job, "done", count=count)

    async def _one_save(self, job: str, run: str, store: Any, got: Any, how: str, token: str, fence: int) -> None:
        self.say(job, "saving", run=run, token=token, fence=fence)
        try:
            revision = await _save(store, got, how, token)
        except (histstore.OutcomeUnknownError, asyncio.CancelledError):
            self.say(job, "unknown", run=run, token=token)
            raise
        except histstore.HistoryStoreError as error:
            self.say(job, "refused", run=run, token=token, error=type(error).__name__)
            raise
        self.say(job, "saved", run=run, token=token, version=revision.version, fence=fence)


def _scope(store: Any, how: str, ttl: float, timeout: float | None, cancel: bool) -> Any:
    scope = store.turn if how == "turn" else store.lock
    return scope(ttl=ttl, acquire_timeout=timeout, cancel=cancel)


async def _save(store: Any, got: Any, how: str, token: str) -> Any:
    if how == "turn":
        got.append(message(token))
        return await _settled(got.save())
    return await _settled(store.append(message(token), expected=ANY))
