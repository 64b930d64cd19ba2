"""redis-py's classes: the client that a backend takes, and the connections whose options it takes over."""

from __future__ import annotations

from dataclasses import replace
from typing import Any, Final

from redis.asyncio import (
    Connection,
    ConnectionPool,
    Redis,
    RedisCluster,
    SSLConnection,
    UnixDomainSocketConnection,
)
from redis.asyncio.sentinel import SentinelManagedConnection, SentinelManagedSSLConnection

from ...wire.settings import ConnectionSettings, connection_settings
from ...wire.slots import checked

__all__ = ["KINDS", "ConnectionPool", "Redis", "RedisCluster", "cluster_settings"]

KINDS: Final[dict[type[Any], str]] = {
    Connection: "tcp",
    SSLConnection: "tls",
    UnixDomainSocketConnection: "unix",
    SentinelManagedConnection: "tcp",
    SentinelManagedSSLConnection: "tls",
}
"""redis-py's connection classes, and the kind of each."""


def cluster_settings(client: RedisCluster) -> ConnectionSettings:
    """Copy the settings of a cluster's client.

    Raises:
        ConnectionOptionError: An option is of no use here.
    """
    manager: Any = client.nodes_manager
    given = dict(getattr(client, "connection_kwargs", None) or manager.connection_kwargs)
    given.pop("response_callbacks", None)
    if getattr(client, "user_on_connect_func", None) is None:
        given.pop("redis_connect_func", None)  # the client's own, which only sends READONLY to replicas
    default = SSLConnection if given.pop("ssl", False) else Connection
    seeds = tuple((str(node.host), int(node.port)) for node in manager.startup_nodes.values())
    connection_class = given.pop("connection_class", default)
    host, port = seeds[0]
    found = connection_settings(connection_class, {**given, "host": host, "port": port}, KINDS)
    return replace(found, seeds=seeds, host_map=checked(getattr(manager, "address_remap", None)))
