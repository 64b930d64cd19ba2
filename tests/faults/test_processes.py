"""Forks, second event loops, and threads that share a backend (row 16)."""

from __future__ import annotations

import asyncio
import os
import random
import threading
import traceback
import warnings
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest

import histstore
import histstore.sync
from histstore import ANY, BackendError, ConversationSnapshot

from ..support.history import History, message, tokens_of
from .shells import GUARD


def in_a_fork(work: Callable[[], str]) -> str:
    """Runs `work` in a forked child, and returns what it returned or raised."""
    reading, writing = os.pipe()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)  # that forking a process with threads is dangerous
        child = os.fork()
    if child == 0:
        try:
            said = work()
        except BaseException:
            said = traceback.format_exc()
        os.write(writing, said.encode()[:4000])
        os._exit(0)
    os.close(writing)
    with os.fdopen(reading, "rb") as pipe:
        said = pipe.read().decode()
    os.waitpid(child, 0)
    return said


def complaint(call: Callable[[], Any]) -> str:
    try:
        return f"returned {call()!r}"
    except BackendError as error:
        return f"BackendError: {error}"


def test_a_forked_child_of_the_sync_twin_gets_a_clear_error(server_url: str, namespace: str) -> None:
    """Parent and child never read from one socket: the child is told to make its own backend, and can."""
    with histstore.sync.RedisBackend.from_url(server_url, namespace=namespace) as backend:
        store = backend.store("run")
        store.append(message("parent"))

        def child() -> str:
            said = [complaint(store.load), complaint(lambda: backend.store("other").append(message("x")))]
            backend.close()
            with histstore.sync.RedisBackend.from_url(server_url, namespace=namespace) as own:
                own.store("run").append(message("child"), expected=ANY)
            return "\n".join(said)

        said = in_a_fork(child).splitlines()
        assert len(said) == 2, said
        assert all("BackendError" in line and "fork" in line for line in said), said
        snapshot = store.load()
        assert snapshot is not None
        assert tokens_of(snapshot.messages) == ["parent", "child"]
        store.append(message("parent again"))
        assert backend._runner.connections == (0, 1)
        assert backend.store("other").load() is None


def test_a_forked_child_of_the_async_shell_gets_a_clear_error(server_url: str, namespace: str) -> None:
    """The same with asyncio: the parent's loop and connections go on as if nothing had been."""
    with asyncio.Runner() as runner:
        backend = histstore.RedisBackend.from_url(server_url, namespace=namespace)
        store = backend.store("run")
        runner.run(store.append(message("parent")))
        said = in_a_fork(lambda: complaint(lambda: asyncio.run(store.load())))
        assert "BackendError" in said, said
        assert "event loop" in said, said
        runner.run(store.append(message("parent again")))
        snapshot = runner.run(store.load())
        assert snapshot is not None
        assert tokens_of(snapshot.messages) == ["parent", "parent again"]
        runner.run(backend.aclose())


def test_a_second_event_loop_gets_a_clear_error(server_url: str, namespace: str) -> None:
    """A backend made use of in one loop is refused in the next, and still serves the first."""
    backend = histstore.RedisBackend.from_url(server_url, namespace=namespace)
    store = backend.store("run")
    with asyncio.Runner() as first, asyncio.Runner() as second:
        first.run(store.append(message("a")))
        for work in (store.load, store.info, lambda: store.append(message("b")), lambda: backend.delete("run")):
            with pytest.raises(BackendError, match="event loop"):
                second.run(work())
        first.run(store.append(message("c")))
        snapshot = first.run(store.load())
        assert snapshot is not None
        assert tokens_of(snapshot.messages) == ["a", "c"]
        first.run(backend.aclose())


def test_a_store_in_use_in_another_loop_gets_a_clear_error_and_not_a_hang(server_url: str, namespace: str) -> None:
    """Also while a call of the first loop is under way on the very same store."""
    backend = histstore.RedisBackend.from_url(server_url, namespace=namespace)
    store = backend.store("run")
    busy, done = threading.Event(), threading.Event()

    async def first() -> None:
        await store.load()
        async with store._lock:  # as a call under way holds it
            busy.set()
            await asyncio.to_thread(done.wait, GUARD)
        await backend.aclose()

    async def second() -> None:
        try:
            async with asyncio.timeout(3):
                with pytest.raises(BackendError):
                    await store.load()
        finally:
            done.set()

    with ThreadPoolExecutor(1) as pool:
        running = pool.submit(asyncio.run, first())
        assert busy.wait(GUARD)
        asyncio.run(second())
        running.result(GUARD)


def test_threads_that_share_a_sync_backend_get_their_own_answers(server_url: str, namespace: str) -> None:
    """Eight threads, many runs and one that all write: no answer is crossed, nothing is lost or doubled."""
    seed, turns = 31, 25
    history = History()
    with histstore.sync.RedisBackend.from_url(server_url, namespace=namespace) as backend:

        def work(name: str) -> None:
            rng = random.Random(f"{seed} {name}")
            mine, shared = backend.store(name), backend.store("shared")
            expected: list[str] = []
            for turn in range(turns):
                token = f"{name}-{turn}"
                if rng.random() < 0.5:
                    expected.append(token)
                    assert mine.append(message(token)).version == len(expected)
                with history.append(name, token) as call:
                    if rng.random() < 0.5:
                        call.saved(
                            shared.update(
                                lambda old, token=token: (old or ConversationSnapshot()).append(message(token))  # type: ignore[misc]
                            )
                        )
                    else:
                        call.saved(shared.append(message(token), expected=ANY, retry=PERSISTENT))
                load = history.load(name)
                load.returned(shared.load())
                snapshot = mine.load()
                assert (tokens_of(snapshot.messages) if snapshot is not None else []) == expected, name

        with ThreadPoolExecutor(8) as pool:
            for outcome in [pool.submit(work, name) for name in "abcdefgh"]:
                outcome.result(4 * GUARD)
        busy, idle = backend._runner.connections
        assert busy == 0
        assert idle <= 8
        snapshot = backend.store("shared").load()
        assert snapshot is not None
        history.check(tokens_of(snapshot.messages), f"seed {seed}")
    assert len(snapshot.messages) == 8 * turns
    assert history.counts() == {"saved": 8 * turns}


def test_threads_that_share_a_store_take_turns(server_url: str, namespace: str) -> None:
    """One store in eight threads: appends go one after the other, each onto what the one before it left."""
    history = History()
    with histstore.sync.RedisBackend.from_url(server_url, namespace=namespace) as backend:
        store = backend.store("run")

        def work(name: str) -> None:
            for turn in range(10):
                with history.append(name, f"{name}-{turn}") as call:
                    call.saved(store.append(message(f"{name}-{turn}")))

        with ThreadPoolExecutor(8) as pool:
            for outcome in [pool.submit(work, name) for name in "abcdefgh"]:
                outcome.result(4 * GUARD)
        snapshot = store.load()
        assert snapshot is not None
        history.check(tokens_of(snapshot.messages))
    assert history.counts() == {"saved": 80}


PERSISTENT = histstore.RetryPolicy(attempts=500, deadline=60, base=0.001, cap=0.02)
