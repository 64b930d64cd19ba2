"""Many calls over few connections: what shares a write, what waits for what, and what one failure takes along.

asyncio only: threads have a connection each. Counts are taken at the proxy, or of the process's own system calls.
"""

from __future__ import annotations

import asyncio
import contextlib
import gc
import random
import re
import socket
import sys
from collections import Counter
from collections.abc import AsyncIterator, Callable, Iterator
from types import FrameType
from typing import Any

import pytest
import redis
from redis.asyncio import ConnectionPool
from redis.asyncio import Redis as AsyncRedis
from redis.credentials import CredentialProvider

from histstore import (
    ANY,
    BackendConfigError,
    BackendError,
    BackendUnavailableError,
    ConversationSnapshot,
    Durability,
    NotReplicatedError,
    OutcomeUnknownError,
    RedisBackend,
    RetryPolicy,
)
from histstore._async.transport import connections
from histstore._async.transport.connections import MAX_PENDING, MAX_PENDING_BYTES, MAX_SHARED, SLOW_AFTER

from ..support.history import History, message
from ..support.proxy import Proxy, proxy
from ..support.servers import Server
from ..support.shells import until
from .shells import FAST, GUARD, contents, entries

HANDFUL = 6
SOON = SLOW_AFTER + 0.02
"""Seconds after which an answer that has not come counts as slow."""


@pytest.fixture
def server(private_server: Callable[..., Server]) -> Server:
    """A server of the test's own: its connections can be counted."""
    return private_server()


@contextlib.asynccontextmanager
async def _pipelined(url: str, lines: int = MAX_SHARED, patience: float = GUARD, **options: Any) -> AsyncIterator[Any]:
    """Makes a backend whose first shared connection is open, and asserts that it leaves nothing behind.

    Args:
        url: Where to.
        lines: Connections that calls share, at most.
        patience: Seconds that one try waits. Longer than a test lasts: what helped was no timeout.
        **options: Of the backend.
    """
    loop = asyncio.get_running_loop()
    complaints: list[Any] = []
    loop.set_exception_handler(lambda _loop, context: complaints.append(context))
    before = asyncio.all_tasks()
    backend = RedisBackend.from_url(
        f"{url}?max_connections={2 * lines}&socket_timeout={patience}", **{"retry": FAST} | options
    )
    async with asyncio.timeout(GUARD):
        await backend.store("warm").append(message("warm"))
        try:
            yield backend
            assert not backend._runner.transport._connections._waiters
            # What a cancelled call had sent is still to be answered.
            await until(lambda: backend._runner.connections[0] == 0, "connections are still lent out")
        finally:
            await backend.aclose()
    assert backend._runner.connections == (0, 0)
    await until(lambda: not [task for task in asyncio.all_tasks() - before if "histstore" in repr(task.get_coro())])
    assert _timers() == []
    gc.collect()
    await asyncio.sleep(0)
    loop.set_exception_handler(None)
    assert complaints == []


def _timers() -> list[Any]:
    """Returns the timers of the library that the loop still has to call."""
    scheduled = asyncio.get_running_loop()._scheduled  # type: ignore[attr-defined]
    return [timer for timer in scheduled if not timer.cancelled() and "histstore" in repr(timer)]


async def _no_connection_left(server: Server) -> None:
    with server.client() as raw:
        await until(lambda: len(raw.client_list()) == 1, "connections are still open")  # type: ignore[arg-type]


@contextlib.contextmanager
def _system_calls(port: int) -> Iterator[Counter[str]]:
    """Counts this thread's `send` and `recv` on connections to a port, as the interpreter makes them."""
    counts: Counter[str] = Counter()

    def see(_frame: FrameType, event: str, what: Any) -> None:
        if event == "c_call" and what.__name__ in ("send", "recv"):
            sock = what.__self__
            if isinstance(sock, socket.socket) and sock.family == socket.AF_INET and sock.getpeername()[1] == port:
                counts[what.__name__] += 1

    sys.setprofile(see)
    try:
        yield counts
    finally:
        sys.setprofile(None)


def _mark(index: int | str) -> str:
    return f"<mark {index}>"


def _appends(backend: Any, *indexes: int | str) -> list[asyncio.Task[Any]]:
    """Starts, in this turn of the loop, an append to a run of its own for each of the indexes."""
    return [asyncio.create_task(backend.store(f"run {index}").append(message(_mark(index)))) for index in indexes]


def _carries(*indexes: int | str) -> Callable[[bytes], bool]:
    return lambda request: any(_mark(index).encode() in request for index in indexes)


def _marked(request: bytes) -> bool:
    return b"<mark " in request


def _carried(between: Proxy) -> list[tuple[int, int | str]]:
    """Returns the connection and the index of each append that passed the proxy, in turn."""
    assert between.writes is not None
    found = []
    rests: dict[int, bytes] = {}
    for number, data in between.writes:
        # A large write arrives in pieces: a mark may lie across two.
        data, end = rests.get(number, b"") + data, 0
        for match in re.finditer(rb"<mark ([^>]*)>", data):
            index, end = match[1].decode(), match.end()
            found.append((number, int(index) if index.isdigit() else index))
        rests[number] = data[max(end, len(data) - 20) :]
    return found


async def _all_saved_once(url: str, indexes: Any) -> None:
    """Asserts that each run holds its message, once."""
    with redis.Redis.from_url(url) as raw:
        backend = RedisBackend.from_url(url, retry=FAST)
        for index in indexes:
            assert await contents(backend.store(f"run {index}")) == [_mark(index)]
            assert entries(raw, "histstore", f"run {index}") == 1
        await backend.aclose()


# ---------------------------------------------------------------------- one write and one read of many calls


async def test_calls_of_one_turn_of_the_loop_share_a_write_and_a_read(
    server: Server, monkeypatch: pytest.MonkeyPatch
) -> None:
    """64 appends to 64 runs that start in one turn are a handful of writes and of reads, on one connection."""
    # A busy machine may take longer to answer than a quiet one; then the self-test's connection would count as slow.
    monkeypatch.setattr(connections, "SLOW_AFTER", GUARD)
    async with _pipelined(server.url) as backend:
        with _system_calls(server.port) as counts:
            await asyncio.gather(*_appends(backend, *range(64)))
        assert counts["send"] <= HANDFUL, counts
        assert counts["recv"] <= 2 * HANDFUL, counts
        assert backend._runner.connections == (0, 1)
    await _all_saved_once(server.url, range(64))


async def test_callers_that_waited_for_room_share_a_write_too(server: Server) -> None:
    """What could not go over one connection goes over the next one in a handful of writes, when that is open."""
    async with proxy(server.url) as between, _pipelined(between.url) as backend:
        between.writes = []
        between.stall(_marked)
        tasks = _appends(backend, *range(2 * MAX_PENDING))
        await until(lambda: len(_carried(between)) == 2 * MAX_PENDING)
        second = between.stalled[1]
        assert sum(number == second and _marked(data) for number, data in between.writes) <= HANDFUL
        between.go_on()
        await asyncio.gather(*tasks)


async def test_a_lone_call_goes_out_at_once(server: Server) -> None:
    """It is written before the loop turns again: nothing waits for neighbours that may never come."""
    async with _pipelined(server.url) as backend:
        seen: list[int] = []
        with _system_calls(server.port) as counts:
            asyncio.get_running_loop().call_soon(lambda: seen.append(counts["send"]))
            await backend.store("run 0").append(message(_mark(0)))
        assert seen == [1]


# --------------------------------------------------------------------------------- what holds up what


async def test_a_large_reply_does_not_hold_up_the_others(server: Server) -> None:
    """Appends that start after a cold load of 30 MB are saved while it is still under way."""
    async with proxy(server.url) as between, _pipelined(between.url) as backend:
        big = ConversationSnapshot([message("x" * 1_000_000) for _ in range(30)])
        await backend.store("big").save(big)
        between.reset_counts()
        load = asyncio.create_task(backend.store("big").load())
        await until(lambda: between.received > 0, "the load began")
        await asyncio.gather(*_appends(backend, *range(20)))
        assert not load.done()
        assert await load == big
    await _all_saved_once(server.url, range(20))


async def test_a_large_request_does_not_hold_up_the_others(server: Server) -> None:
    """Appends that start after a save of 30 MB, which the server is slow to read, are saved before it."""
    async with proxy(server.url) as between, _pipelined(between.url) as backend:
        between.stall(lambda request: b"<big>" in request)
        big = ConversationSnapshot([message("<big>"), message("x" * 30_000_000)])
        save = asyncio.create_task(backend.store("big").save(big))
        await asyncio.gather(*_appends(backend, *range(20)))
        assert not save.done()
        between.go_on()
        await save
        assert await backend.store("big").load() == big


async def test_a_slow_reply_does_not_hold_up_what_is_asked_later(server: Server) -> None:
    """What is asked when an answer is overdue goes over another connection, and is answered first."""
    async with proxy(server.url) as between, _pipelined(between.url) as backend:
        between.stall(_carries(0))
        (slow,) = _appends(backend, 0)
        await until(lambda: between.stalled)
        await asyncio.sleep(SOON)
        await asyncio.gather(*_appends(backend, *range(1, 21)))
        assert not slow.done()
        between.go_on()
        await slow
    await _all_saved_once(server.url, range(21))


async def test_what_waits_behind_a_slow_reply_is_not_sent_again(server: Server) -> None:
    """What was asked together with a slow call is answered after it, and reached the server once."""
    async with proxy(server.url) as between, _pipelined(between.url) as backend:
        between.writes = []
        between.stall(_carries(0))
        tasks = _appends(backend, *range(10))
        await until(lambda: len(_carried(between)) == 10)
        await asyncio.sleep(SOON)
        later = _appends(backend, "later")
        await asyncio.gather(*later)
        assert not any(task.done() for task in tasks)
        between.go_on()
        await asyncio.gather(*tasks)
        assert Counter(index for _, index in _carried(between)) == Counter([*range(10), "later"])


async def test_where_another_connection_is_refused_calls_wait_behind_the_slow_one(server: Server) -> None:
    """A server that has clients enough refuses no call for which there is a connection already."""
    async with proxy(server.url) as between, _pipelined(between.url) as backend:
        between.writes = []
        between.stall(_carries(0))
        (slow,) = _appends(backend, 0)
        await until(lambda: between.stalled)
        await asyncio.sleep(SOON)
        with server.client() as raw:
            raw.config_set("maxclients", len(raw.client_list()))  # type: ignore[arg-type]
            tasks = _appends(backend, *range(1, 11))
            await until(lambda: len(_carried(between)) == 11)
            assert not any(task.done() for task in tasks)
            between.go_on()
            await asyncio.gather(slow, *tasks)
            raw.config_set("maxclients", 1000)
        assert Counter(index for _, index in _carried(between)) == Counter(range(11))
        assert {number for number, _ in _carried(between)} == {1}


# ------------------------------------------------------------------------------------ what fails with what


async def test_a_connection_that_fails_fails_its_own_calls_only(server: Server) -> None:
    """Of calls under way over two connections, those of the one that is cut are sent again, each by its own rule.

    Reads are answered, saves are saved once; the other connection's calls are sent once and answered.
    """
    async with proxy(server.url) as between, _pipelined(between.url) as backend:
        runs = [backend.store(f"read {index}") for index in range(5)]
        for store in runs:
            await store.append(message("there"))
        between.writes = []
        between.stall(_carries("a0", "b0"))
        first = [*_appends(backend, *(f"a{index}" for index in range(10)))]
        reads = [asyncio.create_task(store.load()) for store in runs]
        await until(lambda: len(_carried(between)) == 10)
        await asyncio.sleep(SOON)
        second = _appends(backend, *(f"b{index}" for index in range(10)))
        await until(lambda: len(_carried(between)) == 20)
        (cut, other) = between.stalled
        assert {number for number, index in _carried(between) if str(index).startswith("a")} == {cut}
        assert {number for number, index in _carried(between) if str(index).startswith("b")} == {other}
        await asyncio.sleep(SOON)
        between.stall(lambda _data: False)
        between.cut_stalled(cut)
        done = await asyncio.gather(*reads)
        assert [len(each) for each in done] == [1] * 5
        assert not any(task.done() for task in second)
        between.go_on()
        await asyncio.gather(*first, *second)
        times = Counter(index for _, index in _carried(between))
        assert {index: times[f"a{index}"] for index in range(10)} == dict.fromkeys(range(10), 2)
        assert {index: times[f"b{index}"] for index in range(10)} == dict.fromkeys(range(10), 1)
    await _all_saved_once(server.url, [f"{line}{index}" for line in "ab" for index in range(10)])


async def test_a_call_that_may_not_be_resent_is_told_so_and_its_neighbours_are_saved(server: Server) -> None:
    """On one connection that is cut, a call of one try has an unknown outcome; those of many tries are saved."""
    once = RetryPolicy(attempts=1, deadline=GUARD)
    async with proxy(server.url) as between, _pipelined(between.url) as backend:
        between.stall(_carries(0))
        store = backend.store("once")
        tasks = _appends(backend, *range(5))
        lone = asyncio.create_task(store.append(message("once"), retry=once))
        await until(lambda: between.stalled)
        await asyncio.sleep(0.01)
        between.stall(lambda _data: False)
        between.cut_stalled()
        with pytest.raises(OutcomeUnknownError):
            await lone
        await asyncio.gather(*tasks)
        assert await store.resolve() is not None
    await _all_saved_once(server.url, range(5))


async def test_a_timeout_retires_the_connection(server: Server) -> None:
    """Where an answer is overdue, nothing more is asked, and it is closed when nobody waits for it any more."""
    async with proxy(server.url) as between, _pipelined(between.url, patience=0.3) as backend:
        between.writes = []
        between.stall(_carries(0))
        tasks = _appends(backend, *range(5))
        await until(lambda: between.stalled)
        between.stall(lambda _data: False)
        (stalled,) = between.stalled
        await asyncio.gather(*tasks)
        again = {number for number, index in _carried(between)[5:]}
        assert stalled not in again
        assert len(_carried(between)) == 10
        await until(lambda: stalled not in between.open, "the connection is closed")
    await _all_saved_once(server.url, range(5))


async def test_a_retired_connection_is_replaced_while_others_still_wait_for_it(server: Server) -> None:
    """Who has more time than the call that was told "too late" gets the answer; who comes later asks elsewhere."""
    async with proxy(server.url) as between, _pipelined(between.url, lines=1) as backend:
        between.stall(_carries("hasty"))
        hasty, patient = backend.store("run hasty"), _appends(backend, "patient")
        with pytest.raises(OutcomeUnknownError):
            await hasty.append(message(_mark("hasty")), retry=RetryPolicy(attempts=1, deadline=0.1))
        between.stall(lambda _data: False)
        await asyncio.gather(*_appends(backend, *range(5)))
        assert not patient[0].done()
        between.go_on()
        await patient[0]
    await _all_saved_once(server.url, ["hasty", "patient", *range(5)])


async def test_who_waits_for_room_is_saved_when_the_only_connection_fails(
    server: Server, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Also if no other was to be had before, and nobody else asks any more."""
    # The connection is to be full, and not slow before it is: then another would be opened too early.
    monkeypatch.setattr(connections, "SLOW_AFTER", GUARD)
    async with proxy(server.url) as between, _pipelined(between.url, lines=2) as backend:
        between.writes = []
        between.stall(_marked)
        once = RetryPolicy(attempts=1, deadline=GUARD)
        stores = [backend.store(f"lost {index}") for index in range(MAX_PENDING)]
        lost = [asyncio.create_task(store.append(message("<mark lost>"), retry=once)) for store in stores]
        await until(lambda: len(_carried(between)) == MAX_PENDING)
        with server.client() as raw:
            raw.config_set("maxclients", len(raw.client_list()))  # type: ignore[arg-type]
            waiting = _appends(backend, *range(20))
            await until(lambda: backend._runner.transport._connections._refused)
            raw.config_set("maxclients", 1000)
        between.stall(lambda _data: False)
        between.cut_stalled()
        await asyncio.gather(*waiting)
        found = await asyncio.gather(*lost, return_exceptions=True)
        assert {type(each) for each in found} == {OutcomeUnknownError}
    await _all_saved_once(server.url, range(20))


@pytest.mark.parametrize("lines", [1, 2])
async def test_dead_connections_full_of_calls_that_were_cancelled_are_given_up(server: Server, lines: int) -> None:
    """Nobody waits for the answers any more; the next call is not kept from asking over another connection."""
    async with proxy(server.url) as between, _pipelined(between.url, lines=lines, patience=2.0) as backend:
        between.writes = []
        between.stall(_marked)
        tasks = _appends(backend, *range(lines * MAX_PENDING))
        await until(lambda: len(_carried(between)) == lines * MAX_PENDING)
        for task in tasks:
            task.cancel()
        await asyncio.wait(tasks)
        between.stall(lambda _data: False)
        await backend.store("after").append(message("after"))
        between.go_on()


# --------------------------------------------------------------------------------------- memory and order


async def test_no_more_calls_are_sent_than_may_wait_for_answers(server: Server) -> None:
    """A server that answers nothing gets so many requests, and no more; the other callers wait and come then."""
    count = MAX_SHARED * MAX_PENDING + 500
    async with proxy(server.url) as between, _pipelined(between.url) as backend:
        between.writes = []
        between.stall(_marked)
        tasks = _appends(backend, *range(count))
        await until(lambda: len(_carried(between)) >= MAX_SHARED * MAX_PENDING)
        await asyncio.sleep(SOON)
        assert len(_carried(between)) == MAX_SHARED * MAX_PENDING
        assert len(between.stalled) == MAX_SHARED
        between.go_on()
        await asyncio.gather(*tasks)
        assert Counter(index for _, index in _carried(between)) == Counter(range(count))


@pytest.mark.parametrize("reads", [True, False])
async def test_no_more_bytes_wait_than_may(server: Server, reads: bool) -> None:
    """Of 12 MB of appends, `MAX_PENDING_BYTES` and one request more are pending, whether the server reads or not."""
    async with proxy(server.url) as between, _pipelined(between.url, lines=1) as backend:
        between.reset_counts()
        if reads:
            between.stall(_marked)
        else:
            between.hold_requests.clear()
        text = "x" * 60_000
        stores = [backend.store(f"run {index}") for index in range(200)]
        tasks = [
            asyncio.create_task(store.append(message(f"<mark {index}>{text}"))) for index, store in enumerate(stores)
        ]
        most = MAX_PENDING_BYTES + 64 * 1024
        (line,) = backend._runner.transport._connections._shared
        await until(lambda: line.wire.load >= MAX_PENDING_BYTES)
        for _ in range(20):
            await asyncio.sleep(0.005)
            assert line.wire.load <= most
            assert line.wire._transport.get_write_buffer_size() <= most
            assert between.sent <= most
            assert len(backend._runner.transport._connections._waiters) >= 200 - most // len(text)
        between.hold_requests.set()
        between.go_on()
        await asyncio.gather(*tasks)


async def test_waiting_callers_come_in_the_order_in_which_they_came(server: Server) -> None:
    """Over one connection: also those that come while others wait, and where some have left."""
    count = 3 * MAX_PENDING
    async with proxy(server.url) as between, _pipelined(between.url, lines=1) as backend:
        between.writes = []
        between.stall(_marked)
        tasks = _appends(backend, *range(count))
        await until(lambda: len(_carried(between)) == MAX_PENDING)
        gone = set(range(MAX_PENDING + 7, count, 5))
        for index in gone:
            tasks[index].cancel()
        waiting = backend._runner.transport._connections._waiters
        await until(lambda: len(waiting) == count - MAX_PENDING - len(gone), "who left gave its place back")
        between.go_on()
        late = _appends(backend, *range(count, count + 100))
        await asyncio.gather(*tasks, *late, return_exceptions=True)
        there = [index for _, index in _carried(between)]
        assert there == [index for index in range(count + 100) if index not in gone]


async def test_who_waits_for_room_is_told_when_its_time_is_over(server: Server) -> None:
    """It was not sent, and never is; those who have more time wait on."""
    async with proxy(server.url) as between, _pipelined(between.url, lines=1) as backend:
        between.writes = []
        between.stall(_marked)
        tasks = _appends(backend, *range(MAX_PENDING + 5))
        await until(lambda: len(_carried(between)) == MAX_PENDING)
        store = backend.store("hasty")
        with pytest.raises(BackendUnavailableError):
            await store.append(message(_mark("hasty")), retry=RetryPolicy(attempts=1, deadline=0.05))
        assert store.unsettled is None
        assert not any(task.done() for task in tasks)
        between.go_on()
        await asyncio.gather(*tasks)
        assert "hasty" not in {index for _, index in _carried(between)}


# ------------------------------------------------------------------------------------------ cancellation


async def test_a_call_that_is_cancelled_before_it_was_written_is_never_sent(server: Server) -> None:
    """At every step of the loop: it is sent and in `unsettled`, or never reaches the server. Neighbours are saved."""
    outcomes: Counter[bool] = Counter()
    async with proxy(server.url) as between, _pipelined(between.url) as backend:
        between.writes = []
        settled = []
        for steps in range(12):
            names = [f"{steps}{part}" for part in "abcd"]
            stores = [backend.store(f"run {name}") for name in names]
            tasks = [
                asyncio.create_task(store.append(message(_mark(name))))
                for store, name in zip(stores, names, strict=True)
            ]
            for _ in range(steps):
                await asyncio.sleep(0)
            tasks[2].cancel()
            found = await asyncio.gather(*tasks, return_exceptions=True)
            assert not any(isinstance(each, BaseException) for at, each in enumerate(found) if at != 2), found
            if isinstance(found[2], asyncio.CancelledError):
                settled.append((names[2], stores[2]))
            else:
                outcomes[True] += 1
        there = {index for _, index in _carried(between)}
        for name, store in settled:
            assert (name in there) == (store.unsettled is not None), name
            outcomes[store.unsettled is not None] += 1
            if store.unsettled is not None:
                assert await store.resolve() is not None
            else:
                assert await store.load() is None
    assert min(outcomes[True], outcomes[False]) > 0, outcomes


@pytest.mark.parametrize("steps", [0, 1, 2])
async def test_thousands_of_waiting_callers_that_leave_at_once_disturb_nobody(server: Server, steps: int) -> None:
    """They are never sent, and nothing is unsettled; who came behind them is let in."""
    async with proxy(server.url) as between, _pipelined(between.url, lines=1) as backend:
        between.writes = []
        between.stall(_marked)
        first = _appends(backend, *range(MAX_PENDING))
        await until(lambda: len(_carried(between)) == MAX_PENDING)
        stores = [backend.store(f"left {index}") for index in range(3000)]
        leavers = [asyncio.create_task(store.append(message("<mark left>"))) for store in stores]
        behind = _appends(backend, *range(MAX_PENDING, MAX_PENDING + 10))
        await until(lambda: len(backend._runner.transport._connections._waiters) == 3010)
        between.go_on()
        # In the turn in which the answers come, or nearly, so that room is made before a single one of them has left.
        arrived = between.replies
        while between.replies == arrived:
            await asyncio.sleep(0)
        for _ in range(steps):
            await asyncio.sleep(0)
        for task in leavers:
            task.cancel()
        await asyncio.gather(*first, *behind)
        await asyncio.wait(leavers)
        sent = sum(index == "left" for _, index in _carried(between))
        assert sent == sum(store.unsettled is not None for store in stores)
        assert between.open == [1]
    await _no_connection_left(server)


@pytest.mark.parametrize(("lines", "seed"), [(1, 31), (2, 32), (4, 33)])
async def test_runs_under_cuts_stalls_and_cancellations(server: Server, lines: int, seed: int) -> None:
    """What 24 writers were told is in the log of each run once, whatever befell the connections that they share."""
    rng = random.Random(seed)
    histories = {f"run {index}": History() for index in range(24)}
    async with proxy(server.url) as between, _pipelined(between.url, lines, patience=0.25) as backend:
        between.delay = lambda: rng.choice((0, 0, 0, 0.001, 0.004))

        async def write(name: str) -> None:
            store, history = backend.store(name), histories[name]
            for turn in range(12):
                token = f"{name}-{turn}"
                call = history.append(name, token)
                try:
                    with contextlib.suppress(BackendUnavailableError), call:
                        await _perhaps_cancelled(rng, store.append(message(token), expected=ANY))
                except (asyncio.CancelledError, OutcomeUnknownError):
                    call.settle(await _at_last(store.resolve) if store.unsettled is not None else None)

        async def weather() -> None:
            while True:
                await asyncio.sleep(rng.random() * 0.02)
                match rng.randrange(6):
                    case 0:
                        between.cut()
                    case 1:
                        between.lose_replies(1)
                    case 2:
                        chosen = rng.choice(list(histories)).encode()
                        between.stall(lambda request, chosen=chosen: chosen in request)  # type: ignore[misc]
                    case 3:
                        between.cut_stalled()
                    case _:
                        between.go_on()

        storm = asyncio.create_task(weather())
        await asyncio.gather(*map(write, histories))
        storm.cancel()
        await asyncio.wait([storm])
        between.lose_replies(0)
        between.go_on()
        finals = {name: await contents(backend.store(name)) for name in histories}
        assert len(between.open) <= 4 * lines
    total: Counter[str] = Counter()
    for name, history in histories.items():
        history.check(finals[name], f"seed {seed}, {name}")
        total.update(history.counts())
    assert total["saved"] > 60, f"seed {seed}: {total}"
    assert total["refused"] > 5, f"seed {seed}: {total}"
    await _no_connection_left(server)


async def _perhaps_cancelled(rng: random.Random, work: Any) -> Any:
    if rng.random() < 0.5:
        return await work
    task = asyncio.ensure_future(work)
    if rng.random() < 0.5:
        for _ in range(rng.randrange(8)):
            await asyncio.sleep(0)
    else:
        await asyncio.sleep(rng.random() * 0.02)
    task.cancel()
    await asyncio.wait([task])
    return task.result()


async def _at_last(call: Callable[[], Any]) -> Any:
    while True:
        with contextlib.suppress(BackendUnavailableError):
            return await call()


# -------------------------------------------------------------------------------------- opening and closing


class Wallet(CredentialProvider):
    """Credentials that cannot be had any more at some time."""

    error: Exception | None = None

    def get_credentials(self) -> tuple[()]:
        if self.error is not None:
            raise self.error
        return ()

    async def get_credentials_async(self) -> tuple[()]:  # type: ignore[override]
        await asyncio.sleep(0)
        return self.get_credentials()


class LostTokenError(Exception):
    """An error that cannot be copied."""

    def __init__(self, first: str, second: str) -> None:
        super().__init__(first + second)


@pytest.mark.parametrize("error", [RuntimeError("no token"), LostTokenError("no ", "token")])
async def test_an_error_of_ones_own_while_connecting_is_told_to_all_who_wait(server: Server, error: Exception) -> None:
    """At once: not at their deadlines. The next calls connect anew."""
    wallet = Wallet()
    pool = ConnectionPool.from_url(f"{server.url}?max_connections=4&socket_timeout={GUARD}", credential_provider=wallet)
    backend = RedisBackend(AsyncRedis(connection_pool=pool), retry=FAST)
    async with asyncio.timeout(GUARD / 2):
        await backend.store("warm").append(message("x"))
        wallet.error = error
        with server.client() as raw:
            raw.client_kill_filter(_type="normal", skipme=True)
        await until(lambda: backend._runner.connections == (0, 0))
        found = await asyncio.gather(*_appends(backend, *range(10)), return_exceptions=True)
        assert [type(each) for each in found] == [type(error)] * 10
        wallet.error = None
        await asyncio.gather(*_appends(backend, *range(10)))
        await backend.aclose()


@pytest.mark.parametrize("trouble", ["down", "password", "tls", "frozen"])
async def test_where_no_connection_can_be_had_all_who_wait_are_told(server: Server, trouble: str) -> None:
    """Nothing was sent, and nothing is left behind."""
    url = {
        "down": "redis://127.0.0.1:1/0?x=1",
        "password": server.url.replace("//", "//:wrong@") + "?x=1",
        "tls": server.url.replace("redis:", "rediss:") + "?ssl_cert_reqs=none&socket_connect_timeout=1",
        "frozen": f"{server.url}?socket_connect_timeout=0.1&db=1",
    }[trouble].replace("?x=1", "")
    tasks_before = asyncio.all_tasks()
    backend = RedisBackend.from_url(url, retry=RetryPolicy(attempts=2, deadline=2, base=0.001))
    backend._runner.self_test.passed = True  # else one of them stands for all
    if trouble == "frozen":
        server.freeze()
    try:
        async with asyncio.timeout(GUARD / 2):
            stores = [backend.store(f"run {index}") for index in range(50)]
            work = [store.append(message("x")) for store in stores]
            found = await asyncio.gather(*work, return_exceptions=True)
    finally:
        if trouble == "frozen":
            server.thaw()
    mistake = trouble in ("password", "tls")
    assert {type(each) for each in found} == {BackendConfigError if mistake else BackendUnavailableError}
    assert [store.unsettled for store in stores] == [None] * 50
    await backend.aclose()
    assert backend._runner.connections == (0, 0)
    assert not [task for task in asyncio.all_tasks() - tasks_before if "histstore" in repr(task.get_coro())]
    assert _timers() == []
    await _no_connection_left(server)


class Slow(CredentialProvider):
    """Takes its time between a connection's being connected and its being used."""

    async def get_credentials_async(self) -> tuple[str]:
        await asyncio.sleep(0.05)
        return ("password",)


async def test_a_connection_that_is_closed_while_it_is_opened_is_not_used() -> None:
    """Whoever accepts and hangs up is noticed at once, not when an answer is overdue; nothing counts as sent."""
    server = await asyncio.start_server(lambda _reader, writer: writer.close(), "127.0.0.1", 0)
    pool = ConnectionPool(
        credential_provider=Slow(), host="127.0.0.1", port=server.sockets[0].getsockname()[1], socket_timeout=GUARD
    )
    backend = RedisBackend(AsyncRedis(connection_pool=pool), retry=RetryPolicy(attempts=1, deadline=GUARD))
    backend._runner.self_test.passed = True
    store = backend.store("run")
    async with asyncio.timeout(GUARD / 2):
        with pytest.raises(BackendUnavailableError):
            await store.append(message("x"))
        assert store.unsettled is None
        await backend.aclose()
    server.close()
    await server.wait_closed()


async def test_a_connection_that_is_closed_as_soon_as_it_is_open_is_not_kept() -> None:
    """It does not stand in the way of the one that is opened for the next try."""
    made = []

    async def hang_up(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readuntil(b"SELECT")
        made.append(writer)
        writer.write(b"+OK\r\n")
        writer.close()

    server = await asyncio.start_server(hang_up, "127.0.0.1", 0)
    port = server.sockets[0].getsockname()[1]
    url = f"redis://127.0.0.1:{port}/1?max_connections=2&socket_timeout={GUARD}"
    backend = RedisBackend.from_url(url, retry=RetryPolicy(attempts=4, deadline=2.0, base=0.001))
    backend._runner.self_test.passed = True
    async with asyncio.timeout(GUARD / 2):
        with pytest.raises(BackendError):
            await backend.store("run").append(message("x"))
        await backend.aclose()
    assert len(made) > 4
    server.close()
    await server.wait_closed()


async def test_connecting_that_somebody_else_cancels_is_begun_anew(server: Server) -> None:
    """Also if it was cancelled before it began. Who waits does not wait in vain."""
    for steps in range(6):
        backend = RedisBackend.from_url(f"{server.url}?socket_timeout={GUARD}", retry=FAST)
        async with asyncio.timeout(GUARD / 2):
            calls = _appends(backend, *(f"{steps}-{index}" for index in range(3)))
            for _ in range(100):
                await asyncio.sleep(0)
                others = [task for task in asyncio.all_tasks() if task.get_name() == "histstore-connect"]
                if others:
                    break
            for _ in range(steps):
                await asyncio.sleep(0)
            for task in others:
                task.cancel()
            await asyncio.gather(*calls)
            await backend.aclose()


@pytest.mark.parametrize("lines", [1, 4])
async def test_closing_tells_all_who_wait(server: Server, lines: int) -> None:
    """What waits for an answer gets it; what waits for room is told that the backend is closed, and was not sent."""
    async with proxy(server.url) as between, _pipelined(between.url, lines=lines) as backend:
        between.writes = []
        between.stall(_marked)
        most = lines * MAX_PENDING
        stores = [backend.store(f"run {index}") for index in range(most + 20)]
        tasks = [asyncio.create_task(store.append(message(_mark(index)))) for index, store in enumerate(stores)]
        await until(lambda: len(_carried(between)) == most)
        await backend.aclose()
        found = await asyncio.gather(*tasks[most:], return_exceptions=True)
        assert not any(isinstance(each, asyncio.CancelledError) or not isinstance(each, Exception) for each in found)
        assert [store.unsettled for store in stores[most:]] == [None] * 20
        assert not any(task.done() for task in tasks[:most])
        between.go_on()
        await asyncio.gather(*tasks[:most])
    await _no_connection_left(server)


async def test_closing_tells_all_who_wait_for_a_connection_of_their_own(server: Server) -> None:
    """No connection is made for them any more."""
    async with proxy(server.url) as between, asyncio.timeout(GUARD):
        backend = RedisBackend.from_url(f"{between.url}?max_connections=1&socket_timeout={GUARD}", retry=FAST)
        await backend.store("run").append(message("x"))
        between.stall()
        loads = [asyncio.create_task(backend.store("run").load()) for _ in range(4)]
        await until(lambda: between.stalled)
        await backend.aclose()
        sent = between.sent
        between.go_on()
        first, *others = await asyncio.gather(*loads, return_exceptions=True)
        assert len(first) == 1
        assert {type(each) for each in others} == {BackendError}
        assert between.sent == sent
    await _no_connection_left(server)


async def test_closing_at_every_step_of_opening_leaves_nothing(server: Server) -> None:
    """No connection, no task, no timer; the callers are told."""
    for steps in range(25):
        backend = RedisBackend.from_url(f"{server.url}?socket_timeout={GUARD}", retry=FAST)
        backend._runner.self_test.passed = True
        async with asyncio.timeout(GUARD / 2):
            calls = _appends(backend, *range(3))
            for _ in range(steps):
                await asyncio.sleep(0)
            await backend.aclose()
            await asyncio.wait(calls)
            for call in calls:
                call.exception()
        assert backend._runner.connections == (0, 0)
        await until(lambda: _timers() == [])
    await _no_connection_left(server)


async def test_closing_does_not_wait_for_a_connection_that_is_being_opened(server: Server) -> None:
    """The server is frozen, and connecting may take long."""
    backend = RedisBackend.from_url(f"{server.url}?db=1&socket_timeout={2 * GUARD}", retry=FAST)
    backend._runner.self_test.passed = True
    server.freeze()
    try:
        async with asyncio.timeout(GUARD / 2):
            calls = _appends(backend, *range(3))
            await asyncio.sleep(0.05)
            await backend.aclose()
            found = await asyncio.gather(*calls, return_exceptions=True)
    finally:
        server.thaw()
    assert all(isinstance(each, BackendError) for each in found), found
    await _no_connection_left(server)


# ------------------------------------------------------------------------------------------ other limits


@pytest.mark.parametrize("limit", [1, 2, 3])
async def test_few_connections_are_enough(server: Server, limit: int) -> None:
    """Small and large calls at once, over as many connections as the limit says."""
    async with asyncio.timeout(GUARD):
        backend = RedisBackend.from_url(f"{server.url}?max_connections={limit}", retry=FAST)
        big = ConversationSnapshot([message("x" * 300_000)])
        await asyncio.gather(
            *_appends(backend, *range(40)), *(backend.store(f"big {index}").save(big) for index in range(8))
        )
        loaded = await asyncio.gather(*(backend.store(f"big {index}").load() for index in range(8)))
        assert loaded == [big] * 8
        with server.client() as raw:
            assert len(raw.client_list()) - 1 <= limit  # type: ignore[arg-type]
        await backend.aclose()
    await _all_saved_once(server.url, range(40))


async def test_the_connection_of_durable_saves_is_cut(private_server: Callable[..., Server]) -> None:
    """Saves that share a WAIT are sent again and saved once; calls over other connections go on."""
    server = private_server(hz="500")
    durable = Durability(replicas=1, timeout=0.01)
    async with proxy(server.url) as between, asyncio.timeout(GUARD):
        backend = RedisBackend.from_url(between.url, retry=FAST, durability=durable)
        with pytest.raises(NotReplicatedError):
            await backend.store("warm").append(message("x"))
        between.stall(_carries(0))
        tasks = _appends(backend, *range(10))
        await until(lambda: between.stalled)
        between.stall(lambda _data: False)
        assert len(await backend.store("warm").load()) == 1
        between.cut_stalled()
        found = await asyncio.gather(*tasks, return_exceptions=True)
        assert {type(each) for each in found} == {NotReplicatedError}
        await backend.aclose()
    await _all_saved_once(server.url, range(10))
