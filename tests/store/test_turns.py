"""Turns: loaded under the lease, saved at the end. In both shells."""

from __future__ import annotations

import asyncio
import copy
from typing import Any

import pytest
import redis

from histstore import (
    ANY,
    SEEN,
    BackendUnavailableError,
    ConflictError,
    ConversationSnapshot,
    Durability,
    LeaseLostError,
    LockedError,
    LockTimeoutError,
    NotReplicatedError,
    OutcomeUnknownError,
    RetryPolicy,
    Revision,
    SnapshotError,
)
from histstore.protocol.keys import run_keys
from histstore.protocol.scripts import ALL, SAVE

from ..support.samples import plain, user
from ..support.shells import Shell, threaded_proxy, until
from .conftest import Backends

Snapshot = ConversationSnapshot[Any]

ONCE = RetryPolicy(attempts=1)


def saves(request: bytes) -> bool:
    """Whether a request calls the save script."""
    return SAVE.sha.encode() in request or SAVE.source.encode() in request


@pytest.fixture
def known(raw: redis.Redis) -> None:
    """The server knows the scripts: a lost reply is that of a script that ran."""
    for script in ALL:
        raw.script_load(script.source)


# ------------------------------------------------------------------------------- from start to end


async def test_a_turn_loads_and_saves(backend: Any) -> None:
    """What was there, what was appended, and after the end all of it, with the lease's fence; the run is free."""
    await backend.store("run").append(user(0))
    store = backend.store("run")
    async with store.turn() as turn:
        assert turn.messages == turn.snapshot.messages == (user(0),)
        assert turn.revision == turn.snapshot.revision == store.revision
        turn.append(user(1), plain(2))
        turn.append(user(3), pinned=True)
        assert turn.messages == (user(0), user(1), plain(2), user(3))
        assert (await backend.store("run").load()).messages == (user(0),)
        fence = turn.lease.fence
        assert (await store.info()).lease.fence == fence
    found = await backend.store("run").load()
    assert found.messages == turn.messages == (user(0), user(1), plain(2), user(3))
    assert found.pinned == (False, False, False, True)
    assert found.revision == turn.revision == store.revision
    assert found.revision.fence == fence
    assert found.revision.version == 2
    assert (await store.info()).lease is None


async def test_a_turn_on_an_absent_run(backend: Any) -> None:
    """It begins with an empty snapshot and no revision; if nothing is appended, the run stays absent."""
    store = backend.store("run")
    async with store.turn() as turn:
        assert turn.messages == ()
        assert turn.snapshot == Snapshot()
        assert turn.revision is None
        assert await turn.save() is None
    assert await backend.store("run").load() is None
    assert turn.revision is None
    async with store.turn() as turn:
        turn.append(user(0))
    assert turn.revision.version == 1
    assert (await backend.store("run").load()).messages == (user(0),)


async def test_a_turn_sees_what_was_saved_while_it_waited(
    shell: Shell, backends: Backends, raw: redis.Redis, namespace: str
) -> None:
    """It is loaded inside the lease: a rival's turn that ended between the call and the grant is in it."""
    one, two = backends(), backends()
    await one.store("run").append(user(0))
    store = two.store("run")
    await store.load()

    async def second() -> Any:
        async with store.turn() as turn:
            turn.append(user(2))
            return turn.messages

    async with one.store("run").turn() as turn:
        waiting = shell.apart(second())
        await until(lambda: raw.llen(run_keys(namespace, "run").queue) == 1)
        turn.append(user(1))
    assert await waiting == (user(0), user(1), user(2))
    assert (await one.store("run").load()).messages == (user(0), user(1), user(2))


async def test_turns_of_many_workers_lose_nothing(shell: Shell, backends: Backends) -> None:
    """Each adds one message to a count that it read; the sum is right, without any conflict."""
    made = [backends() for _ in range(3)]

    async def work(number: int) -> None:
        for _ in range(4):
            async with made[number % 3].store("run").turn() as turn:
                seen = len(turn.messages)
                await asyncio.sleep(0.001)
                turn.append(plain(seen))

    await asyncio.gather(*[shell.apart(work(number)) for number in range(6)])
    assert (await made[0].store("run").load()).messages == tuple(plain(number) for number in range(24))


async def test_an_exception_saves_nothing(backend: Any) -> None:
    """The run is as it was, and free; what was appended is in `turn.snapshot` and can be saved afterwards."""
    store = backend.store("run")
    first = await store.append(user(0))
    with pytest.raises(ZeroDivisionError):
        async with store.turn() as turn:
            turn.append(user(1))
            raise ZeroDivisionError
    assert (await backend.store("run").load()).revision == first
    assert turn.messages == (user(0), user(1))
    assert turn.revision == first
    async with store.lock(acquire_timeout=0):
        pass
    second = await store.save(turn.snapshot)
    assert second.version == 2
    assert (await backend.store("run").load()).messages == (user(0), user(1))


async def test_what_an_exception_left_conflicts_with_a_rival(backends: Backends) -> None:
    """To save `turn.snapshot` later is a save like any other: not over what came in between."""
    one, two = backends(), backends()
    store = one.store("run")
    await store.append(user(0))
    with pytest.raises(ZeroDivisionError):
        async with store.turn() as turn:
            turn.append(user(1))
            raise ZeroDivisionError
    await two.store("run").append(user(2), expected=ANY)
    with pytest.raises(ConflictError):
        await store.save(turn.snapshot)


# ------------------------------------------------------------------------------------ in between


async def test_a_turn_saves_in_between(backend: Any) -> None:
    """Each save makes a revision, which `turn.revision` moves to; with nothing pending it is None and writes none."""
    store = backend.store("run")
    async with store.turn() as turn:
        assert await turn.save() is None
        revisions = []
        for number in range(3):
            turn.append(user(number))
            revision = await turn.save()
            assert revision == turn.revision == turn.snapshot.revision
            assert (await backend.store("run").load()).revision == revision
            assert await turn.save() is None
            revisions.append(revision)
    assert [revision.version for revision in revisions] == [1, 2, 3]
    assert (await store.load()).revision == revisions[-1]  # the exit had nothing to save
    assert (await store.info()).lease is None


async def test_what_was_saved_in_between_stays_after_an_exception(backend: Any) -> None:
    """Only what was pending is not saved."""
    store = backend.store("run")
    with pytest.raises(ZeroDivisionError):
        async with store.turn() as turn:
            turn.append(user(0))
            await turn.save()
            turn.append(user(1))
            raise ZeroDivisionError
    assert (await backend.store("run").load()).messages == (user(0),)
    assert turn.messages == (user(0), user(1))


async def test_a_turn_replaces_the_conversation(backend: Any) -> None:
    """By another snapshot: one that grew from it, or one from scratch; anything else is bad input."""
    store = backend.store("run")
    await store.append(user(0), user(1), meta={"n": 1})
    async with store.turn() as turn:
        turn.replace(turn.snapshot.splice(0, 1).with_meta({"n": 2}))
        assert turn.messages == (user(1),)
        revision = await turn.save()
        turn.replace(Snapshot([plain(5)], [True]))
        for wrong in (None, [plain(5)], "text", await store.read()):
            with pytest.raises(SnapshotError, match=r"replace\(\) takes a ConversationSnapshot"):
                turn.replace(wrong)
    found = await backend.store("run").load()
    assert (found.messages, found.pinned, found.meta) == ((plain(5),), (True,), {})
    assert found.revision.version == revision.version + 1 == 3


async def test_to_replace_it_by_the_same_content_writes_nothing(backend: Any) -> None:
    """What is saved is told by content, not by who made the snapshot: no revision, and none that the exit makes."""
    store = backend.store("run")
    await store.append(user(0), plain(1))
    async with store.turn() as turn:
        before = turn.revision
        turn.replace(Snapshot([user(0), plain(1)]))
        await turn.save()
        assert turn.revision == before
        turn.replace(Snapshot([user(0), plain(1)]))
    assert turn.revision == before
    assert (await backend.store("run").load()).revision == before


async def test_a_message_that_was_edited_is_pending(backend: Any) -> None:
    """A copy is edited and put back; until then the turn holds what it held."""
    store = backend.store("run")
    await store.append({"role": "user", "content": "before"})
    async with store.turn() as turn:
        message = copy.deepcopy(turn.messages[0])
        message["content"] = "between"
        assert await turn.save() is None
        turn.replace(turn.snapshot.splice(0, 1, message))
        message["content"] = "too late"
        assert (await turn.save()).version == 2
        assert await turn.save() is None
        message["content"] = "after"
        turn.replace(turn.snapshot.splice(0, 1, message))
    found = await backend.store("run").load()
    assert found.messages == ({"role": "user", "content": "after"},)
    assert found.revision.version == 3


async def test_what_cannot_be_saved_is_refused_at_once(backend: Any) -> None:
    """`append` says so; the turn goes on without it, or ends with the error and saves nothing."""
    store = backend.store("run")
    async with store.turn() as turn:
        with pytest.raises(SnapshotError):
            turn.append({"a": {1}})
        with pytest.raises(SnapshotError):
            turn.append([user(1)])
        turn.append(user(0))
    assert (await store.load()).messages == (user(0),)


async def test_other_writes_inside_a_turn_carry_its_lease(backend: Any) -> None:
    """And then conflict with the turn's own save, which goes onto what it has loaded: nothing is lost."""
    store = backend.store("run")
    await store.append(user(0))
    with pytest.raises(ConflictError):
        async with store.turn() as turn:
            between = await backend.store("run").append(user(1), expected=ANY)
            assert between.fence == turn.lease.fence
            turn.append(user(2))
    assert (await store.load()).messages == (user(0), user(1))
    assert (await store.info()).lease is None


# ------------------------------------------------------------------------------------- expected=


async def test_a_turn_expects_a_revision(backends: Backends) -> None:
    """ConflictError before the body runs if the run is elsewhere, and the lease is given up; else the turn is taken."""
    backend = backends()
    store = backend.store("run")
    first = await store.append(user(0))
    rival = backends().store("run")
    second = await rival.append(user(1), expected=first)
    other = Revision(2, bytes(16))

    cases: list[tuple[Any, Any, bool]] = [
        # what is expected, what the error says is expected, whether it is so
        (first, first, False),
        (second, None, True),
        (other, other, False),
        (None, None, False),
        (ANY, None, True),
    ]
    for expected, told, fine in cases:
        entered = False
        if fine:
            async with backend.store("run").turn(expected=expected) as turn:
                assert turn.revision == second
            continue
        with pytest.raises(ConflictError) as caught:
            async with backend.store("run").turn(expected=expected):
                entered = True
        assert not entered
        assert (caught.value.expected, caught.value.actual) == (told, second)
        async with backend.store("run").lock(acquire_timeout=0):
            pass
    for wrong in ("any", 2, b"", str(second)):
        with pytest.raises(SnapshotError, match="expected="):
            store.turn(expected=wrong)


async def test_a_turn_expects_the_run_to_be_absent(backend: Any) -> None:
    """`expected=None` starts a run, and only then; a revision of an absent run is a conflict."""
    with pytest.raises(ConflictError) as caught:
        async with backend.store("run").turn(expected=Revision(1, bytes(16))):
            pass
    assert caught.value.actual is None
    async with backend.store("run").turn(expected=None) as turn:
        turn.append(user(0))
    with pytest.raises(ConflictError):
        async with backend.store("run").turn(expected=None):
            pass


async def test_a_turn_expects_what_the_store_has_seen(backends: Backends) -> None:
    """SEEN is the store's revision when the turn was asked for, not what the turn itself loads."""
    backend = backends()
    store = backend.store("run")
    async with store.turn(expected=SEEN) as turn:
        turn.append(user(0))
    async with store.turn(expected=SEEN) as turn:
        turn.append(user(1))
    await backends().store("run").append(user(2), expected=ANY)
    with pytest.raises(ConflictError) as caught:
        async with store.turn(expected=SEEN):
            pass
    assert caught.value.expected == turn.revision
    assert caught.value.actual.version == 3


async def test_a_turn_takes_what_lock_takes(shell: Shell, backends: Backends) -> None:
    """`acquire_timeout=0` tries once; a turn in a turn is refused; others' writes are refused while it lasts."""
    one, two = backends(), backends()

    async def intrude() -> None:
        with pytest.raises(LockTimeoutError):
            await two.store("run").turn(acquire_timeout=0).__aenter__()
        with pytest.raises(LockedError):
            await two.store("run").append(user(9))

    async with one.store("run").turn(ttl=20) as turn:
        await shell.apart(intrude())
        turn.append(user(0))
    assert (await two.store("run").load()).messages == (user(0),)


# -------------------------------------------------------------------------------------------- loss


@pytest.mark.parametrize("way", ["save", "exit"])
async def test_a_turn_whose_lease_was_lost_saves_nothing(backends: Backends, way: str) -> None:
    """LeaseLostError from `save` and from the exit; the rival's turn stands, and keeps its lease."""
    one, two = backends(), backends()
    store = one.store("run")
    await store.append(user(0))
    scope = store.turn(cancel=False)
    turn = await scope.__aenter__()
    turn.append(user(1))
    await two.break_lease("run")
    rival = two.store("run").turn()
    theirs = await asyncio.get_running_loop().create_task(rival.__aenter__())
    theirs.append(user(2))
    await theirs.save()
    if way == "save":
        for _ in range(2):
            with pytest.raises(LeaseLostError) as caught:
                await turn.save()
        assert caught.value.current == theirs.lease.fence
    with pytest.raises(LeaseLostError) as caught:
        await scope.__aexit__(None, None, None)
    assert caught.value.fence == turn.lease.fence
    assert turn.messages == (user(0), user(1))
    theirs.lease.check()
    theirs.append(user(3))
    await rival.__aexit__(None, None, None)
    assert (await store.load()).messages == (user(0), user(2), user(3))


async def test_a_writer_without_a_lease_gets_in_after_a_lapse(
    backends: Backends, raw: redis.Redis, namespace: str
) -> None:
    """Then the turn conflicts: compare-and-set holds where the lease does not. Nothing of theirs is lost."""
    one, two = backends(), backends()
    store = one.store("run")
    await store.append(user(0))
    with pytest.raises(ConflictError):
        async with store.turn(ttl=300, cancel=False) as turn:
            turn.append(user(1))
            raw.delete(run_keys(namespace, "run").lease)
            await two.store("run").append(user(2), expected=ANY)
    assert (await store.load()).messages == (user(0), user(2))
    assert turn.messages == (user(0), user(1))


async def test_a_lapse_that_nobody_used_is_no_loss(backends: Backends, raw: redis.Redis, namespace: str) -> None:
    """The lease's time was over, but nobody was granted the run: the turn is saved all the same."""
    backend = backends()
    async with backend.store("run").turn(ttl=300) as turn:
        turn.append(user(1))
        raw.delete(run_keys(namespace, "run").lease)
    assert (await backend.store("run").load()).messages == (user(1),)


# ------------------------------------------------------------------------------------ open outcomes


@pytest.mark.parametrize("applied", [True, False])
async def test_an_open_outcome_is_settled_by_the_next_save(
    shell: Shell, server_url: str, namespace: str, known: None, applied: bool
) -> None:
    """`turn.save` raises OutcomeUnknownError; saved again, or at the exit, the turn never conflicts with itself.

    The message is there once, whether the save that was not answered had been applied or never arrived.
    """
    with threaded_proxy(server_url) as wire:
        async with shell.from_url(wire.url, namespace=namespace, retry=ONCE) as backend:
            store = backend.store("run")
            async with store.turn(retry=ONCE) as turn:
                for number in range(3):
                    turn.append(user(number))
                    if applied:
                        wire.lose_replies(1, saves)
                    else:
                        wire.keep_back(1, saves)
                    with pytest.raises(OutcomeUnknownError):
                        await turn.save()
                    if number == 0:
                        revision = await turn.save()
                        assert revision == turn.revision
                        assert revision.version == 1
                        assert await turn.save() is None
                    if number == 1:
                        turn.append(plain(number))  # more came in between: two saves, or one
                        revision = await turn.save()
                        assert revision == turn.revision
                        assert revision.version == (3 if applied else 2)
            found = await backend.store("run").load()
            assert found.messages == turn.messages == (user(0), user(1), plain(1), user(2))
            assert found.revision == turn.revision
            assert (await store.info()).lease is None


async def test_an_open_outcome_at_the_exit_comes_out(
    shell: Shell, server_url: str, namespace: str, known: None
) -> None:
    """OutcomeUnknownError; the lease is given up, and the store settles the save before its next one."""
    with threaded_proxy(server_url) as wire:
        async with shell.from_url(wire.url, namespace=namespace, retry=ONCE) as backend:
            store = backend.store("run")
            with pytest.raises(OutcomeUnknownError) as caught:
                async with store.turn(retry=ONCE) as turn:
                    turn.append(user(0))
                    wire.lose_replies(1, saves)
            assert store.unsettled == caught.value.attempt
            revision = await store.save(turn.snapshot)
            assert revision.version == 1
            assert (await backend.store("run").load()).messages == (user(0),)
            async with store.lock(acquire_timeout=0):
                pass


async def test_a_failed_question_leaves_the_outcome_open(
    shell: Shell, server_url: str, namespace: str, known: None
) -> None:
    """To settle may fail, too: the turn asks again, and the message is there once."""
    with threaded_proxy(server_url) as wire:
        async with shell.from_url(wire.url, namespace=namespace, retry=ONCE) as backend:
            store = backend.store("run")
            async with store.turn(retry=ONCE) as turn:
                turn.append(user(0))
                wire.lose_replies(2)
                with pytest.raises(OutcomeUnknownError):
                    await turn.save()
                with pytest.raises(BackendUnavailableError):
                    await turn.save()
                assert (await turn.save()).version == 1
            assert (await backend.store("run").load()).messages == (user(0),)


async def test_a_turn_goes_on_after_too_few_copies_confirmed(shell: Shell, server_url: str, namespace: str) -> None:
    """NotReplicatedError says that it is saved: the turn has moved on, and does not conflict with itself."""
    async with shell.from_url(
        server_url, namespace=namespace, durability=Durability(replicas=1, timeout=0.01)
    ) as backend:
        store = backend.store("run")
        with pytest.raises(NotReplicatedError) as caught:
            async with store.turn() as turn:
                turn.append(user(0))
                with pytest.raises(NotReplicatedError) as first:
                    await turn.save()
                assert turn.revision == first.value.revision
                assert await turn.save() is None
                turn.append(user(1))
        assert turn.revision == caught.value.revision
        assert (await store.load()).messages == (user(0), user(1))


async def test_a_turn_leaves_an_older_attempt_of_its_store_alone(
    shell: Shell, server_url: str, namespace: str, known: None
) -> None:
    """What the store had open before the turn is not the turn's, though settling it failed inside."""
    with threaded_proxy(server_url) as wire:
        async with shell.from_url(wire.url, namespace=namespace, retry=ONCE) as backend:
            store = backend.store("run")
            await store.append(user(0))
            wire.lose_replies(1, saves)
            with pytest.raises(OutcomeUnknownError):
                await store.append(user(1))
            async with shell.from_url(server_url, namespace=namespace) as other:
                rival = other.store("run")
                await rival.load()
                await rival.append(user(2))
            async with store.turn(retry=ONCE) as turn:
                turn.append(user(3))
                wire.lose_replies(1)
                with pytest.raises(BackendUnavailableError):
                    await turn.save()
                revision = await turn.save()
                assert revision == turn.revision
                assert revision.version == 4
            assert (await store.load()).messages == (user(0), user(1), user(2), user(3))
