"""Fixtures of the script tests."""

from __future__ import annotations

from collections.abc import Callable, Iterator

import pytest
import redis

from ..support.cluster import two_nodes as cluster_of_two
from ..support.servers import Server, server
from .scenarios import IN_CLUSTER, OWN_SERVER
from .world import World


@pytest.fixture(scope="session")
def own_server() -> Iterator[Server]:
    """A server that a test may fill up or demote."""
    with server() as running:
        yield running


@pytest.fixture(scope="session")
def two_nodes() -> Iterator[tuple[Server, Server]]:
    """A cluster of two nodes, the first of which owns all slots."""
    with cluster_of_two() as nodes:
        yield nodes


@pytest.fixture
def make_world(request: pytest.FixtureRequest, raw: redis.Redis, namespace: str) -> Iterator[Callable[..., World]]:
    """Make the world for a scenario, by its name; `sources` replace scripts."""
    own: list[redis.Redis] = []

    def make(name: str, sources: dict[str, str] | None = None) -> World:
        client, elsewhere = raw, None
        if name in OWN_SERVER:
            client = request.getfixturevalue("own_server").client()
            own.append(client)
        elif name in IN_CLUSTER:
            client, elsewhere = (node.client() for node in request.getfixturevalue("two_nodes"))
            own.extend((client, elsewhere))
        return World(client, namespace, sources or {}, elsewhere)

    yield make
    for client in own:
        client.close()
