"""redis-py's asyncio client of a cluster."""

from __future__ import annotations

import hashlib
from typing import Any

from redis.asyncio.cluster import ClusterNode, RedisCluster

from .base import Caller, servers


class CallsRedisPy(Caller):
    """One client, which all tasks share. It lends each call a connection."""

    def __init__(self, url: str) -> None:
        nodes = [ClusterNode(host, port) for host, port in servers(url)]
        # The default limit, 100 connections to a server in redis-py 8, is an error for more tasks than that.
        self.client = RedisCluster(startup_nodes=nodes, max_connections=1024)

    async def connect(self, source: str) -> None:
        await self.client.initialize()
        self.sha = hashlib.sha1(source.encode()).hexdigest()

    async def call(self, keys: list[bytes], args: list[bytes]) -> Any:
        return await self.client.evalsha(self.sha, len(keys), *keys, *args)  # type: ignore[misc]

    async def close(self) -> None:
        await self.client.aclose()


make = CallsRedisPy
