"""Requests about leases arrive late, twice, or without an answer (rows 14 and 24)."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Any

import pytest
import redis

from histstore import RetryPolicy
from histstore.protocol.scripts import ACQUIRE, RELEASE, RENEW, SAVE

from ..support.lease_workers import Worker
from ..support.proxy import Proxy, requests_of
from .conftest import Patience
from .shells import carries, keys_of

Crew = Callable[..., Worker]
Wire = Callable[[str], Proxy]


class Scene:
    """A worker behind a proxy, and others that are not."""

    def __init__(
        self, shell: str, worker: Crew, wire: Wire, url: str, namespace: str, raw: redis.Redis, until: Patience
    ) -> None:
        self.raw, self.until = raw, until
        self.keys = keys_of(namespace, "run")
        self.between = wire(url)
        self.mine = worker(shell, self.between.url, namespace=namespace)
        self.hasty = lambda: worker(
            shell, self.between.url, namespace=namespace, retry=RetryPolicy(attempts=1, deadline=5.0)
        )
        self.others = worker("async", url, namespace=namespace)

    def deliver(self, index: int = -1) -> Any:
        return asyncio.run(self.between.deliver(self.between.kept[index]))

    def lease(self) -> dict[bytes, bytes]:
        return self.raw.hgetall(self.keys.lease)  # type: ignore[return-value]

    def kept(self, count: int = 1) -> None:
        self.until(lambda: len(self.between.kept) == count, "a request was kept back")

    def enter(self, worker: Worker, **order: Any) -> str:
        job = worker.take("run", **order)
        worker.wait(job, "in")
        return job

    def leave(self, worker: Worker, job: str) -> Any:
        worker.go(job)
        return worker.wait(job, "out")


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
    # The server knows the scripts: what is kept back, or loses its answer, is the one that runs.
    for script in (ACQUIRE, RELEASE, RENEW, SAVE):
        raw.script_load(script.source)
    return Scene(request.param, worker, wire, server_url, namespace, raw, until)


@pytest.mark.parametrize("waits", [False, True])
def test_a_release_whose_answer_is_lost_is_no_loss(waits: bool, scene: Scene) -> None:
    """Sent again it finds the run free, or handed to the next: the exit raises nothing, the next is not disturbed."""
    job = scene.enter(scene.mine, token="mine")
    if waits:
        next_job = scene.others.take("run", token="next")
        scene.until(lambda: scene.raw.llen(scene.keys.queue), "the next one queues")
    scene.between.lose_replies(1, carries(RELEASE))
    said = scene.leave(scene.mine, job)
    assert (said.saved, said.error) == ("saved", None)
    assert scene.between.lost == 1
    if waits:
        scene.others.wait(next_job, "in")
        assert scene.leave(scene.others, next_job).saved == "saved"


def test_a_late_release_does_not_free_a_successors_lease(scene: Scene) -> None:
    """Its first copy comes when the next holder is inside: it is told that it was released, and changes nothing."""
    job = scene.enter(scene.mine, token="mine")
    scene.between.keep_back(1, carries(RELEASE))
    assert scene.leave(scene.mine, job).error is None
    successor = scene.enter(scene.others, token="successor")
    third = scene.others.take("run", token="third", hold=0.0)
    scene.until(lambda: scene.raw.llen(scene.keys.queue), "the third queues")
    before = scene.lease()
    for _ in range(2):
        assert scene.deliver() == [b"released"]
    assert scene.lease() == before
    assert scene.raw.llen(scene.keys.queue) == 1
    assert scene.others.said(third, "in") is None
    said = scene.leave(scene.others, successor)
    assert (said.saved, said.error) == ("saved", None)
    assert scene.others.wait(third, "out").saved == "saved"


@pytest.mark.parametrize("successor", ["inside", "gone", "none"])
def test_a_late_renewal_prolongs_no_lease_but_its_own(successor: str, scene: Scene) -> None:
    """It comes when the next holder is inside, has left, or was never there: no lease lives longer, or again."""
    job = scene.enter(scene.mine, ttl=0.6)
    scene.between.keep_back(1, carries(RENEW))
    scene.kept()  # the next try renews it
    assert scene.leave(scene.mine, job).error is None
    if successor != "none":
        after = scene.enter(scene.others, ttl=20.0)
        if successor == "gone":
            assert scene.leave(scene.others, after).error is None
    before = scene.lease(), scene.raw.pttl(scene.keys.lease)
    assert scene.deliver()[0] == b"lost"
    assert scene.lease() == before[0]
    assert scene.raw.pttl(scene.keys.lease) <= before[1]  # type: ignore[operator]
    if successor == "inside":
        assert scene.leave(scene.others, after).error is None


def test_a_renewal_that_arrives_twice_is_one(scene: Scene) -> None:
    """While the lease is its own it lives on from the last of them, and is given up once."""
    job = scene.enter(scene.mine, ttl=0.9)
    scene.between.keep_back(1, carries(RENEW))
    scene.kept()
    holder = scene.lease()
    assert scene.deliver() == [b"renewed"]
    assert scene.deliver() == [b"renewed"]
    assert scene.lease() == holder
    assert 0 < scene.raw.pttl(scene.keys.lease) <= 900  # type: ignore[operator]
    assert scene.leave(scene.mine, job).error is None
    assert not scene.lease()


def test_a_late_acquire_after_the_release_leaves_no_ghost_lease(scene: Scene) -> None:
    """The first copy of what took the lease comes when it was given up: it grants nothing to nobody."""
    scene.between.keep_back(1, carries(ACQUIRE))
    job = scene.enter(scene.mine, token="mine")
    scene.kept()
    assert scene.leave(scene.mine, job).saved == "saved"
    for _ in range(2):
        assert scene.deliver() == [b"cancelled"]
        assert not scene.lease()
        assert not scene.raw.exists(scene.keys.queue)
    assert scene.leave(scene.others, scene.enter(scene.others, token="next")).saved == "saved"
    assert scene.deliver() == [b"cancelled"]


def test_without_the_lost_copy_the_same_request_would_be_a_ghost(scene: Scene) -> None:
    """The danger is real: a copy of which nobody knew takes the lease; a mark, or the head's memory, prevents it."""
    scene.between.keep_back(1, carries(ACQUIRE))
    job = scene.enter(scene.mine)
    assert scene.leave(scene.mine, job).error is None
    holder = next(iter(scene.raw.hkeys(scene.keys.marks)))  # type: ignore[arg-type]
    scene.raw.hdel(scene.keys.marks, holder)
    assert scene.deliver() == [b"cancelled"]
    scene.raw.hdel(scene.keys.head, "left")
    assert scene.deliver()[0] == b"granted"
    assert scene.lease()[b"holder"] == holder
    scene.raw.delete(scene.keys.lease)


@pytest.mark.parametrize("answer", ["lost", "kept"])
def test_a_late_acquire_of_one_that_gave_up_leaves_no_ghost_lease(answer: str, scene: Scene) -> None:
    """Its request failed without an answer: whether it arrived or will arrive, nothing is held in its name."""
    hasty = scene.hasty()
    warm = scene.enter(hasty)
    assert scene.leave(hasty, warm).error is None
    if answer == "lost":
        scene.between.lose_replies(1, carries(ACQUIRE))
    else:
        scene.between.keep_back(1, carries(ACQUIRE))
    job = hasty.take("run")
    assert hasty.wait(job, "out").error == "BackendUnavailableError"
    scene.until(lambda: not scene.lease() and scene.raw.exists(scene.keys.marks), "it was given up")
    if answer == "kept":
        assert scene.deliver() == [b"cancelled"]
    assert not scene.lease()


@pytest.mark.parametrize("answer", ["lost", "kept"])
def test_a_place_in_the_queue_that_was_asked_for_twice_is_one_place(answer: str, scene: Scene) -> None:
    """And the late copy, after the turn that came of it, takes no other."""
    job = scene.enter(scene.others, token="first")
    # The first request of a waiter that listens already asks for a place.
    warm = scene.mine.take("run", timeout=0.2)
    assert scene.mine.wait(warm, "out").error == "LockTimeoutError"
    scene.until(lambda: not scene.raw.exists(scene.keys.queue), "it left the queue")
    if answer == "lost":
        scene.between.lose_replies(1, carries(ACQUIRE))
    else:
        scene.between.keep_back(1, carries(ACQUIRE))
    waiting = scene.mine.take("run", token="mine", hold=0.0)
    scene.until(lambda: scene.raw.llen(scene.keys.queue), "it queues")
    if answer == "kept":
        assert scene.deliver()[0] == b"queued"
    assert scene.raw.llen(scene.keys.queue) == 1
    assert scene.leave(scene.others, job).saved == "saved"
    assert scene.mine.wait(waiting, "out").saved == "saved"
    if answer == "kept":
        assert scene.deliver() == [b"cancelled"]
    scene.until(lambda: not scene.lease() and not scene.raw.exists(scene.keys.queue), "nothing is left")
    assert scene.raw.xlen(scene.keys.log) == 2


def test_a_waiter_that_gave_up_is_gone_from_the_queue_when_its_copies_come(scene: Scene) -> None:
    """A copy of its place in the queue, and one of its acquire, come after its time was over."""
    job = scene.enter(scene.others)
    warm = scene.mine.take("run", timeout=0.2)
    assert scene.mine.wait(warm, "out").error == "LockTimeoutError"
    scene.between.keep_back(1, carries(ACQUIRE))
    late = scene.mine.take("run", timeout=0.5)
    assert scene.mine.wait(late, "out").error == "LockTimeoutError"
    scene.kept()
    scene.until(lambda: not scene.raw.exists(scene.keys.queue), "it left the queue")
    assert scene.deliver() == [b"cancelled"]
    assert not scene.raw.exists(scene.keys.queue)
    assert scene.leave(scene.others, job).error is None
    assert scene.deliver() == [b"cancelled"]
    assert not scene.lease()


def test_a_proxy_may_deliver_any_request_again_that_was_answered(scene: Scene) -> None:
    """Nobody knows of these copies, and no mark was left: of a lease, of a wait, of a wait that was in vain."""
    sent = scene.between.writes = []
    warm = scene.enter(scene.mine, token="mine")
    assert scene.leave(scene.mine, warm).error is None
    job = scene.enter(scene.others, token="other")
    late = scene.mine.take("run", timeout=0.3)
    assert scene.mine.wait(late, "out").error == "LockTimeoutError"
    waiting = scene.mine.take("run", token="waited", hold=0.0)
    scene.until(lambda: scene.raw.llen(scene.keys.queue), "it queues")
    assert scene.leave(scene.others, job).saved == "saved"
    assert scene.mine.wait(waiting, "out").saved == "saved"
    scene.until(lambda: not scene.lease(), "all have left")
    assert not scene.raw.exists(scene.keys.marks)
    about = carries(ACQUIRE, RELEASE, RENEW)
    copies = [request for _, data in sent for request in requests_of(data) if about(request)]
    assert len(copies) >= 8
    for taken in (False, True):
        if taken:
            job = scene.enter(scene.others, token="again")
        before = scene.lease()
        for request in copies[::-1] + copies:
            told = asyncio.run(scene.between.deliver(request))
            assert told[0] in (b"cancelled", b"released", b"lost", b"held"), told
            assert scene.lease() == before
            assert not scene.raw.exists(scene.keys.queue)
    assert scene.leave(scene.others, job).saved == "saved"


def test_a_release_that_a_proxy_delivered_before_is_no_loss(scene: Scene) -> None:
    """Its answer is that of the second copy, which finds the run free, or another's: the exit raises nothing."""
    for waits in (False, True):
        job = scene.enter(scene.mine, token=f"mine, {waits}")
        if waits:
            next_job = scene.others.take("run", token="next")
            scene.until(lambda: scene.raw.llen(scene.keys.queue), "the next one queues")
        scene.between.repeat(1, carries(RELEASE))
        said = scene.leave(scene.mine, job)
        assert (said.saved, said.error) == ("saved", None)
        scene.between.repeat(0, carries(RELEASE))
    scene.others.wait(next_job, "in")
    assert scene.leave(scene.others, next_job).saved == "saved"


def test_a_lease_that_was_handed_to_nobody_is_given_up_at_once(scene: Scene) -> None:
    """A copy queued for a waiter that had left, longer ago than anybody remembers: its process says so when called.

    Nobody waits for the end of the claim: a mark tells that the lease was given up.
    """
    job = scene.enter(scene.others, token="other")
    sent = scene.between.writes = []
    late = scene.mine.take("run", timeout=0.3)
    assert scene.mine.wait(late, "out").error == "LockTimeoutError"
    late = scene.mine.take("run", timeout=0.3)  # it listens by now, and its first request queues
    assert scene.mine.wait(late, "out").error == "LockTimeoutError"
    scene.until(lambda: not scene.raw.exists(scene.keys.queue), "it left the queue")
    scene.raw.hdel(scene.keys.head, "left")
    about = carries(ACQUIRE)
    copy = [request for _, data in sent for request in requests_of(data) if about(request)][-1]
    stays = scene.mine.take("another run")  # the process goes on listening
    scene.mine.wait(stays, "in")
    blocked = scene.others.take("another run", hold=0.0)
    holds = scene.mine.take("a third run", timeout=20.0)
    scene.mine.wait(holds, "in")
    assert asyncio.run(scene.between.deliver(copy))[0] == b"queued"
    assert scene.leave(scene.others, job).saved == "saved"
    scene.until(lambda: scene.raw.exists(scene.keys.marks), "it was given up")
    scene.until(lambda: not scene.lease(), "the run is free")
    for name in (stays, holds):
        assert scene.leave(scene.mine, name).error is None
    assert scene.others.wait(blocked, "out").error is None


def test_a_place_that_an_unknown_copy_took_is_given_up_with_the_lease(scene: Scene) -> None:
    """Its holder had waited, was granted, and lapsed; the copy put it into the queue behind its successor."""
    job = scene.enter(scene.others)
    sent = scene.between.writes = []
    waiting = scene.mine.take("run")
    scene.until(lambda: scene.raw.llen(scene.keys.queue), "it queues")
    about = carries(ACQUIRE)
    copy = [request for _, data in sent for request in requests_of(data) if about(request)][-1]
    assert scene.leave(scene.others, job).error is None
    scene.mine.wait(waiting, "in")
    scene.raw.delete(scene.keys.lease)  # as if it had lapsed
    successor = scene.enter(scene.others)
    assert asyncio.run(scene.between.deliver(copy))[0] == b"queued"
    assert scene.leave(scene.mine, waiting).error == "LeaseLostError"
    assert not scene.raw.exists(scene.keys.queue, scene.keys.marks)
    assert scene.leave(scene.others, successor).error is None
