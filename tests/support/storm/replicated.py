"""Servers with replicas: a primary that Sentinels watch, or a cluster. And the faults of each."""

from __future__ import annotations

import contextlib
import random
import shutil
import subprocess
import tempfile
from abc import abstractmethod
from collections.abc import Callable
from pathlib import Path
from typing import Any, Final

import redis
from redis.crc import key_slot

from histstore.protocol.keys import run_keys

from ..cluster import SETTINGS, Cluster, form
from ..servers import Server, free_port, listens, server_binary
from .topology import KEEPS, NAMESPACE, RECOVERS, Address, Place, Single, Topology, client_of

REPLICAS: Final = 2
SENTINELS: Final = 3
SERVICE: Final = "storm"


class _Replicated(Topology):
    """Primaries with replicas, one of which takes over if its primary is lost."""

    lossy = True
    announces = True

    @abstractmethod
    def _replicas(self, primary: Server) -> list[Server]:
        """Returns the replicas of a primary."""

    def _victim(self) -> tuple[Server, list[Server]]:
        victim = self.rng.choice(self.primaries())
        return victim, self._replicas(victim)

    def _promoted(self, heirs: list[Server]) -> None:
        self.wait(lambda: any(self.role(each) == "master" for each in heirs), "no replica is promoted")

    @property
    def faults(self) -> dict[str, Callable[[], None]]:
        found: dict[str, Callable[[], None]] = {
            "primaries killed": self.kill,
            "primaries frozen till another was promoted": self.freeze,
            "failovers by command": self.fail_over,
            "servers frozen": self.stall,
            "servers cut off": self.cut_off,
            "memory full": self.fill_memory,
        }
        if self.network is not None:  # else proxies cut a server off from its clients, and not from other servers
            found["partitions"] = self.part
        return found

    def kill(self) -> None:
        """kill -9 of a primary, started again once a replica was promoted."""
        victim, heirs = self._victim()
        victim.kill()
        self._promoted(heirs)
        victim.options.pop("replicaof", None)
        victim.start()
        self._demote(victim)

    def _demote(self, victim: Server) -> None:
        """Perhaps tells a primary that was replaced that it is a replica now. If not, it hears it in the end."""

    def freeze(self) -> None:
        """SIGSTOP of a primary until a replica was promoted: it wakes up with requests that it has yet to read."""
        victim, heirs = self._victim()
        victim.freeze()
        self._promoted(heirs)
        victim.thaw()
        self._demote(victim)

    def part(self) -> None:
        """A primary is cut off from the other servers, but not from its clients, until a replica was promoted."""
        victim, heirs = self._victim()
        assert self.network is not None
        self.network.cut(victim.host, clients=False)
        self._promoted(heirs)
        self.pause(self.rng.uniform(0.2, 1.0))
        self.network.heal()
        self._demote(victim)

    def fail_over(self) -> None:
        """A replica is told to take over."""
        victim, heirs = self._victim()
        self._hand_over(heirs)
        self._promoted(heirs)
        self._demote(victim)

    @abstractmethod
    def _hand_over(self, heirs: list[Server]) -> None: ...


class Sentinels(_Replicated):
    """A primary, two replicas, and three Sentinels."""

    name = "sentinel"
    copies = REPLICAS

    def _start(self) -> None:
        places = self._places(1 + REPLICAS + SENTINELS)
        primary = self._run(places[0], **KEEPS)
        for place in places[1 : 1 + REPLICAS]:
            self._run(place, **KEEPS, replicaof=f"{primary.host} {primary.port}")
        self.sentinels = [self._run_sentinel(place, primary) for place in places[1 + REPLICAS :]]

    def _run_sentinel(self, place: Place, primary: Server) -> Address:
        host, prefix = place
        folder = Path(tempfile.mkdtemp(prefix="histstore-sentinel-"))
        self._exit.callback(shutil.rmtree, folder, ignore_errors=True)
        config, port = folder / "sentinel.conf", free_port()
        settings = {"down-after-milliseconds": 1000, "failover-timeout": 2000, "parallel-syncs": REPLICAS}
        lines = [f"port {port}", f"bind {host}", "protected-mode no", f"dir {folder}"]
        lines += [f"sentinel monitor {SERVICE} {primary.host} {primary.port} {SENTINELS // 2 + 1}"]
        lines += [f"sentinel {name} {SERVICE} {value}" for name, value in settings.items()]
        config.write_text("\n".join(lines) + "\n")
        binary = server_binary()
        assert binary is not None
        command = [*prefix, binary, str(config), "--sentinel"]
        process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        self._exit.callback(process.wait)
        self._exit.callback(process.kill)
        self.wait(lambda: listens(port, host), "a Sentinel does not listen")
        return host, port

    @property
    def doors(self) -> list[Address]:
        return [*super().doors, *self.sentinels]

    def url(self, ways: dict[Address, Address]) -> str:
        seeds = (ways.get(each, each) for each in self.sentinels)
        return "redis+sentinel://" + ",".join(f"{host}:{port}" for host, port in seeds) + f"/{SERVICE}/0"

    def primaries(self) -> list[Server]:
        return [each for each in self.servers if each.address == self._known_to(self.sentinels[0])]

    def _known_to(self, sentinel: Address) -> Address | None:
        with contextlib.suppress(redis.RedisError):
            found: Any = self.client(sentinel).execute_command("SENTINEL", "GET-MASTER-ADDR-BY-NAME", SERVICE)
            return found and (found[0].decode(), int(found[1]))
        return None

    def primary_of(self, key: bytes) -> redis.Redis:
        (primary,) = self.primaries()
        return self.client(primary.address)

    def is_well(self) -> bool:
        known = {self._known_to(each) for each in self.sentinels}
        roles = {each.address: self.ask(each, "ROLE") for each in self.servers}
        if len(known) != 1 or not all(roles.values()):
            return False
        (primary,) = known
        others = [role for address, role in roles.items() if address != primary]
        mine: Any = roles.get(primary) if primary is not None else None
        return bool(
            mine
            and mine[0] == b"master"
            and len(mine[2]) == REPLICAS
            and all(role[0] == b"slave" and role[3] == b"connected" and role[2] == primary[1] for role in others)
            and all(self._knows_all(each) for each in self.sentinels)
        )

    def _knows_all(self, sentinel: Address) -> bool:
        """Whether a Sentinel sees the other Sentinels and all replicas, and none of them as down."""
        with contextlib.suppress(redis.RedisError):
            for what, count in (("REPLICAS", REPLICAS), ("SENTINELS", SENTINELS - 1)):
                found: Any = self.client(sentinel).execute_command("SENTINEL", what, SERVICE)
                flags = {flag for each in found for flag in _field(each, "flags").split(",")}
                # "master_down" is what another Sentinel thought of the primary when it was asked last.
                if len(found) != count or flags & {"s_down", "o_down", "disconnected"}:
                    return False
            return True
        return False

    def _replicas(self, primary: Server) -> list[Server]:
        return [each for each in self.servers if each is not primary]

    def _demote(self, victim: Server) -> None:
        named: list[Server] = []

        def decided() -> bool:
            named[:] = self.primaries()
            # A Sentinel that does not see in time that the replica has obeyed gives the failover up. If the primary is
            # back by then, it stays the primary, and Sentinels make the other one a replica again.
            given_up = named == [victim] and all(self.role(each) == "slave" for each in self._replicas(victim))
            return given_up or named not in ([], [victim])

        self.wait(decided, "Sentinels do not decide which one is the primary")
        # Sentinels leave it a primary for some ten seconds, and its clients may write to it.
        if self.rng.random() < 0.6 and named != [victim]:
            self.wait(lambda: self.ask(victim, "REPLICAOF", *named[0].address), "a replica is not demoted")

    def _hand_over(self, heirs: list[Server]) -> None:
        def told() -> bool:
            # A Sentinel refuses until it has heard of a replica that is fit.
            with contextlib.suppress(redis.RedisError):
                return bool(self.client(self.sentinels[0]).execute_command("SENTINEL", "FAILOVER", SERVICE))
            return False

        self.wait(told, "no Sentinel begins a failover")


def _field(entry: Any, name: str) -> str:
    """Returns a field of an entry of SENTINEL REPLICAS, which is a dict or a list."""
    if not isinstance(entry, dict):
        entry = dict(zip(entry[::2], entry[1::2], strict=True))
    value = entry.get(name, entry.get(name.encode(), b""))
    return value.decode() if isinstance(value, bytes) else str(value)


class Clustered(_Replicated):
    """A cluster of three primaries, each with a replica."""

    name = "cluster"
    copies = 1

    def __init__(self, rng: random.Random) -> None:
        super().__init__(rng)
        self.cluster: Cluster

    def _start(self) -> None:
        for place in self._places(3 * (1 + self.copies)):
            self._run(place, **KEEPS, **SETTINGS)
        self.cluster = form(self.servers, 3)
        self.cluster.close()
        # A move that is given up half-way leaves its slot open.
        self.cluster.clients = {each.port: client_of(each.address, RECOVERS) for each in self.servers}
        self._exit.callback(self.cluster.close)

    def url(self, ways: dict[Address, Address]) -> str:
        seeds = (ways.get(each, each) for each in self.doors)
        return "redis+cluster://" + ",".join(f"{host}:{port}" for host, port in seeds)

    def primaries(self) -> list[Server]:
        return [each for each in self.servers if self.role(each) == "master"]

    def primary_of(self, key: bytes) -> redis.Redis:
        return self.client(self.cluster.owner_of_slot(key_slot(key)).address)

    def is_well(self) -> bool:
        try:
            roles = [self.ask(each, "ROLE") for each in self.servers]
            heads = [role for role in roles if role and role[0] == b"master"]
            follow = [role for role in roles if role and role[0] == b"slave" and role[3] == b"connected"]
            return (
                len(heads) == 3
                and len(follow) == 3
                and all(len(role[2]) == 1 for role in heads)
                and self.cluster.is_ok()
                and self._is_agreed()
            )
        except redis.RedisError:
            return False

    def _is_agreed(self) -> bool:
        """Whether all servers name the same owners."""
        known = set()
        for each in self.servers:
            shares = self.client(each.address).execute_command("CLUSTER", "SLOTS")
            known.add(tuple(sorted((low, high, owner[1]) for low, high, owner, *_ in shares)))
        return len(known) == 1

    def _replicas(self, primary: Server) -> list[Server]:
        return [self.cluster.replica_of(primary)]

    def _hand_over(self, heirs: list[Server]) -> None:
        self.wait(lambda: self.ask(heirs[0], "CLUSTER", "FAILOVER") is not None, "the replica does not take over")

    @property
    def faults(self) -> dict[str, Callable[[], None]]:
        found = super().faults | {"slots moved": self.move_slots, "slots held open": self.hold_slot_open}
        if self.cluster.migrates():
            found["slots moved by their owner"] = self.migrate_slot
        return found

    def _move(self) -> tuple[int, Server]:
        slot = key_slot(run_keys(NAMESPACE, self.rng.choice(self.runs)).head)
        owner = self.cluster.owner_of_slot(slot)
        return slot, self.rng.choice([each for each in self.primaries() if each is not owner])

    def move_slots(self) -> None:
        """Slots with live runs move, one after the other."""
        for _ in range(self.rng.randrange(3, 8)):
            self.cluster.move_slot(*self._move(), step=self.rng.choice((1, 2, 10)))

    def hold_slot_open(self) -> None:
        """Half of the keys of a slot have moved, for seconds."""
        seconds = self.rng.uniform(1.0, 4.0)
        slot, target = self._move()
        self.cluster.move_slot(slot, target, hold=lambda: self.pause(seconds), step=1)

    def migrate_slot(self) -> None:
        """Its owner moves a slot, as Valkey 9 does."""
        self.cluster.migrate_slot(*self._move())


TOPOLOGIES: Final[dict[str, type[Topology]]] = {each.name: each for each in (Single, Sentinels, Clustered)}
