"""This library."""

from __future__ import annotations

from typing import Any

from histstore import AssistantMessage, ConflictError, ConversationSnapshot, RedisBackend, UserMessage

from .base import Store


def messages(texts: list[str]) -> list[Any]:
    """Returns typed messages, user and assistant in turns."""
    return [(UserMessage, AssistantMessage)[number % 2](text) for number, text in enumerate(texts)]


def texts(snapshot: ConversationSnapshot[Any]) -> list[str]:
    """Returns the texts of typed messages."""
    return [message.blocks[0].text for message in snapshot.messages]


class Histstore(Store):
    """`load` and `save`, with what `ConflictError` asks for where others write too."""

    def __init__(self, url: str) -> None:
        self.backend = RedisBackend.from_url(url)
        self.runs: dict[str, tuple[Any, ConversationSnapshot[Any]]] = {}

    def messages(self, texts: list[str]) -> list[Any]:
        return messages(texts)

    async def start(self, run: str, messages: list[Any]) -> None:
        store = self.backend.store(run)
        snapshot = ConversationSnapshot[Any]()
        # Turn by turn, as conversations come about: what is saved in one go is one entry, and loads sooner.
        for at in range(0, len(messages), 2):
            snapshot = snapshot.append(*messages[at : at + 2])
            await store.save(snapshot)
        self.runs[run] = store, snapshot

    async def save(self, run: str, messages: list[Any]) -> None:
        store, snapshot = self.runs[run]
        snapshot = snapshot.append(*messages)
        await store.save(snapshot)
        self.runs[run] = store, snapshot

    async def load(self, run: str) -> Any:
        return await self.backend.store(run).load()

    def texts(self, loaded: Any) -> list[str]:
        return texts(loaded)

    async def add(self, run: str, messages: list[Any]) -> None:
        store = self.backend.store(run)
        while True:
            snapshot = await store.load() or ConversationSnapshot()
            try:
                await store.save(snapshot.append(*messages))
                return
            except ConflictError:
                continue

    async def close(self) -> None:
        await self.backend.aclose()


make = Histstore
