"""Writers and lockers while slots move and a primary dies: nothing is lost, doubled or held twice."""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections.abc import AsyncIterator

import pytest
from redis.crc import key_slot

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
HELD_LONG = 15.0
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
async def test_reshard_held_open_and_kill(six: Cluster, shell: Shell, backends: Make, namespace: str) -> None:
    """16 writers and 16 lockers, with the default policy."""
    load = Load(backends(six.url))
    async with _under(load, shell):
        slots = [key_slot(run_keys(namespace, run).head) for run in load.acked]

        load.phase = "reshard"
        await asyncio.to_thread(_reshard, six, slots)

        load.phase = "held open"
        await asyncio.to_thread(_hold_open, six, slots[0], HELD)

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
    victim.start()
    six.clients.pop(victim.port).close()
    await asyncio.to_thread(six.wait, six.is_ok, "the old primary does not come back")
    assert went_on < 2.0


@pytest.mark.long
async def test_a_slot_is_held_open_for_long(three: Cluster, shell: Shell, backends: Make, namespace: str) -> None:
    """Calls on its runs wait until the move is over. No error escapes, and other runs do not notice."""
    load = Load(backends(three.url), ttl=2 * HELD_LONG)
    async with _under(load, shell):
        slot = key_slot(run_keys(namespace, "locked 0").head)
        load.phase = "held open"
        await asyncio.to_thread(_hold_open, three, slot, HELD_LONG)
        load.phase = "after"
    assert max(load.slowest.values()) > HELD_LONG / 2, "nobody waited for the slot"


@pytest.mark.long
async def test_slots_are_moved_by_their_owner(three: Cluster, shell: Shell, backends: Make, namespace: str) -> None:
    """Valkey 9 moves a slot in one step. Nothing is lost, and no error escapes."""
    if not three.migrates():
        pytest.skip("the servers have no CLUSTER MIGRATESLOTS")
    load = Load(backends(three.url))
    async with _under(load, shell):
        slots = [key_slot(run_keys(namespace, run).head) for run in load.acked]
        load.phase = "migrated"
        for slot in slots:
            owner = three.owner_of_slot(slot)
            target = next(each for each in three.servers if each is not owner)
            await asyncio.to_thread(three.migrate_slot, slot, target)
        load.phase = "after"


@contextlib.asynccontextmanager
async def _under(load: Load, shell: Shell) -> AsyncIterator[None]:
    """Runs the load around a body, and checks what was told afterwards."""
    working = load.start(shell)
    try:
        await asyncio.sleep(1.0)
        yield
        await asyncio.sleep(1.0)
    finally:
        load.over = True
        await asyncio.gather(*working)
    print(load.total, load.entered, load.slowest, load.errors)
    await load.verify()
    assert not load.errors
    assert load.entered > 100


def _reshard(six: Cluster, slots: list[int]) -> None:
    for number in range(MOVES):
        slot = slots[number % len(slots)]
        owner = six.owner_of_slot(slot)
        six.move_slot(slot, next(each for each in _primaries(six) if each is not owner))


def _hold_open(made: Cluster, slot: int, seconds: float) -> None:
    owner = made.owner_of_slot(slot)
    target = next(each for each in _primaries(made) if each is not owner)
    made.move_slot(slot, target, hold=lambda: time.sleep(seconds), step=1)


def _primaries(made: Cluster) -> list[Server]:
    return [each for each in made.servers if _is_primary(made, each.port)]


def _is_primary(six: Cluster, port: int) -> bool:
    server = next(each for each in six.servers if each.port == port)
    return bool(six.client(server).execute_command("ROLE")[0] == b"master")
