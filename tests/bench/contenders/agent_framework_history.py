"""Microsoft Agent Framework: RedisHistoryProvider, a list of messages a session."""

from __future__ import annotations

from typing import Any

from agent_framework import Message
from agent_framework_redis import RedisHistoryProvider

from .base import Store


class AgentFramework(Store):
    """`save_messages` after each turn, `get_messages` before it."""

    def __init__(self, url: str) -> None:
        self.provider = RedisHistoryProvider(redis_url=url, application_id="bench")

    def messages(self, texts: list[str]) -> list[Any]:
        return [Message(("user", "assistant")[number % 2], [text]) for number, text in enumerate(texts)]

    async def start(self, run: str, messages: list[Any]) -> None:
        await self.provider.save_messages(run, messages)

    async def save(self, run: str, messages: list[Any]) -> None:
        await self.provider.save_messages(run, messages)

    async def load(self, run: str) -> Any:
        return await self.provider.get_messages(run)

    def texts(self, loaded: Any) -> list[str]:
        return [message.text for message in loaded]

    async def add(self, run: str, messages: list[Any]) -> None:
        await self.provider.get_messages(run)
        await self.provider.save_messages(run, messages)

    async def close(self) -> None:
        await self.provider.aclose()


make = AgentFramework
