"""Fixtures of the Sentinel tests: servers with sentinels that the tests of a module share, and backends."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable, Iterator
from typing import Any

import pytest
import pytest_asyncio

from ..support.sentinels import Watched, watched
from ..support.shells import SHELLS, Shell, own_work, until

Make = Callable[..., Any]


@pytest.fixture(scope="module")
def pair() -> Iterator[Watched]:
    """A primary with one replica, and three sentinels. A test leaves all of them up; who is primary may change."""
    with watched(replicas=1) as made:
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

    def make(given: Any, **options: Any) -> Any:
        options = {"namespace": namespace, **options}
        backend = shell.from_url(given, **options) if isinstance(given, str) else shell.backend(given, **options)
        made.append(backend)
        return backend

    yield make
    for backend in made:
        await backend.aclose()
    await until(lambda: not own_work(), "no task and no thread is left", 5.0)
