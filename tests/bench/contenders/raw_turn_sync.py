"""redis-py's blocking client alone: a SET of the turn's bytes."""

from __future__ import annotations

from typing import Any

import redis

from .base import Yardstick


class RawTurnSync(Yardstick):
    """The yardstick for a save of the blocking twin."""

    concurrent = False

    def __init__(self, url: str) -> None:
        self.client = redis.Redis.from_url(url)

    def messages(self, texts: list[str]) -> list[Any]:
        return [text.encode() for text in texts]

    async def start(self, run: str, messages: list[Any]) -> None:
        self.client.set(f"bench:raw:{run}:all", b"".join(messages))

    async def save(self, run: str, messages: list[Any]) -> None:
        self.client.set(f"bench:raw:{run}", b"".join(messages))

    async def load(self, run: str) -> Any:
        return self.client.get(f"bench:raw:{run}:all")

    async def close(self) -> None:
        self.client.close()


make = RawTurnSync
