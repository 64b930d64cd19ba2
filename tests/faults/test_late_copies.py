"""An earlier copy of a request arrives after its outcome was told (rows 19 and 20): it is never applied."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Any

import pytest
import redis

import histstore.sync
from histstore import ANY, ConflictError, LockedError, OutcomeUnknownError, RetryPolicy
from histstore.protocol.scripts import ALL, DELETE, SAVE

from ..support.history import message
from ..support.lease_workers import Worker
from ..support.proxy import Proxy
from .conftest import Patience
from .shells import carries, contents, entries, keys_of

Make = Callable[..., Any]
ONCE = RetryPolicy(attempts=1)


async def test_after_resolve_said_never_a_late_copy_is_not_applied(
    shell: str, backends: Make, between: Proxy, namespace: str, raw: redis.Redis
) -> None:
    """The copies of a first save and of a later one, held up on their way, find the mark."""
    backend = backends(shell, between.url, namespace=namespace)
    store = backend.store("run")
    for before in ([], ["kept"]):
        between.keep_back(1, carries(SAVE))
        with pytest.raises(OutcomeUnknownError) as caught:
            await store.append(message("late"), retry=ONCE)
        assert await store.resolve() is None
        assert await between.deliver(between.kept[-1]) == [b"cancelled"]
        assert await contents(backend.store("run")) == before
        assert await backend.store("run").resolve(caught.value.attempt) is None
        if not before:
            await store.append(message("kept"))
            # A first save is a conflict now. That it was marked as well shows where the run is deleted.
            assert (await between.deliver(between.kept[-1]))[0] == b"conflict"
            assert await backend.delete("run")
            assert await between.deliver(between.kept[-1]) == [b"cancelled"]
            await store.append(message("kept"), expected=None)
    assert entries(raw, namespace, "run") == 1


async def test_without_resolve_the_same_late_copy_would_be_applied(
    backends: Make, between: Proxy, namespace: str
) -> None:
    """The danger is real: what makes it harmless is the mark, and not the delivery."""
    backend = backends("async", between.url, namespace=namespace)
    store = backend.store("run")
    await store.append(message("kept"))
    between.keep_back(1, carries(SAVE))
    with pytest.raises(OutcomeUnknownError):
        await store.append(message("late"), retry=ONCE)
    assert (await between.deliver(between.kept[-1]))[0] == b"saved"
    resolved = await store.resolve()
    assert resolved is not None
    assert resolved.version == 2
    assert await contents(store) == ["kept", "late"]


async def test_after_a_conflict_on_the_resend_the_first_copy_is_not_applied(
    shell: str, backends: Make, between: Proxy, server_url: str, namespace: str
) -> None:
    """Refused once a copy may be under way, refused for good: also when the run comes back to where it was expected.

    The resend finds the run deleted; then the server's memory of the delete is lost with all but the marks, and the
    run is put back at the very revision that the first copy expects, as after a failover.
    """
    rival = backends("async", server_url, namespace=namespace).store("run")
    backend = backends(shell, between.url, namespace=namespace)
    store = backend.store("run")
    await store.append(message("kept"))
    keys = [f"{namespace}:{{run}}:{part}" for part in ("head", "log", "etags")]
    with redis.Redis.from_url(server_url) as raw:
        dumps = [raw.dump(key) for key in keys]

        between.keep_back(1, carries(SAVE))

        async def rival_saves() -> None:
            await rival.append(message("rival"), expected=ANY)

        # The resend is held up as well, until the rival has saved.
        await rival_saves()
        with pytest.raises(ConflictError) as caught:
            await store.append(message("late"))
        assert caught.value.actual is not None
        assert caught.value.actual.version == 2
        assert store.unsettled is None

        for key, dump in zip(keys, dumps, strict=True):
            raw.restore(key, 0, dump, replace=True)  # type: ignore[arg-type]
    assert len(between.kept) == 1
    assert await between.deliver(between.kept[0]) == [b"cancelled"]
    assert await contents(backend.store("run")) == ["kept"]


async def test_a_late_first_save_does_not_bring_a_deleted_run_back(
    shell: str, backends: Make, between: Proxy, server_url: str, namespace: str
) -> None:
    """A first copy that arrives after its resend was applied and the run was deleted writes nothing."""
    rival = backends("async", server_url, namespace=namespace).store("run")
    store = backends(shell, between.url, namespace=namespace).store("run")
    between.keep_back(1, carries(SAVE))
    assert (await store.append(message("first"))).version == 1
    assert await rival.delete()
    assert (await between.deliver(between.kept[0]))[0] == b"saved"  # it was: the etags remember
    assert await rival.load() is None

    await rival.append(message("successor"), expected=None)
    assert (await between.deliver(between.kept[0]))[0] in (b"conflict", b"saved")
    assert await contents(rival) == ["successor"]


async def test_a_late_delete_does_not_reach_the_successor(
    shell: str, backends: Make, between: Proxy, server_url: str, namespace: str
) -> None:
    """A copy of a delete that arrives after the run was deleted and created again leaves it alone."""
    rival = backends("async", server_url, namespace=namespace).store("run")
    store = backends(shell, between.url, namespace=namespace).store("run")
    await store.append(message("old"))
    between.keep_back(1, carries(DELETE))
    assert await store.delete()
    await rival.append(message("successor"), expected=None)
    assert (await between.deliver(between.kept[0]))[0] in (b"conflict", b"deleted")
    assert await contents(store) == ["successor"]


async def test_after_resolve_said_never_a_late_delete_is_not_applied(
    shell: str, backends: Make, between: Proxy, namespace: str
) -> None:
    """A delete is settled for good as a save is."""
    store = backends(shell, between.url, namespace=namespace).store("run")
    await store.append(message("stays"))
    between.keep_back(1, carries(DELETE))
    with pytest.raises(OutcomeUnknownError) as caught:
        await store.delete(retry=ONCE)
    assert caught.value.attempt.kind == "delete"
    assert await store.resolve() is None
    assert await between.deliver(between.kept[0]) == [b"cancelled"]
    assert await contents(store) == ["stays"]


async def test_a_copy_of_an_applied_save_that_arrives_again_is_not_applied_again(
    shell: str, backends: Make, between: Proxy, namespace: str, raw: redis.Redis
) -> None:
    """Whenever it arrives: right after, or after others have saved, deleted and created the run again."""
    store = backends(shell, between.url, namespace=namespace).store("run")
    await store.append(message("a"))
    between.keep_back(1, carries(SAVE))
    await store.append(message("b"))  # the resend is applied
    await between.deliver(between.kept[0])
    assert await contents(store) == ["a", "b"]
    await store.append(message("c"))
    await between.deliver(between.kept[0])
    assert await contents(store) == ["a", "b", "c"]
    assert entries(raw, namespace, "run") == 3
    await store.delete()
    await between.deliver(between.kept[0])
    assert await store.load() is None
    await store.append(message("d"))
    await between.deliver(between.kept[0])
    assert await contents(store) == ["d"]


@pytest.mark.parametrize("marked", [True, False])
async def test_after_locked_on_the_resend_the_first_copy_is_not_applied_when_the_lease_is_over(
    marked: bool, shell: str, backends: Make, between: Proxy, server_url: str, namespace: str, raw: redis.Redis
) -> None:
    """The run is where the copy expects it, and free: only the mark keeps the copy out (without it, it is applied)."""
    rival = backends("async", server_url, namespace=namespace).store("run")
    store = backends(shell, between.url, namespace=namespace).store("run")
    await store.append(message("kept"))
    async with rival.lock():
        between.keep_back(1, carries(SAVE))
        with pytest.raises(LockedError):
            await store.append(message("late"))
        assert len(between.kept) == 1
        assert store.unsettled is None
        if marked:
            assert (await between.deliver(between.kept[0]))[0] == b"locked"
        else:
            assert raw.delete(keys_of(namespace, "run").marks)
    reply = await between.deliver(between.kept[0])
    assert reply[0] == (b"cancelled" if marked else b"saved")
    assert await contents(rival) == (["kept"] if marked else ["kept", "late"])


@pytest.mark.parametrize("marked", [True, False])
def test_after_lease_lost_on_the_resend_the_first_copy_is_not_applied_after_a_failover(
    marked: bool,
    shell: str,
    worker: Callable[..., Worker],
    wire: Callable[[str], Proxy],
    server_url: str,
    namespace: str,
    raw: redis.Redis,
    until: Patience,
) -> None:
    """The holder was told that nothing was written; then the server forgets who came after it, as in a failover.

    The head names the old holder again, and the mark alone keeps its copy out (without it, it is applied).
    """
    for script in ALL:
        raw.script_load(script.source)
    keys = keys_of(namespace, "run")
    way = wire(server_url)
    holder = worker(shell, way.url, namespace=namespace)
    with histstore.sync.RedisBackend.from_url(server_url, namespace=namespace) as backend:
        store = backend.store("run")
        store.append(message("kept"))
        job = holder.take("run", token="late", cancel=False)
        fence = holder.wait(job, "in").fence
        dumps = {key: raw.dump(key) for key in (keys.head, keys.log, keys.etags)}
        way.keep_back(1, carries(SAVE))
        assert backend.break_lease("run")
        with store.lock() as lease:
            assert lease.fence > fence
            holder.go(job)
            said = holder.wait(job, "out")
            assert (said.saved, said.error) == ("LeaseLostError", "LeaseLostError")
            until(lambda: len(way.kept) == 1, "the first copy was kept back")
        for key, dump in dumps.items():
            raw.restore(key, 0, dump, replace=True)  # type: ignore[arg-type]
        if not marked:
            assert raw.delete(keys.marks)
        reply = asyncio.run(way.deliver(way.kept[0]))
        assert reply[0] == (b"cancelled" if marked else b"saved")
        snapshot = backend.store("run").load()
        assert snapshot is not None
        assert [item["content"] for item in snapshot.messages] == (["kept"] if marked else ["kept", "late"])
