"""Cancellation and leases: which exception comes out, what the task's count says, and that nothing is left behind.

asyncio only: in the blocking twin nothing is cancelled. A loss is made on the server, by somebody who takes the run;
when the holder hears of it is chosen to the step of the loop, by telling it what the answer to its renewal tells it.
"""

from __future__ import annotations

import asyncio
import contextlib
import gc
import itertools
import os
import random
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from contextvars import Context
from typing import Any

import anyio
import pytest
import redis
from starlette.requests import ClientDisconnect
from starlette.responses import StreamingResponse

from histstore import BackendError, Lease, LeaseLostError, LockTimeoutError, RedisBackend
from histstore._async.transport.connections import SLOW_AFTER
from histstore.protocol.keys import run_keys
from histstore.protocol.scripts import ALL

from ..support.proxy import proxy
from ..support.samples import user
from ..support.shells import until

SEED = int(os.environ.get("HISTSTORE_TEST_SEED") or random.SystemRandom().randrange(10**9))
NEVER = 3600.0


@pytest.fixture(autouse=True)
async def no_complaints() -> AsyncIterator[None]:
    """The loop has nothing to complain of: no exception that nobody looked at, no task that was thrown away."""
    complaints: list[Any] = []
    loop = asyncio.get_running_loop()
    loop.set_exception_handler(lambda _loop, context: complaints.append(context))
    # A body that nobody interrupts waits for ever: the test that waits for it fails instead.
    watchdog = loop.call_later(120, lambda: [task.cancel() for task in asyncio.all_tasks()])
    yield
    watchdog.cancel()
    gc.collect()
    await asyncio.sleep(0)
    assert complaints == []


class Scene:
    """One run, a backend whose tasks hold it, and a rival who takes it away.

    Attributes:
        backend: Whose behaviour is looked at.
        rival: Somebody else's backend.
        leases: What is held, in the order in which it was entered.
        ready: Set when the body has come to where it is to be interrupted.
        go_on: What bodies wait for.
        out: Whether the exit is over.
    """

    def __init__(self, backend: RedisBackend, rival: RedisBackend, raw: redis.Redis) -> None:
        self.backend = backend
        self.rival = rival
        self.raw = raw
        self.leases: list[Lease] = []
        self.ready = asyncio.Event()
        self.go_on = asyncio.Event()
        self.out = False
        self.cancelled = False
        self._taken = contextlib.AsyncExitStack()
        self._fences: dict[str, int] = {}

    def lock(self, run: str = "run", **options: Any) -> contextlib.AbstractAsyncContextManager[Lease]:
        """Returns a lock whose lease is among `leases` while it is held."""
        return self._noting(self.backend.store(run).lock(ttl=60, **options))

    def turn(self, run: str = "run", **options: Any) -> Any:
        return self._noting(self.backend.store(run).turn(ttl=60, **options))

    def _noting(self, scope: Any) -> Any:
        enter = type(scope).__aenter__

        class Noting(type(scope)):  # type: ignore[misc]
            async def __aenter__(inner) -> Any:
                entered = await enter(inner)
                self.leases.append(getattr(entered, "lease", entered))
                return entered

        scope.__class__ = Noting
        return scope

    async def rest(self) -> None:
        """Where a body is when it is interrupted."""
        self.ready.set()
        await self.go_on.wait()

    async def take(self, *leases: Lease) -> None:
        """Takes runs away, on the server. Nobody here knows yet."""
        for lease in leases or self.leases:
            await self.rival.break_lease(lease.run_id)
            held = await self._taken.enter_async_context(self.rival.store(lease.run_id).lock(ttl=60))
            self._fences[lease.run_id] = held.fence

    def tell(self, *leases: Lease) -> None:
        """Tells holders what the answer to their renewal would tell them."""
        for lease in leases or self.leases:
            lease._lose(self._fences[lease.run_id])

    async def is_free(self) -> None:
        """Whatever is on its way arrives; then nobody but the rival holds or waits for anything."""
        await until(lambda: not self.backend._leases.releaser.jobs._tasks)
        for run, fence in self._fences.items():
            assert self.raw.hget(run_keys(self.rival.namespace, run).lease, "fence") == str(fence).encode()
        await self._taken.aclose()
        for run in {"run", *(lease.run_id for lease in self.leases)}:
            keys = run_keys(self.backend.namespace, run)
            assert self.raw.exists(keys.lease, keys.queue) == 0
            async with self.backend.store(run).lock(acquire_timeout=0):
                pass
        await until(lambda: self.backend._runner.connections[0] == 0, "connections come back")
        assert not self.backend._leases.registry.held
        assert not self.backend._leases.registry.pending


@pytest.fixture
async def scene(server_url: str, namespace: str, raw: redis.Redis) -> AsyncIterator[Scene]:
    """A scene, whose run is free when the test is over."""
    async with (
        RedisBackend.from_url(server_url, namespace=namespace) as backend,
        RedisBackend.from_url(server_url, namespace=namespace) as rival,
    ):
        scene = Scene(backend, rival, raw)
        yield scene
        await scene.is_free()


class Outcome:
    """What came of a piece of work, in a task of its own.

    Attributes:
        error: What it raised.
        cancelling: The task's count of requests to cancel it, right afterwards.
        stray: Whether a later await was cancelled, too.
    """

    def __init__(self) -> None:
        self.error: BaseException | None = None
        self.cancelling = -1
        self.stray = False

    def __repr__(self) -> str:
        return f"<{self.error!r}, cancelling {self.cancelling}, stray {self.stray}>"

    def is_(self, kind: type[BaseException] | None, cancelling: int = 0) -> None:
        """Asserts what came out, and that the task's count is what it ought to be."""
        assert isinstance(self.error, kind) if kind is not None else self.error is None, self
        if kind is asyncio.CancelledError:
            assert type(self.error) is asyncio.CancelledError, self
        assert self.cancelling == cancelling, self
        assert not self.stray, self


def start(work: Callable[[], Awaitable[Any]], scene: Scene | None = None) -> tuple[asyncio.Task[None], Outcome]:
    """Runs `work` in a task, which notes what comes of it and does not raise."""
    outcome = Outcome()

    async def run() -> None:
        try:
            await work()
        except BaseException as error:
            outcome.error = error
        task = asyncio.current_task()
        assert task is not None
        outcome.cancelling = task.cancelling()
        if scene is not None:
            scene.out = True
        try:
            for _ in range(3):
                await asyncio.sleep(0)
        except asyncio.CancelledError:
            outcome.stray = True

    return asyncio.get_running_loop().create_task(run(), context=Context()), outcome


async def steps(count: int) -> None:
    """Lets the loop turn `count` times."""
    for _ in range(count):
        await asyncio.sleep(0)


def notes(error: BaseException | None) -> str:
    return " ".join(getattr(error, "__notes__", []))


# -------------------------------------------------------------------------------------- the bodies


async def plain(scene: Scene) -> None:
    async with scene.lock():
        await scene.rest()


async def plain_turn(scene: Scene) -> None:
    async with scene.turn() as turn:
        turn.append(user(1))
        await scene.rest()


async def cleaning_up(scene: Scene) -> None:
    async with scene.lock():
        try:
            await scene.rest()
        finally:
            await asyncio.sleep(0)


async def in_a_task_group(scene: Scene) -> None:
    async with scene.lock(), asyncio.TaskGroup() as group:
        group.create_task(scene.rest())


async def in_a_task_group_and_a_sleep(scene: Scene) -> None:
    async with scene.lock(), asyncio.TaskGroup() as group:
        group.create_task(scene.rest())
        await asyncio.sleep(NEVER)


async def around_a_task_group(scene: Scene) -> None:
    async with asyncio.TaskGroup() as group, scene.lock():
        group.create_task(asyncio.sleep(0))
        await scene.rest()


async def in_a_timeout(scene: Scene) -> None:
    async with scene.lock(), asyncio.timeout(NEVER):
        await scene.rest()


async def around_a_timeout(scene: Scene) -> None:
    async with asyncio.timeout(NEVER), scene.lock():
        await scene.rest()


async def in_wait_for(scene: Scene) -> None:
    async with scene.lock():
        await asyncio.wait_for(scene.rest(), NEVER)


async def shielded(scene: Scene) -> None:
    async with scene.lock():
        inner = asyncio.ensure_future(scene.rest())
        try:
            await asyncio.shield(inner)
        finally:
            inner.cancel()


async def gathered(scene: Scene) -> None:
    async with scene.lock():
        await asyncio.gather(scene.rest(), asyncio.sleep(NEVER))


async def in_an_anyio_scope(scene: Scene) -> None:
    async with scene.lock():
        with anyio.CancelScope():
            await scene.rest()


async def around_an_anyio_scope(scene: Scene) -> None:
    with anyio.CancelScope():
        async with scene.lock():
            await scene.rest()


async def in_fail_after(scene: Scene) -> None:
    async with scene.lock():
        with anyio.fail_after(NEVER):
            await scene.rest()


async def around_fail_after(scene: Scene) -> None:
    with anyio.fail_after(NEVER):
        async with scene.lock():
            await scene.rest()


async def in_an_anyio_group(scene: Scene) -> None:
    async with scene.lock(), anyio.create_task_group() as group:
        group.start_soon(scene.rest)


async def around_an_anyio_group(scene: Scene) -> None:
    async with anyio.create_task_group() as group, scene.lock():
        group.start_soon(anyio.sleep, 0)
        await scene.rest()


async def with_another_run_inside(scene: Scene) -> None:
    async with scene.lock(), scene.backend.store("another run").lock():
        await scene.rest()


async def with_another_run_around(scene: Scene) -> None:
    async with scene.backend.store("another run").lock(), scene.lock():
        await scene.rest()


FAITHFUL = [
    plain,
    plain_turn,
    cleaning_up,
    in_a_task_group,
    in_a_task_group_and_a_sleep,
    in_a_timeout,
    around_a_timeout,
    in_wait_for,
    shielded,
    gathered,
    in_an_anyio_scope,
    around_an_anyio_scope,
    in_fail_after,
    around_fail_after,
    in_an_anyio_group,
    with_another_run_inside,
    with_another_run_around,
]
"""Bodies that let a cancellation through as it is."""

WRAPPING = [around_a_task_group, around_an_anyio_group]
"""Bodies from which an error comes in an ExceptionGroup."""


def named(body: Any) -> str:
    return getattr(body, "__name__", str(body))


def unwrapped(outcome: Outcome, body: Any) -> Outcome:
    if body in WRAPPING and isinstance(outcome.error, BaseExceptionGroup):
        (outcome.error,) = outcome.error.exceptions
    return outcome


@pytest.mark.parametrize("body", FAITHFUL + WRAPPING, ids=named)
async def test_a_loss_becomes_a_lease_lost_error(scene: Scene, body: Any) -> None:
    """Whatever the body awaits: LeaseLostError comes out, caused by the one cancellation, and the count is 0."""
    task, outcome = start(lambda: body(scene))
    await scene.ready.wait()
    await scene.take()
    scene.tell()
    await task
    unwrapped(outcome, body).is_(LeaseLostError)
    assert isinstance(outcome.error, LeaseLostError)
    assert isinstance(outcome.error.__cause__, asyncio.CancelledError)
    assert outcome.error.fence == scene.leases[0].fence
    assert outcome.error.current == scene._fences["run"]


@pytest.mark.parametrize("body", FAITHFUL + WRAPPING, ids=named)
async def test_a_body_that_ends_well_is_left_alone(scene: Scene, body: Any) -> None:
    """Nothing comes out, and the task's count is 0."""
    task, outcome = start(lambda: body(scene))
    await scene.ready.wait()
    if body is in_a_task_group_and_a_sleep or body is gathered:
        task.cancel()
        await task
        outcome.is_(asyncio.CancelledError, 1)
        return
    scene.go_on.set()
    await task
    outcome.is_(None)


@pytest.mark.parametrize("body", FAITHFUL + WRAPPING, ids=named)
async def test_a_cancellation_by_somebody_else_is_let_through(scene: Scene, body: Any) -> None:
    """CancelledError, the count stays theirs, and the lease is given up."""
    task, outcome = start(lambda: body(scene))
    await scene.ready.wait()
    task.cancel()
    await task
    outcome.is_(asyncio.CancelledError, 1)


@pytest.mark.parametrize("first", ["loss", "cancel"])
@pytest.mark.parametrize("body", FAITHFUL, ids=named)
async def test_somebody_elses_cancellation_goes_before_a_loss(
    server_url: str, namespace: str, raw: redis.Redis, body: Any, first: str
) -> None:
    """Both, in either order, from the same step of the loop to thirty apart: CancelledError, and the count is 1.

    Unless the exit was over by then: there is nobody to be cancelled any more.
    """
    async with (
        RedisBackend.from_url(server_url, namespace=namespace) as backend,
        RedisBackend.from_url(server_url, namespace=namespace) as rival,
    ):
        for gap in (0, 1, 2, 3, 4, 5, 6, 8, 11, 15, 22, 30):
            scene = Scene(backend, rival, raw)
            task, outcome = start(lambda scene=scene: body(scene), scene)
            await scene.ready.wait()
            await scene.take()
            cancelled = True
            if first == "loss":
                scene.tell()
                await steps(gap)
                cancelled = not scene.out and task.cancel()
            else:
                task.cancel()
                await steps(gap)
                scene.tell()
            await task
            if cancelled:
                outcome.is_(asyncio.CancelledError, 1)
            else:
                outcome.is_(LeaseLostError)
            await scene.is_free()


# --------------------------------------------------------------------- bodies that do something else


@pytest.mark.parametrize("scope", ["lock", "turn"])
async def test_a_body_that_swallows_the_cancellation(scene: Scene, scope: str) -> None:
    """It goes on to its end, and LeaseLostError comes out all the same; a turn saves nothing."""
    went_on = False

    async def body() -> None:
        nonlocal went_on
        async with getattr(scene, scope)() as entered:
            if scope == "turn":
                entered.append(user(1))
            with contextlib.suppress(asyncio.CancelledError):
                await scene.rest()
            await asyncio.sleep(0.05)  # it is cancelled once only
            went_on = True

    task, outcome = start(body)
    await scene.ready.wait()
    await scene.take()
    scene.tell()
    await task
    outcome.is_(LeaseLostError)
    assert went_on
    assert await scene.rival.store("run").load() is None


async def test_a_body_that_was_cancelled_by_both_and_swallows_it(scene: Scene) -> None:
    """The loss comes out, since nobody else tells of it; the other's request stays in the count."""

    async def body() -> None:
        async with scene.lock():
            with contextlib.suppress(asyncio.CancelledError):
                await scene.rest()

    task, outcome = start(body)
    await scene.ready.wait()
    await scene.take()
    scene.tell()
    task.cancel()
    await task
    outcome.is_(LeaseLostError, 1)


@pytest.mark.parametrize("when", ["at the cancellation", "by itself"])
async def test_an_error_of_the_body_comes_out_with_a_note(scene: Scene, when: str) -> None:
    """Its own error, whether it turned the cancellation into it or met it by itself, with a note of the loss."""

    async def body() -> None:
        async with scene.lock():
            try:
                await scene.rest()
            except asyncio.CancelledError:
                if when == "at the cancellation":
                    raise ValueError("mine") from None
            raise ValueError("mine")

    task, outcome = start(body)
    await scene.ready.wait()
    await scene.take()
    scene.tell()
    await task
    outcome.is_(ValueError)
    assert "was lost" in notes(outcome.error)


@pytest.mark.parametrize("group", ["asyncio", "anyio"])
async def test_an_exception_group_comes_out_with_a_note(scene: Scene, group: str) -> None:
    """What a child raises while the group is being ended is not hidden by the loss."""

    async def child() -> None:
        try:
            await scene.rest()
        finally:
            raise ValueError("child")

    async def body() -> None:
        if group == "asyncio":
            async with scene.lock(), asyncio.TaskGroup() as tasks:
                tasks.create_task(child())
        else:
            async with scene.lock(), anyio.create_task_group() as nursery:
                nursery.start_soon(child)

    task, outcome = start(body)
    await scene.ready.wait()
    await scene.take()
    scene.tell()
    await task
    outcome.is_(ExceptionGroup)
    assert isinstance(outcome.error, ExceptionGroup)
    assert [str(error) for error in outcome.error.exceptions] == ["child"]
    assert "was lost" in notes(outcome.error)


@pytest.mark.parametrize("group", ["asyncio", "anyio"])
async def test_a_child_that_finds_out_first(scene: Scene, group: str) -> None:
    """Its save raises LeaseLostError, which comes out in the group; the count is 0 for all the requests in between."""

    async def child() -> None:
        scene.ready.set()
        await scene.go_on.wait()
        await scene.backend.store("run").append(user(1))

    async def body() -> None:
        if group == "asyncio":
            async with scene.lock(), asyncio.TaskGroup() as tasks:
                tasks.create_task(child())
                await asyncio.sleep(NEVER)
        else:
            async with scene.lock(), anyio.create_task_group() as nursery:
                nursery.start_soon(child)
                await asyncio.sleep(NEVER)

    task, outcome = start(body)
    await scene.ready.wait()
    await scene.take()
    scene.go_on.set()
    await task
    outcome.is_(ExceptionGroup)
    assert isinstance(outcome.error, ExceptionGroup)
    assert [type(error) for error in outcome.error.exceptions] == [LeaseLostError]


@pytest.mark.parametrize("caught", [True, False])
async def test_a_body_that_finds_out_by_its_own_save(scene: Scene, caught: bool) -> None:
    """It is told by the save and not cancelled besides; if it goes on, the exit raises LeaseLostError."""

    async def body() -> None:
        async with scene.lock():
            await scene.rest()
            try:
                await scene.backend.store("run").append(user(1))
            except LeaseLostError:
                if not caught:
                    raise
            await asyncio.sleep(0)

    task, outcome = start(body)
    await scene.ready.wait()
    await scene.take()
    scene.go_on.set()
    await task
    outcome.is_(LeaseLostError)
    assert not notes(outcome.error)


async def test_a_loss_without_cancellation(scene: Scene) -> None:
    """`cancel=False`: the body goes on, and the exit raises LeaseLostError."""
    done = False

    async def body() -> None:
        nonlocal done
        async with scene.lock(cancel=False) as lease:
            await scene.rest()
            assert lease.lost
            await asyncio.sleep(0.01)
            done = True

    task, outcome = start(body)
    await scene.ready.wait()
    await scene.take()
    scene.tell()
    await steps(5)
    scene.go_on.set()
    await task
    outcome.is_(LeaseLostError)
    assert done


async def test_the_renewal_tells_of_the_loss(scene: Scene) -> None:
    """Without anybody's help: the body of a short lease is cancelled soon after the run was taken away."""

    async def body() -> None:
        async with scene.backend.store("run").lock(ttl=0.6) as lease:
            scene.leases.append(lease)
            await scene.rest()

    task, outcome = start(body)
    await scene.ready.wait()
    await scene.take()
    await task
    outcome.is_(LeaseLostError)
    assert isinstance(outcome.error, LeaseLostError)
    assert outcome.error.current == scene._fences["run"]


async def test_a_lease_that_is_not_renewed_cancels_at_its_end(scene: Scene) -> None:
    """`renew=False`: the body is cancelled when the time is over, not before, and nobody need have taken the run."""
    began = asyncio.get_running_loop().time()

    async def body() -> None:
        async with scene.backend.store("run").lock(ttl=0.4, renew=False):
            await asyncio.sleep(NEVER)

    task, outcome = start(body)
    await task
    outcome.is_(LeaseLostError)
    assert isinstance(outcome.error, LeaseLostError)
    assert outcome.error.current is None
    assert asyncio.get_running_loop().time() - began > 0.39


async def test_the_count_before_is_the_count_after(scene: Scene) -> None:
    """A task that was cancelled before and went on has a count; a loss leaves it as it was."""

    async def body() -> None:
        task = asyncio.current_task()
        assert task is not None
        task.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await asyncio.sleep(NEVER)
        assert task.cancelling() == 1
        async with scene.lock():
            await scene.rest()

    task, outcome = start(body)
    await scene.ready.wait()
    await scene.take()
    scene.tell()
    await task
    outcome.is_(LeaseLostError, 1)


@pytest.mark.parametrize("error", [None, ValueError("mine")], ids=["swallowed", "another"])
@pytest.mark.parametrize("before", [0, 1])
async def test_a_cancellation_that_is_asked_for_again(scene: Scene, before: int, error: Exception | None) -> None:
    """As newer TaskGroups do, to keep the count. It is ours still: it hits neither the exit nor what comes after it."""

    async def body() -> None:
        task = asyncio.current_task()
        assert task is not None
        for _ in range(before):
            task.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await asyncio.sleep(NEVER)
        async with scene.lock():
            with contextlib.suppress(asyncio.CancelledError):
                await scene.rest()
            task.uncancel()
            task.cancel()
            if error is not None:
                raise error

    task, outcome = start(body)
    await scene.ready.wait()
    await scene.take()
    scene.tell()
    await task
    outcome.is_(LeaseLostError if error is None else ValueError, before)
    if error is not None:
        assert "was lost" in notes(outcome.error)


# ------------------------------------------------------------------------------------------ nested


@pytest.mark.parametrize("lost", ["outer", "inner", "both", "both, outer first"])
async def test_nested_locks(scene: Scene, lost: str) -> None:
    """Whose lease is lost, whose error comes out: of both, the outer one's, with a note about the inner one."""

    async def body() -> None:
        async with scene.lock("outer"), scene.lock("inner"):
            await scene.rest()

    task, outcome = start(body)
    await scene.ready.wait()
    outer, inner = scene.leases
    told = {"outer": (outer,), "inner": (inner,), "both": (inner, outer), "both, outer first": (outer, inner)}[lost]
    await scene.take(*told)
    scene.tell(*told)
    await task
    outcome.is_(LeaseLostError)
    assert isinstance(outcome.error, LeaseLostError)
    assert outcome.error.fence == (inner if lost == "inner" else outer).fence
    if lost.startswith("both"):
        assert str(inner.fence) in notes(outcome.error.__cause__)


@pytest.mark.parametrize("gap", range(12))
async def test_the_outer_lease_is_lost_while_the_inner_one_ends(scene: Scene, gap: int) -> None:
    """At any step of the inner exit, after its own loss or without: a loss comes out, and the count is 0."""

    async def body() -> None:
        async with scene.lock("outer"):
            async with scene.lock("inner"):
                await scene.rest()
            await asyncio.sleep(NEVER)

    task, outcome = start(body)
    await scene.ready.wait()
    outer, inner = scene.leases
    await scene.take(outer)
    if gap % 2:
        await scene.take(inner)
        scene.tell(inner)
    else:
        scene.go_on.set()
    await steps(gap)
    scene.tell(outer)
    await task
    outcome.is_(LeaseLostError)
    assert isinstance(outcome.error, LeaseLostError)
    fences = {outer.fence, inner.fence} if gap % 2 else {outer.fence}
    assert outcome.error.fence in fences


# ---------------------------------------------------------------------------------------- timeouts


@pytest.mark.parametrize("gap", range(-8, 9))
@pytest.mark.parametrize("where", ["around", "inside"])
async def test_a_timeout_and_a_loss(scene: Scene, where: str, gap: int) -> None:
    """asyncio.timeout that expires some steps after the loss, before it, or in the same step.

    One around the lock turns into TimeoutError, unless the exit was over; one inside, whatever comes first.
    In any case the count is 0 afterwards.
    """
    timeout = asyncio.timeout(None)

    async def around() -> None:
        async with timeout, scene.lock():
            await scene.rest()
        raise AssertionError

    async def inside() -> None:
        async with scene.lock(), timeout:
            await scene.rest()
        raise AssertionError

    task, outcome = start(around if where == "around" else inside)
    await scene.ready.wait()
    await scene.take()
    if gap <= 0:
        timeout.reschedule(0)
        await steps(-gap)
        scene.tell()
    else:
        scene.tell()
        await steps(gap)
        if outcome.cancelling < 0:
            with contextlib.suppress(RuntimeError):  # it is over, so it has not expired
                timeout.reschedule(0)
    await task
    expected: tuple[type[BaseException], ...] = (LeaseLostError,)
    if timeout.expired():
        # It expires in the next step, and its task runs in the one after. One inside that finds in the same step
        # that two wanted the body to end leaves it to the other.
        expected = (TimeoutError,) if where == "around" or gap < -2 else (TimeoutError, LeaseLostError)
    assert isinstance(outcome.error, expected), (outcome, timeout)
    assert not isinstance(outcome.error, LockTimeoutError)
    assert (outcome.cancelling, outcome.stray) == (0, False)


@pytest.mark.parametrize("gap", range(-8, 9))
@pytest.mark.parametrize("where", ["around", "inside"])
async def test_an_anyio_scope_and_a_loss(scene: Scene, where: str, gap: int) -> None:
    """A cancel scope around the lock catches its cancellation; one inside leaves the loss to the lock's exit."""
    cancel_scope = anyio.CancelScope()

    async def around() -> None:
        with cancel_scope:
            async with scene.lock():
                await scene.rest()

    async def inside() -> None:
        async with scene.lock():
            with cancel_scope:
                await scene.rest()

    task, outcome = start(around if where == "around" else inside, scene)
    await scene.ready.wait()
    await scene.take()
    if gap <= 0:
        cancel_scope.cancel()
        await steps(-gap)
        scene.tell()
    else:
        scene.tell()
        await steps(gap)
        over = scene.out
        cancel_scope.cancel()
    await task
    assert (outcome.cancelling, outcome.stray) == (0, False), outcome
    if where == "inside" or (gap > 0 and over):
        outcome.is_(LeaseLostError)
    else:
        assert outcome.error is None or isinstance(outcome.error, LeaseLostError), outcome
        assert cancel_scope.cancelled_caught == (outcome.error is None)
        if gap <= 0:
            assert outcome.error is None


@pytest.mark.parametrize("kind", ["move_on_after", "fail_after", "CancelScope", "create_task_group"])
@pytest.mark.parametrize("scope", ["lock", "turn"])
async def test_level_cancellation_leaves_no_lease(scene: Scene, kind: str, scope: str) -> None:
    """anyio cancels every await until its scope is left, also those of the exit: the lease is given up all the same."""

    async def hold() -> None:
        async with getattr(scene, scope)() as entered:
            if scope == "turn":
                entered.append(user(1))
            await scene.rest()

    async def body() -> None:
        match kind:
            case "move_on_after":
                with anyio.move_on_after(NEVER) as cancel_scope:
                    reach(cancel_scope)
                    await hold()
            case "fail_after":
                with anyio.fail_after(NEVER) as cancel_scope:
                    reach(cancel_scope)
                    await hold()
            case "CancelScope":
                with anyio.CancelScope() as cancel_scope:
                    reach(cancel_scope)
                    await hold()
            case "create_task_group":
                async with anyio.create_task_group() as group:
                    reach(group.cancel_scope)
                    group.start_soon(hold)

    reached: list[anyio.CancelScope] = []
    reach = reached.append
    task, outcome = start(body)
    await scene.ready.wait()
    reached[0].deadline = anyio.current_time() - 1
    if kind != "fail_after":
        reached[0].cancel()
    await task
    outcome.is_(TimeoutError if kind == "fail_after" else None)
    await scene.is_free()
    assert await scene.backend.store("run").load() is None


# ---------------------------------------------------------------------------------------- the exit


async def test_a_cancellation_during_the_release(server_url: str, namespace: str, raw: redis.Redis) -> None:
    """Who is cancelled while the release is on its way leaves at once; it goes on, and arrives."""
    async with proxy(server_url) as wire, RedisBackend.from_url(wire.url, namespace=namespace) as backend:
        key = run_keys(namespace, "run").lease

        async def body() -> None:
            async with backend.store("run").lock():
                wire.hold_requests.clear()

        task, outcome = start(body)
        await until(lambda: not wire.hold_requests.is_set())
        await steps(5)
        task.cancel()
        await task  # the wire is still held
        outcome.is_(asyncio.CancelledError, 1)
        assert raw.exists(key)
        wire.hold_requests.set()
        await until(lambda: not raw.exists(key))


async def test_a_loss_during_the_release_cancels_nothing(server_url: str, namespace: str, raw: redis.Redis) -> None:
    """The body is over. What the release itself is told still comes out."""
    for taken in (False, True):
        async with (
            proxy(server_url) as wire,
            RedisBackend.from_url(wire.url, namespace=namespace) as backend,
            RedisBackend.from_url(server_url, namespace=namespace) as rival,
        ):
            leases = []

            async def body(leases: list[Lease] = leases, wire: Any = wire, backend: Any = backend) -> None:
                async with backend.store("run").lock() as lease:
                    leases.append(lease)
                    wire.hold_requests.clear()

            task, outcome = start(body)
            await until(lambda leases=leases: leases)
            await steps(5)
            if taken:
                await rival.break_lease("run")
            (lease,) = leases
            lease._lose(None)
            await steps(5)
            assert not task.done()
            wire.hold_requests.set()
            await task
            outcome.is_(LeaseLostError if taken else None)
            assert lease.lost == taken


async def test_aclose_waits_for_a_release_that_nobody_waits_for(
    server_url: str, namespace: str, raw: redis.Redis
) -> None:
    """The backend owns it: when `aclose` returns, the lease is free."""
    key = run_keys(namespace, "run").lease
    async with RedisBackend.from_url(server_url, namespace=namespace) as backend:
        ready = asyncio.Event()

        async def body() -> None:
            with anyio.CancelScope() as cancel_scope:
                async with backend.store("run").lock():
                    cancel_scope.cancel()
                    ready.set()
                    await asyncio.sleep(NEVER)

        task, outcome = start(body)
        await task
        outcome.is_(None)
        assert ready.is_set()
        await backend.aclose()
        assert not raw.exists(key)


async def test_a_turn_that_is_cancelled_in_its_last_save(server_url: str, namespace: str, raw: redis.Redis) -> None:
    """CancelledError; the save is in `unsettled`, the lease is given up, and the save can be settled afterwards."""
    async with proxy(server_url) as wire, RedisBackend.from_url(wire.url, namespace=namespace) as backend:
        store = backend.store("run")

        async def body() -> None:
            async with store.turn() as turn:
                turn.append(user(1))
                wire.hold_requests.clear()

        task, outcome = start(body)
        await until(lambda: not wire.hold_requests.is_set())
        await until(lambda: store.unsettled is not None)
        await steps(3)
        task.cancel()
        await steps(5)
        wire.hold_requests.set()
        await task
        outcome.is_(asyncio.CancelledError, 1)
        assert store.unsettled is not None
        await until(lambda: not raw.exists(run_keys(namespace, "run").lease))
        revision = await store.resolve()
        found = await store.load()
        assert (found.revision if found is not None else None) == revision


async def test_a_turn_that_is_lost_in_its_last_save_is_told_by_the_save(
    server_url: str, namespace: str, raw: redis.Redis
) -> None:
    """Nothing is cancelled, so nothing is left open: it was saved, or LeaseLostError and it was not."""
    for taken in (False, True):
        async with (
            proxy(server_url) as wire,
            RedisBackend.from_url(wire.url, namespace=namespace) as backend,
            RedisBackend.from_url(server_url, namespace=namespace) as rival,
        ):
            run = f"run {taken}"
            store = backend.store(run)
            leases = []

            async def body(leases: list[Lease] = leases, wire: Any = wire, store: Any = store) -> None:
                async with store.turn() as turn:
                    leases.append(turn.lease)
                    turn.append(user(1))
                    wire.hold_requests.clear()

            task, outcome = start(body)
            await until(lambda store=store: store.unsettled is not None)
            if taken:
                await rival.break_lease(run)
            (lease,) = leases
            lease._lose(None)
            await steps(5)
            wire.hold_requests.set()
            await task
            outcome.is_(LeaseLostError if taken else None)
            assert store.unsettled is None
            found = await rival.store(run).load()
            assert (found is None) == taken


async def test_a_generator_that_is_closed_elsewhere(scene: Scene) -> None:
    """`cancel=False`: entered in one task, left in another, as fixtures and generators are; lost or not."""

    async def held() -> AsyncIterator[Lease]:
        async with scene.lock(cancel=False) as lease:
            yield lease

    async def first(generator: Any) -> Lease:
        lease: Lease = await anext(generator)
        return lease

    # Left by going on, in another task.
    generator = held()
    lease = await asyncio.get_running_loop().create_task(first(generator), context=Context())
    lease.check()
    task, outcome = start(lambda: anext(generator))
    await task
    outcome.is_(StopAsyncIteration)
    await scene.is_free()

    # Closed in another task.
    generator = held()
    lease = await asyncio.get_running_loop().create_task(first(generator), context=Context())
    task, outcome = start(generator.aclose)  # type: ignore[attr-defined]
    await task
    outcome.is_(None)
    await scene.is_free()

    # Thrown away.
    generator = held()
    lease = await asyncio.get_running_loop().create_task(first(generator), context=Context())
    del generator
    await until(lambda: gc.collect() >= 0 and lease._record.released)
    await scene.is_free()

    # Lost, and left in another task.
    generator = held()
    lease = await asyncio.get_running_loop().create_task(first(generator), context=Context())
    await scene.take(lease)
    scene.tell(lease)
    task, outcome = start(lambda: anext(generator))
    await task
    outcome.is_(LeaseLostError)


async def test_a_coroutine_that_is_thrown_away(scene: Scene) -> None:
    """It may not await any more: it ends at once, without an error, and the backend gives the lease up."""

    async def body() -> None:
        async with scene.lock():
            await scene.rest()

    thrown_away = body()

    class UntilReady:
        def __await__(self) -> Iterator[Any]:
            inside = thrown_away.__await__()
            while True:
                waits_for = next(inside)
                if scene.ready.is_set():
                    return
                yield waits_for

    await UntilReady()
    scene.leases[0].check()
    thrown_away.close()
    await until(lambda: not scene.raw.exists(run_keys(scene.backend.namespace, "run").lease))


@pytest.mark.parametrize("blocked", ["in the generator", "in send"])
@pytest.mark.parametrize("version", ["2.3", "2.4"])
async def test_a_client_that_disconnects_leaves_no_lease(scene: Scene, version: str, blocked: str) -> None:
    """A Starlette response that streams under a lease, and whose client is gone: the lease is free soon afterwards."""
    gone = asyncio.Event()
    sent: list[Any] = []

    async def stream() -> AsyncIterator[bytes]:
        async with scene.backend.store("run").turn(cancel=False) as turn:
            scene.leases.append(turn.lease)
            turn.append(user(1))
            yield b"first"
            if blocked == "in the generator" and version == "2.3":
                scene.ready.set()
                await asyncio.sleep(NEVER)
            yield b"second"

    async def receive() -> dict[str, Any]:
        await gone.wait()
        return {"type": "http.disconnect"}

    async def send(message: Any) -> None:
        sent.append(message)
        if message.get("body") == (b"second" if blocked == "in the generator" else b"first"):
            scene.ready.set()
            if version == "2.4":
                raise OSError("the client is gone")
            await asyncio.sleep(NEVER)

    async def serve() -> None:
        asgi = {"type": "http", "asgi": {"version": "3.0", "spec_version": version}, "method": "GET", "headers": []}
        await StreamingResponse(stream())(asgi, receive, send)

    task, outcome = start(serve)
    await scene.ready.wait()
    assert scene.raw.exists(run_keys(scene.backend.namespace, "run").lease)
    gone.set()
    await task
    outcome.is_(ClientDisconnect if version == "2.4" else None)
    outcome.error = None  # its traceback holds the generator
    assert sent[0]["status"] == 200
    await until(lambda: gc.collect() >= 0 and scene.leases[0]._record.released)
    await scene.is_free()
    assert await scene.backend.store("run").load() is None


# ------------------------------------------------------------------------------- cancelled anywhere


async def _lock(backend: RedisBackend) -> None:
    async with backend.store("run").lock(ttl=60):
        assert not backend._leases.registry.closed  # nobody begins under a lease that was given up


async def _lock_with_a_timeout(backend: RedisBackend) -> None:
    async with backend.store("run").lock(ttl=60, acquire_timeout=50):
        await asyncio.sleep(0)


async def _turn(backend: RedisBackend) -> None:
    async with backend.store("run").turn(ttl=60) as turn:
        turn.append(user(len(turn.messages)))
        await turn.save()
        turn.append(user(len(turn.messages)))


async def _lock_and_renew(backend: RedisBackend) -> None:
    async with backend.store("run").lock(ttl=60, cancel=False) as lease:
        await lease.renew()


WORKS = [_lock, _lock_with_a_timeout, _turn, _lock_and_renew]


async def nothing_is_left(backend: RedisBackend, raw: redis.Redis, note: object) -> None:
    """Asserts that a cancelled piece of work has left neither lease nor place, and that the run is to be had."""
    keys = run_keys(backend.namespace, "run")
    await until(lambda: not backend._leases.releaser.jobs._tasks, f"releases end {note}")
    assert raw.exists(keys.lease, keys.queue) == 0, note
    # What claims a lease in the background may still be waiting for its answer.
    await until(lambda: backend._runner.connections[0] == 0, f"connections come back {note}")
    assert not backend._leases.registry.held, note
    assert not backend._leases.registry.pending, note
    assert not backend._leases.acquirer._lines, note
    async with backend.store("run").lock(acquire_timeout=0):
        pass


def cancelled_or_done(task: asyncio.Task[Any], note: object) -> bool:
    """Returns whether the task came to its end before it was cancelled. It has no other way out."""
    if task.cancelled():
        return False
    assert task.exception() is None, (note, task.exception())
    return True


@pytest.mark.parametrize("fresh", [False, True], ids=["used", "fresh"])
@pytest.mark.parametrize("work", WORKS, ids=named)
async def test_cancelled_at_every_step(
    server_url: str, namespace: str, raw: redis.Redis, work: Any, fresh: bool
) -> None:
    """From the first to the last step of the loop: CancelledError, and nothing is left behind.

    On a backend that was used before, and on one that has yet to connect and to look at its server.
    """
    done = 0
    async with contextlib.AsyncExitStack() as stack:
        used = await stack.enter_async_context(RedisBackend.from_url(server_url, namespace=namespace))
        await work(used)
        for count in itertools.count():
            backend = RedisBackend.from_url(server_url, namespace=namespace) if fresh else used
            task = asyncio.get_running_loop().create_task(work(backend), context=Context())
            await steps(count)
            task.cancel()
            await asyncio.wait([task])
            done += cancelled_or_done(task, count)
            await nothing_is_left(backend, raw, count)
            if fresh:
                await backend.aclose()
            if done == 3:
                break
    assert count >= 5


@pytest.mark.parametrize("work", WORKS, ids=named)
@pytest.mark.parametrize("fresh", [False, True], ids=["used", "fresh"])
async def test_cancelled_while_it_waits(
    server_url: str, namespace: str, raw: redis.Redis, work: Any, fresh: bool
) -> None:
    """At every step from the call to the wait: no place in the queue is left, and the holder stays."""
    keys = run_keys(namespace, "run")
    async with (
        RedisBackend.from_url(server_url, namespace=namespace) as used,
        RedisBackend.from_url(server_url, namespace=namespace) as rival,
        rival.store("run").lock(ttl=60) as lease,
    ):
        for count in [*range(60), 80, 100, 150]:
            backend = RedisBackend.from_url(server_url, namespace=namespace) if fresh else used
            task = asyncio.get_running_loop().create_task(work(backend), context=Context())
            await steps(count)
            task.cancel()
            await asyncio.wait([task])
            assert task.cancelled()
            await until(lambda backend=backend: not backend._leases.releaser.jobs._tasks)
            assert raw.exists(keys.queue) == 0, count
            assert raw.hget(keys.lease, "holder") == lease.holder.encode()
            await until(lambda backend=backend: backend._runner.connections[0] == 0, "connections come back")
            if fresh:
                await backend.aclose()


@pytest.mark.parametrize("work", WORKS, ids=named)
async def test_cancelled_at_the_moment_of_the_grant(
    server_url: str, namespace: str, raw: redis.Redis, work: Any
) -> None:
    """While the run is being handed over, by whatever step: nothing is left, and the next in the queue gets it."""
    print(f"HISTSTORE_TEST_SEED={SEED}")
    rng = random.Random(SEED)
    keys = run_keys(namespace, "run")
    async with (
        RedisBackend.from_url(server_url, namespace=namespace) as backend,
        RedisBackend.from_url(server_url, namespace=namespace) as rival,
    ):
        ends = 0
        for turn in range(150):
            note = (SEED, turn)
            scope = rival.store("run").lock(ttl=60)
            loop = asyncio.get_running_loop()
            await loop.create_task(scope.__aenter__(), context=Context())
            first = loop.create_task(work(backend), context=Context())
            await until(lambda: raw.llen(keys.queue) == 1)
            behind = loop.create_task(_lock(backend if rng.random() < 0.5 else rival), context=Context())
            await until(lambda: raw.llen(keys.queue) == 2)
            release = loop.create_task(scope.__aexit__(None, None, None), context=Context())
            await steps(rng.randrange(80))
            if rng.random() < 0.2:
                await asyncio.sleep(rng.random() * 0.003)
            first.cancel()
            # Bounded: who is next must not have to wait until anything lapses.
            _, late = await asyncio.wait([first, behind, release], timeout=20)
            assert not late, note
            ends += cancelled_or_done(first, note)
            assert behind.exception() is None
            assert release.exception() is None
            await until(lambda: not rival._leases.releaser.jobs._tasks)
            await nothing_is_left(backend, raw, note)
        assert ends < 150, "no cancellation hit"


# ------------------------------------------------------------------------------------ closed anywhere


@pytest.mark.parametrize("by", ["somebody else", "the body"])
async def test_a_backend_that_is_closed_under_a_body(scene: Scene, by: str) -> None:
    """Its leases are given up: the body is cancelled, unless it closed the backend itself; LeaseLostError comes out."""
    went_on = False

    async def body() -> None:
        nonlocal went_on
        async with scene.lock():
            if by == "the body":
                await scene.backend.aclose()
                went_on = True
            else:
                await scene.rest()

    task, outcome = start(body)
    if by == "somebody else":
        await scene.ready.wait()
        await scene.backend.aclose()
    await task
    outcome.is_(LeaseLostError)
    assert went_on == (by == "the body")
    assert not scene.raw.exists(run_keys(scene.backend.namespace, "run").lease)
    scene.backend = scene.rival


@pytest.mark.parametrize("contended", [False, True], ids=["free", "held"])
@pytest.mark.parametrize("fresh", [False, True], ids=["used", "fresh"])
@pytest.mark.parametrize("work", WORKS, ids=named)
async def test_closed_at_every_step(
    server_url: str, namespace: str, raw: redis.Redis, work: Any, fresh: bool, contended: bool
) -> None:
    """While one is at whatever step of taking, holding or giving up a lease: when `aclose` returns, nothing is left.

    Nothing comes later, either: what was on its way is settled. Who was at work is told, and is not left waiting.
    """
    keys = run_keys(namespace, "run")
    loop = asyncio.get_running_loop()
    async with RedisBackend.from_url(server_url, namespace=namespace) as rival:
        scope = rival.store("run").lock(ttl=60)
        held = await loop.create_task(scope.__aenter__(), context=Context()) if contended else None
        for count in [*range(40), 50, 60, 80, 100, 150, 200]:
            # Patient with its server: what keeps somebody waiting here is no timeout of a request.
            backend = RedisBackend.from_url(f"{server_url}?socket_timeout=300", namespace=namespace)
            if not fresh:
                await backend.store("run").info()
            task = loop.create_task(work(backend), context=Context())
            await steps(count)
            await backend.aclose()
            _, late = await asyncio.wait([task], timeout=20)
            assert not late, count
            error = task.exception()
            assert error is None or isinstance(error, (BackendError, LeaseLostError)), (count, error)
            holder = raw.hget(keys.lease, "holder")
            assert holder == (held.holder.encode() if held is not None else None), count
            assert not raw.exists(keys.queue), count
            assert not [task for task in asyncio.all_tasks() if "_async/leases/" in repr(task)]
        if held is not None:
            await scope.__aexit__(None, None, None)


async def test_a_request_that_arrives_after_the_backend_was_closed(
    server_url: str, namespace: str, raw: redis.Redis
) -> None:
    """One for a lease that was on its way, and was overtaken by what gave it up: it is refused, for good."""
    for script in ALL:
        raw.script_load(script.source)
    async with proxy(server_url) as wire, RedisBackend.from_url(wire.url, namespace=namespace) as backend:
        await backend.store("run").info()
        wire.reset_counts()
        delays = iter([2.0])
        wire.delay = lambda: next(delays, 0.0)
        task, outcome = start(lambda: _lock(backend))
        await until(lambda: wire.requests == 1)
        await asyncio.sleep(2 * SLOW_AFTER)  # else what gives it up follows it over the same connection
        await backend.aclose()
        assert not task.done()
        await task
        outcome.is_(BackendError)
        assert not raw.exists(run_keys(namespace, "run").lease)
