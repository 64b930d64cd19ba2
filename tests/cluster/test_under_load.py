"""Writers and lockers while slots move and a primary dies: nothing is lost, doubled or held twice."""

from __future__ import annotations

import asyncio
import time

import pytest
from redis.crc import key_slot

import histstore
from histstore import ANY, Durability, NotReplicatedError
from histstore.protocol.keys import run_keys

from ..support.cluster import Cluster
from ..support.samples import plain
from ..support.servers import Server
from ..support.shells import Shell, until
from .conftest import Make
from .load import Load

pytestmark = pytest.mark.slow
HELD = 4.0
"""Seconds for which a slot is held open."""
MOVES = 60
RUNS = [f"run {number}" for number in range(9)]


@pytest.mark.alone
async def test_a_durable_save_waits_at_its_own_server(six: Cluster, backends: Make) -> None:
    backend = backends(six.url, durability=Durability(replicas=1, timeout=5.0))
    for run in RUNS:
        await backend.store(run).append(plain(1))
    lonely = backends(six.url, durability=Durability(replicas=2, timeout=0.2))
    for run in RUNS:
        with pytest.raises(NotReplicatedError) as caught:
            await lonely.store(run).append(plain(1), expected=ANY)
        assert caught.value.acked == 1, "each primary has one replica"


@pytest.mark.alone
async def test_a_lease_that_is_only_renewed_outlives_its_primary(
    six: Cluster, shell: Shell, backends: Make, namespace: str
) -> None:
    """The holder sends nothing but renewals, and those notice that another server has the run."""
    backend = backends(six.url)
    keys = run_keys(namespace, "run")
    async with backend.store("run").lock(ttl=12.0) as lease:
        victim = six.owner(keys.head)
        heir = six.replica_of(victim)
        six.wait(
            lambda: six.client(heir).execute_command("READONLY") and six.client(heir).exists(keys.lease), "no copy"
        )
        victim.kill()
        await asyncio.to_thread(six.wait, lambda: _is_primary(six, heir.port), "the replica is not promoted")
        promoted = time.monotonic()
        # Without the renewal it would end 12 s after it was granted.
        await until(lambda: six.client(heir).pttl(keys.lease) > 9_000, "the lease is renewed at the heir", 10.0)
        assert time.monotonic() - promoted < 10.0
        assert not lease.lost
    victim.start()
    six.clients.pop(victim.port).close()
    await asyncio.to_thread(six.wait, six.is_ok, "the old primary does not come back")


@pytest.mark.long
async def test_reshard_held_open_and_kill(six: Cluster, namespace: str) -> None:
    """16 writers and 16 lockers, with the default policy."""
    async with histstore.RedisBackend.from_url(six.url, namespace=namespace) as backend:
        load = Load(backend)
        tasks = [asyncio.create_task(load.write(number)) for number in range(load.writers)]
        tasks += [asyncio.create_task(load.lock(number)) for number in range(load.lockers)]
        await asyncio.sleep(1.0)
        slots = [key_slot(run_keys(namespace, run).head) for run in load.acked]

        load.phase = "reshard"
        await asyncio.to_thread(_reshard, six, slots)

        load.phase = "held open"
        await asyncio.to_thread(_hold_open, six, slots[0])

        load.phase = "killed"
        victim = six.owner_of_slot(slots[0])
        heir = six.replica_of(victim)
        victim.kill()
        await asyncio.to_thread(six.wait, lambda: _is_primary(six, heir.port), "the replica is not promoted")
        promoted, before = time.monotonic(), len(load.acked["writer 0"])
        while len(load.acked["writer 0"]) == before and time.monotonic() < promoted + 10.0:
            await asyncio.sleep(0.01)
        went_on = time.monotonic() - promoted

        load.phase = "after"
        await asyncio.sleep(1.0)
        load.over = True
        await asyncio.gather(*tasks)
        print(load.total, load.entered, load.slowest, load.errors)
        await load.verify()
    assert went_on < 2.0
    assert not load.errors
    assert load.entered > 100


def _reshard(six: Cluster, slots: list[int]) -> None:
    for number in range(MOVES):
        slot = slots[number % len(slots)]
        owner = six.owner_of_slot(slot)
        six.move_slot(slot, next(each for each in six.servers[:3] if each is not owner))


def _hold_open(six: Cluster, slot: int) -> None:
    owner = six.owner_of_slot(slot)
    six.move_slot(slot, next(each for each in six.servers[:3] if each is not owner), hold=lambda: time.sleep(HELD))


def _has_copy(six: Cluster, replica: Server, key: bytes) -> bool:
    client = six.client(replica)
    client.execute_command("READONLY")
    return bool(client.exists(key))


def _is_primary(six: Cluster, port: int) -> bool:
    server = next(each for each in six.servers if each.port == port)
    return bool(six.client(server).execute_command("ROLE")[0] == b"master")
