"""What clients send to a server, as MONITOR tells it: commands, and not what scripts run inside."""

from __future__ import annotations

import contextlib
import threading
from collections import Counter
from collections.abc import Iterator
from typing import Any

import redis

from .servers import Server

END = "histstore-monitor-end"


class Monitor:
    """Commands by the names that clients gave themselves in their first words (`client_name=` in a URL).

    Attributes:
        commands: Who sent what since the last count.
        heard: Who had sent what by the last count.
    """

    def __init__(self) -> None:
        self.commands: list[tuple[str, str]] = []
        self.heard: list[tuple[str, str]] = []
        self._names: dict[str, str] = {}
        self._seen = threading.Condition()
        self._ended = 0

    def hear(self, said: dict[str, Any]) -> None:
        if said["client_type"] == "lua":
            return
        address = f"{said['client_address']}:{said['client_port']}"
        words = said["command"].split(" ")
        with self._seen:
            if words[0] == "CLIENT" and words[1].upper() == "SETNAME":
                self._names[address] = words[2]
            if words[-1] == END:
                self._ended += 1
                self._seen.notify_all()
            self.commands.append((self._names.get(address, address), " ".join(words[:2])[:60]))

    def counts(self, client: redis.Redis) -> Counter[str]:
        """Returns how many commands each client has sent until now, and begins to count anew."""
        with self._seen:
            before = self._ended
            client.echo(END)
            assert self._seen.wait_for(lambda: self._ended > before, 20), "MONITOR is silent"
            heard, self.commands = self.commands, []
        self.heard = heard
        return Counter(name for name, _ in heard)


@contextlib.contextmanager
def monitor(server: Server) -> Iterator[Monitor]:
    """Watches a server."""
    watching = Monitor()
    started = threading.Event()
    client = server.client()

    def watch() -> None:
        with client.monitor() as stream:
            started.set()
            with contextlib.suppress(redis.ConnectionError, ValueError, OSError):
                for said in stream.listen():
                    watching.hear(said)

    thread = threading.Thread(target=watch, name="monitor", daemon=True)
    thread.start()
    assert started.wait(20)
    try:
        yield watching
    finally:
        with server.client() as other:
            for each in other.client_list():  # type: ignore[union-attr]
                if each["cmd"] == "monitor":
                    other.client_kill_filter(_id=each["id"])
        thread.join(20)
        client.close()
