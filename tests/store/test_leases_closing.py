"""Closing a backend whose turns and locks are still inside: what they may do, for how long, and what they are told."""

from __future__ import annotations

import asyncio
import pickle
import threading
import time
from collections.abc import Callable
from contextvars import Context
from typing import Any

import pytest
import redis

import histstore
from histstore import BackendError, LeaseLostError, SnapshotError
from histstore.protocol.keys import run_keys

from ..support.samples import user
from ..support.shells import Shell, until
from .conftest import Backends, leases_and_queues

LONG = 60.0
"""Seconds; nothing here takes a tenth of it."""
GUARD = 20.0


class Body:
    """Somebody else's body, that stays inside until it is let go, and then saves.

    Attributes:
        turn: What it is inside of.
        done: What came of it, to be awaited.
    """

    def __init__(self, shell: Shell, backend: Any, run: str = "run", **options: Any) -> None:
        self.turn: Any = None
        self._store = backend.store(run)
        self._go = threading.Event()
        self.done = shell.apart(self._work(options))

    async def _work(self, options: dict[str, Any]) -> None:
        async with self._store.turn(ttl=LONG, **options) as turn:
            self.turn = turn
            await until(self._go.is_set, seconds=LONG)
            turn.append(user(0))
            await turn.save()
            turn.append(user(1))

    async def entered(self) -> Any:
        await until(lambda: self.turn is not None)
        return self.turn

    def go_on(self) -> None:
        self._go.set()


def _lease(raw: redis.Redis, namespace: str) -> Any:
    return raw.hget(run_keys(namespace, "run").lease, "holder")


async def _refused(shell: Shell, backend: Any, text: str = "closing") -> bool:
    async def take() -> None:
        async with backend.store("another").lock():
            pass

    try:
        await shell.apart(take())
    except BackendError as error:
        assert text in str(error)
        return True
    return False


async def test_who_is_inside_may_end_while_the_backend_closes(
    shell: Shell, backends: Backends, raw: redis.Redis, namespace: str, server_url: str
) -> None:
    """It saves, in its midst and at its exit, and releases; nothing new begins; who waits is told at once."""
    backend, other = backends(), backends()
    body = Body(shell, backend)
    await body.entered()
    waiting = Body(shell, backend)
    await until(lambda: raw.llen(run_keys(namespace, "run").queue) == 1)
    closing = shell.apart(backend.aclose(drain=LONG))
    with pytest.raises(BackendError, match="closing"):
        await asyncio.wait_for(waiting.done, GUARD)
    assert await _refused(shell, backend)
    assert not raw.exists(run_keys(namespace, "another").head), "it was taken, and given up again"
    await until(lambda: not raw.exists(run_keys(namespace, "run").queue), "it left the queue")
    assert (await other.store("run").info()).lease.holder == body.turn.lease.holder
    assert not closing.done()
    body.go_on()
    await body.done
    await asyncio.wait_for(closing, GUARD)
    assert (await other.store("run").load()).messages == (user(0), user(1))
    assert leases_and_queues(raw, namespace) == []
    with pytest.raises(BackendError, match="closed"):
        await backend.store("run").load()


async def test_a_forced_stop_does_not_lose_the_answer(server_url: str, namespace: str, raw: redis.Redis) -> None:
    """A web server cancels its handlers and runs the shutdown at once: the handler's last save comes after that."""
    backend = histstore.RedisBackend.from_url(server_url, namespace=namespace)
    inside = asyncio.Event()
    ended: list[str] = []

    async def handler() -> None:
        async with backend.store("run").turn(ttl=LONG) as turn:
            inside.set()
            try:
                await asyncio.sleep(LONG)
            except asyncio.CancelledError:
                await asyncio.sleep(0.05)  # what it has so far is put together
                turn.append(user(0))
                await turn.save()
                ended.append("saved")
                raise

    handling = asyncio.create_task(handler(), context=Context())
    await inside.wait()
    handling.cancel()
    async with asyncio.timeout(GUARD):
        await backend.aclose()
    with pytest.raises(asyncio.CancelledError):
        await handling
    assert ended == ["saved"]
    async with histstore.RedisBackend.from_url(server_url, namespace=namespace) as other:
        snapshot = await other.store("run").load()
        assert snapshot is not None
        assert snapshot.messages == (user(0),)
    assert leases_and_queues(raw, namespace) == []


async def test_a_body_that_does_not_end_loses_its_lease_after_the_time_it_had(
    shell: Shell, backends: Backends, raw: redis.Redis, namespace: str
) -> None:
    """The next worker is inside at once, not after the lease; the body is told why, and can save nothing more."""
    backend, other = backends(), backends()
    body = Body(shell, backend, cancel=False)
    turn = await body.entered()
    next_one = Body(shell, other)
    await until(lambda: raw.llen(run_keys(namespace, "run").queue) == 1)
    await asyncio.wait_for(shell.apart(backend.aclose(drain=0.3)), GUARD)
    assert turn.lease.lost
    assert turn.lease.remaining() == 0
    assert _lease(raw, namespace) != turn.lease.holder.encode()
    await next_one.entered()
    next_one.go_on()
    await next_one.done
    body.go_on()
    with pytest.raises(LeaseLostError, match="the backend was closed") as caught:
        await body.done
    assert (caught.value.fence, caught.value.current) == (turn.lease.fence, None)
    copy = pickle.loads(pickle.dumps(caught.value))
    assert (str(copy), copy.fence, copy.current) == (str(caught.value), caught.value.fence, None)
    assert (await other.store("run").load()).messages == (user(0), user(1))


async def test_a_body_that_does_not_end_is_cancelled(server_url: str, namespace: str, raw: redis.Redis) -> None:
    """In asyncio, as on every loss; the exit says that the backend was closed."""
    backend = histstore.RedisBackend.from_url(server_url, namespace=namespace)
    inside = asyncio.Event()

    async def body() -> None:
        async with backend.store("run").lock(ttl=LONG):
            inside.set()
            await asyncio.sleep(LONG)

    working = asyncio.create_task(body(), context=Context())
    await inside.wait()
    await asyncio.wait_for(backend.aclose(drain=0), GUARD)
    assert leases_and_queues(raw, namespace) == []
    with pytest.raises(LeaseLostError, match="the backend was closed"):
        await working


async def test_several_may_close_a_backend_at_once_and_again(
    shell: Shell, backends: Backends, raw: redis.Redis, namespace: str
) -> None:
    """All of them return when it is closed; who gives less time decides."""
    backend = backends()
    bodies = [Body(shell, backend, f"run {n}", cancel=False) for n in range(3)]
    for body in bodies:
        await body.entered()
    closing = [shell.apart(backend.aclose(drain=LONG)) for _ in range(3)]
    bodies[0].go_on()
    await bodies[0].done
    assert not any(each.done() for each in closing)
    await asyncio.wait_for(shell.apart(backend.aclose(drain=0)), GUARD)
    await asyncio.wait_for(asyncio.gather(*closing), GUARD)
    assert leases_and_queues(raw, namespace) == []
    for body in bodies[1:]:
        body.go_on()
        with pytest.raises(LeaseLostError, match="closed"):
            await body.done
    for _ in range(2):
        await backend.aclose()


async def test_closing_from_inside_a_turn_does_not_wait_for_that_turn(
    shell: Shell, backends: Backends, raw: redis.Redis, namespace: str
) -> None:
    """Nor for another lock that the same task is in; but for what others are inside of."""
    backend, other = backends(), backends()
    body = Body(shell, backend, "another")
    await body.entered()
    threading.Timer(0.3, body.go_on).start()

    async def inside() -> None:
        async with backend.store("run").turn(ttl=LONG) as turn, backend.store("third").lock(ttl=LONG):
            turn.append(user(0))
            await backend.aclose(drain=LONG)
            await turn.save()

    with pytest.raises(LeaseLostError, match="the backend was closed"):
        await asyncio.wait_for(shell.apart(inside()), GUARD)
    await body.done
    assert (await other.store("another").load()).messages == (user(0), user(1))
    assert await other.store("run").load() is None
    assert leases_and_queues(raw, namespace) == []


async def test_closing_that_is_cancelled_gives_up_at_once(server_url: str, namespace: str, raw: redis.Redis) -> None:
    """The wait ends, the rest is done before it leaves: no lease, no task and no connection stays."""
    backend = histstore.RedisBackend.from_url(server_url, namespace=namespace)
    inside = asyncio.Event()

    async def body() -> None:
        async with backend.store("run").lock(ttl=LONG, cancel=False) as lease:
            inside.set()
            assert await lease.wait_lost()

    working = asyncio.create_task(body(), context=Context())
    await inside.wait()
    closing = asyncio.create_task(backend.aclose(drain=LONG), context=Context())
    await asyncio.sleep(0.1)
    assert not closing.done()
    closing.cancel()
    with pytest.raises(asyncio.CancelledError):
        await asyncio.wait_for(closing, GUARD)
    assert leases_and_queues(raw, namespace) == []
    assert not [task for task in asyncio.all_tasks() if task.get_name().startswith("histstore-")]
    with pytest.raises(LeaseLostError, match="the backend was closed"):
        await working


async def test_where_nothing_is_inside_closing_waits_for_nothing(shell: Shell, backends: Backends) -> None:
    """However long it would: one that was never used, one that was, one whose lease is lost already."""
    for use in range(3):
        backend = backends()
        scope = backend.store("run").lock(ttl=LONG, cancel=False)
        if use == 1:
            async with backend.store("run").lock():
                pass
        elif use == 2:
            await scope.__aenter__()
            await shell.apart(backend.break_lease("run"))
        began = time.monotonic()
        await asyncio.wait_for(shell.apart(backend.aclose(drain=LONG)), GUARD)
        assert time.monotonic() - began < GUARD
        if use == 2:
            with pytest.raises(LeaseLostError, match="break_lease"):
                await scope.__aexit__(None, None, None)


async def test_leaving_the_backends_block_lets_those_inside_end(
    shell: Shell, server_url: str, namespace: str, raw: redis.Redis
) -> None:
    """`async with backend:` exits with the time that `aclose` gives by itself: enough to save an answer."""
    async with shell.from_url(server_url, namespace=namespace) as backend:
        body = Body(shell, backend)
        await body.entered()
        threading.Timer(0.3, body.go_on).start()
        # The blocking shell's exit would stop this loop, in which nothing else runs that the body needs.
    await body.done
    async with shell.from_url(server_url, namespace=namespace) as other:
        assert (await other.store("run").load()).messages == (user(0), user(1))


@pytest.mark.parametrize("drain", [-1, -0.001, float("nan"), float("inf"), "5", None, True, 1e9])
async def test_a_time_that_is_none_is_refused(backend: Any, drain: Any) -> None:
    """And the backend stays open."""
    with pytest.raises(SnapshotError, match="drain"):
        await backend.aclose(drain=drain)
    await backend.store("run").append(user(0))


async def test_an_embedded_server_is_stopped_after_those_inside_have_ended(
    shell: Shell, tmp_path: Any, embedded: Callable[..., Any]
) -> None:
    """What they saved meanwhile is there when it is started again."""
    backend = embedded(shell, tmp_path)
    body = Body(shell, backend)
    await body.entered()
    closing = shell.apart(backend.aclose(drain=LONG))
    assert await _refused(shell, backend)
    body.go_on()
    await body.done
    await closing
    again = embedded(shell, tmp_path)
    assert (await again.store("run").load()).messages == (user(0), user(1))
    await again.aclose()


@pytest.fixture
def embedded() -> Callable[..., Any]:
    """Makes backends that own a server."""
    return lambda shell, path: shell.dress(shell.module.RedisBackend.embedded(path))
