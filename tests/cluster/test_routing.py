"""Each request reaches the server that owns its slot, wherever that is, in both shells."""

from __future__ import annotations

import asyncio
import logging
import pickle
import threading
import time
from typing import Any

import pytest
import redis
import redis.asyncio
from redis.crc import key_slot

import histstore
import histstore.sync
from histstore import (
    ANY,
    BackendConfigError,
    BackendError,
    BackendUnavailableError,
    ConversationSnapshot,
    Event,
    HistoryStoreError,
    Observer,
    RetryPolicy,
)
from histstore.protocol.keys import run_keys
from histstore.wire.sending import SendState

from ..support.cluster import Cluster
from ..support.samples import plain
from ..support.shells import Shell, until
from .conftest import Make

RUNS = [f"run {number}" for number in range(30)]
pytestmark = pytest.mark.slow


def slot_of_run(namespace: str, run: str) -> int:
    return key_slot(run_keys(namespace, run).head)


def other_than(three: Cluster, slot: int) -> Any:
    owner = three.owner_of_slot(slot)
    return next(each for each in three.servers if each is not owner)


async def test_every_call_on_runs_of_all_servers(three: Cluster, backends: Make, namespace: str) -> None:
    backend = backends(three.url)
    assert len({three.owner(run_keys(namespace, run).head).port for run in RUNS}) == 3
    for run in RUNS:
        store = backend.store(run)
        await store.append(plain(1))
        async with store.turn() as turn:
            turn.append(plain(2))
        async with store.lock() as lease:
            await lease.renew()
        assert len((await backend.store(run).load()).messages) == 2
        assert (await store.info()).revision.version == 2
        assert not await backend.break_lease(run)
    assert sorted([info.run_id async for info in backend.runs()]) == sorted(RUNS)
    assert len([info async for info in backend.runs(prefix="run 1")]) == 11
    for run in RUNS:
        assert await backend.delete(run)
    assert [info async for info in backend.runs()] == []


@pytest.mark.parametrize("seeds", [1, 3])
async def test_one_seed_that_answers_is_enough(three: Cluster, backends: Make, seeds: int) -> None:
    """Others may be down, or no cluster's."""
    url = f"redis+cluster://127.0.0.1:1,127.0.0.1:{three.servers[seeds - 1].port}"
    store = backends(url).store("run")
    await store.append(plain(1))
    assert len((await store.load()).messages) == 1


async def test_no_seed_answers(backends: Make) -> None:
    backend = backends("redis+cluster://127.0.0.1:1,127.0.0.1:2", retry=RetryPolicy(attempts=2, deadline=2.0))
    with pytest.raises(BackendUnavailableError, match="connection refused"):
        await backend.store("run").load()


async def test_a_single_server_is_no_cluster(backends: Make, server_url: str) -> None:
    url = server_url.replace("redis://", "redis+cluster://")
    backend = backends(url, retry=RetryPolicy(attempts=2, deadline=2.0))
    with pytest.raises((BackendUnavailableError, BackendConfigError), match="cluster"):
        await backend.store("run").load()


async def test_a_server_of_a_cluster_serves_as_a_seed(
    three: Cluster, backends: Make, caplog: pytest.LogCaptureFixture
) -> None:
    """`redis://` to any of them works for all runs, and the log says what it was taken for."""
    caplog.set_level(logging.INFO, "histstore")
    backend = backends(three.servers[1].url)
    for run in RUNS:
        await backend.store(run).append(plain(1))
    assert len([info async for info in backend.runs()]) == len(RUNS)
    assert [record for record in caplog.records if "used as a seed" in record.getMessage()]


async def test_a_database_other_than_0_is_refused(three: Cluster, shell: Shell, backends: Make) -> None:
    """In the URL of a cluster before any I/O; at a server of one when it says so."""
    with pytest.raises(BackendConfigError, match="database 0 only"):
        shell.from_url(three.url + "/3")
    backend = backends(three.servers[0].url.replace("/0", "/1"))
    with pytest.raises(BackendConfigError, match="database"):  # Valkey 9 words it as "DB index is out of range"
        await backend.store("run").load()


async def test_the_client_of_a_cluster_is_taken(three: Cluster, shell: Shell, namespace: str) -> None:
    port = three.servers[0].port
    if shell.name == "async":
        client = redis.asyncio.RedisCluster(host="127.0.0.1", port=port)
        async with histstore.RedisBackend(client, namespace=namespace) as backend:
            for run in RUNS:
                await backend.store(run).append(plain(1))
        await client.aclose()
        return
    with (
        redis.RedisCluster(host="127.0.0.1", port=port) as blocking,
        histstore.sync.RedisBackend(blocking, namespace=namespace) as other,
    ):
        for run in RUNS:
            other.store(run).append(plain(1))


async def test_a_backend_of_a_cluster_is_pickled(three: Cluster, shell: Shell, namespace: str) -> None:
    backend = shell.from_url(three.url, namespace=namespace)
    inner = getattr(backend, "inner", backend)
    again = pickle.loads(pickle.dumps(inner))
    assert again._seats.settings.seeds == inner._seats.settings.seeds
    await backend.aclose()


async def test_addresses_are_mapped(three: Cluster, backends: Make) -> None:
    """The cluster's own addresses are asked for where they are reached, also in MOVED."""
    seen: set[tuple[str, int]] = set()

    def host_map(address: tuple[str, int]) -> tuple[str, int]:
        seen.add(address)
        return "localhost", address[1]

    backend = backends(three.url, host_map=host_map)
    for run in RUNS:
        await backend.store(run).append(plain(1))
    assert seen == {("127.0.0.1", each.port) for each in three.servers}
    assert all(host == "localhost" for host, _ in _transport(backend)._map.primaries)


async def test_a_host_map_of_no_use(three: Cluster, shell: Shell, backends: Make) -> None:
    with pytest.raises(BackendConfigError, match="host_map= is a function"):
        shell.from_url(three.url, host_map="localhost")
    with pytest.raises(BackendConfigError, match=r"host_map= raised ZeroDivisionError .*: make it return"):
        await backends(three.url, host_map=lambda _address: 1 / 0).store("run").load()
    backend = backends(three.url, host_map=lambda address: address)
    with pytest.raises(BackendError, match="host_map of this backend cannot be pickled"):
        pickle.dumps(getattr(backend, "inner", backend))


async def test_a_request_to_a_server_that_has_left_leaves_no_connection(
    three: Cluster, shell: Shell, namespace: str
) -> None:
    """It chose the server just before the map of slots said that this one owns nothing any more."""
    name = f"former-{namespace}"
    backend = shell.from_url(f"{three.url}?client_name={name}", namespace=namespace)
    await backend.store("run").append(plain(1))
    transport = _transport(backend)
    owner = three.owner(run_keys(namespace, "run").head)
    node = transport._nodes[("127.0.0.1", owner.port)]
    kept, transport._map._primaries = transport._map._primaries, {}
    forgotten = transport._forget_others()
    if asyncio.iscoroutine(forgotten):
        await forgotten
    transport._map._primaries = kept
    reply = node.exchange(None, [("PING",)], time.monotonic() + 5.0, SendState())
    assert (await reply if asyncio.iscoroutine(reply) else reply) == [b"PONG"]

    def open_ones() -> list[Any]:
        return [client for client in three.client(owner).client_list() if client["name"] == name]

    assert open_ones()
    await backend.aclose()
    await until(lambda: not open_ones(), "no connection is left", 5.0)


async def test_calls_follow_slots_that_move(three: Cluster, backends: Make, namespace: str) -> None:
    """Before, meanwhile and afterwards; a client that knows the old owner is sent on by it."""
    backend = backends(three.url)
    store = backend.store("run")
    await store.append(plain(1))
    slot = slot_of_run(namespace, "run")
    for number in range(2, 6):
        await asyncio.to_thread(three.move_slot, slot, other_than(three, slot))
        await store.append(plain(number))
        async with store.lock(ttl=5.0):
            await store.append(plain(-number))
    assert len((await backend.store("run").load()).messages) == 9


async def test_calls_on_a_slot_that_is_held_open(three: Cluster, backends: Make, namespace: str) -> None:
    """Half of its keys are on each side for two seconds: calls wait, and each is done once.

    A script that did not declare its keys would fail here with an error that leaves the outcome open.
    """
    backend = backends(three.url, retry=RetryPolicy(attempts=500, deadline=30.0, cap=0.1))
    store = backend.store("run")
    async with store.lock(ttl=30.0) as lease:
        await store.append(plain(0))
        await lease.renew()
        slot = slot_of_run(namespace, "run")
        over = threading.Event()

        def hold() -> None:
            over.wait(2.0)

        moving = asyncio.create_task(asyncio.to_thread(three.move_slot, slot, other_than(three, slot), hold=hold))
        await asyncio.sleep(0.3)
        began = time.monotonic()
        await store.append(plain(1))
        assert time.monotonic() - began > 0.5, "the slot was not held open"
        await moving
        await store.append(plain(2))
    assert len((await backend.store("run").load()).messages) == 3


async def test_a_refusal_of_a_slot_on_the_move_is_definite(three: Cluster, backends: Make, namespace: str) -> None:
    """One try of each kind of call: what failed did not happen. An undeclared key would leave the outcome open."""
    backend = backends(three.url, retry=RetryPolicy(attempts=1, deadline=1.0))
    store, held = backend.store("run"), backend.store("run")
    await store.append(plain(0))
    slot = slot_of_run(namespace, "run")
    errors: list[BaseException] = []

    async def attempt() -> None:
        for call in (
            store.append(plain(1)), store.load(), held.delete(), store.info(), backend.break_lease("run"),
            held.resolve(), store.save(ConversationSnapshot([plain(9)]), expected=ANY),
        ):  # fmt: skip
            try:
                await call
            except HistoryStoreError as error:
                errors.append(error)

    half_open = threading.Event()
    over = threading.Event()

    def hold() -> None:
        half_open.set()
        over.wait(20.0)

    moving = asyncio.create_task(asyncio.to_thread(three.move_slot, slot, other_than(three, slot), hold=hold))
    await asyncio.to_thread(half_open.wait, 20.0)
    try:
        await attempt()
    finally:
        over.set()
        await moving
    assert len(errors) >= 4
    assert {type(error) for error in errors} == {BackendUnavailableError}, errors
    assert all("TRYAGAIN" in str(error) for error in errors), errors
    assert len((await backend.store("run").load()).messages) == 1


async def test_a_request_is_sent_on_more_than_once(three: Cluster, backends: Make, namespace: str) -> None:
    """The old owner believes in a server that is none: each of them sends the request on."""
    backend = backends(three.url, retry=RetryPolicy(attempts=1))
    store = backend.store("run")
    await store.append(plain(1))
    slot = slot_of_run(namespace, "run")
    first = three.owner_of_slot(slot)
    second, third = (each for each in three.servers if each is not first)
    await asyncio.to_thread(three.move_slot, slot, third)
    three.client(first).execute_command("CLUSTER", "SETSLOT", slot, "NODE", three.ids()[second.port])
    await store.append(plain(2))
    assert len((await backend.store("run").load()).messages) == 2


async def test_a_run_begins_where_it_is_asked_for(three: Cluster, shell: Shell, backends: Make, namespace: str) -> None:
    """A slot without keys is on the move. ASKING goes with its request; a save waits until the move is over."""
    backend = backends(three.url, retry=RetryPolicy(attempts=500, deadline=30.0, cap=0.1))
    slot = slot_of_run(namespace, "run")
    await backend.store("run").append(plain(0))
    source, target = three.owner_of_slot(slot), other_than(three, slot)
    ids = three.ids()
    for key in three.client(source).execute_command("CLUSTER", "GETKEYSINSLOT", slot, 100):
        three.client(source).delete(key)
    three.client(target).execute_command("CLUSTER", "SETSLOT", slot, "IMPORTING", ids[source.port])
    three.client(source).execute_command("CLUSTER", "SETSLOT", slot, "MIGRATING", ids[target.port])
    began = shell.apart(backend.store("run").append(plain(1)))
    try:
        head, end = run_keys(namespace, "run").head, time.monotonic() + 5.0
        exchange = _transport(backend).exchange
        three.client(target).execute_command("CONFIG", "RESETSTAT")
        for commands in ([("STRLEN", head)], [("MULTI",), ("STRLEN", head), ("STRLEN", head), ("EXEC",)]):
            reply = exchange(head, commands, end, SendState())
            assert (await reply if asyncio.iscoroutine(reply) else reply)[-1] in (0, [0, 0])
        statistics = three.client(target).info("commandstats")
        assert statistics["cmdstat_strlen"]["calls"] == 3
        assert statistics["cmdstat_asking"]["calls"] >= 2
        assert not began.done()
    finally:
        for each in (target, source, *three.servers):
            three.client(each).execute_command("CLUSTER", "SETSLOT", slot, "NODE", ids[target.port])
    await began
    assert len((await backend.store("run").load()).messages) == 1


async def test_leases_of_all_servers_are_renewed_together(three: Cluster, backends: Make) -> None:
    """One request a server, however many leases are due."""
    backend = backends(three.url)
    scopes = [backend.store(run).lock(ttl=1.5) for run in RUNS]
    leases = [await scope.__aenter__() for scope in scopes]
    await asyncio.sleep(2.5)
    assert not [lease for lease in leases if lease.lost]
    for scope in scopes:
        await scope.__aexit__(None, None, None)


async def test_a_hand_off_is_heard_at_once(three: Cluster, shell: Shell, backends: Make, namespace: str) -> None:
    """On runs of each server, and after the slot has moved: the waiter does not wait for the lease's end."""
    backend = backends(three.url)
    other = backends(three.url)
    slot = slot_of_run(namespace, "run 0")
    for run in [*RUNS[:6], "run 0"]:
        if run == "run 0":
            await asyncio.to_thread(three.move_slot, slot, other_than(three, slot))
        store = backend.store(run)
        async with store.lock(ttl=20.0):
            waiting = shell.apart(_enter(other, run))
            await asyncio.sleep(0.3)
            began = time.monotonic()
        await asyncio.wait_for(waiting, 10.0)
        assert time.monotonic() - began < 5.0


async def _enter(backend: Any, run: str) -> None:
    async with backend.store(run).lock(ttl=20.0, acquire_timeout=15.0):
        pass


async def test_runs_are_listed_once_while_slots_move(three: Cluster, backends: Make, namespace: str) -> None:
    backend = backends(three.url)
    for run in RUNS:
        await backend.store(run).append(plain(1))
    over = threading.Event()

    def move() -> None:
        number = 0
        while not over.is_set():
            slot = slot_of_run(namespace, RUNS[number % len(RUNS)])
            three.move_slot(slot, other_than(three, slot))
            number += 1

    moving = asyncio.create_task(asyncio.to_thread(move))
    try:
        for _ in range(10):
            found = [info.run_id async for info in backend.runs()]
            assert sorted(found) == sorted(RUNS)
    finally:
        over.set()
        await moving


class Seen(Observer):
    """An observer that collects events."""

    def __init__(self) -> None:
        self.events: list[Event] = []

    def started(self, event: Event) -> None:
        pass

    def tried(self, event: Event) -> None:
        self.events.append(event)

    def finished(self, event: Event) -> None:
        pass


async def test_a_redirection_is_no_try_of_its_own(three: Cluster, backends: Make, namespace: str) -> None:
    """It did not run, so the policy's tries are not spent on it."""
    seen = Seen()
    backend = backends(three.url, observer=seen, retry=RetryPolicy(attempts=1))
    store = backend.store("run")
    await store.append(plain(1))
    slot = slot_of_run(namespace, "run")
    await asyncio.to_thread(three.move_slot, slot, other_than(three, slot))
    seen.events.clear()
    await store.append(plain(2), expected=ANY)
    assert {event.outcome for event in seen.events} == {"answered"}


async def test_closing_leaves_no_connection(three: Cluster, shell: Shell, namespace: str) -> None:
    name = f"closing-{namespace}"
    backend = shell.from_url(f"{three.url}?client_name={name}", namespace=namespace)
    for run in RUNS:
        async with backend.store(run).lock():
            await backend.store(run).append(plain(1), expected=ANY)

    def open_ones() -> list[Any]:
        return [
            client for each in three.servers for client in three.client(each).client_list() if client["name"] == name
        ]

    assert len(open_ones()) >= 3
    await backend.aclose()
    await until(lambda: not open_ones(), "no connection is left", 5.0)


def _transport(backend: Any) -> Any:
    return getattr(backend, "inner", backend)._runner.transport
