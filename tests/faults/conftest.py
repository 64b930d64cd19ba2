"""Fixtures of the fault tests: backends of both shells, directly and through the proxy."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable
from typing import Any

import pytest
import pytest_asyncio
import redis

from histstore._scripts import ALL

from ..support.proxy import Proxy, proxy
from .shells import open_backend


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
