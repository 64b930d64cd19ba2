"""Backups as deploy/README.md has them: taken while somebody writes, restored into a fresh server, and verified."""

from __future__ import annotations

import asyncio
import contextlib
import io
import runpy
import shutil
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import pytest
import redis

import histstore.sync
from histstore import ConversationSnapshot, RedisBackend, RunId
from histstore.protocol.keys import run_keys

from ..support.samples import PLAIN, TYPED, user
from ..support.servers import Server
from ..support.shells import until
from .conftest import DEPLOY

Start = Callable[..., Server]
PROGRAM = runpy.run_path(str(DEPLOY / "verify.py"))


@pytest.fixture
def start(program: tuple[str, Path], tmp_path: Path) -> Iterator[Start]:
    """Return a function that starts a server, on the files of a folder."""
    with ExitStack() as stack:

        def make(name: str, **options: str) -> Server:
            folder = tmp_path / name
            folder.mkdir(exist_ok=True)
            settings = {option.replace("_", "-"): value for option, value in options.items()}
            made = Server(settings, binary=str(program[1]), folder=folder).start()
            stack.callback(made.stop)
            return made

        yield make


async def fill(url: str) -> None:
    """Write runs of several kinds: long, typed, with past revisions, leased, and deleted."""
    async with RedisBackend.from_url(url, keep_revisions=3) as backend:
        for number in range(20):
            store = backend.store(f"run {number}")
            await store.save(ConversationSnapshot(TYPED, meta={"number": number}))
            for _ in range(number):
                await store.append(*PLAIN)
            if number % 3 == 0:
                await store.splice(0, 2)
        await backend.delete("run 19")
        async with backend.store("run 1").turn() as turn:
            turn.append(user(1))


async def verify(url: str) -> tuple[int, list[str]]:
    """Call deploy/verify.py. Return its exit code and the lines that it prints, without that of the busy run."""
    printed = io.StringIO()
    with contextlib.redirect_stdout(printed):
        code: int = await PROGRAM["verify"](url, "histstore")
    return code, [line for line in printed.getvalue().splitlines() if not line.endswith(" busy")]


class Writer:
    """Writes one run while a backup is taken."""

    def __init__(self, url: str) -> None:
        self.saves = 0
        self._url = url
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._write)

    def __enter__(self) -> Writer:
        self._thread.start()
        return self

    def __exit__(self, *error: object) -> None:
        self._stop.set()
        self._thread.join()

    def _write(self) -> None:
        with histstore.sync.RedisBackend.from_url(self._url) as backend:
            store = backend.store("busy")
            while not self._stop.is_set():
                store.append(user(self.saves))
                self.saves += 1


def info(client: redis.Redis, name: str) -> Any:
    return client.info("persistence")[name]


async def busy(url: str) -> int:
    """Load the busy run, and return its length."""
    async with RedisBackend.from_url(url) as backend:
        snapshot = await backend.store("busy").load()
        return 0 if snapshot is None else len(snapshot.messages)


@pytest.mark.slow
async def test_the_append_only_file_restores_every_run(start: Start, tmp_path: Path) -> None:
    """Copied while the server writes it, with rewrites switched off."""
    source = start("source", appendonly="yes", aof_load_truncated="yes")
    await fill(source.url)
    before = await verify(source.url)
    assert (before[0], len(before[1])) == (0, 19)
    target = tmp_path / "target"
    with source.client() as client, Writer(source.url) as writer:
        await until(lambda: writer.saves > 20)
        client.config_set("auto-aof-rewrite-percentage", 0)
        await until(lambda: info(client, "aof_rewrite_in_progress") == 0)
        least = writer.saves
        client.config_set("appendfsync", "always")  # what was acknowledged is in the file now
        await until(lambda: writer.saves > least + 20)
        several = (tmp_path / "source/appendonlydir").exists()
        name = "appendonlydir" if several else "appendonly.aof"
        target.mkdir()
        copy = shutil.copytree if several else shutil.copy
        copy(tmp_path / "source" / name, target / name)
        client.config_set("auto-aof-rewrite-percentage", 100)
    source.stop()
    restored = start("target", appendonly="yes", aof_load_truncated="yes")
    assert await verify(restored.url) == before
    assert await busy(restored.url) >= least


@pytest.mark.slow
async def test_a_snapshot_restores_every_run(start: Start, tmp_path: Path) -> None:
    """dump.rdb is loaded without the append-only file, which is switched on afterwards."""
    source = start("source", appendonly="yes")
    await fill(source.url)
    before = await verify(source.url)
    with source.client() as client, Writer(source.url) as writer:
        await until(lambda: writer.saves > 20)
        least = writer.saves
        saved = client.lastsave()
        client.bgsave()
        await until(lambda: info(client, "rdb_bgsave_in_progress") == 0)
        assert (info(client, "rdb_last_bgsave_status"), client.lastsave() >= saved) == ("ok", True)
    (tmp_path / "target").mkdir()
    shutil.copy(tmp_path / "source/dump.rdb", tmp_path / "target")
    source.stop()
    restored = start("target", appendonly="no")
    assert await verify(restored.url) == before
    assert await busy(restored.url) >= least
    with restored.client() as client:
        client.config_set("appendonly", "yes")
        await until(lambda: info(client, "aof_rewrite_in_progress") + info(client, "aof_rewrite_scheduled") == 0)
        assert info(client, "aof_last_bgrewrite_status") == "ok"
    # The next start is the usual one.
    restored.kill()
    restored.options["appendonly"] = "yes"
    restored.start()
    assert await verify(restored.url) == before
    assert await busy(restored.url) >= least


@pytest.mark.slow
async def test_verify_notices_a_damaged_run(start: Start) -> None:
    """A lost entry, a replaced entry, a changed head: the exit code is 1, and the other runs are listed."""
    source = start("source")
    await fill(source.url)
    names = ("run 4", "run 5", "run 7")
    lost, changed, head = (run_keys("histstore", RunId(name)) for name in names)
    with source.client() as client:
        [(entry, _)] = client.xrevrange(lost.log, count=1)
        assert client.xdel(lost.log, entry) == 1
        [(entry, fields)] = client.xrevrange(changed.log, count=1)
        client.xdel(changed.log, entry)
        client.xadd(changed.log, fields | {b"b": fields[b"b"][:-1] + b"?"}, id=entry[:-1] + b"99")
        client.hset(head.head, "version", "x")
    command = [sys.executable, DEPLOY / "verify.py", source.url]
    done = await asyncio.to_thread(
        subprocess.run, command, capture_output=True, text=True, cwd=DEPLOY.parent, timeout=60
    )
    assert done.returncode == 1
    lines = done.stdout.splitlines()
    assert len(lines) == 19 - len(names)
    assert not [line for line in lines if line.endswith(names)]
    assert all(name in done.stderr for name in names)


@pytest.mark.slow
async def test_a_snapshot_alone_is_not_loaded_with_an_append_only_file(start: Start, tmp_path: Path) -> None:
    """The trap that the README warns of: the server starts empty, and says nothing."""
    source = start("source")
    await fill(source.url)
    with source.client() as client:
        client.save()
    (tmp_path / "target").mkdir()
    shutil.copy(tmp_path / "source/dump.rdb", tmp_path / "target")
    restored = start("target", appendonly="yes")
    assert await verify(restored.url) == (0, [])
