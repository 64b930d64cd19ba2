"""LangChain: RedisChatMessageHistory, a JSON document a message and a search over them. Blocking."""

from __future__ import annotations

from typing import Any

import redis
from langchain_core.messages import AIMessage, HumanMessage
from langchain_redis import RedisChatMessageHistory

from .base import Store


class LangchainHistory(Store):
    """`add_messages` after each turn, `.messages` before it."""

    concurrent = False

    def __init__(self, url: str) -> None:
        # It reads what FT.INFO answers in RESP2, and redis-py 8 speaks RESP3 unless told otherwise.
        self.client = redis.Redis.from_url(url, protocol=2)
        self.runs: dict[str, RedisChatMessageHistory] = {}

    def messages(self, texts: list[str]) -> list[Any]:
        return [(HumanMessage, AIMessage)[number % 2](content=text) for number, text in enumerate(texts)]

    def _history(self, run: str) -> RedisChatMessageHistory:
        return RedisChatMessageHistory(session_id=run, redis_client=self.client)

    async def start(self, run: str, messages: list[Any]) -> None:
        self.runs[run] = self._history(run)
        self.runs[run].add_messages(messages)

    async def save(self, run: str, messages: list[Any]) -> None:
        self.runs[run].add_messages(messages)

    async def load(self, run: str) -> Any:
        return self._history(run).messages

    def texts(self, loaded: Any) -> list[str]:
        return [message.content for message in loaded]

    async def add(self, run: str, messages: list[Any]) -> None:
        history = self._history(run)
        _seen = history.messages
        history.add_messages(messages)

    async def close(self) -> None:
        self.client.close()


make = LangchainHistory
