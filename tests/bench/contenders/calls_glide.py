"""valkey-glide's asyncio client of a cluster, which is written in Rust."""

from __future__ import annotations

from typing import Any

from glide import GlideClusterClient, GlideClusterClientConfiguration, NodeAddress, Script

from .base import Caller, servers


class CallsGlide(Caller):
    """One client, which all tasks share. It has one connection to each server."""

    def __init__(self, url: str) -> None:
        self.addresses = [NodeAddress(host, port) for host, port in servers(url)]

    async def connect(self, source: str) -> None:
        # The default, 250 ms, is an error on a busy machine.
        configuration = GlideClusterClientConfiguration(self.addresses, request_timeout=30_000)
        self.client = await GlideClusterClient.create(configuration)
        self.script = Script(source)

    async def call(self, keys: list[bytes], args: list[bytes]) -> Any:
        return await self.client.invoke_script(self.script, keys=keys, args=args)

    async def close(self) -> None:
        await self.client.close()


make = CallsGlide
