"""Ordinary user code against the public API, checked by mypy --strict and by pyright. It is never run.

`assert_type` pins what a call returns. What must not type-check carries a "type: ignore", which both checkers
honour; mypy's warn_unused_ignores and pyright's reportUnnecessaryTypeIgnoreComment fail when it starts to type-check.
"""

# pyright: reportUnnecessaryTypeIgnoreComment=error

from __future__ import annotations

import uuid
from collections.abc import AsyncIterator, Iterator, Mapping
from contextlib import AbstractAsyncContextManager
from datetime import datetime
from typing import Any, Literal, TypedDict, assert_type

import redis
import redis.asyncio

import histstore
import histstore.sync
from histstore import (
    ANY,
    KEEP,
    SEEN,
    AssistantMessage,
    Attempt,
    BackendUnavailableError,
    ConflictError,
    ConversationSnapshot,
    Durability,
    Event,
    Expect,
    HistoryStore,
    HistoryStoreError,
    InMemoryHistoryStore,
    JsonFileHistoryStore,
    JSONValue,
    Keep,
    Lease,
    LeaseInfo,
    LeaseLostError,
    LockedError,
    LockTimeoutError,
    Message,
    NotReplicatedError,
    Observer,
    OutcomeUnknownError,
    Page,
    RedisBackend,
    RedisHistoryStore,
    RetryPolicy,
    Revision,
    RevisionGoneError,
    RunId,
    RunInfo,
    Text,
    ToolCall,
    ToolResult,
    Turn,
    UserMessage,
)


class ChatMessage(TypedDict):
    """What a model's client holds."""

    role: Literal["user", "assistant"]
    content: str


def user(text: str) -> ChatMessage:
    return {"role": "user", "content": text}


# ------------------------------------------------------------------------------------------- values


def values() -> None:
    empty: ConversationSnapshot[ChatMessage] = ConversationSnapshot()
    assert_type(empty.append(user("hi")), ConversationSnapshot[ChatMessage])
    assert_type(empty.splice(0, None, user("hi"), pinned=True), ConversationSnapshot[ChatMessage])
    assert_type(empty.with_meta({"title": "x"}), ConversationSnapshot[ChatMessage])
    assert_type(empty.messages, tuple[ChatMessage, ...])
    assert_type(empty.pinned, tuple[bool, ...])
    assert_type(empty.meta, Mapping[str, JSONValue])
    assert_type(empty.revision, Revision | None)
    assert_type(empty.version, int)
    assert_type(empty.to_json(indent=2), bytes)
    assert_type(ConversationSnapshot.from_json(b"{}"), ConversationSnapshot[Message | JSONValue])
    read: ConversationSnapshot[ChatMessage] = ConversationSnapshot.from_json(b"{}")
    assert_type(read, ConversationSnapshot[ChatMessage])
    assert_type(len(empty), int)

    typed: ConversationSnapshot[Message] = ConversationSnapshot([UserMessage("hi"), AssistantMessage("hello")])
    for message in typed.messages:
        assert_type(message, UserMessage | AssistantMessage)
        for block in message.blocks:
            if isinstance(block, ToolCall):
                assert_type(block.id, str)
            elif isinstance(block, Text):
                assert_type(block.text, str)
    UserMessage([Text("a"), ToolResult("1", "done")])
    AssistantMessage([Text("a"), ToolCall("1", "f", {"nested": [1, None, b"x"]})])

    for message in typed.messages:
        if message.role == "user":
            assert_type(message, UserMessage)
        else:
            assert_type(message, AssistantMessage)
        assert_type(message.to_dict(), dict[str, Any])
        print(list(message))  # type: ignore[call-overload]
    assert_type(UserMessage.from_dict({}), UserMessage)
    assert_type(RunInfo.from_dict({}), RunInfo)
    assert_type(histstore.jsonable(object()), JSONValue)
    assert_type(histstore.sync.jsonable(object()), JSONValue)
    ConversationSnapshot([histstore.jsonable(object())])
    UserMessage("hi").blocks = ()  # type: ignore[misc]

    # Without a type parameter it is one of any messages that can be saved.
    anything: ConversationSnapshot = ConversationSnapshot()
    assert_type(anything.append({"a": 1}, None).messages[0], Message | JSONValue)

    revision = Revision.parse("1-" + "0" * 32)
    assert_type(revision, Revision)
    assert_type(revision.version, int)
    assert_type(revision.etag, bytes)
    assert_type(revision.saved_at, datetime | None)
    assert_type(revision.fence, int | None)
    assert_type(str(revision), str)
    assert_type(RunId.new(), RunId)
    name: str = RunId(uuid.uuid4())
    print(name)


def values_that_do_not_fit() -> None:
    snapshot: ConversationSnapshot[ChatMessage] = ConversationSnapshot()
    snapshot.append("text")  # type: ignore[arg-type]
    snapshot.append({"role": "nobody", "content": ""})  # type: ignore[typeddict-item]
    snapshot.messages = ()  # type: ignore[misc]
    snapshot.meta["a"] = 1  # type: ignore[index]
    UserMessage([ToolCall("1", "f", {})])  # type: ignore[list-item]
    AssistantMessage([ToolResult("1", "x")])  # type: ignore[list-item]
    UserMessage("hi").blocks = ()  # type: ignore[misc]
    Revision("1", bytes(16))  # type: ignore[arg-type]
    RunId(3)  # type: ignore[arg-type]


# -------------------------------------------------------------------------------------------- asyncio


async def turn(backend: RedisBackend) -> None:
    store: RedisHistoryStore[ChatMessage] = backend.store("order-4711")
    untyped = backend.store(uuid.uuid4())
    assert_type(untyped, RedisHistoryStore[Message | JSONValue])
    snapshot = await store.load()
    assert_type(snapshot, ConversationSnapshot[ChatMessage] | None)
    if snapshot is None:
        snapshot = ConversationSnapshot()
    assert_type(await store.save(snapshot.append(user("hi"))), Revision)
    assert_type(await store.save(snapshot, expected=ANY, retry=RetryPolicy(attempts=1)), Revision)
    await store.save(snapshot, expected=SEEN)
    await store.save(snapshot, expected=None)
    await store.save(snapshot, expected=Revision.parse("1-" + "0" * 32))
    assert_type(await store.append(user("hi"), pinned=True, meta={"n": 1}), Revision)
    assert_type(await store.splice(0, -1, user("hi"), expected=Expect.ANY), Revision)
    assert_type(await store.splice(1, 3), Revision)
    assert_type(await store.append(*snapshot.messages), Revision)
    assert_type(await store.load(at=3), ConversationSnapshot[ChatMessage] | None)
    assert_type(await store.read(-10), Page[ChatMessage] | None)
    page = await store.read(0, 5)
    if page is not None:
        assert_type(page.messages, tuple[ChatMessage, ...])
        assert_type(page.start, int)
    assert_type(await store.info(), RunInfo | None)
    info = await store.info()
    if info is not None:
        assert_type(info.lease, LeaseInfo | None)
        assert_type(info.revision, Revision | None)
        assert_type(info.created_at, datetime | None)
        assert_type(info.saved_at, datetime | None)
        assert_type(info.expires_at, datetime | None)
        assert_type(info.run_id, RunId)
    assert_type(store.revisions(limit=3), AsyncIterator[Revision])
    async for revision in store.revisions():
        assert_type(revision, Revision)
    assert_type(await store.trim(), Revision | None)
    assert_type(await store.delete(), bool)
    assert_type(await store.resolve(), Revision | None)
    assert_type(store.unsettled, Attempt | None)
    assert_type(store.revision, Revision | None)
    assert_type(store.run_id, RunId)


async def hand_on(
    store: RedisHistoryStore[ChatMessage],
    expected: Revision | Expect | None = SEEN,
    meta: Mapping[str, JSONValue] | Keep = KEEP,
    retry: RetryPolicy | None = None,
    lease: Lease | None = None,
) -> Revision:
    """Each option has a public type, so that a function can hand it on."""
    async with turn_of(store, expected) as turn:
        turn.append(user("hi"), meta=meta)
    await store.delete(expected=expected, lease=lease, retry=retry)
    return await store.append(user("hi"), expected=expected, meta=meta, lease=lease, retry=retry)


def turn_of(
    store: RedisHistoryStore[ChatMessage], expected: Revision | Expect | None
) -> AbstractAsyncContextManager[Turn[ChatMessage]]:
    return store.turn(expected=expected, cancel=False)


def lock_of(store: RedisHistoryStore[ChatMessage]) -> AbstractAsyncContextManager[Lease]:
    return store.lock(cancel=False)


async def updates(store: RedisHistoryStore[ChatMessage]) -> None:
    def add(snapshot: ConversationSnapshot[ChatMessage] | None) -> ConversationSnapshot[ChatMessage]:
        return (snapshot or ConversationSnapshot()).append(user("hi"))

    async def ask(snapshot: ConversationSnapshot[ChatMessage] | None) -> ConversationSnapshot[ChatMessage] | None:
        return snapshot

    assert_type(await store.update(add), Revision | None)
    assert_type(await store.update(ask, retry=RetryPolicy(deadline=5)), Revision | None)
    await store.update(lambda snapshot: snapshot.append(user("hi")) if snapshot is not None else None)


async def backends(client: redis.asyncio.Redis) -> None:
    async with RedisBackend.from_url() as backend:
        assert_type(backend, RedisBackend)
    async with RedisBackend.from_url("redis://localhost", run_ttl=60, keep_revisions=3, namespace="n") as backend:
        async for info in backend.runs(prefix="a"):
            assert_type(info, RunInfo)
        assert_type(await backend.delete("run"), bool)
    backend = RedisBackend(client, retry=RetryPolicy(), durability=Durability(replicas=1, fsync=True))
    await backend.aclose()
    async with RedisBackend.embedded() as backend:
        await turn(backend)
    RedisBackend.from_url(
        "redis://localhost",
        namespace="n",
        run_ttl=0.5,
        keep_revisions=3,
        retry=RetryPolicy(),
        durability=Durability(),
        max_snapshot_bytes=1 << 20,
        observer=Timer(),
    )
    RedisBackend.embedded("data", run_ttl=None, retry=None, durability=None)


class Timer(Observer):
    def finished(self, event: Event) -> None:
        assert_type(event.seconds, float)
        assert_type(event.run, tuple[str, str] | None)
        assert_type(event.error, BaseException | None)
        if event.outcome == "answered":
            assert_type(event.answer, str | None)


def options_that_do_not_exist(client: redis.asyncio.Redis, blocking: redis.Redis) -> None:
    RedisBackend.from_url(run_tll=3)  # type: ignore[call-arg]
    RedisBackend.from_url(keep_revisions="many")  # type: ignore[arg-type]
    RedisBackend.from_url("redis://localhost", "namespace")  # type: ignore[call-arg]
    RedisBackend.from_url(retry=3)  # type: ignore[arg-type]
    RedisBackend.from_url(durability=RetryPolicy())  # type: ignore[arg-type]
    RedisBackend.from_url(namespace=None)  # type: ignore[arg-type]
    RedisBackend.from_url(observer=Timer)  # type: ignore[arg-type]
    RedisBackend.from_url(max_snapshot_bytes=1.5)  # type: ignore[arg-type]
    RedisBackend.embedded(run_tll=3)  # type: ignore[call-arg]
    RedisBackend.embedded(keep_revisions="many")  # type: ignore[arg-type]
    RedisBackend.embedded(run_ttl="1h")  # type: ignore[arg-type]
    RedisBackend.embedded(3)  # type: ignore[arg-type]
    RedisBackend(client, run_tll=3)  # type: ignore[call-arg]
    RedisBackend(client, keep_revisions="many")  # type: ignore[arg-type]
    RedisBackend(client, "namespace")  # type: ignore[call-arg]
    histstore.sync.RedisBackend.from_url(run_tll=3)  # type: ignore[call-arg]
    histstore.sync.RedisBackend.from_url(keep_revisions="many")  # type: ignore[arg-type]
    histstore.sync.RedisBackend.embedded(run_tll=3)  # type: ignore[call-arg]
    histstore.sync.RedisBackend.embedded(keep_revisions="many")  # type: ignore[arg-type]
    histstore.sync.RedisBackend(blocking, run_tll=3)  # type: ignore[call-arg]
    histstore.sync.RedisBackend(blocking, keep_revisions="many")  # type: ignore[arg-type]
    print(histstore.RedisBackendd)  # type: ignore[attr-defined]


async def leases(store: RedisHistoryStore[ChatMessage], backend: RedisBackend) -> None:
    async with store.lock(ttl=10, acquire_timeout=0, renew=False, cancel=False) as lease:
        assert_type(lease, Lease)
        assert_type(lease.fence, int)
        assert_type(lease.holder, str)
        assert_type(lease.run_id, RunId)
        assert_type(lease.lost, bool)
        assert_type(lease.remaining(), float)
        assert_type(await lease.wait_lost(), bool)
        lease.check()
        await lease.renew()
        await store.save(ConversationSnapshot(), lease=lease)
        await store.append(user("hi"), lease=lease)
        await store.splice(0, 1, lease=lease)
        await store.update(lambda snapshot: snapshot, lease=lease)
        await store.delete(lease=lease)
    async with store.lock(acquire_timeout=None, retry=RetryPolicy(attempts=1)):
        pass
    assert_type(await backend.break_lease("run"), bool)


async def turns(store: RedisHistoryStore[ChatMessage], backend: RedisBackend) -> None:
    async with store.turn() as turn:
        assert_type(turn, Turn[ChatMessage])
        assert_type(turn.messages, tuple[ChatMessage, ...])
        assert_type(turn.snapshot, ConversationSnapshot[ChatMessage])
        assert_type(turn.revision, Revision | None)
        assert_type(turn.lease, Lease)
        turn.append(user("hi"), user("there"), pinned=True, meta={"n": 1})
        assert_type(turn.meta, Mapping[str, JSONValue])
        turn.meta = {"n": 2}
        turn.meta = 3  # type: ignore[assignment]
        turn.replace(turn.snapshot.splice(0, 1))
        assert_type(await turn.save(), Revision | None)
    async with store.turn(ttl=10, acquire_timeout=3.5, expected=turn.revision, cancel=False, retry=RetryPolicy()):
        pass
    async with store.turn(expected=SEEN), backend.store("another").turn(expected=None) as untyped:
        assert_type(untyped, Turn[Message | JSONValue])


async def lease_mistakes(store: RedisHistoryStore[ChatMessage], blocking: histstore.sync.Lease) -> None:
    store.lock(10)  # type: ignore[call-arg]
    store.lock(ttl="10")  # type: ignore[arg-type]
    store.turn(renew=False)  # type: ignore[call-arg]
    store.turn(expected="any")  # type: ignore[arg-type]
    await store.append(user("hi"), lease=store.lock())  # type: ignore[arg-type]
    await store.append(user("hi"), lease=blocking)  # type: ignore[arg-type]
    with store.lock():  # type: ignore[attr-defined]
        pass
    async with store.lock() as lease:
        lease.fence = 3  # type: ignore[misc]
    async with store.turn() as turn:
        turn.append("text")  # type: ignore[arg-type]
        turn.replace(())  # type: ignore[arg-type]


async def any_store(store: HistoryStore[ChatMessage]) -> int:
    """Code against the seed's trait takes every store."""
    snapshot = await store.load()
    assert_type(snapshot, ConversationSnapshot[ChatMessage] | None)
    await store.save((snapshot or ConversationSnapshot()).append(user("hi")))
    return 0 if snapshot is None else len(snapshot.messages)


async def every_store(backend: RedisBackend) -> None:
    memory: InMemoryHistoryStore[ChatMessage] = InMemoryHistoryStore()
    file: JsonFileHistoryStore[ChatMessage] = JsonFileHistoryStore("run.json")
    in_redis: RedisHistoryStore[ChatMessage] = backend.store("run")
    for store in (memory, file, in_redis):
        await any_store(store)
    plain: HistoryStore = InMemoryHistoryStore()
    assert_type(await plain.load(), ConversationSnapshot[Message | JSONValue] | None)


async def mistakes(store: RedisHistoryStore[ChatMessage], page: Page[ChatMessage], client: redis.Redis) -> None:
    await store.append("text")  # type: ignore[arg-type]
    await store.append([user("hi")])  # type: ignore[arg-type]
    await store.save(page)  # type: ignore[arg-type]
    await store.save(ConversationSnapshot(), "any")  # type: ignore[call-arg,arg-type]
    await store.save(ConversationSnapshot(), expected="any")  # type: ignore[arg-type]
    await store.load(3)  # type: ignore[call-arg]
    await store.load(at="3-00")  # type: ignore[arg-type]
    await store.update(lambda snapshot: 3)  # type: ignore[arg-type,return-value]
    (await store.load()).append(user("hi"))  # type: ignore[union-attr]
    RedisBackend("redis://localhost")  # type: ignore[arg-type]
    RedisBackend(client)  # type: ignore[arg-type]
    store.revision = None  # type: ignore[misc]


# ------------------------------------------------------------------------------------------- blocking


def blocking_turn(client: redis.Redis) -> None:
    with histstore.sync.RedisBackend(client) as backend:
        store: histstore.sync.RedisHistoryStore[ChatMessage] = backend.store("run")
        snapshot = store.load()
        assert_type(snapshot, ConversationSnapshot[ChatMessage] | None)
        assert_type(store.save((snapshot or ConversationSnapshot()).append(user("hi"))), Revision)
        assert_type(store.append(user("hi")), Revision)
        assert_type(store.read(-3), Page[ChatMessage] | None)
        assert_type(store.revisions(), Iterator[Revision])
        assert_type(backend.runs(), Iterator[RunInfo])
        assert_type(store.update(lambda before: before), Revision | None)
        assert_type(store.info(), RunInfo | None)
        assert_type(store.delete(), bool)
        assert_type(backend.delete("run"), bool)
    histstore.sync.RedisBackend.from_url("redis://localhost").close()


def blocking_leases(store: histstore.sync.RedisHistoryStore[ChatMessage], backend: histstore.sync.RedisBackend) -> None:
    with store.lock(ttl=10, acquire_timeout=0, renew=False, cancel=False) as lease:
        assert_type(lease, histstore.sync.Lease)
        assert_type(lease.fence, int)
        assert_type(lease.wait_lost(), bool)
        lease.renew()
        assert_type(store.append(user("hi"), lease=lease), Revision)
    with store.turn(expected=SEEN) as turn:
        assert_type(turn, histstore.sync.Turn[ChatMessage])
        assert_type(turn.save(), Revision | None)
        assert_type(turn.lease, histstore.sync.Lease)
        turn.append(user("hi"))
    assert_type(backend.break_lease("run"), bool)


def blocking_store(store: histstore.sync.HistoryStore[ChatMessage]) -> None:
    assert_type(store.load(), ConversationSnapshot[ChatMessage] | None)
    assert_type(store.save(ConversationSnapshot()), Revision)


def every_blocking_store(backend: histstore.sync.RedisBackend) -> None:
    blocking_store(histstore.sync.InMemoryHistoryStore())
    blocking_store(histstore.sync.JsonFileHistoryStore("run.json"))
    blocking_store(backend.store("run"))


def blocking_mistakes(store: histstore.sync.RedisHistoryStore[ChatMessage], client: redis.asyncio.Redis) -> None:
    store.append("text")  # type: ignore[arg-type]
    histstore.sync.RedisBackend(client)  # type: ignore[arg-type]
    blocking_store(histstore.InMemoryHistoryStore())  # type: ignore[arg-type]


# --------------------------------------------------------------------------------------------- errors


async def errors(store: RedisHistoryStore[ChatMessage], snapshot: ConversationSnapshot[ChatMessage]) -> None:
    try:
        await store.save(snapshot)
    except ConflictError as error:
        assert_type(error.expected, Revision | None)
        assert_type(error.run_id, str | None)
        assert_type(error.actual, Revision | None)
    except OutcomeUnknownError as error:
        assert_type(await store.resolve(error.attempt), Revision | None)
        assert_type(Attempt.parse(str(error.attempt)), Attempt)
    except NotReplicatedError as error:
        assert_type(error.revision, Revision)
        assert_type(error.acked + error.wanted, int)
    except LockedError as error:
        assert_type(error.holder, str)
        assert_type(error.expires_in, float)
    except LeaseLostError as error:
        assert_type(error.fence, int)
        assert_type(error.current, int | None)
    except LockTimeoutError as error:
        assert_type(error.holder, str | None)
        assert_type(error.expires_in, float | None)
    except RevisionGoneError as error:
        assert_type(error.requested, Revision | int)
    except BackendUnavailableError:
        raise
    except HistoryStoreError as error:
        print(error)
