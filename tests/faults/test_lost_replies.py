"""A reply is lost after the server applied the request (rows 1, 2, 11, 20 and 21)."""

from __future__ import annotations

import asyncio
import contextlib
import random
from collections.abc import Callable
from typing import Any

import pytest
import redis

from histstore import ANY, BackendError, ConflictError, ConversationSnapshot, OutcomeUnknownError, RetryPolicy
from histstore.protocol.scripts import DELETE, RESOLVE, SAVE

from ..support.history import History, message, tokens_of
from ..support.proxy import Proxy
from .shells import FAST, GUARD, PERSISTENT, carries, contents, entries

Make = Callable[..., Any]


async def test_twenty_lost_replies_are_twenty_acknowledged_saves_and_twenty_entries(
    shell: str, backends: Make, between: Proxy, namespace: str, raw: redis.Redis
) -> None:
    """Each retry returns the revision that the first send made: the version rises once a save."""
    store = backends(shell, between.url, namespace=namespace).store("run")
    history = History()
    revisions = []
    for turn in range(20):
        between.lose_replies(1, carries(SAVE))
        with history.append("only", f"turn {turn}") as call:
            revisions.append(await store.append(message(f"turn {turn}")))
            call.version = revisions[-1].version
    assert between.lost == 20
    assert [revision.version for revision in revisions] == list(range(1, 21))
    assert entries(raw, namespace, "run") == 20
    assert store.revision == revisions[-1]
    assert store.unsettled is None
    history.check(await contents(store))


async def test_several_replies_in_a_row_are_lost(
    shell: str, backends: Make, between: Proxy, namespace: str, raw: redis.Redis
) -> None:
    """However often a save is sent, it is applied once."""
    store = backends(shell, between.url, namespace=namespace).store("run")
    for turn in range(5):
        between.lose_replies(4, carries(SAVE))
        assert (await store.append(message(str(turn)))).version == turn + 1
    assert between.lost == 20
    assert entries(raw, namespace, "run") == 5
    assert await contents(store) == list("01234")


async def test_a_rival_that_saves_before_the_retry_makes_no_conflict(
    shell: str, backends: Make, between: Proxy, server_url: str, namespace: str
) -> None:
    """A save whose answer was lost is acknowledged with its own revision, though the run has moved on."""
    rival = backends("async", server_url, namespace=namespace).store("run")
    store = backends(shell, between.url, namespace=namespace).store("run")
    history = History()

    async def rival_saves() -> None:
        token = f"rival {len(history.appends)}"
        with history.append("rival", token) as call:
            call.version = (await rival.append(message(token), expected=ANY)).version

    between.before_cut = rival_saves
    for turn in range(10):
        await store.load()
        between.lose_replies(1, carries(SAVE))
        with history.append("mine", f"turn {turn}") as call:
            revision = await store.append(message(f"turn {turn}"))
            call.version = revision.version
        assert revision.version == 2 * turn + 1
        with pytest.raises(ConflictError) as caught:
            await store.append(message("onto what it has not seen"))
        assert caught.value.expected == revision
    assert between.lost == 10
    history.check(await contents(store))


async def test_a_rival_that_trims_the_entry_before_the_retry_makes_no_conflict(
    shell: str, backends: Make, between: Proxy, server_url: str, namespace: str, raw: redis.Redis
) -> None:
    """An applied save whose entry a rival's checkpoint has dropped is "already saved": no conflict, no "never"."""
    rival = backends("async", server_url, namespace=namespace).store("run")
    backend = backends(shell, between.url, namespace=namespace)
    store = backend.store("run")
    mine = []

    async def rival_overwrites() -> None:
        await rival.save(ConversationSnapshot([message("all that is left")]), expected=ANY)

    between.before_cut = rival_overwrites
    for expected in (1, 3, 5):
        await store.load()
        between.lose_replies(1, carries(SAVE))
        mine.append(await store.append(message("mine")))
        assert mine[-1].version == expected
        assert entries(raw, namespace, "run") == 1
    assert await contents(store) == ["all that is left"]

    # The same, and the caller gives up before the retry: resolve knows it too.
    await store.load()
    between.lose_replies(1, carries(SAVE))
    with pytest.raises(OutcomeUnknownError) as caught:
        await store.append(message("mine"), retry=RetryPolicy(attempts=1))
    assert entries(raw, namespace, "run") == 1
    assert await backend.store("run").resolve(caught.value.attempt) == caught.value.attempt.revision
    assert await store.resolve() == caught.value.attempt.revision


async def test_a_first_save_resent_after_delete_and_re_creation_leaves_the_successor_alone(
    shell: str, backends: Make, between: Proxy, server_url: str, namespace: str
) -> None:
    """It was applied, so it is acknowledged; the run that stands now is the successor's."""
    rival = backends("async", server_url, namespace=namespace).store("run")
    store = backends(shell, between.url, namespace=namespace).store("run")

    async def starts_anew() -> None:
        await rival.load()
        assert await rival.delete()
        await rival.append(message("successor"), expected=None)

    between.before_cut = starts_anew
    between.lose_replies(1, carries(SAVE))
    revision = await store.append(message("first"), expected=None)
    assert revision.version == 1
    assert between.lost == 1
    assert await contents(rival) == ["successor"]
    with pytest.raises(ConflictError):
        await store.append(message("more"))
    assert await contents(store) == ["successor"]


async def test_a_first_save_resent_after_a_delete_does_not_bring_the_run_back(
    shell: str, backends: Make, between: Proxy, server_url: str, namespace: str
) -> None:
    """A deleted run stays deleted, however late the retry of its first save comes."""
    rival = backends("async", server_url, namespace=namespace).store("run")
    store = backends(shell, between.url, namespace=namespace).store("run")
    between.before_cut = rival.delete
    between.lose_replies(1, carries(SAVE))
    assert (await store.append(message("first"), expected=None)).version == 1
    assert between.lost == 1
    assert await rival.load() is None
    assert await store.load() is None


async def test_a_resent_delete_does_not_reach_the_successor(
    shell: str, backends: Make, between: Proxy, server_url: str, namespace: str
) -> None:
    """A delete whose answer was lost is done, and the run that was created since stands."""
    rival = backends("async", server_url, namespace=namespace).store("run")
    store = backends(shell, between.url, namespace=namespace).store("run")
    await store.append(message("old"))

    async def creates() -> None:
        await rival.append(message("successor"), expected=None)

    between.before_cut = creates
    between.lose_replies(1, carries(DELETE))
    assert await store.delete() is True
    assert between.lost == 1
    assert await contents(store) == ["successor"]


async def test_what_resolve_answered_stays_true_when_its_own_answer_was_lost(
    shell: str, backends: Make, between: Proxy, namespace: str
) -> None:
    """Settling may itself be sent twice."""
    store = backends(shell, between.url, namespace=namespace).store("run")
    await store.append(message("0"))
    for lost, expected in ((SAVE, 2), (None, None)):
        if lost is None:
            between.keep_back(1, carries(SAVE))
        else:
            between.lose_replies(1, carries(SAVE))
        with pytest.raises(OutcomeUnknownError):
            await store.append(message("1" if lost else "never"), retry=RetryPolicy(attempts=1))
        between.lose_replies(1, carries(RESOLVE))
        resolved = await store.resolve()
        assert (resolved.version if resolved is not None else None) == expected
        assert store.unsettled is None
    assert await contents(store) == ["0", "1"]


@pytest.mark.parametrize("seed", [11, 12])
async def test_latency_resets_and_half_open_connections_lose_nothing(
    shell: str, seed: int, backends: Make, between: Proxy, server_url: str, namespace: str
) -> None:
    """Clients that append through a bad network leave a linear history: every acknowledged message, once, in order.

    Random latency, resets at random moments, replies and requests that vanish with their connection, and requests
    that are stuck until their sender has given up and then arrive late.
    """
    rng = random.Random(seed)
    history = History()
    between.delay = lambda: rng.choice((0, 0, 0, 0.001, 0.004))
    late: list[bytes] = []

    async def weather() -> None:
        while True:
            await asyncio.sleep(rng.uniform(0, 0.02))
            match rng.randrange(5):
                case 0:
                    between.cut()
                case 1 | 2:
                    between.lose_replies(1, carries(SAVE, RESOLVE))
                case 3:
                    between.keep_back(1, carries(SAVE, RESOLVE))
                case 4:
                    while between.kept:
                        late.append(between.kept.pop())
                        await between.deliver(late[-1])

    async def client(name: str) -> None:
        # How many faults a call meets depends on the machine's load: loads and resolves try until they get through.
        backend = backends(shell, between.url, namespace=namespace, retry=PERSISTENT)
        store = backend.store("run")
        for turn in range(12):
            token = f"{name}-{turn}"
            policy = rng.choice((FAST, RetryPolicy(attempts=1), RetryPolicy(attempts=2, base=0.001)))
            with contextlib.suppress(BackendError, ConflictError), history.append(name, token) as call:
                call.version = (await store.append(message(token), expected=ANY, retry=policy)).version
            if call.outcome == "unknown" and rng.random() < 0.7:
                call.settle(await store.resolve())
            load = history.load(name)
            load.returned(await store.load())

    async with asyncio.timeout(GUARD):
        storm = asyncio.create_task(weather())
        await asyncio.gather(*(client(name) for name in "abcd"))
        storm.cancel()
        await asyncio.gather(storm, return_exceptions=True)
        reader = backends("async", server_url, namespace=namespace).store("run")
        snapshot = await reader.load()
        assert snapshot is not None
        for request in [*between.kept, *late]:
            await between.deliver(request)
    final = tokens_of(snapshot.messages)
    history.check(final, f"seed {seed}")
    # Copies that arrive when all is over change nothing of what was told.
    history.check(await contents(reader), f"seed {seed}, after the late copies")
    assert between.lost > 0, f"seed {seed}: the network was too good"
    assert history.counts()["saved"] >= 24, f"seed {seed}: {history.counts()}"
