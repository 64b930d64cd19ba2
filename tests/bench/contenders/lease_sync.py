"""This library's lease, blocking."""

from __future__ import annotations

import time

from histstore.sync import RedisBackend

from .base import Lock


class LeaseSync(Lock):
    """`store.lock()`."""

    def __init__(self, url: str) -> None:
        self.backend = RedisBackend.from_url(url)

    async def warm(self, run: str) -> None:
        self.backend.store(run).info()

    async def turns(self, run: str, rounds: int, hold: float, ttl: float) -> list[tuple[float, float]]:
        store, inside = self.backend.store(run), []
        for _ in range(rounds):
            with store.lock(ttl=ttl, acquire_timeout=120.0):
                began = time.monotonic()
                time.sleep(hold)  # noqa: ASYNC251 - a blocking contender
                inside.append((began, time.monotonic()))
        return inside

    async def close(self) -> None:
        self.backend.close()


make = LeaseSync
