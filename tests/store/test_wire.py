"""What travels: bytes and round trips, counted by a proxy. In both shells."""

from __future__ import annotations

import uuid
from typing import Any

import pytest

from histstore import AssistantMessage, ConflictError, ConversationSnapshot, UserMessage

from ..support.shells import Shell, threaded_proxy

Snapshot = ConversationSnapshot[Any]


def text(number: int, size: int) -> str:
    return (f"{number:06} " + "abcdefghi " * (size // 10 + 1))[:size]


def conversation(count: int, typed: bool, size: int = 400) -> list[Any]:
    return [message(number, typed, size) for number in range(count)]


def message(number: int, typed: bool, size: int) -> Any:
    if typed:
        return (UserMessage, AssistantMessage)[number % 2](text(number, size))
    return {"role": ("user", "assistant")[number % 2], "content": text(number, size)}


@pytest.mark.parametrize("typed", [True, False])
@pytest.mark.parametrize("way", ["save", "append", "update"])
async def test_a_turn_costs_the_turn(shell: Shell, server_url: str, typed: bool, way: str) -> None:
    """Two messages of 1,000 bytes onto 100: at most 2,700 bytes up, in one round trip (update: two)."""
    run = uuid.uuid4()
    with threaded_proxy(server_url) as wire:
        async with shell.from_url(wire.url) as backend:
            store = backend.store(run)
            snapshot = Snapshot(conversation(100, typed))
            await store.save(snapshot)
            turn = conversation(2, typed, 1000)
            wire.reset_counts()
            if way == "save":
                await store.save(snapshot.append(*turn))
            elif way == "append":
                await store.append(*turn)
            else:
                await store.update(lambda before: before.append(*turn))
            assert wire.sent <= (2700 if way != "update" else 3000), f"{wire.sent} bytes"
            assert wire.requests == (1 if way != "update" else 2)
            assert wire.received <= (100 if way != "update" else 400)
            assert len(await backend.store(run).load()) == 102
            await backend.delete(run)


async def test_a_turn_costs_the_same_whatever_the_length(shell: Shell, server_url: str) -> None:
    """The bytes of a turn are the same at 10 and at 3,000 messages, but for the digits of numbers."""
    run = uuid.uuid4()
    sent = {}
    with threaded_proxy(server_url) as wire:
        async with shell.from_url(wire.url) as backend:
            store = backend.store(run)
            for length in (10, 3000):
                snapshot = Snapshot(conversation(length, typed=True))
                await store.save(snapshot)
                wire.reset_counts()
                await store.save(snapshot.append(*conversation(2, typed=True, size=1000)))
                sent[length] = wire.sent
                assert wire.requests == 1
            await backend.delete(run)
    assert sent[10] == sent[3000]


async def test_a_sliding_window(shell: Shell, server_url: str) -> None:
    """100 messages under a kept system prompt, two of 1,000 bytes a turn: at most 3,200 bytes a turn.

    On average over 200 turns; the dearest turn, which lets the log be trimmed, is bounded by the window.
    """
    run = uuid.uuid4()
    with threaded_proxy(server_url) as wire:
        async with shell.from_url(wire.url) as backend:
            store = backend.store(run)
            window = conversation(100, typed=True, size=1000)
            snapshot = Snapshot([UserMessage(text(0, 2000)), *window], [True] + [False] * 100)
            await store.save(snapshot)
            costs = []
            for number in range(200):
                turn = [message(2 * number + k, True, 1000) for k in range(2)]
                snapshot = snapshot.append(*turn).splice(1, 3)
                wire.reset_counts()
                await store.save(snapshot)
                costs.append(wire.sent)
                assert wire.requests == 1, f"turn {number}"
            assert await backend.store(run).load() == snapshot
            await backend.delete(run)
    average = sum(costs) / len(costs)
    print(f"sliding window: {average:.0f} bytes a turn on average, {max(costs)} at most, {min(costs)} at least")
    assert average <= 3200, f"{average:.0f} bytes a turn, {max(costs)} at most"
    assert max(costs) <= 110_000, f"{max(costs)} bytes in one turn"


@pytest.mark.parametrize("typed", [True, False])
async def test_a_load_of_an_unchanged_run(shell: Shell, server_url: str, typed: bool) -> None:
    """A store that has the newest revision receives at most 300 bytes, in one round trip."""
    run = uuid.uuid4()
    with threaded_proxy(server_url) as wire:
        async with shell.from_url(wire.url) as backend:
            store = backend.store(run)
            await store.save(Snapshot(conversation(100, typed), meta={"key": "value" * 20}))
            wire.reset_counts()
            found = await store.load()
            assert len(found) == 100
            assert wire.received <= 300, f"{wire.received} bytes"
            assert wire.requests == 1
            await backend.delete(run)


async def test_no_turn_of_a_window_is_dear(shell: Shell, server_url: str) -> None:
    """A window of 100 messages of 1,000 bytes that was seeded by one save: at most 3,200 bytes in each of 150 turns."""
    run = uuid.uuid4()
    with threaded_proxy(server_url) as wire:
        async with shell.from_url(wire.url) as backend:
            store = backend.store(run)
            snapshot = Snapshot([message(0, True, 100), *(message(n, True, 1000) for n in range(1, 100))])
            await store.save(snapshot)
            sent = []
            for turn in range(150):
                snapshot = snapshot.splice(1, 3).append(*(message(200 + 2 * turn + n, True, 1000) for n in (0, 1)))
                wire.reset_counts()
                await store.save(snapshot)
                sent.append(wire.sent)
            assert max(sent[1:]) <= 3200, f"turn {sent.index(max(sent))}: {max(sent)} bytes"
            assert await backend.store(run).load() == snapshot
            await backend.delete(run)


async def test_a_load_that_is_behind_receives_what_is_missing(shell: Shell, server_url: str) -> None:
    """Two messages behind: the two messages, in one round trip."""
    run = uuid.uuid4()
    with threaded_proxy(server_url) as wire:
        async with shell.from_url(wire.url) as backend:
            store, rival = backend.store(run), backend.store(run)
            await store.save(Snapshot(conversation(100, typed=True)))
            await rival.load()
            await rival.append(*conversation(2, typed=True, size=1000))
            wire.reset_counts()
            assert len(await store.load()) == 102
            assert wire.received <= 2700, f"{wire.received} bytes"
            assert wire.requests == 1
            await backend.delete(run)


async def test_an_unchanged_save_sends_no_messages(shell: Shell, server_url: str) -> None:
    """Content that did not change costs a compare."""
    run = uuid.uuid4()
    with threaded_proxy(server_url) as wire:
        async with shell.from_url(wire.url) as backend:
            store = backend.store(run)
            await store.save(Snapshot(conversation(100, typed=False)))
            loaded = await store.load()
            await store.save(loaded)  # the first one on a server brings the script along
            wire.reset_counts()
            await store.save(loaded)
            assert wire.sent <= 400, f"{wire.sent} bytes"
            assert wire.requests == 1
            await backend.delete(run)


async def test_a_refused_save_costs_one_round_trip(shell: Shell, server_url: str) -> None:
    """A conflict tells the current revision without another request."""
    run = uuid.uuid4()
    with threaded_proxy(server_url) as wire:
        async with shell.from_url(wire.url) as backend:
            store, rival = backend.store(run), backend.store(run)
            await store.save(Snapshot(conversation(10, typed=True)))
            stale = await store.load()
            await rival.load()
            revision = await rival.append(message(11, True, 10))
            wire.reset_counts()
            with pytest.raises(ConflictError) as caught:
                await store.save(stale.append(message(12, True, 10)))
            assert caught.value.actual == revision
            assert wire.requests == 1
            await backend.delete(run)
