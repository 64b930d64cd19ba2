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
from redis.asyncio.sentinel import Sentinel, SentinelManagedConnection, SentinelManagedSSLConnection

from ...errors import ConnectionOptionError
from ...wire.settings import ConnectionSettings, SentinelService, connection_settings
from ...wire.slots import checked

__all__ = ["KINDS", "ConnectionPool", "Redis", "RedisCluster", "cluster_settings", "sentinels_of"]

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


def sentinels_of(pool: Any) -> tuple[SentinelService, Any]:
    """Copy the sentinels of the pool of a `Sentinel.master_for` client.

    Returns:
        The sentinels, and a host map; None: the client uses the addresses that they give.

    Raises:
        ConnectionOptionError: An option is of no use here.
    """
    manager = pool.sentinel_manager
    if type(manager).discover_master is not Sentinel.discover_master:
        raise ConnectionOptionError(
            f"{type(manager).__name__} finds the primary in a way of its own: use from_url with redis+sentinel://, and "
            "host_map= where servers are reached at other addresses"
        )
    pools = [sentinel.connection_pool for sentinel in manager.sentinels]
    if not pools:
        raise ConnectionOptionError("the client's Sentinel has no sentinels: give it their addresses")
    found = [connection_settings(each.connection_class, each.connection_kwargs, KINDS) for each in pools]
    service = SentinelService(
        pool.service_name, tuple(each.address for each in found), found[0], manager.min_other_sentinels
    )
    forced = getattr(manager, "_force_master_ip", None)
    return service, checked(ForcedHost(forced)) if forced else None


class ForcedHost:
    """The host map of a `Sentinel(force_master_ip=)`: the primary has one address, whatever the sentinels say."""

    def __init__(self, host: str) -> None:
        self.host = host

    def __call__(self, address: tuple[str, int]) -> tuple[str, int]:
        """Return the address with that host."""
        return self.host, address[1]
