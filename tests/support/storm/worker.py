"""A worker process: some clients that share two backends, till it is told to stop, or killed."""

from __future__ import annotations

import asyncio
import faulthandler
import logging
import os
import random
import signal
import sys
import threading
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from histstore import Durability

from ..shells import SHELLS, Shell
from .clients import PATIENT, ROLES, Client, World
from .journal import Journal
from .topology import NAMESPACE, Address

KEEP = 1_000_000
"""Revisions that are kept where the log is to remember everything."""


@dataclass(frozen=True)
class Crew:
    """Worker processes that are alike.

    Attributes:
        shell: "async" or "sync".
        processes: How many there are.
        clients: Clients in each.
        durable: Whether one of them waits for copies that never come.
        role: "any", "writer" or "locker".
        copies: Copies for which each of its writes waits.
    """

    shell: str
    processes: int
    clients: int
    durable: bool = False
    role: str = "any"
    copies: int = 0


@dataclass(frozen=True)
class Job:
    """What a worker process is to do.

    Attributes:
        name: Its own, and that of its files.
        crew: The workers to which it belongs.
        url: The servers, or proxies before them.
        folder: Where its journal and what it prints go.
        seed: Chance.
        world: The runs.
        durable: Whether writes to runs that are not kept wait for a replica that is not there.
        pace: Seconds between two calls of a client, on average.
        ways: The proxy before each server that others announce.
    """

    name: str
    crew: Crew
    url: str
    folder: Path
    seed: str
    world: World
    durable: bool = False
    pace: float = 0.0
    ways: dict[Address, Address] = field(default_factory=dict)

    @property
    def journal(self) -> Path:
        return self.folder / f"{self.name}.jsonl"

    @property
    def printed(self) -> Path:
        return self.folder / f"{self.name}.err"


def work(job: Job, pipe: Any) -> None:
    """Runs a worker in this process. Says "ready", and "done" when it has stopped."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is its parent's to answer
    errors = job.printed.open("a")
    os.dup2(errors.fileno(), sys.stderr.fileno())
    faulthandler.register(signal.SIGUSR1, errors, all_threads=True)
    # What the library warns of is part of a storm; what asyncio or a thread complains of is not, and is printed.
    logging.getLogger("histstore").addHandler(logging.NullHandler())
    logging.getLogger("histstore").propagate = False
    stopping = threading.Event()

    def listen() -> None:
        try:
            pipe.recv()
        except EOFError:
            os._exit(1)  # whoever started this is gone
        stopping.set()

    threading.Thread(target=listen, daemon=True).start()
    pipe.send("ready")
    shell = next(each for each in SHELLS if each.name == job.crew.shell)
    if job.crew.shell == "async":
        asyncio.run(_tasks(shell, job, stopping.is_set))
    else:
        _threads(shell, job, stopping.is_set)
    pipe.send("done")


def _backends(shell: Shell, job: Job) -> tuple[Any, Any]:
    options: dict[str, Any] = {"namespace": NAMESPACE, "retry": PATIENT}
    if job.ways:
        options["host_map"] = job.ways.__getitem__  # a server that is reached past the proxies is a mistake
    lonely = Durability(replicas=1, timeout=0.005) if job.durable else Durability()
    return (
        shell.from_url(job.url, **options, keep_revisions=KEEP, durability=Durability(replicas=job.crew.copies)),
        shell.from_url(job.url, **options, durability=lonely),
    )


def _clients(job: Job, keeping: Any, trimming: Any, journal: Journal, stop: Callable[[], bool]) -> list[Client]:
    return [
        ROLES[job.crew.role](
            f"{job.name}.{number}", job.crew.shell == "sync", keeping, trimming, journal, job.world,
            random.Random(f"{job.seed} {number}"), stop, job.pace,
        )
        for number in range(job.crew.clients)
    ]  # fmt: skip


async def _tasks(shell: Shell, job: Job, stop: Callable[[], bool]) -> None:
    journal = Journal(job.journal)
    keeping, trimming = _backends(shell, job)
    async with keeping, trimming, asyncio.TaskGroup() as group:
        for client in _clients(job, keeping, trimming, journal, stop):
            group.create_task(client.live())
    journal.close()


def _threads(shell: Shell, job: Job, stop: Callable[[], bool]) -> None:
    journal = Journal(job.journal)
    keeping, trimming = _backends(shell, job)
    threads = [
        # The calls block; the loop is only there to drive the coroutine that both shells share.
        threading.Thread(target=lambda client=client: asyncio.run(client.live()))
        for client in _clients(job, keeping, trimming, journal, stop)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    trimming.inner.close()
    keeping.inner.close()
    journal.close()
