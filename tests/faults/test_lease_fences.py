"""What the server knew of a run is lost or thrown away, and fences rise all the same (rows 7, 8, 9 and 12)."""

from __future__ import annotations

import time
from collections.abc import Callable

import pytest

import histstore.sync

from ..support.lease_workers import Worker
from ..support.proxy import Proxy
from ..support.servers import Server
from .conftest import Patience
from .shells import keys_of

Crew = Callable[..., Worker]
Wire = Callable[[str], Proxy]
KEYS = keys_of("histstore", "run")


@pytest.mark.parametrize("shell", ["async", "sync"])
@pytest.mark.parametrize("event", ["delete", "FLUSHALL", "DEL", "restart", "break_lease"])
def test_a_holder_that_the_server_has_forgotten_is_fenced(
    event: str, shell: str, worker: Crew, private_server: Callable[..., Server]
) -> None:
    """Whatever took its lease away, the next one's fence is higher, and its own save is refused."""
    server = private_server()
    with histstore.sync.RedisBackend.from_url(server.url) as backend:
        backend.store("run").append({"n": 0})
        holder, rival = worker(shell, server.url), worker(shell, server.url)
        held = holder.take("run", token="stale", cancel=False)
        before = holder.wait(held, "in").fence
        time.sleep(0.005)  # fences that nobody remembers are the server's milliseconds
        with server.client() as raw:
            match event:
                case "delete":
                    assert backend.delete("run")
                case "break_lease":
                    assert backend.break_lease("run")
                case "FLUSHALL":
                    raw.flushall()
                case "DEL":
                    raw.delete(*raw.keys("*"))  # type: ignore[misc]
                case _:
                    server.kill()
                    server.start()
        taken = rival.take("run", token="rival")
        assert rival.wait(taken, "in").fence > before
        holder.go(held)
        said = holder.wait(held, "out")
        assert (said.saved, said.error) == ("LeaseLostError", "LeaseLostError")
        rival.go(taken)
        assert rival.wait(taken, "out").saved == "saved"
        assert backend.store("run").revision is None
        snapshot = backend.store("run").load()
        assert snapshot is not None
        assert [
            message for message in snapshot.messages if "content" in message and message["content"] != "rival"
        ] == []


def test_fences_rise_over_deletes_and_expiries(private_server: Callable[..., Server], until: Patience) -> None:
    """One run, leased, deleted by its holder, expired, deleted by force, again and again: strictly rising."""
    server = private_server()
    fences = []
    with histstore.sync.RedisBackend.from_url(server.url, run_ttl=0.05) as backend, server.client() as raw:
        store = backend.store("run")
        for turn in range(12):
            with store.lock(ttl=0.05) as lease:
                fences.append(lease.fence)
                store.append({"n": turn}, expected=histstore.ANY)
                if turn % 3 == 0:
                    assert store.delete()
            match turn % 3:
                case 0:
                    pass  # in the same millisecond, as a rule: the run's head remembers
                case 1:
                    until(lambda: not raw.exists(KEYS.head), "the run expires")
                case _:
                    assert backend.delete("run")
    assert fences == sorted(set(fences))


@pytest.mark.parametrize("shell", ["async", "sync"])
@pytest.mark.parametrize("lags", [True, False])
def test_after_a_failover_a_forgotten_holder_is_fenced_and_a_known_one_goes_on(
    lags: bool, shell: str, worker: Crew, wire: Wire, private_server: Callable[..., Server], until: Patience
) -> None:
    """To a replica that lags, its lease is lost with the run's newest state; to one that has both, it works on."""
    primary, replica = private_server(repl_diskless_sync_delay="0"), private_server()
    with primary.client() as old, replica.client() as new:
        new.replicaof("127.0.0.1", primary.port)
        until(lambda: new.info("replication")["master_link_status"] == "up", "the replica is in step")  # type: ignore[index]
        way = wire(primary.url)
        holder = worker(shell, way.url)
        with histstore.sync.RedisBackend.from_url(primary.url) as backend:
            backend.store("run").append({"n": 0})
        until(lambda: new.exists(KEYS.head), "the replica has the run")
        if lags:
            new.replicaof("NO", "ONE")  # from here on it misses everything
        held = holder.take("run", ttl=2.0, token="held", cancel=False)
        before = holder.wait(held, "in").fence
        if not lags:
            until(lambda: new.exists(KEYS.lease), "the replica has the lease")
            new.replicaof("NO", "ONE")
        time.sleep(0.005)
        way.retarget(replica.url)
        way.from_outside(way.cut)
        rival = worker(shell, replica.url)
        taken = rival.take("run", token="rival")
        if lags:
            assert rival.wait(taken, "in").fence > before
            holder.go(held)
            said = holder.wait(held, "out")
            assert (said.saved, said.error) == ("LeaseLostError", "LeaseLostError")
        else:
            until(lambda: new.llen(KEYS.queue), "the rival has to wait")
            time.sleep(2.2)  # the holder renews its lease on the new primary
            assert rival.said(taken, "in") is None
            holder.go(held)
            said = holder.wait(held, "out")
            assert (said.saved, said.error) == ("saved", None)
            assert rival.wait(taken, "in").fence > before
        rival.go(taken)
        assert rival.wait(taken, "out").saved == "saved"
        assert new.xlen(KEYS.log) == (2 if lags else 3)
        old.flushall()
