"""The state of a server, read from its replies: commands that it refuses, its role, its eviction policy."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any, Final

from redis import exceptions as redis_errors

from ..protocol.call import Command
from .faults import UndoneError, describe
from .replies import NOT_REDIS, is_error

ROLE_EVERY: Final = 5.0
"""Seconds after which a read also asks the server whether it is still the primary."""
ROLE: Final = ("INFO", "replication")
"""The command that asks a server for its role."""


def is_replica(reply: Any) -> bool:
    """Return whether a server's reply to `ROLE` says that it is a replica."""
    return isinstance(reply, bytes) and b"role:slave" in reply


class Role:
    """Remembers whether a server is the primary, and when to ask again.

    Attributes:
        due: When to ask the server next; infinite if the user may not ask it.
    """

    __slots__ = ("_was_primary", "_watched", "due")

    def __init__(self) -> None:
        # A client that was connected to a replica from the beginning is meant to read from it.
        self._was_primary = False
        self._watched = True
        self.due = -math.inf

    def ignore(self) -> None:
        """Ask no more. In a cluster, a server that is a replica sends requests elsewhere by itself."""
        self._watched = False
        self.due = math.inf

    def ask_again(self, now: float) -> None:
        """Ask the server with the next read, if it may be asked."""
        if self.due != math.inf:
            self.due = now

    def record(self, reply: Any, now: float) -> None:
        """Record the server's reply to `ROLE`.

        Raises:
            redis.exceptions.ReadOnlyError: The server was the primary once and is a replica now. Its data may be old.
        """
        if not self._watched:
            return
        if isinstance(reply, bytes):
            replica = is_replica(reply)
            if replica and self._was_primary:
                raise redis_errors.ReadOnlyError("READONLY the server was the primary, and is a replica now")
            self._was_primary = not replica
            self.due = now + ROLE_EVERY
        elif is_error(reply, "NOPERM") or is_error(reply, "ERR"):
            self.due = math.inf


_EXPECTED: Final[dict[str, tuple[str, ...]]] = {
    # It names a script that nobody has loaded.
    "EVALSHA": ("NOSCRIPT",),
    # It only serves a warning and a check of the role. ACLs refuse it, and so do proxies, each in its own words.
    "INFO": ("NOPERM", "ERR"),
}
"""The first words of the errors that the self-test expects, by command."""


def problems_of(commands: Sequence[Command], replies: Sequence[Any]) -> list[Exception]:
    """Return the unexpected errors among the self-test's replies.

    Raises:
        redis.exceptions.ConnectionError: The peer is no Redis server.
    """
    problems: list[Exception] = []
    for command, reply in zip(commands, replies, strict=True):
        if isinstance(reply, Exception):
            text = str(reply)
            if command[0] == "WAITAOF":
                text = text if text.startswith("NOPERM") else f"WAITAOF, for Durability(fsync=True): {describe(reply)}"
            if not text.startswith(_EXPECTED.get(str(command[0]), ("no error",))):
                problems.append(redis_errors.ResponseError(text))
        elif command[0] == "EVAL" and problems and reply == b"QUEUED":
            continue  # the server refused EXEC, so the transaction goes on
        elif command[0] in ("EXEC", "EVAL") and type(reply) is not list:
            raise redis_errors.ConnectionError(NOT_REDIS)
        elif command[0] == "EXEC":
            problems += [part for part in reply if isinstance(part, Exception)]
        elif command[0] == "EVAL":
            problems += [UndoneError(str(line, errors="replace")) for line in reply]
    return problems


def is_cluster_node(replies: Sequence[Any]) -> bool:
    """Return whether the replies to the self-test are those of a server of a cluster."""
    return any(isinstance(reply, bytes) and b"cluster_enabled:1" in reply for reply in replies)


def eviction_policy(replies: Sequence[Any]) -> str | None:
    """Return the server's maxmemory-policy, or None if no reply names it."""
    for reply in replies:
        if isinstance(reply, bytes) and b"maxmemory_policy:" in reply:
            return reply.split(b"maxmemory_policy:", 1)[1].split(b"\r\n", 1)[0].decode()
    return None
