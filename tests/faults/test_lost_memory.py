"""What the server knew is lost: keys, scripts, or acknowledged saves (rows 7, 8 and 9)."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable
from typing import Any

import pytest
import redis

from histstore import ANY, ConflictError, RevisionGoneError
from histstore.protocol.scripts import SAVE

from ..support.history import History, message
from ..support.proxy import Proxy, proxy
from ..support.servers import Server
from .shells import GUARD, carries, contents, entries, keys_of

Make = Callable[..., Any]


@pytest.mark.parametrize("how", ["DEL", "expiry", "delete", "FLUSHALL"])
async def test_a_stale_save_conflicts_with_a_run_that_was_created_again(
    how: str, shell: str, backends: Make, private_server: Callable[..., Server]
) -> None:
    """However the run went, and though the new one is at the same version: nothing unseen is overwritten."""
    server = private_server()
    backend = backends(shell, server.url)
    rival = backends("async", server.url).store("run")
    store = backend.store("run")
    await store.append(message("old"))
    with server.client() as raw:
        keys = keys_of("histstore", "run")
        match how:
            case "DEL":
                raw.delete(keys.head, keys.log, keys.etags)
            case "expiry":
                for key in (keys.head, keys.log, keys.etags):
                    raw.pexpire(key, 1)
                await asyncio.sleep(0.005)
            case "delete":
                await rival.delete()
            case _:
                raw.flushall()
    with pytest.raises(ConflictError) as caught:
        await store.append(message("stale"))
    assert caught.value.actual is None
    await rival.append(message("new"), expected=None)
    assert rival.revision.version == store.revision.version == 1
    with pytest.raises(ConflictError) as caught:
        await store.append(message("stale"))
    assert caught.value.actual == rival.revision
    assert await contents(store) == ["new"]
    await store.append(message("seen"))
    assert await contents(rival) == ["new", "seen"]


async def test_script_flush_between_calls_is_not_noticed(
    shell: str, backends: Make, private_server: Callable[..., Server]
) -> None:
    """An empty script cache costs a round trip: no NOSCRIPT escapes, and each save is applied once."""
    server = private_server()
    store = backends(shell, server.url).store("run")
    with server.client() as raw:
        for turn in range(5):
            raw.script_flush()
            assert (await store.append(message(str(turn)))).version == turn + 1
            raw.script_flush()
            snapshot = await store.load()
            await store.save(snapshot)  # compare
            raw.script_flush()
            assert await store.resolve(None) == store.revision  # what the last write came to
        assert entries(raw, "histstore", "run") == 5
        assert await contents(store) == list("01234")
        raw.script_flush()
        assert await store.delete()


async def test_a_script_cache_lost_between_a_lost_reply_and_its_retry(
    shell: str, backends: Make, private_server: Callable[..., Server]
) -> None:
    """A resend finds no script, sends it in full, and is still known as a resend."""
    server = private_server()
    async with proxy(server.url) as between:
        store = backends(shell, between.url).store("run")
        with server.client() as raw:

            async def flush() -> None:
                raw.script_flush()

            between.before_cut = flush
            for turn in range(5):
                between.lose_replies(1, carries(SAVE))
                assert (await store.append(message(str(turn)))).version == turn + 1
            assert between.lost == 5
            assert entries(raw, "histstore", "run") == 5


async def test_a_server_that_restarts_keeps_what_it_acknowledged(
    shell: str, backends: Make, private_server: Callable[..., Server]
) -> None:
    """kill -9 and restart with appendonly, in the middle of a session: the next call works, applied once."""
    server = private_server(appendonly="yes", appendfsync="always")
    store = backends(shell, server.url).store("run")
    history = History()
    for turn in range(4):
        with history.append("c", str(turn)) as call:
            call.saved(await store.append(message(str(turn))))
        server.kill()
        server.start()
    history.check(await contents(store))
    with server.client() as raw:
        assert entries(raw, "histstore", "run") == 4


async def test_a_restart_between_a_lost_reply_and_its_retry(
    backends: Make, private_server: Callable[..., Server]
) -> None:
    """The memory of what was applied is as durable as what was applied."""
    server = private_server(appendonly="yes", appendfsync="always")
    async with proxy(server.url) as between:
        store = backends("async", between.url).store("run")

        async def restart() -> None:
            server.kill()
            server.start()

        await store.append(message("0"))
        between.before_cut = restart
        for turn in range(1, 4):
            between.lose_replies(1, carries(SAVE))
            assert (await store.append(message(str(turn)))).version == turn + 1
        assert await contents(store) == list("0123")
        with server.client() as raw:
            assert entries(raw, "histstore", "run") == 4


async def test_a_failover_to_a_replica_that_lags_is_noticed(
    shell: str, backends: Make, private_server: Callable[..., Server]
) -> None:
    """The survivor's next save conflicts, and a load that names the lost revision says that it is gone."""
    primary, replica = private_server(repl_diskless_sync_delay="0"), private_server()
    with replica.client() as raw, primary.client() as old:
        raw.execute_command("REPLICAOF", "127.0.0.1", str(primary.port))
        end = time.monotonic() + GUARD
        while raw.info("replication")["master_link_status"] != "up":  # type: ignore[index]
            assert time.monotonic() < end
            await asyncio.sleep(0.02)
        async with proxy(primary.url) as between:
            store = backends(shell, between.url).store("run")
            kept = await store.append(message("kept"))
            assert old.wait(1, 10_000) >= 0
            while not raw.exists(keys_of("histstore", "run").head):
                assert time.monotonic() < end
                await asyncio.sleep(0.01)
            raw.execute_command("REPLICAOF", "NO", "ONE")
            lost = await store.append(message("lost"))  # acknowledged by the old primary alone
            between.retarget(replica.url)
            between.cut()
            await asyncio.sleep(0.05)  # the client sees that its connection is gone, and does not send into it
            with pytest.raises(ConflictError) as caught:
                await store.append(message("next"))
            assert (caught.value.expected, caught.value.actual) == (lost, kept)
            with pytest.raises(RevisionGoneError):
                await store.load(at=lost)
            assert await contents(store) == ["kept"]
            await store.append(message("again"), expected=ANY)
            assert await contents(store) == ["kept", "again"]
            with pytest.raises(RevisionGoneError):
                await store.load(at=lost)  # the same version, another etag


async def test_an_evicted_memory_of_etags_never_makes_an_applied_save_a_refused_one(
    shell: str, backends: Make, between: Proxy, namespace: str, raw: redis.Redis
) -> None:
    """An applied save whose etag was evicted before the resend is not told as a conflict, nor as "never"."""
    for before in (0, 3):
        run = f"after {before}"
        store = backends(shell, between.url, namespace=namespace).store(run)
        for turn in range(before):
            await store.append(message(str(turn)))

        async def evict(run: str = run) -> None:
            raw.delete(keys_of(namespace, run).etags)

        between.before_cut = evict
        between.lose_replies(1, carries(SAVE))
        # Truly saved, so the one honest answer besides that is that it cannot be told any more.
        try:
            revision = await store.append(message("mine"))
        except RevisionGoneError:
            pass
        else:
            assert revision.version == before + 1
        assert entries(raw, namespace, run) == before + 1
