"""LangGraph on plain Redis, without modules."""

from __future__ import annotations

import redis.asyncio
from langgraph_checkpoint_plainredis import AsyncRedisSaver

from .checkpoints import Checkpoints


class LanggraphPlainRedis(Checkpoints):
    """Its own client, but for the limit: 100 connections in redis-py 8, and an error beyond that."""

    def __init__(self, url: str) -> None:
        self.client = redis.asyncio.Redis.from_url(url, protocol=2, max_connections=1024)
        super().__init__(AsyncRedisSaver(self.client))

    async def close(self) -> None:
        await self.client.aclose()


make = LanggraphPlainRedis
