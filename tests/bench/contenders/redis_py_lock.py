"""redis-py's own asyncio lock, which looks again every tenth of a second."""

from __future__ import annotations

import asyncio
import time

import redis.asyncio

from .base import Lock


class RedisPyLock(Lock):
    """`client.lock(name)` with its defaults."""

    def __init__(self, url: str) -> None:
        self.client = redis.asyncio.Redis.from_url(url)

    async def warm(self, run: str) -> None:
        await self.client.ping()

    async def turns(self, run: str, rounds: int, hold: float, ttl: float) -> list[tuple[float, float]]:
        inside = []
        for _ in range(rounds):
            async with self.client.lock(f"bench:lock:{run}", timeout=ttl):
                began = time.monotonic()
                await asyncio.sleep(hold)
                inside.append((began, time.monotonic()))
        return inside

    async def close(self) -> None:
        await self.client.aclose()


make = RedisPyLock
