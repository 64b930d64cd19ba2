"""Fixtures: one real server per worker process, one namespace per test, and nothing left behind."""

from __future__ import annotations

import gc
import os
import signal
import uuid
from collections.abc import Callable, Iterator
from typing import Any

import pytest
import redis

from .support.servers import Server, admin_url, server, shared_server

WORKERS = int(os.environ.get("HISTSTORE_TEST_WORKERS") or 2 * (os.cpu_count() or 2))
"""Worker processes of `-n auto`. `tools/run_tests.sh` sets another number for each of its steps."""

_CHOSEN = pytest.StashKey[str]()


@pytest.hookimpl(optionalhook=True)
def pytest_xdist_auto_num_workers() -> int:
    """Return the number of worker processes for `-n auto`.

    Tests flush scripts and change settings. They can share a server with other tests of the same process only.
    """
    return 1 if os.environ.get("HISTSTORE_TEST_REDIS_URL") else WORKERS


def pytest_configure() -> None:
    """Heed SIGINT again. A shell's background job ignores it, and the processes that tests interrupt inherit that."""
    if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
        signal.signal(signal.SIGINT, signal.default_int_handler)


@pytest.fixture(scope="module", autouse=True)
def frozen_heap() -> None:
    """Exempt what is there from garbage collection: many tests collect, and each would walk all tests and modules."""
    gc.collect()
    gc.freeze()


@pytest.fixture(scope="session")
def server_url(request: pytest.FixtureRequest) -> Iterator[str]:
    """Start the server that most tests of this process use, and return its URL."""
    with shared_server() as (url, source):
        request.config.stash[_CHOSEN] = source
        if hasattr(request.config, "workeroutput"):
            request.config.workeroutput["server"] = source
        yield url


@pytest.hookimpl(optionalhook=True)
def pytest_testnodedown(node: Any) -> None:
    """Keep the name of a worker's server for the summary."""
    server = getattr(node, "workeroutput", {}).get("server")
    if server:
        node.config.stash[_CHOSEN] = server


def pytest_terminal_summary(terminalreporter: Any, config: pytest.Config) -> None:
    """Print the server that the tests ran against."""
    if _CHOSEN in config.stash:
        terminalreporter.write_line(f"server: {config.stash[_CHOSEN]}")


@pytest.fixture
def raw(server_url: str) -> Iterator[redis.Redis]:
    """Return a plain blocking client, which reads keys without the library."""
    client = redis.Redis.from_url(admin_url(server_url))
    yield client
    client.close()


@pytest.fixture
def namespace(raw: redis.Redis) -> Iterator[str]:
    """Return a namespace for one test. Its keys are removed afterwards."""
    name = f"t-{uuid.uuid4().hex[:12]}"
    yield name
    keys = list(raw.scan_iter(match=f"{name}:*", count=1000))
    if keys:
        raw.delete(*keys)


@pytest.fixture
def private_server() -> Iterator[Callable[..., Server]]:
    """Return a function that starts a server the test may freeze, kill or fill up."""
    running = []

    def make(**options: str) -> Server:
        context = server(**options)
        running.append(context)
        return context.__enter__()

    yield make
    for context in running:
        context.__exit__(None, None, None)
