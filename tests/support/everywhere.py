"""One backend of each shell, used everywhere at once: in loops in turn, threads, forked children and a spawn pool."""

from __future__ import annotations

import asyncio
import gc
import json
import os
import random
import threading
import time
import traceback
import uuid
import warnings
from collections import Counter
from collections.abc import Callable
from concurrent.futures import Future, ProcessPoolExecutor, ThreadPoolExecutor
from dataclasses import dataclass, field
from functools import partial
from multiprocessing import get_context
from typing import Any

import redis

import histstore
import histstore.sync
from histstore import ANY, ConversationSnapshot, RetryPolicy

SHARED = 6
"""Runs that everybody writes to."""
LOOPS = 50
"""Event loops that come one after the other, at least."""
THREADS = 8
CHILDREN = 4
PERSISTENT = RetryPolicy(attempts=2000, deadline=120.0, base=0.001, cap=0.02)
"""Nothing fails here but races, which each writer has to win in the end."""
PATIENCE = 120.0

Written = list[tuple[str, str]]
"""Acknowledged messages: run and token."""


def message(run: str, token: str) -> dict[str, Any]:
    return {"run": run, "token": token}


def check(run: str, snapshot: Any, own: Written | None = None) -> None:
    """Asserts that a reply is about the run that was asked for; a run of the worker's own holds what it wrote."""
    found = [] if snapshot is None else list(snapshot.messages)
    crossed = [each for each in found if each["run"] != run]
    assert not crossed, f"asked for {run}, and was answered {crossed[:3]}"
    if own is not None:
        tokens = [each["token"] for each in found]
        assert sorted(tokens) == sorted(token for where, token in own if where == run), f"{run}: {tokens}"


class Worker:
    """Writes numbered messages, to shared runs and to one of its own, and checks each answer.

    Attributes:
        written: What was acknowledged.
    """

    def __init__(self, name: str, seed: int) -> None:
        self.name = name
        self.written: Written = []
        self._random = random.Random(f"{seed} {name}")

    def _next(self) -> tuple[str, str, dict[str, Any]]:
        chosen = self._random.random()
        run = self.name if chosen < 0.4 else f"shared-{self._random.randrange(SHARED)}"
        token = f"{self.name}:{len(self.written)}"
        return run, token, message(run, token)

    async def burst(self, backend: Any, count: int) -> None:
        """Writes some messages through the asyncio shell, several at once."""
        await asyncio.gather(*[self._step(backend) for _ in range(count)], self._look(backend))

    async def _step(self, backend: Any) -> None:
        run, token, sent = self._next()
        self.written.append((run, token))  # what fails, fails the whole
        how = self._random.choice(("append", "turn", "update")) if run != self.name else "update"
        store = backend.store(run)
        if how == "append":
            await patiently(lambda: store.append(sent, expected=ANY, retry=PERSISTENT))
        elif how == "turn":
            async with store.turn(acquire_timeout=PATIENCE, ttl=20.0, retry=PERSISTENT) as turn:
                check(run, turn.snapshot)
                turn.append(sent)
        else:
            change = partial(grown, sent)
            await patiently(lambda: store.update(change, retry=PERSISTENT))
        check(run, await store.load(retry=PERSISTENT))

    async def _look(self, backend: Any) -> None:
        run = f"shared-{self._random.randrange(SHARED)}"
        check(run, await backend.store(run).load(retry=PERSISTENT))

    def step(self, backend: Any) -> None:
        """Writes one message through the blocking twin."""
        run, token, sent = self._next()
        self.written.append((run, token))
        store = backend.store(run)
        if run != self.name and self._random.random() < 0.3:
            with store.turn(acquire_timeout=PATIENCE, ttl=20.0, retry=PERSISTENT) as turn:
                check(run, turn.snapshot)
                turn.append(sent)
        else:
            patiently_blocking(lambda: store.update(partial(grown, sent), retry=PERSISTENT))
        check(run, store.load(retry=PERSISTENT), self.written if run == self.name else None)


def grown(sent: dict[str, Any], old: Any) -> Any:
    return (old or ConversationSnapshot()).append(sent)


async def patiently(write: Callable[[], Any]) -> None:
    """Writes; again for as long as another holds the run's lease."""
    while True:
        try:
            await write()
            return
        except histstore.LockedError:
            await asyncio.sleep(0.005)


def patiently_blocking(write: Callable[[], Any]) -> None:
    while True:
        try:
            write()
            return
        except histstore.LockedError:
            time.sleep(0.005)


def in_loops(backend: Any, worker: Worker, end: float, least: int, burst: int) -> int:
    """Uses the backend in one event loop after the other; returns in how many."""
    loops = 0
    while loops < least or time.monotonic() < end:
        asyncio.run(worker.burst(backend, burst))
        loops += 1
    return loops


def forked(work: Callable[[], Written]) -> tuple[int, int]:
    """Forks a child that runs `work`; returns its id, and where what it wrote can be read."""
    reading, writing = os.pipe()
    with warnings.catch_warnings(action="ignore"):  # Python warns of threads that are gone in the child
        child = os.fork()
    if child:
        os.close(writing)
        return child, reading
    try:
        try:
            said: Any = work()
        except BaseException:
            said = traceback.format_exc()
        with os.fdopen(writing, "wb") as pipe:
            pipe.write(json.dumps(said).encode())
    finally:
        os._exit(0)


def in_pool(backends: tuple[Any, Any], name: str, seed: int) -> Written:
    """Runs in a process of a pool that was spawned: its backends came in a pickle."""
    worker = Worker(name, seed)
    in_loops(backends[0], worker, 0.0, 2, 3)
    for _ in range(4):
        worker.step(backends[1])
    asyncio.run(backends[0].aclose())
    backends[1].close()
    return worker.written


@dataclass
class Result:
    """What came of a run.

    Attributes:
        problems: What must not be.
        counts: What was done.
        seconds: How long it took.
    """

    problems: list[str] = field(default_factory=list)
    counts: Counter[str] = field(default_factory=Counter)
    seconds: float = 0.0

    @property
    def text(self) -> str:
        done = ", ".join(f"{count:,} {what}" for what, count in sorted(self.counts.items()))
        lines = [f"{done}, in {self.seconds:.0f} s", *self.problems[:20]]
        return "\n".join([*lines, f"{len(self.problems)} problems" if self.problems else "every message once"])


def run(url: str, seconds: float, seed: int) -> Result:
    """Uses one backend of each shell everywhere at once, then counts every message."""
    result = Result()
    began = time.monotonic()
    end = began + seconds
    raw = redis.Redis.from_url(url)
    namespace = f"everywhere-{uuid.uuid4().hex[:8]}"
    raw.ping()
    before = len(raw.client_list())  # type: ignore[arg-type]
    backend = histstore.RedisBackend.from_url(url, namespace=namespace)
    blocking = histstore.sync.RedisBackend.from_url(url, namespace=namespace)
    written: Written = []
    counting = threading.Lock()

    def both(name: str, end: float = end) -> Written:
        worker = Worker(name, seed)
        while not worker.written or time.monotonic() < end:
            asyncio.run(worker.burst(backend, 5))
            for _ in range(3):
                worker.step(blocking)
        return worker.written

    def thread(name: str) -> Written:
        worker = Worker(name, seed)
        loops = in_loops(backend, worker, end, 2, 8)
        with counting:
            result.counts["loops in threads"] += loops
        return worker.written

    def blocking_thread(name: str) -> Written:
        worker = Worker(name, seed)
        while time.monotonic() < end:
            worker.step(blocking)
        return worker.written

    written += both("parent", 0.0)  # it has used both before it forks
    in_turn = Worker("in-turn", seed)
    in_loops(backend, in_turn, 0.0, 2, 2)
    with ThreadPoolExecutor(THREADS + 2) as threads, ProcessPoolExecutor(2, mp_context=get_context("spawn")) as pool:
        working: list[Future[Written]] = [threads.submit(thread, f"thread-{number}") for number in range(THREADS)]
        working += [threads.submit(blocking_thread, f"blocking-{number}") for number in range(2)]
        children = []
        for number in range(CHILDREN):
            in_loops(backend, in_turn, 0.0, 2, 5)  # between the forks, so that each comes under load
            name = f"child-{number}"
            children.append(forked(lambda name=name: both(name)))  # type: ignore[misc]
        result.counts["children"] += len(children)
        tasks = 0
        while tasks < 4 or time.monotonic() < end:
            pair = [pool.submit(in_pool, (backend, blocking), f"pool-{tasks + each}", seed) for each in range(2)]
            result.counts["loops in turn"] += in_loops(backend, in_turn, 0.0, 6, 4)
            working += pair
            tasks += 2
            for one in pair:
                one.exception(2 * PATIENCE)
        result.counts["tasks of the pool"] += tasks
        result.counts["loops in turn"] += in_loops(backend, in_turn, 0.0, LOOPS - result.counts["loops in turn"], 4)
        for outcome in working:
            try:
                written += outcome.result(2 * PATIENCE)
            except Exception as error:
                result.problems.append("".join(traceback.format_exception(error)))
        for child, reading in children:
            with os.fdopen(reading, "rb") as pipe:
                said = json.loads(pipe.read() or b'"a child ended without a word"')
            os.waitpid(child, 0)
            if isinstance(said, str):
                result.problems.append(said)
            else:
                written += [(run, token) for run, token in said]
    written += in_turn.written
    result.counts["messages"] += len(written)
    _count(result, backend, written)
    asyncio.run(backend.aclose())
    blocking.close()
    _look_for_leavings(result, raw, namespace, before)
    raw.close()
    result.seconds = time.monotonic() - began
    return result


def _count(result: Result, backend: Any, written: Written) -> None:
    async def contents(run: str) -> list[str]:
        snapshot = await backend.store(run).load()
        check(run, snapshot)
        return [] if snapshot is None else [each["token"] for each in snapshot.messages]

    runs = sorted({run for run, _ in written})
    for run in runs:
        found = Counter(asyncio.run(contents(run)))
        wanted = Counter(token for where, token in written if where == run)
        result.problems += [f"lost in {run}: {token}" for token in wanted - found]
        result.problems += [f"unknown or twice in {run}: {token}" for token in found - wanted]
    result.counts["runs"] += len(runs)


def _look_for_leavings(result: Result, raw: redis.Redis, namespace: str, before: int) -> None:
    gc.collect()
    left: list[str] = []
    until = time.monotonic() + 10.0
    while time.monotonic() < until:
        keys = list(raw.scan_iter(f"{namespace}:*", count=1000))
        left = [key.decode() for key in keys if key.endswith((b":lease", b":queue"))]
        extra = len(raw.client_list()) - before  # type: ignore[arg-type]
        left += [f"{extra} connections"] if extra > 0 else []
        left += [each.name for each in threading.enumerate() if each.name.startswith("histstore-")]
        if not left:
            break
        time.sleep(0.05)
    result.problems += [f"left behind: {thing}" for thing in left]
    for key in list(raw.scan_iter(f"{namespace}:*", count=1000)):
        raw.delete(key)
