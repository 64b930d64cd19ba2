"""coredis's client of a cluster."""

from __future__ import annotations

import hashlib
from contextlib import AsyncExitStack
from typing import Any

import coredis
from coredis.connection import TCPLocation

from .base import Caller, servers


class CallsCoredis(Caller):
    """One client, which all tasks share."""

    def __init__(self, url: str) -> None:
        nodes = [TCPLocation(host, port) for host, port in servers(url)]
        self.client = coredis.RedisCluster(startup_nodes=nodes)
        self.held = AsyncExitStack()

    async def connect(self, source: str) -> None:
        await self.held.enter_async_context(self.client)
        self.sha = hashlib.sha1(source.encode()).hexdigest()

    async def call(self, keys: list[bytes], args: list[bytes]) -> Any:
        return await self.client.evalsha(self.sha, keys, args)

    async def close(self) -> None:
        await self.held.aclose()


make = CallsCoredis
