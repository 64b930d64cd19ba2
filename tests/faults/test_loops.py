"""One backend in many event loops: one after the other, at once, and loops that have ended (row 16)."""

from __future__ import annotations

import asyncio
import contextlib
import contextvars
import gc
import os
import threading
import time
import warnings
from collections.abc import Callable, Coroutine, Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest
import redis

import histstore
import histstore.sync
from histstore import ANY, BackendError, LeaseLostError, LockedError, LockError, LockTimeoutError

from ..support.history import message, tokens_of
from ..support.proxy import Proxy
from ..support.servers import Server
from .conftest import Patience
from .shells import GUARD, PERSISTENT


@pytest.fixture
def backend(server_url: str, namespace: str, clients: Callable[[], int]) -> Iterator[histstore.RedisBackend]:
    """A backend that is made outside of any loop, as at module level; afterwards no connection of it is left."""
    before = clients()
    made = histstore.RedisBackend.from_url(server_url, namespace=namespace)
    yield made
    asyncio.run(made.aclose())
    del made
    gc.collect()
    assert clients() <= before


@pytest.fixture
def clients(raw: redis.Redis, until: Patience) -> Callable[[], int]:
    """Returns how many connections the server has, once it has noticed those that were closed."""

    def count() -> int:
        seen: list[int] = []

        def steady() -> bool:
            seen.append(len(raw.client_list()))  # type: ignore[arg-type]
            return len(seen) > 20 and len(set(seen[-20:])) == 1

        until(steady, "the number of clients is steady")
        return seen[-1]

    return count


by_hand = pytest.mark.filterwarnings("ignore::ResourceWarning")
"""For tests that close a loop by hand: asyncio warns of the transports that it leaves behind."""


class Loop:
    """An event loop that runs in a thread of its own."""

    def __init__(self) -> None:
        self.loop = asyncio.new_event_loop()
        self.thread = threading.Thread(target=self.loop.run_forever)
        self.thread.start()

    def run(self, work: Coroutine[Any, Any, Any]) -> Any:
        return self.start(work).result(GUARD)

    def start(self, work: Coroutine[Any, Any, Any]) -> Any:
        return contextvars.Context().run(asyncio.run_coroutine_threadsafe, work, self.loop)

    def end(self) -> None:
        async def clear() -> None:
            tasks = asyncio.all_tasks() - {asyncio.current_task()}
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)
            await asyncio.get_running_loop().shutdown_asyncgens()

        if not self.loop.is_closed():
            self.run(clear())
            self.loop.call_soon_threadsafe(self.loop.stop)
            self.thread.join(GUARD)
            self.loop.close()


@pytest.fixture
def loops() -> Iterator[Callable[[], Loop]]:
    """Makes event loops that run in threads."""
    with contextlib.ExitStack() as stack:

        def make() -> Loop:
            made = Loop()
            stack.callback(made.end)
            return made

        yield make


async def tokens(store: Any) -> list[str]:
    snapshot = await store.load()
    return tokens_of(snapshot.messages) if snapshot is not None else []


# ------------------------------------------------------------------------------- one after the other


def test_a_backend_and_a_store_work_in_one_loop_after_the_other(
    backend: histstore.RedisBackend, clients: Callable[[], int]
) -> None:
    """Scripts, notebooks, Streamlit: 50 times asyncio.run, and no connection is left when a loop has ended."""
    before = clients()
    store = backend.store("run")

    async def once(number: int) -> None:
        await store.append(message(f"a-{number}"))
        async with backend.store("turns").turn(acquire_timeout=GUARD) as turn:
            turn.append(message(f"b-{number}"))
        assert await tokens(store) == [f"a-{each}" for each in range(number + 1)]
        assert await tokens(backend.store("turns")) == [f"b-{each}" for each in range(number + 1)]

    descriptors = None
    for number in range(50):
        asyncio.run(once(number))
        if number == 10:
            descriptors = len(os.listdir("/dev/fd"))
    assert clients() == before
    assert len(backend._seats._taken) == 1, "what belonged to loops that have ended is put away"
    gc.collect()
    assert len(os.listdir("/dev/fd")) <= (descriptors or 0)


def test_waiting_for_a_lease_leaves_nothing_in_a_loop_that_ends(
    backend: histstore.RedisBackend, raw: redis.Redis, namespace: str, clients: Callable[[], int]
) -> None:
    """The doorbell's connection and task go with their loop."""
    before = clients()

    async def once() -> None:
        async with backend.store("run").lock():
            with pytest.raises(LockTimeoutError):
                await asyncio.create_task(enter(backend.store("run"), 0.05), context=contextvars.Context())
        assert raw.pubsub_channels(f"{namespace}:*")

    for _ in range(3):
        asyncio.run(once())
        assert clients() == before
        assert not raw.pubsub_channels(f"{namespace}:*")


async def enter(store: Any, timeout: float | None) -> None:
    async with store.lock(acquire_timeout=timeout):
        pass


ONE: dict[str, histstore.RedisBackend] = {}


@pytest.mark.parametrize("number", [1, 2, 3])
async def test_a_loop_for_each_test(server_url: str, number: int) -> None:
    """pytest's way: a backend for the whole module, and each test in a loop of its own."""
    backend = ONE.setdefault("backend", histstore.RedisBackend.from_url(server_url, namespace="t-loop-per-test"))
    store = backend.store("run")
    await store.append(message(str(number)), expected=ANY)
    async with store.lock():
        assert (await tokens(store))[-1] == str(number)
    if number == 3:
        await backend.delete("run")
        await ONE.pop("backend").aclose()  # where the tests come in another order, the next makes one of its own


@by_hand
def test_a_loop_that_was_closed_by_hand_leaves_its_sockets_to_the_next(
    backend: histstore.RedisBackend, clients: Callable[[], int]
) -> None:
    """loop.close() without more: nobody can close a transport any more, but the sockets are closed all the same."""
    before = clients()
    loop = asyncio.new_event_loop()
    store = backend.store("run")
    loop.run_until_complete(store.append(message("a")))
    seats = backend._seats.all()  # or the sockets would be closed when they are thrown away
    loop.close()
    assert clients() > before
    assert asyncio.run(tokens(store)) == ["a"]
    assert clients() == before
    del loop, seats
    gc.collect()


@by_hand
def test_a_write_that_died_with_its_loop_is_settled_in_the_next(
    backend: histstore.RedisBackend, raw: redis.Redis
) -> None:
    """The store's lock goes to the next loop, which settles the write before its own; nothing is lost or doubled."""
    store = backend.store("run")
    loop = asyncio.new_event_loop()
    loop.run_until_complete(store.append(message("a")))
    call = loop.create_task(store.append(message("b")))
    while store.unsettled is None:
        loop.call_soon(loop.stop)
        loop.run_forever()  # one step
    assert not call.done()
    loop.close()  # it never goes on
    held = store._run.calls.lock
    assert not held.take(), "the write holds the lock for ever"

    async def go_on() -> list[str]:
        await store.append(message("c"))
        return await tokens(store)

    assert asyncio.run(go_on()) == ["a", "b", "c"]
    assert store.unsettled is None
    call._log_destroy_pending = False  # type: ignore[attr-defined]
    del call, loop
    gc.collect()  # the coroutine ends only now, and must free nothing that others hold
    assert asyncio.run(go_on()) == ["a", "b", "c", "c"]


@by_hand
@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")  # a connection was being opened
def test_a_call_that_died_with_its_loop_forgets_no_later_write(
    wire: Callable[[str], Proxy], server_url: str, namespace: str
) -> None:
    """Its coroutine ends when it is thrown away, perhaps in the middle of a write of the next loop."""
    between = wire(server_url)
    backend = histstore.RedisBackend.from_url(between.url, namespace=namespace)
    store = backend.store("run")
    loop = asyncio.new_event_loop()
    call = loop.create_task(store.append(message("a")))
    while store.unsettled is None:
        loop.call_soon(loop.stop)
        loop.run_forever()
    call._log_destroy_pending = False  # type: ignore[attr-defined]
    loop.close()  # while the connection is being opened: nothing was sent
    dead, first = [call, loop], store.unsettled
    del call, loop

    async def next_one() -> None:
        await backend.store("other").load()
        between.delay = 0.3
        writing = asyncio.create_task(store.append(message("b")))
        while store.unsettled in (None, first):
            await asyncio.sleep(0)
        dead.clear()
        gc.collect()
        assert not writing.done()
        assert store.unsettled is not None, "else nobody would settle it if its answer were lost"
        between.delay = 0.0
        await writing
        assert await tokens(store) == ["b"]
        await backend.aclose()

    asyncio.run(next_one())


def test_loops_that_start_an_embedded_server_at_once_share_it() -> None:
    """Four threads find it not running, and start one. It ends with the backend."""
    backend = histstore.RedisBackend.embedded()
    start = threading.Barrier(4)

    async def once(name: str) -> None:
        start.wait(GUARD)
        await backend.store(name).append(message(name))
        assert await tokens(backend.store(name)) == [name]

    with ThreadPoolExecutor(4) as pool:
        for outcome in [pool.submit(asyncio.run, once(name)) for name in "abcd"]:
            outcome.result(GUARD)

    async def all_there() -> None:
        assert sorted([run.run_id async for run in backend.runs()]) == ["a", "b", "c", "d"]

    asyncio.run(all_there())
    assert backend._server is not None
    folder = os.path.dirname(backend._server.socket_path)
    assert os.path.exists(folder)
    asyncio.run(backend.aclose())
    assert not os.path.exists(folder), "somebody still owns it"


def test_a_warning_about_the_server_is_given_once(
    private_server: Callable[..., Server], caplog: pytest.LogCaptureFixture
) -> None:
    """And not by each loop that begins to use it."""
    server = private_server(maxmemory="100mb", maxmemory_policy="allkeys-lru")
    backend = histstore.RedisBackend.from_url(server.url)
    for _ in range(3):
        asyncio.run(tokens(backend.store("run")))
    assert len([record for record in caplog.records if "evict" in record.message]) == 1
    asyncio.run(backend.aclose())


def test_a_closed_backend_stays_closed_and_says_how_to_go_on(backend: histstore.RedisBackend) -> None:
    """`async with` in each of two loops: the second is refused at once. Following the advice works."""

    async def once(backend: histstore.RedisBackend) -> None:
        async with backend:
            await backend.store("run").append(message("a"), expected=ANY)

    asyncio.run(once(backend))
    store = backend.store("run")
    with pytest.raises(BackendError, match=r"make a new one.*only after its last use") as caught:
        asyncio.run(backend.__aenter__())
    assert len(str(caught.value)) < 300
    with pytest.raises(BackendError, match="make a new one"):
        asyncio.run(store.load())


def test_without_a_running_loop_there_is_an_error_of_ours(backend: histstore.RedisBackend) -> None:
    """`lock` outside of a coroutine names the way out, and is no RuntimeError."""
    with pytest.raises(BackendError, match=r"call this in a coroutine.*histstore\.sync"):
        backend.store("run").lock()


# ----------------------------------------------------------------------------------------- at once


def test_threads_with_loops_share_a_backend(backend: histstore.RedisBackend) -> None:
    """Eight threads, each with loops of its own, many runs and one that all write: no answer is crossed."""

    async def work(name: str, first: int) -> None:
        mine, shared = backend.store(name), backend.store("shared")
        for number in range(first, first + 10):
            await mine.append(message(f"{name}-{number}"), expected=ANY)
            await shared.append(message(f"{name}-{number}"), expected=ANY, retry=PERSISTENT)
            async with backend.store("turns").turn(acquire_timeout=GUARD) as turn:
                turn.append(message(f"{name}-{number}"))
            assert await tokens(mine) == [f"{name}-{each}" for each in range(number + 1)]

    def thread(name: str) -> None:
        for first in (0, 10):
            asyncio.run(work(name, first))

    with ThreadPoolExecutor(8) as pool:
        for outcome in [pool.submit(thread, name) for name in "abcdefgh"]:
            outcome.result(4 * GUARD)
    expected = sorted(f"{name}-{number}" for name in "abcdefgh" for number in range(20))
    for run in ("shared", "turns"):
        assert sorted(asyncio.run(tokens(backend.store(run)))) == expected


def test_loops_that_share_a_store_take_turns(backend: histstore.RedisBackend) -> None:
    """One store in four loops at once: appends go one after the other, each onto what the one before it left."""
    store = backend.store("run")

    async def work(name: str) -> None:
        for number in range(10):
            await store.append(message(f"{name}-{number}"))

    with ThreadPoolExecutor(4) as pool:
        for outcome in [pool.submit(asyncio.run, work(name)) for name in "abcd"]:
            outcome.result(4 * GUARD)
    assert sorted(asyncio.run(tokens(store))) == sorted(f"{name}-{number}" for name in "abcd" for number in range(10))


def test_a_lost_lease_is_told_in_its_loop_wherever_it_was_broken(
    backend: histstore.RedisBackend, loops: Callable[[], Loop]
) -> None:
    """`break_lease` and `delete` in one loop cancel the body in another at once, and not at its next renewal."""
    for take in (backend.break_lease, backend.delete):
        away = loops()
        away.loop.slow_callback_duration = GUARD
        away.loop.set_debug(True)  # it complains of whoever reaches into it from another thread
        inside = threading.Event()

        async def body(inside: threading.Event = inside) -> None:
            async with backend.store("run").lock(ttl=3600):
                inside.set()
                await asyncio.sleep(3600)

        working = away.start(body())
        assert inside.wait(GUARD)
        asyncio.run(take("run"))
        with pytest.raises(LeaseLostError):
            working.result(GUARD)


# ------------------------------------------------------------------------------- leases elsewhere


def test_a_lease_does_not_count_in_another_loop(backend: histstore.RedisBackend, loops: Callable[[], Loop]) -> None:
    """By name or by context: LockError says where it was entered and what to do, and the lease is untouched."""
    away = loops()
    store = backend.store("run")

    async def elsewhere(lease: Any, turn: Any) -> None:
        for use in (
            lambda: store.append(message("x"), lease=lease),
            lambda: store.delete(lease=lease),
            lambda: lease.renew(),
            lambda: lease.wait_lost(),
            lambda: turn.save(),
        ):
            with pytest.raises(LockError, match=r"entered in another event loop.*start this work outside") as caught:
                await use()
            assert type(caught.value) is LockError
            assert len(str(caught.value)) < 300
        assert not lease.lost
        assert lease.remaining() > 0
        lease.check()

    async def with_the_context() -> None:
        for use in (
            lambda: store.append(message("x")),
            lambda: enter(store, None),
            lambda: backend.store("run").trim(),
        ):
            with pytest.raises(LockError, match="entered in another event loop"):
                await use()
        await backend.store("other").append(message("x"), expected=ANY)

    async def outside() -> None:
        with pytest.raises(LockedError):
            await backend.store("run").append(message("x"), expected=ANY)

    async def refused(turn: Any) -> None:
        with pytest.raises(LockError, match="entered in another event loop"):
            await turn.save()  # also where nothing is pending

    async def main() -> None:
        async with store.turn() as turn:
            await asyncio.to_thread(away.run, refused(turn))
            turn.append(message("a"))
            await asyncio.to_thread(away.run, elsewhere(turn.lease, turn))
            await asyncio.to_thread(asyncio.run, with_the_context())
            # Following the advice: there the run is another's, and it waits, or is refused, like anybody.
            await asyncio.to_thread(away.run, outside())
            assert turn.lease.remaining() > 0
        async with store.lock() as lease:
            await asyncio.to_thread(lease.check)
        assert await tokens(store) == ["a"]

    asyncio.run(main())


def test_a_thread_that_finds_a_lease_lapsed_tells_its_loop(backend: histstore.RedisBackend) -> None:
    """A tool of the body runs in a thread and checks the lease: the body is cancelled, as if it had looked itself."""
    told: list[bool] = []
    begun, ended = threading.Event(), threading.Event()

    def tool(lease: Any) -> None:
        begun.set()
        try:
            time.sleep(lease.remaining() + 0.01)
            assert "0.0 s left" in repr(lease)
            with pytest.raises(LeaseLostError):
                lease.check()
            told.append(lease.lost)
        finally:
            ended.set()

    async def main() -> None:
        async with backend.store("run").lock(ttl=0.2, renew=False) as lease:
            checking = asyncio.create_task(asyncio.to_thread(tool, lease))
            try:
                await asyncio.to_thread(begun.wait, GUARD)
                ended.wait(GUARD)  # the loop does not come to look for itself
                await asyncio.sleep(GUARD)
            finally:
                await checking

    with pytest.raises(LeaseLostError):
        asyncio.run(main())
    assert told == [True]


def test_a_scope_is_entered_where_it_was_made(backend: histstore.RedisBackend) -> None:
    """`lock()` called in one loop and entered in another is refused by name, and nothing is acquired."""

    async def make() -> Any:
        return backend.store("run").lock()

    async def go_in(scope: Any) -> None:
        with pytest.raises(LockError, match="call it where it is entered"):
            await scope.__aenter__()
        assert await backend.store("run").info() is None

    asyncio.run(go_in(asyncio.run(make())))


@by_hand
def test_the_lease_of_a_loop_that_has_ended_is_given_up_by_the_next(
    backend: histstore.RedisBackend, raw: redis.Redis
) -> None:
    """Its body never goes on, so nobody waits for its time to end. Its handle is a lost one."""
    loop = asyncio.new_event_loop()
    scope: Any = None

    async def go_in() -> Any:
        nonlocal scope
        scope = backend.store("run").lock(ttl=3600)
        return await scope.__aenter__()

    lease = loop.run_until_complete(go_in())
    loop.close()

    async def next_one() -> None:
        async with backend.store("run").turn(acquire_timeout=GUARD) as turn:
            turn.append(message("a"))
        with pytest.raises(LeaseLostError, match="event loop has ended"):
            lease.check()
        with pytest.raises(LockError):
            await backend.store("run").append(message("x"), lease=lease)

    asyncio.run(next_one())
    gc.collect()


def test_a_lease_that_is_left_in_another_loop_is_given_up(
    backend: histstore.RedisBackend, loops: Callable[[], Loop], raw: redis.Redis, namespace: str, until: Patience
) -> None:
    """The exit in a loop other than the entry, as a generator's that is closed there: the run is free again."""
    away = loops()

    async def go_in() -> Any:
        scope = backend.store("run").lock(ttl=3600, cancel=False)
        await scope.__aenter__()
        return scope

    scope = away.run(go_in())

    async def leave() -> None:
        await scope.__aexit__(None, None, None)
        async with backend.store("run").lock(acquire_timeout=GUARD):
            pass

    asyncio.run(leave())


# ----------------------------------------------------------------------------------------- closing


@by_hand
def test_closing_gives_up_what_loops_that_have_ended_left_behind(
    backend: histstore.RedisBackend, raw: redis.Redis, namespace: str, clients: Callable[[], int]
) -> None:
    """In a loop that never used the backend: no lease and no socket is left."""
    before = clients()
    loop = asyncio.new_event_loop()

    async def go_in() -> Any:
        scope = backend.store("run").lock(ttl=3600)
        await scope.__aenter__()
        return scope

    scope = loop.run_until_complete(go_in())
    loop.close()
    assert raw.keys(f"{namespace}:*:lease")
    asyncio.run(backend.aclose(drain=0))
    del loop, scope
    gc.collect()
    assert not raw.keys(f"{namespace}:*:lease")
    assert clients() == before


def test_closing_closes_in_other_loops_that_run(
    backend: histstore.RedisBackend,
    loops: Callable[[], Loop],
    raw: redis.Redis,
    namespace: str,
    clients: Callable[[], int],
) -> None:
    """Their bodies are drained, then cancelled; no task, socket or lease of theirs is left when `aclose` returns."""
    before = clients()
    away = [loops(), loops()]
    inside = threading.Semaphore(0)
    quick = threading.Event()

    async def body(run: str, wait: Callable[[], Coroutine[Any, Any, Any]]) -> str:
        async with backend.store(run).turn(ttl=3600) as turn:
            turn.append(message(run))
            inside.release()
            await wait()
        return run

    stuck = away[0].start(body("stuck", lambda: asyncio.sleep(3600)))
    done = away[1].start(body("done", lambda: asyncio.to_thread(quick.wait, GUARD)))
    for _ in range(2):
        assert inside.acquire(timeout=GUARD)

    async def close() -> None:
        asyncio.get_running_loop().call_later(0.05, quick.set)
        await backend.aclose(drain=0.5)

    asyncio.run(close())
    assert done.result(GUARD) == "done"
    with pytest.raises(LeaseLostError, match="closed"):
        stuck.result(GUARD)
    assert not raw.keys(f"{namespace}:*:lease")
    assert clients() == before

    async def left() -> list[str]:
        return [task.get_name() for task in asyncio.all_tasks() if task.get_name().startswith("histstore-")]

    assert [name for each in away for name in each.run(left())] == []
    with pytest.raises(BackendError, match="closed"):
        away[0].run(backend.store("run").load())


def test_closing_does_not_wait_for_loops_that_stand_still(
    backend: histstore.RedisBackend, raw: redis.Redis, namespace: str, clients: Callable[[], int]
) -> None:
    """Their leases are given up from here; their sockets and tasks go when they run next, or end."""
    before = clients()
    with asyncio.Runner() as idle:

        async def go_in() -> Any:
            scope = backend.store("run").lock(ttl=3600, cancel=False)
            await scope.__aenter__()
            return scope

        scope = idle.run(go_in())
        asyncio.run(backend.aclose(drain=0))
        assert not raw.keys(f"{namespace}:*:lease")

        async def leave() -> None:
            with pytest.raises(LeaseLostError):
                await scope.__aexit__(None, None, None)

        idle.run(leave())
    assert clients() == before


def test_two_loops_may_close_at_once(backend: histstore.RedisBackend, clients: Callable[[], int]) -> None:
    """Each waits for the other, and neither for ever."""
    before = clients()
    both = threading.Barrier(2)

    async def use_and_close() -> None:
        await backend.store("run").load()
        both.wait(GUARD)
        await backend.aclose()

    with ThreadPoolExecutor(2) as pool:
        for outcome in [pool.submit(asyncio.run, use_and_close()) for _ in range(2)]:
            outcome.result(GUARD)
    assert clients() == before


@by_hand
def test_loops_that_are_thrown_away_without_being_closed_go_with_their_connections(
    backend: histstore.RedisBackend, clients: Callable[[], int]
) -> None:
    """`asyncio.new_event_loop().run_until_complete(...)` in each of many threads, and no `close()`."""
    before = len(os.listdir("/proc/self/fd"))

    def once() -> None:
        asyncio.new_event_loop().run_until_complete(backend.store("run").append({"n": 1}, expected=ANY))

    with warnings.catch_warnings(action="ignore"):  # asyncio warns of each
        for _ in range(20):
            thread = threading.Thread(target=once)
            thread.start()
            thread.join()
            gc.collect()
        assert len(os.listdir("/proc/self/fd")) <= before + 16, "four files a loop"
        assert clients() <= 3


def test_a_loop_that_runs_again_has_its_connections_still(backend: histstore.RedisBackend) -> None:
    """Two loops that take turns in one thread, as a test session's and a test's do."""
    seats = set()

    async def seat() -> object:
        await backend.store("run").load()
        return backend._here()

    with asyncio.Runner() as first, asyncio.Runner() as second:
        for _ in range(3):
            seats.add(first.run(seat()))
            seats.add(second.run(seat()))
        assert len(seats) == 2
        scopes = []

        async def enter() -> histstore.Lease:
            scopes.append(backend.store("held").lock(ttl=60.0, cancel=False))
            return await scopes[0].__aenter__()

        async def leave() -> None:
            await scopes[0].__aexit__(None, None, None)

        lease = first.run(enter())
        for _ in range(3):
            second.run(seat())
            asyncio.run(seat())
        first.run(lease.renew())
        first.run(leave())
        assert second.run(backend.store("held").info()) is None
