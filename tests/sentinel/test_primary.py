"""Finding the primary by sentinels: which one is asked, what its answer is worth, and what is refused."""

from __future__ import annotations

import asyncio
import contextlib
import gc
import pickle
import signal
import time
from typing import Any

import pytest

import histstore
from histstore import BackendConfigError, BackendUnavailableError, ConversationSnapshot, RetryPolicy

from ..support.samples import plain
from ..support.sentinels import Watched, watched
from ..support.servers import free_port, server
from ..support.shells import Shell, until
from ..support.tls import silent
from .conftest import Make
from .liar import liar

pytestmark = pytest.mark.slow
BRIEF = RetryPolicy(deadline=1.5)


def url_of(pair: Watched, *first: int, service: str = "main", query: str = "") -> str:
    """The URL of some sentinels: those at given ports, then the others."""
    ports = [*first, *(each.port for each in pair.sentinels)]
    return f"redis+sentinel://{','.join(f'127.0.0.1:{port}' for port in ports)}/{service}/0{query}"


def connections(pair: Watched) -> int:
    """Returns the sentinels' connections, without those among themselves, which come and go as they like."""
    lines = [line for each in pair.sentinels for line in each.ask("CLIENT", "LIST").splitlines()]
    return sum(b" name=sentinel-" not in line for line in lines)


def length(snapshot: Any) -> int:
    assert snapshot is not None
    return len(snapshot.messages)


async def test_saves_loads_and_leases(pair: Watched, backends: Make) -> None:
    backend = backends(pair.url)
    store = backend.store("run")
    async with store.lock(ttl=20.0) as lease:
        await store.append(plain(1), lease=lease)
    async with store.turn() as turn:
        turn.append(plain(2))
    assert length(await store.load()) == 2
    assert [info.run_id async for info in backend.runs()] == ["run"]
    assert await backend.delete("run")


async def test_a_lease_is_handed_on(pair: Watched, shell: Shell, backends: Make) -> None:
    """A waiter hears of its turn at the primary."""
    holder, waiter = backends(pair.url).store("run"), backends(pair.url).store("run")

    async def wait() -> float:
        async with waiter.lock(ttl=60.0, acquire_timeout=20.0):
            return time.monotonic()

    async with holder.lock(ttl=60.0):
        waiting = shell.apart(wait())
        await asyncio.sleep(0.3)
        assert not waiting.done()
    released = time.monotonic()
    assert await waiting - released < 5.0, "a lease of 60 s was waited for"


async def test_the_client_of_a_sentinel_is_kept_alive(pair: Watched, shell: Shell, backends: Make) -> None:
    """redis-py's pool holds its sentinels weakly: they may be gone when the backend first connects."""
    places = [("127.0.0.1", each.port) for each in pair.sentinels]
    backend = backends(shell.redis.sentinel.Sentinel(places, min_other_sentinels=2).master_for("main"))
    gc.collect()
    await backend.store("run").append(plain(1))
    assert length(await backend.store("run").load()) == 1


async def test_a_client_that_wants_more_sentinels_than_there_are(pair: Watched, shell: Shell, backends: Make) -> None:
    places = [("127.0.0.1", each.port) for each in pair.sentinels]
    client = shell.redis.sentinel.Sentinel(places, min_other_sentinels=3).master_for("main")
    with pytest.raises(BackendUnavailableError, match="knows fewer than 3 other sentinels"):
        await backends(client, retry=BRIEF).store("run").append(plain(1))


async def test_clients_that_cannot_be_used(pair: Watched, shell: Shell, backends: Make) -> None:
    base = shell.redis.sentinel.Sentinel
    places = [("127.0.0.1", each.port) for each in pair.sentinels]
    with pytest.raises(BackendConfigError, match="master_for"):
        backends(base(places).slave_for("main"))
    with pytest.raises(BackendConfigError, match="no sentinels"):
        backends(base([]).master_for("main"))
    own = type("Own", (base,), {"discover_master": lambda self, name: ("127.0.0.1", 1)})
    with pytest.raises(BackendConfigError, match=r"Own finds the primary in a way of its own: .*host_map="):
        backends(own(places).master_for("main"))


async def test_a_forced_address_of_the_primary(pair: Watched, shell: Shell, backends: Make) -> None:
    places = [("127.0.0.1", each.port) for each in pair.sentinels]
    backend = backends(shell.redis.sentinel.Sentinel(places, force_master_ip="127.0.0.2").master_for("main"))
    with pytest.raises(BackendUnavailableError, match=r"connect \(127\.0\.0\.2:"):
        await backend.store("run").append(plain(1), retry=BRIEF)


async def test_addresses_behind_nat(pair: Watched, backends: Make) -> None:
    asked = []

    def host_map(address: tuple[str, int]) -> tuple[str, int]:
        asked.append(address)
        return "localhost", address[1]

    await backends(pair.url, host_map=host_map).store("run").append(plain(1))
    assert set(asked) == {("127.0.0.1", pair.primary().port)}

    def broken(address: tuple[str, int]) -> tuple[str, int]:
        raise KeyError(address)

    with pytest.raises(BackendConfigError, match="host_map= raised KeyError"):
        await backends(pair.url, host_map=broken).store("run").append(plain(1))


async def test_the_first_that_answers_comes_first(pair: Watched, backends: Make) -> None:
    """One that is down, and one that is frozen: neither keeps anybody waiting twice."""
    down = free_port()
    frozen = pair.sentinels[0]
    frozen.signal(signal.SIGSTOP)
    try:
        backend = backends(url_of(pair, down))
        began = time.monotonic()
        await backend.store("run").append(plain(1))
        assert time.monotonic() - began < 4.0
        order = backend._runner.transport._sentinels._order
        assert order[0] in [("127.0.0.1", each.port) for each in pair.sentinels[1:]]
    finally:
        frozen.signal(signal.SIGCONT)


async def test_no_sentinel_answers(backends: Make) -> None:
    """The error names each of them, and why."""
    ports = free_port(), free_port()
    url = f"redis+sentinel://127.0.0.1:{ports[0]},127.0.0.1:{ports[1]}/main"
    began = time.monotonic()
    with pytest.raises(BackendUnavailableError) as caught:
        await backends(url, retry=BRIEF).store("run").append(plain(1))
    assert time.monotonic() - began < 5.0
    text = str(caught.value)
    assert f"no sentinel names the primary of 'main' (127.0.0.1:{ports[0]}, 127.0.0.1:{ports[1]}: " in text, text
    assert "connection refused" in text
    assert "nothing was written" in text


async def test_all_sentinels_are_frozen(pair: Watched, shell: Shell, backends: Make) -> None:
    """The error blames them, and not the resolver of names. So does the one of a call that waits for another's."""
    backend = backends(pair.url, retry=BRIEF)

    async def load(run_id: str) -> None:
        with pytest.raises(BackendUnavailableError, match=r"sentinels?.*: no answer ") as caught:
            await backend.store(run_id).load()
        assert "resolver" not in str(caught.value)

    for each in pair.sentinels:
        each.signal(signal.SIGSTOP)
    try:
        began = time.monotonic()
        await asyncio.gather(shell.apart(load("one")), shell.apart(load("two")))
        assert time.monotonic() - began < 3.0
    finally:
        for each in pair.sentinels:
            each.signal(signal.SIGCONT)


async def test_a_service_that_none_knows(pair: Watched, backends: Make) -> None:
    with pytest.raises(BackendUnavailableError) as caught:
        await backends(url_of(pair, service="other"), retry=BRIEF).store("run").load()
    text = str(caught.value)
    assert "no sentinel names the primary of 'other'" in text
    assert "knows no such service" in text
    assert "compare the service's name" in text


async def test_a_log_in_of_their_own(shell: Shell, backends: Make) -> None:
    """The servers and the sentinels ask for passwords, and each gets its own."""
    with watched(replicas=0, sentinels=1, conf="requirepass s3cret-of-sentinels") as made:
        await backends(f"{made.url}?sentinel_password=s3cret-of-sentinels").store("run").append(plain(1))
        for query, words in (("", "NOAUTH"), ("?sentinel_password=s3cret-wrong", "WRONGPASS|invalid password")):
            began = time.monotonic()
            with pytest.raises(BackendConfigError, match=words) as caught:
                await backends(made.url + query).store("run").append(plain(1))
            assert time.monotonic() - began < 3.0, "a mistake does not pass"
            assert "sentinel_username and sentinel_password" in str(caught.value)
            assert "s3cret" not in str(caught.value)
        with made.servers[0].client() as raw:
            raw.config_set("requirepass", "s3cret-of-servers")
        with_both = made.url.replace("://", "://:s3cret-of-servers@") + "?sentinel_password=s3cret-of-sentinels"
        await backends(with_both).store("run").append(plain(2), expected=histstore.ANY)
        with pytest.raises(BackendConfigError, match="NOAUTH") as caught:
            await backends(f"{made.url}?sentinel_password=s3cret-of-sentinels").store("run").append(plain(1))
        assert "give the URL a user and a password" in str(caught.value)


async def test_a_server_is_no_sentinel(pair: Watched, backends: Make) -> None:
    """That cannot pass, so it is told at once."""
    url = f"redis+sentinel://127.0.0.1:{pair.servers[0].port}/main"
    began = time.monotonic()
    with pytest.raises(BackendConfigError, match=r"no sentinel: give the sentinels' addresses, or use redis://"):
        await backends(url).store("run").append(plain(1))
    assert time.monotonic() - began < 3.0


async def test_a_sentinel_is_no_server(pair: Watched, backends: Make) -> None:
    with pytest.raises(BackendConfigError, match=r"for a sentinel, use redis\+sentinel://"):
        await backends(f"redis://127.0.0.1:{pair.sentinels[0].port}").store("run").append(plain(1))


async def test_a_sentinel_that_names_a_replica(pair: Watched, backends: Make) -> None:
    """The server is asked for its role. Then another sentinel is asked."""
    replica = next(each for each in pair.servers if each is not pair.primary())
    with liar(replica.port) as behind:
        # A request that was lost between two connections would wait for the 5 s of a try.
        backend = backends(url_of(pair, behind.port), retry=RetryPolicy(deadline=3.0))
        await backend.store("run").append(plain(1))
        assert behind.asked
        assert length(await backend.store("run").load()) == 1
    with liar(replica.port) as behind, pytest.raises(BackendUnavailableError) as caught:
        await backends(f"redis+sentinel://127.0.0.1:{behind.port}/main", retry=BRIEF).store("run").append(plain(1))
    assert "the server that the sentinels name is a replica" in str(caught.value)


async def test_two_connections_doubt_the_same_answer(pair: Watched, backends: Make) -> None:
    """The second must not bring back the sentinel that the first one put at the end."""
    with liar(pair.primary().port) as one, liar(pair.primary().port) as other:
        backend = backends(f"redis+sentinel://127.0.0.1:{one.port},127.0.0.1:{other.port}/main")
        await backend.store("run").load()
        sentinels = backend._runner.transport._sentinels
        assert sentinels._order[0][1] == one.port
        for _ in range(2):
            sentinels.doubt()
            assert sentinels._order[0][1] == other.port


async def test_a_server_that_is_full(pair: Watched, backends: Make) -> None:
    """It refuses the first command of a connection. Nothing was sent then, and the error says why."""
    with pair.primary().client() as raw:
        raw.config_set("maxclients", len(raw.client_list()))
        try:
            with pytest.raises(BackendUnavailableError, match="max number of clients reached"):
                await backends(pair.url, retry=BRIEF).store("run").append(plain(1))
        finally:
            raw.config_set("maxclients", 10_000)


async def test_an_older_failover_is_not_believed(pair: Watched, backends: Make) -> None:
    """A sentinel that is cut off names the primary of before, and that one still takes writes."""
    with server() as old, liar(old.port, epoch=6) as behind, liar(pair.primary().port, epoch=7) as recent:
        backend = backends(f"redis+sentinel://127.0.0.1:{recent.port},127.0.0.1:{behind.port}/main")
        store = backend.store("run")
        await store.append(plain(1))
        recent.silent = True
        await _new_connections(pair)
        with pytest.raises(BackendUnavailableError, match="sentinels that answer are behind the others"):
            await store.load(retry=BRIEF)
        recent.silent = False
        await store.append(plain(2))
        assert behind.asked
        with old.client() as raw:
            assert raw.dbsize() == 0
    assert length(await backends(pair.url).store("run").load()) == 2


async def test_an_announcement_is_not_lost_with_a_connection(pair: Watched, backends: Make) -> None:
    """The connection over which the sentinel is asked may have been lost unseen. Then it is asked over a new one."""
    with server() as old, liar(old.port, epoch=1) as only:
        backend = backends(f"redis+sentinel://127.0.0.1:{only.port}/main")
        await backend.store("run").load()
        await until(lambda: only.listeners)
        await asyncio.sleep(0.2)
        only.named, only.epoch, only.losing = pair.primary().port, 2, 1
        only.announce()
        sentinels = backend._runner.transport._sentinels
        await until(lambda: sentinels.latest == ("127.0.0.1", only.named))
        assert only.losing == 0


async def test_a_failover_that_ends_where_it_began(pair: Watched, backends: Make) -> None:
    """The primary is the same again. A sentinel that names the one in between is out of date."""
    with server() as between, liar(pair.primary().port, epoch=5) as recent, liar(between.port, epoch=6) as behind:
        behind.silent = True
        store = backends(f"redis+sentinel://127.0.0.1:{recent.port},127.0.0.1:{behind.port}/main").store("run")
        await store.append(plain(1))
        await until(lambda: recent.listeners)
        recent.epoch, before = 7, recent.asked
        recent.announce()
        await until(lambda: recent.asked > before)
        behind.silent = False
        await until(lambda: behind.asked and behind.listeners)
        await asyncio.sleep(0.5)
        await store.append(plain(2))
        with between.client() as raw:
            assert raw.dbsize() == 0


async def _new_connections(pair: Watched) -> None:
    """Has the primary end all connections."""
    with pair.primary().client() as raw:
        raw.execute_command("CLIENT", "KILL", "TYPE", "normal", "SKIPME", "yes")


async def test_sentinels_that_were_set_up_anew_are_believed(pair: Watched, backends: Make) -> None:
    """They count failovers from the beginning, and all of them agree."""
    with server() as other, liar(other.port, epoch=5) as one:
        backend = backends(f"redis+sentinel://127.0.0.1:{one.port}/main")
        await backend.store("run").append(plain(1))
        one.named, one.epoch = pair.primary().port, 1
        other.kill()
        await backend.store("run").append(plain(1), expected=histstore.ANY)
    assert length(await backends(pair.url).store("run").load()) == 1


async def test_closing_does_not_wait_for_a_sentinel_that_is_frozen(pair: Watched, shell: Shell) -> None:
    backend = shell.from_url(pair.url)
    await backend.store("run").load()
    for each in pair.sentinels:
        each.signal(signal.SIGSTOP)
    try:
        began = time.monotonic()
        await backend.aclose()
        assert time.monotonic() - began < 4.0
    finally:
        for each in pair.sentinels:
            each.signal(signal.SIGCONT)


async def test_closing_does_not_wait_for_one_frozen_sentinel_after_another(pair: Watched, shell: Shell) -> None:
    """They cannot be connected to. Each attempt takes a second, and all of them end together."""
    with contextlib.ExitStack() as stack:
        frozen = [stack.enter_context(silent()) for _ in range(8)]
        places = ",".join(f"127.0.0.1:{port}" for port in (pair.sentinels[0].port, *frozen))
        backend = shell.from_url(f"redis+sentinel://{places}/main")
        await backend.store("run").load()
        await asyncio.sleep(0.1)
        began = time.monotonic()
        await backend.aclose()
        assert time.monotonic() - began < 2.0


async def test_closing_leaves_no_connection(pair: Watched, shell: Shell) -> None:
    before = connections(pair)
    backend = shell.from_url(pair.url)
    await backend.store("run").load()
    await until(lambda: connections(pair) > before)
    await backend.aclose()
    await until(lambda: connections(pair) <= before, "a connection to a sentinel is left")


def test_event_loops_that_end_leave_no_connection(pair: Watched, namespace: str) -> None:
    """One backend in several, one after the other, and never closed."""

    async def turn(number: int) -> None:
        await backend.store(f"run {number}").append(plain(number))

    before = connections(pair)
    backend = histstore.RedisBackend.from_url(pair.url, namespace=namespace)
    for number in range(3):
        asyncio.run(turn(number))
    end = time.monotonic() + 10.0
    while connections(pair) > before:
        assert time.monotonic() < end, "a connection to a sentinel is left"
        time.sleep(0.01)
    asyncio.run(backend.aclose())


async def test_a_pickled_backend_finds_the_primary_too(pair: Watched, shell: Shell, backends: Make) -> None:
    made = shell.module.RedisBackend.from_url(pair.url, namespace="pickled")
    again = shell.dress(pickle.loads(pickle.dumps(made)))
    await again.store("run").save(ConversationSnapshot([plain(1)]), expected=histstore.ANY)
    assert await again.delete("run")
    await again.aclose()
