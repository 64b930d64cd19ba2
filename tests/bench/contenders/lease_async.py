"""This library's lease."""

from __future__ import annotations

import asyncio
import time

from histstore import RedisBackend

from .base import Lock


class LeaseAsync(Lock):
    """`store.lock()`."""

    def __init__(self, url: str) -> None:
        self.backend = RedisBackend.from_url(url)

    async def warm(self, run: str) -> None:
        await self.backend.store(run).info()

    async def turns(self, run: str, rounds: int, hold: float, ttl: float) -> list[tuple[float, float]]:
        store, inside = self.backend.store(run), []
        for _ in range(rounds):
            async with store.lock(ttl=ttl, acquire_timeout=120.0):
                began = time.monotonic()
                await asyncio.sleep(hold)
                inside.append((began, time.monotonic()))
        return inside

    async def close(self) -> None:
        await self.backend.aclose()


make = LeaseAsync
