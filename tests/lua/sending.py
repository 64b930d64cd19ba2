"""What the tests send: commands, and writes of which several copies may be under way."""

from __future__ import annotations

import functools
import itertools
import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Final

import redis
from redis.exceptions import ResponseError

from histstore.log.base import Base
from histstore.log.plan import Plan, grow
from histstore.protocol.call import Call, Command
from histstore.protocol.scripts import ALL, strip

Reply = list[Any]

SOURCES: Final = {script.name: script.source for script in ALL}


def exchange(client: redis.Redis, *commands: Command) -> list[Any]:
    """Send commands in one write and return the raw replies. Errors of the server are returned as values."""
    connection = client.connection_pool.get_connection()
    try:
        connection.send_packed_command(connection.pack_commands(commands))
        replies: list[Any] = []
        for _ in commands:
            try:
                replies.append(connection.read_response())
            except ResponseError as error:
                replies.append(error)
        return replies
    finally:
        client.connection_pool.release(connection)


@dataclass(frozen=True)
class Save:
    """One save with all its copies: each `World.send` delivers one copy."""

    call: Call
    plan: Plan
    onto: Base | None

    @property
    def etag(self) -> bytes:
        return self.plan.entry.etag

    @functools.cached_property
    def after(self) -> Base:
        """The content that the save makes."""
        found = grow(self.onto, self.plan, self.plan.entry.revision())
        assert found is not None
        return found


@dataclass(frozen=True)
class Delete:
    """One delete with all its copies."""

    call: Call

    @property
    def ticket(self) -> bytes:
        assert self.call.attempt is not None
        return self.call.attempt.ticket


def commands(script: str) -> set[str]:
    """Return the names of the commands that a script sends: every quoted word of capitals is one."""
    return set(re.findall(r"'([A-Z]+)'", strip(SOURCES[script]))) - {"MAXLEN", "MINID", "WITHVALUES"}


def few(items: Sequence[str]) -> list[tuple[str, ...]]:
    """Return each item alone, and each pair."""
    return [*((item,) for item in items), *itertools.combinations(items, 2)]
