"""This library below its stores: the runner, which decides about retries, and the transport to a cluster."""

from __future__ import annotations

import hashlib
from typing import Any

from histstore import RedisBackend
from histstore.protocol.call import Call

from .base import Caller


class CallsHiststore(Caller):
    """One request for each call, as other clients send it: it is planned nowhere, and its reply is not read."""

    def __init__(self, url: str) -> None:
        self.backend = RedisBackend.from_url(url)

    async def connect(self, source: str) -> None:
        self.runner, self.policy = self.backend._runner, self.backend.retry
        self.sha = hashlib.sha1(source.encode()).hexdigest()

    async def call(self, keys: list[bytes], args: list[bytes]) -> Any:
        request = Call("save", [("EVALSHA", self.sha, b"%d" % len(keys), *keys, *args)], keys[0])
        reply, _ = await self.runner.run(request, self.policy)
        return reply

    async def close(self) -> None:
        await self.backend.aclose()


make = CallsHiststore
