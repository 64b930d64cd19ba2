"""Fixtures of the cluster tests: a cluster that the tests of a module share, and backends of both shells."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable, Iterator
from typing import Any

import pytest
import pytest_asyncio

from ..support.cluster import Cluster, cluster
from ..support.shells import SHELLS, Shell, own_work, until

Make = Callable[..., Any]


@pytest.fixture(scope="module")
def three() -> Iterator[Cluster]:
    """Three primaries without replicas. A test leaves them up; where the slots are, it may change."""
    with cluster(3) as made:
        yield made


@pytest.fixture(scope="module")
def six() -> Iterator[Cluster]:
    """Three primaries, each with a replica."""
    with cluster(3, 1) as made:
        yield made


@pytest.fixture(params=SHELLS, ids=lambda shell: shell.name)
def shell(request: pytest.FixtureRequest) -> Shell:
    """The asyncio shell, then the blocking one."""
    found: Shell = request.param
    return found


@pytest_asyncio.fixture
async def backends(shell: Shell, namespace: str) -> AsyncIterator[Make]:
    """Makes backends in the test's namespace, and closes them afterwards: nothing of the library is left."""
    made: list[Any] = []

    def make(url: str, **options: Any) -> Any:
        backend = shell.from_url(url, **{"namespace": namespace, **options})
        made.append(backend)
        return backend

    yield make
    for backend in made:
        await backend.aclose()
    await until(lambda: not own_work(), "no task and no thread is left", 5.0)
