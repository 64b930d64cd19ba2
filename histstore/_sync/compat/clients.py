# Generated from histstore/_async/compat/clients.py by tools/unasync.py; do not edit.
"""redis-py's classes: the client that a backend takes, and the connections whose options it takes over."""

from __future__ import annotations

from typing import Any, Final

from redis import (
    Connection,
    ConnectionPool,
    Redis,
    RedisCluster,
    SSLConnection,
    UnixDomainSocketConnection,
)
from redis.sentinel import SentinelManagedConnection, SentinelManagedSSLConnection

__all__ = ["KINDS", "ConnectionPool", "Redis", "RedisCluster"]

KINDS: Final[dict[type[Any], str]] = {
    Connection: "tcp",
    SSLConnection: "tls",
    UnixDomainSocketConnection: "unix",
    SentinelManagedConnection: "tcp",
    SentinelManagedSSLConnection: "tls",
}
"""redis-py's connection classes, and the kind of each."""
