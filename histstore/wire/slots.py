"""The slots of a cluster: which server owns a key, by what the servers say. No I/O.

Sources: the Redis Cluster specification (slots, MOVED, ASK) and the reference of CLUSTER SLOTS.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Any, Final

from redis.crc import key_slot

from ..errors import ConnectionOptionError

SLOTS: Final = 16384

ServerAddress = tuple[str, int]
"""The host and port of a server."""

HostMap = Callable[[ServerAddress], ServerAddress]
"""Returns where a server is reached that the cluster knows by another address, behind NAT for example."""

_NO_HOST: Final = frozenset({"", "?"})
"""Hosts of a server that does not know its own: the asker has to use the one that it has asked."""


def checked(host_map: object) -> HostMap | None:
    """Return a host map whose errors say what is wrong.

    Raises:
        ConnectionOptionError: It is no function.
    """
    if host_map is None:
        return None
    if not callable(host_map):
        raise ConnectionOptionError("host_map= is a function: it gets a host and a port as a tuple, and returns both")
    return CheckedHostMap(host_map)


class CheckedHostMap:
    """A host map that raises ConnectionOptionError where the given one fails. It can be pickled if that one can."""

    def __init__(self, given: Callable[[ServerAddress], Any]) -> None:
        self.given = given

    def __call__(self, address: ServerAddress) -> ServerAddress:
        """Return where a server is reached.

        Raises:
            ConnectionOptionError: The given one failed, or returned something else.
        """
        try:
            host, port = self.given(address)
        except Exception as error:
            raise self._refuse(address, f"raised {type(error).__name__}") from error
        if type(host) is str and host and type(port) is int and 0 < port < 65536:
            return host, port
        raise self._refuse(address, "returned something else")

    @staticmethod
    def _refuse(address: ServerAddress, problem: str) -> ConnectionOptionError:
        place = f"{address[0]}:{address[1]}"
        return ConnectionOptionError(f"host_map= {problem} for {place}: make it return a host and a port")


slot_of: Final[Callable[[bytes], int]] = lru_cache(maxsize=8192)(key_slot)
"""Return the slot of a key. The keys of a run share a hash tag, so they share a slot."""


@dataclass(frozen=True, slots=True)
class Redirect:
    """A server's answer that another one has the slot. The request was not run.

    Attributes:
        slot: The slot.
        address: The other server.
        asking: Whether that is so for this request only, because the slot is on the move.
    """

    slot: int
    address: ServerAddress
    asking: bool


def redirect_of(replies: Sequence[Any], asked: ServerAddress, host_map: HostMap | None) -> Redirect | None:
    """Return the redirection in the replies to one request; None: there is none.

    Args:
        replies: The replies. The first error of a transaction says why it was aborted.
        asked: The server that was asked.
        host_map: Where servers are reached.
    """
    for reply in replies:
        if isinstance(reply, Exception):
            words = str(reply).split(" ")
            if words[0] not in ("MOVED", "ASK") or len(words) < 3 or not words[1].isdigit():
                continue
            host, _, port = words[2].rpartition(":")
            if port.isdigit() and int(words[1]) < SLOTS:
                return Redirect(int(words[1]), _reached(host, int(port), asked, host_map), words[0] == "ASK")
    return None


class NoClusterError(ValueError):
    """Report a reply that no server of a cluster gives."""


class SlotMap:
    """The owners of all slots, as far as they are known.

    Attributes:
        replicas: Addresses of replicas. They are asked for the map if no primary answers.
    """

    def __init__(self) -> None:
        self._owners: list[ServerAddress | None] = [None] * SLOTS
        self._primaries: dict[ServerAddress, None] = {}
        self.replicas: list[ServerAddress] = []

    def owner(self, slot: int) -> ServerAddress | None:
        """Return the server that owns a slot; None: it is not known."""
        return self._owners[slot]

    @property
    def primaries(self) -> list[ServerAddress]:
        """The servers that own slots."""
        return list(self._primaries)

    def move(self, slot: int, address: ServerAddress) -> None:
        """Record that a server owns a slot."""
        if self._owners[slot] != address:
            self._owners[slot] = address
            self._count()

    def learn(self, reply: Any, asked: ServerAddress, host_map: HostMap | None) -> None:
        """Record the reply to CLUSTER SLOTS.

        A slot that the reply does not name keeps its owner: one server that was cut off must not make slots disappear.

        Args:
            reply: The reply.
            asked: The server that gave it.
            host_map: Where servers are reached.

        Raises:
            NoClusterError: The reply is none of a cluster.
            ConnectionOptionError: The host map failed.
        """
        owners = list(self._owners)
        replicas: list[ServerAddress] = []
        for low, high, servers in _shares(reply):
            first, *others = [_reached(host, port, asked, host_map) for host, port in servers]
            owners[low : high + 1] = [first] * (high - low + 1)
            replicas += others
        self._owners = owners
        self.replicas = list(dict.fromkeys(replicas))
        self._count()

    def _count(self) -> None:
        self._primaries = dict.fromkeys(owner for owner in self._owners if owner is not None)


def _shares(reply: Any) -> list[tuple[int, int, list[tuple[str, int]]]]:
    """Read the reply to CLUSTER SLOTS: ranges of slots, each with its servers as they call themselves.

    Raises:
        NoClusterError: It is something else.
    """
    try:
        shares = [
            (int(low), int(high), [(_text(host), int(port)) for host, port, *_ in servers])
            for low, high, *servers in reply
        ]
    except (TypeError, ValueError) as error:
        raise NoClusterError("what answers there is no cluster") from error
    if not all(0 <= low <= high < SLOTS and servers for low, high, servers in shares):
        raise NoClusterError("what answers there is no cluster")
    return shares


def _text(host: Any) -> str:
    return host.decode() if isinstance(host, bytes) else ""  # None: the server does not know its host


def _reached(host: str, port: int, asked: ServerAddress, host_map: HostMap | None) -> ServerAddress:
    if host in _NO_HOST:
        return asked[0], port
    return (host, port) if host_map is None else host_map((host, port))
