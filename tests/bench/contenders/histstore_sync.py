"""This library's blocking twin."""

from __future__ import annotations

from typing import Any

from histstore import ConflictError, ConversationSnapshot
from histstore.sync import RedisBackend

from .base import Store
from .histstore_async import messages, texts


class HiststoreSync(Store):
    """The same calls as the asyncio twin's."""

    concurrent = False

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
            store.save(snapshot)
        self.runs[run] = store, snapshot

    async def save(self, run: str, messages: list[Any]) -> None:
        store, snapshot = self.runs[run]
        snapshot = snapshot.append(*messages)
        store.save(snapshot)
        self.runs[run] = store, snapshot

    async def load(self, run: str) -> Any:
        return self.backend.store(run).load()

    def texts(self, loaded: Any) -> list[str]:
        return texts(loaded)

    async def add(self, run: str, messages: list[Any]) -> None:
        store = self.backend.store(run)
        while True:
            snapshot = store.load() or ConversationSnapshot()
            try:
                store.save(snapshot.append(*messages))
                return
            except ConflictError:
                continue

    async def close(self) -> None:
        self.backend.close()


make = HiststoreSync
