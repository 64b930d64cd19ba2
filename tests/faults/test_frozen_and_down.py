"""A server that is frozen (row 3), down, silent, talks rubbish or trickles (row 11)."""

from __future__ import annotations

import asyncio
import contextlib
import socket
from collections.abc import AsyncIterator, Awaitable, Callable
from typing import Any

import pytest
import redis

from histstore import BackendUnavailableError, ConversationSnapshot, OutcomeUnknownError, RetryPolicy

from ..support.history import History, message
from ..support.proxy import Proxy
from ..support.servers import Server
from .shells import GUARD, contents, entries

Make = Callable[..., Any]
PATIENT = RetryPolicy(attempts=1000, deadline=20.0, base=0.02, cap=0.05)
IMPATIENT = RetryPolicy(attempts=3, deadline=0.3, base=0.01, cap=0.02)


async def test_three_frozen_server_saves_are_three_unknown_outcomes_and_what_resolve_said_holds(
    shell: str, backends: Make, private_server: Callable[..., Server]
) -> None:
    """The client gives up, the server wakes up with the copies still in its sockets: each is settled once for all."""
    server = private_server()
    backend = backends(shell, f"{server.url}?socket_timeout=0.1")
    store = backend.store("run")
    history = History()
    with history.append("c", "start"):
        await store.append(message("start"))
    attempts = []
    for turn in range(3):
        with contextlib.suppress(OutcomeUnknownError), history.append("c", f"turn {turn}") as call:
            server.freeze()
            try:
                await store.append(message(f"turn {turn}"), retry=IMPATIENT)
            finally:
                server.thaw()
        assert call.outcome == "unknown"
        attempt = store.unsettled
        assert attempt is not None
        attempts.append((attempt, await store.resolve()))
        call.settle(attempts[-1][1])
        assert store.unsettled is None
    assert len(attempts) == 3
    for attempt, said in attempts:
        assert await backend.store("run").resolve(attempt) == said
    history.check(await contents(backend.store("run")))
    # And work goes on, from what the store now knows.
    with history.append("c", "end"):
        await store.append(message("end"))
    history.check(await contents(store))
    with server.client() as raw:
        assert entries(raw, "histstore", "run") == history.counts()["saved"]


async def test_resolve_before_the_thaw_holds_whatever_late_copies_the_server_then_reads(
    shell: str, backends: Make, private_server: Callable[..., Server]
) -> None:
    """Copies and the question stand in the socket buffers together: after "never" none of the copies is applied."""
    server = private_server()
    url = f"{server.url}?socket_timeout=0.1"
    # A backend each, so that each has a connection that is open when the server freezes.
    stores = {name: backends(shell, url).store(name) for name in "abcd"}
    twins = {name: backends(shell, url).store(name) for name in stores}
    for name, store in stores.items():
        await store.append(message("start"))
        await twins[name].load()
    server.freeze()
    try:
        asked = []
        for name, store in stores.items():
            with pytest.raises(OutcomeUnknownError) as caught:
                await store.append(message("late"), retry=IMPATIENT)
            # Asked by two stores while the copies wait.
            asked.append(asyncio.create_task(store.resolve(retry=PATIENT)))
            asked.append(asyncio.create_task(twins[name].resolve(caught.value.attempt, retry=PATIENT)))
        await asyncio.sleep(0.05)
    finally:
        server.thaw()
    async with asyncio.timeout(GUARD):
        answers = await asyncio.gather(*asked)
    for name, mine, others in zip(stores, answers[::2], answers[1::2], strict=True):
        assert mine == others, f"run {name} was settled both ways"
        expected = ["start"] if mine is None else ["start", "late"]
        assert await contents(twins[name]) == expected
        await stores[name].append(message("more"))
        assert await contents(twins[name]) == [*expected, "more"]


async def test_a_save_that_was_never_sent_is_no_unknown_outcome(
    shell: str, backends: Make, private_server: Callable[..., Server]
) -> None:
    """A frozen server that cannot even be connected to anew got nothing: that is said, and repeating is safe."""
    server = private_server()
    store = backends(shell, f"{server.url}?socket_timeout=0.1").store("run")
    server.freeze()
    try:
        with pytest.raises(BackendUnavailableError):
            await store.append(message("a"), retry=IMPATIENT)
        assert store.unsettled is None
    finally:
        server.thaw()
    await store.append(message("a"))
    assert await contents(store) == ["a"]


async def test_a_killed_server_is_an_error_and_a_restarted_one_is_used_again(
    shell: str, backends: Make, private_server: Callable[..., Server]
) -> None:
    """kill -9 under a backend: loads and saves fail until it is back, then everything acknowledged is there."""
    server = private_server(appendonly="yes", appendfsync="always")
    backend = backends(shell, server.url)
    store = backend.store("run")
    history = History()
    for turn in range(3):
        with history.append("c", str(turn)):
            await store.append(message(str(turn)))
        server.kill()
        with pytest.raises(BackendUnavailableError):
            await store.load(retry=IMPATIENT)
        with pytest.raises(BackendUnavailableError):
            await store.info(retry=IMPATIENT)
        with pytest.raises(BackendUnavailableError), history.append("c", f"down {turn}"):
            await store.append(message(f"down {turn}"), retry=IMPATIENT)
        assert store.unsettled is None
        server.start()  # with an empty script cache
        history.check(await contents(store))
    history.check(await contents(backend.store("run")))


# ------------------------------------------------------------------- what is no server, or not any more


Serve = Callable[[asyncio.StreamReader, asyncio.StreamWriter], Awaitable[None]]


@contextlib.asynccontextmanager
async def _listening(serve: Serve) -> AsyncIterator[str]:
    tasks: set[asyncio.Task[None]] = set()

    def accept(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        async def run() -> None:
            try:
                with contextlib.suppress(OSError):
                    await serve(reader, writer)
            finally:
                writer.transport.abort()

        tasks.add(asyncio.create_task(run()))

    listener = await asyncio.start_server(accept, "127.0.0.1", 0)
    try:
        host, port = listener.sockets[0].getsockname()[:2]
        yield f"redis://{host}:{port}/0"
    finally:
        listener.close()
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        await asyncio.sleep(0)  # aborted transports close in the loop's next turn


async def _black_hole(reader: asyncio.StreamReader, _writer: asyncio.StreamWriter) -> None:
    while await reader.read(1 << 16):
        pass


def _says(answer: bytes) -> Serve:
    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        while await reader.read(1 << 16):
            writer.write(answer)
            await writer.drain()

    return serve


async def _hangs_up(reader: asyncio.StreamReader, _writer: asyncio.StreamWriter) -> None:
    await reader.read(1)


async def _raises_unavailable(backend: Any) -> None:
    store = backend.store("run")
    async with asyncio.timeout(GUARD):
        for call in (store.load, store.info, store.read):
            with pytest.raises(BackendUnavailableError):
                await call(retry=IMPATIENT)
        with pytest.raises(BackendUnavailableError):
            await store.load(at=1, retry=IMPATIENT)
        with pytest.raises(BackendUnavailableError):
            await store.save(ConversationSnapshot([message("x")]), retry=IMPATIENT)
        with pytest.raises(BackendUnavailableError):
            await store.delete(retry=IMPATIENT)
    assert store.unsettled is None


async def test_nobody_listens(shell: str, backends: Make) -> None:
    """Connection refused is BackendUnavailableError, never "no such conversation"."""
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))  # bound, not listening
        await _raises_unavailable(backends(shell, f"redis://127.0.0.1:{taken.getsockname()[1]}/0"))


@pytest.mark.parametrize(
    "serve",
    [
        pytest.param(_black_hole, id="accepts-and-never-answers"),
        pytest.param(_says(b"HTTP/1.1 400 Bad Request\r\n\r\n<html>"), id="talks-http"),
        pytest.param(_says(b"*2\r\n$-1\r\n:x\r\n\xff\xfe\x00garbage"), id="talks-rubbish"),
        pytest.param(_says(b"+OK\r\n" * 40), id="says-ok-to-everything"),
        pytest.param(_says(b"$-1\r\n" * 40), id="says-nil-to-everything"),
        pytest.param(_says(b"*-1\r\n" * 40), id="says-nil-array-to-everything"),
        pytest.param(_says(b"*0\r\n" * 40), id="says-nothing-to-everything"),
        pytest.param(_says(b"-ERR proxy: no upstream\r\n" * 40), id="refuses-everything"),
        pytest.param(_hangs_up, id="hangs-up"),
    ],
)
async def test_what_listens_is_no_redis(shell: str, serve: Serve, backends: Make) -> None:
    """A silent host, one that answers rubbish and one that hangs up are unavailable, within the deadline."""
    async with _listening(serve) as url:
        await _raises_unavailable(backends(shell, url))


async def test_a_server_that_turns_silent_is_unavailable(shell: str, backends: Make, between: Proxy) -> None:
    """A half-open connection: loads fail within their deadline, and the first answer after it is the right one."""
    store = backends(shell, f"{between.url}?socket_timeout=0.1", namespace=f"silent-{id(between)}").store("run")
    await store.append(message("a"))
    between.hold_requests.clear()
    async with asyncio.timeout(GUARD):
        with pytest.raises(BackendUnavailableError):
            await store.load(retry=IMPATIENT)
        between.hold_requests.set()
        assert await contents(store) == ["a"]
        await store.delete()


async def test_an_answer_that_trickles_in_byte_by_byte_meets_the_deadline(
    shell: str, backends: Make, between: Proxy, namespace: str, raw: redis.Redis
) -> None:
    """The deadline bounds the whole answer, not each read of it."""
    writer = backends(shell, between.url, namespace=namespace).store("run")
    for turn in range(20):
        await writer.append(message(str(turn)))
    reader = backends(shell, between.url, namespace=namespace).store("run")
    await reader.info()  # connected
    async with asyncio.timeout(GUARD):
        between.trickle = True  # 20 bytes a second: the load would take minutes
        with pytest.raises(BackendUnavailableError):
            await reader.load(retry=IMPATIENT)
        # A save's answer is short, yet longer than this.
        with pytest.raises(OutcomeUnknownError):
            await writer.append(message("slow"), retry=IMPATIENT)
        between.trickle = False
        revision = await writer.resolve()
        assert revision is not None
        assert revision.version == 21
    assert entries(raw, namespace, "run") == 21


async def test_a_handshake_that_trickles_in_byte_by_byte_meets_the_deadline(
    shell: str, backends: Make, between: Proxy, namespace: str
) -> None:
    """The deadline bounds connecting, too: however slowly the server says hello."""
    between.trickle, between.pause = True, 0.2  # a reply of 100 bytes takes 20 s; 0.3 s are allowed
    store = backends(shell, between.url, namespace=namespace).store("run")
    load = asyncio.ensure_future(store.load(retry=IMPATIENT))
    done, _ = await asyncio.wait([load], timeout=10)
    between.trickle = False
    outcome = (await asyncio.gather(load, return_exceptions=True))[0]
    assert done, "the load was still connecting long after its deadline"
    assert isinstance(outcome, BackendUnavailableError)
