"""WAIT: true counts, few of them, and nobody held up behind one (row 23)."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Callable, Iterator
from typing import Any

import pytest
import redis

from histstore import (
    ANY,
    BackendConfigError,
    BackendError,
    BackendUnavailableError,
    Durability,
    NotReplicatedError,
    RetryPolicy,
)
from histstore.protocol.scripts import SAVE

from ..support.history import message
from ..support.proxy import proxy
from ..support.servers import Server, server
from ..support.shells import until
from .shells import GUARD, carries, contents

Make = Callable[..., Any]


@pytest.fixture(scope="module")
def pair() -> Iterator[tuple[Server, Server]]:
    """A primary and its replica."""
    with server(repl_diskless_sync_delay="0", hz="100") as primary, server() as replica:
        with replica.client() as raw:
            raw.execute_command("REPLICAOF", "127.0.0.1", str(primary.port))
        yield primary, replica


@pytest.fixture
async def primary(pair: tuple[Server, Server]) -> Any:
    """The primary, with its replica in step."""
    with pair[0].client() as raw:
        raw.flushall()
        async with asyncio.timeout(GUARD):
            raw.set("in step", "?")
            while raw.execute_command("WAIT", 1, 100) < 1:
                await asyncio.sleep(0.02)
        raw.config_resetstat()
    return pair[0]


@pytest.fixture
def frozen_replica(pair: tuple[Server, Server], primary: Server) -> Iterator[Server]:
    """The replica, frozen."""
    pair[1].freeze()
    yield pair[1]
    pair[1].thaw()


def waits(raw: redis.Redis) -> int:
    """Returns how many WAITs the server has been sent."""
    stats: Any = raw.info("commandstats")
    return int(stats.get("cmdstat_wait", {}).get("calls", 0))


async def test_a_replica_that_has_it_is_counted(shell: str, backends: Make, primary: Server) -> None:
    """A save returns when the replica has it: small ones, and large ones that go their own way."""
    store = backends(shell, primary.url, durability=Durability(replicas=1, timeout=10)).store("run")
    await store.append(message("small"))
    await store.append(message("x" * 100_000))
    assert await store.delete()
    two = backends(shell, primary.url, durability=Durability(replicas=2, timeout=0.02)).store("two")
    with pytest.raises(NotReplicatedError) as caught:
        await two.append(message("x"))
    assert (caught.value.acked, caught.value.wanted) == (1, 2)
    assert caught.value.revision == two.revision


@pytest.mark.parametrize("size", [10, 100_000])
async def test_a_replica_that_is_frozen_is_not_counted(
    size: int, shell: str, backends: Make, primary: Server, frozen_replica: Server
) -> None:
    """The save stands, its revision is known, and the next one goes onto it."""
    store = backends(shell, primary.url, durability=Durability(replicas=1, timeout=0.05)).store("run")
    for turn in range(3):
        with pytest.raises(NotReplicatedError) as caught:
            await store.append(message(str(turn) * size))
        assert (caught.value.acked, caught.value.wanted) == (0, 1)
        assert store.revision == caught.value.revision
        assert store.revision.version == turn + 1
        assert store.unsettled is None
    assert await contents(store) == [str(turn) * size for turn in range(3)]


@pytest.mark.parametrize("size", [10, 100_000])
async def test_already_saved_counts_truly(
    size: int, shell: str, backends: Make, primary: Server, frozen_replica: Server
) -> None:
    """A resend that finds its save applied waits for the replicas as the first send would have."""
    async with proxy(primary.url) as between:
        durability = Durability(replicas=1, timeout=0.05)
        store = backends(shell, between.url, durability=durability).store("run")
        for turn in range(3):
            between.lose_replies(1, carries(SAVE))
            with pytest.raises(NotReplicatedError) as caught:
                await store.append(message("x" * size))
            assert caught.value.acked == 0
            assert caught.value.revision.version == turn + 1
        assert between.lost == 3
        frozen_replica.thaw()
        between.lose_replies(1, carries(SAVE))
        patient = backends(shell, between.url, durability=Durability(replicas=1, timeout=20)).store("other")
        assert (await patient.append(message("x"))).version == 1
        assert between.lost == 4


async def test_a_connection_lost_during_wait_is_not_replicated(shell: str, backends: Make, primary: Server) -> None:
    """The save itself was answered: it is said to be saved, with no copy confirmed."""
    async with proxy(primary.url) as between:
        store = backends(shell, between.url, durability=Durability(replicas=1, timeout=5)).store("run")
        between.lose_replies(1, lambda request: b"\r\nWAIT\r\n$1\r\n1\r\n" in request)  # the self-test waits for 0
        with pytest.raises(NotReplicatedError) as caught:
            await store.append(message("x"))
        assert caught.value.acked == 0
        assert between.lost == 1
        assert await contents(store) == ["x"]


async def test_a_neighbour_is_not_held_up_behind_a_wait(
    backends: Make, primary: Server, frozen_replica: Server
) -> None:
    """While a WAIT of a minute is pending, loads and saves of the same backend are answered, save for its own."""
    backend = backends("async", primary.url, durability=Durability(replicas=1, timeout=60))
    plain = backends("async", primary.url)
    await plain.store("neighbour").append(message("there"))
    with primary.client() as raw:
        async with asyncio.timeout(GUARD):
            slow = asyncio.create_task(backend.store("run").append(message("x")))
            large = asyncio.create_task(backend.store("large").append(message("x" * 100_000)))
            while raw.info("clients")["blocked_clients"] < 2:  # type: ignore[index]
                await asyncio.sleep(0.01)
            for _ in range(5):
                assert await contents(backend.store("neighbour")) == ["there"]
                assert await backend.store("neighbour").info() is not None
            # What is saved can be read at once, though its WAIT is pending.
            assert await contents(backend.store("run")) == ["x"]
            # A durable save that comes meanwhile shares the next WAIT; a large one does not queue behind it either.
            behind = asyncio.create_task(backend.store("behind").append(message("y")))
            await asyncio.sleep(0.05)
            assert not slow.done()
            assert not large.done()
            assert not behind.done()
            frozen_replica.thaw()
            assert [(await task).version for task in (slow, large, behind)] == [1, 1, 1]


async def test_fifty_concurrent_durable_saves_share_few_waits(shell: str, backends: Make, primary: Server) -> None:
    """Saves that come while a WAIT is pending share the next one."""
    backend = backends(shell, primary.url, durability=Durability(replicas=1, timeout=20))
    await backend.store("first").append(message("x"))
    with primary.client() as raw:
        before = waits(raw)
        stores = [backend.store(f"run {index}") for index in range(50)]
        revisions = await asyncio.gather(*(store.append(message(str(store.run_id))) for store in stores))
        assert [revision.version for revision in revisions] == [1] * 50
        # In threads, a save that comes late may find nobody to share with.
        assert waits(raw) - before <= (6 if shell == "async" else 40)
    for store in stores:
        assert await contents(backend.store(store.run_id)) == [str(store.run_id)]


async def test_a_save_behind_a_wait_in_vain_is_not_given_up(
    shell: str, backends: Make, primary: Server, frozen_replica: Server
) -> None:
    """It waits for that WAIT and then for its own, which together take longer than one try has."""
    url = f"{primary.url}?socket_timeout=0.5"
    backend = backends(shell, url, durability=Durability(replicas=1, timeout=1.0))
    stores = [backend.store(f"run {number}") for number in range(4)]
    with primary.client() as raw:
        raw.script_load(SAVE.source)  # a server that lacks it would be sent another WAIT
        first = asyncio.ensure_future(stores[0].append(message("x")))
        await until(lambda: raw.info("clients")["blocked_clients"], "its WAIT is pending")
        others = [store.append(message("x")) for store in stores[1:]]
        told = await asyncio.gather(first, *others, return_exceptions=True)
        assert [type(error) for error in told] == [NotReplicatedError] * 4
        assert waits(raw) == 3, "one of the self-test, one of the first save, and one that the others share"
    assert [await contents(store) for store in stores] == [["x"]] * 4


async def test_a_server_without_waitaof_is_told_at_the_first_call(shell: str, backends: Make, primary: Server) -> None:
    """fsync needs WAITAOF and appendonly: a server that has not both is refused before anything is written."""
    store = backends(shell, primary.url, durability=Durability(fsync=True)).store("run")
    with pytest.raises(BackendConfigError, match="WAITAOF"):
        await store.append(message("x"))
    assert await backends(shell, primary.url).store("run").load() is None


async def test_a_durable_save_to_a_server_that_refuses_connections_wrote_nothing(
    shell: str, backends: Make, private_server: Callable[..., Server]
) -> None:
    """No byte of it has left, so nothing is open."""
    server = private_server()
    retry = RetryPolicy(attempts=1, deadline=5.0)
    backend = backends(shell, server.url, durability=Durability(replicas=1, timeout=0.01), retry=retry)
    with pytest.raises(NotReplicatedError):
        await backend.store("run").append(message("a"))
    server.kill()
    with contextlib.suppress(BackendError):
        await backend.store("run").append(message("over the old connection"), expected=ANY)
    store = backend.store("new")
    with pytest.raises(BackendUnavailableError):
        await store.append(message("b"))
    assert store.unsettled is None
