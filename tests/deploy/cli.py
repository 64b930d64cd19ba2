"""The few commands of valkey-cli that the compose files use, for machines without it.

The options are `-h`, `-p`, `--user` and `--pass`. `--cluster create` joins servers to a cluster. Anything else is a
command, whose reply is printed. BIND is the default host.
"""

from __future__ import annotations

import contextlib
import os
import socket
import sys
import time
from collections.abc import Callable
from typing import Any

import hiredis
import redis

SLOTS = 16384


def main(words: list[str]) -> int:
    """Run one command line, and return the exit code."""
    options = {"-h": os.environ.get("BIND", "127.0.0.1"), "-p": "6379"}
    while words and words[0].startswith("-") and words[0] != "--cluster":
        name = words.pop(0)
        if name != "--no-auth-warning":
            options[name] = words.pop(0)
    user = {"username": options.get("--user"), "password": options.get("--pass")}
    if words[:2] == ["--cluster", "create"]:
        replicas = int(words[words.index("--cluster-replicas") + 1])
        create([word for word in words if ":" in word], replicas, user)
        return 0
    # Not through redis-py, which changes the texts of errors.
    log_in = [("AUTH", user["username"], user["password"])] if user["username"] else []
    reply: Any = None
    with socket.create_connection((options["-h"], int(options["-p"])), 3) as connection:
        for command in [*log_in, words]:
            connection.sendall(b"*%d\r\n" % len(command) + b"".join(map(_packed, command)))
            reply = _answer(connection)
    print(reply.decode() if isinstance(reply, bytes) else reply)
    return 0


def _packed(word: str | None) -> bytes:
    data = str(word).encode()
    return b"$%d\r\n%s\r\n" % (len(data), data)


def _answer(connection: socket.socket) -> Any:
    reader = hiredis.Reader()
    while (reply := reader.gets()) is False:
        reader.feed(connection.recv(1 << 16) or sys.exit("the server has closed the connection"))
    return reply


def wait(condition: Callable[[], bool], what: str) -> None:
    """Return when a condition holds."""
    end = time.monotonic() + 60
    while not condition():
        if time.monotonic() > end:
            raise SystemExit(f"the cluster was not created: {what}")
        time.sleep(0.1)


def create(servers: list[str], replicas: int, user: dict[str, str | None]) -> None:
    """Join servers to a cluster: the first are its primaries, the others follow them in turn."""
    count = len(servers) // (1 + replicas)
    addresses = [server.rsplit(":", 1) for server in servers]
    clients = [redis.Redis(host=host, port=int(port), **user) for host, port in addresses]  # type: ignore[arg-type]
    for place, client in enumerate(clients):
        client.execute_command("CLUSTER", "SET-CONFIG-EPOCH", place + 1)
        if place < count:
            slots = range(place * SLOTS // count, (place + 1) * SLOTS // count)
            client.execute_command("CLUSTER", "ADDSLOTS", *slots)
    for host, port in addresses[1:]:
        clients[0].execute_command("CLUSTER", "MEET", host, port)

    def info(client: Any) -> str:
        return str(client.execute_command("CLUSTER", "INFO").decode())

    def state(client: Any) -> bool:
        return f"cluster_known_nodes:{len(servers)}" in info(client) and "cluster_state:ok" in info(client)

    wait(lambda: all(map(state, clients)), "the servers do not know each other")
    for place, client in enumerate(clients[count:]):
        primary = clients[place % count].execute_command("CLUSTER", "MYID")

        def follow(client: Any = client, primary: Any = primary) -> bool:
            with contextlib.suppress(redis.exceptions.ResponseError):
                client.execute_command("CLUSTER", "REPLICATE", primary)
                return True
            return False

        wait(follow, "a replica does not know its primary")
    wait(lambda: all("master_link_status:up" in _replication(client) for client in clients[count:]), "no replication")


def _replication(client: Any) -> str:
    return f"master_link_status:{client.info('replication')['master_link_status']}"


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
