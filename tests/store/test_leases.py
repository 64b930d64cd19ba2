"""Leases: who may save a run, who has to wait, and who is told that it is over. In both shells."""

from __future__ import annotations

import asyncio
import contextvars
import os
import pickle
import platform
import random
import threading
import time
from collections.abc import Awaitable, Callable
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
import redis

import histstore
import histstore.sync
from histstore import (
    ANY,
    BackendError,
    BackendUnavailableError,
    ConflictError,
    ConversationSnapshot,
    LeaseLostError,
    LockedError,
    LockError,
    LockTimeoutError,
    RetryPolicy,
    Revision,
    SnapshotError,
)
from histstore.protocol.keys import run_keys
from histstore.protocol.scripts import ALL, RELEASE, RENEW

from ..support.proxy import proxy
from ..support.samples import user
from ..support.shells import SHELLS, Shell, threaded_proxy, until
from .conftest import Backends, leases_and_queues

Snapshot = ConversationSnapshot[Any]
Write = Callable[..., Awaitable[Any]]

SEED = int(os.environ.get("HISTSTORE_TEST_SEED") or random.SystemRandom().randrange(10**9))
LONG = 2.5
"""Seconds. Longer than all after which something wakes up by itself: a third of a lease, a lease, the time to claim."""

WRITES: dict[str, Write] = {
    "save": lambda store, **how: store.save(Snapshot([user(9)]), expected=ANY, **how),
    "save of the same": lambda store, **how: store.save(Snapshot([user(0)]), expected=ANY, **how),
    "append": lambda store, **how: store.append(user(9), expected=ANY, **how),
    "append of nothing": lambda store, **how: store.append(expected=ANY, **how),
    "splice": lambda store, **how: store.splice(0, 1, user(9), expected=ANY, **how),
    "update": lambda store, **how: store.update(lambda before: (before or Snapshot()).append(user(9)), **how),
    "delete": lambda store, **how: store.delete(**how),
}


@pytest.fixture
def queue(namespace: str) -> bytes:
    """The key of the queue of "run"."""
    return run_keys(namespace, "run").queue


@pytest.fixture
def lease_key(namespace: str) -> bytes:
    """The key of the lease of "run"."""
    return run_keys(namespace, "run").lease


class Holder:
    """Somebody else who holds the lease of "run", for as long as a test wants."""

    def __init__(self, shell: Shell, backend: Any, **options: Any) -> None:
        self.lease: Any = None
        self._stop = threading.Event()
        self.done = shell.apart(self._hold(backend.store("run"), options))

    async def _hold(self, store: Any, options: dict[str, Any]) -> None:
        async with store.lock(**options) as self.lease:
            await until(self._stop.is_set, seconds=60)

    async def stop(self) -> None:
        """Lets the lease go, and returns when that is done."""
        self._stop.set()
        await self.done

    async def __aenter__(self) -> Any:
        await until(lambda: self.lease is not None)
        return self.lease

    async def __aexit__(self, *_error: object) -> None:
        await self.stop()


# ------------------------------------------------------------------------------------ what a lease is


async def test_each_lease_of_a_run_has_a_higher_fence(backends: Backends) -> None:
    """Whatever happens in between: nothing, a save, a delete, another backend, a broken lease."""
    one, two = backends(), backends()
    fences = []

    async def take(backend: Any) -> None:
        async with backend.store("run").lock() as lease:
            fences.append(lease.fence)

    await take(one)
    await take(two)
    await one.store("run").append(user(0))
    await take(one)
    await one.store("run").delete()
    await take(two)
    await one.delete("run")
    await take(one)
    await one.break_lease("run")
    await take(two)
    assert fences == sorted(set(fences))
    assert all(type(fence) is int for fence in fences)


async def test_a_holder_says_who_it_is(backend: Any) -> None:
    """The host, the process, and a random part that no other acquisition has."""
    holders = []
    for _ in range(2):
        async with backend.store("run").lock() as lease:
            holders.append(lease.holder)
            assert lease.run_id == "run"
    (host, process, first), (_, _, second) = (holder.split(":") for holder in holders)
    assert platform.node().startswith(host.partition("-")[0])
    assert process == str(os.getpid())
    assert len(first) == len(second) == 22
    assert first != second


async def test_info_and_runs_tell_who_holds_a_run(backend: Any) -> None:
    """Holder, fence, since when and for how long; and nobody, once it is given up."""
    store = backend.store("run")
    await store.append(user(0))
    assert (await store.info()).lease is None
    async with store.lock(ttl=20) as lease:
        for info in (await store.info(), *[info async for info in backend.runs()]):
            assert info.lease is not None
            assert (info.lease.holder, info.lease.fence) == (lease.holder, lease.fence)
            assert abs(info.lease.since - datetime.now(UTC)) < timedelta(seconds=10)
            assert 10 < info.lease.expires_in <= 20
    assert (await store.info()).lease is None
    assert [info.lease async for info in backend.runs()] == [None]


async def test_a_run_that_is_held_in_its_first_turn_is_seen(
    backends: Backends, raw: redis.Redis, namespace: str, lease_key: bytes
) -> None:
    """Before its first save: `info` and `runs` say who holds it, to everybody, and that nothing is stored yet."""
    one, two = backends(), backends()
    async with one.store("run").turn(ttl=20) as turn:
        (listed,) = [info async for info in two.runs()]
        info = await two.store("run").info()
        for found in (info, listed, await one.store("run").info()):
            assert (found.run_id, found.revision, found.length, found.size, found.meta) == ("run", None, 0, 0, {})
            assert (found.created_at, found.saved_at) == (None, None)
            assert (found.lease.holder, found.lease.fence) == (turn.lease.holder, turn.lease.fence)
            assert 10 < found.lease.expires_in <= 20
            left = found.expires_at - datetime.now(UTC)
            assert timedelta(minutes=14) < left < timedelta(minutes=16), "as long as its fence is remembered"
            assert pickle.loads(pickle.dumps(found)) == found
        assert await two.store("run").load() is None
        turn.append(user(0))
        await turn.save()
        assert (await two.store("run").info()).revision == turn.revision
        await one.store("run").delete()
        gone = await two.store("run").info()
        assert (gone.revision, gone.lease.fence) == (None, turn.lease.fence)
        head = run_keys(namespace, "run").head
        kept = raw.dump(head)
        raw.delete(head)  # it was evicted, say: the lease is there all the same
        bare = await two.store("run").info()
        assert (bare.revision, bare.expires_at, bare.lease.fence) == (None, None, turn.lease.fence)
        raw.restore(head, 0, kept)
    assert await two.store("run").info() is None
    assert [info async for info in two.runs()] == []


async def test_what_a_lease_leaves_behind_is_no_run(
    backend: Any, raw: redis.Redis, namespace: str, queue: bytes, lease_key: bytes
) -> None:
    """A fence that is remembered, a lease that has lapsed, a queue, or marks: None, and not listed."""
    async with backend.store("run").lock():
        pass
    assert await backend.store("run").info() is None
    raw.rpush(queue, "1000 channel holder")
    raw.hset(run_keys(namespace, "run").marks, "holder", "1")
    raw.hset(lease_key, mapping={"holder": "me", "fence": "1", "since": "1"})
    raw.pexpire(lease_key, 1)
    await until(lambda: not raw.exists(lease_key))
    assert await backend.store("run").info() is None
    assert [info async for info in backend.runs()] == []
    raw.delete(queue)


async def test_what_is_left_of_a_lease_counts_down(backend: Any) -> None:
    """`remaining` is never more than `ttl`, falls without a renewal, and is 0 when it is over."""
    async with backend.store("run").lock(ttl=20, renew=False) as lease:
        first = lease.remaining()
        await asyncio.sleep(0.05)
        second = lease.remaining()
        assert 10 < second < first <= 20
        assert not lease.lost
        lease.check()
        await lease.renew()
        assert second < lease.remaining() <= 20
    assert lease.remaining() == 0


async def test_a_lease_that_was_given_up_is_over(shell: Shell, backend: Any) -> None:
    """It is not lost, but `check`, `renew` and saves that name it raise LeaseLostError."""
    store = backend.store("run")
    async with store.lock() as lease:
        pass
    assert not lease.lost
    assert await asyncio.wait_for(shell.apart(lease.wait_lost()), 20) is False
    with pytest.raises(LeaseLostError) as caught:
        lease.check()
    assert (caught.value.fence, caught.value.current) == (lease.fence, None)
    with pytest.raises(LeaseLostError):
        await lease.renew()
    for write in WRITES.values():
        with pytest.raises(LeaseLostError):
            await write(store, lease=lease)
    assert await store.load() is None


async def test_a_lease_shows_no_secret(shell: Shell, backend: Any) -> None:
    """Its text is for logs: run, fence, what is left; it does not travel in a pickle, which would hold a password."""
    async with backend.store("run").lock(ttl=20) as lease:
        text = repr(lease)
        assert "'run'" in text
        assert str(lease.fence) in text
        assert "s left" in text
        assert lease.holder.rpartition(":")[2] not in text
        with pytest.raises(LockError, match="where the work is done"):
            pickle.dumps(lease.inner if shell.name == "sync" else lease)
    assert "given up" in repr(lease)


# ----------------------------------------------------------------------------------- who may save


@pytest.mark.parametrize("name", WRITES)
async def test_a_write_without_the_lease_is_refused(
    shell: Shell, backends: Backends, raw: redis.Redis, namespace: str, name: str
) -> None:
    """While another holds the run: LockedError that says who and for how long, and nothing was written."""
    one, two = backends(), backends()
    await two.store("run").append(user(0))
    head = raw.hgetall(run_keys(namespace, "run").head)
    async with Holder(shell, one, ttl=20) as lease:
        store = two.store("run")
        await store.load()
        with pytest.raises(LockedError) as caught:
            await WRITES[name](store)
        assert caught.value.holder == lease.holder
        assert 10 < caught.value.expires_in <= 20
        assert store.unsettled is None
        after = raw.hgetall(run_keys(namespace, "run").head)
        assert {field: value for field, value in after.items() if field not in (b"fence", b"holder")} == {
            field: value for field, value in head.items() if field not in (b"fence", b"holder")
        }
        assert (await store.load()).messages == (user(0),)
    await WRITES[name](store)


@pytest.mark.parametrize("name", WRITES)
async def test_a_write_inside_carries_the_lease(backend: Any, name: str) -> None:
    """By itself, through whichever store of the run; a new revision tells the fence."""
    await backend.store("run").append(user(0))
    async with backend.store("run").lock() as lease:
        store = backend.store("run")
        found = await WRITES[name](store)
        if name == "delete":
            assert found is True
        elif name not in ("save of the same", "append of nothing"):
            assert found.fence == lease.fence
            assert (await store.load()).revision.fence == lease.fence


@pytest.mark.parametrize("name", WRITES)
async def test_a_lease_is_handed_over_by_name(shell: Shell, backend: Any, name: str) -> None:
    """`lease=` lets somebody else write who was started elsewhere."""
    await backend.store("run").append(user(0))
    async with Holder(shell, backend) as lease:
        store = backend.store("run")
        with pytest.raises(LockedError):
            await WRITES[name](store)
        await WRITES[name](store, lease=lease)


async def test_a_trim_inside_carries_the_lease(shell: Shell, backends: Backends) -> None:
    """It obeys leases like any write, and takes that of the lock that it is called in."""
    backend = backends(keep_revisions=5)
    store = backend.store("run")
    for number in range(3):
        await store.append(user(number))
    async with Holder(shell, backend):
        with pytest.raises(LockedError):
            await store.trim()
    assert len([revision async for revision in store.revisions()]) == 3
    async with store.lock() as lease:
        assert (await store.trim()).fence == lease.fence
    assert len([revision async for revision in store.revisions()]) == 1


async def test_who_shares_the_store_does_not_share_the_lease(shell: Shell, backend: Any) -> None:
    """Somebody else's task or thread that uses the very same store is refused, before and after the holder's save."""
    store = backend.store("run")

    async def intrude() -> Any:
        with pytest.raises(LockedError) as caught:
            await store.append(user(1), expected=ANY)
        return caught.value.holder

    async with store.lock() as lease:
        assert await shell.apart(intrude()) == lease.holder
        await store.append(user(0))
        assert await shell.apart(intrude()) == lease.holder
    assert (await store.load()).messages == (user(0),)


async def test_tasks_that_are_started_inside_carry_the_lease(server_url: str, namespace: str) -> None:
    """Also through `gather`, TaskGroup, and one more level of tasks."""
    async with histstore.RedisBackend.from_url(server_url, namespace=namespace) as backend:

        async def add(number: int, depth: int) -> None:
            if depth:
                await asyncio.create_task(add(number, depth - 1))
            else:
                revision = await backend.store("run").append(user(number), expected=ANY)
                assert revision.fence == lease.fence

        async with backend.store("run").lock() as lease:
            await asyncio.gather(add(0, 0), add(1, 1))
            async with asyncio.TaskGroup() as group:
                group.create_task(add(2, 0))
                group.create_task(add(3, 2))


async def test_a_task_that_outlives_the_lock_is_not_leased_any_more(server_url: str, namespace: str) -> None:
    """It writes like anybody else: freely when the run is free, and not at all when another holds it."""
    async with histstore.RedisBackend.from_url(server_url, namespace=namespace) as backend:
        go_on = asyncio.Event()

        async def outlive() -> tuple[Revision, str]:
            await go_on.wait()
            free = await backend.store("run").append(user(1), expected=ANY)
            async with Holder(SHELLS[0], backend) as other:
                with pytest.raises(LockedError) as caught:
                    await backend.store("run").append(user(2), expected=ANY)
                assert caught.value.holder == other.holder
            async with backend.store("run").lock() as own:  # not a lock in a lock
                return free, own.holder

        async with backend.store("run").lock() as lease:
            task = asyncio.create_task(outlive())
            await asyncio.sleep(0)
        go_on.set()
        free, holder = await task
        assert holder != lease.holder
        assert free.version == 1


def test_threads_do_not_inherit_a_lease(server_url: str, namespace: str) -> None:
    """In the blocking twin: a thread is refused, unless it is given the lease by name or the caller's context."""
    with histstore.sync.RedisBackend.from_url(server_url, namespace=namespace) as backend:
        store = backend.store("run")
        found: list[Any] = []

        def append(**how: Any) -> None:
            try:
                found.append(store.append(user(0), expected=ANY, **how).fence)
            except LockedError as error:
                found.append(error.holder)

        with store.lock() as lease:
            for target, how in (
                (append, {}),
                (append, {"lease": lease}),
                (lambda: contextvars.copy_context().run(append), {}),
                (contextvars.copy_context().run, {"append": append}),
            ):
                args = (how.pop("append"),) if "append" in how else ()
                thread = threading.Thread(target=target, args=args, kwargs=how)
                thread.start()
                thread.join(20)
        assert found == [lease.holder, lease.fence, lease.holder, lease.fence]


async def test_a_lease_of_something_else_is_bad_input(shell: Shell, backend: Any, server_url: str) -> None:
    """Another run's, the other shell's, or no lease at all: SnapshotError before anything is sent."""
    store = backend.store("run")
    other_shell = SHELLS[SHELLS[0] is shell]
    async with (
        other_shell.from_url(server_url, namespace=backend.namespace) as other_backend,
        backend.store("another run").lock() as other_run,
        other_backend.store("a third run").lock() as others,
    ):
        scope = backend.store("run").lock()
        for lease, text in (
            (other_run, "of run 'another run', and the store of 'run'"),
            (others, "not a (Lease|Blocking)"),
            (scope, "lease="),
            (other_run.holder, "not a str"),
            (True, "not a bool"),
        ):
            for write in WRITES.values():
                with pytest.raises(SnapshotError, match=text):
                    await write(store, lease=lease)
    assert await store.load() is None


async def test_who_is_locked_out_is_told_so_before_a_conflict(shell: Shell, backends: Backends) -> None:
    """A save that lacks the lease and is late besides: LockedError. With the lease, ConflictError."""
    backend = backends()
    stale, store = backend.store("run"), backend.store("run")
    first = await stale.append(user(0))
    loaded = await stale.load()
    await store.append(user(1), expected=first)
    async with Holder(shell, backend) as lease:
        for write in (
            lambda **how: stale.save(loaded.append(user(2)), **how),
            lambda **how: stale.save(loaded, **how),
            lambda **how: stale.append(user(2), **how),
            lambda **how: stale.append(**how),
            lambda **how: stale.splice(0, 1, **how),
            lambda **how: stale.save(loaded, expected=None, **how),
        ):
            with pytest.raises(LockedError):
                await write()
            with pytest.raises(ConflictError):
                await write(lease=lease)
    assert (await store.load()).messages == (user(0), user(1))


# ------------------------------------------------------------------------------------- taking one


@pytest.mark.parametrize(
    "options",
    [
        {"ttl": 0},
        {"ttl": 0.009},
        {"ttl": -1},
        {"ttl": float("nan")},
        {"ttl": float("inf")},
        {"ttl": 1e9},
        {"ttl": "30"},
        {"ttl": None},
        {"ttl": True},
        {"acquire_timeout": -0.1},
        {"acquire_timeout": float("nan")},
        {"acquire_timeout": float("inf")},
        {"acquire_timeout": "1"},
        {"acquire_timeout": False},
        {"renew": 1},
        {"renew": None},
        {"cancel": 0},
    ],
    ids=str,
)
async def test_bad_arguments_are_refused(store: Any, options: dict[str, Any]) -> None:
    """SnapshotError that names the argument, from the call itself; nothing is sent."""
    (name,) = options
    with pytest.raises(SnapshotError, match=name):
        store.lock(**options)
    if name != "renew":
        with pytest.raises(SnapshotError, match=name):
            store.turn(**options)


async def test_a_lock_in_a_lock_on_one_run_is_refused_at_once(backend: Any) -> None:
    """LockError, whichever store it is asked of, and the lease that there is stays; it would wait for itself."""
    store = backend.store("run")
    async with store.lock() as lease:
        again = backend.store("run")
        for scope in (store.lock(acquire_timeout=20), again.lock(acquire_timeout=0), store.turn(acquire_timeout=20)):
            with pytest.raises(LockError, match="already leased") as caught:
                await scope.__aenter__()
            assert type(caught.value) is LockError
        lease.check()
        assert (await store.append(user(0))).fence == lease.fence
    async with store.lock():
        pass


async def test_locks_on_two_runs_stand_in_any_order(backend: Any) -> None:
    """Nested, or ended in the order in which they began: each run's saves carry its own lease while it lasts."""
    one, two = backend.store("one"), backend.store("two")
    async with one.lock() as outer, two.lock() as inner:
        assert (await one.append(user(0))).fence == outer.fence
        assert (await two.append(user(0))).fence == inner.fence
    first, second = one.lock(), two.lock()
    outer = await first.__aenter__()
    inner = await second.__aenter__()
    await first.__aexit__(None, None, None)
    assert (await one.info()).lease is None
    assert (await two.append(user(1))).fence == inner.fence
    assert (await one.append(user(1))).fence is None
    await second.__aexit__(None, None, None)
    assert (await two.info()).lease is None


async def test_a_lock_is_entered_once(backend: Any) -> None:
    """Entered again, inside or afterwards: LockError, and nothing is taken."""
    scope = backend.store("run").lock()
    async with scope as lease:
        with pytest.raises(LockError, match="entered before"):
            await scope.__aenter__()
        lease.check()
    with pytest.raises(LockError, match="entered before"):
        await scope.__aenter__()


async def test_to_try_once_is_one_command(shell: Shell, server_url: str, namespace: str, raw: redis.Redis) -> None:
    """`acquire_timeout=0`: one request, and LockTimeoutError without a trace on the server; or the lease."""
    with threaded_proxy(server_url) as wire:
        async with (
            shell.from_url(wire.url, namespace=namespace) as backend,
            shell.from_url(server_url, namespace=namespace) as other,
        ):
            async with backend.store("run").lock(acquire_timeout=0):
                pass
            async with Holder(shell, other, ttl=20) as lease:
                wire.reset_counts()
                with pytest.raises(LockTimeoutError) as caught:
                    await backend.store("run").lock(acquire_timeout=0).__aenter__()
                assert wire.requests == 1
                assert caught.value.holder == lease.holder
                assert 10 < caught.value.expires_in <= 20
                assert isinstance(caught.value, TimeoutError)
                assert raw.exists(run_keys(namespace, "run").queue) == 0
                assert raw.pubsub_channels(f"{namespace}:*") == []
                lease.check()
            wire.reset_counts()
            async with backend.store("run").lock(acquire_timeout=0):
                assert wire.requests == 1
            await until(lambda: wire.requests == 2)  # and one to give it up


async def test_who_does_not_get_it_in_time_leaves_the_queue(
    shell: Shell, backends: Backends, raw: redis.Redis, queue: bytes
) -> None:
    """LockTimeoutError with the holder and how long it may last; the place in the queue is gone, the lease is not."""
    one, two = backends(), backends()
    async with Holder(shell, one, ttl=20) as lease:
        waiting = shell.apart(two.store("run").lock(acquire_timeout=0.5).__aenter__())
        await until(lambda: raw.llen(queue) == 1)
        with pytest.raises(LockTimeoutError) as caught:
            await waiting
        assert caught.value.holder == lease.holder
        assert 10 < caught.value.expires_in <= 20
        assert isinstance(caught.value, TimeoutError)
        await until(lambda: raw.llen(queue) == 0)
        lease.check()
    async with two.store("run").lock(acquire_timeout=0):
        pass


@pytest.mark.parametrize("fresh", [False, True], ids=["used", "fresh"])
async def test_however_soon_it_gives_up_nothing_is_left(
    shell: Shell, backends: Backends, raw: redis.Redis, queue: bytes, fresh: bool
) -> None:
    """Timeouts that end in the middle of whatever it does: LockTimeoutError, or an outage where there was no answer."""
    one, two = backends(), backends()
    async with Holder(shell, one, ttl=60) as lease:
        for number in range(40):
            backend = backends() if fresh else two
            with pytest.raises((LockTimeoutError, BackendUnavailableError)) as caught:
                await shell.apart(backend.store("run").lock(acquire_timeout=number * 0.0002).__aenter__())
            if isinstance(caught.value, LockTimeoutError):
                assert caught.value.holder in (None, lease.holder)
            await until(lambda: raw.exists(queue) == 0)
        lease.check()


async def test_waiters_come_in_the_order_in_which_they_asked(
    shell: Shell, backends: Backends, raw: redis.Redis, queue: bytes
) -> None:
    """Of three processes' worth of backends, one at a time, whether they hold it briefly or for long."""
    made = [backends() for _ in range(3)]
    order: list[int] = []
    inside: list[int] = []

    async def work(number: int) -> None:
        async with made[number % 3].store("run").lock(ttl=0.6) as lease:
            inside.append(number)
            assert inside == [number]
            await asyncio.sleep(1.3 if number in (3, 7) else 0.001)
            lease.check()
            inside.remove(number)
            order.append(number)

    async with Holder(shell, made[0]):
        waiting = []
        for number in range(12):
            waiting.append(shell.apart(work(number)))
            await until(lambda: raw.llen(queue) == len(waiting))
    await asyncio.gather(*waiting)
    assert order == list(range(12))


async def test_waiters_of_one_process_stand_in_the_order_of_their_calls(
    server_url: str, namespace: str, raw: redis.Redis, queue: bytes
) -> None:
    """Also when all call at once, before the doorbell is heard, and when one's request takes longer than the next's."""
    rng = random.Random(SEED)
    print(f"HISTSTORE_TEST_SEED={SEED}")
    async with proxy(server_url) as wire, histstore.RedisBackend.from_url(wire.url, namespace=namespace) as backend:
        wire.delay = lambda: rng.random() * 0.005
        order: list[int] = []

        async def work(number: int) -> None:
            async with backend.store("run").lock():
                order.append(number)

        async with Holder(SHELLS[0], backend):
            waiting = [SHELLS[0].apart(work(number)) for number in range(30)]
            await until(lambda: raw.llen(queue) == 30)
        await asyncio.gather(*waiting)
        assert order == list(range(30))


async def test_a_waiter_gets_what_a_dead_holder_left(
    shell: Shell, backends: Backends, raw: redis.Redis, lease_key: bytes
) -> None:
    """A lease that nobody renews and nobody gives up is another's when its time is over."""
    raw.hset(lease_key, mapping={"holder": "gone:1:x", "fence": "7", "since": "1"})
    raw.pexpire(lease_key, 700)
    with pytest.raises(LockTimeoutError) as caught:
        await backends().store("run").lock(acquire_timeout=0).__aenter__()
    assert caught.value.holder == "gone:1:x"
    async with backends().store("run").lock() as lease:
        assert lease.fence > 7


# ------------------------------------------------------------------------------------- keeping it


@pytest.mark.alone
async def test_a_lease_renews_itself(shell: Shell, backends: Backends) -> None:
    """A short one outlives many times its `ttl`, with a waiter behind it and without; nobody else gets in."""
    one, two = backends(), backends()
    async with one.store("run").lock(ttl=0.3) as lease:
        await asyncio.sleep(LONG)
        lease.check()
        assert 0 < lease.remaining() <= 0.3
        entered: list[Any] = []

        async def wait() -> None:
            async with two.store("run").lock(ttl=0.3) as mine:
                entered.append(mine.fence)
                await asyncio.sleep(LONG)
                mine.check()

        waiting = shell.apart(wait())
        await asyncio.sleep(LONG)
        lease.check()
        assert entered == []
        assert (await one.store("run").append(user(0))).fence == lease.fence
    await waiting
    assert entered[0] > lease.fence


@pytest.mark.alone
async def test_many_leases_renew_themselves(shell: Shell, backend: Any) -> None:
    """Fifty short ones of one backend outlive their `ttl` side by side."""
    scopes = [backend.store(f"run {number}").lock(ttl=0.5) for number in range(50)]
    leases = [await scope.__aenter__() for scope in scopes]
    await asyncio.sleep(LONG)
    for lease in leases:
        lease.check()
    for scope in scopes:
        await scope.__aexit__(None, None, None)
    assert not any(lease.lost for lease in leases)


@pytest.mark.parametrize("taken", [False, True])
async def test_a_process_that_stood_still(server_url: str, namespace: str, taken: bool) -> None:
    """Longer than its lease lasts: it goes on if nobody has taken the run meanwhile, else it is lost.

    Until that is decided it is not called lost, though nothing is sure any more.
    """
    async with histstore.RedisBackend.from_url(server_url, namespace=namespace) as backend:
        scope = backend.store("run").lock(ttl=0.5, cancel=False)
        lease = await scope.__aenter__()
        taker = threading.Thread(target=asyncio.run, args=(_take(server_url, namespace, taken),))
        taker.start()
        time.sleep(LONG)  # noqa: ASYNC251 (the loop stands still)
        taker.join(20)
        assert (lease.lost, lease.remaining()) == (False, 0)
        if taken:
            assert await asyncio.wait_for(lease.wait_lost(), 20) is True
            with pytest.raises(LeaseLostError):
                await scope.__aexit__(None, None, None)
        else:
            await until(lambda: lease.remaining() > 0)
            assert not lease.lost
            assert (await backend.store("run").append(user(0))).fence == lease.fence
            await scope.__aexit__(None, None, None)
        assert (await backend.store("run").load() is None) == taken


async def _take(url: str, namespace: str, taken: bool) -> None:
    if taken:
        async with (
            histstore.RedisBackend.from_url(url, namespace=namespace) as rival,
            rival.store("run").lock(acquire_timeout=20),
        ):
            pass


async def test_a_lease_that_is_not_renewed_is_lost(shell: Shell, backends: Backends) -> None:
    """`renew=False`: after `ttl` it is lost, whoever waits for that is told, and the exit raises LeaseLostError."""
    one, two = backends(), backends()
    store = one.store("run")
    with pytest.raises(LeaseLostError) as caught:
        async with store.lock(ttl=0.4, renew=False, cancel=False) as lease:
            told = shell.apart(lease.wait_lost())
            async with two.store("run").lock() as next_lease:  # granted as soon as the first has lapsed
                await until(lambda: lease.lost)
                assert lease.remaining() == 0
                assert await asyncio.wait_for(told, 20) is True
                with pytest.raises(LeaseLostError):
                    lease.check()
                with pytest.raises(LeaseLostError):
                    await lease.renew()
                # Not the second lock's, which this task is in too: a lease that is named is the one that counts.
                with pytest.raises(LeaseLostError):
                    await store.append(user(0), lease=lease)
                await two.store("run").append(user(1), lease=next_lease)
    assert caught.value.fence == lease.fence
    assert lease.lost
    assert (await store.load()).messages == (user(1),)


async def test_what_was_told_lost_stays_lost(
    server_url: str, namespace: str, raw: redis.Redis, lease_key: bytes
) -> None:
    """A process stood still for longer than its lease lives. Until somebody asks, nothing is decided; `check` decides.

    A renewal would have succeeded, and what comes later changes nothing: saves are refused, the exit says so, and the
    lease is given up on the server all the same.
    """
    async with histstore.RedisBackend.from_url(server_url, namespace=namespace) as backend:
        store = backend.store("run")
        scope = store.lock(ttl=0.5, cancel=False)
        lease = await scope.__aenter__()
        waiting = asyncio.create_task(lease.wait_lost(), context=contextvars.Context())
        await asyncio.sleep(0)
        time.sleep(0.8)  # noqa: ASYNC251 (the loop stands still)
        assert (lease.lost, lease.remaining()) == (False, 0)
        assert "0.0 s left" in repr(lease)
        with pytest.raises(LeaseLostError, match="it lapsed"):
            lease.check()
        for _ in range(60):
            assert (lease.lost, lease.remaining()) == (True, 0)
            assert "lost" in repr(lease)
            with pytest.raises(LeaseLostError):
                lease.check()
            await asyncio.sleep(0.01)
        assert await waiting is True
        with pytest.raises(LeaseLostError):
            await lease.renew()
        with pytest.raises(LeaseLostError):
            await store.append(user(0), lease=lease)
        with pytest.raises(LeaseLostError):
            await scope.__aexit__(None, None, None)
        assert not raw.exists(lease_key)
        assert await store.load() is None


async def test_a_renewal_that_is_answered_after_the_loss_changes_nothing(
    shell: Shell, backends: Backends, server_url: str, raw: redis.Redis, lease_key: bytes
) -> None:
    """The server prolonged the lease, and its answer came when it had been told that the lease is lost."""
    with threaded_proxy(server_url) as between:
        backend = backends(between.url)
        store = backend.store("run")
        scope = store.lock(ttl=0.6, renew=False, cancel=False)
        lease = await scope.__aenter__()
        raw.script_load(RENEW.source)  # else the first answer would be NOSCRIPT
        between.answer_delay = 0.8  # a request is tried for a second at least
        renewal = shell.apart(lease.renew())
        await until(lambda: lease.remaining() == 0)
        with pytest.raises(LeaseLostError):
            lease.check()
        assert lease.lost
        with pytest.raises(LeaseLostError):
            await renewal
        assert (lease.lost, lease.remaining()) == (True, 0)
        between.answer_delay = 0.0
        with pytest.raises(LeaseLostError):
            await store.append(user(0))
        with pytest.raises(LeaseLostError):
            await scope.__aexit__(None, None, None)
        assert not raw.exists(lease_key)


async def test_a_lease_is_renewed_by_hand(backend: Any) -> None:
    """`renew=False` and `await lease.renew()` now and then: it lives from one to the next."""
    async with backend.store("run").lock(ttl=1.0, renew=False) as lease:
        for _ in range(5):
            await asyncio.sleep(0.5)
            await lease.renew()
            assert 0.5 < lease.remaining() <= 1.0
        with pytest.raises(LockTimeoutError):
            await asyncio.get_running_loop().create_task(
                backend.store("run").lock(acquire_timeout=0).__aenter__(), context=contextvars.Context()
            )
        await backend.store("run").append(user(0))


async def test_a_wait_for_the_loss_ends_with_the_lease(shell: Shell, backend: Any) -> None:
    """`wait_lost` returns False when the lease is given up; who waits need not be the holder."""
    async with Holder(shell, backend) as lease:
        waiting = [shell.apart(lease.wait_lost()) for _ in range(3)]
        await asyncio.sleep(0.05)
        assert not any(task.done() for task in waiting)
    assert await asyncio.wait_for(asyncio.gather(*waiting), 20) == [False] * 3


# ---------------------------------------------------------------------------------- taking it away


async def test_to_delete_a_run_of_another_holder_takes_the_backend(shell: Shell, backends: Backends) -> None:
    """`store.delete` obeys the lease; `backend.delete` fences the holder: no save of theirs comes after."""
    one, two = backends(), backends()
    store = one.store("run")
    with pytest.raises(LeaseLostError) as caught:
        async with store.lock(cancel=False) as lease:
            await store.append(user(0))
            with pytest.raises(LockedError):
                await shell.apart(two.store("run").delete())
            assert await two.delete("run") is True
            with pytest.raises(LeaseLostError):
                await store.append(user(1), expected=ANY)
            assert lease.lost
    assert caught.value.fence == lease.fence
    assert caught.value.current is not None
    assert caught.value.current > lease.fence
    assert await two.store("run").load() is None
    assert await two.delete("run") is False


@pytest.mark.parametrize("way", ["break_lease", "delete"])
async def test_a_body_of_the_same_backend_is_told_at_once(shell: Shell, backends: Backends, way: str) -> None:
    """Not at the next renewal, a minute later: it is cancelled (asyncio), `wait_lost` returns, a save is refused."""
    backend = backends()
    told: list[Any] = []

    async def body() -> None:
        async with backend.store("run").lock(ttl=180) as lease:
            told.append(lease)
            assert await lease.wait_lost()
            if shell.name == "sync":
                lease.check()
            await asyncio.sleep(60)

    await backend.store("run").append(user(0))
    working = shell.apart(body())
    await until(lambda: told)
    other = backend.store("other").lock()
    async with other as untouched:
        assert await getattr(backend, way)("run") is True
        assert told[0].lost
        with pytest.raises(LeaseLostError, match={"break_lease": "break_lease", "delete": "deleted"}[way]) as caught:
            await asyncio.wait_for(working, 20)
        assert caught.value.fence == told[0].fence
        assert pickle.loads(pickle.dumps(caught.value)).args == caught.value.args
        untouched.check()
    assert await getattr(backend, way)("run") is False


@pytest.mark.parametrize("way", ["break_lease", "delete"])
async def test_a_run_that_is_taken_away_goes_to_the_next_who_waits(
    shell: Shell, backends: Backends, raw: redis.Redis, queue: bytes, way: str
) -> None:
    """At once, long before the lease would have ended; the former holder is told so, and whose fence stands now."""
    one, two = backends(), backends()
    scope = one.store("run").lock(ttl=300, cancel=False)
    lease = await scope.__aenter__()
    await one.store("run").append(user(0))
    next_one = Holder(shell, two, ttl=300)
    await until(lambda: raw.llen(queue) == 1)
    assert await getattr(one, way)("run") is True
    async with next_one as theirs:
        assert theirs.fence > lease.fence
        with pytest.raises(LeaseLostError) as caught:
            await one.store("run").append(user(1), expected=ANY)
        assert {"break_lease": "break_lease took it", "delete": "the run was deleted"}[way] in str(caught.value)
        with pytest.raises(LeaseLostError) as caught:
            await scope.__aexit__(None, None, None)
        assert (caught.value.fence, caught.value.current) == (lease.fence, theirs.fence)
        theirs.check()
        assert (await two.store("run").append(user(2), expected=ANY, lease=theirs)).fence == theirs.fence


async def test_a_broken_lease_is_lost(shell: Shell, backends: Backends) -> None:
    """`break_lease` fences whoever holds the run and frees it; it says whether there was anybody."""
    one, two = backends(), backends()
    assert await two.break_lease("run") is False
    with pytest.raises(LeaseLostError):
        async with one.store("run").lock(ttl=0.5, cancel=False) as lease:
            await one.store("run").append(user(0))
            assert await two.break_lease("run") is True
            assert (await two.store("run").info()).lease is None
            assert await asyncio.wait_for(shell.apart(lease.wait_lost()), 20) is True
            await two.store("run").append(user(1), expected=ANY, lease=None)
    assert await two.break_lease("run") is False
    async with two.store("run").lock() as next_lease:
        assert next_lease.fence > lease.fence
    assert (await two.store("run").load()).messages == (user(0), user(1))


async def test_a_lapsed_lease_can_be_broken(backends: Backends, raw: redis.Redis, lease_key: bytes) -> None:
    """While nobody was granted the run since, its holder may still save. Who breaks the lease ends that."""
    one, two = backends(), backends()
    store = one.store("run")
    scope = store.lock(ttl=30, cancel=False)
    lease = await scope.__aenter__()
    raw.pexpire(lease_key, 1)
    await until(lambda: not raw.exists(lease_key))
    assert (await store.append(user(0))).fence == lease.fence
    assert await two.break_lease("run") is True
    with pytest.raises(LeaseLostError):
        await store.append(user(1))
    with pytest.raises(LeaseLostError):
        await scope.__aexit__(None, None, None)
    assert (await store.load()).messages == (user(0),)


async def test_an_error_of_the_body_gets_a_note_of_the_loss(backends: Backends) -> None:
    """What the body raises comes out as it is, and says besides that the lease was lost. Without a loss: no note."""
    one, two = backends(), backends()
    for lost in (True, False):
        with pytest.raises(ZeroDivisionError) as caught:
            async with one.store("run").lock(cancel=False) as lease:
                if lost:
                    await two.break_lease("run")
                    with pytest.raises(LeaseLostError):
                        await lease.renew()
                raise ZeroDivisionError
        notes = getattr(caught.value, "__notes__", [])
        assert len(notes) == lost
        assert all(str(lease.fence) in note for note in notes)
        assert not leases_and_queues_of(one)


def leases_and_queues_of(backend: Any) -> list[str]:
    """Returns what a backend believes to hold."""
    inner = getattr(backend, "inner", backend)
    return [*inner._leases.registry.held, *inner._leases.registry.pending]


# ---------------------------------------------------------------------------------------- closing


async def test_a_closed_backend_gives_up_its_leases(
    shell: Shell, backends: Backends, raw: redis.Redis, namespace: str
) -> None:
    """They are free when `aclose` returns; their holders' lock says that they were lost."""
    backend = backends()
    scopes = [backend.store(f"run {number}").lock(cancel=False) for number in range(3)]
    leases = [await scope.__aenter__() for scope in scopes]
    assert len(leases_and_queues(raw, namespace)) == 3
    await backend.aclose()
    assert leases_and_queues(raw, namespace) == []
    for lease, scope in zip(leases, scopes, strict=True):
        assert lease.lost
        with pytest.raises(LeaseLostError):
            await scope.__aexit__(None, None, None)
    with pytest.raises(BackendError, match="closed"):
        async with backend.store("run").lock():
            pass
    with pytest.raises(BackendError, match="closed"):
        await backend.break_lease("run")


async def test_who_waits_is_told_that_the_backend_was_closed(
    shell: Shell, backends: Backends, raw: redis.Redis, queue: bytes
) -> None:
    """BackendError to every waiter, none of whom keeps a place in the queue; the holder of another backend stays."""
    one, two = backends(), backends()
    async with Holder(shell, one) as lease:
        waiting = [shell.apart(two.store("run").lock().__aenter__()) for _ in range(4)]
        await until(lambda: raw.llen(queue) == 4)
        await two.aclose()
        assert raw.llen(queue) == 0
        for waiter in waiting:
            with pytest.raises(BackendError, match="closing"):
                await waiter
        lease.check()


def test_a_blocking_backend_is_closed_at_any_moment(server_url: str, namespace: str, raw: redis.Redis) -> None:
    """While threads take, hold or wait for a lease: `close` returns, they are told, and nothing is left."""
    rng = random.Random(SEED)
    print(f"HISTSTORE_TEST_SEED={SEED}")
    keys = run_keys(namespace, "run")

    def work(backend: histstore.sync.RedisBackend, told: list[BaseException | None]) -> None:
        try:
            with backend.store("run").lock(ttl=60):
                told.append(None)
        except BaseException as error:
            told.append(error)

    for turn in range(200):
        raw.delete(keys.lease)
        if turn % 2:
            raw.hset(keys.lease, mapping={"holder": "other", "fence": "1", "since": "1"})
            raw.pexpire(keys.lease, 60_000)  # one that never ends is damage
        backend = histstore.sync.RedisBackend.from_url(server_url, namespace=namespace)
        if rng.random() < 0.5:
            backend.store("run").info()
        told: list[BaseException | None] = []
        threads = [threading.Thread(target=work, args=(backend, told), daemon=True) for _ in range(rng.choice((1, 3)))]
        for thread in threads:
            thread.start()
        time.sleep(rng.random() * 0.012)
        threads.append(threading.Thread(target=backend.close, daemon=True))
        threads[-1].start()
        for thread in reversed(threads):
            thread.join(20)
            assert not thread.is_alive(), (SEED, turn)
        assert all(error is None or isinstance(error, (BackendError, LeaseLostError)) for error in told), told
        assert raw.hget(keys.lease, "holder") == (b"other" if turn % 2 else None), (SEED, turn)
        assert not raw.exists(keys.queue), (SEED, turn)
    raw.delete(keys.lease)


async def test_a_break_whose_answer_is_lost_says_what_is_not_known(
    shell: Shell, server_url: str, namespace: str, raw: redis.Redis
) -> None:
    """It may have been done: the error does not claim that nothing was written, and a repetition is safe."""
    for script in ALL:
        raw.script_load(script.source)
    with threaded_proxy(server_url) as wire:
        async with shell.from_url(wire.url, namespace=namespace, retry=RetryPolicy(attempts=1)) as backend:
            store = backend.store("run")
            with pytest.raises(LeaseLostError):
                async with store.lock(renew=False):
                    wire.lose_replies(1, lambda request: RELEASE.sha.encode() in request)
                    with pytest.raises(BackendUnavailableError, match="may have been done") as caught:
                        await backend.break_lease("run")
                    assert "nothing was written" not in str(caught.value)
                    assert not await backend.break_lease("run")
                    await store.append({"a": 1})
