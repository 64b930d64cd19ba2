"""Ordinary code with plain messages and no annotations, checked by mypy --strict and by pyright's strict mode.

It is never run. What must not type-check carries a "type: ignore", as in `user_code.py`.
"""

# pyright: strict, reportUnnecessaryTypeIgnoreComment=error

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal, TypedDict, TypeVar, assert_type

import histstore.sync
from histstore import (
    AssistantMessage,
    ConversationSnapshot,
    HistoryStore,
    InMemoryHistoryStore,
    JsonFileHistoryStore,
    JSONValue,
    Message,
    RedisBackend,
    RedisHistoryStore,
    Turn,
    UserMessage,
)


class ChatMessage(TypedDict):
    role: Literal["user", "assistant"]
    content: str


@dataclass
class Model:
    """What is no message: an object of another library, say."""

    role: str


# ------------------------------------------------------------------------------------------ what goes in


async def arguments(
    backend: RedisBackend,
    chat: ChatMessage,
    texts: dict[str, str],
    parts: dict[str, list[str]],
    anything: dict[str, Any],
    objects: dict[str, object],
    mapping: Mapping[str, str],
    value: JSONValue,
    many: list[dict[str, str]],
    typed: list[Message],
    either: list[Message | dict[str, str]],
) -> None:
    """Variables as programs have them: none is a `dict[str, JSONValue]`, because `dict` is invariant."""
    store = backend.store("run")
    await store.append({"role": "user", "content": "hi"}, UserMessage("hi"), "text", 3, None, b"bytes")
    await store.append({"role": "tool", "calls": [{"id": "1", "args": {}}], "n": 1.5, "ok": True})
    await store.append(chat, texts, parts, anything, objects, mapping, value, *many, *typed, *either)
    await store.splice(0, 1, {"role": "user"}, chat, texts, *many, *either, pinned=True)
    call = {"role": "assistant", "content": None, "tool_calls": [{"id": "1", "function": {"name": "f"}}]}
    await store.append(call)
    async with store.turn() as turn:
        assert_type(turn, Turn[Message | JSONValue])
        turn.append({"role": "user", "content": "hi"}, UserMessage("hi"), chat, texts, *many, *either)
        turn.replace(turn.snapshot.append(texts))
        turn.replace(ConversationSnapshot([texts]))
    async with backend.store("run").turn() as turn:
        turn.append({"role": "user", "content": "hi"})
    memory: InMemoryHistoryStore = InMemoryHistoryStore()
    file: JsonFileHistoryStore = JsonFileHistoryStore("run.json")
    for each in (memory, file, store):
        await each.save(ConversationSnapshot([texts]))
        await through_the_trait(each)


async def stores_without_an_annotation(texts: dict[str, str]) -> None:
    memory = InMemoryHistoryStore()
    assert_type(memory, InMemoryHistoryStore[Message | JSONValue])
    file = JsonFileHistoryStore("run.json")
    assert_type(file, JsonFileHistoryStore[Message | JSONValue])
    await memory.save(ConversationSnapshot([texts]).append({"n": 3}))
    await file.save((await memory.load() or ConversationSnapshot()).append(texts))

    def grown(now: ConversationSnapshot | None) -> ConversationSnapshot:
        return (now or ConversationSnapshot()).append(texts)

    async def asked(now: ConversationSnapshot | None) -> ConversationSnapshot | None:
        return now

    store = histstore.RedisBackend.from_url().store("run")
    await store.update(grown)
    await store.update(asked)


async def through_the_trait(store: HistoryStore) -> None:
    found = await store.load()
    await store.save((found or ConversationSnapshot()).append({"role": "user"}))


async def snapshots(store: RedisHistoryStore, chat: ChatMessage, texts: dict[str, str], typed: list[Message]) -> None:
    """A snapshot that was built without an annotation can be saved and grown."""
    await store.save(ConversationSnapshot())
    await store.save(ConversationSnapshot([{"role": "user", "content": "hi"}, UserMessage("hi"), "text"]))
    await store.save(ConversationSnapshot(typed))

    snapshot = ConversationSnapshot([{"role": "user", "content": "hi"}])
    await store.save(snapshot)
    await store.save(snapshot.append({"role": "tool", "n": 3}).append(UserMessage("hi")).append(chat, texts))
    await store.save(snapshot.splice(0, 1, AssistantMessage("hello"), {"n": [1]}))
    nested = ConversationSnapshot([{"role": "user", "content": [{"type": "text", "text": "hi"}], "n": 1}])
    await store.save(nested)
    both = ConversationSnapshot([UserMessage("hi"), AssistantMessage("hello"), {"role": "user"}])
    await store.save(both)

    messages = ConversationSnapshot([UserMessage("hi"), AssistantMessage("hello")])
    wider: ConversationSnapshot[Message] = messages
    await store.save(wider)
    await store.save(wider.append({"role": "user"}))
    await store.save(ConversationSnapshot([chat]))

    loaded = await store.load() or ConversationSnapshot()
    await store.save(loaded.append({"role": "user", "content": "hi"}))
    found = await store.load()
    if found is None:
        found = ConversationSnapshot()
    await store.save(found.append(chat))

    await store.update(lambda now: (now or ConversationSnapshot()).append({"role": "user"}, texts))


# ----------------------------------------------------------------------------------------- what comes out


async def results(backend: RedisBackend) -> None:
    store = backend.store("run")
    assert_type(store, RedisHistoryStore[Message | JSONValue])
    snapshot = await store.load()
    assert_type(snapshot, ConversationSnapshot[Message | JSONValue] | None)
    assert snapshot is not None
    for message in snapshot.messages:
        assert_type(message, Message | JSONValue)
        if isinstance(message, dict):
            role = message["role"]
            if isinstance(role, str):
                print(role.upper())
        elif isinstance(message, UserMessage | AssistantMessage):
            print(message.blocks)
    page = await store.read(-3)
    assert page is not None
    assert_type(page.messages, tuple[Message | JSONValue, ...])


async def with_a_type_of_its_own(backend: RedisBackend) -> None:
    """An annotation gives another message type, wherever it stands."""
    dicts: RedisHistoryStore[dict[str, Any]] = backend.store("run")
    await dicts.append({"role": "user", "content": "hi"})
    snapshot = await dicts.load() or ConversationSnapshot()
    for message in snapshot.messages:
        print(message["role"], message["content"])
    texts: RedisHistoryStore[dict[str, str]] = backend.store("run")
    await texts.save(ConversationSnapshot([{"role": "user"}]))
    typed: RedisHistoryStore[Message] = backend.store("run")
    await typed.save(ConversationSnapshot([UserMessage("hi"), AssistantMessage("hello")]))
    chats: RedisHistoryStore[ChatMessage] = backend.store("run")
    await chats.save(ConversationSnapshot([{"role": "user", "content": "hi"}]))
    await takes_chats(backend.store("run"))
    literal: ConversationSnapshot[ChatMessage] = ConversationSnapshot([{"role": "user", "content": "hi"}])
    await chats.save(literal)
    assert_type(ConversationSnapshot[Message]([UserMessage("hi")]), ConversationSnapshot[Message])
    anything: RedisHistoryStore[Any] = backend.store("run")
    await anything.append(object())


async def takes_chats(store: RedisHistoryStore[ChatMessage]) -> None:
    await store.append({"role": "user", "content": "hi"})


T = TypeVar("T", bound=Mapping[str, object])


async def last(store: RedisHistoryStore[T]) -> T | None:
    """Generic code binds its type to what can be a message."""
    page = await store.read(-1)
    return page.messages[0] if page is not None and page.messages else None


# ---------------------------------------------------------------------------------------- what must not pass


async def mistakes(
    backend: RedisBackend,
    store: RedisHistoryStore,
    turn: Turn,
    snapshot: ConversationSnapshot,
    typed: RedisHistoryStore[Message],
    chats: RedisHistoryStore[ChatMessage],
    model: Model,
) -> None:
    await backend.store("run").append(object())  # type: ignore[call-overload]
    await store.append(object())  # type: ignore[call-overload]
    await store.append({"role": "user"}, model)  # type: ignore[call-overload]
    await store.append([object()])  # type: ignore[list-item]
    await store.append({1, 2})  # type: ignore[call-overload]
    await store.append((1, 2))  # type: ignore[call-overload]
    await store.append({1: "a"})  # type: ignore[dict-item]
    await store.splice(0, 1, object())  # type: ignore[call-overload]
    await store.save(snapshot.append(model))  # type: ignore[call-overload]
    turn.append(object())  # type: ignore[call-overload]
    turn.append(model)  # type: ignore[call-overload]
    turn.replace(ConversationSnapshot([object()]))  # type: ignore[list-item,type-var]
    snapshot.append(object())  # type: ignore[call-overload]
    snapshot.splice(0, 1, object())  # type: ignore[call-overload]
    ConversationSnapshot([object()])  # type: ignore[type-var]
    ConversationSnapshot([{"role": "user"}, object()])  # type: ignore[type-var]
    ConversationSnapshot([model])  # type: ignore[type-var]
    await typed.append({"role": "user"})  # type: ignore[arg-type]
    await typed.save(ConversationSnapshot([UserMessage("hi")]).append({"a": 1}))  # type: ignore[arg-type]
    await chats.append({"role": "nobody", "content": ""})  # type: ignore[typeddict-item]
    await chats.save(ConversationSnapshot([UserMessage("hi")]))  # type: ignore[arg-type]
    wrong: ConversationSnapshot[ChatMessage] = ConversationSnapshot(["text"])  # type: ignore[assignment]
    await chats.save(wrong)
    models: RedisHistoryStore[Model] = backend.store("run")  # type: ignore[type-var,assignment]
    print(models)


# --------------------------------------------------------------------------------------------- blocking


def blocking(
    backend: histstore.sync.RedisBackend, chat: ChatMessage, texts: dict[str, str], many: list[dict[str, str]]
) -> None:
    store = backend.store("run")
    assert_type(store, histstore.sync.RedisHistoryStore[Message | JSONValue])
    store.append({"role": "user", "content": "hi"}, UserMessage("hi"), chat, texts, *many)
    store.splice(0, 1, texts, {"role": "user"})
    snapshot = ConversationSnapshot([{"role": "user", "content": "hi"}])
    store.save(snapshot.append({"n": 3}))
    store.update(lambda now: (now or ConversationSnapshot()).append(texts))
    with store.turn() as turn:
        assert_type(turn, histstore.sync.Turn[Message | JSONValue])
        turn.append({"role": "user"}, chat, texts)
        turn.replace(ConversationSnapshot([texts]))
    memory: histstore.sync.InMemoryHistoryStore = histstore.sync.InMemoryHistoryStore()
    file: histstore.sync.JsonFileHistoryStore = histstore.sync.JsonFileHistoryStore("run.json")
    trait: list[histstore.sync.HistoryStore] = [memory, file, store]
    for each in trait:
        each.save((each.load() or ConversationSnapshot()).append({"role": "user"}))
    memory.save(ConversationSnapshot([texts]))
    file.save(ConversationSnapshot([texts]))
    chats: histstore.sync.RedisHistoryStore[ChatMessage] = backend.store("run")
    chats.append({"role": "user", "content": "hi"})


def blocking_mistakes(
    store: histstore.sync.RedisHistoryStore,
    turn: histstore.sync.Turn,
    backend: histstore.sync.RedisBackend,
    model: Model,
) -> None:
    backend.store("run").append(object())  # type: ignore[call-overload]
    store.append(object())  # type: ignore[call-overload]
    store.append(model)  # type: ignore[call-overload]
    store.splice(0, 1, object())  # type: ignore[call-overload]
    turn.append(object())  # type: ignore[call-overload]
    turn.replace(ConversationSnapshot([object()]))  # type: ignore[list-item,type-var]
