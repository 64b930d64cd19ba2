"""What a load costs the process that asks: memory and collections, counted. In both shells."""

from __future__ import annotations

import gc
import heapq
import tracemalloc
import uuid
from collections import Counter
from typing import Any

import pytest

from histstore import AssistantMessage, SnapshotError, ToolCall, UserMessage

from .conftest import Backends


async def run_of(backend: Any, count: int, typed: bool = True) -> Any:
    """A run of `count` messages, twenty a save; returns its id."""
    run = str(uuid.uuid4())
    store = backend.store(run)
    for number in range(0, count, 20):
        text = f"{number} " * 20
        turn = [UserMessage(text), AssistantMessage(text)] if typed else [{"role": "user", "content": text}] * 2
        await store.append(*turn * 10)
    return run


async def test_an_unchanged_load_touches_nothing_of_the_conversation(backend: Any) -> None:
    """The same snapshot again, for the same memory at 100 and at 5,000 messages."""
    peaks = []
    for count in (100, 5000):
        store = backend.store(await run_of(backend, count))
        first = await store.load()
        assert await store.load() is first
        tracemalloc.start()
        assert await store.load() is first
        peaks.append(tracemalloc.get_traced_memory()[1])
        tracemalloc.stop()
    # One list of 5,000 would be 40,000 bytes.
    assert abs(peaks[1] - peaks[0]) < 8000


async def test_plain_messages_are_the_same_in_every_load(backend: Any) -> None:
    """Loaded cold, unchanged, or with what another has added: no attempt to change one changes any other load."""
    run = await run_of(backend, 40, typed=False)
    store, other = backend.store(run), backend.store(run)
    loads = [await store.load(), await store.load()]
    await other.load()
    await other.append({"role": "user", "content": "more"})
    loads += [await store.load(), await store.load()]
    truth = loads[-1].copies()
    for load in loads:
        for message, same, old in zip(load.messages, loads[-1].messages, truth, strict=False):
            assert message is same
            with pytest.raises(TypeError, match="do not change"):
                message["content"] = "changed"
            assert message == old
    assert loads[0] is loads[1]
    assert loads[2] is loads[3]
    for load in (await store.load(), await backend.store(run).load()):
        assert load.copies() == truth


class Attributes:
    """Item access by attribute, as many programs have it. It changes a dict past its methods, in C."""

    def __init__(self, fields: dict[str, Any]) -> None:
        self.__dict__ = fields


async def test_a_message_that_was_changed_past_its_methods_damages_no_run(backend: Any) -> None:
    """A window slides over it: anchors and checkpoints resend it, and every other reader reads what they say."""
    run = str(uuid.uuid4())
    store = backend.store(run)
    await store.append({"role": "system", "content": "be good", "n": [3, 1, 2]})
    snapshot = await store.load()
    changed: Any = Attributes(snapshot.messages[0])
    changed.content = "longer than what was saved"
    heapq.heapify(snapshot.messages[0]["n"])
    for number in range(60):
        snapshot = snapshot.splice(1, 2) if len(snapshot) > 5 else snapshot
        snapshot = snapshot.append({"number": number, "content": "x" * 400})
        await store.save(snapshot)
        loaded = await backend.store(run).load()
        assert loaded.messages[1:] == snapshot.messages[1:]
    assert loaded == snapshot


async def test_what_is_no_json_value_any_more_is_refused(backend: Any) -> None:
    """eval() writes into the mapping that it is given: nothing but an error of ours comes of it."""
    store = backend.store(str(uuid.uuid4()))
    await store.append({"a": {}}, AssistantMessage([ToolCall("1", "f", {})]))
    snapshot = await store.load()
    for victim in (snapshot.messages[0]["a"], snapshot.messages[1].blocks[0].args):
        other = backend.store(str(uuid.uuid4()))
        eval("1", victim)
        with pytest.raises(SnapshotError, match=r"changed past its methods.*copies\(\)"):
            await other.save(snapshot)
        with pytest.raises(SnapshotError, match="has no JSON form"):
            snapshot.to_json()
        dict.pop(victim, "__builtins__")
    assert await other.load() is None


async def test_an_unchanged_load_of_plain_messages_touches_nothing_of_them(backend: Any) -> None:
    """The same snapshot again, for the same memory at 100 and at 5,000 messages."""
    peaks = []
    for count in (100, 5000):
        store = backend.store(await run_of(backend, count, typed=False))
        first = await store.load()
        assert await store.load() is first
        tracemalloc.start()
        assert await store.load() is first
        peaks.append(tracemalloc.get_traced_memory()[1])
        tracemalloc.stop()
    assert abs(peaks[1] - peaks[0]) < 8000


@pytest.mark.parametrize("typed", [True, False], ids=["typed", "plain"])
async def test_a_large_load_leaves_the_collector_on(backends: Backends, typed: bool) -> None:
    """10,000 messages: it runs meanwhile, as for any other code, and other threads are never without one."""
    backend = backends()
    run = await run_of(backend, 10_000, typed)
    found: Counter[int] = Counter()

    def note(phase: str, info: dict[str, int]) -> None:
        if phase == "start":
            found[info["generation"]] += 1

    store = backend.store(run)
    gc.collect()
    gc.callbacks.append(note)
    try:
        snapshot = await store.load()
    finally:
        gc.callbacks.remove(note)
    assert len(snapshot) == 10_000
    assert found[0] > 5
    assert gc.isenabled()
