"""LangGraph's own saver for Redis: JSON documents, and indices over them."""

from __future__ import annotations

import redis.asyncio
from langgraph.checkpoint.redis.aio import AsyncRedisSaver

from .checkpoints import Checkpoints


class LanggraphRedis(Checkpoints):
    """`asetup` once, which makes the indices."""

    def __init__(self, url: str) -> None:
        self.client = redis.asyncio.Redis.from_url(url, max_connections=1024)
        self._set_up = False
        super().__init__(AsyncRedisSaver(redis_client=self.client))

    async def set_up(self) -> None:
        if not self._set_up:
            await self.saver.asetup()
            self._set_up = True

    async def close(self) -> None:
        await self.client.aclose()


make = LanggraphRedis
