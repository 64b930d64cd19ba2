"""How to connect: redis-py's settings, without what would retry, decode or push behind our back."""

from __future__ import annotations

import re
import socket
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final

from redis.exceptions import AuthenticationError, ConnectionError, RedisError

from .errors import SnapshotError

TRY_TIMEOUT: Final = 5.0
"""Seconds that one try waits for its answer when the settings do not say (`socket_timeout`)."""
MAX_CONNECTIONS: Final = 100

# The tries, their timeouts and the protocol are decided here; the rest is plumbing between redis-py's
# own objects, which must not be shared with connections that are not theirs.
_OURS: Final = frozenset({
    "decode_responses", "event_dispatcher", "health_check_interval", "himport_registry", "max_connections",
    "maint_notifications_config", "parser_class", "protocol", "retry", "retry_on_error", "retry_on_timeout",
    "socket_connect_timeout", "socket_timeout", "timeout", "single_connection_client", "auto_close_connection_pool",
    "cache", "cache_config",
})  # fmt: skip
_PLUMBING: Final = ("_", "maint_", "maintenance_", "orig_", "oss_cluster_")


@dataclass(frozen=True, slots=True)
class ConnectionSettings:
    """What every connection of a backend is made with.

    Attributes:
        connection_class: redis-py's class of connections.
        kwargs: What it is made with.
        try_timeout: Seconds that one try waits for its answer.
        connect_timeout: Seconds that connecting, with authentication, may take.
        max_connections: Connections that may be open at once.
    """

    connection_class: type[Any]
    kwargs: Mapping[str, Any]
    try_timeout: float
    connect_timeout: float
    max_connections: int

    def make(self) -> Any:
        """Makes a connection that is not open yet."""
        return self.connection_class(**self.kwargs)

    def handshake(self, connection: Any, credentials: tuple[Any, ...] | None) -> list[tuple[bytes | str, ...]]:
        """Returns what a connection says first. redis-py's own handshake bounds its reads one by one only.

        Args:
            connection: redis-py's connection, made of these settings.
            credentials: What its credential provider gave, if it has one.
        """
        if credentials is None:
            user, password = connection.username, connection.password
            credentials = (user, password or "") if user else (password,) if password else ()
        commands: list[tuple[Any, ...]] = [("AUTH", *credentials)] if credentials else []
        if connection.client_name:
            commands.append(("CLIENT", "SETNAME", connection.client_name))
        if connection.db:
            commands.append(("SELECT", connection.db))
        # The settings are the user's, and hold numbers: a database, but also a password may be one.
        return [tuple(part if type(part) is bytes else str(part) for part in command) for command in commands]

    def __repr__(self) -> str:
        return f"<ConnectionSettings of a {self.connection_class.__name__}>"  # kwargs hold the password


def connection_settings(
    connection_class: type[Any], given: Mapping[str, Any], no_retry: Any, socket_timeout: float | None
) -> ConnectionSettings:
    """Copies redis-py's settings.

    Args:
        connection_class: redis-py's class of connections.
        given: What redis-py would make it with; not changed.
        no_retry: A redis-py Retry that tries once.
        socket_timeout: Seconds that a socket operation of redis-py's handshake may take; None: any time.

    Raises:
        SnapshotError: An option is unknown or its value is of no use.
    """
    kept = {name: value for name, value in given.items() if name not in _OURS and not name.startswith(_PLUMBING)}
    try_timeout = _positive(given.get("socket_timeout"), TRY_TIMEOUT, "socket_timeout")
    connect_timeout = _positive(given.get("socket_connect_timeout"), try_timeout, "socket_connect_timeout")
    limit = given.get("max_connections") or MAX_CONNECTIONS
    if type(limit) is not int or limit < 1:
        raise SnapshotError("max_connections is a whole number from 1")
    kept |= {
        "decode_responses": False,
        "protocol": 2,
        "retry": no_retry,
        "socket_timeout": socket_timeout,
        "socket_connect_timeout": connect_timeout,
        "redis_connect_func": _no_handshake,
    }
    settings = ConnectionSettings(connection_class, kept, try_timeout, connect_timeout, limit)
    try:
        settings.make()
    except TypeError as error:
        # In a URL that was read wrongly, what stands for an option's name may be part of the password.
        name = re.search(r"'([a-z_]{1,40})'", str(error))
        raise SnapshotError(f"a connection option is unknown: {name[1] if name else 'see the URL'}") from None
    except (ValueError, RedisError):
        raise SnapshotError("a connection option has a value of no use") from None
    return settings


def keep_alive(sock: Any) -> None:
    """Lets the system ask, while nothing is said, whether the other end is still there: for half a minute at most."""
    if sock.family not in (socket.AF_INET, socket.AF_INET6):
        return
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
    for name, value in (("TCP_KEEPIDLE", 15), ("TCP_KEEPINTVL", 5), ("TCP_KEEPCNT", 3)):
        if hasattr(socket, name):  # macOS has other names for some
            sock.setsockopt(socket.IPPROTO_TCP, getattr(socket, name), value)


def _no_handshake(_connection: Any) -> None:
    """Stands in for redis-py's handshake."""


def check_handshake(replies: Sequence[Any]) -> None:
    """Raises what a server answered to the first words of a connection, if it refused any."""
    for reply in replies:
        if isinstance(reply, Exception):
            text = str(reply)
            refused = text.startswith(("WRONGPASS", "NOAUTH", "NOPERM", "ERR AUTH", "ERR invalid password"))
            raise AuthenticationError(text) if refused else ConnectionError(text)


def _positive(value: Any, default: float, name: str) -> float:
    if value is None:
        return default
    if type(value) not in (int, float) or not 0 < value < float("inf"):
        raise SnapshotError(f"{name} is a number of seconds, more than 0")
    return float(value)
