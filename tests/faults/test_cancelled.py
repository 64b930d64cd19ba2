"""Tasks are cancelled at random moments inside every call (row 15)."""

from __future__ import annotations

import asyncio
import contextlib
import gc
import random
from collections.abc import AsyncIterator, Callable
from typing import Any

import pytest

from histstore import (
    ANY,
    Attempt,
    ConflictError,
    ConversationSnapshot,
    Durability,
    NotReplicatedError,
    RedisBackend,
    RetryPolicy,
)

from ..support.history import Append, History, message, tokens_of
from ..support.proxy import Proxy, proxy
from ..support.servers import Server
from .shells import FAST, GUARD, contents, keys_of

ROUNDS = 300


@contextlib.asynccontextmanager
async def _nothing_left_behind(backend: RedisBackend, server: Server) -> AsyncIterator[None]:
    """Asserts that the body leaves no task, no unretrieved exception, and no connection in use."""
    loop = asyncio.get_running_loop()
    complaints: list[Any] = []
    loop.set_exception_handler(lambda _loop, context: complaints.append(context))
    before = asyncio.all_tasks()
    yield
    assert backend._runner.connections[0] == 0, "connections are still lent out"
    await backend.aclose()
    assert backend._runner.connections == (0, 0)
    async with asyncio.timeout(GUARD):
        while others := [task for task in asyncio.all_tasks() - before if "histstore" in repr(task.get_coro())]:
            await asyncio.wait(others, timeout=1)
        with server.client() as raw:
            while len(raw.client_list()) > 1:  # type: ignore[arg-type]
                await asyncio.sleep(0.01)
    gc.collect()
    await asyncio.sleep(0)
    loop.set_exception_handler(None)
    assert complaints == []


async def _cancelled_somewhere(rng: random.Random, work: Any) -> BaseException | None:
    """Runs `work` in a task, cancels it at a random moment, and returns what it raised."""
    task = asyncio.ensure_future(work)
    if rng.random() < 0.6:
        for _ in range(rng.randrange(12)):
            await asyncio.sleep(0)
    else:
        await asyncio.sleep(rng.choice((0.001, 0.004, 0.02)) * rng.random())
    task.cancel()
    await asyncio.wait([task])
    if task.cancelled():
        return asyncio.CancelledError()
    return task.exception()


def _grow(token: str) -> Callable[[Any], Any]:
    async def change(snapshot: Any) -> Any:
        await asyncio.sleep(0)
        return (ConversationSnapshot() if snapshot is None else snapshot).append(message(token))

    return change


async def _resolved(store: Any, attempt: Any = None) -> Any:
    """Returns what a write came to, durable or not."""
    try:
        return await store.resolve(attempt)
    except NotReplicatedError as error:
        return error.revision


async def _storm(rng: random.Random, seed: int, backend: RedisBackend, between: Proxy, rounds: int) -> History:
    """Cancels appends, saves, updates and loads of two stores of one run; settles what is open at random."""
    history = History()
    left_open: list[tuple[Append, Attempt]] = []
    stores = {name: backend.store("run") for name in "ab"}
    between.delay = lambda: rng.choice((0, 0, 0, 0.001, 0.003))
    for turn in range(rounds):
        name = rng.choice("ab")
        store, token = stores[name], f"{name}-{turn}"
        if rng.random() < 0.1:
            between.lose_replies(1)
        before = store.unsettled
        match rng.choice(("append", "append", "save", "update", "load")):
            case "load":
                error = await _cancelled_somewhere(rng, store.load())
                assert error is None or isinstance(error, asyncio.CancelledError), f"seed {seed}, turn {turn}"
                continue
            case "append":
                work: Any = store.append(message(token), expected=ANY)
            case "update":
                work = store.update(_grow(token))
            case _:
                loaded = await store.load()
                work = store.save((loaded or ConversationSnapshot()).append(message(token)))
        expected = contextlib.suppress(asyncio.CancelledError, ConflictError, NotReplicatedError)
        with expected, history.append(name, token) as call:
            error = await _cancelled_somewhere(rng, work)
            if error is not None:
                raise error
        if call.outcome == "unknown" and store.unsettled in (None, before):
            call.settle(None)  # nothing of it was sent: that is what an `unsettled` without it promises
        elif call.outcome == "unknown":
            attempt = store.unsettled
            assert attempt is not None
            if rng.random() < 0.7:
                call.settle(await _resolved(store))
                assert store.unsettled is None, f"seed {seed}, turn {turn}"
            else:
                left_open.append((call, attempt))  # the store's next write settles it first
        loaded = await store.load()
        history.load(name).returned(loaded)
    for call, attempt in left_open:
        call.settle(await _resolved(backend.store("run"), attempt))
    return history


@pytest.mark.parametrize("seed", [21, 22])
async def test_cancelled_calls_leak_nothing_and_stay_resolvable(
    seed: int, private_server: Callable[..., Server]
) -> None:
    """What a cancelled call had sent is in `unsettled`, and resolve settles it; what it had not is not stored."""
    server = private_server()
    rng = random.Random(seed)
    async with proxy(server.url) as between, asyncio.timeout(4 * GUARD):
        backend = RedisBackend.from_url(between.url, retry=FAST)
        async with _nothing_left_behind(backend, server):
            history = await _storm(rng, seed, backend, between, ROUNDS)
            with server.client() as raw:
                assert len(raw.client_list()) <= 2 + sum(backend._runner.connections), f"seed {seed}"  # type: ignore[arg-type]
            final = await contents(backend.store("run"))
    history.check(final, f"seed {seed}")
    counts = history.counts()
    assert counts["saved"] > 20, f"seed {seed}: {counts}"
    assert counts["refused"] > 20, f"seed {seed}: {counts}"


@pytest.mark.alone
async def test_cancelled_durable_saves_leak_nothing_and_stay_resolvable(
    private_server: Callable[..., Server],
) -> None:
    """The same over the connection that durable saves share: whoever leaves takes nobody along."""
    seed = 23
    server = private_server(hz="500")  # WAIT times out at the next tick
    rng = random.Random(seed)
    async with proxy(server.url) as between, asyncio.timeout(4 * GUARD):
        backend = RedisBackend.from_url(between.url, retry=FAST, durability=Durability(replicas=1, timeout=0.002))
        async with _nothing_left_behind(backend, server):
            history = await _storm(rng, seed, backend, between, ROUNDS // 3)
            final = await contents(backend.store("run"))
    history.check(final, f"seed {seed}")
    assert history.counts()["saved"] > 5, f"seed {seed}: {history.counts()}"


async def test_a_cancelled_durable_save_does_not_disturb_its_neighbours(
    private_server: Callable[..., Server],
) -> None:
    """Of saves that share a WAIT, those that were not cancelled are answered with their own revisions."""
    server = private_server(hz="500")
    rng = random.Random(24)
    async with proxy(server.url) as between, asyncio.timeout(GUARD):
        backend = RedisBackend.from_url(between.url, durability=Durability(replicas=1, timeout=0.005))
        async with _nothing_left_behind(backend, server):
            for turn in range(10):
                stores = [backend.store(f"{turn}-{index}") for index in range(10)]
                tasks = [asyncio.create_task(store.append(message(str(store.run_id)))) for store in stores]
                await asyncio.sleep(rng.uniform(0, 0.004))
                leavers = set(rng.sample(range(10), 4))
                for index in leavers:
                    tasks[index].cancel()
                answers = await asyncio.gather(*tasks, return_exceptions=True)
                for index, (store, answer) in enumerate(zip(stores, answers, strict=True)):
                    if isinstance(answer, asyncio.CancelledError):
                        assert index in leavers
                        settled = await _resolved(store)
                    else:
                        assert isinstance(answer, NotReplicatedError), f"turn {turn}: {answer!r}"
                        settled = answer.revision
                    there = await backend.store(store.run_id).load()
                    assert (there is not None) == (settled is not None), f"turn {turn}, run {store.run_id}"
                    if there is not None:
                        assert tokens_of(there.messages) == [str(store.run_id)]
                        assert there.revision == settled


async def test_cancelled_deletes_are_resolvable(private_server: Callable[..., Server]) -> None:
    """A cancelled delete was done, or never will be; resolve knows which."""
    server = private_server()
    seed = 25
    rng = random.Random(seed)
    outcomes = set()
    async with proxy(server.url) as between, asyncio.timeout(2 * GUARD):
        backend = RedisBackend.from_url(between.url, retry=FAST)
        between.delay = lambda: rng.choice((0, 0, 0.002))
        async with _nothing_left_behind(backend, server):
            for turn in range(100):
                store = backend.store(f"run {turn}")
                made = await store.append(message("x"))
                error = await _cancelled_somewhere(rng, store.delete())
                if store.unsettled is None:
                    deleted = error is None
                else:
                    assert store.unsettled.kind == "delete", f"seed {seed}, turn {turn}"
                    settled = await store.resolve()
                    assert settled in (None, made), f"seed {seed}, turn {turn}"
                    deleted = settled is not None
                outcomes.add((deleted, error is None))
                assert (await backend.store(f"run {turn}").load() is None) == deleted, f"seed {seed}, turn {turn}"
    assert (False, False) in outcomes
    assert (True, True) in outcomes


async def test_a_cancelled_first_call_leaves_the_self_test_to_the_next(private_server: Callable[..., Server]) -> None:
    """Whoever is cancelled while the backend makes sure of its server holds nobody up."""
    server = private_server()
    async with proxy(server.url) as between, asyncio.timeout(GUARD):
        between.delay = 0.005
        for steps in range(30):
            backend = RedisBackend.from_url(between.url, retry=RetryPolicy(attempts=2, deadline=5, base=0.001))
            first = asyncio.create_task(backend.store("run").load())
            second = asyncio.create_task(backend.store("run").load())
            for _ in range(steps):
                await asyncio.sleep(0)
            first.cancel()
            await asyncio.wait([first])
            assert await second is None
            assert backend._runner.connections[0] == 0
            await backend.aclose()


async def test_closing_a_backend_under_load_closes_every_connection(private_server: Callable[..., Server]) -> None:
    """What is under way when `aclose` is called is answered or fails, and its connection is closed after it."""
    server = private_server()
    async with proxy(server.url) as between, asyncio.timeout(GUARD):
        backend = RedisBackend.from_url(between.url)
        await backend.store("run").append(message("x"))
        between.delay = 0.02
        loads = [asyncio.create_task(backend.store("run").load()) for _ in range(8)]
        await asyncio.sleep(0.01)
        await backend.aclose()
        await asyncio.gather(*loads, return_exceptions=True)
        assert backend._runner.connections == (0, 0)
        with server.client() as raw:
            while len(raw.client_list()) > 1:  # type: ignore[arg-type]
                await asyncio.sleep(0.01)


# ------------------------------------------------------------------------------------- leases and turns


async def _leased(how: str, store: Any, token: str, history: History, inside: asyncio.Event) -> None:
    """One turn of the run; what its save was told, or came to when it was cancelled, is written down."""
    call = history.append(how, token)
    saved = None
    try:
        if how == "turn":
            with call:
                async with store.turn(ttl=5.0) as turn:
                    loaded = turn.revision
                    inside.set()
                    try:
                        await asyncio.sleep(0.001)
                        turn.append(message(token))
                        await turn.save()
                    finally:
                        saved = turn.revision if turn.revision != loaded else None
        else:
            async with store.lock(ttl=5.0):
                inside.set()
                await asyncio.sleep(0.001)
                with call:
                    saved = await store.append(message(token), expected=ANY)
                    call.saved(saved)
    except asyncio.CancelledError:
        call.settle(saved or (await store.resolve() if store.unsettled is not None else None))
        raise


@pytest.mark.alone  # how many get their work done before they are cancelled depends on the clock
@pytest.mark.parametrize("seed", [26, 27])
async def test_cancelled_turns_leave_no_lease_no_place_in_the_queue_and_no_open_outcome(
    seed: int, private_server: Callable[..., Server]
) -> None:
    """Eight at a time wait, work and leave, each cancelled at a random moment of its own, over connections that fail.

    After each round the run is free at once, nobody stands in its queue, and the log holds what was acknowledged.
    """
    server = private_server()
    rng = random.Random(seed)
    history = History()
    keys = keys_of("histstore", "run")
    outcomes = {"inside": 0, "done": 0}
    async with proxy(server.url) as between, asyncio.timeout(4 * GUARD):
        backend = RedisBackend.from_url(between.url, retry=FAST)
        between.delay = lambda: rng.choice((0, 0, 0, 0.001, 0.003))
        async with _nothing_left_behind(backend, server):
            with server.client() as raw:
                for turn in range(25):
                    if rng.random() < 0.3:
                        between.lose_replies(1)
                    tasks, flags = [], []
                    for index in range(8):
                        flags.append(asyncio.Event())
                        work = _leased(
                            rng.choice(("lock", "turn")), backend.store("run"), f"{turn}-{index}", history, flags[-1]
                        )
                        tasks.append(asyncio.create_task(work))
                    for task in rng.sample(tasks, 8):
                        await asyncio.sleep(rng.random() * 0.012)
                        task.cancel()
                    results = await asyncio.gather(*tasks, return_exceptions=True)
                    assert all(isinstance(each, asyncio.CancelledError | None) for each in results), (seed, results)
                    outcomes["inside"] += sum(
                        flag.is_set() and each is not None for flag, each in zip(flags, results, strict=True)
                    )
                    outcomes["done"] += sum(each is None for each in results)
                    async with asyncio.timeout(GUARD):
                        async with backend.store("run").lock(acquire_timeout=5.0, ttl=5.0):
                            pass
                        while raw.exists(keys.lease, keys.queue):
                            await asyncio.sleep(0.001)
            final = await contents(backend.store("run"))
    history.check(final, f"seed {seed}")
    assert outcomes["inside"] > 5, f"seed {seed}: {outcomes}"
    assert outcomes["done"] > 5, f"seed {seed}: {outcomes}"
    assert history.counts()["unknown"] == 0
