"""Connection settings, taken from redis-py without the options that would retry, decode or push on their own."""

from __future__ import annotations

import re
import socket
import ssl
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Any, Final

from redis.exceptions import RedisError

from ..errors import ConnectionOptionError
from .health import ROLE
from .slots import HostMap, ServerAddress
from .tls import TlsContexts

TRY_TIMEOUT: Final = 5.0
"""Seconds that one try waits for its answer when the settings do not say (`socket_timeout`)."""
MAX_CONNECTIONS: Final = 100

# histstore itself decides on tries, timeouts, protocol and sockets. The other options connect redis-py's own objects
# with each other, and those must not be shared with foreign connections.
_DROPPED: Final = frozenset({
    "decode_responses", "driver_info", "event_dispatcher", "health_check_interval", "himport_registry",
    "legacy_responses", "lib_name", "lib_version", "max_connections", "maint_notifications_config", "parser_class",
    "protocol", "retry", "retry_on_error", "retry_on_timeout", "socket_connect_timeout", "socket_read_size",
    "socket_timeout", "timeout", "single_connection_client", "auto_close_connection_pool", "cache", "cache_config",
})  # fmt: skip
_DROPPED_PREFIXES: Final = ("_", "maint_", "maintenance_", "orig_", "oss_cluster_")

_REFUSED: Final[Mapping[str, str]] = {
    "redis_connect_func": "give a credential_provider for a log-in of your own",
    "encoder_class": "leave it out",
    "ssl_validate_ocsp": "leave it out, or connect through a TLS proxy that checks it",
    "ssl_validate_ocsp_stapled": "leave it out, or connect through a TLS proxy that checks it",
    "ssl_ocsp_context": "leave it out, or connect through a TLS proxy that checks it",
    "ssl_ocsp_expected_cert": "leave it out, or connect through a TLS proxy that checks it",
}
"""Options that change how redis-py connects or encodes. Silently ignoring one could weaken a connection."""

_NOT_OF_SENTINELS: Final = frozenset({"username", "password", "credential_provider", "client_name", "db"})


@dataclass(frozen=True, slots=True)
class ConnectionSettings:
    """The options of every connection of a backend.

    Attributes:
        kind: "tcp", "tls" or "unix".
        kwargs: redis-py's options by name.
        try_timeout: Timeout of one try in seconds.
        connect_timeout: Timeout of opening a connection in seconds, authentication included.
        max_connections: Limit of open connections.
        keepalive: The TCP keepalive options by number, or None without keepalive.
        seeds: Servers of a cluster to ask for its map of slots, one of which is enough; empty: a single server.
        host_map: Returns where a server is reached that its cluster, or the sentinels, know by another address; None:
            by that one.
        sentinels: The sentinels that know the server; None: its address is known.
        finder: Asks the sentinels, for each connection that is opened; None: there are none.
        contexts: Makes the TLS contexts. Settings that are copied from these share it.
    """

    kind: str
    kwargs: Mapping[str, Any]
    try_timeout: float
    connect_timeout: float
    max_connections: int
    keepalive: Mapping[int, Any] | None = None
    seeds: tuple[ServerAddress, ...] = ()
    host_map: HostMap | None = None
    sentinels: SentinelService | None = None
    finder: Any = None
    contexts: TlsContexts = field(default_factory=TlsContexts, compare=False)

    @property
    def path(self) -> str | None:
        """The path of the server's unix socket, or None for a host and a port."""
        return str(self.kwargs.get("path", "")) if self.kind == "unix" else None

    @property
    def address(self) -> tuple[str, int]:
        """The server's host and port."""
        return str(self.kwargs.get("host") or "localhost"), int(self.kwargs.get("port") or 6379)

    @property
    def family(self) -> int:
        """The address family to look the host up in; 0 stands for any. redis-py calls it socket_type."""
        return int(self.kwargs.get("socket_type") or 0)

    def at(self, address: ServerAddress) -> ConnectionSettings:
        """Return the same settings for one server of the cluster."""
        host, port = address
        kept = {name: value for name, value in self.kwargs.items() if name != "path"}
        kind = "tcp" if self.kind == "unix" else self.kind
        return replace(self, kind=kind, kwargs={**kept, "host": host, "port": port}, seeds=())

    def of_sentinels(self, username: str | None, password: str | None, *, tls: bool) -> ConnectionSettings:
        """Return the settings of connections to the sentinels of this server: the same TLS, and a log-in of their own.

        Args:
            username: The user; None: without one.
            password: Its password; None: without one.
            tls: Whether the sentinels are reached with TLS.
        """
        kept = {name: value for name, value in self.kwargs.items() if name not in _NOT_OF_SENTINELS}
        return replace(self, kind="tls" if tls else "tcp", kwargs={**kept, "username": username, "password": password})

    def set_up(self, sock: socket.socket) -> None:
        """Set the options of a new TCP socket, as redis-py does."""
        if self.kind == "unix":
            return
        sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        if self.keepalive is not None:
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
            for option, value in self.keepalive.items():
                sock.setsockopt(socket.IPPROTO_TCP, option, value)

    def tls(self) -> ssl.SSLContext | None:
        """Return the TLS context for a new connection, or None for one without TLS.

        New connections use certificates that were renewed on disk.

        Raises:
            TlsOptionError: An option or its file cannot be used.
        """
        if self.kind != "tls":
            return None
        return self.contexts.get(self.kwargs)

    def handshake(self, credentials: tuple[Any, ...] | None) -> list[tuple[bytes | str, ...]]:
        """Return the first commands of a connection, which the server must answer. Without any other it is a PING.

        A server with too many clients accepts a connection and refuses the first command. A port that speaks another
        protocol also shows that only at the first command.

        Args:
            credentials: The answer of the credential provider, or None without a provider.
        """
        given = self.kwargs
        if credentials is None:
            user, password = given.get("username"), given.get("password")
            credentials = (user, password or "") if user else (password,) if password else ()
        commands: list[tuple[Any, ...]] = [("AUTH", *credentials)] if credentials else []
        if given.get("client_name"):
            commands.append(("CLIENT", "SETNAME", given["client_name"]))
        if given.get("db"):
            commands.append(("SELECT", given["db"]))
        encoding, errors = given.get("encoding") or "utf-8", given.get("encoding_errors") or "strict"
        if self.finder is not None:
            commands.append(ROLE)
        # The user may have given numbers: the database, but also a password.
        packed: list[tuple[bytes | str, ...]] = [
            tuple(part if type(part) is bytes else str(part).encode(encoding, errors) for part in command)
            for command in commands
        ]
        return packed or [("PING",)]

    def __repr__(self) -> str:
        return f"<ConnectionSettings of kind {self.kind!r}>"  # kwargs hold the password


@dataclass(frozen=True, slots=True)
class SentinelService:
    """A primary that sentinels know by a name.

    Attributes:
        name: The name.
        addresses: Host and port of each sentinel.
        settings: How to connect to them.
        min_others: How many other sentinels one has to know, so that its answer counts.
    """

    name: str
    addresses: tuple[ServerAddress, ...]
    settings: ConnectionSettings
    min_others: int = 0


def connection_settings(
    connection_class: type[Any], given: Mapping[str, Any], kinds: Mapping[type[Any], str]
) -> ConnectionSettings:
    """Copy redis-py's settings.

    Args:
        connection_class: redis-py's class of connections.
        given: redis-py's arguments for it; not changed.
        kinds: The supported connection classes, and the kind of each.

    Raises:
        ConnectionOptionError: An option is unknown or its value is invalid.
    """
    kind = kinds.get(connection_class)
    if not isinstance(connection_class, type):  # not quoted: in a URL that was parsed wrongly it may be a secret
        raise ConnectionOptionError("connection_class is no option of a URL: leave it out")
    if kind is None:
        raise ConnectionOptionError(
            f"{connection_class.__name__} is a connection class of your own, and histstore opens its sockets itself: "
            "give a client with redis-py's Connection, SSLConnection or UnixDomainSocketConnection; "
            "a credential_provider serves for log-ins"
        )
    for name, advice in _REFUSED.items():
        if given.get(name):
            raise ConnectionOptionError(f"the connection option {name} is not supported: {advice}")
    pool = given.get("connection_pool")
    if pool is not None and not pool.is_master:
        raise ConnectionOptionError("the client is of Sentinel's replicas, which refuse writes: use master_for()")
    kept = {
        name: value for name, value in given.items() if name not in _DROPPED and not name.startswith(_DROPPED_PREFIXES)
    }
    checked = dict(kept)
    kept.pop("connection_pool", None)
    try_timeout = _positive(given.get("socket_timeout"), TRY_TIMEOUT, "socket_timeout")
    connect_timeout = _positive(given.get("socket_connect_timeout"), try_timeout, "socket_connect_timeout")
    limit = given.get("max_connections") or MAX_CONNECTIONS
    if type(limit) is not int or limit < 1:
        raise ConnectionOptionError("max_connections is a whole number from 1")
    settings = ConnectionSettings(kind, kept, try_timeout, connect_timeout, limit)
    try:
        made = connection_class(**checked)  # redis-py checks the names of the options, and has its own defaults
        if getattr(made, "socket_keepalive", False):
            settings = replace(settings, keepalive=dict(made.socket_keepalive_options or {}))
        settings.handshake(None)
        if not 0 < settings.address[1] < 65536 or (kind == "unix" and not settings.path):
            raise ValueError
        if kept.get("ssl_min_version") is not None:
            ssl.TLSVersion(int(kept["ssl_min_version"]))
        int(kept.get("db") or 0)
    except TypeError as error:
        # In a URL that was parsed wrongly, the name of an option may be part of the password.
        found = re.search(r"'([a-z_]{1,40})'", str(error))
        raise ConnectionOptionError(f"a connection option is unknown: {found[1] if found else 'see the URL'}") from None
    except (ValueError, LookupError, RedisError):
        raise ConnectionOptionError("a connection option has a value of no use") from None
    return settings


def check_url(url: str) -> None:
    """Refuse a URL with parts that redis-py would ignore. A password that is not percent-encoded causes such parts.

    Raises:
        ConnectionOptionError: The URL has such parts. The text does not quote them.
    """
    scheme, _, rest = url.partition("://")
    if scheme.lower() == "unix":
        return
    place, _, fragment = rest.partition("#")
    place, _, query = place.partition("?")
    host, _, path = place.partition("/")
    # An option has a name. The text after a "?" in a password has no "=" before its "@".
    cut = any("@" in part and "=" not in part for part in query.split("&"))
    if fragment or ("@" not in host and ("@" in path or cut)):
        raise ConnectionOptionError("the URL is cut short by a '/', '?' or '#' in its password: percent-encode them")
    if "db=" not in query and not re.fullmatch(r"(\d{1,9})?/?", path):
        raise ConnectionOptionError("the database at the end of the URL's path is a whole number")


def keep_alive(sock: Any) -> None:
    """Enable TCP keepalive: on a silent connection the system notices a lost peer within half a minute."""
    if sock.family not in (socket.AF_INET, socket.AF_INET6):
        return
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
    for name, value in (("TCP_KEEPIDLE", 15), ("TCP_KEEPINTVL", 5), ("TCP_KEEPCNT", 3)):
        if hasattr(socket, name):  # macOS has other names for some
            sock.setsockopt(socket.IPPROTO_TCP, getattr(socket, name), value)


def _positive(value: Any, default: float, name: str) -> float:
    if value is None:
        return default
    if type(value) not in (int, float) or not 0 < value < float("inf"):
        raise ConnectionOptionError(f"{name} is a number of seconds, more than 0")
    return float(value)
