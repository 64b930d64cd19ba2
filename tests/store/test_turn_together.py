"""One turn that several tasks or threads work on: tool calls that each append a result and save. In both shells."""

from __future__ import annotations

import asyncio
import linecache
import sys
from collections.abc import Iterator
from types import FrameType
from typing import Any

import pytest
import redis

import histstore.sync
from histstore import (
    BackendUnavailableError,
    ConflictError,
    LeaseLostError,
    OutcomeUnknownError,
    RedisBackend,
    RetryPolicy,
    Revision,
    SnapshotError,
)
from histstore.protocol.scripts import ALL, SAVE

from ..support.proxy import Proxy
from ..support.samples import user
from ..support.shells import Shell, threaded_proxy, until
from .conftest import Backends

ONCE = RetryPolicy(attempts=1)


def saves(request: bytes) -> bool:
    """Whether a request calls the save script."""
    return SAVE.sha.encode() in request or SAVE.source.encode() in request


@pytest.fixture
def wire(server_url: str, raw: redis.Redis) -> Iterator[Proxy]:
    """A proxy before a server that knows the scripts: a lost reply is that of a script that ran."""
    for script in ALL:
        raw.script_load(script.source)
    with threaded_proxy(server_url) as running:
        yield running


def bare(turn: Any) -> Any:
    """The turn itself, whose calls block in the blocking shell."""
    return getattr(turn, "inner", turn)


def tool(shell: Shell, turn: Any, *messages: Any) -> asyncio.Future[Any]:
    """Starts a tool call of its own task, or thread, which appends its result to a turn and saves.

    It knows of the lease by the turn only: its context is another.
    """

    async def work() -> Any:
        turn.append(*messages)
        return await turn.save()

    return shell.apart(work())


async def told(*calls: Any) -> list[Any]:
    return list(await asyncio.gather(*calls, return_exceptions=True))


# ------------------------------------------------------------------------------------- nobody in the way


async def test_tool_calls_of_one_turn_do_not_conflict(shell: Shell, backend: Any) -> None:
    """Three append and save at once: all is stored once, each is told a revision that holds its result."""
    store = backend.store("run")
    await store.append(user(0))
    async with store.turn() as turn:
        revisions = await asyncio.gather(*[tool(shell, turn, user(number)) for number in (1, 2, 3)])
        found = await backend.store("run").load()
        assert set(found.messages) == {user(number) for number in range(4)}
        assert found.messages == turn.messages
        assert len(found) == 4
        for number, revision in enumerate(revisions, 1):
            assert isinstance(revision, Revision)
            assert found.messages.index(user(number)) < revision.length
            assert revision.fence == turn.lease.fence
        assert turn.revision == found.revision == max(revisions, key=lambda revision: revision.version)
        assert await turn.save() is None
    assert (await backend.store("run").load()).revision == found.revision


async def test_a_task_group_of_tool_calls(server_url: str, namespace: str) -> None:
    """As programs write it. The first save goes out at once; the second takes what has come meanwhile along."""
    async with RedisBackend.from_url(server_url, namespace=namespace) as backend:
        store = backend.store("run")
        async with store.turn() as turn:

            async def call(number: int) -> Revision | None:
                turn.append(user(number))
                return await turn.save()

            async with asyncio.TaskGroup() as group:
                calls = [group.create_task(call(number)) for number in (1, 2, 3)]
        versions = [revision.version for each in calls if (revision := each.result()) is not None]
        assert versions == [1, 2, 2]
        assert (await store.load()).messages == (user(1), user(2), user(3))


async def test_many_tasks_append_replace_and_save(shell: Shell, backend: Any) -> None:
    """Whatever comes between: each message is stored once, and in each task's own order; nobody is told a conflict."""
    async with backend.store("run").turn() as turn:

        async def work(task: int) -> None:
            for number in range(8):
                turn.append({"task": task, "number": number})
                if number % 3 != 1:
                    assert await turn.save() is not None
                await asyncio.sleep(0)

        await asyncio.gather(*[shell.apart(work(task)) for task in range(6)])
    found = (await backend.store("run").load()).messages
    assert len(found) == 48
    for task in range(6):
        assert [each["number"] for each in found if each["task"] == task] == list(range(8))


async def test_appends_of_threads_lose_nothing(server_url: str, namespace: str) -> None:
    """A snapshot is replaced by one that grew from it: between the two nobody else may put theirs."""
    interval = sys.getswitchinterval()
    sys.setswitchinterval(1e-6)
    try:
        with histstore.sync.RedisBackend.from_url(server_url, namespace=namespace) as backend:
            with backend.store("run").turn() as turn:

                def work(task: int) -> None:
                    for number in range(500):
                        turn.append(f"{task} {number}")

                await asyncio.gather(*[asyncio.to_thread(work, task) for task in range(6)])
                assert len(turn.messages) == 3000
            assert len(set(backend.store("run").load().messages)) == 3000
    finally:
        sys.setswitchinterval(interval)


# --------------------------------------------------------------------------------- while one is under way


async def test_what_is_appended_while_a_save_is_under_way(shell: Shell, backends: Backends, wire: Proxy) -> None:
    """It is neither lost nor doubled. Of two that wait, the second is told the revision that holds its message."""
    store = backends(wire.url).store("run")
    async with store.turn() as turn:
        wire.stall(saves)
        first = tool(shell, turn, user(0))
        await until(lambda: wire.stalled)
        turn.append(user(1))
        second = tool(shell, turn, user(2))
        await until(lambda: len(turn.messages) == 3)
        third = tool(shell, turn)  # nothing of its own: what is pending is the others'
        await asyncio.sleep(0.02)
        wire.from_outside(wire.go_on)
        one, two, three = await asyncio.gather(first, second, third)
        assert one.version == 1
        assert two == three == turn.revision
        assert two.version == 2
        assert await turn.save() is None
    assert (await backends().store("run").load()).messages == (user(0), user(1), user(2))


@pytest.mark.parametrize("more", [False, True])
async def test_the_end_of_a_turn_waits_for_saves_that_are_under_way(
    shell: Shell, backends: Backends, wire: Proxy, more: bool
) -> None:
    """The lease is given up when they are done; both are told that they were saved. What came meanwhile is, too."""
    store = backends(wire.url).store("run")
    scope = store.turn(cancel=False)
    turn = await scope.__aenter__()
    wire.stall(saves)
    saving = tool(shell, turn, user(0))
    await until(lambda: wire.stalled)
    ending = shell.apart(scope.__aexit__(None, None, None))
    await asyncio.sleep(0.05)
    assert not ending.done()
    assert (await backends().store("run").info()).lease.fence == turn.lease.fence
    late = tool(shell, turn, user(1)) if more else None
    await asyncio.sleep(0.02)
    wire.from_outside(wire.go_on)
    await ending
    assert (await saving).version == 1
    if late is not None:
        assert (await late).version == 2
    assert (
        (await backends().store("run").load()).messages == turn.messages == ((user(0), user(1)) if more else (user(0),))
    )
    assert turn.revision.version == len(turn.messages)
    with pytest.raises(LeaseLostError):
        await turn.save()


async def test_what_is_appended_while_the_end_saves(shell: Shell, backends: Backends, wire: Proxy) -> None:
    """A task that the body left behind appends during the last save: that is saved before the lease is given up."""
    store = backends(wire.url).store("run")
    scope = store.turn(cancel=False)
    turn = await scope.__aenter__()
    turn.append(user(0))
    wire.stall(saves)
    ending = shell.apart(scope.__aexit__(None, None, None))
    await until(lambda: wire.stalled)
    turn.append(user(1))
    wire.from_outside(wire.go_on)
    await ending
    assert (await backends().store("run").load()).messages == (user(0), user(1))


async def test_a_save_waits_for_another_no_longer_than_its_deadline(
    shell: Shell, backends: Backends, wire: Proxy
) -> None:
    """Then it says that it wrote nothing, and another try goes through."""
    store = backends(wire.url).store("run")
    async with store.turn(retry=RetryPolicy(attempts=1, deadline=4.0)) as turn:
        wire.stall(saves)
        first = tool(shell, turn, user(0))
        await until(lambda: wire.stalled)
        bare(turn)._policy = RetryPolicy(attempts=1, deadline=0.05)
        second = tool(shell, turn, user(1))
        with pytest.raises(BackendUnavailableError, match="another save of this turn was under way"):
            await second
        bare(turn)._policy = RetryPolicy()
        wire.from_outside(wire.go_on)
        assert (await first).version == 1
        assert (await turn.save()).version == 2
    assert (await backends().store("run").load()).messages == (user(0), user(1))


# --------------------------------------------------------------------------------------- what goes wrong


@pytest.mark.parametrize("applied", [True, False])
async def test_an_open_outcome_is_settled_by_another_tasks_save(
    shell: Shell, backends: Backends, wire: Proxy, applied: bool
) -> None:
    """One save's answer, or the save itself, is lost; the next one's, which waited behind it, settles it. Once each."""
    backend = backends(wire.url, retry=ONCE)
    async with backend.store("run").turn() as turn:
        wire.stall(lambda request: False)
        if applied:
            wire.lose_replies(1, saves)
        else:
            wire.keep_back(1, saves)
        found = await told(*[tool(shell, turn, user(number)) for number in range(3)])
        unknown = [each for each in found if isinstance(each, OutcomeUnknownError)]
        revisions = [each for each in found if isinstance(each, Revision)]
        assert (len(unknown), len(revisions)) == (1, 2)
        assert turn.revision in revisions
    found = await backends().store("run").load()
    assert sorted(found.messages, key=str) == [user(number) for number in range(3)]
    assert found.messages == turn.messages
    assert found.revision == turn.revision


async def test_an_error_of_one_save_is_not_the_next_ones(shell: Shell, backends: Backends) -> None:
    """What cannot be saved stays pending until it is replaced: then the others' results are stored."""
    backend = backends(max_snapshot_bytes=2000)
    async with backend.store("run").turn() as turn:
        await tool(shell, turn, user(0))
        before = turn.snapshot
        found = await told(tool(shell, turn, "x" * 3000), tool(shell, turn, user(1)))
        assert any(isinstance(each, SnapshotError) for each in found)
        assert all(isinstance(each, (SnapshotError, Revision)) for each in found)
        turn.replace(before.append(user(1)))
    assert (await backends().store("run").load()).messages == (user(0), user(1))


async def test_a_lost_lease_is_told_to_all(shell: Shell, backends: Backends, wire: Proxy) -> None:
    """Also to those that waited; nothing of theirs is stored."""
    store = backends(wire.url).store("run")
    scope = store.turn(cancel=False)
    turn = await scope.__aenter__()
    await turn.save()
    assert await backends().break_lease("run")
    found = await told(*[tool(shell, turn, user(number)) for number in range(3)])
    assert [type(each) for each in found] == [LeaseLostError] * 3
    with pytest.raises(LeaseLostError):
        await scope.__aexit__(None, None, None)
    assert await backends().store("run").load() is None


# -------------------------------------------------------------------------------------------- cancelled


@pytest.mark.parametrize("applied", [True, False])
async def test_to_cancel_a_save_disturbs_no_other(server_url: str, namespace: str, wire: Proxy, applied: bool) -> None:
    """One that is under way, or that waits: the others are stored, and so is what the cancelled ones have appended."""
    async with RedisBackend.from_url(wire.url, namespace=namespace) as backend:
        store = backend.store("run")
        async with store.turn() as turn:
            if applied:
                wire.stall(saves)
            else:
                wire.from_outside(wire.hold_requests.clear)

            async def call(number: int) -> Revision | None:
                turn.append(user(number))
                return await turn.save()

            calls = [asyncio.create_task(call(number)) for number in range(4)]
            await asyncio.sleep(0.05)  # the first is under way, the others wait
            calls[0].cancel()
            calls[2].cancel()
            await asyncio.sleep(0)
            wire.from_outside(wire.go_on if applied else wire.hold_requests.set)
            found = await told(*calls)
            assert [type(each) for each in found] == [
                asyncio.CancelledError, Revision, asyncio.CancelledError, Revision,
            ]  # fmt: skip
            assert found[1] == found[3] == turn.revision
            assert await turn.save() is None
        loaded = await store.load()
        assert loaded.messages == tuple(user(number) for number in range(4))


@pytest.mark.parametrize("left_open", [False, True])
async def test_another_writers_attempt_is_not_the_turns(namespace: str, wire: Proxy, left_open: bool) -> None:
    """A save that is cancelled while it waits for the store, where another write is under way, has sent nothing.

    To take that write for its own would call the turn saved which never was. Its next save conflicts, as the turn says.
    """
    async with RedisBackend.from_url(wire.url, namespace=namespace) as backend:
        store = backend.store("run")
        await store.append(user(0))
        scope = store.turn()
        turn = await scope.__aenter__()
        turn.append(user(1))
        wire.stall()
        loading = asyncio.create_task(store.load())
        await until(lambda: wire.stalled)
        other = asyncio.create_task(store.append(user(9)))
        await asyncio.sleep(0)
        saving = asyncio.create_task(turn.save())
        await asyncio.sleep(0)
        wire.from_outside(lambda: (wire.go_on(), wire.stall(saves)))
        await loading
        await until(lambda: store.unsettled is not None)
        saving.cancel()
        with pytest.raises(asyncio.CancelledError):
            await saving
        if left_open:
            other.cancel()
        wire.from_outside(wire.go_on)
        await asyncio.wait([other])
        assert (store.unsettled is not None) == left_open
        with pytest.raises(ConflictError):
            await scope.__aexit__(None, None, None)
        assert turn.messages == (user(0), user(1))
        assert (await store.load()).messages == (user(0), user(9))


# ------------------------------------------------------------------------------------------ interrupted


class Interrupt(BaseException):
    """What a signal's handler may raise."""


def interrupted_at(place: int, call: Any) -> bool:
    """Makes a blocking call, and raises before the given line that it runs of `turn.py`. False: it has fewer.

    Not between the end of a `with` and the release of its lock, where CPython runs no signal's handler.
    """
    left = place

    def trace(frame: FrameType, event: str, _arg: Any) -> Any:
        nonlocal left
        if not frame.f_code.co_filename.endswith("_sync/turn.py"):
            return None
        if event == "line" and not linecache.getline(frame.f_code.co_filename, frame.f_lineno).lstrip().startswith(
            "with "
        ):
            left -= 1
            if left == 0:
                raise Interrupt
        return trace

    before = sys.gettrace()
    sys.settrace(trace)
    try:
        call()
    except Interrupt:
        return True
    finally:
        sys.settrace(before)
    return left <= 0


def test_a_save_that_is_interrupted_anywhere(server_url: str, namespace: str) -> None:
    """Before each line of it once: the next save goes on from the truth, and each message is stored once."""
    with histstore.sync.RedisBackend.from_url(server_url, namespace=namespace) as backend:
        for place in range(1, 200):
            store = backend.store(f"run {place}")
            with store.turn() as turn:
                turn.append(user(0))
                reached = interrupted_at(place, turn.save)
                turn.append(user(1))
                assert turn.save() is not None
                assert turn.save() is None
                turn.append(user(2))
            found = backend.store(f"run {place}").load()
            assert found is not None
            assert found.messages == (user(0), user(1), user(2)), place
            assert found.revision == turn.revision
            if not reached:
                assert place > 10
                return
    pytest.fail("a save of a turn has 200 lines?")
