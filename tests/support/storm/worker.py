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
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from histstore import Durability

from ..shells import SHELLS, Shell
from .clients import PATIENT, Client, World
from .journal import Journal

KEEP = 1_000_000
"""Revisions that are kept where the log is to remember everything."""


@dataclass(frozen=True)
class Job:
    """What a worker process is to do.

    Attributes:
        name: Its own, and that of its files.
        shell: "async" or "sync".
        url: The server, or a proxy before it.
        folder: Where its journal and what it prints go.
        clients: How many there are in it.
        seed: Chance.
        world: The runs.
        durable: Whether writes to runs that are not kept wait for a replica that is not there.
    """

    name: str
    shell: str
    url: str
    folder: Path
    clients: int
    seed: str
    world: World
    durable: bool = False

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
    shell = next(each for each in SHELLS if each.name == job.shell)
    if job.shell == "async":
        asyncio.run(_tasks(shell, job, stopping.is_set))
    else:
        _threads(shell, job, stopping.is_set)
    pipe.send("done")


def _backends(shell: Shell, job: Job) -> tuple[Any, Any]:
    durability = Durability(replicas=1, timeout=0.005) if job.durable else Durability()
    return (
        shell.from_url(job.url, namespace="storm", retry=PATIENT, keep_revisions=KEEP),
        shell.from_url(job.url, namespace="storm", retry=PATIENT, durability=durability),
    )


def _clients(job: Job, keeping: Any, trimming: Any, journal: Journal, stop: Callable[[], bool]) -> list[Client]:
    return [
        Client(
            f"{job.name}.{number}", job.shell == "sync", keeping, trimming, journal, job.world,
            random.Random(f"{job.seed} {number}"), stop,
        )
        for number in range(job.clients)
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
