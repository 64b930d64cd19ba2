"""What a contender does. Its messages are its own objects, made outside of what is timed."""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import Any


class Yardstick(ABC):
    """One way to store the bytes of turns, called as its users would call it. Blocking ones block the event loop."""

    concurrent = True
    """Whether runs may save at the same time in one event loop."""

    @abstractmethod
    def messages(self, texts: list[str]) -> list[Any]:
        """Returns messages: user, assistant, user, and so on."""

    @abstractmethod
    async def start(self, run: str, messages: list[Any]) -> None:
        """Stores a conversation that turns may follow."""

    @abstractmethod
    async def save(self, run: str, messages: list[Any]) -> None:
        """Saves one more turn of a run that was started here."""

    @abstractmethod
    async def load(self, run: str) -> Any:
        """Loads the conversation as a fresh process would."""

    @abstractmethod
    async def close(self) -> None:
        """Closes the connections."""


class Store(Yardstick):
    """One way to store conversations."""

    @abstractmethod
    def texts(self, loaded: Any) -> list[str]:
        """Returns the texts of what `load` returned."""

    @abstractmethod
    async def add(self, run: str, messages: list[Any]) -> None:
        """Adds messages to a run that others add to at the same time, seen or not."""


class Lock(ABC):
    """One way to let one process at a time into a run."""

    @abstractmethod
    async def turns(self, run: str, rounds: int, hold: float, ttl: float) -> list[tuple[float, float]]:
        """Enters `rounds` times for `hold` seconds; returns when it was inside, and when it began to leave."""

    @abstractmethod
    async def warm(self, run: str) -> None:
        """Connects."""

    @abstractmethod
    async def close(self) -> None:
        """Closes the connections."""


class Caller(ABC):
    """One client of a cluster, which sends script calls."""

    @abstractmethod
    async def connect(self, source: str) -> None:
        """Connects, and keeps the script's source or its digest. The servers know the script."""

    @abstractmethod
    async def call(self, keys: list[bytes], args: list[bytes]) -> Any:
        """Sends one call of the script; returns the reply."""

    @abstractmethod
    async def close(self) -> None:
        """Closes the connections."""


def servers(url: str) -> list[tuple[str, int]]:
    """Returns the hosts and ports of a `redis+cluster://` URL."""
    found = (each.rpartition(":") for each in url.partition("://")[2].split(","))
    return [(host, int(port)) for host, _, port in found]
