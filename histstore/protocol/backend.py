"""Requests of the backend itself, about no single run."""

from __future__ import annotations

from .call import Call, Command, Route
from .keys import Keys, head_pattern
from .scripts import PROBE


def time() -> Call:
    """Build a request that any server answers, with its time."""
    return Call("runs", [("TIME",)])


def scan(namespace: str, prefix: str, cursor: int, server: Route) -> Call:
    """Build one step of a walk over the heads of all runs.

    Args:
        namespace: The namespace.
        prefix: What the runs' ids start with.
        cursor: Where the step before it ended; 0: the first step.
        server: The server.
    """
    command: Command = ("SCAN", b"%d" % cursor, "MATCH", head_pattern(namespace, prefix), "COUNT", "500")
    return Call("runs", [command], server)


def probe(keys: Keys) -> Call:
    """Build the self-test of a connection: every command that this library sends, on a scratch key.

    A connection's log-in and the confirmations of `Durability` are not part of it.
    """
    scratch = keys.head
    reads: list[Command] = [
        ("MULTI",),
        ("HMGET", scratch, "etag"),
        ("XRANGE", scratch, "-", "+"),
        ("XREVRANGE", scratch, "+", "-", "COUNT", "1"),
        ("XLEN", scratch),
        ("PTTL", scratch),
        ("TIME",),
        ("EXEC",),
        ("EVALSHA", "0" * 40, "1", scratch),
        ("SUBSCRIBE", scratch),
        ("UNSUBSCRIBE", scratch),
        ("SCAN", "0", "MATCH", scratch, "COUNT", "1"),
        ("INFO", "memory"),
        ("INFO", "replication"),
        ("INFO", "cluster"),
        ("EVAL", PROBE.source, "1", scratch),
    ]
    return Call("probe", reads, key=scratch)
