"""Hand-offs while the doorbell listens in the wrong place, is cut, or rings late: nobody enters without the lease.

The doorbell is advice. A replica's listeners hear a PUBLISH and are not counted by the primary; a connection that
outlives a change of roles behind its address is such a listener; messages arrive when what they say is long over.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import random
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest
import redis

import histstore
import histstore.sync
from histstore import HistoryStoreError, RetryPolicy

from ..support.router import Router, router
from ..support.servers import Server
from .shells import keys_of, open_backend

COUNT = int(os.environ.get("HISTSTORE_TEST_HANDOFFS") or 0)
"""Bodies to be entered in each kind of trouble; 0: 100, or 20 where that takes seconds."""
SWAPS = 6
RUNS, WORKERS = 8, 4
"""Runs, and backends each of which has a worker that wants each of them."""
TTL = 6.0
"""Seconds; longer than whatever rings late, so that no lease lapses."""
PATIENT = RetryPolicy(attempts=200, deadline=30.0, base=0.002, cap=0.02)
GUARD = 120.0


class Scene:
    """A primary, a replica, an address, and what bodies that are inside look at.

    Attributes:
        count: Bodies to be entered.
        swaps: Changes of roles so far; None: there are none to be.
        entered: Bodies that were entered so far.
        wrong: What a body found that must not be.
        over: Whether enough have been.
    """

    def __init__(self, servers: list[Server], between: Router, namespace: str, seed: int) -> None:
        self.count = COUNT or 100
        self.swaps: int | None = None
        self.servers, self.between, self.namespace = servers, between, namespace
        self.chance = random.Random(seed)
        self.entered = 0
        self.wrong: list[str] = []
        self.over = threading.Event()
        self._inside: dict[str, list[str]] = {}
        self._looking = threading.Lock()
        self._end = time.monotonic() + GUARD

    def enter(self, run: str, holder: str) -> None:
        """Looks, on the primary, whose the lease is; nobody changes the roles meanwhile."""
        with self._looking:
            primary = self.servers[0].client()
            found = primary.hget(keys_of(self.namespace, run).lease, "holder")
            primary.close()
            inside = self._inside.setdefault(run, [])
            if found != holder.encode():
                self.wrong.append(f"{holder} is inside {run}, and the server says {found!r}")
            if inside:
                self.wrong.append(f"{holder} is inside {run}, and so is {inside}")
            inside.append(holder)
            self.entered += 1
            enough = self.entered >= self.count and (self.swaps is None or self.swaps >= SWAPS)
            if enough or self.wrong or time.monotonic() > self._end:
                self.over.set()

    def leave(self, run: str, holder: str) -> None:
        with self._looking:
            self._inside[run].remove(holder)

    def swap_roles(self) -> None:
        """The replica becomes the primary behind the address; the connections that listen live on."""
        with self._looking:
            old, new = self.servers
            with old.client() as first, new.client() as second:
                first.execute_command("FAILOVER", "TO", "127.0.0.1", new.port)
                while first.info("replication")["role"] != "slave" or second.info("replication")["role"] != "master":
                    assert time.monotonic() < self._end, "the roles do not change"
                    time.sleep(0.005)
            self.servers = [new, old]
            self.between.port = new.port
            self.between.cut(listeners=False)
            self.swaps = (self.swaps or 0) + 1


@pytest.fixture
def scene(private_server: Callable[..., Server], namespace: str, request: pytest.FixtureRequest) -> Iterator[Scene]:
    primary, replica = private_server(repl_diskless_sync_delay="0"), private_server(repl_diskless_sync_delay="0")
    seed = int(os.environ.get("HISTSTORE_TEST_SEED") or random.SystemRandom().randrange(10**9))
    print(f"HISTSTORE_TEST_SEED={seed}")
    with replica.client() as raw, router(primary.port) as between:
        raw.execute_command("REPLICAOF", "127.0.0.1", primary.port)
        end = time.monotonic() + 20
        while raw.info("replication")["master_link_status"] != "up":
            assert time.monotonic() < end, "the replica does not follow"
            time.sleep(0.01)
        with primary.client() as first:
            first.set("whatever", "flows")
            assert first.wait(1, 20_000) == 1, "nothing flows to the replica"
        yield Scene([primary, replica], between, namespace, seed)


def on_a_replica(scene: Scene) -> None:
    """All doorbells listen where nobody counts them."""
    scene.between.listen_port = scene.servers[1].port


def roles_swapped(scene: Scene) -> None:
    """The doorbells listen at what was the primary when they were opened; it changes again and again."""
    scene.swaps = 0
    while not scene.over.wait(0.2):
        scene.swap_roles()


def cut_at_random(scene: Scene) -> None:
    """The doorbells lose what rings, and ask when they hear again."""
    while not scene.over.wait(scene.chance.uniform(0.0, 0.05)):
        scene.between.cut(listeners=True)


def rung_late(scene: Scene) -> None:
    """What rings arrives up to two seconds later: often after the claim has gone to somebody else."""
    scene.count = COUNT or 20
    scene.between.listener_delay = lambda: scene.chance.choice((0.0, scene.chance.uniform(0.0, 2.0)))


def rung_late_on_a_replica(scene: Scene) -> None:
    """Both: nobody is counted, and all are called late."""
    rung_late(scene)
    on_a_replica(scene)


async def _work(scene: Scene, backend: histstore.RedisBackend, run: str, pause: float) -> None:
    store = backend.store(run)
    while not scene.over.is_set():
        with contextlib.suppress(HistoryStoreError):
            async with store.lock(ttl=TTL, acquire_timeout=20.0) as lease:
                scene.enter(run, lease.holder)
                await asyncio.sleep(pause)
                scene.leave(run, lease.holder)
        await asyncio.sleep(pause)


async def _work_all(scene: Scene) -> None:
    async with contextlib.AsyncExitStack() as stack:
        tasks = []
        for _ in range(WORKERS):
            backend = histstore.RedisBackend.from_url(scene.between.url, namespace=scene.namespace, retry=PATIENT)
            await stack.enter_async_context(backend)
            tasks += [
                asyncio.create_task(_work(scene, backend, f"run {n}", scene.chance.uniform(0.001, 0.01)))
                for n in range(RUNS)
            ]
        async with asyncio.timeout(GUARD):
            await asyncio.gather(*tasks)


def _blocking_work(scene: Scene, backend: histstore.sync.RedisBackend, run: str, pause: float) -> None:
    store = backend.store(run)
    while not scene.over.is_set():
        with contextlib.suppress(HistoryStoreError), store.lock(ttl=TTL, acquire_timeout=20.0) as lease:
            scene.enter(run, lease.holder)
            time.sleep(pause)
            scene.leave(run, lease.holder)
        time.sleep(pause)


def _blocking_work_all(scene: Scene) -> None:
    with contextlib.ExitStack() as stack:
        threads = []
        for _ in range(WORKERS):
            backend = histstore.sync.RedisBackend.from_url(scene.between.url, namespace=scene.namespace, retry=PATIENT)
            stack.enter_context(backend)
            for n in range(RUNS):
                args = (scene, backend, f"run {n}", scene.chance.uniform(0.001, 0.01))
                threads.append(threading.Thread(target=_blocking_work, args=args, daemon=True))
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join(GUARD)


@pytest.mark.parametrize("shell", ["async", "sync"])
@pytest.mark.parametrize("trouble", [on_a_replica, roles_swapped, cut_at_random, rung_late, rung_late_on_a_replica])
def test_nobody_enters_without_the_lease(trouble: Callable[[Scene], None], shell: str, scene: Scene) -> None:
    """At each entry the lease on the primary is the entrant's own, and nobody else is inside; and all come in."""
    troubled = threading.Thread(target=trouble, args=(scene,), daemon=True)
    troubled.start()
    troubled.join(0.01)  # before anybody has begun to listen
    began = time.monotonic()
    if shell == "async":
        asyncio.run(_work_all(scene))
    else:
        _blocking_work_all(scene)
    scene.over.set()
    troubled.join(20)
    print(f"{scene.entered} entries in {time.monotonic() - began:.1f} s, {scene.swaps} changes of roles")
    assert not scene.wrong, scene.wrong[:5]
    assert scene.entered >= scene.count, "not all came in"


class _Row:
    """Waiters that came in a known order, and the order in which they enter."""

    def __init__(self, scene: Scene) -> None:
        self.scene = scene
        self.raw = scene.servers[0].client()
        self.keys = keys_of(scene.namespace, "run")
        self.entered: list[int] = []

    async def come(self, count: int, stack: contextlib.AsyncExitStack, shell: str) -> list[Any]:
        waiting = []
        self._threads = stack.enter_context(ThreadPoolExecutor(count))
        for number in range(count):
            backend = open_backend(shell, self.scene.between.url, namespace=self.scene.namespace)
            stack.push_async_callback(backend.aclose)
            waiting.append(asyncio.create_task(self._wait(backend, shell, number)))
            while self.raw.llen(self.keys.queue) != number + 1:
                await asyncio.sleep(0.002)
        return waiting

    async def _wait(self, backend: Any, shell: str, number: int) -> None:
        if shell == "async":
            async with backend.store("run").lock(ttl=20.0):
                self.entered.append(number)
                await asyncio.sleep(0.02)
        else:
            loop = asyncio.get_running_loop()
            await loop.run_in_executor(self._threads, self._wait_blocking, backend.inner, number)

    def _wait_blocking(self, backend: Any, number: int) -> None:
        with backend.store("run").lock(ttl=20.0):
            self.entered.append(number)
            time.sleep(0.02)


def _calls(raw: redis.Redis) -> int:
    stats: Any = raw.info("commandstats")
    return int(stats.get("cmdstat_evalsha", {}).get("calls", 0))


@pytest.mark.parametrize("shell", ["async", "sync"])
async def test_waiters_that_are_not_counted_come_in_order_and_not_all_at_once(shell: str, scene: Scene) -> None:
    """The first hand-off drops all of them. They ask again one after the other, and keep their places after that."""
    on_a_replica(scene)
    row = _Row(scene)
    count = 10
    async with contextlib.AsyncExitStack() as stack, asyncio.timeout(GUARD):
        holder = open_backend("async", scene.servers[0].url, namespace=scene.namespace)
        stack.push_async_callback(holder.aclose)
        async with holder.store("run").lock(ttl=60.0):
            waiting = await row.come(count, stack, shell)
            assert not row.raw.pubsub_channels("*doorbell*"), "the primary counts them"
            before = _calls(row.raw)
        await asyncio.gather(*waiting)
        asked = _calls(row.raw) - before
    print(f"{row.entered}, {asked} calls")
    # They come 5 ms apart, which a busy machine may mix up a little.
    late = sum(a > b for n, a in enumerate(row.entered) for b in row.entered[n:])
    assert sorted(row.entered) == list(range(count))
    assert late <= count, row.entered
    # The holder's release; of each waiter: it is called, it is called again in its turn, it releases. And some spare.
    assert asked <= 1 + 4 * count
    row.raw.close()


@pytest.mark.parametrize("shell", ["async", "sync"])
async def test_a_waiter_that_is_not_counted_does_not_starve(shell: str, scene: Scene) -> None:
    """Others, whom the server counts, come again and again: it has its turn among them."""
    scene.between.listen_port = scene.servers[1].port
    entries: list[str] = []
    enough = threading.Event()

    def work(name: str, url: str) -> None:
        with histstore.sync.RedisBackend.from_url(url, namespace=scene.namespace, retry=PATIENT) as backend:
            while not enough.is_set():
                with backend.store("run").lock(ttl=20.0):
                    entries.append(name)
                    time.sleep(0.002)

    async def work_async(name: str, url: str) -> None:
        async with histstore.RedisBackend.from_url(url, namespace=scene.namespace, retry=PATIENT) as backend:
            while not enough.is_set():
                async with backend.store("run").lock(ttl=20.0):
                    entries.append(name)
                    await asyncio.sleep(0.002)

    def run(name: str, url: str) -> None:
        if shell == "sync":
            work(name, url)
        else:
            asyncio.run(work_async(name, url))

    direct, routed = scene.servers[0].url, scene.between.url
    threads = [threading.Thread(target=run, args=(f"counted {n}", direct), daemon=True) for n in range(4)]
    threads.append(threading.Thread(target=run, args=("not counted", routed), daemon=True))
    for thread in threads:
        thread.start()
    end = time.monotonic() + GUARD
    while "not counted" not in entries and time.monotonic() < end:
        await asyncio.sleep(0.005)
    began = len(entries)
    while entries.count("not counted") < 10 and len(entries) < began + 200 and time.monotonic() < end:
        await asyncio.sleep(0.005)
    enough.set()
    for thread in threads:
        await asyncio.to_thread(thread.join, GUARD)
    print(f"{entries.count('not counted')} of {len(entries)}")
    assert entries.count("not counted") >= 10
