"""A request reaches one server twice or three times, unknown to its sender, who is told the truth (row 25)."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
import redis

import histstore
import histstore.sync
from histstore import (
    ANY,
    BackendUnavailableError,
    ConflictError,
    ConversationSnapshot,
    CorruptSnapshotError,
    LockedError,
    OutcomeUnknownError,
    RetryPolicy,
    Revision,
    RevisionGoneError,
    SnapshotError,
)
from histstore.protocol.scripts import ACQUIRE, COMPARE, DELETE, RELEASE, RENEW, RESOLVE, SAVE, Script

from ..support.history import message, tokens_of
from ..support.proxy import Proxy
from ..support.shells import SHELLS, Shell
from .shells import carries, contents, entries, keys_of

Make = Callable[..., Any]
ONCE = RetryPolicy(attempts=1)
EVERY_SCRIPT = carries(SAVE, COMPARE, DELETE, RESOLVE, ACQUIRE, RENEW, RELEASE)


@pytest.fixture(params=(1, 2), ids=("twice", "three times"))
def repeating(request: pytest.FixtureRequest, between: Proxy) -> Proxy:
    """A proxy that delivers each request of a script once or twice before it carries it."""
    between.repeat(request.param, EVERY_SCRIPT)
    return between


async def test_every_write_that_arrives_more_than_once_is_told_as_done_once(
    shell: str, backends: Make, repeating: Proxy, namespace: str, raw: redis.Redis
) -> None:
    """A first save, later ones of each kind, whole snapshots and deletes, each the same as without the proxy."""
    backend = backends(shell, repeating.url, namespace=namespace)
    store = backend.store("run")
    assert (await store.append(message("a"))).version == 1
    assert (await store.append(message("b"), expected=ANY)).version == 2
    snapshot = await store.load()
    assert (await store.save(snapshot.append(message("c")))).version == 3
    assert (await store.splice(0, 1, message("A"))).version == 4
    assert (await store.trim()).version == 5
    assert await contents(backend.store("run")) == ["A", "b", "c"]
    assert entries(raw, namespace, "run") == 1
    assert await store.delete() is True
    assert await store.delete() is False
    assert (await store.append(message("new"), expected=None)).version == 1
    assert await backend.delete("run") is True
    assert await contents(store) == []
    assert repeating.repeated >= 8


async def test_an_update_that_arrives_more_than_once_runs_once(
    shell: str, backends: Make, repeating: Proxy, namespace: str
) -> None:
    """A conflict with itself would have it run again, and store its message twice."""
    backend = backends(shell, repeating.url, namespace=namespace)
    store = backend.store("run")
    runs: list[int] = []

    def change(now: ConversationSnapshot[Any] | None) -> ConversationSnapshot[Any]:
        runs.append(len(runs))
        return (now or ConversationSnapshot()).append(message(str(len(runs))))

    for _ in range(3):
        await store.update(change)
    assert runs == [0, 1, 2]
    assert await contents(store) == ["1", "2", "3"]


@pytest.mark.parametrize("flavour", SHELLS, ids=lambda each: each.name)
async def test_a_turn_whose_requests_arrive_more_than_once_is_taken_and_saved_once(
    flavour: Shell, between: Proxy, namespace: str, raw: redis.Redis, wire: Callable[[str], Proxy], server_url: str
) -> None:
    """Its lease, both its saves and the release: nobody is told a conflict, and nothing stays behind."""
    proxy = between if flavour.name == "async" else wire(server_url)
    proxy.repeat(2, EVERY_SCRIPT)
    async with flavour.from_url(proxy.url, namespace=namespace) as backend:
        for number in range(3):
            async with backend.store("run").turn() as turn:
                turn.append(message(f"question {number}"))
                await turn.save()
                turn.append(message(f"answer {number}"))
        found = await backend.store("run").load()
        assert tokens_of(found.messages) == [f"{kind} {n}" for n in range(3) for kind in ("question", "answer")]
        assert found.revision.version == 6
    assert not raw.exists(keys_of(namespace, "run").lease)


async def test_a_copy_of_what_was_refused_is_not_applied_later(
    shell: str, backends: Make, between: Proxy, namespace: str
) -> None:
    """LockedError and ConflictError of a first save say that nothing was written: no copy that is late changes that."""
    backend = backends(shell, between.url, namespace=namespace)
    store, other = backend.store("run"), histstore.RedisBackend.from_url(between.url, namespace=namespace)
    between.writes = []

    def newest(*scripts: Script) -> bytes:
        assert between.writes is not None
        return next(data for _, data in reversed(between.writes) if carries(*scripts)(data))

    async with other:
        await store.append(message("base"))
        late = []
        async with other.store("run").lock():
            for refused in (lambda: store.append(message("locked out")), lambda: store.delete()):
                with pytest.raises(LockedError):
                    await refused()
                late.append(newest(SAVE, DELETE))
        for request in late:
            assert await between.deliver(request) == [b"cancelled"]
        assert await contents(backend.store("run")) == ["base"]
        with pytest.raises(ConflictError):
            await backend.store("run").append(message("too late"), expected=None)
        await store.delete()
        assert await between.deliver(newest(SAVE)) == [b"cancelled"]
        assert await contents(backend.store("run")) == []


async def test_a_first_save_that_is_settled_after_hundreds_of_others_is_known(
    shell: str, backends: Make, between: Proxy, server_url: str, namespace: str
) -> None:
    """Applied or not, and also after the run was deleted: the head names its first save, then a mark does."""
    backend = backends(shell, between.url, namespace=namespace)
    async with histstore.RedisBackend.from_url(server_url, namespace=namespace) as direct:
        between.lose_replies(1, carries(SAVE))
        applied = backend.store("run")
        with pytest.raises(OutcomeUnknownError) as first:
            await applied.append(message("first"), retry=ONCE)
        missed = backend.store("run")
        between.keep_back(1, carries(SAVE))
        with pytest.raises(OutcomeUnknownError) as second:
            await missed.append(message("missed"), expected=None, retry=ONCE)
        rival = direct.store("run")
        await rival.load()
        for number in range(300):
            await rival.append(message(str(number)))
        asking = backend.store("run")
        for _ in range(2):
            found = await asking.resolve(first.value.attempt)
            assert found is not None
            assert found.version == 1
            assert await asking.resolve(second.value.attempt) is None
            await direct.delete("run")


async def test_never_is_not_said_of_what_may_have_been_forgotten(
    shell: str, backends: Make, server_url: str, namespace: str, raw: redis.Redis
) -> None:
    """A first save was applied, the run was deleted, and 15 minutes later nobody remembers either."""
    backend = backends(shell, server_url, namespace=namespace)
    store = backend.store("run")
    revision = await store.append(message("a"))
    now = datetime.now(UTC)
    attempt = histstore.Attempt("save", namespace, store.run_id, None, revision, revision.etag, now)
    assert await store.resolve(attempt) == revision
    await store.delete()
    assert await store.resolve(attempt) == revision
    raw.delete(*(getattr(keys_of(namespace, "run"), name) for name in ("head", "etags", "marks")))
    assert await store.resolve(attempt) is None  # it is not as old as that: no delete can have been forgotten
    for made_at in (now - timedelta(minutes=15), None):
        for recreated in (False, True):
            if recreated:
                await store.append(message("new"), expected=ANY)
            with pytest.raises(RevisionGoneError):
                await store.resolve(attempt.__replace__(made_at=made_at))
            await store.delete()
    # With a parent the server's list tells, or says itself that it does not.
    base = await store.append(message("new"), expected=ANY)
    later = Revision(2, b"l" * 16)
    old = histstore.Attempt("save", namespace, store.run_id, base, later, later.etag, now - timedelta(days=1))
    assert await store.resolve(old) is None


async def test_an_attempt_says_when_it_was_made(shell: str, backends: Make, between: Proxy, namespace: str) -> None:
    """Whatever kind it is of; and the same attempt is the same whenever it is asked for."""
    store = backends(shell, between.url, namespace=namespace).store("run")
    await store.append(message("a"))
    for write in (lambda: store.append(message("b"), retry=ONCE), lambda: store.delete(retry=ONCE)):
        before = datetime.now(UTC)
        between.lose_replies(1, carries(SAVE, DELETE))
        with pytest.raises(OutcomeUnknownError) as caught:
            await write()
        attempt = caught.value.attempt
        assert attempt == store.unsettled
        assert before <= attempt.made_at == store.unsettled.made_at <= datetime.now(UTC)
        assert await store.resolve() is not None


def test_no_policy_tries_for_longer_than_servers_remember() -> None:
    """A resend that comes later than that could not be told from a first save."""
    RetryPolicy(deadline=840)
    with pytest.raises(SnapshotError, match="at most 840 seconds"):
        RetryPolicy(deadline=901)


async def test_a_delete_of_a_damaged_run_invents_no_revision(
    shell: str, backends: Make, between: Proxy, namespace: str, raw: redis.Redis
) -> None:
    """Settled late, it names the newest entry of the log; where that is damaged, too, it says that it cannot tell."""
    backend = backends(shell, between.url, namespace=namespace)
    keys = keys_of(namespace, "run")
    for log_is_damaged in (False, True):
        store = backend.store("run")
        await store.append(message("a"), expected=None)
        revision = await store.append(message("b"))
        raw.delete(keys.head)
        if log_is_damaged:
            raw.delete(keys.log)
            raw.set(keys.log, "not ours")
        between.lose_replies(1, carries(DELETE))
        with pytest.raises(OutcomeUnknownError) as caught:
            await store.delete(retry=ONCE)
        assert caught.value.attempt.revision == (None if log_is_damaged else revision)
        if log_is_damaged:
            with pytest.raises(CorruptSnapshotError, match="it was deleted by this attempt"):
                await store.resolve()
        else:
            assert await store.resolve() == revision
        assert not raw.exists(keys.head, keys.log)


async def test_never_is_not_said_of_a_run_that_may_have_expired(
    shell: str, backends: Make, between: Proxy, namespace: str
) -> None:
    """A first save was applied, its answer was lost, and the run's own time is over: nobody knows any more."""
    backend = backends(shell, between.url, namespace=namespace, run_ttl=0.2)
    store = backend.store("run")
    between.lose_replies(1, carries(SAVE))
    with pytest.raises(OutcomeUnknownError):
        await store.append(message("a"), retry=ONCE)
    await asyncio.sleep(0.3)
    with pytest.raises(RevisionGoneError):
        await store.resolve()


async def test_a_forced_delete_of_an_absent_run_has_no_outcome_to_settle(
    shell: str, backends: Make, between: Proxy, namespace: str
) -> None:
    """Its answer is lost: it may be repeated as it is, and nothing is called damaged."""
    backend = backends(shell, between.url, namespace=namespace, retry=ONCE)
    between.lose_replies(1, carries(DELETE))
    with pytest.raises(BackendUnavailableError):
        await backend.delete("nobody")
    assert await backend.delete("nobody") is False
