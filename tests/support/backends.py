"""Fixtures for tests of both shells: the shell, and backends that are closed afterwards."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable
from typing import Any

import pytest
import pytest_asyncio

from .shells import SHELLS, Shell, own_work, until

Make = Callable[..., Any]


@pytest.fixture(params=SHELLS, ids=lambda shell: shell.name)
def shell(request: pytest.FixtureRequest) -> Shell:
    """The asyncio shell, then the blocking one."""
    found: Shell = request.param
    return found


@pytest_asyncio.fixture
async def backends(shell: Shell, namespace: str) -> AsyncIterator[Make]:
    """Makes backends of a URL or a client, in the test's namespace. Closing them leaves nothing of the library."""
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
