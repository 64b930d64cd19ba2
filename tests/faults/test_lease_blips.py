"""The server or the way to it fails for a while: shorter than the lease it is borne, longer it is told in time."""

from __future__ import annotations

import time
from collections.abc import Callable

import pytest
import redis

from histstore.protocol.scripts import RENEW

from ..support.lease_workers import Worker
from ..support.proxy import Proxy
from ..support.servers import Server
from .conftest import Patience
from .shells import carries, keys_of

Crew = Callable[..., Worker]
Wire = Callable[[str], Proxy]
SLACK = 0.5
"""Seconds that a machine under load may need on top of what is promised."""


@pytest.mark.parametrize("shell", ["async", "sync"])
def test_faults_that_are_shorter_than_the_lease_are_borne(
    shell: str, worker: Crew, wire: Wire, private_server: Callable[..., Server]
) -> None:
    """A frozen server, a silent one, connections that are cut, answers that are lost: the body goes on, and saves."""
    server, frozen = private_server(), private_server()
    ways = {name: wire(server.url) for name in ("cut", "silent", "lost")}
    urls = {name: way.url for name, way in ways.items()} | {"frozen": frozen.url}
    holders = {name: worker(shell, url) for name, url in urls.items()}
    jobs = {name: holder.take(name, ttl=1.5, token="held") for name, holder in holders.items()}
    fences = {name: holder.wait(jobs[name], "in").fence for name, holder in holders.items()}
    # 0.8 s without a renewal that works; then longer than the lease lives from its last one.
    ways["lost"].lose_replies(3, carries(RENEW))
    ways["silent"].from_outside(ways["silent"].hold_requests.clear)
    frozen.freeze()
    end = time.monotonic() + 0.8
    while time.monotonic() < end:
        ways["cut"].from_outside(ways["cut"].cut)
        time.sleep(0.02)
    frozen.thaw()
    ways["silent"].from_outside(ways["silent"].hold_requests.set)
    time.sleep(1.6)
    assert ways["lost"].lost == 3
    for name, holder in holders.items():
        holder.go(jobs[name])
        said = holder.wait(jobs[name], "out")
        assert (said.saved, said.error) == ("saved", None), name
        with (frozen if name == "frozen" else server).client() as raw:
            assert raw.hget(keys_of("histstore", name).head, "fence") == str(fences[name]).encode(), name


@pytest.mark.parametrize("shell", ["async", "sync"])
def test_a_fault_that_is_longer_than_the_lease_is_told_when_its_time_is_over(
    shell: str, worker: Crew, wire: Wire, private_server: Callable[..., Server]
) -> None:
    """By the holder's own clock, without an answer of anybody: a rival that is let in finds it stopped, or told."""
    ttl = 1.0
    server, frozen = private_server(), private_server()
    way = wire(server.url)
    holders = {"silent": worker(shell, way.url), "frozen": worker(shell, frozen.url)}
    rivals = worker(shell, server.url)
    jobs = {
        name: holder.take(name, ttl=ttl, token="stale", until_lost=shell == "sync") for name, holder in holders.items()
    }
    for name, holder in holders.items():
        holder.wait(jobs[name], "in")
    waiting = rivals.take("silent", token="rival")
    time.sleep(1.2)  # renewed meanwhile
    way.from_outside(way.hold_requests.clear)
    frozen.freeze()
    began = time.monotonic()
    entered = rivals.wait(waiting, "in").at
    if shell == "async":
        for name, holder in holders.items():
            stopped = holder.wait(jobs[name], "stopped")
            assert stopped.error == "CancelledError"
            assert stopped.lost
            assert stopped.at < began + ttl + SLACK, name
        # Its time counts from when the renewal was sent, and the server's from when it arrived.
        assert holders["silent"].wait(jobs["silent"], "stopped").at < entered + SLACK
    else:
        for name, holder in holders.items():
            told = holder.wait(jobs[name], "on")  # by `wait_lost`
            assert told.lost
            assert told.at < began + ttl + SLACK, name
        assert holders["silent"].wait(jobs["silent"], "on").at < entered + SLACK
    for name, holder in holders.items():
        assert holder.wait(jobs[name], "out").error == "LeaseLostError", name
    way.from_outside(way.hold_requests.set)
    frozen.thaw()
    rivals.go(waiting)
    assert rivals.wait(waiting, "out").saved == "saved"
    for name, each in (("silent", server), ("frozen", frozen)):
        with each.client() as raw:
            assert raw.xlen(keys_of("histstore", name).log) == (name == "silent")


@pytest.mark.parametrize("handed", [False, True], ids=["granted", "handed over"])
@pytest.mark.parametrize("shell", ["async", "sync"])
def test_a_lease_counts_from_when_it_was_asked_for_however_late_the_answer_is(
    handed: bool,
    shell: str,
    worker: Crew,
    wire: Wire,
    server_url: str,
    namespace: str,
    raw: redis.Redis,
    until: Patience,
) -> None:
    """The holder never believes in its lease for longer than the server does: fresh, handed over and renewed."""
    key = keys_of(namespace, "run")
    way = wire(server_url)
    holder = worker(shell, way.url, namespace=namespace)
    if handed:
        other = worker(shell, server_url, namespace=namespace)
        held = other.take("run")
        other.wait(held, "in")
        job = holder.take("run", ttl=1.5, token="late")
        until(lambda: raw.llen(key.queue), "it queues")
        way.reply_delay = 0.15
        other.go(held)
    else:
        warm = holder.take("run")
        holder.go(warm)
        holder.wait(warm, "out")
        way.reply_delay = 0.15
        job = holder.take("run", ttl=1.5, token="late")

    def held_until() -> float:
        # Renewals move the server's end further, and not nearer.
        left = raw.pttl(key.lease)
        return time.monotonic() + left / 1000  # type: ignore[operator]

    said = holder.wait(job, "in")
    assert said.at + said.left < held_until() + 0.002
    time.sleep(1.0)
    holder.go(job)
    said = holder.wait(job, "on")
    assert said.left > 0
    assert said.at + said.left < held_until() + 0.002
    assert holder.wait(job, "out").saved == "saved"
