"""A server, proxies before it and workers behind them, each in a process of its own, and an end to all of them."""

from __future__ import annotations

import contextlib
import dataclasses
import os
import random
import shutil
import signal
import tempfile
import threading
import time
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import redis

import histstore.sync

from ..servers import Server
from ..workers import _CONTEXT as CONTEXT
from .clients import DEADLINE, World
from .proxy import Weather, serve
from .topology import HARNESS, NAMESPACE, Address, Bare, Topology, client_of
from .worker import Crew, Job, work

GUARD = DEADLINE + 22.0
"""Seconds that any call, and any process that was told to stop, may take."""


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


class _Raging(threading.Thread):
    """The thread in which faults happen to the servers.

    Attributes:
        calm: Ends it after the fault that happens now.
        error: Why it ended before.
    """

    def __init__(self, servers: Topology) -> None:
        super().__init__(name="faults", daemon=True)
        self.calm = threading.Event()
        self.error: Exception | None = None
        self._servers = servers

    def run(self) -> None:
        try:
            if self._servers.faults:
                self._servers.rage(self.calm)
        except Exception as error:
            self.error = error

    def end(self) -> None:
        """Ends it in the middle of a fault."""
        self._servers.over.set()
        self.calm.set()
        if self.is_alive():
            self.join(GUARD)


@dataclass
class Fleet:
    """All processes of a run, entered as a context: whatever ends it, none of them is left.

    Attributes:
        weather: What the proxies do.
        proxies: How many there are before each server.
        crews: The workers.
        seed: Chance.
        topology: Makes the servers.
        pace: Seconds between two calls of a client, on average.
        counts: What was done to the workers and the server, and what the proxies did.
        hung: Workers that did not stop.
        killed: Names of the workers that were killed.
        copied: Files of the workers whose writes wait for all replicas.
        folder: Journals, and what the workers print.
    """

    weather: Weather
    proxies: int
    crews: tuple[Crew, ...]
    seed: str
    counts: Counter[str] = field(default_factory=Counter)
    hung: list[str] = field(default_factory=list)
    killed: set[str] = field(default_factory=set)
    copied: set[str] = field(default_factory=set)
    folder: Path = field(init=False)
    topology: Callable[[random.Random], Topology] = Bare
    pace: float = 0.0

    def __enter__(self) -> Self:
        self.folder = Path(tempfile.mkdtemp(prefix="histstore-storm-"))
        self._ways: list[Process] = []
        self._before: dict[Address, list[Process]] = {}
        self._ports: list[dict[Address, Address]] = [{} for _ in range(self.proxies)]
        self._workers: list[Process] = []
        self._made = 0
        self._rng = random.Random(f"{self.seed} fleet")
        self.servers = self.topology(random.Random(f"{self.seed} servers"))
        self.servers.cutter = self._cut
        self._raging = _Raging(self.servers)
        try:
            self.servers.start()
            for number, ports in enumerate(self._ports):
                for door in self.servers.doors:
                    seed = f"{self.weather.seed} {number} {len(self._ways)}"
                    way = start(serve, door, dataclasses.replace(self.weather, seed=seed))
                    self._ways.append(way)
                    self._before.setdefault(door, []).append(way)
                    ports[door] = ("127.0.0.1", way.hear(GUARD))
            self.world = World(time.monotonic())
            self.servers.runs = self.world.chains
            for crew in self.crews:
                for number in range(crew.processes):
                    self._workers.append(self._hire(crew, crew.durable and number == 0))
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
        self._raging.end()
        for each in [*self._workers, *self._ways]:
            if each.process.is_alive():
                each.kill()
        self.servers.close()
        shutil.rmtree(self.folder, ignore_errors=True)

    def _hire(self, crew: Crew, durable: bool) -> Process:
        self._made += 1
        name = f"{crew.role[0]}{crew.shell[0]}{self._made}"
        ways = self._ports[self._made % len(self._ports)]
        # A try ends before the deadline of a call does, also over a connection that says nothing any more.
        url = f"{self.servers.url(ways)}?socket_timeout=1.0"
        job = Job(
            name, crew, url, self.folder, f"{self.seed} {name}", self.world, durable, self.pace,
            ways if self.servers.announces else {},
        )  # fmt: skip
        if crew.copies:
            self.copied.add(job.journal.name)
        return start(work, job, job=job)

    def _cut(self, server: Server, off: bool) -> None:
        for way in self._before[server.address]:
            way.pipe.send("cut" if off else "heal")

    # ----------------------------------------------------------------------------------- happenings

    def kill_worker(self) -> None:
        """kill -9, and another in its place."""
        place = self._rng.randrange(len(self._workers))
        worker = self._workers[place]
        assert worker.job is not None
        worker.kill()
        self.killed.add(worker.job.name)
        self._workers[place] = self._hire(worker.job.crew, worker.job.durable)
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
        server = self._rng.choice(self.servers.servers)
        server.freeze()
        time.sleep(self._rng.uniform(0.1, 1.0))
        server.thaw()
        self.counts["server frozen"] += 1

    def flush_scripts(self) -> None:
        """SCRIPT FLUSH: the servers forget the scripts."""
        self.servers.flush_scripts()
        self.counts["SCRIPT FLUSH"] += 1

    def kill_clients(self) -> None:
        """CLIENT KILL: a server closes some connections, or all."""
        server = self._rng.choice(self.servers.servers)
        # A server that is down or frozen just now cannot be told to, and has lost its clients anyway.
        with contextlib.suppress(redis.RedisError), client_of(server.address) as client:
            # Not those of replication, nor those by which faults are made.
            known = [
                entry["id"]
                for entry in client.client_list()
                if entry["name"] != HARNESS and not set(entry["flags"]) & set("MS")
            ]
            count = len(known) if self._rng.random() < 0.2 else min(len(known), 3)
            for number in self._rng.sample(known, count):
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
        self._raging.start()
        while (now := time.monotonic()) < end or self._rages_on():
            self.thaw_workers()
            if self._raging.error is not None:
                raise self._raging.error
            for name, when in due.items():
                if when <= now:
                    getattr(self, name)()
                    due[name] = time.monotonic() + self._rng.expovariate(1 / happenings[name])
            for worker in self._workers:
                if not worker.process.is_alive():
                    raise RuntimeError(f"a worker died of itself:\n{self.printed()}")
            time.sleep(0.05)
        if self._raging.error is not None:
            raise self._raging.error

    def _rages_on(self) -> bool:
        """Has the servers' faults end; returns whether the servers have yet to recover from the last one."""
        self._raging.calm.set()
        return self._raging.is_alive()

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
            said = way.hear(GUARD)
            way.process.join(GUARD)
            if said is None:
                said = {f"bug in a proxy: it did not stop ({way.process.exitcode})": 1}
            self.counts.update(said)

    def printed(self) -> str:
        """Returns what the workers have printed: complaints of asyncio, of threads, and where they hang."""
        found = [(path.stem, path.read_text(errors="replace").strip()) for path in self.folder.glob("*.err")]
        return "\n".join(f"{name}: {text}" for name, text in found if text)

    def backend(self) -> Any:
        """Returns a blocking backend on the servers, past the proxies."""
        return histstore.sync.RedisBackend.from_url(self.servers.url({}), namespace=NAMESPACE)
