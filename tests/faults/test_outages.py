"""States of the server that pass are outlasted, up to the policy's deadline (rows 33 and 34). Others are not.

What cannot pass, and what each refusal of a cluster's node proves: (rows 35, 36, 37, 38, 39 and 40).
"""

from __future__ import annotations

import asyncio
import contextlib
import socket
import threading
import time
from collections.abc import Awaitable, Callable, Iterator
from typing import Any

import pytest
import redis
from redis.crc import key_slot
from redis.exceptions import ResponseError

from histstore import (
    ANY,
    BackendConfigError,
    BackendUnavailableError,
    Event,
    Observer,
    OutcomeUnknownError,
    RetryPolicy,
)
from histstore.protocol.call import Call
from histstore.protocol.scripts import SAVE
from histstore.wire.faults import classify
from histstore.wire.retrying import LEAST_PAUSE

from ..support.cluster import two_nodes
from ..support.history import History, message
from ..support.proxy import Proxy, proxy
from ..support.servers import Server, sentinel
from ..support.shells import SHELLS, until
from .shells import GUARD, carries, contents, entries
from .test_refusals import REFUSALS, Refusal

Make = Callable[..., Any]

PATIENT = RetryPolicy(attempts=2, deadline=GUARD, base=0.001, cap=0.05)
"""Gives up after two tries unless a failure passes."""
DOWN = 4.0
"""Seconds of an outage: longer than six tries with the default pauses take."""
WRITERS = 4


class Tries(Observer):
    """Counts the tries that failed, and keeps the events of calls that ended."""

    def __init__(self) -> None:
        self.failed = 0
        self.finished_calls: list[Event] = []
        self._lock = threading.Lock()

    def tried(self, event: Event) -> None:
        if event.outcome == "failed":
            with self._lock:
                self.failed += 1

    def finished(self, event: Event) -> None:
        self.finished_calls.append(event)


@pytest.fixture
def tries() -> Tries:
    return Tries()


@pytest.fixture(scope="module")
def nodes() -> Iterator[tuple[Server, Server]]:
    """A cluster of two nodes; the first owns all slots."""
    with two_nodes() as found:
        yield found


@pytest.mark.slow
async def test_writers_with_the_default_policy_do_not_notice_an_outage(
    shell: str, backends: Make, private_server: Callable[..., Server], tries: Tries
) -> None:
    """kill -9 under writers, and four seconds later the server is back. No error escapes, and there is no storm."""
    server = private_server(appendonly="yes", appendfsync="always")
    backend = backends(shell, server.url, retry=RetryPolicy(), observer=tries)
    history = {name: History() for name in range(WRITERS)}
    back = asyncio.Event()

    async def write(name: int) -> None:
        store = backend.store(f"run {name}")
        turn = after = 0
        while after < 3:
            after += back.is_set()
            with history[name].append("c", f"{name}.{turn}"):
                await store.append(message(f"{name}.{turn}"), expected=ANY)
            turn += 1
            await asyncio.sleep(0.01)

    async with asyncio.timeout(2 * GUARD):
        writers = [asyncio.create_task(write(name)) for name in range(WRITERS)]
        await until(lambda: len(tries.finished_calls) > 4 * WRITERS)
        server.kill()
        await asyncio.sleep(DOWN)
        await asyncio.to_thread(server.start)
        back.set()
        await asyncio.gather(*writers)
    for name in range(WRITERS):
        history[name].check(await contents(backend.store(f"run {name}")))
        assert {call.outcome for call in history[name].appends} == {"saved"}
    # The first pauses are short. Later ones last a second on average.
    most = RetryPolicy().attempts + 3 * DOWN
    assert 1 < max(event.tries for event in tries.finished_calls) <= most
    assert tries.failed <= WRITERS * most


async def test_the_deadline_ends_the_tries(
    shell: str, backends: Make, private_server: Callable[..., Server], tries: Tries
) -> None:
    """With a second, a call to a server that is down makes more tries than attempts, and fails by then."""
    server = private_server()
    server.kill()
    policy = RetryPolicy(attempts=2, deadline=1.0, base=0.001, cap=0.01)
    store = backends(shell, server.url, retry=policy, observer=tries).store("run")
    began = time.monotonic()
    with pytest.raises(BackendUnavailableError, match="nothing was written, repeating is safe"):
        await store.append(message("a"))
    assert time.monotonic() - began < GUARD / 3
    assert store.unsettled is None
    assert policy.attempts < tries.finished_calls[-1].tries <= policy.attempts + policy.deadline / LEAST_PAUSE + 1


async def test_one_attempt_is_one_try(
    shell: str, backends: Make, private_server: Callable[..., Server], tries: Tries
) -> None:
    """Whoever asks for one gets one, also from a server that is down for a moment."""
    server = private_server()
    server.kill()
    backend = backends(shell, server.url, retry=RetryPolicy(attempts=1, deadline=10 * GUARD), observer=tries)
    store = backend.store("run")
    async with asyncio.timeout(GUARD):
        for call in (lambda: store.append(message("a")), store.load, store.info):
            with pytest.raises(BackendUnavailableError):
                await call()
    assert [event.tries for event in tries.finished_calls] == [1] * 3


async def test_a_reply_that_is_lost_before_an_outage(
    shell: str, backends: Make, private_server: Callable[..., Server], tries: Tries
) -> None:
    """The save is applied, its reply is lost, the server goes and comes back: the save is acknowledged, once."""
    server = private_server(appendonly="yes", appendfsync="always")
    async with proxy(server.url) as between:
        store = backends(shell, between.url, retry=PATIENT, observer=tries).store("run")
        await store.append(message("a"))

        async def kill() -> None:
            server.kill()

        between.before_cut = kill
        between.lose_replies(1, carries(SAVE))
        save = asyncio.create_task(store.append(message("b")))
        await until(lambda: tries.failed > 2 * PATIENT.attempts or save.done())
        await asyncio.to_thread(server.start)
        assert (await save).version == 2
    with server.client() as raw:
        assert entries(raw, "histstore", "run") == 2
    assert await contents(backends(shell, server.url).store("run")) == ["a", "b"]


@pytest.mark.parametrize("attempts", [2, 4])
async def test_lost_replies_are_bounded_by_attempts(
    shell: str, backends: Make, between: Proxy, namespace: str, attempts: int
) -> None:
    """However much time the deadline leaves: each lost reply leaves a copy that may still arrive."""
    policy = RetryPolicy(attempts=attempts, deadline=GUARD, base=0.001, cap=0.002)
    store = backends(shell, between.url, namespace=namespace, retry=policy).store("run")
    await store.append(message("a"))
    between.lose_replies(100, carries(SAVE))
    before = between.lost
    with pytest.raises(OutcomeUnknownError):
        await store.append(message("b"))
    assert between.lost - before == attempts
    between.lose_replies(0)
    assert await store.resolve() is not None


# ------------------------------------------------------------------------------------------- refusals


def _full(_server: Server, raw: redis.Redis) -> None:
    # The store's own connections are closed, so that it has to open one.
    raw.execute_command("CLIENT", "KILL", "TYPE", "normal", "SKIPME", "yes")
    raw.config_set("maxclients", 1)


FULL = Refusal("max number of clients", "", _full, lambda _server, raw: raw.config_set("maxclients", "1000"))
PASSING = {name: REFUSALS[name] for name in ("READONLY", "MASTERDOWN", "BUSY")} | {"a full server": FULL}
LASTING = {name: REFUSALS[name] for name in ("NOREPLICAS", "MISCONF", "OOM")}


@pytest.mark.parametrize("name", PASSING)
async def test_a_refusal_that_passes_is_outlasted(
    shell: str, backends: Make, private_server: Callable[..., Server], tries: Tries, name: str
) -> None:
    """More tries than the policy has attempts, and then the save is done."""
    server, refusal = private_server(), PASSING[name]
    store = backends(shell, server.url, retry=PATIENT, observer=tries).store("run")
    await store.append(message("a"))
    with server.client() as raw:
        raw.ping()
        refusal.begin(server, raw)
        save = asyncio.create_task(store.append(message("b")))
        try:
            await until(lambda: tries.failed > 2 * PATIENT.attempts or save.done())
        finally:
            refusal.end(server, raw)
    assert (await save).version == 2
    assert await contents(store) == ["a", "b"]


@pytest.mark.parametrize("name", LASTING)
async def test_a_refusal_that_lasts_is_bounded_by_attempts(
    shell: str, backends: Make, private_server: Callable[..., Server], tries: Tries, name: str
) -> None:
    """Somebody has to act, and hears so long before the deadline."""
    server, refusal = private_server(), LASTING[name]
    store = backends(shell, server.url, retry=PATIENT, observer=tries).store("run")
    await store.append(message("a"))
    with server.client() as raw:
        refusal.begin(server, raw)
        with pytest.raises(BackendUnavailableError, match=refusal.says):
            await store.append(message("b"))
        refusal.end(server, raw)
    assert tries.finished_calls[-1].tries == PATIENT.attempts


async def test_a_primary_that_no_sentinel_knows_yet(shell: str, private_server: Callable[..., Server]) -> None:
    """The tries go on until one does."""
    server = private_server()
    flavour, seen = SHELLS[shell == "sync"], Tries()
    with sentinel(server, "main") as port:
        asked = flavour.redis.sentinel.Sentinel([("127.0.0.1", port)], socket_timeout=5)
        async with flavour.backend(asked.master_for("late"), retry=PATIENT, observer=seen) as backend:
            save = flavour.apart(_append(backend))
            await until(lambda: seen.failed > 2 * PATIENT.attempts or save.done())
            with redis.Redis(port=port) as raw:
                raw.execute_command("SENTINEL", "MONITOR", "late", "127.0.0.1", server.port, "1")
            await save
            with redis.Redis(port=port) as raw:
                raw.execute_command("SENTINEL", "REMOVE", "late")
            for each in asked.sentinels:
                await flavour.close_client(each)


async def _append(backend: Any) -> None:
    await backend.store("run").append(message("a"))


# -------------------------------------------------------------------------------- mistakes that do not pass


async def test_keys_of_several_slots_are_a_mistake(
    shell: str, backends: Make, nodes: tuple[Server, Server], tries: Tries
) -> None:
    """A cluster's node refuses them before it runs anything. One try, however patient the policy is."""
    backend = backends(shell, nodes[0].url, observer=tries)
    runner = (backend if shell == "async" else backend.inner)._runner
    for command in (("MGET", "a", "b"), ("EVAL", "return 1", "2", "a", "b")):
        async with asyncio.timeout(GUARD):
            with pytest.raises(BackendConfigError, match="hash tags"):
                await _run(shell, runner, Call("load", [command], b"a"))
        assert tries.finished_calls[-1].tries == 1


def _run(shell: str, runner: Any, call: Call) -> Awaitable[Any]:
    policy = RetryPolicy(attempts=1000, deadline=600.0)
    return runner.run(call, policy) if shell == "async" else asyncio.to_thread(runner.run, call, policy)  # type: ignore[no-any-return]


def _own_address() -> str | None:
    """Returns an address of this machine that is not the loopback interface's, if it has one."""
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as probe, contextlib.suppress(OSError):
        probe.connect(("192.0.2.1", 9))  # sends nothing
        address = str(probe.getsockname()[0])
        return None if address.startswith("127.") else address
    return None


async def test_protected_mode_is_a_mistake(
    shell: str, backends: Make, private_server: Callable[..., Server], tries: Tries
) -> None:
    """The server refuses clients of other machines by its first words."""
    address = _own_address()
    if address is None:
        pytest.skip("this machine has the loopback interface only")
    server = private_server(bind="0.0.0.0", protected_mode="yes")
    with server.client() as raw:
        if int(raw.info("server")["redis_version"].split(".")[0]) < 7:
            pytest.skip("Redis 6.2 protects only a server without `bind`")
    policy = RetryPolicy(attempts=1000, deadline=600.0)
    backend = backends(shell, f"redis://{address}:{server.port}/0", retry=policy, observer=tries)
    async with asyncio.timeout(GUARD):
        with pytest.raises(BackendConfigError, match=r"DENIED.*protected mode"):
            await backend.store("run").load()
    assert tries.finished_calls[-1].tries == 1


# --------------------------------------------------------------------------- what servers say in a cluster


async def test_a_full_node_of_a_cluster_is_named(shell: str, backends: Make, nodes: tuple[Server, Server]) -> None:
    """It counts the connections between the nodes, and words its refusal differently."""
    with nodes[0].client() as raw:
        raw.ping()
        raw.config_set("maxclients", 1)
        with pytest.raises(BackendUnavailableError, match=r"clients \+ cluster connections reached.*maxclients"):
            await backends(shell, nodes[0].url, retry=RetryPolicy(attempts=1)).store("run").load()
        raw.config_set("maxclients", 1000)


def test_what_a_node_refuses_while_a_slot_moves(nodes: tuple[Server, Server]) -> None:
    """Undeclared keys are refused in the midst of a script, also after a write. Declared ones are refused before."""
    with nodes[0].client() as source, nodes[1].client() as target:
        source.mset({"{r}:head": "1", "{r}:log": "1"})
        names = [node.execute_command("CLUSTER", "MYID") for node in (source, target)]
        slot = key_slot(b"{r}")
        target.execute_command("CLUSTER", "SETSLOT", slot, "IMPORTING", names[0])
        source.execute_command("CLUSTER", "SETSLOT", slot, "MIGRATING", names[1])

        def refused(script: str, *keys: str) -> Exception:
            with pytest.raises(ResponseError) as caught:
                source.eval(script, len(keys), *keys)
            return caught.value

        # As in save.lua. Redis from 7.4 on words it so that it is surely this command.
        some = refused("return redis.call('EXISTS', '{r}:log', '{r}:none')", "{r}:head")
        assert classify(some, sent=True).definite is ("rehashing" in str(some))
        assert "has moved" in classify(some, sent=True).advice
        # Keys that the script has removed itself are refused after its first write, though they are declared.
        used = "redis.call('SET', KEYS[1], 'w') redis.call('DEL', KEYS[2]) return redis.call('GET', KEYS[2])"
        after = refused(used, "{r}:head", "{r}:log")
        assert source.get("{r}:head") == b"w"
        assert classify(after, sent=True).definite is classify(after, sent=True).passing is False
        # Declared keys.
        assert classify(refused("return 1", "{r}:head", "{r}:none"), sent=True).passing
        assert str(refused("return 1", "{r}:none")).startswith(("ASK", str(slot)))


def test_what_unblocked_proves(private_server: Callable[..., Server]) -> None:
    """Nothing: Redis 6.2 and 7.0 run a paused script after they have said so. Later servers do not say so."""
    server = private_server()
    with server.client() as raw, server.client(socket_timeout=GUARD) as paused:
        number = paused.client_id()
        raw.execute_command("CLIENT", "PAUSE", "60000", "WRITE")
        told: list[Exception] = []

        def increase() -> None:
            try:
                paused.eval("return redis.call('INCR', KEYS[1])", 1, "k")
            except ResponseError as error:
                told.append(error)

        calling = threading.Thread(target=increase)
        calling.start()
        end = time.monotonic() + GUARD
        # It counts as unblocked only once it waits. Later servers never unblock it.
        while not raw.execute_command("CLIENT", "UNBLOCK", number, "ERROR") and time.monotonic() < end - GUARD + 1.0:
            time.sleep(0.01)
        raw.execute_command("CLIENT", "UNPAUSE")
        calling.join(GUARD)
        end = time.monotonic() + GUARD
        while raw.get("k") != b"1":
            assert time.monotonic() < end, "the script did not run"
        for error in told:
            assert str(error).startswith("UNBLOCKED")
            assert not classify(error, sent=True).definite
            assert classify(error, sent=True).elsewhere
