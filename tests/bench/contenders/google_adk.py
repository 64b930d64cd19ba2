"""Google ADK: the community's RedisSessionService, a session as one JSON value."""

from __future__ import annotations

from typing import Any

from google.adk.events import Event
from google.adk_community.sessions.redis_session_service import RedisSessionService
from google.genai.types import Content, Part

from .base import Store

APP = "bench"


class GoogleADK(Store):
    """`append_event` for each message, `get_session` before a turn."""

    def __init__(self, url: str) -> None:
        self.service = RedisSessionService(uri=url, max_connections=1024)
        self.runs: dict[str, Any] = {}

    def messages(self, texts: list[str]) -> list[Any]:
        return [
            Event(
                author=("user", "assistant")[number % 2],
                content=Content(role=("user", "model")[number % 2], parts=[Part(text=text)]),
            )
            for number, text in enumerate(texts)
        ]

    async def start(self, run: str, messages: list[Any]) -> None:
        session = await self.service.create_session(app_name=APP, user_id=run, session_id=run)
        # All but the last at once: each `append_event` writes the whole session.
        session.events.extend(messages[:-1])
        self.runs[run] = session
        await self.service.append_event(session, messages[-1])

    async def save(self, run: str, messages: list[Any]) -> None:
        for message in messages:
            await self.service.append_event(self.runs[run], message)

    async def load(self, run: str) -> Any:
        return await self.service.get_session(app_name=APP, user_id=run, session_id=run)

    def texts(self, loaded: Any) -> list[str]:
        return [event.content.parts[0].text for event in loaded.events]

    async def add(self, run: str, messages: list[Any]) -> None:
        session = await self.load(run)
        for message in messages:
            await self.service.append_event(session, message)

    async def close(self) -> None:
        await self.service.cache.aclose()


make = GoogleADK
