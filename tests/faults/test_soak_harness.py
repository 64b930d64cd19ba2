"""The soak's own parts: planted losses are caught, servers are cut off, and refusals of copies are not told."""

from __future__ import annotations

import asyncio
import dataclasses
import random
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator
from typing import Any

import pytest
import redis

from histstore.protocol.scripts import ALL, RESOLVE

from ..support.servers import Server
from ..support.storm import verdict
from ..support.storm.fleet import Crew
from ..support.storm.journal import Call
from ..support.storm.network import Network
from ..support.storm.proxy import Weather, rough_proxy
from ..support.storm.report import worst_pause
from ..support.storm.run import run
from ..support.storm.survival import Survival, survival
from ..support.storm.topology import Bare, NotRecoveredError
from ..support.storm.truth import Chain, Version
from . import storm

# -------------------------------------------------------------------------- what may be lost


def _call(token: str, version: int, started: float, outcome: str = "ok", **facts: Any) -> Call:
    journal, said = facts.pop("journal", "w1.jsonl"), facts.pop("said", "")
    known = {"version": version, "etag": _etag(version)} if outcome == "ok" else {}
    return Call(journal, "w1.0", "append", "chain-0", started, {"tokens": [token]} | known | facts,
                started + 1, outcome, said)  # fmt: skip


def _etag(version: int) -> str:
    return f"{version:032x}"


def _chain(*tokens: str, fences: dict[int, int] | None = None) -> Chain:
    found = [
        Version(number, _etag(number), (fences or {}).get(number, 0), tokens[:number], (token,))
        for number, token in enumerate(tokens, 1)
    ]
    return Chain(found, [])


def _judged(calls: list[Call], truth: Chain, final: tuple[str, ...] | None = None) -> Survival:
    content = truth.versions[-1].content if final is None else final
    return survival(calls, truth, content, fate=verdict.fate, copied={"d1.jsonl"})


def test_a_loss_that_may_be_is_counted() -> None:
    """An acknowledged write that did not wait for replicas may be lost. An error of its client reports it."""
    calls = [_call("a", 1, 0), _call("b", 2, 10), _call("lost", 3, 20), _call("c", 3, 30, "ConflictError")]
    found = _judged(calls, _chain("a", "b"))
    assert (found.problems, found.acknowledged, found.reported) == ([], 3, 1)
    assert [call.tokens for call in found.lost] == [("lost",)]


@pytest.mark.parametrize(
    ("calls", "truth", "complaint"),
    [
        ([_call("a", 1, 0), _call("b", 2, 10, journal="d1.jsonl")], _chain("a"), "waited for all replicas"),
        ([_call("a", 1, 0), _call("b", 2, 10, "ConflictError")], _chain("a", "b"), "was refused, and is stored"),
        ([_call("a", 1, 0), _call("b", 2, 9, "OutcomeUnknownError", said="never")], _chain("a", "b"), "was refused"),
        ([_call("a", 1, 0)], _chain("a", "x"), "written by nobody"),
        ([_call("a", 1, 0, tokens=["a", "b"])], _chain("a"), "torn apart"),
        ([_call("a", 2, 0)], _chain("a"), "was told version 2"),
        ([_call("a", 1, 0), _call("b", 2, 10, onto=_etag(7))], _chain("a", "b"), "has replaced what came instead"),
        ([_call("a", 1, 10), _call("b", 2, 0)], _chain("a", "b"), "stands after it"),
        ([_call("a", 1, 0), _call("b", 2, 10)], _chain("a", "b", fences={1: 9, 2: 8}), "a save with fence 8"),
        ([_call("a", 1, 0, fence=3)], _chain("a", fences={1: 4}), "carried fence 3"),
    ],
)  # fmt: skip
def test_a_planted_violation_is_caught(calls: list[Call], truth: Chain, complaint: str) -> None:
    (problem,) = _judged(calls, truth).problems
    assert complaint in problem


def test_what_is_right_or_open_is_no_violation() -> None:
    """A write whose outcome is open may be there. One that was settled late counts from then on."""
    open_ones = [_call("b", 2, 5, "OutcomeUnknownError"), _call("x", 9, 5, "interrupted")]
    settled = _call("c", 3, 6, "OutcomeUnknownError", said="applied", settled=20.0)
    calls = [_call("a", 1, 0), *open_ones, settled, _call("d", 4, 12, onto=_etag(3))]
    assert _judged(calls, _chain("a", "b", "c", "d")).problems == []
    assert _judged(calls, _chain("a", "b", "c", "d"), ("a",)).problems[0].startswith("the last load")


def test_leases_that_a_failover_may_have_ended_are_left_out() -> None:
    """Only those that were held while servers may have forgotten them."""
    facts = {"holder": "h", "left": 2.0, "lost": False, "fence": 7}
    begin = Call("w1.jsonl", "w1.0", "lock", "chain-0", 1.0, {"holder": "h", "ttl": 3.0}, 2.0, "ok")
    end = Call("w1.jsonl", "w1.0", "unlock", "chain-0", 5.0, facts, 6.0, "LeaseLostError")
    assert verdict.steady([begin, end], [(0.0, 0.5), (7.0, 8.0)]) == [begin, end]
    assert verdict.steady([begin, end], [(4.0, 4.5)]) == [begin]


def test_the_worst_pause_is_that_of_all_writers_together() -> None:
    assert (
        worst_pause([_call("a", 1, 0), _call("b", 2, 1.5), _call("x", 9, 5, "ConflictError"), _call("c", 3, 9)]) == 7.5
    )
    assert worst_pause([]) == 0.0


# ---------------------------------------------------------------------------------- the proxy


async def test_no_late_copy_follows_a_request_that_the_server_refused(private_server: Callable[..., Server]) -> None:
    """Else a client that was told that nothing was written would be wrong, and could not know."""
    server = private_server()
    async with rough_proxy(server.port, Weather("1", twice=1.0, thrice=1.0, late=0.1)) as proxy:
        with server.client() as direct, redis.Redis(port=proxy.port, protocol=2) as client:
            for script in ALL:
                direct.script_load(script.source)
            direct.config_set("maxmemory", 1)
            for number in range(20):
                with pytest.raises(redis.ResponseError, match="used memory"):
                    await asyncio.to_thread(_resolve, client, number)
            await proxy.drain()
            assert not proxy.counts["copies of resolve, late"]
            direct.config_set("maxmemory", 0)
            for number in range(20):
                await asyncio.to_thread(_resolve, client, number)
            await proxy.drain()
            assert proxy.counts["copies of resolve, late"]


async def test_what_follows_asking_is_not_copied(private_server: Callable[..., Server]) -> None:
    """A copy would lack the ASKING, and a client would be told that its request was not run."""
    server = private_server(cluster_enabled="yes")
    with server.client() as direct:
        direct.execute_command("CLUSTER", "ADDSLOTSRANGE", 0, 16383)
        for script in ALL:
            direct.script_load(script.source)
        while b"cluster_state:ok" not in direct.execute_command("CLUSTER", "INFO"):
            await asyncio.sleep(0.02)
    async with rough_proxy(server.port, Weather("1", twice=1.0)) as proxy:
        # It connects when it is made.
        made = asyncio.to_thread(redis.Redis, port=proxy.port, protocol=2, single_connection_client=True)
        with await made as client:
            await asyncio.to_thread(client.execute_command, "ASKING")
            await asyncio.to_thread(_resolve, client, 1)
            assert proxy.counts["calls of resolve"] == 0
            await asyncio.to_thread(_resolve, client, 2)
            assert proxy.counts["calls of resolve"] == 1


def _resolve(client: redis.Redis, number: int) -> Any:
    return client.evalsha(RESOLVE.sha, 3, "{r}:head", "{r}:etags", "{r}:marks", b"%016d" % number, "")


async def test_a_proxy_that_is_cut_off_carries_nothing_until_it_is_healed(
    private_server: Callable[..., Server],
) -> None:
    server = private_server()
    async with rough_proxy(server.port, Weather("1")) as proxy:
        with redis.Redis(port=proxy.port, protocol=2) as client:
            assert await asyncio.to_thread(client.ping)
            proxy.cut(True)
            waiting = asyncio.create_task(asyncio.to_thread(client.ping))
            assert not (await asyncio.wait([waiting], timeout=0.2))[0]
            proxy.cut(False)
            assert await waiting


# -------------------------------------------------------------------------------- the network


@pytest.fixture
def pair() -> Iterator[tuple[Network, Server, Server]]:
    """Two servers, each in a network of its own."""
    try:
        network = Network(2)
    except OSError as error:
        pytest.skip(f"this machine makes no network: {error}")
    options = {"protected-mode": "no"}
    servers = [Server(options, host=place.host, prefix=place.prefix) for place in network.places]
    try:
        first, second = (each.start() for each in servers)
        yield network, first, second
    finally:
        for each in servers:
            each.stop()
        network.close()


@pytest.mark.slow
@pytest.mark.parametrize("clients", [False, True])
def test_a_server_is_cut_off(pair: tuple[Network, Server, Server], clients: bool) -> None:
    """From the other server, or from its clients as well, until that is healed."""
    network, first, second = pair
    with first.client(socket_timeout=0.3, retry=None) as one, second.client(socket_timeout=5) as two:
        two.replicaof(first.host, first.port)
        _wait(lambda: two.execute_command("ROLE")[3] == b"connected")
        network.cut(first.host, clients=clients)
        if clients:
            with pytest.raises(redis.RedisError):
                one.set("a", 1)
        else:
            one.set("a", 1)
        assert two.get("a") is None
        network.heal()
        _wait(lambda: _set(one))
        _wait(lambda: two.get("a") == b"2")


def _set(client: redis.Redis) -> bool:
    try:
        return bool(client.set("a", 2))
    except redis.RedisError:
        return False


def _wait(condition: Callable[[], Any]) -> None:
    end = time.monotonic() + 20
    while not condition():
        assert time.monotonic() < end
        time.sleep(0.05)


# ---------------------------------------------------------------------------------- the faults


class _Deck(Bare):
    """Servers to which three faults happen, one of which starts another server as primary."""

    def __init__(self) -> None:
        super().__init__(random.Random("1"))
        self.order: list[str] = []
        self.leader = 1

    @property
    def faults(self) -> dict[str, Callable[[], None]]:
        return {"servers frozen": self._note("f"), "memory full": self._note("m"), "slots moved": self._lead}

    def _note(self, name: str) -> Callable[[], None]:
        return lambda: self.order.append(name)

    def _lead(self) -> None:
        self.order.append("s")
        self.leader += 1

    def primaries(self) -> list[Server]:
        return [Server(port=self.leader)]

    def recover(self) -> None:
        """They have recovered."""
        if len(self.order) == 9:
            raise NotRecoveredError("enough")

    def pause(self, seconds: float) -> None:
        """Time does not pass."""


def test_each_fault_happens_before_one_comes_again() -> None:
    """And what may change the primary, or has, is noted as such."""
    deck = _Deck()
    with pytest.raises(NotRecoveredError):
        deck.rage(threading.Event())
    assert [sorted(deck.order[at : at + 3]) for at in (0, 3, 6)] == [["f", "m", "s"]] * 3
    assert deck.counts.total() == 8
    assert len(deck.shaken) == Counter(deck.order[:8])["f"] + Counter(deck.order[:8])["s"]


def test_each_fault_happens_once_though_the_time_is_over() -> None:
    deck, over = _Deck(), threading.Event()
    over.set()
    deck.rage(over)
    assert sorted(deck.order) == ["f", "m", "s"]


class _TakenOver(Bare):
    """Servers of which another one takes over before the replica of the first has caught up."""

    copies = 1

    def __init__(self, *roles: tuple[int, int, int]) -> None:
        super().__init__(random.Random("1"))
        self.roles = list(roles)

    def is_well(self) -> bool:
        return True

    def primaries(self) -> list[Server]:
        return [Server(port=self.roles[0][0])]

    def ask(self, each: Server, *command: Any) -> Any:
        _, written, copied = self.roles[0]
        return [b"master", written, [[b"127.0.0.1", b"1", str(copied).encode()]]]

    def pause(self, seconds: float) -> None:
        """Time passes to the next state."""
        self.roles.pop(0)


def test_servers_have_recovered_when_replicas_have_what_the_primary_had() -> None:
    """Not when they are connected. Of another primary, what it has had counts, also if that is less."""
    caught_up = _TakenOver((1, 100, 50), (1, 150, 99), (1, 200, 100), (1, 250, 250))
    caught_up.recover()
    assert caught_up.roles[0] == (1, 200, 100)
    taken_over = _TakenOver((1, 100, 50), (2, 80, 60), (2, 90, 80), (2, 95, 95))
    taken_over.recover()
    assert taken_over.roles[0] == (2, 90, 80)


@pytest.mark.slow
def test_a_fault_that_never_happened_is_a_violation() -> None:
    plan = dataclasses.replace(
        storm.plan(1.0, 1), crews=(Crew("async", 1, 1),), happenings={}, at_least=0.0, named=("workers killed",)
    )
    result = run(plan)
    assert result.verdict.violations["faults that did not happen"] == ["workers killed"]
