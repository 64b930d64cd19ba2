"""OpenAI Agents SDK: RedisSession, a list of items a session."""

from __future__ import annotations

from typing import Any

import redis.asyncio
from agents.extensions.memory.redis_session import RedisSession

from .base import Store


class OpenAIAgents(Store):
    """`add_items` after each turn, `get_items` before it. Sessions share one client, as its guide has it."""

    def __init__(self, url: str) -> None:
        # The default limit, 100 in redis-py 8, is an error for more runs than that.
        self.client = redis.asyncio.Redis.from_url(url, max_connections=1024)
        self.runs: dict[str, RedisSession] = {}

    def messages(self, texts: list[str]) -> list[Any]:
        return [{"role": ("user", "assistant")[number % 2], "content": text} for number, text in enumerate(texts)]

    async def start(self, run: str, messages: list[Any]) -> None:
        self.runs[run] = RedisSession(run, redis_client=self.client)
        if messages:
            await self.runs[run].add_items(messages)

    async def save(self, run: str, messages: list[Any]) -> None:
        await self.runs[run].add_items(messages)

    async def load(self, run: str) -> Any:
        return await RedisSession(run, redis_client=self.client).get_items()

    def texts(self, loaded: Any) -> list[str]:
        return [item["content"] for item in loaded]

    async def add(self, run: str, messages: list[Any]) -> None:
        session = RedisSession(run, redis_client=self.client)
        await session.get_items()
        await session.add_items(messages)

    async def close(self) -> None:
        await self.client.aclose()


make = OpenAIAgents
