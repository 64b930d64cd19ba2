"""What a RedisHistoryStore does beyond the trait, in both shells."""

from __future__ import annotations

import asyncio
import random
import uuid
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
import redis

from histstore import (
    ANY,
    SEEN,
    BackendUnavailableError,
    ConflictError,
    ConversationSnapshot,
    CorruptSnapshotError,
    OutcomeUnknownError,
    Page,
    RedisBackend,
    RetryPolicy,
    Revision,
    RevisionGoneError,
    RunId,
    SnapshotError,
    SnapshotTooLargeError,
    UserMessage,
)
from histstore.protocol.keys import run_keys
from histstore.protocol.reads import delta

from ..support.samples import PLAIN, TYPED, faithful, plain, user
from ..support.shells import Shell, threaded_proxy
from ..support.workers import add_messages, in_processes, save_snapshot, settle
from .conftest import Backends

Snapshot = ConversationSnapshot[Any]

ODD_RUNS = [
    "a{b}c",
    "}",
    "{",
    "%7B",
    "a:b:head",
    "*",
    "[a-z]?",
    "\\",
    "tab\tnew\nline\x00",
    "ünï ✓ 👋",
    " ",
    "^",
    "x" * 300,
]


async def fill(store: Any, count: int) -> list[Revision]:
    """Saves `count` revisions of one more message each."""
    return [await store.append(user(number)) for number in range(count)]


# -------------------------------------------------------------------------------------------- append


async def test_append_starts_and_grows_a_run(store: Any, backend: Any) -> None:
    """Appends make the same conversation as saves of snapshots."""
    first = await store.append(*TYPED, pinned=True, meta={"n": 1})
    second = await store.append(*PLAIN)
    third = await store.append(user(1), meta={})
    assert [first.version, second.version, third.version] == [1, 2, 3]
    assert store.revision == third
    found = await backend.store("run").load()
    assert [faithful(m) for m in found.messages] == [faithful(m) for m in [*TYPED, *PLAIN, user(1)]]
    assert found.pinned == (True,) * len(TYPED) + (False,) * (len(PLAIN) + 1)
    assert found.meta == {}
    assert third.length == len(found) == len(TYPED) + len(PLAIN) + 1


async def test_append_needs_no_conversation_at_hand(backend: Any) -> None:
    """A store that knows only the revision can append to it, and loads the whole afterwards."""
    revision = (await fill(backend.store("run"), 5))[-1]
    store = backend.store("run")
    after = await store.append(plain(1), expected=revision)
    assert after.version == 6
    assert (await store.load()).messages == (*map(user, range(5)), plain(1))


async def test_append_expects_what_the_store_has_seen(backend: Any) -> None:
    """An append by a store that missed a save conflicts, and goes through once it has loaded."""
    one, two = backend.store("run"), backend.store("run")
    first = await one.append(user(0))
    with pytest.raises(ConflictError) as caught:
        await two.append(user(1))
    assert (caught.value.expected, caught.value.actual) == (None, first)
    await two.load()
    await two.append(user(1))
    with pytest.raises(ConflictError):
        await one.append(user(2))
    assert (await backend.store("run").load()).messages == (user(0), user(1))


async def test_append_any_does_not_move_past_unseen_messages(backend: Any) -> None:
    """After append(ANY) onto what the store has not seen, its own saves still conflict."""
    store, rival = backend.store("run"), backend.store("run")
    mine = await store.append(user(0))
    loaded = await store.load()
    await rival.load()
    await rival.append(user(1))
    onto = await store.append(user(2), expected=ANY)
    assert onto.version == 3
    assert store.revision == mine
    with pytest.raises(ConflictError):
        await store.append(user(3))
    with pytest.raises(ConflictError):
        await store.save(loaded.append(user(3)))
    with pytest.raises(ConflictError):
        await store.save(Snapshot())
    assert (await store.load()).messages == (user(0), user(1), user(2))


async def test_append_any_moves_on_what_is_seen(store: Any, backend: Any) -> None:
    """Without a rival, append(ANY) is an append like any other; on an absent run it is the first save."""
    assert await store.append(user(0), expected=ANY) == store.revision
    assert await store.append(user(1), expected=ANY) == store.revision
    await store.append(user(2))
    assert (await backend.store("run").load()).messages == (user(0), user(1), user(2))


async def test_an_append_of_nothing_writes_nothing(store: Any) -> None:
    """An append that changes nothing returns the current revision."""
    revision = await store.append(user(0), meta={"a": 1})
    assert await store.append() == revision
    assert await store.append(meta={"a": 1}) == revision
    assert await store.append(expected=ANY) == revision
    assert (await store.append(meta={"a": True})).version == 2


@pytest.mark.parametrize(
    ("args", "options", "text"),
    [
        (([user(1)],), {}, r"unpack it with \*"),
        ((float("nan"),), {}, r"messages\[0\] is nan"),
        ((user(1), ("a",)), {}, r"messages\[1\] is a tuple"),
        ((user(1),), {"meta": ["a"]}, "meta is a mapping"),
        ((user(1),), {"meta": {"a": {1}}}, r"meta\['a'\] is a set"),
        ((user(1),), {"pinned": 1}, "pinned"),
        ((user(1),), {"expected": "any"}, "expected="),
    ],
)
async def test_bad_input_is_refused_before_anything_is_sent(
    store: Any, args: tuple[Any, ...], options: dict[str, Any], text: str
) -> None:
    """The error names the path and the mend, and the run stays absent."""
    with pytest.raises(SnapshotError, match=text):
        await store.append(*args, **options)
    with pytest.raises(SnapshotError, match=text):
        await store.splice(0, 0, *args, **options)
    assert await store.load() is None


# -------------------------------------------------------------------------------------------- splice


@pytest.mark.parametrize(
    ("start", "stop"), [(0, 0), (0, 2), (None, None), (-1, None), (2, 1), (3, 99), (-99, 1), (None, -1), (5, 5)]
)
@pytest.mark.parametrize("new", [(), (user(10),), (plain(11), user(12))])
async def test_splice_is_a_list_slice(backend: Any, start: int | None, stop: int | None, new: tuple[Any, ...]) -> None:
    """Indices mean what they mean in a list slice; the others keep their pins."""
    messages: list[Any] = [user(0), plain(1), user(2), plain(3), user(4)]
    pinned = [True, False, True, False, True]
    await backend.store("run").save(Snapshot(messages, pinned, {"n": 1}))
    store = backend.store("run")
    if start != 0:
        await store.load()
    else:
        await store.info()
    revision = await store.splice(start, stop, *new, pinned=True, expected=ANY)
    low, high, _ = slice(start, stop).indices(5)
    messages[low : max(low, high)] = new
    pinned[low : max(low, high)] = [True] * len(new)
    found = await backend.store("run").load()
    assert found.messages == tuple(messages)
    assert found.pinned == tuple(pinned)
    assert found.meta == {"n": 1}
    assert found.revision == revision


async def test_splice_sets_meta_and_expects_what_was_seen(backend: Any) -> None:
    """A splice is compared like any save, and may carry meta."""
    store, rival = backend.store("run"), backend.store("run")
    await store.append(user(0), user(1))
    await rival.load()
    revision = await rival.splice(0, 1, meta={"cut": 1})
    with pytest.raises(ConflictError) as caught:
        await store.splice(0, 1)
    assert caught.value.actual == revision
    assert await store.splice(0, 0, expected=revision) == revision
    found = await store.load()
    assert (found.messages, found.meta) == ((user(1),), {"cut": 1})


async def test_splice_with_wrong_indices(store: Any) -> None:
    """Indices are whole numbers or None."""
    with pytest.raises(SnapshotError, match="whole numbers"):
        await store.splice("a", None)
    with pytest.raises(SnapshotError, match="whole numbers"):
        await store.read(0.5)


# ---------------------------------------------------------------------------------------------- ANY


async def test_save_any_on_what_was_never_loaded(backend: Any) -> None:
    """The seed's overwrite: the run is the snapshot, and the store has seen it."""
    await fill(backend.store("run"), 3)
    store = backend.store("run")
    revision = await store.save(Snapshot([plain(1)]), expected=ANY)
    assert revision.version == 4
    assert store.revision == revision
    await store.append(plain(2))
    assert (await backend.store("run").load()).messages == (plain(1), plain(2))


async def test_seen_is_the_default(store: Any, backend: Any) -> None:
    """SEEN for a snapshot from scratch is what the store last loaded, read or saved."""
    await backend.store("run").append(user(0))
    with pytest.raises(ConflictError):
        await store.save(Snapshot([user(1)]))
    with pytest.raises(ConflictError):
        await store.save(Snapshot([user(1)]), expected=SEEN)
    await store.read(-1)
    assert (await store.save(Snapshot([user(1)]), expected=SEEN)).version == 2


# ------------------------------------------------------------------------------------------- update


async def test_update_loads_changes_and_saves(store: Any, backend: Any) -> None:
    """fn gets None for an absent run, then the snapshot; its result is saved."""
    given: list[Any] = []

    def change(snapshot: Any) -> Any:
        given.append(snapshot)
        return Snapshot([user(0)]) if snapshot is None else snapshot.append(user(1))

    first = await store.update(change)
    second = await backend.store("run").update(change)
    assert (first.version, second.version) == (1, 2)
    assert given[0] is None
    assert given[1].messages == (user(0),)
    assert (await store.load()).messages == (user(0), user(1))


async def test_update_that_returns_what_it_was_given_saves_nothing(store: Any) -> None:
    """The current revision, or None for an absent run, comes back."""
    assert await store.update(lambda snapshot: snapshot) is None
    assert await store.load() is None
    revision = await store.append(user(0))
    assert await store.update(lambda snapshot: snapshot) == revision


async def test_update_runs_fn_again_on_what_a_rival_saved(store: Any, backend: Any) -> None:
    """fn sees the rival's messages before its own result is saved."""
    rival = backend.store("run")
    await rival.append(user(0))
    seen: list[int] = []

    def change(snapshot: Any) -> Any:
        seen.append(len(snapshot))
        if len(seen) < 4:
            inner = getattr(rival, "inner", None)
            if inner is not None:
                inner.append(user(len(seen)))
                return snapshot.append(plain(0))

            async def later() -> Any:
                await rival.append(user(len(seen)))
                return snapshot.append(plain(0))

            return later()
        return snapshot.append(plain(0))

    revision = await store.update(change)
    assert seen == [1, 2, 3, 4]
    found = await store.load()
    assert found.messages == (user(0), user(1), user(2), user(3), plain(0))
    assert found.revision == revision


async def test_update_gives_up_at_the_deadline_with_the_conflict(store: Any, backend: Any) -> None:
    """A run that never holds still ends in ConflictError, not in a hang."""
    rival = backend.store("run")
    await rival.append(user(0))

    def change(snapshot: Any) -> Any:
        inner = getattr(rival, "inner", None)
        if inner is not None:
            inner.append(user(1))
            return snapshot.append(plain(0))

        async def later() -> Any:
            await rival.append(user(1))
            return snapshot.append(plain(0))

        return later()

    with pytest.raises(ConflictError):
        await store.update(change, retry=RetryPolicy(deadline=0.8))
    assert plain(0) not in (await store.load()).messages


async def test_what_fn_raises_comes_out_and_nothing_is_saved(store: Any) -> None:
    """An error of the caller's is the caller's."""

    def change(snapshot: Any) -> Any:
        raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        await store.update(change)
    assert await store.load() is None


async def test_update_after_the_same_messages_were_copied_to_another_run(backend: Any) -> None:
    """A copy of the conversation under another run id does not confuse the original's update."""
    store = backend.store("run")
    await store.append(user(0))
    await backend.store("copy").save(await store.load())
    revision = await store.update(lambda snapshot: snapshot.append(user(1)), retry=RetryPolicy(deadline=0.5))
    assert revision.version == 2


@pytest.mark.parametrize("shell", ["async", "sync"])
def test_eight_processes_update_one_run(server_url: str, namespace: str, raw: redis.Redis, shell: str) -> None:
    """Eight processes add 25 messages each: 200 are stored, 200 distinct, each worker's in order."""
    results = in_processes(add_messages, [(shell, server_url, namespace, "run", worker, 25) for worker in range(8)])
    assert len({revision for revisions in results for revision in revisions}) == 200
    [found] = in_processes(_load_messages, [(server_url, namespace, "run")])
    assert len(found) == 200
    for worker in range(8):
        assert [m["number"] for m in found if m["worker"] == worker] == list(range(25))
    assert int(raw.hget(run_keys(namespace, "run").head, "version") or 0) == 200


def _load_messages(url: str, namespace: str, run: str) -> list[Any]:
    import histstore.sync

    with histstore.sync.RedisBackend.from_url(url, namespace=namespace) as backend:
        found = backend.store(run).load()
        assert found is not None
        return list(found.messages)


async def test_a_pickled_snapshot_is_saved_in_another_process(
    store: Any, backend: Any, server_url: str, namespace: str
) -> None:
    """The snapshot says what it descends from wherever it goes: the second of two such saves conflicts."""
    await store.append(*TYPED, meta={"n": 1})
    loaded = await store.load()
    [there] = in_processes(save_snapshot, [(server_url, namespace, "run", loaded, user(1))])
    assert isinstance(there, Revision)
    assert there.version == 2
    with pytest.raises(ConflictError) as caught:
        await store.save(loaded.append(user(2)))
    assert caught.value.actual == there
    [refused] = in_processes(save_snapshot, [(server_url, namespace, "run", loaded, user(3))])
    assert isinstance(refused, ConflictError)
    assert (refused.expected, refused.actual) == (loaded.revision, there)
    assert (await backend.store("run").load()).messages == (*TYPED, user(1))


# ---------------------------------------------------------------------------------------------- read


@pytest.mark.parametrize("seed", range(4))
async def test_read_is_a_slice_of_the_conversation(backend: Any, seed: int) -> None:
    """Whatever the log looks like, read() is the slice of what load() returns, in messages and pins."""
    rng = random.Random(seed)
    store = backend.store("run")
    snapshot = Snapshot([user(0)], [True], {"n": seed})
    for number in range(1, 60):
        snapshot = snapshot.append(*(plain(number) if rng.random() < 0.5 else user(number) for _ in range(2)))
        if rng.random() < 0.4:
            low = rng.randrange(len(snapshot))
            snapshot = snapshot.splice(low, low + rng.randrange(4), pinned=rng.random() < 0.5)
        await store.save(snapshot)
    reader = backend.store("run")
    n = len(snapshot)
    for start, stop in [(None, None), (-1, None), (-10, -3), (0, 1), (0, 0), (5, 9), (n, None), (-n, 2), (3, n + 9)]:
        page = await reader.read(start, stop)
        low, _high, _ = slice(start, stop).indices(n)
        assert isinstance(page, Page)
        assert page.messages == snapshot.messages[start:stop], f"seed {seed}, {start}:{stop}"
        assert page.pinned == snapshot.pinned[start:stop]
        assert (page.start, page.length, page.meta) == (low, n, {"n": seed})
        assert page.revision == reader.revision == snapshot.revision


async def test_a_read_lets_an_append_follow(backend: Any) -> None:
    """A tail is enough to go on with: what the store has read, it has seen."""
    await fill(backend.store("run"), 30)
    store = backend.store("run")
    page = await store.read(-2)
    assert page.messages == (user(28), user(29))
    await store.append(user(30))
    with pytest.raises(SnapshotError, match="Page"):
        await store.save(page)
    assert len(await store.load()) == 31


async def test_a_tail_costs_the_tail(shell: Shell, backends: Backends, server_url: str) -> None:
    """Reading the last four of 400 messages receives a few messages, not the conversation."""
    with threaded_proxy(server_url) as wire:
        backend = backends(wire.url)
        store = backend.store("run")
        await store.save(Snapshot([user(number, 1000) for number in range(400)]))
        for number in range(20):
            await store.append(user(number, 1000), user(number, 1000))
        wire.reset_counts()
        page = await store.read(-4)
        assert len(page.messages) == 4
        assert wire.received < 10_000
        assert wire.requests == 1


async def test_what_is_not_there(store: Any) -> None:
    """An absent run has no page, no info, no revisions, and nothing to trim or to delete."""
    assert await store.read() is None
    assert await store.info() is None
    assert [revision async for revision in store.revisions()] == []
    assert await store.trim() is None
    assert await store.delete() is False
    assert await store.resolve() is None
    assert store.unsettled is None
    with pytest.raises(RevisionGoneError) as caught:
        await store.load(at=1)
    assert (caught.value.requested, caught.value.oldest, caught.value.newest) == (1, None, None)


# ---------------------------------------------------------------------------------------------- info


async def test_info_tells_all_but_the_messages(backend: Any, raw: redis.Redis) -> None:
    """Revision, length, size, meta and times are the run's own; the clock is the server's."""
    seconds, micros = raw.time()
    before = datetime(1970, 1, 1, tzinfo=UTC) + timedelta(milliseconds=int(seconds) * 1000 + int(micros) // 1000)
    store = backend.store("run")
    await store.save(Snapshot([user(0), plain(1)], meta={"a": b"1"}))
    revision = await store.append(user(2))
    info = await backend.store("run").info()
    assert info.run_id == "run"
    assert type(info.run_id) is RunId
    assert info.revision == revision
    assert (info.length, info.size, info.meta) == (3, revision.size, {"a": b"1"})
    assert info.revision.saved_at == info.saved_at == revision.saved_at
    assert before <= info.created_at <= info.saved_at <= before + timedelta(minutes=1)
    assert info.created_at.tzinfo is UTC
    assert info.expires_at is None
    assert info.lease is None


async def test_a_revision_tells_length_size_and_time(store: Any) -> None:
    """What save returned and what load says of it agree to the last attribute."""
    saved = await store.save(Snapshot([user(0), plain(1)]))
    loaded = (await store.load()).revision
    fresh = [revision async for revision in store.revisions()]
    for other in (loaded, *fresh, (await store.info()).revision, (await store.read()).revision):
        assert (other, other.saved_at, other.length, other.size) == (saved, saved.saved_at, 2, saved.size)
    assert saved.saved_at is not None
    assert saved.fence is None


# -------------------------------------------------------------------------------- history and trimming


async def test_load_at_reaches_every_kept_revision(backends: Backends) -> None:
    """Each of the last `keep_revisions` past revisions loads as it was, by version and by revision."""
    backend = backends(keep_revisions=10)
    store = backend.store("run")
    past: dict[int, tuple[Revision, Any]] = {}
    rng = random.Random(7)
    snapshot = Snapshot()
    for number in range(60):
        snapshot = snapshot.append(user(number, 400), plain(number))
        if len(snapshot) > 10:
            low = rng.randrange(3)
            snapshot = snapshot.splice(low, low + 4)
        if rng.random() < 0.2:
            snapshot = snapshot.with_meta({"n": number})
        revision = await store.save(snapshot)
        past[revision.version] = (revision, snapshot)
        for version in rng.sample(range(max(1, number - 9), number + 2), k=min(3, number + 1)):
            expected, content = past[version]
            reader = backend.store("run")
            assert await reader.load(at=version) == content, f"version {version} at {revision.version}"
            found = await store.load(at=expected)
            assert found == content
            assert found.revision == expected
            assert reader.revision is None
            assert store.revision == revision
    listed = [each async for each in store.revisions()]
    assert [each.version for each in listed] == list(range(60, 60 - len(listed), -1))
    assert len(listed) >= 11
    for each in listed:
        assert each == past[each.version][0]
        assert await store.load(at=each) == past[each.version][1]
    gone = listed[-1].version - 1
    assert gone > 0, "retention is bounded"
    with pytest.raises(RevisionGoneError) as caught:
        await store.load(at=past[gone][0])
    assert caught.value.requested == past[gone][0]
    assert caught.value.newest == 60


async def test_load_at_what_never_was(backends: Backends) -> None:
    """The future, and a revision of another history, are RevisionGoneError."""
    store = backends(keep_revisions=5).store("run")
    revisions = await fill(store, 3)
    for at in (4, 10**14, Revision(2, bytes(16)), Revision(2, revisions[2].etag)):
        with pytest.raises(RevisionGoneError):
            await store.load(at=at)
    for wrong in (0, -1, "2", True, 1.0):
        with pytest.raises(SnapshotError, match="at="):
            await store.load(at=wrong)


async def test_a_past_snapshot_saves_only_onto_its_own_revision(backends: Backends) -> None:
    """A snapshot loaded with at= descends from that past, so saving it conflicts until told otherwise."""
    store = backends(keep_revisions=5).store("run")
    await fill(store, 3)
    past = await store.load(at=1)
    with pytest.raises(ConflictError):
        await store.save(past.append(user(9)))
    revision = await store.save(past, expected=store.revision)
    assert revision.version == 4
    assert (await store.load()).messages == (user(0),)


async def test_revisions_are_limited_and_newest_first(backends: Backends) -> None:
    """limit= is at most so many; more than one read is needed for a long log."""
    store = backends(keep_revisions=200).store("run")
    made = await fill(store, 150)
    assert [each async for each in store.revisions()] == made[::-1]
    assert [each async for each in store.revisions(limit=70)] == made[:-71:-1]
    assert [each async for each in store.revisions(limit=0)] == []
    for wrong in (-1, 1.5, "3"):
        with pytest.raises(SnapshotError, match="limit"):
            async for _ in store.revisions(limit=wrong):
                pass


async def test_trim_drops_the_past(backends: Backends, raw: redis.Redis, namespace: str) -> None:
    """After trim() nothing that was spliced away is in the server any more; the conversation is as it was."""
    store = backends(keep_revisions=50).store("run")
    await store.append({"secret": "needle in the log"}, user(1))
    await store.splice(0, 1, meta={"n": 1})
    await store.append(user(2))
    log = run_keys(namespace, "run").log
    assert b"needle" in b"".join(value for _, fields in raw.xrange(log) for value in fields.values())
    revision = await store.trim()
    assert revision.version == 4
    assert b"needle" not in b"".join(value for _, fields in raw.xrange(log) for value in fields.values())
    assert [each async for each in store.revisions()] == [revision]
    with pytest.raises(RevisionGoneError):
        await store.load(at=3)
    assert await store.trim() == revision, "nothing is left to trim"
    await store.append(user(3))
    found = await backends().store("run").load()
    assert (found.messages, found.meta) == ((user(1), user(2), user(3)), {"n": 1})


async def test_trim_by_a_stranger(backend: Any) -> None:
    """A store that knows nothing of the run may trim it; those that do are told that it moved on."""
    store = backend.store("run")
    await fill(store, 3)
    stranger = backend.store("run")
    revision = await stranger.trim()
    assert revision.version == 4
    with pytest.raises(ConflictError):
        await store.append(user(3))
    assert (await store.load()).messages == (user(0), user(1), user(2))
    with pytest.raises(ConflictError):
        await backend.store("run").append(user(4))


# -------------------------------------------------------------------------------------------- delete


async def test_delete(store: Any, backend: Any, raw: redis.Redis, namespace: str) -> None:
    """A deleted run is absent, its messages are gone, and what is kept for late copies expires."""
    await fill(store, 3)
    stale = await store.load()
    assert await store.delete() is True
    assert store.revision is None
    assert await store.load() is None
    assert await backend.store("run").info() is None
    assert await store.delete() is False
    left = list(raw.scan_iter(match=f"{namespace}:*"))
    assert all(0 < raw.pttl(key) <= 900_000 for key in left), left
    with pytest.raises(ConflictError) as caught:
        await store.save(stale.append(user(9)))
    assert caught.value.actual is None


async def test_a_successor_run_starts_anew(store: Any, backend: Any, raw: redis.Redis, namespace: str) -> None:
    """A run made again after a delete has a history of its own; snapshots of the old one conflict."""
    await store.append(user(0))
    stale = await store.load()
    await store.delete()
    revision = await backend.store("run").append(user(1))
    assert revision.version == 1
    assert revision != stale.revision
    with pytest.raises(ConflictError):
        await store.save(stale.append(user(2)))
    with pytest.raises(RevisionGoneError):
        await store.load(at=stale.revision)
    assert (await store.load()).messages == (user(1),)
    keys = run_keys(namespace, "run")
    assert [raw.pttl(key) for key in (keys.head, keys.log, keys.etags)] == [-1, -1, -1]


async def test_delete_expects(store: Any, backend: Any) -> None:
    """A delete may name what it expects, and then wipes nothing else."""
    first, second = await fill(store, 2)
    other = backend.store("run")
    for expected in (first, None, SEEN):
        with pytest.raises(ConflictError) as caught:
            await other.delete(expected=expected)
        assert caught.value.actual == second
    assert await store.delete(expected=SEEN) is True
    with pytest.raises(ConflictError):
        await store.delete(expected=second)
    assert await store.delete(expected=None) is False


async def test_delete_clears_damage(store: Any, backend: Any, raw: redis.Redis, namespace: str) -> None:
    """A run that no longer loads can be deleted, by the store and by the backend."""
    keys = run_keys(namespace, "run")
    for delete in (store.delete, lambda: backend.delete("run")):
        await backend.store("run").append(user(0))
        raw.delete(keys.log)
        assert await delete() is True
        assert await backend.store("run").load() is None


async def test_a_damaged_run_is_not_absent(store: Any, raw: redis.Redis, namespace: str) -> None:
    """delete(expected=None) expects no run: a damaged one is there, and stays for whoever repairs it."""
    await store.append(user(0))
    keys = run_keys(namespace, "run")
    raw.hset(keys.head, "version", "damaged")
    with pytest.raises((ConflictError, CorruptSnapshotError)):
        await store.delete(expected=None)
    assert raw.exists(keys.log) == 1


# -------------------------------------------------------------------------------- outcomes and retries


async def test_a_lost_reply_is_asked_for_again(shell: Shell, backends: Backends, server_url: str) -> None:
    """With the reply lost the save is sent again, and is in the run once, under one revision."""
    with threaded_proxy(server_url) as wire:
        store = backends(wire.url, retry=RetryPolicy(base=0.001)).store("run")
        await store.append(user(0))
        wire.lose_replies(1)
        revision = await store.append(user(1))
        assert wire.lost == 1
        assert revision.version == 2
        assert store.unsettled is None
        assert (await store.load()).messages == (user(0), user(1))


@pytest.mark.parametrize("applied", [True, False])
async def test_an_unknown_outcome_is_resolved(shell: Shell, backends: Backends, server_url: str, applied: bool) -> None:
    """OutcomeUnknownError names an attempt; resolve says for good whether it was applied."""
    with threaded_proxy(server_url) as wire:
        once = RetryPolicy(attempts=1)
        store = backends(wire.url).store("run")
        first = await store.append(user(0))
        if applied:
            wire.lose_replies(1)
        else:
            wire.keep_back(1)
        with pytest.raises(OutcomeUnknownError) as caught:
            await store.append(user(1), retry=once)
        attempt = caught.value.attempt
        assert attempt == store.unsettled
        assert (attempt.kind, attempt.run_id, attempt.parent) == ("save", "run", first)
        assert store.revision == first
        settled = await store.resolve()
        assert store.unsettled is None
        assert settled == (attempt.revision if applied else None)
        assert store.revision == (attempt.revision if applied else first)
        assert await store.resolve() == settled, "asked again, it says the same"
        assert await store.resolve(attempt) == settled
        [elsewhere] = in_processes(settle, [(server_url, attempt)])
        assert elsewhere == settled
        await store.append(user(2))
        assert (await store.load()).messages == ((user(0), user(1), user(2)) if applied else (user(0), user(2)))


async def test_the_next_save_settles_the_last_one(shell: Shell, backends: Backends, server_url: str) -> None:
    """A store with an unsettled attempt settles it before its next save, which then goes onto the outcome."""
    with threaded_proxy(server_url) as wire:
        store = backends(wire.url).store("run")
        snapshot = Snapshot([user(0)])
        await store.save(snapshot)
        grown = snapshot.append(user(1))
        wire.lose_replies(1)
        with pytest.raises(OutcomeUnknownError):
            await store.save(grown, retry=RetryPolicy(attempts=1))
        assert (await store.save(grown)).version == 2
        assert (await store.save(grown.append(user(2)))).version == 3
        assert store.unsettled is None
        assert (await store.load()).messages == (user(0), user(1), user(2))


async def test_an_unknown_delete_is_resolved(shell: Shell, backends: Backends, server_url: str) -> None:
    """A delete whose answer was lost is an attempt too; resolve returns the revision that it deleted."""
    with threaded_proxy(server_url) as wire:
        store = backends(wire.url).store("run")
        revision = await store.append(user(0))
        wire.lose_replies(1, lambda request: b"EVALSHA" in request)
        with pytest.raises(OutcomeUnknownError) as caught:
            await store.delete(retry=RetryPolicy(attempts=1))
        assert caught.value.attempt.kind == "delete"
        assert await store.resolve() == revision
        assert store.revision is None
        assert await store.load() is None


async def test_update_settles_an_unknown_outcome_itself(shell: Shell, backends: Backends, server_url: str) -> None:
    """fn does not run again for a save that turns out to have been applied."""
    with threaded_proxy(server_url) as wire:
        store = backends(wire.url).store("run")
        await store.append(user(0))
        runs = 0

        def change(snapshot: Any) -> Any:
            nonlocal runs
            runs += 1
            return snapshot.append(user(runs))

        wire.lose_replies(1, lambda request: b"EVALSHA" in request)
        revision = await store.update(change, retry=RetryPolicy(attempts=1))
        assert (revision.version, runs) == (2, 1)
        wire.keep_back(1, lambda request: b"EVALSHA" in request)
        revision = await store.update(change, retry=RetryPolicy(attempts=1, base=0.001))
        assert (revision.version, runs) == (3, 3)
        assert (await store.load()).messages == (user(0), user(1), user(3))


async def test_an_attempt_of_another_run_is_refused(
    shell: Shell, backends: Backends, server_url: str, namespace: str
) -> None:
    """An attempt is settled at its own run: elsewhere nothing would be known of it."""
    with threaded_proxy(server_url) as wire:
        backend = backends(wire.url)
        store = backend.store("run")
        await store.append(user(0))
        wire.keep_back(1)
        with pytest.raises(OutcomeUnknownError) as caught:
            await store.append(user(1), retry=RetryPolicy(attempts=1))
        with pytest.raises(SnapshotError, match="run 'run'"):
            await backend.store("other").resolve(caught.value.attempt)
        with pytest.raises(SnapshotError):
            await backends(wire.url, namespace=f"{namespace}:2").store("run").resolve(caught.value.attempt)


async def test_retry_is_overridden_per_call(shell: Shell, backends: Backends, server_url: str) -> None:
    """attempts counts the tries on the wire, the first included."""
    with threaded_proxy(server_url) as wire:
        store = backends(wire.url, retry=RetryPolicy(attempts=2, base=0.001)).store("run")
        await store.append(user(0))
        calls: list[tuple[int, Any, tuple[Any, ...], type[Exception]]] = [
            (2, store.load, (), BackendUnavailableError),
            (2, store.info, (), BackendUnavailableError),
            (2, store.read, (), BackendUnavailableError),
            (2, store.append, (user(1),), OutcomeUnknownError),
        ]
        for default, call, args, kind in calls:
            for attempts in (None, 1, 4):
                await store.resolve()
                before = wire.lost
                wire.lose_replies(100, lambda request: b"EVALSHA" in request or b"MULTI" in request)
                policy = {} if attempts is None else {"retry": RetryPolicy(attempts=attempts, base=0.001)}
                with pytest.raises(kind):
                    await call(*args, **policy)
                assert wire.lost - before == (attempts or default), call
                wire.lose_replies(0)


async def test_a_load_of_a_server_that_is_down_is_an_error(
    shell: Shell, backends: Backends, private_server: Any
) -> None:
    """An outage is BackendUnavailableError, never None; and the store goes on when the server is back."""
    server = private_server(appendonly="yes", appendfsync="always")
    store, brief = backends(server.url).store("run"), RetryPolicy(attempts=3, deadline=0.5, base=0.001)
    await store.append(user(0))
    server.kill()
    for call in (store.load, store.read, store.info, store.trim):
        with pytest.raises(BackendUnavailableError, match="nothing was written"):
            await call(retry=brief)
    with pytest.raises(BackendUnavailableError):
        await store.append(user(1), retry=brief)
    assert store.unsettled is None
    server.start()
    await store.append(user(1))
    assert (await store.load()).messages == (user(0), user(1))


async def test_a_cancelled_save_has_an_attempt(server_url: str, namespace: str) -> None:
    """A task cancelled while its save is under way leaves an attempt that resolve settles."""
    with threaded_proxy(server_url) as wire:
        async with RedisBackend.from_url(wire.url, namespace=namespace) as backend:
            store = backend.store("run")
            await store.append(user(0))
            wire.delay = 0.3
            task = asyncio.create_task(store.append(user(1)))
            while store.unsettled is None:
                await asyncio.sleep(0.001)
            await asyncio.sleep(0.01)
            task.cancel()
            with pytest.raises(asyncio.CancelledError):
                await task
            attempt = store.unsettled
            assert attempt is not None
            wire.delay = 0
            settled = await store.resolve()
            found = await store.load()
            assert found is not None
            assert found.messages == ((user(0), user(1)) if settled else (user(0),))
            assert found.revision == (settled or attempt.parent)


# -------------------------------------------------------------------------------------------- limits


async def test_a_snapshot_over_the_limit_is_refused(backends: Backends) -> None:
    """max_snapshot_bytes bounds the encoded messages, however they come; nothing is written."""
    backend = backends(max_snapshot_bytes=10_000)
    store = backend.store("run")
    await store.append(user(0, 4000), user(1, 4000))
    for write in (
        store.append(user(2, 4000)),
        store.splice(0, 0, user(2, 4000)),
        store.save((await store.load()).append(user(2, 4000))),
        store.save(Snapshot([user(2, 12_000)])),
        backend.store("new").append(user(2, 12_000)),
    ):
        with pytest.raises(SnapshotTooLargeError) as caught:
            await write
        assert caught.value.limit == 10_000
        assert 12_000 <= caught.value.size < 12_100
    assert (await store.load()).revision.version == 1
    assert await backend.store("new").load() is None
    await store.splice(0, 1, user(2, 4000))


@pytest.mark.parametrize("run", ODD_RUNS)
async def test_any_text_is_a_run_id(backend: Any, run: str) -> None:
    """Braces, globs, separators and control characters name runs of their own."""
    await backend.store(run).append(plain(1))
    await backend.store(run + "x").append(plain(2))
    assert (await backend.store(run).load()).messages == (plain(1),)
    assert (await backend.store(run).info()).run_id == run
    assert backend.store(run).run_id == run


async def test_a_uuid_is_a_run_id(backend: Any) -> None:
    """str and UUID name the same run; so does RunId."""
    run = uuid.uuid4()
    await backend.store(run).append(user(0))
    assert await backend.store(str(run)).load() == await backend.store(RunId(run)).load() is not None
    for wrong in ("", 3, None, b"run", "\ud800"):
        with pytest.raises(SnapshotError, match="run id"):
            backend.store(wrong)


async def test_one_store_for_many_tasks(store: Any, shell: Shell) -> None:
    """Tasks that share a store take turns: updates from all of them get through."""
    results = await asyncio.gather(*(store.update(lambda s, n=n: (s or Snapshot()).append(user(n))) for n in range(10)))
    assert sorted(result.version for result in results) == list(range(1, 11))
    assert {m.blocks[0].text for m in (await store.load()).messages} == {user(n).blocks[0].text for n in range(10)}


async def test_the_largest_snapshot_is_saved_and_loaded(backend: Any) -> None:
    """64 MiB in one message, the default limit, within the default time of a try."""
    large = UserMessage("x" * (64 * 2**20 - 100))
    assert (await backend.store("run").append(large)).version == 1
    assert (await backend.store("run").load()).messages == (large,)
    await backend.store("run").delete()


@pytest.mark.parametrize(("texts", "large"), [([10, 10], False), ([10, 40_000], True), ([40_000], False)])
async def test_a_short_read_of_large_entries_has_a_connection_to_itself(
    backend: Any, texts: list[int], large: bool
) -> None:
    """What comes next is taken to be like the newest save, which a first save is no sign of."""
    store = backend.store("run")
    for length in texts:
        await store.append(UserMessage("x" * length))
    assert delta(store._run.where, store._known.base).large is large
