"""TLS: who is verified, what an error names, and that all calls work over it (rows 31, 54 and 55).

The server is a real one with TLS, which wants client certificates. On a machine without such a program a relay speaks
TLS before a server without.
"""

from __future__ import annotations

import asyncio
import random
import time
from collections.abc import Callable, Iterator
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import urlencode

import pytest
import redis
from redis.crc import key_slot
from redis.credentials import CredentialProvider

from histstore import (
    ANY,
    BackendConfigError,
    BackendError,
    BackendUnavailableError,
    ConversationSnapshot,
    RetryPolicy,
)
from histstore.protocol.keys import run_keys

from ..support import backends as fixtures
from ..support.cluster import Cluster
from ..support.history import message, tokens_of
from ..support.servers import Server
from ..support.shells import Shell, until
from ..support.tls import Certificates, Relay, tls_cluster, tls_server
from .shells import GUARD, contents, told

Make = fixtures.Make

ENDLESS = RetryPolicy(attempts=1000, deadline=GUARD)
"""A mistake that was tried again would take until the deadline."""
AT_ONCE = 10.0
"""Seconds that no mistake takes, on a busy machine either."""
TTL = 20.0
"""Seconds that a lease lives. A waiter that came with its end would be too late."""

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def certificates(tmp_path_factory: pytest.TempPathFactory) -> Certificates:
    return Certificates(tmp_path_factory.mktemp("tls"))


@dataclass
class World:
    """A server with TLS, and relays to it that show other certificates.

    Attributes:
        server: The server, for its port without TLS.
        port: Its port with TLS.
        expired: The port of a server whose certificate has expired.
        early: The port of one whose certificate is not valid yet.
        certificates: All certificates.
    """

    server: Server
    port: int
    expired: int
    early: int
    certificates: Certificates

    def url(self, host: str = "127.0.0.1", port: int | None = None, rest: str = "", **given: Any) -> str:
        query = self.certificates.query(**given)
        return f"rediss://u:s3cret@{host}:{port or self.port}/0?socket_timeout=20&{query}{rest}"


@pytest.fixture(scope="module")
def world(certificates: Certificates) -> Iterator[World]:
    with (
        tls_server(certificates) as (server, port),
        closing(Relay(server.port, certificates, certificates.expired)) as expired,
        closing(Relay(server.port, certificates, certificates.early)) as early,
    ):
        with server.client() as raw:
            raw.execute_command("ACL", "SETUSER", "u", "on", ">s3cret", "~*", "&*", "+@all")
        yield World(server, port, expired.port, early.port, certificates)


@pytest.fixture(scope="module")
def nodes(certificates: Certificates) -> Iterator[tuple[Cluster, dict[int, int]]]:
    """Three primaries with TLS, and their ports with TLS by those without."""
    with tls_cluster(certificates) as made:
        yield made


shell = fixtures.shell
backends = fixtures.backends


# ------------------------------------------------------------------------------------------ mistakes

MISTAKES: dict[str, tuple[Callable[[World], str], str, str]] = {
    "TLS to a port without": (lambda w: w.url(port=w.server.port), "TLS", "use redis://"),
    "no TLS to a port with": (lambda w: f"redis://u:s3cret@127.0.0.1:{w.port}/0", "log-in", "use rediss://"),
    "no TLS and no log-in": (lambda w: f"redis://127.0.0.1:{w.port}/0", "log-in", "use rediss://"),
    "no client certificate": (lambda w: w.url(client=None), "TLS", "ssl_certfile and ssl_keyfile"),
    "another CA's client certificate": (lambda w: w.url(client="other"), "TLS", "ssl_certfile and ssl_keyfile"),
    "the system's CAs": (lambda w: w.url(ca=None), "TLS", "ssl_ca_certs"),
    "another CA": (lambda w: w.url(ca="other"), "TLS", "ssl_ca_certs"),
    "another host": (lambda w: w.url("127.0.0.2"), "TLS", "connect by a name that it holds"),
    "an expired certificate": (lambda w: w.url(port=w.expired), "TLS", "renew it"),
    "a certificate that is not valid yet": (lambda w: w.url(port=w.early), "TLS", "this machine's clock"),
    "another certificate's key": (lambda w: w.url(key="other"), "TLS", "the certificate's own key"),
    "an encrypted key": (lambda w: w.url(key="locked"), "TLS", "give its password as ssl_password"),
    "a wrong password of the key": (
        lambda w: w.url(key="locked", rest="&ssl_password=s3cret1"), "TLS", "ssl_password does not open",
    ),
    "a certificate file that is missing": (lambda w: w.url(client="nobody"), "TLS", "ssl_certfile"),
    "a CA file that is missing": (lambda w: w.url(ca="nobody"), "TLS", "ssl_ca_certs"),
    "no cipher": (lambda w: w.url(rest="&ssl_ciphers=nonsense"), "TLS", "ssl_ciphers"),
}  # fmt: skip


@pytest.mark.parametrize("name", MISTAKES)
async def test_a_mistake_is_told_at_once_with_its_phase_and_what_to_change(
    backends: Make, world: World, name: str
) -> None:
    """One try, however patient the policy is. The text contains no secret and no word of repeating."""
    make, phase, advice = MISTAKES[name]
    backend = backends(make(world), retry=ENDLESS)
    with world.server.client() as raw:
        before = raw.info("stats")["total_connections_received"]
        began = time.monotonic()
        for _ in range(2):
            with pytest.raises(BackendConfigError) as caught:
                await backend.store("run").load()
            assert not isinstance(caught.value, BackendUnavailableError)
            told(caught.value, phase, advice)
            assert "repeat" not in str(caught.value)
        assert time.monotonic() - began < AT_ONCE
        # A second connection finds out why the server does not accept the first one.
        assert raw.info("stats")["total_connections_received"] - before <= 4


class Slow(CredentialProvider):
    """Lets a server refuse the client before the client says anything."""

    def get_credentials(self) -> tuple[str, str]:
        time.sleep(0.2)
        return ("u", "s3cret")

    async def get_credentials_async(self) -> tuple[str, str]:
        time.sleep(0.2)  # noqa: ASYNC251 (a busy loop: it writes before it reads)
        return ("u", "s3cret")


@pytest.mark.parametrize("slow", [False, True])
async def test_a_client_certificate_that_is_missing_is_told_whoever_is_faster(
    shell: Shell, world: World, slow: bool
) -> None:
    """The server's reason comes after the greeting. What the client says then resets the connection."""
    url = world.url(client=None).replace("u:s3cret@", "")
    for _ in range(10):
        pool = shell.redis.ConnectionPool.from_url(url, **({"credential_provider": Slow()} if slow else {}))
        async with shell.backend(shell.redis.Redis(connection_pool=pool), retry=RetryPolicy(attempts=1)) as backend:
            with pytest.raises(BackendConfigError) as caught:
                await backend.store("run").load()
        told(caught.value, "TLS", "ssl_certfile")


# --------------------------------------------------------------------------------------- what serves

SERVES: dict[str, Callable[[World], str]] = {
    "the server's address": lambda w: w.url(),
    "the server's name": lambda w: w.url("localhost"),
    "an encrypted key with its password": lambda w: w.url(key="locked", rest="&ssl_password=s3cret"),
    "the CA as text": lambda w: w.url(
        ca=None, rest="&" + urlencode({"ssl_ca_data": w.certificates.path("ours.ca").read_text()})
    ),
    "nothing is verified": lambda w: w.url(port=w.expired, ca=None, rest="&ssl_cert_reqs=none"),
    "the host's name is not verified": lambda w: w.url("127.0.0.2", rest="&ssl_check_hostname=false"),
}


@pytest.mark.parametrize("name", SERVES)
async def test_connections_that_serve(backends: Make, world: World, name: str) -> None:
    """Also without verification, if the URL asks for that."""
    url = SERVES[name](world)
    await backends(url).store("run").append(message("a"))
    assert await contents(backends(url).store("run")) == ["a"]


async def test_saves_loads_and_turns(backends: Make, world: World) -> None:
    """Each kind of call, in two backends that see each other's writes."""
    ours, theirs = (backends(world.url()) for _ in range(2))
    store, other = ours.store("run"), theirs.store("run")
    await store.append(message("a"))
    async with other.turn() as turn:
        turn.append(message("b"))
    async with store.lock() as lease:
        await lease.renew()
        await store.save((await store.load()).append(message("c")))
    assert await contents(other) == ["a", "b", "c"]
    assert (await other.info()).revision.version == 3
    assert [info.run_id async for info in ours.runs()] == ["run"]
    assert await theirs.delete("run")
    assert await store.load() is None


async def test_a_hand_off(shell: Shell, backends: Make, world: World, namespace: str) -> None:
    """The doorbell listens with TLS: the waiter does not wait for the lease's end."""
    ours, theirs = (backends(world.url()) for _ in range(2))
    with world.server.client() as raw:
        async with ours.store("run").lock(ttl=TTL):
            waiting = shell.apart(_enter(theirs, "run"))
            await until(lambda: raw.llen(run_keys(namespace, "run").queue))
            assert raw.pubsub_channels(f"{namespace}:doorbell:*")
            began = time.monotonic()
        await asyncio.wait_for(waiting, GUARD)
    assert time.monotonic() - began < TTL / 2


async def _enter(backend: Any, run: str) -> None:
    async with backend.store(run).lock(ttl=TTL, acquire_timeout=GUARD) as lease:
        await lease.renew()


async def test_a_snapshot_of_16_mib(backends: Make, world: World) -> None:
    """It is saved and loaded whole, and so is what is appended to it. TLS cuts it into a thousand records."""
    chance = random.Random(16)
    tokens = [chance.randbytes(1 << 19).hex() for _ in range(16)]
    store = backends(world.url()).store("run")
    snapshot = ConversationSnapshot([message(token) for token in tokens])
    await store.save(snapshot)
    await store.append(message("the end"))
    loaded = await backends(world.url()).store("run").load()
    assert tokens_of(loaded.messages) == [*tokens, "the end"]


# ------------------------------------------------------------------------------ certificates change


@pytest.mark.parametrize("part", ["client", "ca", "system"])
async def test_a_file_that_is_renewed_counts_for_new_connections(
    backends: Make, world: World, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, part: str
) -> None:
    """The backend that could not connect does so when the file is right, and no more when it is wrong again."""
    files = {"client": ("client.crt", "client.key"), "ca": ("trusted.ca",), "system": ("trusted.ca",)}[part]
    options = world.certificates.client()
    if part == "client":
        options = {"ssl_certfile": str(tmp_path / files[0]), "ssl_keyfile": str(tmp_path / files[1])}
    if part == "system":
        monkeypatch.setenv("SSL_CERT_FILE", str(tmp_path / files[0]))
        monkeypatch.setenv("SSL_CERT_DIR", str(tmp_path / "nothing"))
    else:
        options["ssl_ca_certs"] = str(tmp_path / files[0] if part == "ca" else world.certificates.path("ours.ca"))

    def put(whose: str) -> None:
        for name in files:
            fresh = tmp_path / "fresh"
            fresh.write_bytes(world.certificates.path(whose + Path(name).suffix).read_bytes())
            fresh.replace(tmp_path / name)

    backend = backends(f"rediss://u:s3cret@127.0.0.1:{world.port}/0?{urlencode(options)}")
    for whose in ("other", "ours", "other", "ours"):
        put(whose)
        if whose == "other":
            # A call that meets its lost connection first has sent something, and is told that it may be repeated.
            with pytest.raises(BackendError, match=r"TLS .*(not accept)"):
                await backend.store("run").load()
            continue
        assert await backend.store("run").load() is None
        with world.server.client() as raw:  # the next load needs a new connection
            raw.client_kill_filter(_type="normal", skipme=True)


async def test_a_given_ca_takes_the_place_of_the_systems(
    backends: Make, world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The system trusts the server's CA. A URL that names another CA does not."""
    monkeypatch.setenv("SSL_CERT_FILE", str(world.certificates.path("ours.ca")))
    assert await backends(world.url(ca=None)).store("run").load() is None
    with pytest.raises(BackendConfigError, match="ssl_ca_certs"):
        await backends(world.url(ca="other")).store("run").load()


# ------------------------------------------------------------------------------------------- cluster


def url_of(
    nodes: tuple[Cluster, dict[int, int]], certificates: Certificates, host: str = "127.0.0.1", **given: Any
) -> str:
    seeds = ",".join(f"{host}:{port}" for port in nodes[1].values())
    return f"rediss+cluster://{seeds}?{certificates.query(**given)}"


def host_map(nodes: tuple[Cluster, dict[int, int]]) -> Callable[[tuple[str, int]], tuple[str, int]]:
    """Returns a host map for a cluster whose servers know their ports without TLS only: relays stand before them."""
    return lambda address: (address[0], nodes[1].get(address[1], address[1]))


async def test_a_cluster(
    shell: Shell, backends: Make, nodes: tuple[Cluster, dict[int, int]], certificates: Certificates, namespace: str
) -> None:
    """Runs on all servers, with a hand-off each; then a run moves, and its next call is sent on (MOVED)."""
    made, _ = nodes
    url, options = url_of(nodes, certificates), {"host_map": host_map(nodes)}
    ours, theirs = (backends(url, **options) for _ in range(2))
    runs = [f"run {number}" for number in range(6)]
    assert len({made.owner(run_keys(namespace, run).head).port for run in runs}) == 3
    for run in runs:
        store = ours.store(run)
        await store.append(message("a"))
        async with store.lock(ttl=TTL):
            waiting = shell.apart(_enter(theirs, run))
            keys = made.client(made.owner(run_keys(namespace, run).head))
            await until(lambda keys=keys, run=run: keys.llen(run_keys(namespace, run).queue))
            began = time.monotonic()
        await asyncio.wait_for(waiting, GUARD)
        assert time.monotonic() - began < TTL / 2
        assert await contents(theirs.store(run)) == ["a"]

    slot = key_slot(run_keys(namespace, runs[0]).head)
    old = made.owner_of_slot(slot)
    before = _moved(made.client(old))
    await asyncio.to_thread(made.move_slot, slot, next(each for each in made.servers if each is not old))
    await ours.store(runs[0]).append(message("b"), expected=ANY)
    assert _moved(made.client(old)) > before
    assert await contents(theirs.store(runs[0])) == ["a", "b"]
    assert sorted([info.run_id async for info in ours.runs()]) == runs


def _moved(client: redis.Redis) -> int:
    """Returns how many commands a server has sent on with MOVED."""
    return int(client.info("errorstats").get("errorstat_MOVED", {"count": 0})["count"])


CLUSTER_MISTAKES: dict[str, tuple[Callable[[Any, Certificates], str], str, str]] = {
    "another CA": (lambda n, c: url_of(n, c, ca="other"), "TLS", "ssl_ca_certs"),
    "another host": (lambda n, c: url_of(n, c, "127.0.0.2"), "TLS", "connect by a name that it holds"),
    "no client certificate": (lambda n, c: url_of(n, c, client=None), "TLS", "ssl_certfile and ssl_keyfile"),
    "no TLS": (lambda n, c: url_of(n, c).replace("rediss+", "redis+").partition("?")[0], "log-in", "rediss://"),
}


@pytest.mark.parametrize("name", CLUSTER_MISTAKES)
async def test_a_mistake_in_a_clusters_url(
    backends: Make, nodes: tuple[Cluster, dict[int, int]], certificates: Certificates, name: str
) -> None:
    """Each server is asked once. The error is that of the first one."""
    make, phase, advice = CLUSTER_MISTAKES[name]
    began = time.monotonic()
    with pytest.raises(BackendConfigError) as caught:
        await backends(make(nodes, certificates), host_map=host_map(nodes), retry=ENDLESS).store("run").load()
    told(caught.value, phase, advice)
    assert time.monotonic() - began < AT_ONCE
