"""redis-py alone: a SET of the turn's bytes.

It keeps no conversation; it is what a round trip with those bytes costs.
"""

from __future__ import annotations

from typing import Any

import redis.asyncio

from .base import Yardstick


class RawTurn(Yardstick):
    """The yardstick for a save. A load is a GET of the whole conversation's bytes, not decoded."""

    def __init__(self, url: str) -> None:
        # The default limit, 100 in redis-py 8, is an error for more runs than that.
        self.client = redis.asyncio.Redis.from_url(url, max_connections=1024)

    def messages(self, texts: list[str]) -> list[Any]:
        return [text.encode() for text in texts]

    async def start(self, run: str, messages: list[Any]) -> None:
        await self.client.set(f"bench:raw:{run}:all", b"".join(messages))

    async def save(self, run: str, messages: list[Any]) -> None:
        await self.client.set(f"bench:raw:{run}", b"".join(messages))

    async def load(self, run: str) -> Any:
        return await self.client.get(f"bench:raw:{run}:all")

    async def close(self) -> None:
        await self.client.aclose()


make = RawTurn
