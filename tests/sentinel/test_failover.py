"""Failovers under writers: who is told what, who comes back, and how soon writers go on."""

from __future__ import annotations

import asyncio
import signal
import time
from collections import Counter

import pytest

from histstore import ANY, ConflictError, LeaseLostError
from histstore.protocol.keys import run_keys

from ..support.samples import plain
from ..support.sentinels import Watched, watched
from ..support.servers import Server
from ..support.shells import Shell, until
from .conftest import Make
from .writers import Writer, work_all

pytestmark = pytest.mark.slow
WRITERS = 16
KILLS = 10


@pytest.mark.long
async def test_a_primary_is_killed_again_and_again(shell: Shell, namespace: str) -> None:
    """16 writers, with the default policy. Replication is asynchronous: what it loses is reported to its writer."""
    with watched() as made:
        async with shell.from_url(made.url, namespace=namespace) as backend:
            writers = [Writer(backend, f"run {number}") for number in range(WRITERS)]
            working = await work_all(shell, writers)
            paused = []
            for _ in range(KILLS):
                await asyncio.sleep(0.5)
                old = await asyncio.to_thread(made.primary)
                before = time.monotonic()
                await asyncio.to_thread(old.kill)
                await asyncio.to_thread(made.heir_of, old)
                promoted = time.monotonic()
                await until(lambda before=before: sum(each.last > before for each in writers) == WRITERS)  # type: ignore[misc]
                paused.append(max(0.0, time.monotonic() - promoted))
                await asyncio.to_thread(made.bring_back, old)
            for each in writers:
                each.over = True
            await asyncio.gather(*working)
        wrong = [text for each in writers for text in each.wrong]
        errors = sum((each.errors for each in writers), Counter[str]())
        told, lost = sum(len(each.acked) for each in writers), sum(len(each.reported) for each in writers)
        print(
            f"{told} acknowledged and there, {lost} lost and reported, {dict(errors)}, "
            f"all went on {[round(each, 2) for each in paused]} s after the promotions"
        )
        assert not wrong, wrong[:5]
        assert told > 1000
        assert set(errors) <= {"ConflictError", "RevisionGoneError", "OutcomeUnknownError"}, errors
        assert max(paused) < 2.0, paused


@pytest.mark.alone
async def test_a_lease_outlives_its_primary(pair: Watched, backends: Make, namespace: str) -> None:
    """A copy of it has reached the replica: its holder goes on."""
    store = backends(pair.url).store("run")
    async with store.lock(ttl=20.0) as lease:
        await store.append(plain(1), lease=lease)
        old = pair.primary()
        heir = next(each for each in pair.servers if each is not old)
        with heir.client() as copy:
            await until(lambda: copy.exists(run_keys(namespace, "run").lease))
        old.kill()
        try:
            await store.append(plain(2), lease=lease)
            assert not lease.lost
        finally:
            await asyncio.to_thread(pair.bring_back, old)
    assert len((await store.load()).messages) == 2


@pytest.mark.alone
async def test_a_lease_that_no_replica_had_is_lost_by_name(backends: Make) -> None:
    """It was granted by a primary that was cut off already."""
    with watched(replicas=1, relayed=True) as made:
        old = made.primary()
        direct = Direct({made.announced(each): each.port for each in made.servers})
        backend = backends(made.url, host_map=direct)
        store = backend.store("run")
        await store.append(plain(1))
        key = run_keys(backend.namespace, "run").log
        await until(lambda: all(_length(each, key) == 1 for each in made.servers))
        made.relays[old.port].cut()
        other = backends(made.url, host_map=direct).store("run")
        scope = store.lock(ttl=20.0)
        lease = await scope.__aenter__()
        heir = await asyncio.to_thread(made.heir_of, old)
        await until(lambda: backend._runner.transport._sentinels.latest == ("127.0.0.1", heir.port))
        # Nobody there knows of the lease, so another one gets in.
        async with other.lock(ttl=20.0, acquire_timeout=5.0):
            with pytest.raises(LeaseLostError, match="run 'run'"):
                await store.append(plain(2), expected=ANY, lease=lease)
        assert lease.lost
        with pytest.raises(LeaseLostError, match="run 'run'"):
            await scope.__aexit__(None, None, None)
        assert _length(heir, key) == 1


@pytest.mark.alone
async def test_a_planned_failover_is_followed_before_anything_fails(
    pair: Watched, shell: Shell, backends: Make, namespace: str
) -> None:
    """A backend that has nothing to do leaves the old primary when the sentinels announce another one."""
    backend = shell.from_url(f"{pair.url}?client_name={namespace}")
    async with backend:
        await backend.store("run").load()
        old = pair.primary()
        assert await asyncio.to_thread(pair.failover) is not old
        with old.client() as raw:
            await until(lambda: not [each for each in raw.client_list() if each["name"] == namespace])
        await until(lambda: backend._runner.transport._sentinels.latest[1] != old.port)
        await backend.store("run").load()
    await asyncio.to_thread(pair.settle)


@pytest.mark.alone
@pytest.mark.long
async def test_a_partitioned_primary_that_took_writes_comes_back(backends: Make) -> None:
    """The writer that stayed with it is refused, the log is one chain, and whoever heard of the failover had left."""
    with watched(relayed=True) as made:
        old = made.primary()
        # Clients reach all servers, although those do not reach each other.
        direct = Direct({made.announced(each): each.port for each in made.servers})
        deaf = made.sentinels[0]
        follows = backends(made.url, host_map=direct)
        stays = backends(f"redis+sentinel://127.0.0.1:{deaf.port}/main", host_map=direct)
        key = run_keys(follows.namespace, "run").log
        store, partitioned = follows.store("run"), stays.store("run")
        await store.append(plain(1))
        await partitioned.load()
        await until(lambda: all(_length(each, key) == 1 for each in made.servers))

        deaf.signal(signal.SIGSTOP)
        made.relays[old.port].cut()
        for number in range(5):
            await partitioned.append(plain(100 + number))
        heir = await asyncio.to_thread(made.heir_of, old)
        await until(lambda: follows._runner.transport._sentinels.latest == ("127.0.0.1", heir.port))
        await store.append(plain(2))
        assert (_length(heir, key), _length(old, key)) == (2, 6), "two branches"

        deaf.signal(signal.SIGCONT)
        made.relays[old.port].restore()
        await asyncio.to_thread(made.settle)
        with pytest.raises(ConflictError):
            await partitioned.append(plain(105))
        found = await partitioned.load()
        assert [message["content"] for message in found.messages] == ["message 1", "message 2"]
        await partitioned.append(plain(3))
        assert [info.revision.version async for info in follows.runs()] == [3]
        await until(lambda: all(_length(each, key) == 3 for each in made.servers), "the branch is gone")


class Direct:
    """A host map that leads around the relays."""

    def __init__(self, ports: dict[int, int]) -> None:
        self.ports = ports

    def __call__(self, address: tuple[str, int]) -> tuple[str, int]:
        return address[0], self.ports[address[1]]


def _length(each: Server, key: bytes) -> int:
    with each.client() as raw:
        return int(raw.xlen(key))
