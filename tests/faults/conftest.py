"""Fixtures of the fault tests: backends of both shells, directly and through the proxy."""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections.abc import AsyncIterator, Callable, Iterator
from typing import Any

import pytest
import pytest_asyncio
import redis

from histstore.protocol.scripts import ALL

from ..support import lease_workers
from ..support.lease_workers import GUARD
from ..support.proxy import Proxy, proxy
from ..support.servers import Server
from ..support.shells import own_work, threaded_proxy
from .shells import open_backend

CLAIM = 1.0
"""Seconds that whoever was handed a lease has to claim it."""


@pytest.fixture(params=["async", "sync"])
def shell(request: pytest.FixtureRequest) -> str:
    """Which shell the test uses. Tests that need one only override it with `shell = "async"`."""
    return str(request.param)


@pytest_asyncio.fixture
async def backends() -> AsyncIterator[Callable[..., Any]]:
    """Makes backends that are closed after the test."""
    made: list[Any] = []

    def make(shell: str, url: str, **options: Any) -> Any:
        backend = open_backend(shell, url, **options)
        made.append(backend)
        return backend

    yield make
    for backend in made:
        await backend.aclose()


@pytest_asyncio.fixture
async def between(server_url: str) -> AsyncIterator[Proxy]:
    """A proxy before the shared server, which knows the scripts: so a lost reply is that of a script that ran."""
    with redis.Redis.from_url(server_url) as raw:
        for script in ALL:
            raw.script_load(script.source)
    async with proxy(server_url) as running:
        yield running


@pytest.fixture
def private_server(private_server: Callable[..., Server]) -> Callable[..., Server]:
    """Makes servers that the test may freeze, kill or fill up; what a test leaves on them is looked at, too."""

    def make(**options: str) -> Server:
        server = private_server(**options)
        made.append(server)
        return server

    made: list[Server] = []
    make.made = made  # type: ignore[attr-defined]
    return make


@pytest_asyncio.fixture(autouse=True)
async def nothing_left(raw: redis.Redis, namespace: str, private_server: Callable[..., Server]) -> AsyncIterator[None]:
    """Asserts that no lease, no queue, no subscription and none of the library's tasks and threads outlives a test.

    A lease that was handed over while its waiter left may stand for as long as it could be claimed.
    """
    yield
    servers = [(raw, namespace)]
    servers += [(server.client(), "") for server in private_server.made if server.process is not None]  # type: ignore[attr-defined]
    end = time.monotonic() + CLAIM + 1.0
    while left := [thing for client, prefix in servers for thing in _left(client, prefix)] + own_work():
        assert time.monotonic() < end, f"left behind: {left}"
        await asyncio.sleep(0.02)
    for client, _ in servers[1:]:
        client.close()


def _left(client: redis.Redis, prefix: str) -> list[Any]:
    with contextlib.suppress(redis.ConnectionError, redis.AuthenticationError, redis.TimeoutError):
        keys = [key for kind in ("lease", "queue") for key in client.scan_iter(f"{prefix}*:{kind}", count=10_000)]
        return [*keys, *client.pubsub_channels(f"{prefix}*:doorbell:*")]  # type: ignore[misc]
    return []  # the test took it down, or locked it


@pytest.fixture
def worker() -> Iterator[Callable[..., lease_workers.Worker]]:
    """Makes worker processes that are closed after the test."""
    with lease_workers.crew() as make:
        yield make


@pytest.fixture
def wire() -> Iterator[Callable[[str], Proxy]]:
    """Puts proxies before servers; they run in threads of their own."""
    with contextlib.ExitStack() as stack:
        yield lambda url: stack.enter_context(threaded_proxy(url))


class Patience:
    """Waits for conditions."""

    def __call__(self, condition: Callable[[], Any], what: str) -> Any:
        """Returns what `condition` returns as soon as that is true."""
        end = time.monotonic() + GUARD
        while not (found := condition()):
            assert time.monotonic() < end, f"never: {what}"
            time.sleep(0.002)
        return found


@pytest.fixture
def until() -> Patience:
    """Waits for conditions."""
    return Patience()
