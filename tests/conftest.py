"""Fixtures: one real server for the session, a namespace of its own for each test, and nothing left behind."""

from __future__ import annotations

import uuid
from collections.abc import Callable, Iterator
from typing import Any

import pytest
import redis

from .support.servers import Server, server, shared_server

_CHOSEN = pytest.StashKey[str]()


@pytest.fixture(scope="session")
def server_url(request: pytest.FixtureRequest) -> Iterator[str]:
    """The URL of the server that most tests use."""
    with shared_server() as (url, source):
        request.config.stash[_CHOSEN] = source
        yield url


def pytest_terminal_summary(terminalreporter: Any, config: pytest.Config) -> None:
    """Says which server the tests ran against."""
    if _CHOSEN in config.stash:
        terminalreporter.write_line(f"server: {config.stash[_CHOSEN]}")


@pytest.fixture
def raw(server_url: str) -> Iterator[redis.Redis]:
    """A plain blocking client, to look at keys behind the library's back."""
    client = redis.Redis.from_url(server_url)
    yield client
    client.close()


@pytest.fixture
def namespace(raw: redis.Redis) -> Iterator[str]:
    """A namespace of the test's own; its keys are removed afterwards."""
    name = f"t-{uuid.uuid4().hex[:12]}"
    yield name
    keys = list(raw.scan_iter(match=f"{name}:*", count=1000))
    if keys:
        raw.delete(*keys)


@pytest.fixture
def private_server() -> Iterator[Callable[..., Server]]:
    """Makes servers that the test may freeze, kill or fill up."""
    running = []

    def make(**options: str) -> Server:
        context = server(**options)
        running.append(context)
        return context.__enter__()

    yield make
    for context in running:
        context.__exit__(None, None, None)
