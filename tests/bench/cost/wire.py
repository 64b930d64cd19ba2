"""What operations send, receive and have done: bytes and round trips on real sockets, commands as the server counts."""

from __future__ import annotations

import asyncio
import contextlib
import socket
import threading
from collections import Counter
from collections.abc import Iterator
from typing import Final
from urllib.parse import urlsplit

import redis

from .operations import LENGTHS, OPERATIONS, SHELLS, Run, repeat, runs

WARM_UP: Final = 3
COUNTED: Final = 10
METRICS: Final = ("bytes sent", "bytes received", "round trips", "script calls", "commands")
SCRIPTS: Final = frozenset({"eval", "evalsha", "eval_ro", "evalsha_ro", "fcall", "fcall_ro"})

Key = tuple[str, str, int]


class Relay:
    """Stands between a client and a server, and keeps what both said.

    A round trip begins where a client speaks after the server did: however TCP cuts a request up, it is one.
    """

    def __init__(self, url: str) -> None:
        parts = urlsplit(url)
        self._target = (parts.hostname or "127.0.0.1", parts.port or 6379)
        self._listener = socket.create_server(("127.0.0.1", 0))
        self._lock = threading.Lock()
        self._sockets: list[socket.socket] = []
        self._threads = [threading.Thread(target=self._accept, daemon=True)]
        self.reset()

    @property
    def url(self) -> str:
        return f"redis://127.0.0.1:{self._listener.getsockname()[1]}/0"

    def reset(self) -> None:
        with self._lock:
            self.sent, self.received, self.trips = bytearray(), bytearray(), 0

    def start(self) -> None:
        self._threads[0].start()

    def stop(self) -> None:
        # A thread that waits in accept() or recv() does not notice a close(), but it does notice a shutdown().
        for each in (self._listener, *self._sockets):
            with contextlib.suppress(OSError):
                each.shutdown(socket.SHUT_RDWR)
        for thread in self._threads:
            thread.join(20)
        for each in (self._listener, *self._sockets):
            each.close()

    def _accept(self) -> None:
        with contextlib.suppress(OSError):
            while True:
                near, _ = self._listener.accept()
                far = socket.create_connection(self._target)
                spoken = threading.Event()  # by the server, since the client did
                spoken.set()
                for end in (near, far):
                    end.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
                    self._sockets.append(end)
                for carry, source, sink in ((self._up, near, far), (self._down, far, near)):
                    thread = threading.Thread(target=carry, args=(source, sink, spoken), daemon=True)
                    self._threads.append(thread)
                    thread.start()

    def _up(self, client: socket.socket, server: socket.socket, spoken: threading.Event) -> None:
        with contextlib.suppress(OSError):
            while data := client.recv(1 << 20):
                with self._lock:
                    self.sent += data
                    self.trips += spoken.is_set()
                    spoken.clear()
                server.sendall(data)
            server.shutdown(socket.SHUT_WR)

    def _down(self, server: socket.socket, client: socket.socket, spoken: threading.Event) -> None:
        with contextlib.suppress(OSError):
            while data := server.recv(1 << 20):
                with self._lock:
                    self.received += data
                    spoken.set()
                client.sendall(data)
            client.shutdown(socket.SHUT_WR)


@contextlib.contextmanager
def relay(url: str) -> Iterator[Relay]:
    running = Relay(url)
    running.start()
    try:
        yield running
    finally:
        running.stop()


def calls(raw: redis.Redis) -> Counter[str]:
    """Returns how often the server has run each command, by itself and in scripts; INFO itself is left out."""
    stats = raw.info("commandstats")
    found = {name.removeprefix("cmdstat_"): stat["calls"] for name, stat in stats.items()}
    return Counter({name: count for name, count in found.items() if name != "info"})


def without_places(said: bytes, holder: str) -> int:
    """Returns the length of `said` without the host and the process in holders' names, which differ by machine."""
    place = holder[: holder.rindex(":") + 1].encode() if holder else b""
    return len(said) - (said.count(place) * len(place) if place else 0)


async def _count(run: Run, operation: str, wire: Relay, raw: redis.Redis) -> tuple[dict[str, float], Counter[str]]:
    await repeat(getattr(run, operation), WARM_UP)
    before = calls(raw)
    wire.reset()
    await repeat(getattr(run, operation), COUNTED)
    spent = calls(raw) - before
    outside = sum(count for name, count in spent.items() if name in SCRIPTS)
    totals = (
        without_places(bytes(wire.sent), run.holder),
        without_places(bytes(wire.received), run.holder),
        wire.trips,
        outside,
        spent.total() - outside,
    )
    return {metric: total / COUNTED for metric, total in zip(METRICS, totals, strict=True)}, spent


async def _count_all(url: str) -> tuple[dict[str, dict[Key, float]], dict[Key, Counter[str]]]:
    found: dict[str, dict[Key, float]] = {metric: {} for metric in METRICS}
    commands: dict[Key, Counter[str]] = {}
    with relay(url) as wire, redis.Redis.from_url(url) as raw:
        for shell in SHELLS:
            async with runs(shell, wire.url) as made:
                for operation in OPERATIONS:
                    for length in LENGTHS:
                        key = (shell, operation, length)
                        values, commands[key] = await _count(made[length], operation, wire, raw)
                        for metric, value in values.items():
                            found[metric][key] = value
    return found, commands


def measure(url: str) -> tuple[dict[str, dict[Key, float]], dict[Key, Counter[str]]]:
    """Returns for each metric what a call costs, by shell, operation and length; and what `COUNTED` calls had run."""
    return asyncio.run(_count_all(url))
