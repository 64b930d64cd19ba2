"""This library, with plain messages: dicts, as model clients hold them."""

from __future__ import annotations

from typing import Any

from .histstore_async import Histstore


class HiststoreDicts(Histstore):
    """The same calls; only the messages differ."""

    def messages(self, texts: list[str]) -> list[Any]:
        return [{"role": ("user", "assistant")[number % 2], "content": text} for number, text in enumerate(texts)]

    def texts(self, loaded: Any) -> list[str]:
        return [message["content"] for message in loaded.messages]


make = HiststoreDicts
