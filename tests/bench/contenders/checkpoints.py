"""LangGraph's checkpoints, whatever saves them: the channel `messages` is one value in each."""

from __future__ import annotations

from typing import Any

from langchain_core.messages import AIMessage, HumanMessage
from langgraph.checkpoint.base import empty_checkpoint

from .base import Store


class Checkpoints(Store):
    """One `aput` a turn, the least that a graph of one node does."""

    def __init__(self, saver: Any) -> None:
        self.saver = saver
        self.runs: dict[str, tuple[Any, list[Any], int]] = {}

    async def set_up(self) -> None:
        """Does what the saver needs before its first use."""

    def messages(self, texts: list[str]) -> list[Any]:
        return [(HumanMessage, AIMessage)[number % 2](content=text) for number, text in enumerate(texts)]

    async def start(self, run: str, messages: list[Any]) -> None:
        await self.set_up()
        self.runs[run] = self._config(run), [], 0
        await self.save(run, messages)

    async def save(self, run: str, messages: list[Any]) -> None:
        config, conversation, version = self.runs[run]
        conversation, version = [*conversation, *messages], version + 1
        config = await self._put(config, conversation, version)
        self.runs[run] = config, conversation, version

    async def load(self, run: str) -> Any:
        found = await self.saver.aget_tuple(self._config(run))
        return None if found is None else found.checkpoint

    def texts(self, loaded: Any) -> list[str]:
        return [] if loaded is None else [message.content for message in loaded["channel_values"]["messages"]]

    async def add(self, run: str, messages: list[Any]) -> None:
        await self.set_up()
        found = await self.saver.aget_tuple(self._config(run))
        conversation, version = [], 0
        if found is not None:
            conversation = found.checkpoint["channel_values"]["messages"]
            version = int(found.checkpoint["channel_versions"]["messages"])
        await self._put(self._config(run) if found is None else found.config, [*conversation, *messages], version + 1)

    async def _put(self, config: Any, conversation: list[Any], version: int) -> Any:
        checkpoint = empty_checkpoint()
        checkpoint["channel_values"] = {"messages": conversation}
        checkpoint["channel_versions"] = {"messages": version}
        metadata: Any = {"source": "loop", "step": version}
        return await self.saver.aput(config, checkpoint, metadata, {"messages": version})

    @staticmethod
    def _config(run: str) -> Any:
        return {"configurable": {"thread_id": run, "checkpoint_ns": ""}}
