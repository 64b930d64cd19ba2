"""Readings of a server's replies that every call needs."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Final

from redis import exceptions as redis_errors

from ..protocol.call import Call, Command

NOT_REDIS: Final = "what answers there is no Redis server"


def last_reply(replies: Sequence[Any]) -> Any:
    """Return the reply that counts: the last one, or the error that made the server abort the transaction."""
    last = replies[-1]
    if type(last) is not list and isinstance(last, Exception) and str(last).startswith("EXECABORT"):
        return next((reply for reply in replies if isinstance(reply, Exception)), last)
    return last


def is_error(reply: Any, word: str) -> bool:
    """Return whether a reply is an error that begins with a word. Other replies may nest too deeply to be printed."""
    return isinstance(reply, redis_errors.ResponseError) and str(reply).startswith(word)


def is_complete(replies: Sequence[Any], commands: Sequence[Command]) -> bool:
    """Return whether a transaction has a reply to each command, and none is an error."""
    for reply in replies:
        if isinstance(reply, Exception):
            return False
    return len(replies) == len(commands)


def check_transaction(call: Call, reply: Any) -> None:
    """Raise the error of a command inside a transaction. A foreign type is damage, which the readers report.

    Raises:
        redis.exceptions.RedisError: A command failed, or the peer is no Redis server.
    """
    if type(reply) is not list or not reply or (call.relaxed is not None and len(reply) != len(call.relaxed)):
        raise redis_errors.ConnectionError(NOT_REDIS)
    for part in reply:
        if isinstance(part, Exception) and not str(part).startswith("WRONGTYPE"):
            raise part
