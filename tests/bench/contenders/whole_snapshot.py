"""redis-py and CBOR: the whole conversation is encoded and SET at every turn, and a load is a GET."""

from __future__ import annotations

from typing import Any

import cbor2
import redis.asyncio

from .base import Store


class WholeSnapshot(Store):
    """What is written when nothing better is at hand."""

    def __init__(self, url: str) -> None:
        # The default limit, 100 in redis-py 8, is an error for more runs than that.
        self.client = redis.asyncio.Redis.from_url(url, max_connections=1024)
        self.runs: dict[str, list[Any]] = {}

    def messages(self, texts: list[str]) -> list[Any]:
        return [{"role": ("user", "assistant")[number % 2], "content": text} for number, text in enumerate(texts)]

    async def start(self, run: str, messages: list[Any]) -> None:
        self.runs[run] = []
        await self.save(run, messages)

    async def save(self, run: str, messages: list[Any]) -> None:
        conversation = self.runs[run] + messages
        await self.client.set(f"bench:whole:{run}", cbor2.dumps(conversation))
        self.runs[run] = conversation

    async def load(self, run: str) -> Any:
        stored = await self.client.get(f"bench:whole:{run}")
        return [] if stored is None else cbor2.loads(stored)

    def texts(self, loaded: Any) -> list[str]:
        return [message["content"] for message in loaded]

    async def add(self, run: str, messages: list[Any]) -> None:
        conversation = await self.load(run)
        await self.client.set(f"bench:whole:{run}", cbor2.dumps(conversation + messages))

    async def close(self) -> None:
        await self.client.aclose()


make = WholeSnapshot
