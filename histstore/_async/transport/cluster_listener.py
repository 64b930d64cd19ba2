"""Listening to all primaries of a cluster at once."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import partial
from typing import Any, Final

from ...protocol.call import Command
from ...protocol.leases import read_ring
from ...wire.slots import ServerAddress
from ..compat.together import until_one_ends
from .transport import Listener

LOOK_AGAIN: Final = 1.0
"""Seconds after which a subscription that some primary lacks is made anew."""


class ClusterListener:
    """A subscription at every primary.

    A server delivers a message to its own listeners and, over the cluster's bus, to those of all others. Only the
    listeners of its own count for the script that published it. So each message comes once from each server, and the
    one from the run's own server is passed on.

    Attributes:
        addresses: The primaries that it was made for.

    Args:
        listeners: The subscription of each primary that could be reached.
        addresses: See Attributes.
        is_owner: Whether a server owns a key.
    """

    def __init__(
        self,
        listeners: Mapping[ServerAddress, Listener],
        addresses: set[ServerAddress],
        is_owner: Callable[[ServerAddress, bytes], bool],
    ) -> None:
        self.addresses = addresses
        self._listeners = dict(listeners)
        self._is_owner = is_owner
        self._subscribed: set[ServerAddress] = set()

    async def listen(self, command: Command, on_message: Callable[[Any], None]) -> None:
        """Send a command to each server, and pass messages to `on_message` until a connection is lost.

        Raises:
            redis.exceptions.ConnectionError: A connection broke, or all were interrupted.
        """
        works = [
            partial(each.listen, command, partial(self._pass, address, on_message))
            for address, each in self._listeners.items()
        ]
        complete = self.addresses == set(self._listeners)
        await until_one_ends(works, None if complete else LOOK_AGAIN, self.interrupt)

    def _pass(self, address: ServerAddress, on_message: Callable[[Any], None], message: Any) -> None:
        match message:
            case [b"subscribe", _, _]:
                self._subscribed.add(address)
                if len(self._subscribed) == len(self._listeners):
                    on_message(message)
            case [b"message", _, data]:
                ring = read_ring(data)
                if ring is None or self._is_owner(address, ring.key) or not self._hears_owner(ring.key):
                    on_message(message)
            case _:
                on_message(message)

    def _hears_owner(self, key: bytes) -> bool:
        return any(self._is_owner(address, key) for address in self._listeners)

    def interrupt(self) -> None:
        """End a `listen`. Another thread may call it."""
        for each in self._listeners.values():
            each.interrupt()

    async def close(self) -> None:
        """Close the connections."""
        for each in self._listeners.values():
            await each.close()
