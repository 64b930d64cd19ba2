"""The operations that are counted, in both shells, one call each: what is around them costs next to nothing."""

from __future__ import annotations

import contextlib
import uuid
from collections.abc import AsyncIterator, Awaitable, Callable
from typing import Any, Final, Protocol

import histstore
import histstore.sync
from histstore import AssistantMessage, ConversationSnapshot, UserMessage

from . import yardstick

SHELLS: Final = ("sync", "async")
OPERATIONS: Final = ("save", "load", "lock", "save_dict", "load_dict")
SHORT: Final = 10
LONG: Final = 10_000
LENGTHS: Final = (SHORT, LONG)
"""Messages that a conversation has when the counting begins."""

Operation = Callable[[], Awaitable[None]]


class Run(Protocol):
    """A run that holds a conversation of typed messages and one that holds the same of dicts, both just saved.

    Attributes:
        holder: Who held the lease last.
    """

    holder: str

    async def save(self) -> None:
        """Saves a turn: a question and an answer, 900 bytes together."""

    async def load(self) -> None:
        """Loads what the store already has."""

    async def lock(self) -> None:
        """Takes the run's lease, which nobody else wants, and gives it back."""

    async def save_dict(self) -> None:
        """Does what `save` does, with dicts."""

    async def load_dict(self) -> None:
        """Does what `load` does, of dicts."""


def conversation(length: int) -> ConversationSnapshot[Any]:
    return ConversationSnapshot(
        [(UserMessage, AssistantMessage)[number % 2](f"message {number:06}") for number in range(length)]
    )


def grown(snapshot: ConversationSnapshot[Any]) -> ConversationSnapshot[Any]:
    return snapshot.append(UserMessage("q" * 450), AssistantMessage("a" * 450))


def dicts(length: int) -> ConversationSnapshot[Any]:
    return ConversationSnapshot(
        [{"role": ("user", "assistant")[number % 2], "content": f"message {number:06}"} for number in range(length)]
    )


def grown_by_dicts(snapshot: ConversationSnapshot[Any]) -> ConversationSnapshot[Any]:
    return snapshot.append({"role": "user", "content": "q" * 450}, {"role": "assistant", "content": "a" * 450})


class SyncRun:
    """In the blocking shell; its calls block right where they are awaited, which costs no wrapper."""

    def __init__(self, backend: histstore.sync.RedisBackend, length: int) -> None:
        self.store, self.snapshot, self.holder = backend.store(uuid.uuid4()), conversation(length), ""
        self.store.save(self.snapshot)
        self.dict_store, self.dict_snapshot = backend.store(uuid.uuid4()), dicts(length)
        self.dict_store.save(self.dict_snapshot)

    async def save(self) -> None:
        self.snapshot = grown(self.snapshot)
        self.store.save(self.snapshot)

    async def load(self) -> None:
        self.store.load()

    async def lock(self) -> None:
        with self.store.lock() as lease:
            self.holder = lease.holder

    async def save_dict(self) -> None:
        self.dict_snapshot = grown_by_dicts(self.dict_snapshot)
        self.dict_store.save(self.dict_snapshot)

    async def load_dict(self) -> None:
        self.dict_store.load()


class AsyncRun:
    """In the asyncio shell."""

    def __init__(self, backend: histstore.RedisBackend, length: int) -> None:
        self.store, self.snapshot, self.holder = backend.store(uuid.uuid4()), conversation(length), ""
        self.dict_store, self.dict_snapshot = backend.store(uuid.uuid4()), dicts(length)

    @classmethod
    async def made(cls, backend: histstore.RedisBackend, length: int) -> AsyncRun:
        run = cls(backend, length)
        await run.store.save(run.snapshot)
        await run.dict_store.save(run.dict_snapshot)
        return run

    async def save(self) -> None:
        self.snapshot = grown(self.snapshot)
        await self.store.save(self.snapshot)

    async def load(self) -> None:
        await self.store.load()

    async def lock(self) -> None:
        async with self.store.lock() as lease:
            self.holder = lease.holder

    async def save_dict(self) -> None:
        self.dict_snapshot = grown_by_dicts(self.dict_snapshot)
        await self.dict_store.save(self.dict_snapshot)

    async def load_dict(self) -> None:
        await self.dict_store.load()


@contextlib.asynccontextmanager
async def runs(shell: str, url: str) -> AsyncIterator[dict[int, Run]]:
    """Yields a run of each length, saved at once. The server is the caller's own: nothing is deleted."""
    if shell == "sync":
        with histstore.sync.RedisBackend.from_url(url) as blocking:
            yield {length: SyncRun(blocking, length) for length in LENGTHS}
    else:
        async with histstore.RedisBackend.from_url(url) as backend:
            yield {length: await AsyncRun.made(backend, length) for length in LENGTHS}


@contextlib.asynccontextmanager
async def yardsticks(shell: str, url: str) -> AsyncIterator[Operation]:
    client = yardstick.Blocking(url) if shell == "sync" else await yardstick.Asyncio.connect(url)
    try:
        yield client.set
    finally:
        await client.close()


async def repeat(operation: Operation, times: int) -> None:
    for _ in range(times):
        await operation()
