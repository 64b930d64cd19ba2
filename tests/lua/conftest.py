"""Fixtures of the script tests."""

from __future__ import annotations

from collections.abc import Callable, Iterator

import pytest
import redis

from ..support.servers import Server, server
from .scenarios import OWN_SERVER
from .world import World


@pytest.fixture(scope="session")
def own_server() -> Iterator[Server]:
    """A server that a test may fill up, or demote."""
    with server() as running:
        yield running


@pytest.fixture
def make_world(request: pytest.FixtureRequest, raw: redis.Redis, namespace: str) -> Iterator[Callable[..., World]]:
    """Makes the world for the scenario of a name, by scripts of which some may be replaced."""
    own: list[redis.Redis] = []

    def make(name: str, sources: dict[str, str] | None = None) -> World:
        client = raw
        if name in OWN_SERVER:
            client = request.getfixturevalue("own_server").client()
            own.append(client)
        return World(client, namespace, sources or {})

    yield make
    for client in own:
        client.close()
