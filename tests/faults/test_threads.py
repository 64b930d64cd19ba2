"""Threads that share a backend's connections: the rights to ask are neither lost nor doubled."""

from __future__ import annotations

import random
import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest

from histstore import BackendError, BackendUnavailableError, OutcomeUnknownError
from histstore.sync import RedisBackend

from ..support.history import message, tokens_of
from ..support.proxy import Proxy
from ..support.servers import Server
from .shells import FAST, GUARD, PERSISTENT

LIMIT = 3


@pytest.fixture
def between(private_server: Callable[..., Server], wire: Callable[[str], Proxy]) -> Proxy:
    """A proxy, in a thread of its own, before a server of the test's own."""
    return wire(private_server().url)


def _backend(between: Proxy, limit: int = LIMIT) -> RedisBackend:
    return RedisBackend.from_url(f"{between.url}?max_connections={limit}&socket_timeout={GUARD}", retry=FAST)


def test_as_many_connections_as_may_be_after_any_number_failed(between: Proxy, until: Any) -> None:
    """Twelve threads whose connections are cut: never more than the limit are open, and the limit is usable after."""
    rng = random.Random(41)
    with _backend(between) as backend, ThreadPoolExecutor(12) as threads:
        most = []
        over = threading.Event()

        def write(name: str) -> None:
            store = backend.store(name)
            for turn in range(25):
                saved = False
                while not saved:  # how many faults a call meets depends on the machine's load
                    try:
                        store.append(message(f"{name}-{turn}"))
                        saved = True
                    except OutcomeUnknownError:
                        saved = store.resolve(retry=PERSISTENT) is not None
                    except BackendUnavailableError:
                        pass

        def weather() -> None:
            while not over.wait(rng.random() * 0.01):
                between.from_outside(between.cut)
                most.append(len(backend._runner.transport._connections._slots))

        storm = threading.Thread(target=weather)
        storm.start()
        for each in [threads.submit(write, f"run {index}") for index in range(12)]:
            each.result(GUARD)
        over.set()
        storm.join()
        assert max(most) <= LIMIT
        for index in range(12):
            found = tokens_of(backend.store(f"run {index}").load().messages)
            assert found == [f"run {index}-{turn}" for turn in range(25)]
        assert backend._runner.connections[0] == 0
        between.from_outside(between.stall)
        loads = [threads.submit(backend.store(f"run {index}").load) for index in range(LIMIT + 1)]
        until(lambda: len(between.stalled) == LIMIT, "all rights are used at once")
        assert len(between.open) == LIMIT
        assert not any(load.done() for load in loads)
        between.from_outside(between.go_on)
        for load in loads:
            assert len(load.result(GUARD)) == 25
    assert backend._runner.connections == (0, 0)


def test_closing_tells_who_waits_for_a_connection(between: Proxy, until: Any) -> None:
    """What is under way is answered; who waits for its connection is told as soon as it is, not when it is late."""
    with _backend(between, 1) as backend, ThreadPoolExecutor(4) as threads:
        backend.store("run").append(message("x"))
        between.from_outside(between.stall)
        first = threads.submit(backend.store("run").load)
        until(lambda: between.stalled, "the load is under way")
        stores = [backend.store(f"other {index}") for index in range(3)]
        others = [threads.submit(store.append, message("x")) for store in stores]
        until(lambda: len(backend._runner.transport._connections._waiters) == len(stores), "the others wait")
        backend.close()
        sent = between.sent
        between.from_outside(between.go_on)
        assert len(first.result(GUARD)) == 1
        for other, store in zip(others, stores, strict=True):
            with pytest.raises(BackendError):
                other.result(GUARD / 3)
            assert store.unsettled is None
        assert between.sent == sent
        until(lambda: not between.open, "the connection is closed")
    assert backend._runner.connections == (0, 0)


def test_a_connection_in_use_is_closed_after_its_answer(between: Proxy, until: Any) -> None:
    """Closing does not cut the call short, and leaves nothing open after it."""
    with _backend(between) as backend, ThreadPoolExecutor(1) as threads:
        backend.store("run").append(message("x"))
        between.from_outside(between.stall)
        load = threads.submit(backend.store("run").load)
        until(lambda: between.stalled, "the load is under way")
        backend.close()
        assert not load.done()
        between.from_outside(between.go_on)
        assert len(load.result(GUARD)) == 1
        until(lambda: not between.open, "the connection is closed")
        assert backend._runner.connections == (0, 0)
