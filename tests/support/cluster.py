"""A real cluster for the tests: primaries and replicas as processes on the loopback interface, and its slots."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Final

import redis
from redis.crc import key_slot

from .servers import Server, server

if TYPE_CHECKING:
    from .tls import Certificates

SLOTS = 16384
READY = 30.0
"""Seconds after which a cluster that is not ready fails the test."""


@dataclass
class Cluster:
    """Servers of one cluster: those that were given slots, then those that own none, then the replicas of the first."""

    servers: list[Server]
    clients: dict[int, redis.Redis] = field(default_factory=dict)

    @property
    def url(self) -> str:
        """A URL that names all servers."""
        return "redis+cluster://" + ",".join(f"{each.host}:{each.port}" for each in self.servers)

    def close(self) -> None:
        """Closes the clients. The servers are their maker's to stop."""
        for client in self.clients.values():
            client.close()

    def client(self, each: Server) -> redis.Redis:
        """A plain client of one server."""
        return self.clients.setdefault(each.port, each.client(socket_timeout=5))

    def ids(self) -> dict[int, str]:
        """The id of each server, by its port."""
        return {each.port: self.client(each).execute_command("CLUSTER", "MYID").decode() for each in self.running()}

    def running(self) -> list[Server]:
        return [each for each in self.servers if each.process is not None]

    def owner(self, key: bytes | str) -> Server:
        """The server that owns a key's slot, by what the first server that runs says."""
        slot = key_slot(key.encode() if isinstance(key, str) else key)
        for low, high, (_, port, *_), *_ in self.client(self.running()[0]).execute_command("CLUSTER", "SLOTS"):
            if low <= slot <= high:
                return next(each for each in self.servers if each.port == port)
        raise AssertionError(f"nobody owns slot {slot}")

    def replica_of(self, primary: Server) -> Server:
        """A replica of a primary."""
        ids = self.ids()
        for each in self.running():
            role = self.client(each).execute_command("ROLE")
            if role[0] == b"slave" and int(role[2]) == primary.port and each.port in ids:
                return each
        raise AssertionError("it has no replica")

    def move_slot(self, slot: int, target: Server, *, hold: Callable[[], None] | None = None, step: int = 10) -> None:
        """Moves a slot as resharding tools do, key by key.

        Args:
            slot: The slot.
            target: The server that gets it.
            hold: Called when half of the keys have moved.
            step: Keys that move at once.
        """
        # The target takes the slot with an epoch above those that it has heard of. If it missed that of the last move,
        # two servers would claim slots with one epoch, and the one that yields deletes the keys.
        self.wait(lambda: len({self._epoch(each) for each in self.running()}) == 1, "an epoch is not known everywhere")
        ids = self.ids()
        source = self.owner_of_slot(slot)
        if source is target:
            return
        old, new = self.client(source), self.client(target)
        new.execute_command("CLUSTER", "SETSLOT", slot, "IMPORTING", ids[source.port])
        old.execute_command("CLUSTER", "SETSLOT", slot, "MIGRATING", ids[target.port])
        count = old.execute_command("CLUSTER", "COUNTKEYSINSLOT", slot)
        if hold is not None:
            self._move_keys(slot, old, target, max(1, count // 2))
            hold()
        while old.execute_command("CLUSTER", "COUNTKEYSINSLOT", slot):
            self._move_keys(slot, old, target, step)
        tell = ("CLUSTER", "SETSLOT", slot, "NODE", ids[target.port])
        new.execute_command(*tell)
        old.execute_command(*tell)

        def agreed() -> bool:
            servers = [each for each in self.running() if not self._believes(each, slot, target)]
            for each in servers:
                with contextlib.suppress(redis.ResponseError):  # replicas may not be told
                    self.client(each).execute_command(*tell)
            return not servers

        self.wait(agreed, f"the servers do not agree who owns slot {slot}")

    def migrates(self) -> bool:
        """Whether the servers can move a slot by themselves, as Valkey 9 does."""
        with contextlib.suppress(redis.ResponseError):
            self.client(self.servers[0]).execute_command("CLUSTER", "GETSLOTMIGRATIONS")
            return True
        return False

    def migrate_slot(self, slot: int, target: Server) -> None:
        """Has the owner of a slot move it, in one step as far as clients see."""
        source = self.owner_of_slot(slot)
        if source is target:
            return
        command = ("CLUSTER", "MIGRATESLOTS", "SLOTSRANGE", slot, slot, "NODE", self.ids()[target.port])
        self.client(source).execute_command(*command)
        self.wait(
            lambda: all(self._believes(each, slot, target) for each in self.running()),
            f"slot {slot} does not move: {self.client(source).execute_command('CLUSTER', 'GETSLOTMIGRATIONS')}",
        )

    def _epoch(self, each: Server) -> bytes:
        info: bytes = self.client(each).execute_command("CLUSTER", "INFO")
        return info.split(b"cluster_current_epoch:", 1)[1].split(b"\r\n", 1)[0]

    def _believes(self, each: Server, slot: int, owner: Server) -> bool:
        known = self.client(each).execute_command("CLUSTER", "SLOTS")
        return any(low <= slot <= high and port == owner.port for low, high, (_, port, *_), *_ in known)

    def _move_keys(self, slot: int, old: redis.Redis, target: Server, count: int) -> None:
        keys = old.execute_command("CLUSTER", "GETKEYSINSLOT", slot, count)
        if keys:
            old.execute_command("MIGRATE", target.host, target.node_port, "", 0, 5000, "KEYS", *keys)

    def owner_of_slot(self, slot: int) -> Server:
        """The server that owns a slot, by what it says itself."""
        for each in self.running():
            for low, high, (_, port, *_), *_ in self.client(each).execute_command("CLUSTER", "SLOTS"):
                if low <= slot <= high and port == each.port:
                    return each
        raise AssertionError(f"nobody owns slot {slot}")

    def wait(self, condition: Callable[[], Any], what: str) -> None:
        """Waits until a condition holds."""
        end = time.monotonic() + READY
        while not condition():
            assert time.monotonic() < end, f"the cluster is not ready: {what}"
            time.sleep(0.02)

    def is_ok(self) -> bool:
        """Whether each server that runs says that the cluster serves all slots, and knows all others."""
        ids = self.ids().values()
        for each in self.running():
            info = self.client(each).execute_command("CLUSTER", "INFO")
            slots = self.client(each).execute_command("CLUSTER", "SLOTS")
            covered = sum(high - low + 1 for low, high, *_ in slots)
            # During the handshake, a server lists another one by a temporary id.
            nodes = self.client(each).execute_command("CLUSTER", "NODES").decode()
            if b"cluster_state:ok" not in info or covered != SLOTS or not all(id in nodes for id in ids):
                return False
        return True


SETTINGS: Final = {
    "cluster-enabled": "yes",
    "cluster-node-timeout": "1000",
    "cluster-replica-validity-factor": "0",
}
"""Options of a cluster's servers in the tests: a lost primary is noticed soon, and each replica may be promoted."""


@contextlib.contextmanager
def cluster(
    primaries: int = 3, replicas: int = 0, *, spare: int = 0, certificates: Certificates | None = None, **options: str
) -> Iterator[Cluster]:
    """Runs a cluster.

    Args:
        primaries: Number of primaries, which share the slots.
        replicas: Number of replicas of each.
        spare: Number of servers that own no slot.
        certificates: For servers that have a port with TLS besides, and speak TLS with each other; None: without TLS.
        **options: Options of each server, with "_" for "-".
    """
    settings = {name.replace("-", "_"): value for name, value in SETTINGS.items()}
    settings |= {"tls_cluster": "yes"} if certificates is not None else {}
    with contextlib.ExitStack() as stack:
        count = primaries * (1 + replicas) + spare
        servers = [stack.enter_context(server(certificates, **settings | options)) for _ in range(count)]
        made = form(servers, primaries, spare)
        stack.callback(made.close)
        yield made


def form(servers: list[Server], primaries: int, spare: int = 0) -> Cluster:
    """Makes one cluster of servers that run.

    Args:
        servers: The servers.
        primaries: How many of them become primaries, which share the slots.
        spare: How many of those after them own no slot. The others become replicas.
    """
    made = Cluster(servers)
    replicas = (len(servers) - spare) // primaries - 1
    heads = servers[:primaries]
    for place, each in enumerate(heads):
        low, high = place * SLOTS // primaries, (place + 1) * SLOTS // primaries
        client = made.client(each)
        client.execute_command("CLUSTER", "SET-CONFIG-EPOCH", place + 1)
        client.execute_command("CLUSTER", "ADDSLOTS", *range(low, high))
    for each in servers[1:]:
        made.client(servers[0]).execute_command("CLUSTER", "MEET", each.host, each.node_port)
    made.wait(made.is_ok, "the primaries do not find each other")
    ids = made.ids()
    for place, each in enumerate(servers[primaries + spare :]):
        head = heads[place % primaries]

        def replicate(each: Server = each, head: Server = head) -> bool:
            with contextlib.suppress(redis.ResponseError):  # it does not know the primary yet
                made.client(each).execute_command("CLUSTER", "REPLICATE", ids[head.port])
                return True
            return False

        made.wait(replicate, "a replica does not know its primary")
    if replicas:
        made.wait(lambda: _replicas_follow(made, heads, replicas), "the replicas do not follow")
    return made


@contextlib.contextmanager
def two_nodes() -> Iterator[tuple[Server, Server]]:
    """Runs a cluster of two servers, the first of which owns all slots. A pause of seconds makes neither look dead."""
    with cluster(1, spare=1, cluster_node_timeout="15000") as made:
        owner, other = made.servers
        yield owner, other


def _replicas_follow(made: Cluster, heads: list[Server], replicas: int) -> bool:
    known = made.client(heads[0]).execute_command("CLUSTER", "SLOTS")
    return all(len(made.client(head).execute_command("ROLE")[2]) == replicas for head in heads) and all(
        len(entry) == 3 + replicas for entry in known
    )
