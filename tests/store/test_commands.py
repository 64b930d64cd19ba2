"""The commands that the library sends."""

from __future__ import annotations

import os
from collections.abc import Sequence
from typing import Any

import pytest
import redis

from histstore import ANY, Attempt, Durability, HistoryStoreError, RetryPolicy, RunId
from histstore._async.transport import wire
from histstore._sync.transport import connection
from histstore.protocol.keys import run_keys
from histstore.wire import resp

from ..support.history import message
from ..support.servers import server
from ..support.shells import Shell, until


async def test_no_command_holds_a_number(shell: Shell, monkeypatch: pytest.MonkeyPatch) -> None:
    """Every argument is bytes or text: a signal's handler that raises while hiredis packs an int crashes Python."""
    packed: list[tuple[Any, ...]] = []
    pack = resp.pack

    def note(commands: Sequence[Any]) -> bytes:
        packed.extend(commands)
        return pack(commands)

    with server(requirepass="123") as running, running.client(db=3, password="123") as raw:
        raw.ping()  # redis-py's own handshake is not looked at
        for module in (wire, connection):
            monkeypatch.setattr(module, "pack", note)
        theirs: Any = shell.redis
        client = theirs.Redis(host="127.0.0.1", port=running.port, db=3, password=123, client_name=4)
        try:
            options = {"run_ttl": 60, "keep_revisions": 2}
            async with shell.backend(client, **options) as backend, shell.backend(client) as other:
                await _everything(shell, backend, other, raw)
            for durability in (Durability(replicas=1, timeout=0.01), Durability(fsync=True, timeout=0.01)):
                async with shell.backend(client, durability=durability, retry=RetryPolicy(1)) as durable:
                    with pytest.raises(HistoryStoreError):
                        await durable.store("durable").append(message("x"))
        finally:
            await shell.close_client(client)
    words = {name.decode() if isinstance(name, bytes) else name for name, *_ in packed}
    assert words >= {"AUTH", "CLIENT", "SELECT", "WAIT", "WAITAOF", "EVAL", "EVALSHA", "SCAN", "SUBSCRIBE", "XREVRANGE"}
    for command in packed:
        assert {type(part) for part in command} <= {bytes, str}, command


async def _everything(shell: Shell, backend: Any, other: Any, raw: redis.Redis) -> None:
    """Makes every call that sends a command."""
    store = backend.store("run")
    revisions = [await store.append(message(str(number)), expected=ANY) for number in range(3)]
    await other.store("run").load()
    await store.save((await store.load()).append(message("saved")))
    await store.save(await store.load())
    await store.load(at=2)
    await store.read(-1)
    await store.info()
    assert [revision async for revision in store.revisions()]
    assert [info async for info in backend.runs(prefix="r")]
    async with store.lock() as lease:
        waiting = shell.apart(_pass_through(other.store("run")))
        await until(lambda: raw.llen(run_keys("histstore", "run").queue))
        await lease.renew()
        await store.append(message("leased"))
    await waiting
    attempt = Attempt("save", "histstore", RunId("run"), revisions[0], revisions[1], os.urandom(16))
    assert await store.resolve(attempt) is None
    await store.trim()
    await backend.break_lease("run")
    await store.delete()
    await backend.delete("run")


async def _pass_through(store: Any) -> None:
    async with store.lock():
        pass
