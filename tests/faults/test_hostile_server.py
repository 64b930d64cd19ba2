"""A server that is hostile, broken, or full: what it announces is bounded, and it is not tested over and over."""

from __future__ import annotations

import asyncio
import contextlib
import resource
import socket
import threading
from collections.abc import Callable, Iterator
from dataclasses import replace
from typing import Any

import pytest

from histstore import BackendUnavailableError, CorruptSnapshotError, LeaseLostError, OutcomeUnknownError, RetryPolicy
from histstore.wire import resp

from ..support.generations import skip_without_min_replicas
from ..support.history import message
from ..support.servers import Server
from ..support.shells import SHELLS, Shell
from .shells import GUARD, contents

ONCE = RetryPolicy(attempts=2, deadline=2.0, base=0.001, cap=0.002)
BRIEF = replace(ONCE, deadline=0.3)
MIB = 1 << 20

# Each as the pieces in which it comes. Those that fill memory where they are not refused announce no more than 160 MB.
ANSWERS: dict[str, list[bytes]] = {
    "an array": [b"*2147483647\r\n"],
    "an array in pieces": [b"*", b"214748", b"3647\r", b"\n"],
    "an array in an array": [b"*2\r\n*2147483647\r\n"],
    "an array in a transaction": [b"+OK\r\n+QUEUED\r\n+QUEUED\r\n*2\r\n*2147483647\r\n"],
    "an array behind an answer": [b"*2\r\n$5\r\nsaved\r\n$13\r\n1764000000000\r\n*2147483647\r\n"],
    "a push": [b">20000000\r\n"],
    "a set": [b"~20000000\r\n"],
    "a value": [b"$2000000000\r\n"],
    "a value that comes": [b"$2000000000\r\n", *[b"x" * MIB] * 64],
    "a line that comes": [b"+", *[b"x" * MIB] * 64],
    "arrays in arrays": [b"*1\r\n" * 100_000],
    "long arrays in arrays": [b"*9999999\r\n" * 20],
    "an answer that cannot be printed": [b"*1\r\n" * 1000 + b":1\r\n"],
    "a map with a list for a key": [b"%1\r\n*0\r\n+a\r\n"],
    "another protocol": [b"HTTP/1.1 400 Bad Request\r\n\r\n"],
}


class Hostile:
    """A relay before a server, which from a moment on answers by itself.

    Attributes:
        answer: What it says to the next request, and to all that follow; None: what the server says.
    """

    def __init__(self, target: tuple[str, int]) -> None:
        self.answer: list[bytes] | None = None
        self._target = target
        self._listener = socket.create_server(("127.0.0.1", 0))
        self._sockets: list[socket.socket] = []
        self.url = f"redis://127.0.0.1:{self._listener.getsockname()[1]}/0"
        threading.Thread(target=self._accept, daemon=True).start()

    def _accept(self) -> None:
        with contextlib.suppress(OSError):
            while True:
                near, _ = self._listener.accept()
                far = socket.create_connection(self._target)
                self._sockets += [near, far]
                threading.Thread(target=self._up, args=(near, far), daemon=True).start()
                threading.Thread(target=self._down, args=(near, far), daemon=True).start()

    def _up(self, near: socket.socket, far: socket.socket) -> None:
        with contextlib.suppress(OSError):
            while data := near.recv(1 << 16):
                if self.answer is None:
                    far.sendall(data)
                    continue
                for piece in self.answer:
                    near.sendall(piece)

    def _down(self, near: socket.socket, far: socket.socket) -> None:
        with contextlib.suppress(OSError):
            while data := far.recv(1 << 16):
                near.sendall(data)

    def close(self) -> None:
        for each in (self._listener, *self._sockets):
            with contextlib.suppress(OSError):
                each.shutdown(socket.SHUT_RDWR)
            each.close()


@pytest.fixture
def hostile(private_server: Callable[..., Server]) -> Iterator[Hostile]:
    found = Hostile(("127.0.0.1", private_server().port))
    yield found
    found.close()


@pytest.mark.parametrize("answer", ANSWERS)
@pytest.mark.parametrize("flavour", SHELLS, ids=lambda shell: shell.name)
async def test_what_a_server_announces_is_bounded(
    flavour: Shell, answer: str, hostile: Hostile, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A typed error within the deadline, and memory for what has come, not for what was announced."""
    monkeypatch.setattr(resp, "MAX_REPLY", 16 * MIB)
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss

    async def work() -> None:
        # At the end, a connection that the hostile server has answered with half a value may still be opening.
        patient = replace(ONCE, deadline=GUARD)
        async with flavour.from_url(hostile.url, retry=patient) as backend, asyncio.timeout(GUARD):
            stores = [backend.store(f"run {number}") for number in range(3)]
            for store in stores:
                await store.append(message("a"))
            hostile.answer = ANSWERS[answer]
            with pytest.raises(BackendUnavailableError):
                await stores[0].load(retry=BRIEF)
            with pytest.raises((BackendUnavailableError, OutcomeUnknownError, CorruptSnapshotError)):
                await stores[1].append(message("b"), retry=BRIEF)
            with pytest.raises((BackendUnavailableError, CorruptSnapshotError)):
                async with stores[2].lock(ttl=0.1, retry=BRIEF):
                    pass
            hostile.answer = None
            assert await contents(stores[0]) == ["a"]

    await asyncio.wait_for(flavour.apart(work()), GUARD)
    grown = (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) / 1024
    assert grown < 120, f"{grown:.0f} MiB"


@pytest.mark.parametrize("flavour", SHELLS, ids=lambda shell: shell.name)
async def test_the_first_words_are_bounded_too(flavour: Shell, hostile: Hostile) -> None:
    """The self-test meets it before anything else."""
    hostile.answer = ANSWERS["an array"]
    async with flavour.from_url(hostile.url, retry=ONCE) as backend, asyncio.timeout(GUARD):
        with pytest.raises(BackendUnavailableError, match="no Redis server"):
            await backend.store("run").load()


def _tests(raw: Any) -> int:
    """Returns how often the server was tested: nothing else subscribes."""
    return int(raw.info("commandstats").get("cmdstat_subscribe", {"calls": 0})["calls"])


@pytest.mark.parametrize("flavour", SHELLS, ids=lambda shell: shell.name)
async def test_a_server_that_refuses_writes_is_tested_now_and_then(
    flavour: Shell, private_server: Callable[..., Server], monkeypatch: pytest.MonkeyPatch
) -> None:
    """The self-test runs before a first load, once a second at most, and before others it does not.

    The server lacks a replica. One whose memory is full refuses the self-test's script only before Valkey 9.
    """
    server = private_server()
    with server.client() as raw:
        skip_without_min_replicas(raw)
        async with flavour.from_url(server.url) as backend:
            await backend.store("run").append(message("a"))
        raw.config_set("min-replicas-to-write", "1")
        async with flavour.from_url(server.url) as backend:
            runner = (backend.inner if flavour.name == "sync" else backend)._runner
            before = _tests(raw)
            for _ in range(30):
                runner.self_test._next += 60.0  # whatever the machine is busy with
                assert await contents(backend.store("run")) == ["a"]
            assert _tests(raw) == before + 1
            runner.self_test._next = 0.0
            assert await contents(backend.store("run")) == ["a"]
            assert _tests(raw) == before + 2
            # As soon as it is well it is tested to the end, and then no more.
            raw.config_set("min-replicas-to-write", "0")
            for _ in range(5):
                runner.self_test._next = 0.0
                await contents(backend.store("run"))
            assert _tests(raw) == before + 3


@pytest.mark.parametrize("flavour", SHELLS, ids=lambda shell: shell.name)
async def test_renewals_bear_nonsense(flavour: Shell, hostile: Hostile, caplog: pytest.LogCaptureFixture) -> None:
    """What is no answer to a renewal, and cannot even be printed, ends the lease when its time is over, and no task."""
    async with flavour.from_url(hostile.url, retry=ONCE) as backend, asyncio.timeout(GUARD):
        scope = backend.store("run").lock(ttl=0.3, cancel=False)
        lease = await scope.__aenter__()
        hostile.answer = ANSWERS["an answer that cannot be printed"]
        assert await lease.wait_lost()
        hostile.answer = None
        with pytest.raises(LeaseLostError):
            await scope.__aexit__(None, None, None)
    assert [record.getMessage() for record in caplog.records if record.levelname == "ERROR"] == []
