"""Connections that cannot be opened: the error names the phase, the cause and the mend (rows 30 and 31)."""

from __future__ import annotations

import asyncio
import contextlib
import socket
import subprocess
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import redis
from redis.credentials import CredentialProvider
from redis.exceptions import ConnectionError as RedisConnectionError

from histstore import (
    ANY,
    BackendConfigError,
    BackendUnavailableError,
    Durability,
    OutcomeUnknownError,
    RetryPolicy,
)
from histstore.protocol.scripts import SAVE
from histstore.wire.opening import FRESH

from ..support.cluster import two_nodes
from ..support.history import message
from ..support.proxy import proxy
from ..support.servers import Server, listens, sentinel, server_binary
from ..support.shells import SHELLS, until
from ..support.tls import black_hole, silent
from .shells import GUARD, carries, contents, told

Make = Callable[..., Any]

ENDLESS = RetryPolicy(attempts=1000, deadline=600.0)
"""Who tries again what cannot help does not come back before the test's guard."""
ONCE = RetryPolicy(attempts=1, deadline=600.0)


@dataclass
class World:
    server: Server
    black_hole: int
    silent: int
    folder: Path

    def plain(self, rest: str = "/0", user: str = "u:s3cret@") -> str:
        return f"redis://{user}127.0.0.1:{self.server.port}{rest}"


@pytest.fixture
def world(private_server: Callable[..., Server], tmp_path: Path) -> Iterator[World]:
    server = private_server()
    with server.client() as raw:
        raw.execute_command("ACL", "SETUSER", "u", "on", ">s3cret", "~*", "&*", "+@all")
    with black_hole() as hole, silent() as deaf:
        yield World(server, hole, deaf, tmp_path)


MISTAKES: dict[str, tuple[Callable[[World], str], str, str]] = {
    "a wrong password": (lambda w: w.plain(user="u:s3cret1@"), "log-in", "password"),
    "an unknown user": (lambda w: w.plain(user="nobody:s3cret@"), "log-in", "user"),
    "a password where there is none": (lambda w: w.plain(user=":s3cret@"), "log-in", "password"),
    "a name that clients may not have": (lambda w: w.plain("/0?client_name=a%20b"), "log-in", "client_name"),
    "a path that no socket can have": (lambda w: f"unix://u:s3cret@{w.folder}/{'x' * 120}", "connect", "shorter"),
    "a database out of range": (lambda w: w.plain("/99"), "select", "database"),
}
OUTAGES: dict[str, tuple[Callable[[World], str], str, str]] = {
    "nobody listens": (lambda _w: "redis://u:s3cret@127.0.0.1:1/0", "connect", "refused"),
    "packets are dropped": (
        lambda w: f"redis://u:s3cret@127.0.0.1:{w.black_hole}/0?socket_connect_timeout=0.4", "connect", "firewall",
    ),
    "no answer": (lambda w: f"redis://u:s3cret@127.0.0.1:{w.silent}/0?socket_connect_timeout=0.4", "log-in", "frozen"),
    "no answer without a log-in": (
        lambda w: f"redis://127.0.0.1:{w.silent}/0?socket_connect_timeout=0.4", "log-in", "frozen",
    ),
    "no answer to TLS": (
        lambda w: f"rediss://u:s3cret@127.0.0.1:{w.silent}/0?socket_connect_timeout=0.4", "TLS", "redis://",
    ),
    "no such socket": (lambda w: f"unix://u:s3cret@{w.folder}/sock", "connect", "no such file"),
}  # fmt: skip


@pytest.mark.parametrize("name", MISTAKES)
async def test_a_mistake_is_told_at_once_with_its_phase_and_what_to_change(
    shell: str, backends: Make, world: World, name: str
) -> None:
    """One try, however patient the policy is. No word of repeating, and nothing is left behind."""
    make, phase, advice = MISTAKES[name]
    backend = backends(shell, make(world), retry=ENDLESS)
    with world.server.client() as raw:
        before = raw.info("stats")["total_connections_received"]
        for _ in range(2):
            async with asyncio.timeout(GUARD):
                with pytest.raises(BackendConfigError) as caught:
                    await backend.store("run").load()
            assert not isinstance(caught.value, BackendUnavailableError)
            told(caught.value, phase, advice)
            assert "repeat" not in str(caught.value)
        assert raw.info("stats")["total_connections_received"] - before <= 2
        assert raw.keys("*") == []


@pytest.mark.parametrize("name", OUTAGES)
async def test_an_outage_names_its_phase_and_its_cause(shell: str, backends: Make, world: World, name: str) -> None:
    """Within `connect_timeout`, where one is set; the call may be repeated."""
    make, phase, advice = OUTAGES[name]
    backend = backends(shell, make(world), retry=ONCE)
    async with asyncio.timeout(GUARD):
        with pytest.raises(BackendUnavailableError) as caught:
            await backend.store("run").load()
    told(caught.value, phase, advice)


async def test_an_unknown_host_is_looked_up_for_as_long_as_connecting_may_take(shell: str, backends: Make) -> None:
    """The name may be about to appear; after that the rest of the deadline does not help."""
    backend = backends(shell, "redis://u:s3cret@nobody.invalid/0?socket_connect_timeout=0.5", retry=ENDLESS)
    async with asyncio.timeout(GUARD):
        with pytest.raises(BackendUnavailableError) as caught:
            await backend.store("run").load()
    told(caught.value, "look-up", "host's name")
    assert "nobody.invalid" in str(caught.value)


async def test_a_resolver_that_hangs_is_not_waited_for(
    shell: str, backends: Make, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The system's resolver knows no timeout of ours."""

    over, asked = threading.Event(), socket.getaddrinfo

    def hang(host: Any, port: Any, *args: Any, **kwargs: Any) -> Any:
        if host == "slow.invalid" and not kwargs.get("flags"):
            over.wait(GUARD)
        return asked(host, port, *args, **kwargs)

    monkeypatch.setattr(socket, "getaddrinfo", hang)
    backend = backends(shell, "redis://slow.invalid/0?socket_connect_timeout=0.3", retry=ONCE)
    try:
        async with asyncio.timeout(GUARD / 2):
            with pytest.raises(BackendUnavailableError) as caught:
                await backend.store("run").load()
        told(caught.value, "look-up", "no answer from the resolver")
    finally:
        over.set()


async def test_the_other_addresses_of_a_host_are_tried(
    shell: str, backends: Make, world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Of two addresses the first one drops packets: the second one serves, within one attempt."""

    asked = socket.getaddrinfo

    def two(host: Any, port: Any, *args: Any, **kwargs: Any) -> Any:
        if host != "two.invalid":
            return asked(host, port, *args, **kwargs)
        if kwargs.get("flags"):
            raise socket.gaierror(socket.EAI_NONAME, "not in digits")
        ports = (world.black_hole, world.server.port)
        return [(socket.AF_INET, socket.SOCK_STREAM, 6, "", ("127.0.0.1", each)) for each in ports]

    monkeypatch.setattr(socket, "getaddrinfo", two)
    backend = backends(shell, "redis://u:s3cret@two.invalid/0?socket_connect_timeout=2", retry=ONCE)
    assert await backend.store("run").load() is None


async def test_sentinels_say_where_the_primary_is(shell: str, private_server: Callable[..., Server]) -> None:
    """redis-py asks them, for each connection; a pool of their replicas is refused."""
    server = private_server()
    flavour = SHELLS[shell == "sync"]
    with sentinel(server, "main") as port:
        asked = flavour.redis.sentinel.Sentinel([("127.0.0.1", port)], socket_timeout=5)
        async with flavour.backend(asked.master_for("main")) as backend:
            await backend.store("run").append(message("a"))
            assert await contents(backend.store("run")) == ["a"]
        with pytest.raises(BackendConfigError, match="master_for"):
            flavour.backend(asked.slave_for("main"))
        for each in asked.sentinels:
            await flavour.close_client(each)


def _started(command: list[str]) -> subprocess.Popen[bytes]:
    return subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)


class Provider(CredentialProvider):
    """Answers what a function returns, or fails as it does."""

    def __init__(self, answer: Callable[[], tuple[str, ...]], pause: float = 0.0) -> None:
        self.answer = answer
        self.pause = pause

    def get_credentials(self) -> tuple[str, ...]:
        time.sleep(self.pause)
        return self.answer()

    async def get_credentials_async(self) -> tuple[str, ...]:
        await asyncio.sleep(self.pause)
        return self.answer()


async def test_connections_are_dropped_while_the_first_after_a_failure_is_opened(
    shell: str, private_server: Callable[..., Server]
) -> None:
    """Nobody waits for the one that is given up: another is opened."""
    server, flavour = private_server(), SHELLS[shell == "sync"]
    with server.client() as raw:
        raw.execute_command("ACL", "SETUSER", "u", "on", ">s3cret", "~*", "&*", "+@all")
    server.kill()
    client = flavour.redis.Redis(port=server.port, credential_provider=Provider(lambda: ("u", "s3cret"), 0.3))
    async with flavour.backend(client, retry=RetryPolicy(attempts=1, deadline=3.0)) as backend:
        with pytest.raises(BackendUnavailableError):
            await backend.store("run").load()
        server.start()
        with server.client() as raw:
            raw.execute_command("ACL", "SETUSER", "u", "on", ">s3cret", "~*", "&*", "+@all")
        loading = flavour.apart(_load(backend))
        await asyncio.sleep(0.1)
        # Less than the 5 s of a try, which a request that is left behind waits for.
        dropped = backend._runner.drop()
        if shell == "async":
            await dropped
        assert await loading is None
    await flavour.close_client(client)


async def _load(backend: Any) -> Any:
    return await backend.store("run").load()


def _unreachable() -> tuple[str, ...]:
    raise ConnectionError("https://tokens.invalid/?key=s3cret")


def _refused() -> tuple[str, ...]:
    raise RedisConnectionError("no token for s3cret")


PROVIDERS: dict[str, tuple[Provider, type[Exception], str]] = {
    "it cannot be reached": (Provider(_unreachable), BackendUnavailableError, "provider failed (ConnectionError)"),
    "it raises redis-py's error": (Provider(_refused), BackendUnavailableError, "provider failed (ConnectionError)"),
    "it hangs": (Provider(lambda: ("s3cret",), 1.0), BackendUnavailableError, "no answer from the credential provider"),
    "no encoding": (Provider(lambda: ("s3cret\udc80",)), BackendConfigError, "they cannot be encoded"),
}


@pytest.mark.parametrize("name", PROVIDERS)
async def test_what_a_credential_provider_fails_with_is_not_blamed_on_the_server(
    shell: str, world: World, name: str
) -> None:
    """Tokens come from elsewhere. The provider's text may quote one, and is left to the error's cause."""
    provider, kind, text = PROVIDERS[name]
    flavour = SHELLS[shell == "sync"]
    pool = flavour.redis.ConnectionPool.from_url(
        world.plain(user=""), credential_provider=provider, socket_connect_timeout=0.3
    )
    async with flavour.backend(flavour.redis.Redis(connection_pool=pool), retry=ONCE) as backend:
        with pytest.raises(kind) as caught:
            await backend.store("run").load()
    assert type(caught.value) is kind
    assert "load: credentials (" in str(caught.value)
    assert text in str(caught.value)
    assert "s3cret" not in str(caught.value)


async def test_a_server_without_auth_does_not_put_the_password_into_an_error(
    shell: str, backends: Make, tmp_path: Path
) -> None:
    """It repeats the arguments of a command that it does not know. No error of the chain may."""
    config = tmp_path / "server.conf"
    config.write_text('rename-command AUTH ""\nrename-command HELLO ""\n')
    binary = server_binary()
    assert binary is not None
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    process = _started([binary, str(config), "--port", str(port), "--bind", "127.0.0.1", "--save", ""])
    try:
        await until(lambda: listens(port))
        backend = backends(shell, f"redis://u:s3cret@127.0.0.1:{port}/0", retry=ENDLESS)
        with pytest.raises(BackendConfigError) as caught:
            await backend.store("run").load()
        told(caught.value, "log-in", "with no command renamed")
    finally:
        process.kill()
        process.wait()


async def test_an_address_of_a_family_that_the_system_lacks_is_passed_over(
    shell: str, backends: Make, world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Where IPv6 is switched off, a name may still have such an address, and it may be the first."""
    asked = socket.getaddrinfo

    def two(host: Any, port: Any, *args: Any, **kwargs: Any) -> Any:
        if host != "two.invalid":
            return asked(host, port, *args, **kwargs)
        if kwargs.get("flags"):
            raise socket.gaierror(socket.EAI_NONAME, "not in digits")
        missing = (socket.AF_APPLETALK, socket.SOCK_STREAM, 0, "", ("::1", world.server.port, 0, 0))
        return [missing, (socket.AF_INET, socket.SOCK_STREAM, 6, "", ("127.0.0.1", world.server.port))]

    monkeypatch.setattr(socket, "getaddrinfo", two)
    backend = backends(shell, "redis://u:s3cret@two.invalid/0", retry=ONCE)
    assert await backend.store("run").load() is None


async def test_a_connection_that_failed_before_explains_nothing_later(
    backends: Make, private_server: Callable[..., Server]
) -> None:
    """The server was full once. Much later the calls are too many for its answers: that is another cause."""
    server = private_server()
    async with proxy(server.url) as between:
        backend = backends("async", f"{between.url}?max_connections=2&socket_timeout=0.6", retry=ONCE)
        store = backend.store("run")
        await store.append(message("a"))
        with server.client() as raw:
            raw.config_set("maxclients", len(raw.client_list()))  # type: ignore[arg-type]
            with pytest.raises(BackendUnavailableError, match="maxclients"):
                await store.append(message("b" * 300_000))
            raw.config_set("maxclients", 1000)
        failed = backend._runner.transport._connections.opener.latest
        failed.opening.ended -= FRESH
        between.stall()
        found = await asyncio.gather(
            *(backend.store(f"other {number}").info() for number in range(600)), return_exceptions=True
        )
        between.go_on()
        await backend.aclose()
        await until(lambda: not between.open)
    texts = [str(each) for each in found if isinstance(each, BackendUnavailableError)]
    assert len(texts) == 600
    assert not [text for text in texts if "maxclients" in text]


async def test_a_time_that_ends_while_more_is_found_out_hides_no_cause(shell: str, backends: Make) -> None:
    """The server closes the first connection, and lets the next, which asks for TLS, wait."""
    with socket.create_server(("127.0.0.1", 0)) as listener:
        kept: list[socket.socket] = []

        def serve() -> None:
            with contextlib.suppress(OSError):
                listener.accept()[0].close()
                kept.append(listener.accept()[0])

        threading.Thread(target=serve, daemon=True).start()
        url = f"redis://127.0.0.1:{listener.getsockname()[1]}/0?socket_connect_timeout=0.4"
        with pytest.raises(BackendUnavailableError) as caught:
            await backends(shell, url, retry=ONCE).store("run").load()
        for each in kept:
            each.close()
    assert "at the first command" in str(caught.value)
    assert "no answer" not in str(caught.value)


@pytest.mark.parametrize("user", ["u:s3cret@", ""])
async def test_a_full_server_is_named(shell: str, backends: Make, world: World, user: str) -> None:
    """It accepts the connection, refuses it by its first words and closes it. The next try finds room."""
    backend = backends(shell, world.plain(user=user), retry=ONCE)
    with world.server.client() as raw:
        raw.config_set("maxclients", len(raw.client_list()))  # type: ignore[arg-type]
        for _ in range(3):
            with pytest.raises(BackendUnavailableError) as caught:
                await backend.store("run").load()
            told(caught.value, "log-in", "maxclients")
        raw.config_set("maxclients", 1000)
    await backend.store("run").append(message("a"))
    assert await contents(backend.store("run")) == ["a"]


async def test_a_cluster_has_one_database(shell: str, backends: Make) -> None:
    """A node refuses SELECT; the error says what to leave out."""
    with two_nodes() as (owner, _):
        backend = backends(shell, f"redis://127.0.0.1:{owner.port}/1", retry=ENDLESS)
        async with asyncio.timeout(GUARD):
            with pytest.raises(BackendConfigError) as caught:
                await backend.store("run").load()
        told(caught.value, "select", "leave it out" if "cluster" in str(caught.value) else "databases")


@pytest.mark.parametrize("most", [1, 2, 20])
@pytest.mark.parametrize("name", ["packets are dropped", "no answer"])
async def test_all_who_wait_for_a_connection_hear_why_there_is_none(
    shell: str, backends: Make, world: World, name: str, most: int
) -> None:
    """And not that connections had no room: that would send people to raise max_connections."""
    make, phase, advice = OUTAGES[name]
    url = make(world).replace("0.4", "0.6") + f"&socket_timeout=0.6&max_connections={most}"
    backend = backends(shell, url, retry=ONCE)
    for tested in (False, True):
        (backend if shell == "async" else backend.inner)._runner.self_test.passed = tested
        async with asyncio.timeout(GUARD):
            work = [backend.store(f"run {number}").load() for number in range(12)]
            found = await asyncio.gather(*work, return_exceptions=True)
        for each in found:
            assert isinstance(each, BackendUnavailableError)
            told(each, phase, advice)


async def test_who_waits_with_a_durable_save_hears_why_too(shell: str, backends: Make, world: World) -> None:
    """The group commit opens a connection of its own."""
    make, phase, _ = OUTAGES["packets are dropped"]
    url = make(world) + "&socket_timeout=0.4"
    backend = backends(shell, url, retry=ONCE, durability=Durability(replicas=1))
    (backend if shell == "async" else backend.inner)._runner.self_test.passed = True
    work = [backend.store(f"run {number}").append(message("x"), expected=None) for number in range(6)]
    async with asyncio.timeout(GUARD):
        found = await asyncio.gather(*work, return_exceptions=True)
    assert [type(each) for each in found] == [BackendUnavailableError] * 6
    assert all(f"save: {phase} (" in str(each) for each in found), found


async def test_a_mistake_after_a_lost_reply_is_an_unknown_outcome(
    shell: str, backends: Make, private_server: Callable[..., Server]
) -> None:
    """The password was changed while the answer to a save was lost: nobody may say that nothing was written."""
    server = private_server()
    async with proxy(server.url) as between:
        backend = backends(shell, between.url, retry=RetryPolicy(attempts=5, deadline=20.0))
        store = backend.store("run")
        await store.append(message("a"))
        with server.client() as raw:
            changed: list[Any] = []

            def change(request: bytes) -> bool:
                if found := carries(SAVE)(request):
                    raw.config_set("requirepass", "other")
                    changed.append(request)
                return found

            between.lose_replies(1, change)
            with pytest.raises(OutcomeUnknownError) as caught:
                await store.append(message("b"))
            assert changed
            assert "give the URL a user and a password" in str(caught.value)
            raw.config_set("requirepass", "")
        assert (await store.resolve()) == (await backend.store("run").info()).revision


# -------------------------------------------------------------------------------------- max_connections


@pytest.mark.parametrize("most", [1, 2, 3, 8])
@pytest.mark.parametrize("durable", [False, True])
async def test_no_more_connections_are_open_than_allowed(
    shell: str, backends: Make, private_server: Callable[..., Server], most: int, durable: bool
) -> None:
    """Small and large calls, durable ones, and locks that others wait for: the server counts the connections."""
    server = private_server(appendonly="yes")
    options = {"durability": Durability(fsync=True, timeout=20.0)} if durable else {}
    with server.client() as raw:
        if durable and [int(part) for part in raw.info("server")["redis_version"].split(".")[:2]] < [7, 2]:
            pytest.skip("no WAITAOF")
        backend = backends(shell, f"{server.url}?max_connections={most}&socket_timeout={GUARD}", **options)
        counts = []

        async def count() -> None:
            while True:
                counts.append(_connections(raw, most))
                await asyncio.sleep(0.002)

        async def turn(number: int) -> None:
            store = backend.store("shared")
            if shell == "async":
                async with store.lock(ttl=20.0, acquire_timeout=GUARD):
                    await store.append(message(f"turn {number}"), expected=ANY)
            else:
                await asyncio.to_thread(_locked, store.inner, number)

        counting = asyncio.create_task(count())
        async with asyncio.timeout(GUARD):
            small = [backend.store(f"small {n}").append(message("x")) for n in range(40)]
            large = [backend.store(f"large {n}").append(message("x" * 300_000)) for n in range(6)]
            await asyncio.gather(*(turn(n) for n in range(4)), *small, *large)
            loads = [contents(backend.store(f"large {n}")) for n in range(6)]
            await asyncio.gather(*loads, *(turn(n) for n in range(4, 8)))
        counting.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await counting
        assert 0 < max(counts) <= most, f"{max(counts)} connections"
        assert len(await contents(backend.store("shared"))) == 8
        log = raw.xlen("histstore:{shared}:log")
        assert log == 8 or log == 0


def _connections(raw: redis.Redis, most: int) -> int:
    """Return how many connections a server has besides our own, and look twice where they are more than `most`.

    A server lists a connection that its client has closed until it comes to read it, and another may be open by then.
    """
    listed = {each["id"] for each in raw.client_list()}  # type: ignore[union-attr]
    if len(listed) - 1 > most:
        listed &= {each["id"] for each in raw.client_list()}  # type: ignore[union-attr]
    return len(listed) - 1


def _locked(store: Any, number: int) -> None:
    with store.lock(ttl=20.0, acquire_timeout=GUARD):
        store.append(message(f"turn {number}"), expected=ANY)


async def test_a_connection_whose_answers_are_overdue_counts_until_it_is_closed(
    backends: Make, private_server: Callable[..., Server]
) -> None:
    """It is replaced at once. With no room for both, the calls that still wait for its answers are failed."""
    server = private_server()
    async with proxy(server.url) as between:
        backend = backends("async", f"{between.url}?max_connections=2&socket_timeout=0.6", retry=ONCE)
        stores = {name: backend.store(name) for name in ("first", "second", "large", "third")}
        for store in stores.values():
            await store.append(message("start"))
        between.stall()
        first = asyncio.create_task(stores["first"].append(message("x")))
        await asyncio.sleep(0.3)
        large = asyncio.create_task(stores["large"].append(message("x" * 300_000)))
        second = asyncio.create_task(stores["second"].append(message("x")))
        found = await asyncio.gather(first, return_exceptions=True)
        between.stall(lambda _request: False)
        await stores["third"].append(message("x"))
        assert len(between.open) <= 2
        between.go_on()
        found += await asyncio.gather(second, large, return_exceptions=True)
        assert type(found[0]) is type(found[1]) is OutcomeUnknownError
