"""A primary, its replicas, and the sentinels that watch them, as processes on the loopback interface."""

from __future__ import annotations

import contextlib
import re
import signal
import subprocess
import tempfile
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import redis

from .relay import Relay
from .servers import Server, free_port, listens, server_binary

READY = 30.0
"""Seconds after which servers that are not ready fail the test."""


@dataclass
class SentinelProcess:
    """A sentinel. It keeps what it knows in its file, so it can be started again."""

    folder: Path
    port: int
    password: str | None = None
    process: subprocess.Popen[bytes] | None = None

    def start(self) -> None:
        binary = server_binary()
        assert binary is not None
        command = [binary, str(self.folder / "sentinel.conf"), "--sentinel"]
        self.process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        end = time.monotonic() + READY
        while not listens(self.port):
            assert time.monotonic() < end, "the sentinel does not listen"
            time.sleep(0.02)

    def signal(self, number: int) -> None:
        assert self.process is not None
        self.process.send_signal(number)

    def kill(self) -> None:
        if self.process is not None:
            self.process.kill()
            self.process.wait()
            self.process = None

    def ask(self, *command: Any) -> Any:
        """Sends a command, and returns its reply in the form of RESP2."""
        with redis.Redis(port=self.port, password=self.password, socket_timeout=5, protocol=2) as client:
            return client.execute_command(*command)


@dataclass
class Watched:
    """Servers that sentinels watch.

    Attributes:
        service: The name under which the sentinels know the primary.
        servers: The servers; at the beginning the first of them is the primary.
        sentinels: The sentinels.
        relays: What stands between a server and all others, by the server's port; empty: nothing does.
    """

    service: str
    servers: list[Server]
    sentinels: list[SentinelProcess]
    relays: dict[int, Relay] = field(default_factory=dict)

    @property
    def url(self) -> str:
        places = ",".join(f"127.0.0.1:{each.port}" for each in self.sentinels)
        return f"redis+sentinel://{places}/{self.service}/0"

    def announced(self, each: Server) -> int:
        """The port by which the others know a server."""
        return self.relays[each.port].port if each.port in self.relays else each.port

    def primary(self) -> Server:
        """The primary, by what the first sentinel that runs says."""
        asked = next(each for each in self.sentinels if each.process is not None)
        _, port = asked.ask("SENTINEL", "GET-MASTER-ADDR-BY-NAME", self.service)
        return next(each for each in self.servers if self.announced(each) == int(port))

    def is_primary(self, each: Server) -> bool:
        with contextlib.suppress(redis.RedisError), each.client(socket_timeout=5) as client:
            return bool(client.execute_command("ROLE")[0] == b"master")
        return False

    def failover(self) -> Server:
        """Has a sentinel promote another server, and returns it when it is the primary."""
        old = self.primary()
        asked = next(each for each in self.sentinels if each.process is not None)
        # A sentinel refuses while another failover is still under way.
        self.wait(lambda: self._begins(asked), "no sentinel begins a failover")
        return self.heir_of(old)

    def _begins(self, asked: SentinelProcess) -> bool:
        with contextlib.suppress(redis.ResponseError):
            asked.ask("SENTINEL", "FAILOVER", self.service)
            return True
        return False

    def heir_of(self, old: Server) -> Server:
        """Waits until another server is the primary, and returns it."""
        found: list[Server] = []

        def promoted() -> bool:
            found[:] = [each for each in self.servers if each is not old and self.is_primary(each)]
            return bool(found)

        self.wait(promoted, "no server is promoted")
        return found[0]

    def wait(self, condition: Callable[[], object], otherwise: str) -> None:
        end = time.monotonic() + READY
        while not condition():
            assert time.monotonic() < end, otherwise
            time.sleep(0.02)

    def is_calm(self) -> bool:
        """Whether all sentinels agree, know all others, and all replicas are connected to the primary."""
        named = set()
        for each in self.sentinels:
            try:
                reply = each.ask("SENTINEL", "MASTER", self.service)
            except (redis.RedisError, OSError):
                return False
            found = dict(zip(reply[::2], reply[1::2], strict=True))
            if b"down" in found[b"flags"] or int(found[b"num-other-sentinels"]) < len(self.sentinels) - 1:
                return False
            if int(found[b"num-slaves"]) < len(self.servers) - 1:
                return False
            named.add(found[b"port"])
        if len(named) != 1:
            return False
        with self.primary().client(socket_timeout=5) as client:
            replicas = [value for key, value in client.info("replication").items() if key.startswith("slave")]
        return len(replicas) == len(self.servers) - 1 and all(each["state"] == "online" for each in replicas)

    def bring_back(self, old: Server) -> None:
        """Starts a server that was the primary, as a replica of the new one; returns when all is calm."""
        heir = self.heir_of(old)
        # A sentinel that has not heard of the failover could make the old server the primary again.
        self.wait(lambda: self._named() == {self.announced(heir)}, "the sentinels do not name the heir")
        old.start()
        # The sentinels would do the same, ten seconds later.
        with old.client() as client:
            client.replicaof("127.0.0.1", str(self.announced(heir)))
        self.settle()

    def _named(self) -> set[int]:
        """The ports that the sentinels that run name as the primary's."""
        running = [each for each in self.sentinels if each.process is not None]
        return {int(each.ask("SENTINEL", "GET-MASTER-ADDR-BY-NAME", self.service)[1]) for each in running}

    def settle(self) -> None:
        """Waits until everything is up and agrees."""
        self.wait(self.is_calm, "the sentinels do not agree")


@contextlib.contextmanager
def watched(
    replicas: int = 2, sentinels: int = 3, *, relayed: bool = False, service: str = "main", conf: str = ""
) -> Iterator[Watched]:
    """Runs a primary with replicas, and sentinels that watch it.

    Args:
        replicas: Number of replicas.
        sentinels: Number of sentinels; most of them have to agree.
        relayed: Whether each server is reached, by the others, through a relay that can be cut.
        service: The name of the service.
        conf: More lines for each sentinel.
    """
    with contextlib.ExitStack() as stack:
        servers: list[Server] = []
        relays: dict[int, Relay] = {}
        for _ in range(1 + replicas):
            options = {"appendonly": "yes", "repl-diskless-sync-delay": "0", "repl-ping-replica-period": "1"}
            port = free_port()
            if relayed:
                relay = relays[port] = stack.enter_context(Relay(port))
                options |= {"replica-announce-ip": "127.0.0.1", "replica-announce-port": str(relay.port)}
            if servers:
                first = servers[0].port
                options["replicaof"] = f"127.0.0.1 {relays[first].port if relayed else first}"
            one = Server(options, port=port).start()
            assert one.port == port
            stack.callback(one.stop)
            servers.append(one)
        made: list[SentinelProcess] = []
        found = Watched(service, servers, made, relays)
        for _ in range(sentinels):
            folder = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="histstore-sentinel-")))
            port = free_port()
            lines = [
                f"port {port}", "bind 127.0.0.1", f"dir {folder}",
                f"sentinel monitor {service} 127.0.0.1 {found.announced(servers[0])} {sentinels // 2 + 1}",
                f"sentinel down-after-milliseconds {service} 500",
                f"sentinel failover-timeout {service} 3000", conf,
            ]  # fmt: skip
            (folder / "sentinel.conf").write_text("\n".join(lines) + "\n")
            found_password = re.search(r"^requirepass (.*)$", conf, re.MULTILINE)
            one_more = SentinelProcess(folder, port, found_password[1] if found_password else None)
            stack.callback(one_more.kill)
            one_more.start()
            made.append(one_more)
        found.settle()
        yield found
        for each in [*servers, *made]:
            if each.process is not None:
                with contextlib.suppress(ProcessLookupError):
                    each.signal(signal.SIGCONT)
