"""Users who talk to the workers of a deployment, and count every message."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

from histstore import (
    BackendConfigError,
    ConversationSnapshot,
    Durability,
    HistoryStoreError,
    NotReplicatedError,
    RedisBackend,
)

PATIENCE = 90.0
"""Seconds after which an answer that has not come fails the test."""

Snapshot = ConversationSnapshot[Any]


class Talk:
    """One question at a time to each of some runs. Workers answer.

    Attributes:
        backend: The users' connection.
        runs: The runs' ids.
        rounds: Questions that each run was asked.
    """

    def __init__(self, backend: RedisBackend, runs: int) -> None:
        self.backend = backend
        self.runs = [f"order-{number}" for number in range(runs)]
        self.rounds = 0

    async def round(self) -> None:
        """Ask each run one question, and wait for all answers."""
        async with asyncio.timeout(PATIENCE):
            await asyncio.gather(*(self._ask(run, f"question {self.rounds}") for run in self.runs))
            self.rounds += 1
            await asyncio.gather(*(self._hear(run) for run in self.runs))

    async def _ask(self, run: str, question: str) -> None:
        def add(now: Snapshot | None) -> Snapshot:
            now = now or Snapshot()
            # An attempt that failed may have asked it.
            asked = len(now.messages) > 2 * self.rounds
            return now if asked else now.append({"role": "user", "content": question})

        while True:
            try:
                await self.backend.store(run).update(add)
                return
            except NotReplicatedError:
                return  # it is saved; a primary whose replica has been promoted or is down has nobody to confirm it
            except BackendConfigError:
                raise
            except HistoryStoreError:
                await asyncio.sleep(0.2)

    async def _hear(self, run: str) -> None:
        store = self.backend.store(run)
        while True:
            try:
                page = await store.read(-1)
                if page is not None and page.messages[0]["role"] == "assistant":  # type: ignore[index, call-overload]
                    return
            except BackendConfigError:
                raise
            except HistoryStoreError:
                pass
            await asyncio.sleep(0.1)

    async def check(self) -> None:
        """Compare every run with what was asked and answered: nothing is missing, and nothing is there twice."""
        expected = [
            message
            for number in range(self.rounds)
            for message in (
                {"role": "user", "content": f"question {number}"},
                {"role": "assistant", "content": f"This is message {2 * number + 2}."},
            )
        ]
        for run in self.runs:
            snapshot = await self.backend.store(run).load()
            assert snapshot is not None, run
            found = list(snapshot.messages)
            assert found == expected, f"{run}: {found}"

    async def leases(self) -> list[str]:
        """Return the runs that somebody holds."""
        return [info.run_id async for info in self.backend.runs() if info.lease is not None]


@asynccontextmanager
async def talk(url: str, runs: int = 12, durability: Durability | None = None) -> AsyncIterator[Talk]:
    """Connect to a deployment."""
    async with RedisBackend.from_url(url, durability=durability or Durability()) as backend:
        yield Talk(backend, runs)
