"""The example worker stops gracefully, and can be replaced while others write."""

from __future__ import annotations

import asyncio
import os
import signal
import subprocess
import sys
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from histstore import RunId
from histstore.protocol.keys import run_keys

from ..support.servers import Server, free_port, server
from ..support.shells import until
from .conftest import DEPLOY
from .talk import talk

PROGRAM = DEPLOY / "worker/worker.py"


class Worker:
    """A worker process.

    Args:
        url: The server.
        folder: Where it writes its process id.
        **settings: Variables of its environment.
    """

    def __init__(self, url: str, folder: Path, **settings: str) -> None:
        self.port = free_port()
        self.environment = {
            **os.environ,
            "HISTSTORE_URL": url,
            "PYTHONPATH": str(DEPLOY.parent),
            "WORKER_PORT": str(self.port),
            "WORKER_PID_FILE": str(folder / f"worker-{self.port}.pid"),
            "WORKER_POLL": "0.1",
            **settings,
        }
        self.process = subprocess.Popen([sys.executable, PROGRAM], env=self.environment)

    def run(self, option: str) -> int:
        """Run the program with an option, as a probe or a hook in its container would."""
        return subprocess.run([sys.executable, PROGRAM, option], env=self.environment, timeout=30).returncode

    def status(self, path: str) -> int:
        """Return the status code of a probe, or 0 if nobody answers."""
        try:
            with urllib.request.urlopen(f"http://127.0.0.1:{self.port}{path}", timeout=5) as answer:
                return int(answer.status)
        except urllib.error.HTTPError as error:
            return error.code
        except OSError:
            return 0

    def stop(self) -> int:
        """Send SIGTERM, and return the exit code."""
        self.process.send_signal(signal.SIGTERM)
        return self.process.wait(20)


@pytest.fixture
def here() -> Iterator[Server]:
    """An empty server."""
    with server() as running:
        yield running


@pytest.fixture
def start(here: Server, tmp_path: Path) -> Iterator[Callable[..., Worker]]:
    """Return a function that starts a worker."""
    workers: list[Worker] = []

    def make(**settings: str) -> Worker:
        workers.append(Worker(here.url, tmp_path, **settings))
        return workers[-1]

    yield make
    for worker in workers:
        worker.process.kill()
        worker.process.wait()


@pytest.mark.slow
@pytest.mark.parametrize("turns", [pytest.param(1, marks=pytest.mark.long), 8])
async def test_a_stopped_worker_ends_its_turns(here: Server, start: Callable[..., Worker], turns: int) -> None:
    """On SIGTERM, the turns that run are finished and saved, and no other begins. Nothing is leased afterwards."""
    worker = start(WORKER_REPLY_SECONDS="0.4", WORKER_TURNS=str(turns))
    await until(lambda: worker.run("--check") == 0)
    async with talk(here.url, runs=4) as users:
        asking = asyncio.create_task(users.round())
        await until(users.leases)
        held = await users.leases()
        assert len(held) <= turns
        assert worker.stop() == 0
        lengths = {info.run_id: info.length async for info in users.backend.runs()}
        assert {lengths[run] for run in held} == {2}
        assert turns > 1 or 1 in lengths.values()
        assert await users.leases() == []
        start()
        await asking
        await users.check()


@pytest.mark.slow
async def test_leases_are_given_up_when_the_time_is_over(here: Server, start: Callable[..., Worker]) -> None:
    """A turn that takes too long loses its lease, so that another worker need not wait for the lease to expire."""
    worker = start(WORKER_REPLY_SECONDS="600", WORKER_DRAIN="0.2", WORKER_LEASE="600")
    async with talk(here.url, runs=1) as users:
        asking = asyncio.create_task(users.round())
        await until(users.leases)
        assert worker.stop() == 0
        assert await users.leases() == []
        start()
        await asking
        await users.check()


@pytest.mark.long
async def test_the_hook_drains_the_worker(here: Server, start: Callable[..., Worker]) -> None:
    """It returns when the turn that runs has been saved. The worker lives on and is not ready. SIGTERM ends it."""
    worker = start(WORKER_REPLY_SECONDS="0.5")
    async with talk(here.url, runs=1) as users:
        asking = asyncio.create_task(users.round())
        await until(users.leases)
        assert (worker.status("/live"), worker.status("/ready"), worker.status("/other")) == (200, 200, 503)
        assert await asyncio.to_thread(worker.run, "--drain") == 0
        await asking
        assert (worker.status("/live"), worker.status("/ready")) == (200, 503)
        assert worker.run("--check") == 1
        assert worker.stop() == 0
        assert worker.status("/live") == 0
        assert worker.run("--drain") == 1


@pytest.mark.long
async def test_a_lost_server_makes_it_unready_only(here: Server, start: Callable[..., Worker]) -> None:
    """Without the server the worker lives on, and is not ready. With it, the worker goes on."""
    worker = start(HISTSTORE_URL=here.url + "?socket_timeout=0.3")
    await until(lambda: worker.status("/ready") == 200)
    here.freeze()
    await until(lambda: worker.status("/ready") == 503, "it still counts as ready", 60)
    assert worker.status("/live") == 200
    here.thaw()
    await until(lambda: worker.status("/ready") == 200)
    assert worker.stop() == 0


@pytest.mark.long
async def test_a_damaged_run_does_not_stop_it(here: Server, start: Callable[..., Worker]) -> None:
    """The worker answers the other runs, and is ready."""
    async with talk(here.url, runs=3) as users:
        await users.backend.store("damaged").append({"role": "user", "content": "hi"})
        with here.client() as client:
            client.hset(run_keys("histstore", RunId("damaged")).head, "version", "x")
        worker = start()
        await users.round()
        await users.check()
        assert worker.status("/ready") == 200
        assert worker.stop() == 0


@pytest.mark.slow
def test_a_wrong_setting_ends_it(tmp_path: Path) -> None:
    """A URL that cannot be used is an exit code, and not a loop of retries."""
    assert Worker("redis://localhost:6379/zero", tmp_path).process.wait(20) == 2


@pytest.mark.long
async def test_workers_are_replaced_one_by_one(here: Server, start: Callable[..., Worker]) -> None:
    """While users ask on, each of three workers is stopped and replaced, and one more is killed. Nothing is lost."""
    workers = [start(WORKER_REPLY_SECONDS="0.2", WORKER_LEASE="1") for _ in range(3)]
    async with talk(here.url) as users:

        async def ask() -> None:
            while not replaced.is_set() or users.rounds < 8:
                await users.round()

        replaced = asyncio.Event()
        asking = asyncio.create_task(ask())
        for old in workers:
            await until(lambda old=old: old.status("/ready") == 200)
            await until(users.leases)
            assert await asyncio.to_thread(old.stop) == 0
            new = start(WORKER_REPLY_SECONDS="0.2", WORKER_LEASE="1")
            await until(lambda new=new: new.status("/ready") == 200)
        await until(users.leases)
        new.process.kill()
        replaced.set()
        await asking
        assert users.rounds >= 8
        await users.check()
