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
OPERATIONS: Final = ("save", "load", "lock")
SHORT: Final = 10
LONG: Final = 10_000
LENGTHS: Final = (SHORT, LONG)
"""Messages that a conversation has when the counting begins."""

Operation = Callable[[], Awaitable[None]]


class Run(Protocol):
    """A run that holds a conversation, and a store that has just saved it.

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


def conversation(length: int) -> ConversationSnapshot[Any]:
    return ConversationSnapshot(
        [(UserMessage, AssistantMessage)[number % 2](f"message {number:06}") for number in range(length)]
    )


def grown(snapshot: ConversationSnapshot[Any]) -> ConversationSnapshot[Any]:
    return snapshot.append(UserMessage("q" * 450), AssistantMessage("a" * 450))


class SyncRun:
    """In the blocking shell; its calls block right where they are awaited, which costs no wrapper."""

    def __init__(self, store: histstore.sync.RedisHistoryStore[Any], snapshot: ConversationSnapshot[Any]) -> None:
        self.store, self.snapshot, self.holder = store, snapshot, ""

    async def save(self) -> None:
        self.snapshot = grown(self.snapshot)
        self.store.save(self.snapshot)

    async def load(self) -> None:
        self.store.load()

    async def lock(self) -> None:
        with self.store.lock() as lease:
            self.holder = lease.holder


class AsyncRun:
    """In the asyncio shell."""

    def __init__(self, store: histstore.RedisHistoryStore[Any], snapshot: ConversationSnapshot[Any]) -> None:
        self.store, self.snapshot, self.holder = store, snapshot, ""

    async def save(self) -> None:
        self.snapshot = grown(self.snapshot)
        await self.store.save(self.snapshot)

    async def load(self) -> None:
        await self.store.load()

    async def lock(self) -> None:
        async with self.store.lock() as lease:
            self.holder = lease.holder


@contextlib.asynccontextmanager
async def runs(shell: str, url: str) -> AsyncIterator[dict[int, Run]]:
    """Yields a run of each length, saved at once. The server is the caller's own: nothing is deleted."""
    made: dict[int, Run] = {}
    if shell == "sync":
        with histstore.sync.RedisBackend.from_url(url) as blocking:
            for length in LENGTHS:
                made[length] = run = SyncRun(blocking.store(uuid.uuid4()), conversation(length))
                run.store.save(run.snapshot)
            yield made
    else:
        async with histstore.RedisBackend.from_url(url) as backend:
            for length in LENGTHS:
                made[length] = here = AsyncRun(backend.store(uuid.uuid4()), conversation(length))
                await here.store.save(here.snapshot)
            yield made


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
