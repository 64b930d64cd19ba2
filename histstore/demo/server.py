"""The server that the demonstration runs on: its own, or one that is named."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator, Iterator
from urllib.parse import quote

import redis.asyncio as redis
from redis.exceptions import RedisError

from histstore.embedded import EmbeddedServer


@contextlib.contextmanager
def server(url: str | None) -> Iterator[str]:
    """Yields the URL of a server: `url`, or an embedded one's, which lives as long as the context.

    Raises:
        BackendError: No server could be started.
    """
    if url is not None:
        yield url
        return
    with EmbeddedServer() as embedded:
        yield f"unix://{quote(embedded.socket_path)}"


@contextlib.asynccontextmanager
async def _client(url: str) -> AsyncIterator[redis.Redis]:
    client = redis.Redis.from_url(url)
    try:
        yield client
    finally:
        await client.aclose()


async def bytes_received(url: str) -> int | None:
    """Returns how many bytes the server has received from all its clients; None when it does not tell."""
    try:
        async with _client(url) as client:
            stats = await client.info("stats")
    except (RedisError, OSError):
        return None
    count = stats.get("total_net_input_bytes")
    return count if isinstance(count, int) else None


async def remove(url: str, namespace: str) -> None:
    """Removes every key of a namespace, and looks again until none is left.

    A worker that was just killed may have sent a save that the server has not read yet.
    """
    async with _client(url) as client:
        left = 10
        while left:
            keys = [key async for key in client.scan_iter(match=f"{namespace}:*", count=1000)]
            for start in range(0, len(keys), 500):
                await client.unlink(*keys[start : start + 500])
            if not keys and left < 10:
                return
            left -= 1
            await asyncio.sleep(0.05)
