"""Processes that wait for leases, as the scripts see them: channels with listeners."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

import redis
from redis.client import PubSub

from histstore.protocol.leases import read_ring

_END: Final = b"that is all"


@dataclass(frozen=True)
class Process:
    """One or several processes that wait for leases, and the messages of their doorbells.

    Attributes:
        channels: Where each of them listens.
        subscription: Receives the messages of all of them.
    """

    client: redis.Redis
    lease_key: bytes
    channels: list[str]
    subscription: PubSub

    @property
    def channel(self) -> str:
        (channel,) = self.channels
        return channel

    def messages(self) -> list[tuple[str, bytes]]:
        """Return the messages since the last call, each with its channel."""
        self.client.publish(self.channels[0], _END)
        found: list[tuple[str, bytes]] = []
        while True:
            message = self.subscription.get_message(timeout=20)
            assert message is not None, "a message does not arrive"
            if message["data"] == _END:
                return found
            found.append((message["channel"].decode(), message["data"]))

    def rings(self) -> list[tuple[str, int, str | None]]:
        """Return the channel's name, the rank and the new holder of each message since the last call."""
        found = []
        for channel, data in self.messages():
            ring = read_ring(data)
            assert ring is not None, data
            assert ring.key == self.lease_key, data
            found.append((channel.rpartition(":")[2], ring.rank, ring.holder))
        return found
