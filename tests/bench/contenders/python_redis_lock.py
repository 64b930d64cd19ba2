"""python-redis-lock: waiters block on a list. Blocking."""

from __future__ import annotations

import time

import redis
import redis_lock

from .base import Lock


class PythonRedisLock(Lock):
    """`redis_lock.Lock` with a lifetime that it renews, as a lease does."""

    def __init__(self, url: str) -> None:
        self.client = redis.StrictRedis.from_url(url)

    async def warm(self, run: str) -> None:
        self.client.ping()

    async def turns(self, run: str, rounds: int, hold: float, ttl: float) -> list[tuple[float, float]]:
        inside = []
        for _ in range(rounds):
            with redis_lock.Lock(self.client, f"bench:{run}", expire=int(ttl), auto_renewal=True):
                began = time.monotonic()
                time.sleep(hold)  # noqa: ASYNC251 - a blocking contender
                inside.append((began, time.monotonic()))
        return inside

    async def close(self) -> None:
        self.client.close()


make = PythonRedisLock
