"""A server, proxies before it and workers behind them, each in a process of its own, and an end to all of them."""

from __future__ import annotations

import contextlib
import os
import random
import shutil
import signal
import tempfile
import time
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import redis

from ..servers import Server
from ..workers import _CONTEXT as CONTEXT
from .clients import DEADLINE, World
from .proxy import Weather, serve
from .worker import Job, work

GUARD = DEADLINE + 22.0
"""Seconds that any call, and any process that was told to stop, may take."""


@dataclass(frozen=True)
class Crew:
    """Worker processes that are alike.

    Attributes:
        shell: "async" or "sync".
        processes: How many there are.
        clients: Clients in each.
        durable: Whether one of them waits for copies.
    """

    shell: str
    processes: int
    clients: int
    durable: bool = False


@dataclass
class Process:
    """A process, and the pipe to it."""

    process: Any
    pipe: Any
    job: Job | None = None
    frozen_until: float | None = None

    def signal(self, number: int) -> None:
        with contextlib.suppress(ProcessLookupError):
            os.kill(self.process.pid, number)

    def thaw(self) -> None:
        self.frozen_until = None
        self.signal(signal.SIGCONT)

    def kill(self) -> None:
        self.signal(signal.SIGKILL)
        self.process.join()
        self.pipe.close()

    def hear(self, seconds: float) -> Any:
        """Returns what it says next; None: nothing within so many seconds, or it has ended."""
        with contextlib.suppress(EOFError, ConnectionResetError):
            return self.pipe.recv() if self.pipe.poll(seconds) else None
        return None


def start(target: Callable[..., None], *args: Any, job: Job | None = None) -> Process:
    """Starts a process that is given the other end of a pipe."""
    ours, theirs = CONTEXT.Pipe()
    process = CONTEXT.Process(target=target, args=(*args, theirs), daemon=True)
    process.start()
    theirs.close()
    return Process(process, ours, job)


@dataclass
class Fleet:
    """All processes of a run, entered as a context: whatever ends it, none of them is left.

    Attributes:
        weather: What the proxies do.
        proxies: How many there are.
        crews: The workers.
        seed: Chance.
        counts: What was done to the workers and the server, and what the proxies did.
        hung: Workers that did not stop.
        killed: Names of the workers that were killed.
        folder: Journals, and what the workers print.
    """

    weather: Weather
    proxies: int
    crews: tuple[Crew, ...]
    seed: str
    counts: Counter[str] = field(default_factory=Counter)
    hung: list[str] = field(default_factory=list)
    killed: set[str] = field(default_factory=set)
    folder: Path = field(init=False)
    server: Server = field(default_factory=Server)

    def __enter__(self) -> Self:
        self.folder = Path(tempfile.mkdtemp(prefix="histstore-storm-"))
        self._ways: list[Process] = []
        self._ports: list[int] = []
        self._workers: list[Process] = []
        self._made = 0
        self._rng = random.Random(f"{self.seed} fleet")
        try:
            self.server.start()
            for number in range(self.proxies):
                weather = Weather(**(self.weather.__dict__ | {"seed": f"{self.weather.seed} {number}"}))
                way = start(serve, self.server.port, weather)
                self._ways.append(way)
                self._ports.append(way.hear(GUARD))
            self.world = World(time.monotonic())
            for crew in self.crews:
                for number in range(crew.processes):
                    self._workers.append(self._hire(crew.shell, crew.clients, crew.durable and number == 0))
        except BaseException:
            self.close()
            raise
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        """Ends whatever is left, and removes the files."""
        for each in [*self._workers, *self._ways]:
            if each.process.is_alive():
                each.kill()
        with contextlib.suppress(Exception):
            self.server.thaw()
        self.server.stop()
        shutil.rmtree(self.folder, ignore_errors=True)

    def _hire(self, shell: str, clients: int, durable: bool) -> Process:
        self._made += 1
        name = f"{shell[0]}{self._made}"
        port = self._ports[self._made % len(self._ports)]
        # A try ends before the deadline of a call does, also over a connection that says nothing any more.
        url = f"redis://127.0.0.1:{port}/0?socket_timeout=1.0"
        job = Job(name, shell, url, self.folder, clients, f"{self.seed} {name}", self.world, durable)
        return start(work, job, job=job)

    # ----------------------------------------------------------------------------------- happenings

    def kill_worker(self) -> None:
        """kill -9, and another in its place."""
        place = self._rng.randrange(len(self._workers))
        worker = self._workers[place]
        assert worker.job is not None
        worker.kill()
        self.killed.add(worker.job.name)
        self._workers[place] = self._hire(worker.job.shell, worker.job.clients, worker.job.durable)
        self.counts["workers killed"] += 1

    def freeze_worker(self) -> None:
        """SIGSTOP, for less time than a lease lives, or more."""
        worker = self._rng.choice(self._workers)
        if worker.frozen_until is None:
            worker.signal(signal.SIGSTOP)
            worker.frozen_until = time.monotonic() + self._rng.choice((0.1, 0.4, 1.5, 2.5)) * self._rng.uniform(0.5, 1)
            self.counts["workers frozen"] += 1

    def freeze_server(self) -> None:
        """SIGSTOP, for up to a second."""
        self.server.freeze()
        time.sleep(self._rng.uniform(0.1, 1.0))
        self.server.thaw()
        self.counts["server frozen"] += 1

    def flush_scripts(self) -> None:
        """SCRIPT FLUSH: the server forgets the scripts."""
        with self.server.client() as client:
            client.script_flush()
        self.counts["SCRIPT FLUSH"] += 1

    def kill_clients(self) -> None:
        """CLIENT KILL: the server closes some connections, or all."""
        with self.server.client() as client:
            if self._rng.random() < 0.2:
                client.execute_command("CLIENT", "KILL", "TYPE", "normal", "SKIPME", "yes")
            else:
                known = [entry["id"] for entry in client.client_list()]
                for number in self._rng.sample(known, min(len(known), 3)):
                    client.execute_command("CLIENT", "KILL", "ID", number)
        self.counts["CLIENT KILL"] += 1

    def thaw_workers(self, everybody: bool = False) -> None:
        """Lets those go on whose time is over."""
        for worker in self._workers:
            if worker.frozen_until is not None and (everybody or worker.frozen_until <= time.monotonic()):
                worker.thaw()

    def blow(self, seconds: float, happenings: dict[str, float]) -> None:
        """Lets the workers work for so many seconds, while things happen to them.

        Args:
            seconds: How long.
            happenings: Names of the methods above, and how many seconds pass between two of a kind, on average.
        """
        now = time.monotonic()
        due = {name: now + self._rng.expovariate(1 / every) for name, every in happenings.items()}
        end = now + seconds
        while (now := time.monotonic()) < end:
            self.thaw_workers()
            for name, when in due.items():
                if when <= now:
                    getattr(self, name)()
                    due[name] = time.monotonic() + self._rng.expovariate(1 / happenings[name])
            for worker in self._workers:
                if not worker.process.is_alive():
                    raise RuntimeError(f"a worker died of itself:\n{self.printed()}")
            time.sleep(min(0.05, max(0.0, end - now)))

    def calm_down(self) -> None:
        """Stops the workers, in better weather, then the proxies; late copies arrive before this returns."""
        self.thaw_workers(everybody=True)
        for way in self._ways:
            way.pipe.send("calm")
        for worker in self._workers:
            with contextlib.suppress(OSError):
                worker.pipe.send("stop")
        end = time.monotonic() + GUARD
        for worker in self._workers:
            assert worker.job is not None
            while (word := worker.hear(max(0.0, end - time.monotonic()))) == "ready":
                pass
            if word == "done":
                worker.process.join(max(1.0, end - time.monotonic()))
            if word != "done" or worker.process.exitcode != 0:
                worker.signal(signal.SIGUSR1)  # it prints where it stands
                time.sleep(0.5)
                self.hung.append(f"worker {worker.job.name} did not stop ({worker.process.exitcode})")
                worker.kill()
        for way in self._ways:
            way.pipe.send("stop")
        for way in self._ways:
            self.counts.update(way.hear(GUARD) or {"bug in a proxy: it did not stop": 1})
            way.process.join(GUARD)

    def printed(self) -> str:
        """Returns what the workers have printed: complaints of asyncio, of threads, and where they hang."""
        found = [(path.stem, path.read_text(errors="replace").strip()) for path in self.folder.glob("*.err")]
        return "\n".join(f"{name}: {text}" for name, text in found if text)

    def client(self) -> redis.Redis:
        """Returns a client of the server, past the proxies."""
        return self.server.client()
