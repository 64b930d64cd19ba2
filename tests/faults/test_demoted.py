"""A primary is demoted, and its clients' connections live on (row 29).

They are dropped, and the name is looked up again.
"""

from __future__ import annotations

import asyncio
import contextlib
import socket
import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from typing import Any

import pytest
import redis
from redis.credentials import CredentialProvider

import histstore.wire.health
from histstore import (
    ANY,
    BackendUnavailableError,
    ConversationSnapshot,
    Durability,
    LockTimeoutError,
    RedisBackend,
    RetryPolicy,
)
from histstore.protocol.keys import run_keys
from histstore.revision import Revision
from histstore.wire.sending import SendState

from ..support.history import message, tokens_of
from ..support.proxy import Proxy
from ..support.servers import Server
from ..support.shells import SHELLS, Shell, until
from .shells import GUARD, contents

Wire = Callable[[str], Proxy]
NAME = "demoted"
POLICY = RetryPolicy(attempts=6, deadline=10.0, base=0.01, cap=0.05)
BRIEF = replace(POLICY, deadline=1.0)


class Pair:
    """A primary and its replica, behind one address.

    Attributes:
        old: The server that is the primary at first.
        new: The other one.
        proxy: What stands for the address.
    """

    def __init__(self, old: Server, new: Server, proxy: Proxy) -> None:
        self.old, self.new, self.proxy = old, new, proxy
        with new.client() as replica:
            replica.replicaof("127.0.0.1", str(old.port))
        self._synced(old)

    @property
    def url(self) -> str:
        return f"{self.proxy.url}?client_name={NAME}"

    def _synced(self, primary: Server) -> None:
        end = time.monotonic() + GUARD
        with primary.client() as raw:
            raw.set("synced", "1")
            while raw.wait(1, 100) != 1:
                assert time.monotonic() < end, "the replica does not come"

    def swap(self, *, follow: bool = False, look: bool = True) -> None:
        """Changes the roles, and where the address leads to; no connection is cut.

        Args:
            follow: Whether the old primary becomes the replica of the new one; else it is nobody's, and stays as it is.
            look: Whether the address leads to the new primary from now on.
        """
        self._synced(self.old)
        with self.old.client() as old, self.new.client() as new:
            new.replicaof("NO", "ONE")
            old.replicaof("127.0.0.1", str(self.new.port) if follow else "1")
        if follow:
            self._synced(self.new)
        if look:
            self.proxy.from_outside(lambda: self.proxy.retarget(self.new.url))

    def connections(self, server: Server) -> list[int]:
        """Returns which connections of the library a server has."""
        with server.client() as raw:
            return [each["id"] for each in raw.client_list() if each["name"] == NAME]


@pytest.fixture
def pair(private_server: Callable[..., Server], wire: Wire) -> Iterator[Pair]:
    options = {"repl_diskless_sync_delay": "0"}
    old = private_server(**options)
    yield Pair(old, private_server(**options), wire(old.url))
    # What it has kept of leases since it was demoted nobody could take from it.
    with old.client() as raw:
        raw.replicaof("NO", "ONE")
        raw.flushall()


@pytest.fixture(params=SHELLS, ids=lambda shell: shell.name)
def flavour(request: pytest.FixtureRequest) -> Shell:
    found: Shell = request.param
    return found


@pytest.fixture
def often(monkeypatch: pytest.MonkeyPatch) -> None:
    """Has every read ask for the role."""
    monkeypatch.setattr(histstore.wire.health, "ROLE_EVERY", -1.0)


async def test_saves_go_on_in_the_same_call(flavour: Shell, pair: Pair) -> None:
    """The refusal of the old primary is no error: every connection to it is dropped, the waiters' one, too."""
    async with flavour.from_url(pair.url, retry=POLICY) as backend, flavour.from_url(pair.new.url) as direct:
        store = backend.store("run")
        await store.append(*[{"text": "x" * 1000, "n": number} for number in range(200)])
        assert len(await backend.store("run").load()) == 200  # large: over a connection of its own
        async with backend.store("held").lock(ttl=20.0):
            waiting = flavour.apart(_once(backend.store("held")))
            # The doorbell's connection may be there a moment before that of the request.
            await until(lambda: len(pair.connections(pair.old)) >= 2 and _listeners(pair.old))
            pair.swap()
            revision = await store.append(message("after"))
            await until(lambda: not pair.connections(pair.old), "no connection is left")
            await until(lambda: _listeners(pair.new), "the doorbell listens on the new primary")
            assert revision.version == 2
            assert (await direct.store("run").info()).revision == revision
        await waiting


async def _once(store: Any) -> None:
    async with store.lock(ttl=20.0, acquire_timeout=GUARD):
        pass


def _listeners(server: Server) -> list[Any]:
    with server.client() as raw:
        return list(raw.pubsub_channels("histstore:doorbell:*"))


async def test_whoever_only_reads_notices(flavour: Shell, pair: Pair, often: None) -> None:
    """A load is not served from a server that was the primary: what it knows is old. Every kind of read."""
    async with flavour.from_url(pair.url, retry=POLICY) as backend, flavour.from_url(pair.new.url) as direct:
        store = backend.store("run")
        await direct_append(pair, flavour, "a")
        reads: dict[str, Callable[[], Any]] = {
            "load": lambda: contents(store),
            "load(at=1)": lambda: backend.store("run").load(at=1),
            "read": lambda: backend.store("run").read(-1),
            "info": lambda: backend.store("run").info(),
            "revisions": lambda: anext(aiter(backend.store("run").revisions())),
            "runs": lambda: anext(aiter(backend.runs())),
        }
        for read in reads.values():
            assert await read()
        pair.swap()
        await direct.store("run").append(message("b"), expected=ANY)
        assert await contents(store) == ["a", "b"]
        assert pair.connections(pair.old) == []
    for name in reads:
        # Each by itself finds out, over a connection that leads to the old primary.
        with pair.old.client() as old, pair.new.client() as new:
            old.replicaof("NO", "ONE")
            new.replicaof("127.0.0.1", str(pair.old.port))
        pair.proxy.from_outside(lambda: pair.proxy.retarget(pair.old.url))
        async with flavour.from_url(pair.url, retry=POLICY) as backend:
            store = backend.store("run")
            await contents(store)
            pair.swap()
            assert await reads[name]()
            assert pair.connections(pair.old) == [], name


async def direct_append(pair: Pair, flavour: Shell, text: str) -> Revision:
    async with flavour.from_url(pair.old.url) as backend:
        revision: Revision = await backend.store("run").append(message(text), expected=ANY)
        return revision


async def test_a_read_asks_for_the_role_now_and_then(flavour: Shell, pair: Pair) -> None:
    """Not with every load: along with one of them, after some seconds, in the same round trip."""
    async with flavour.from_url(pair.url) as backend:
        store = backend.store("run")
        await store.append(message("a"))
        await store.load()
        with pair.old.client() as raw:
            raw.config_resetstat()
            for _ in range(20):
                await store.load()
            assert "cmdstat_info" not in raw.info("commandstats")
            runner = (backend.inner if flavour.name == "sync" else backend)._runner
            runner._role.due = 0.0
            pair.proxy.reset_counts()
            await store.load()
            await store.load()
            assert pair.proxy.requests == 2
            assert raw.info("commandstats")["cmdstat_info"]["calls"] == 2  # the second one is this


async def test_two_servers_that_answer_one_load_are_no_damage(pair: Pair) -> None:
    """The old primary goes on taking writes, and names a later checkpoint than the log of the new one has.

    Only asyncio reads the entries over another connection than the head.
    """
    with pair.new.client() as new:
        async with RedisBackend.from_url(pair.old.url, keep_revisions=100) as backend:
            store = backend.store("run")
            for text in ("a", "b", "c"):
                await store.append(message(text))
            pair._synced(pair.old)
            new.replicaof("NO", "ONE")
            for number in range(10):  # until readers start at another entry
                await store.save(ConversationSnapshot([message(f"only here {number}" * 500)]), expected=ANY)
        with pair.old.client() as old:
            assert int(old.hget(run_keys("histstore", "run").head, "checkpoint") or 0) > 1
    async with RedisBackend.from_url(pair.url, keep_revisions=100, retry=POLICY) as backend:
        store = backend.store("run")
        await store.info()  # it has a connection to the old primary
        pair.proxy.from_outside(lambda: pair.proxy.retarget(pair.new.url))
        loaded = await store.load()
    assert loaded is not None
    assert tokens_of(loaded.messages) == ["a", "b", "c"]


async def test_a_user_who_may_not_ask_for_the_role_reads_on(flavour: Shell, pair: Pair, often: None) -> None:
    """Without INFO there are no such checks, and no errors either."""
    with pair.old.client() as raw:
        raw.execute_command("ACL", "SETUSER", "u", "on", ">pw", "~*", "&*", "+@all", "-info")
    url = pair.proxy.url.replace("redis://", "redis://u:pw@")
    async with flavour.from_url(url, retry=POLICY) as backend:
        await backend.store("run").append(message("a"))
        for _ in range(3):
            assert await contents(backend.store("run")) == ["a"]


async def test_leases_and_turns_go_on(flavour: Shell, pair: Pair) -> None:
    """What was replicated is still held: renewed, saved under and given up on the new primary."""
    async with flavour.from_url(pair.url, retry=POLICY) as backend, flavour.from_url(pair.new.url) as direct:
        async with backend.store("run").turn(ttl=20.0) as turn:
            turn.append(message("a"))
            await turn.save()
            pair.swap()
            await turn.lease.renew()
            turn.append(message("b"))
            await turn.save()
            turn.append(message("c"))
            with pytest.raises(LockTimeoutError):
                async with direct.store("run").lock(acquire_timeout=0):
                    pass
        assert await contents(direct.store("run")) == ["a", "b", "c"]
        async with direct.store("run").lock(acquire_timeout=0):
            pass


async def test_a_lease_is_renewed_in_the_background(flavour: Shell, pair: Pair) -> None:
    """A holder that does nothing else: the refusal of its renewals leads it to the new primary."""
    async with flavour.from_url(pair.url, retry=POLICY) as backend, backend.store("run").lock(ttl=1.0) as lease:
        pair.swap()
        await until(lambda: pair.connections(pair.new), "it comes to the new primary")
        for _ in range(5):
            await asyncio.sleep(0.3)
            lease.check()


async def test_durable_saves_go_on(flavour: Shell, pair: Pair) -> None:
    """WAIT is asked of the new primary, whose replica the old one is now."""
    options = {"retry": POLICY, "durability": Durability(replicas=1, timeout=GUARD / 2)}
    async with flavour.from_url(pair.url, **options) as backend:
        store = backend.store("run")
        await store.append(message("a"))
        pair.swap(follow=True)
        await asyncio.gather(*(backend.store(f"other {number}").append(message("x")) for number in range(5)))
        assert (await store.append(message("b"))).version == 2
        assert await contents(store) == ["a", "b"]
        assert pair.connections(pair.old) == []


async def test_a_stale_replica_ends_the_connection(flavour: Shell, pair: Pair) -> None:
    """MASTERDOWN, on a read and on a write."""
    async with flavour.from_url(pair.url, retry=POLICY) as backend:
        store = backend.store("run")
        await store.append(message("a"))
        with pair.old.client() as raw:
            raw.config_set("replica-serve-stale-data", "no")
        pair.swap()
        assert await contents(store) == ["a"]
        await until(lambda: not pair.connections(pair.old))
        await store.append(message("b"))


@pytest.mark.parametrize("call", ["append", "load"])
async def test_a_lone_replica_is_told(flavour: Shell, pair: Pair, call: str, often: None) -> None:
    """Where the address leads to nobody else: a clear error in time, and not a hundred connections."""
    async with flavour.from_url(pair.url, retry=BRIEF) as backend:
        # The calls of the blocking shell come one after the other, and each lasts until its deadline.
        stores = [backend.store(f"run {number}") for number in range(30 if flavour.name == "async" else 5)]
        for store in stores:
            await store.append(message("a"))
        pair.swap(look=False)
        with pair.old.client() as raw:
            before = raw.info("stats")["total_connections_received"]
            works = [store.append(message("b")) if call == "append" else store.load() for store in stores]
            told = await asyncio.gather(*works, return_exceptions=True)
            made = raw.info("stats")["total_connections_received"] - before
        assert {type(error) for error in told} == {BackendUnavailableError}
        wanted = ("READONLY", "connect to the primary", "nothing was written")
        assert [str(error) for error in told if any(words not in str(error) for words in wanted)] == []
        assert made < 60, f"{made} connections"
        # It is found again when it is the primary again.
        with pair.old.client() as raw:
            raw.replicaof("NO", "ONE")
        await stores[0].append(message("c"), expected=ANY)
        assert await contents(stores[0]) == ["a", "c"]


async def test_a_replica_from_the_beginning_is_read(flavour: Shell, pair: Pair, often: None) -> None:
    """Its user has chosen it: it is neither refused nor connected to over and over."""
    await direct_append(pair, flavour, "a")
    pair._synced(pair.old)
    async with flavour.from_url(f"{pair.new.url}?client_name={NAME}", retry=POLICY) as backend:
        assert await contents(backend.store("run")) == ["a"]
        (before,) = pair.connections(pair.new)[-1:]
        for _ in range(5):
            assert await contents(backend.store("run")) == ["a"]
        assert before in pair.connections(pair.new)
        with pytest.raises(BackendUnavailableError, match="connect to the primary"):
            await backend.store("run").append(message("b"), expected=ANY, retry=BRIEF)
        with pytest.raises(BackendUnavailableError, match="connect to the primary"):
            await backend.break_lease("run", retry=BRIEF)  # who holds it, if anybody does, a replica does not know
        assert await contents(backend.store("run")) == ["a"]


@pytest.fixture
def names(monkeypatch: pytest.MonkeyPatch) -> dict[str, str]:
    """Names of hosts, and their addresses."""
    found: dict[str, str] = {}
    look_up = socket.getaddrinfo

    def patched(host: Any, *args: Any, **kwargs: Any) -> Any:
        return look_up(found.get(host, host), *args, **kwargs)

    monkeypatch.setattr(socket, "getaddrinfo", patched)
    return found


async def test_the_name_is_looked_up_again(
    flavour: Shell, private_server: Callable[..., Server], names: dict[str, str]
) -> None:
    """A managed service moves the name: the next try of the same call goes to the new address."""
    old = private_server()
    new = Server({"bind": "127.0.0.2"}, port=old.port).start()
    try:
        client = redis.Redis(host="127.0.0.2", port=old.port)
        await until(lambda: _answers(client))
        names["db.test"] = "127.0.0.1"
        async with flavour.from_url(f"redis://db.test:{old.port}/0", retry=POLICY) as backend:
            await backend.store("run").append(message("a"))
            with old.client() as raw:
                raw.replicaof("127.0.0.1", "1")
            names["db.test"] = "127.0.0.2"
            await backend.store("new").append(message("b"), expected=None)
        assert client.keys("*new*")
        client.close()
    finally:
        new.stop()


def _answers(client: redis.Redis) -> bool:
    with contextlib.suppress(redis.ConnectionError):
        return bool(client.ping())
    return False


@pytest.mark.parametrize("large", [False, True])
async def test_what_is_under_way_is_answered_when_connections_are_dropped(
    flavour: Shell, large: bool, server_url: str, raw: redis.Redis, namespace: str
) -> None:
    """Its outcome must not become unknown for nothing: the connection is closed after the answer."""
    key = f"{namespace}:list"
    async with flavour.from_url(f"{server_url}?client_name={namespace}") as backend:
        assert await backend.store("run").load() is None
        runner = (backend.inner if flavour.name == "sync" else backend)._runner
        transport = runner.transport
        clock = time.monotonic if flavour.name == "sync" else asyncio.get_running_loop().time

        async def ask() -> Any:
            found = transport.exchange(None, [("BLPOP", key, "20")], clock() + GUARD, SendState(), large)
            return await found if flavour.name == "async" else found

        waiting = asyncio.create_task(ask()) if flavour.name == "async" else flavour.apart(ask())
        await until(lambda: raw.info("clients")["blocked_clients"])
        dropped = transport.drop()
        if flavour.name == "async":
            await dropped
        assert await backend.store("run").load() is None
        raw.rpush(key, "answer")
        assert await waiting == [[key.encode(), b"answer"]]
        await until(lambda: len([each for each in raw.client_list() if each["name"] == namespace]) == 1)


class Dropping(CredentialProvider):
    """Drops a transport's connections while one of them logs in."""

    transport: Any = None

    def get_credentials(self) -> tuple[str, str]:
        if self.transport is not None:
            self.transport.drop()
        return "default", ""

    async def get_credentials_async(self) -> tuple[str, str]:
        if self.transport is not None:
            await self.transport.drop()
        return "default", ""


async def test_a_listener_that_is_opened_meanwhile_is_dropped_too(flavour: Shell, server_url: str) -> None:
    """It may lead to the old server, and nothing on it would ever fail."""
    provider = Dropping()
    async with flavour.backend(flavour.redis.Redis.from_url(server_url, credential_provider=provider)) as backend:
        assert await backend.store("run").load() is None
        transport = (backend.inner if flavour.name == "sync" else backend)._runner.transport

        async def subscribe() -> Any:
            found = transport.subscribe(time.monotonic() + GUARD)
            return await found if flavour.name == "async" else found

        provider.transport = transport
        with pytest.raises(redis.ConnectionError, match="dropped meanwhile"):
            await subscribe()
        provider.transport = None
        found = (await subscribe()).close()
        if flavour.name == "async":
            await found
