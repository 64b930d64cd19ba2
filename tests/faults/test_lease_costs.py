"""What waiting costs: nothing while nothing happens, a few commands to come in, one connection to listen."""

from __future__ import annotations

import asyncio
import statistics
import threading
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest
import redis
import redis.asyncio

import histstore
import histstore.sync
from histstore import ANY

from ..support.history import message, tokens_of
from ..support.lease_workers import GUARD, Worker
from ..support.monitor import monitor
from ..support.servers import Server
from .conftest import Patience
from .shells import keys_of

pytestmark = pytest.mark.alone

Crew = Callable[..., Worker]


def test_those_who_wait_send_nothing_and_few_commands_when_it_is_their_turn(
    worker: Crew, private_server: Callable[..., Server], until: Patience
) -> None:
    """Sixteen processes of both shells wait for five seconds, while the holder renews a lease of 1 s: 0 commands.

    Then they are served in the order in which they came, and none of them has sent more than 8.
    """
    server = private_server()
    queue = keys_of("histstore", "run").queue
    with server.client() as raw, monitor(server) as watch:
        holder = worker("async", f"{server.url}?client_name=holder")
        waiters = [
            worker(shell, f"{server.url}?client_name=waiter-{index}")
            for index, shell in enumerate(("async", "sync") * 8)
        ]
        warm = [each.take(f"warm {index}", hold=0.0) for index, each in enumerate(waiters)]  # the self-test
        for each, job in zip(waiters, warm, strict=True):
            each.wait(job, "out")
        held = holder.take("run", ttl=1.0)
        holder.wait(held, "in")
        watch.counts(raw)
        jobs = []
        for place, each in enumerate(waiters, 1):
            jobs.append(each.take("run", hold=0.005))
            until(lambda place=place: raw.llen(queue) == place, "it queues")
        coming = watch.counts(raw)
        time.sleep(5.0)  # the lease, a claim, and every pause there is are shorter
        idle = watch.counts(raw)
        assert [name for name in idle if name.startswith("waiter")] == [], idle
        assert 10 <= idle["holder"] <= 30, "it renews"
        holder.go(held)
        for each, job in zip(waiters, jobs, strict=True):
            assert each.wait(job, "out").error is None
        leaving = watch.counts(raw)
        spent = [coming[f"waiter-{index}"] + leaving[f"waiter-{index}"] for index in range(16)]
        print(f"commands a waiter: {sorted(spent)}")
        assert max(spent) <= 8, (spent, [what for name, what in watch.heard if name == "waiter-7"])
        fences = [each.wait(job, "in").fence for each, job in zip(waiters, jobs, strict=True)]
        assert fences == sorted(set(fences))


def _listeners(raw: redis.Redis) -> list[Any]:
    return [each for each in raw.client_list() if int(each["sub"]) > 0]  # type: ignore[union-attr]


async def test_a_thousand_tasks_that_wait_for_a_hundred_runs_are_served_in_order_over_one_subscription(
    private_server: Callable[..., Server],
) -> None:
    """All of one process, each run's waiters in the order in which they came."""
    server = private_server()
    runs = [f"run {index}" for index in range(100)]
    served: dict[str, list[int]] = {run: [] for run in runs}
    async with histstore.RedisBackend.from_url(server.url) as first, asyncio.timeout(2 * GUARD):
        with server.client() as raw:
            async with histstore.RedisBackend.from_url(server.url) as backend:

                async def take(run: str, number: int) -> None:
                    store = backend.store(run)
                    async with store.lock():
                        served[run].append(number)
                        await store.append(message(str(number)), expected=ANY)

                release = asyncio.Event()

                async def hold(run: str, inside: asyncio.Semaphore) -> None:
                    async with first.store(run).lock():
                        inside.release()
                        await release.wait()

                inside = asyncio.Semaphore(0)
                holding = [asyncio.create_task(hold(run, inside)) for run in runs]
                for _ in runs:
                    await inside.acquire()
                waiting = [asyncio.create_task(take(run, number)) for number in range(10) for run in runs]
                while sum(raw.llen(keys_of("histstore", run).queue) for run in runs) < 1000:  # type: ignore[misc]
                    await asyncio.sleep(0.05)
                assert len(_listeners(raw)) == 1
                release.set()
                await asyncio.gather(*holding, *waiting)
                assert len(_listeners(raw)) == 1
        assert all(numbers == list(range(10)) for numbers in served.values())
        for run in runs[::10]:
            snapshot = await first.store(run).load()
            assert snapshot is not None
            assert tokens_of(snapshot.messages) == [str(number) for number in range(10)]


def test_two_hundred_threads_that_wait_for_twenty_runs_are_served_over_one_subscription(
    private_server: Callable[..., Server], until: Patience
) -> None:
    """The same in the blocking twin, whose threads share the backend."""
    server = private_server()
    runs = [f"run {index}" for index in range(20)]
    release = threading.Event()
    inside = threading.Semaphore(0)
    with (
        server.client() as raw,
        histstore.sync.RedisBackend.from_url(server.url) as first,
        histstore.sync.RedisBackend.from_url(server.url) as backend,
        ThreadPoolExecutor(220) as pool,
    ):

        def hold(run: str) -> None:
            with first.store(run).lock():
                inside.release()
                release.wait(GUARD)

        def take(run: str, number: int) -> None:
            store = backend.store(run)
            with store.lock():
                store.append(message(str(number)), expected=ANY)

        work = [pool.submit(hold, run) for run in runs]
        for _ in runs:
            assert inside.acquire(timeout=GUARD)
        work += [pool.submit(take, run, number) for number in range(10) for run in runs]
        until(
            lambda: sum(raw.llen(keys_of("histstore", run).queue) for run in runs) == 200,  # type: ignore[misc]
            "all of them queue",
        )
        assert len(_listeners(raw)) == 1
        release.set()
        for each in work:
            each.result(GUARD)
        for run in runs:
            snapshot = first.store(run).load()
            assert snapshot is not None
            assert sorted(tokens_of(snapshot.messages)) == sorted(str(number) for number in range(10))


async def test_taking_and_giving_up_a_lease_costs_hardly_more_than_two_pings(
    private_server: Callable[..., Server],
) -> None:
    """At most 1.5 times two PINGs of redis-py's own asyncio client, in the median, in the best of five rounds."""
    server = private_server()
    ratios = []
    client = redis.asyncio.Redis.from_url(server.url)
    async with histstore.RedisBackend.from_url(server.url) as backend:
        store = backend.store("run")
        async with store.lock():
            pass
        for _ in range(5):
            pings, leases = [], []
            for _ in range(400):
                began = time.perf_counter()
                await client.ping()
                await client.ping()
                pings.append(time.perf_counter() - began)
                began = time.perf_counter()
                async with store.lock():
                    pass
                leases.append(time.perf_counter() - began)
            ratios.append(statistics.median(leases) / statistics.median(pings))
            if ratios[-1] <= 1.5:
                break
    await client.aclose()
    print(f"ratios {ratios}")
    assert min(ratios) <= 1.5, ratios
