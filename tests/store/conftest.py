"""Fixtures that run one test body over both shells, and over all three stores."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable
from pathlib import Path
from typing import Any

import pytest

from ..support.shells import SHELLS, Shell

Backends = Callable[..., Any]


@pytest.fixture(params=SHELLS, ids=lambda shell: shell.name)
def shell(request: pytest.FixtureRequest) -> Shell:
    """The asyncio shell, then the blocking one."""
    found: Shell = request.param
    return found


@pytest.fixture
async def backends(shell: Shell, server_url: str, namespace: str) -> AsyncIterator[Backends]:
    """Makes backends in the test's namespace, and closes them afterwards."""
    made: list[Any] = []

    def make(url: str = server_url, **options: Any) -> Any:
        backend = shell.from_url(url, **{"namespace": namespace, **options})
        made.append(backend)
        return backend

    yield make
    for backend in made:
        await backend.aclose()


@pytest.fixture
def backend(backends: Backends) -> Any:
    """A backend with the default options."""
    return backends()


@pytest.fixture
def store(backend: Any) -> Any:
    """A store of a run that was never written to."""
    return backend.store("run")


class History:
    """Where stores come from, whatever they are.

    Attributes:
        kind: "memory", "file" or "redis".
        shell: The shell that they are of.
    """

    def __init__(self, kind: str, shell: Shell, open_: Callable[[str], Any]) -> None:
        self.kind = kind
        self.shell = shell
        self._open = open_

    def open(self, run: str = "run") -> Any:
        """Returns a store of `run`: a new one, except that a run in memory has only one."""
        return self._open(run)


@pytest.fixture(params=["memory", "file", "redis"])
def history(request: pytest.FixtureRequest, shell: Shell, backends: Backends, tmp_path: Path) -> History:
    """All three stores, in both shells."""
    kind: str = request.param
    if kind == "memory":
        held: dict[str, Any] = {}
        return History(kind, shell, lambda run: held.setdefault(run, shell.dress(shell.module.InMemoryHistoryStore())))
    if kind == "file":
        return History(
            kind, shell, lambda run: shell.dress(shell.module.JsonFileHistoryStore(tmp_path / f"{run}.json"))
        )
    backend = backends()
    return History(kind, shell, backend.store)
