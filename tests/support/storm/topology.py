"""The servers of a run, and the faults that happen to them: what all topologies share, and one server alone."""

from __future__ import annotations

import contextlib
import random
import threading
import time
from abc import ABC, abstractmethod
from collections import Counter
from collections.abc import Callable
from typing import Any, Final

import redis
from redis.backoff import NoBackoff
from redis.retry import Retry

from ..servers import Server
from .network import Network

RECOVERS: Final = 60.0
"""Seconds after which servers that have not recovered from a fault end the run."""
NAMESPACE: Final = "storm"
HARNESS: Final = "harness"
"""The name of the connections that `client_of` makes."""

# After kill -9, what was written to a file is still there: the server writes before it replies, and need not wait for
# the disk.
KEEPS: Final = {
    "appendonly": "yes", "appendfsync": "no", "protected-mode": "no", "repl-diskless-sync-delay": "0",
}  # fmt: skip

SHAKES: Final = (
    "primaries killed", "primaries frozen till another was promoted", "failovers by command", "partitions",
    "servers frozen", "servers cut off",
)  # fmt: skip
"""Faults after which another server may be the primary, without all that was acknowledged."""

Address = tuple[str, int]
Place = tuple[str, tuple[str, ...]]
"""An address, and the words that run a command there."""


class NotRecoveredError(Exception):
    """Report servers that a fault has left in a state that does not pass."""


def client_of(address: Address, seconds: float = 2.0) -> redis.Redis:
    """Returns a plain client of a server, which tries once.

    Args:
        address: The server's host and port.
        seconds: Seconds that a reply may take.
    """
    once = Retry(NoBackoff(), 0)
    return redis.Redis(
        *address, socket_timeout=seconds, socket_connect_timeout=seconds, retry=once, client_name=HARNESS
    )  # fmt: skip


class Topology(ABC):
    """Servers, each in a network of its own where the machine allows it.

    Attributes:
        name: What `TOPOLOGY=` calls it.
        lossy: Whether acknowledged writes may be lost.
        announces: Whether servers tell clients the addresses of others.
        copies: Replicas that each primary has.
        servers: The servers.
        counts: Faults that happened, by kind.
        shaken: When faults began that may lose writes, and when the servers had recovered.
        network: The namespaces; None: this machine makes none, and proxies have to cut servers off.
        refused: Why there is none.
        over: Ends whatever waits here.
        runs: Runs that live as long as the servers do.
        cutter: Has the proxies cut clients off from a server, or lets them go on.

    Args:
        rng: Chance.
    """

    name = ""
    lossy = False
    announces = False
    copies = 0

    def __init__(self, rng: random.Random) -> None:
        self.rng = rng
        self.servers: list[Server] = []
        self.counts: Counter[str] = Counter()
        self.shaken: list[tuple[float, float]] = []
        self.network: Network | None = None
        self.refused = ""
        self.over = threading.Event()
        self.runs: list[str] = []
        self.cutter: Callable[[Server, bool], None] = lambda server, off: None
        self._clients: dict[Address, redis.Redis] = {}
        self._exit = contextlib.ExitStack()

    @property
    def faults(self) -> dict[str, Callable[[], None]]:
        """Faults that the servers recover from, by what `counts` calls them."""
        return {}

    @property
    def doors(self) -> list[Address]:
        """Addresses before which clients need proxies."""
        return [each.address for each in self.servers]

    @abstractmethod
    def url(self, ways: dict[Address, Address]) -> str:
        """Returns the URL for clients behind proxies.

        Args:
            ways: The proxy before each of `doors`, or nothing for those doors themselves.
        """

    @abstractmethod
    def primaries(self) -> list[Server]:
        """Returns the servers that take writes."""

    @abstractmethod
    def primary_of(self, key: bytes) -> redis.Redis:
        """Returns a client of the server that has a key."""

    @abstractmethod
    def is_well(self) -> bool:
        """Returns whether every server does its work."""

    # ------------------------------------------------------------------------------------- its life

    def start(self) -> None:
        """Starts the servers."""
        try:
            self._start()
            self.recover()
        except BaseException:
            self.close()
            raise

    @abstractmethod
    def _start(self) -> None: ...

    def _places(self, count: int) -> list[Place]:
        """Returns an address for each server, and the words that run a command there."""
        try:
            self.network = Network(count)
        except OSError as error:
            self.refused = str(error)
            return [("127.0.0.1", ())] * count
        self._exit.callback(self.network.close)
        return [(place.host, place.prefix) for place in self.network.places]

    def _run(self, place: Place, **options: str) -> Server:
        host, prefix = place
        made = Server(options, host=host, prefix=prefix)
        self._exit.callback(made.stop)
        self.servers.append(made.start())
        return made

    def close(self) -> None:
        """Ends the servers, and removes their networks."""
        for client in self._clients.values():
            client.close()
        self._exit.close()

    # --------------------------------------------------------------------------------- what it asks

    def client(self, address: Address) -> redis.Redis:
        """Returns a plain client of a server, past the proxies."""
        if address not in self._clients:
            self._clients[address] = client_of(address)
        return self._clients[address]

    def ask(self, each: Server, *command: Any) -> Any:
        """Returns a reply; None: the server did not give one."""
        with contextlib.suppress(redis.RedisError):
            return self.client(each.address).execute_command(*command)
        return None

    def wait(self, condition: Callable[[], Any], what: str) -> None:
        """Waits until a condition holds.

        Raises:
            NotRecoveredError: It does not.
        """
        end = time.monotonic() + RECOVERS
        while not condition():
            if time.monotonic() > end:
                raise NotRecoveredError(f"{self.name}: {what} within {RECOVERS:g} s")
            self.pause(0.05)

    def pause(self, seconds: float) -> None:
        """Waits.

        Raises:
            NotRecoveredError: The run is over.
        """
        if self.over.wait(seconds):
            raise NotRecoveredError(f"{self.name}: the run is over")

    def recover(self) -> None:
        """Waits until all servers do their work, and replicas have what their primaries had when that was so."""
        written: dict[int, int] = {}

        def recovered() -> bool:
            roles = {each.port: self.ask(each, "ROLE") for each in self.primaries()} if self.is_well() else {}
            if not roles or not all(roles.values()):
                return False
            if roles.keys() != written.keys():  # at first, and if yet another server has taken over
                written.clear()
                written.update({port: role[1] for port, role in roles.items()})
            return all(
                len(role[2]) >= self.copies and all(int(offset) >= written[port] for *_, offset in role[2])
                for port, role in roles.items()
            )

        self.wait(recovered, "the servers have not recovered")

    def role(self, each: Server) -> str:
        """Returns "master", "slave", or "" of a server that does not answer."""
        role = self.ask(each, "ROLE")
        return role[0].decode() if role else ""

    def rage(self, stop: threading.Event) -> None:
        """Lets one fault happen after the other, each kind once before any kind comes again.

        Args:
            stop: Says when to stop. Each kind happens once in any case.

        Raises:
            NotRecoveredError: The servers did not recover from one.
        """
        faults = self.faults
        deck: list[str] = []
        primaries, since = self._ports(), time.monotonic()
        while not (stop.is_set() and all(self.counts[name] for name in faults)):
            self.pause(self.rng.uniform(0.3, 1.5))
            deck = deck or self.rng.sample(sorted(faults), len(faults))
            name = deck.pop()
            faults[name]()
            self.recover()
            self.counts[name] += 1
            before, primaries, began, since = primaries, self._ports(), since, time.monotonic()
            if name in SHAKES or primaries != before:
                self.shaken.append((began, since))

    def _ports(self) -> set[int]:
        return {each.port for each in self.primaries()}

    # --------------------------------------------------------------------------- faults of any kind

    def cut_off(self) -> None:
        """Nothing reaches a primary any more, neither clients nor servers, for a while."""
        victim = self.rng.choice(self.primaries())
        if self.network is None:
            self.cutter(victim, True)
        else:
            self.network.cut(victim.host, clients=True)
        self.pause(self.rng.uniform(0.5, 4.0))
        if self.network is None:
            self.cutter(victim, False)
        else:
            self.network.heal()

    def stall(self) -> None:
        """SIGSTOP of a primary, for less time than it takes others to call it dead."""
        victim = self.rng.choice(self.primaries())
        victim.freeze()
        self.pause(self.rng.uniform(0.1, 0.7))
        victim.thaw()

    def flush_scripts(self) -> None:
        """SCRIPT FLUSH on every server: they forget the scripts."""
        for each in self.servers:
            self.ask(each, "SCRIPT", "FLUSH")

    def fill_memory(self) -> None:
        """The memory of a primary is full for a while."""
        victim = self.rng.choice(self.primaries())
        self.wait(lambda: self.ask(victim, "CONFIG", "SET", "maxmemory", "1") is not None, "maxmemory is not set")
        self.pause(self.rng.uniform(0.1, 0.8))
        self.wait(lambda: self.ask(victim, "CONFIG", "SET", "maxmemory", "0") is not None, "maxmemory stays")


class Bare(Topology):
    """One server on the loopback interface, which is not killed and keeps no file."""

    def _start(self) -> None:
        self._run(("127.0.0.1", ()))

    def url(self, ways: dict[Address, Address]) -> str:
        (door,) = self.doors
        host, port = ways.get(door, door)
        return f"redis://{host}:{port}/0"

    def primaries(self) -> list[Server]:
        return self.servers

    def primary_of(self, key: bytes) -> redis.Redis:
        return self.client(self.servers[0].address)

    def is_well(self) -> bool:
        return self.role(self.servers[0]) == "master"


class Single(Bare):
    """One server, which keeps what it has acknowledged."""

    name = "single"

    def _start(self) -> None:
        (place,) = self._places(1)
        self._run(place, **KEEPS)

    @property
    def faults(self) -> dict[str, Callable[[], None]]:
        return {
            "servers killed": self.kill,
            "servers frozen": self.stall,
            "servers cut off": self.cut_off,
            "memory full": self.fill_memory,
        }

    def kill(self) -> None:
        """kill -9, and started again with its file."""
        (server,) = self.servers
        server.kill()
        self.pause(self.rng.uniform(0.1, 1.5))
        server.start()
