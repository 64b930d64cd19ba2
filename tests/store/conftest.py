"""Fixtures that run one test body over both shells, and over all three stores."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable
from pathlib import Path
from typing import Any

import pytest
import redis

from histstore.protocol.keys import escape

from ..support.shells import SHELLS, Shell, own_work, until

Backends = Callable[..., Any]


@pytest.fixture(autouse=True)
async def nothing_left(raw: redis.Redis, namespace: str) -> AsyncIterator[None]:
    """After each test: no lease, no place in a queue, nobody listening, no thread and no task of the library."""
    yield
    left: list[Any] = []

    def gone() -> bool:
        left[:] = [
            *leases_and_queues(raw, namespace),
            *raw.pubsub_channels(f"{escape(namespace)}:*"),
            *own_work(),
        ]
        return not left

    try:
        # The server notices that a socket was closed, and threads end, a moment after the last call has returned.
        await until(gone, seconds=5.0)
    except AssertionError:
        pytest.fail(f"left behind: {left}")


def leases_and_queues(raw: redis.Redis, namespace: str) -> list[Any]:
    """Returns the keys of the leases that are held, and of the queues where somebody stands."""
    return [key for key in raw.scan_iter(match=f"{namespace}:*", count=1000) if key.endswith((b":lease", b":queue"))]


@pytest.fixture(params=SHELLS, ids=lambda shell: shell.name)
def shell(request: pytest.FixtureRequest) -> Shell:
    """The asyncio shell, then the blocking one."""
    found: Shell = request.param
    return found


@pytest.fixture
async def backends(shell: Shell, server_url: str, namespace: str, raw: redis.Redis) -> AsyncIterator[Backends]:
    """Makes backends in the test's namespace, and closes them afterwards."""
    made: list[Any] = []

    def make(url: str = server_url, **options: Any) -> Any:
        backend = shell.from_url(url, **{"namespace": namespace, **options})
        made.append(backend)
        return backend

    yield make
    try:
        # To close a backend gives up what it holds. What a test has left by itself must be gone before.
        await until(lambda: not leases_and_queues(raw, namespace), "leases and places in queues are given up", 5.0)
    finally:
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
