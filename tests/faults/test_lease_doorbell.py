"""The doorbell is lost (row 13): whoever waits has the run when its holder's lease is over, or sooner."""

from __future__ import annotations

import time
from collections.abc import Callable

import pytest
import redis

from ..support.lease_workers import Worker
from ..support.proxy import Proxy
from .conftest import CLAIM, Patience
from .shells import keys_of

Crew = Callable[..., Worker]
Wire = Callable[[str], Proxy]
SLACK = 0.5
"""Seconds that a machine under load may need on top of what is promised."""


class Scene:
    """A holder, and a waiter behind a proxy that stands in the queue and listens."""

    def __init__(
        self, shell: str, worker: Crew, wire: Wire, url: str, namespace: str, raw: redis.Redis, until: Patience
    ) -> None:
        self.shell, self.wire, self.url = shell, wire, url
        self.raw, self.until = raw, until
        self.keys = keys_of(namespace, "run")
        self.between = wire(url)
        self.holder = worker(shell, url, namespace=namespace)
        self.waiter = worker(shell, self.between.url, namespace=namespace)
        self.channels = f"{namespace}:doorbell:*"

    def begin(self, ttl: float, waiters: int = 1) -> None:
        self.held = self.holder.take("run", ttl=ttl, token="holder")
        self.fence = self.holder.wait(self.held, "in").fence
        self.jobs = [self.waiter.take("run", ttl=0.6, token=f"waiter {index}", hold=0.0) for index in range(waiters)]
        self.until(lambda: self.raw.llen(self.keys.queue) == waiters, "the waiters queue")
        self.until(lambda: self.between.listeners == 1, "the waiter listens")

    def silence(self, how: str) -> None:
        """Loses the doorbell: the connection is cut, and no new one made; or it stands open, and says nothing."""
        self.between.refuse_listeners = True
        if how == "cut":
            self.between.from_outside(self.between.cut_listeners)
            self.until(lambda: not self.raw.pubsub_channels(self.channels), "the server saw the connection go")
        else:
            self.between.deaf = True

    def release(self) -> float:
        """Lets the holder go; returns when its lease would have been over."""
        end = time.monotonic() + self.raw.pttl(self.keys.lease) / 1000  # type: ignore[operator]
        self.holder.go(self.held)
        assert self.holder.wait(self.held, "out").saved == "saved"
        return end


@pytest.fixture(params=["async", "sync"])
def scene(
    request: pytest.FixtureRequest,
    worker: Crew,
    wire: Wire,
    server_url: str,
    namespace: str,
    raw: redis.Redis,
    until: Patience,
) -> Scene:
    return Scene(request.param, worker, wire, server_url, namespace, raw, until)


@pytest.mark.parametrize("how", ["cut", "half-open"])
def test_a_release_that_nobody_hears_is_noticed_when_the_lease_would_have_been_over(how: str, scene: Scene) -> None:
    """The waiters know until when the run is taken, and ask then, one after the other."""
    scene.begin(ttl=1.0, waiters=3)
    scene.silence(how)
    end = scene.release()
    came = sorted(scene.waiter.wait(job, "in").at for job in scene.jobs)
    assert came[0] < end + SLACK
    # The second and the third hear no release either: they wait for the lease of the one before them.
    assert came[-1] < end + SLACK + 2 * 0.6
    assert [scene.waiter.wait(job, "out").saved for job in scene.jobs] == ["saved"] * 3


@pytest.mark.parametrize("how", ["cut", "half-open"])
def test_a_killed_holder_is_noticed_without_the_doorbell(how: str, scene: Scene) -> None:
    """Also after renewals that nobody heard of: whoever asked too early was told the new end."""
    scene.begin(ttl=1.0)
    scene.silence(how)
    time.sleep(1.6)  # longer than what the waiter was told at first, and than a claim
    assert scene.waiter.said(scene.jobs[0], "in") is None
    scene.holder.kill()
    end = time.monotonic() + scene.raw.pttl(scene.keys.lease) / 1000  # type: ignore[operator]
    # What the waiter was told last may be the end before the last renewal: it asks then, and again at the real one.
    assert scene.waiter.wait(scene.jobs[0], "in").at < end + SLACK
    assert scene.waiter.wait(scene.jobs[0], "out").saved == "saved"


def test_after_a_reconnect_the_waiters_ask_at_once(scene: Scene) -> None:
    """The run was released while nobody listened, and its lease would have lasted a minute."""
    scene.begin(ttl=60.0, waiters=3)
    scene.silence("cut")
    scene.release()
    assert not scene.raw.exists(scene.keys.lease)
    assert not any(scene.waiter.said(job, "in") for job in scene.jobs)
    scene.between.refuse_listeners = False
    assert [scene.waiter.wait(job, "out").saved for job in scene.jobs] == ["saved"] * 3
    assert scene.between.listeners == 2


def test_a_waiter_that_cannot_listen_at_all_has_the_run_in_the_end(scene: Scene) -> None:
    """Forbidden from the start: it waits by the lease's end, and is served."""
    scene.between.refuse_listeners = True
    held = scene.holder.take("run", ttl=1.0, token="holder")
    scene.holder.wait(held, "in")
    job = scene.waiter.take("run", token="waiter", hold=0.0)
    scene.until(lambda: scene.raw.llen(scene.keys.queue) == 1, "it queues")
    scene.held = held
    end = scene.release()
    assert scene.waiter.wait(job, "in").at < end + SLACK
    assert scene.waiter.wait(job, "out").saved == "saved"


def test_every_connection_of_the_waiter_is_cut_again_and_again(scene: Scene) -> None:
    """Also those that ask: it keeps its place or takes a new one, and is served once."""
    scene.begin(ttl=60.0)
    for _ in range(20):
        scene.between.from_outside(scene.between.cut)
        time.sleep(0.02)
    scene.release()
    assert scene.waiter.wait(scene.jobs[0], "out").saved == "saved"
    assert scene.raw.xlen(scene.keys.log) == 2


def test_what_rings_before_the_answer_has_come_is_not_forgotten(scene: Scene, worker: Crew, namespace: str) -> None:
    """A waiter's place in the queue is confirmed late; meanwhile the holder leaves, and the one before it is dead.

    The doorbell has told it when that one's claim ends. The answer, which is older, speaks of the lease before.
    """
    scene.begin(ttl=60.0)  # the waiter that will be frozen, and so does not take up what it is handed
    frozen, between = scene.waiter, scene.wire(scene.url)
    late = worker(scene.shell, between.url, namespace=namespace)
    warm = late.take("run", timeout=0.1)  # it listens from now on
    assert late.wait(warm, "out").error == "LockTimeoutError"
    scene.until(lambda: scene.raw.llen(scene.keys.queue) == 1, "it left the queue")
    frozen.freeze()
    between.answer_delay = 0.3
    job = late.take("run", token="late", hold=0.0)
    scene.until(lambda: scene.raw.llen(scene.keys.queue) == 2, "it queues")
    released = time.monotonic()
    scene.release()
    assert late.wait(job, "in").at - released < CLAIM + 0.3 + SLACK
    frozen.thaw()
    assert late.wait(job, "out").saved == "saved"
    assert frozen.wait(scene.jobs[0], "out").saved == "saved"
