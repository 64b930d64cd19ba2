"""Questions about an address: which addresses a name has, and which protocol a port speaks."""

from __future__ import annotations

import _thread
import contextlib

# A look-up imports this codec. A signal handler that raises during an import leaves the module's lock taken, and then
# every thread that looks up a name hangs. So it is imported here.
import encodings.idna  # noqa: F401
import socket
import ssl
import threading
import time
from typing import Any

from ...wire.addresses import Address, addresses_of, numeric_addresses
from ...wire.opening import LOOK_UP_PAUSE, Opening, is_plain_redis, probe_context
from ...wire.settings import ConnectionSettings
from ..compat.io import monotonic


def time_left(end: float) -> float:
    """Return the seconds until `end`.

    Raises:
        TimeoutError: None are left.
    """
    left = end - monotonic()
    if left <= 0:
        raise TimeoutError
    return left


def look_up(opening: Opening, host: str, port: int, family: int, end: float) -> list[Address]:
    """Return the addresses of a host. An unknown name is looked up until `end`: it may be about to be published.

    Raises:
        socket.gaierror: The resolver failed, or the name stayed unknown.
        TimeoutError: The resolver did not answer in time.
    """
    addresses = numeric_addresses(host, port, family)
    if addresses is not None:
        return addresses  # without a thread
    while True:
        try:
            return addresses_of(_resolve_until(end, (host, port, family, socket.SOCK_STREAM)))
        except socket.gaierror as error:
            if error.errno != socket.EAI_NONAME or end - monotonic() < 2 * LOOK_UP_PAUSE:
                raise
            opening.last_error = error
        time.sleep(LOOK_UP_PAUSE)


def _resolve_until(end: float, question: tuple[Any, ...]) -> Any:
    """Look a name up in a thread of its own. The resolver has no timeout, and a signal does not end its wait."""
    addresses: list[Any] = []
    done = threading.Lock()
    done.acquire()
    try:
        _thread.start_new_thread(_resolve, (question, addresses, done))
    except RuntimeError:  # no more threads may be started
        return socket.getaddrinfo(*question)
    if not done.acquire(timeout=time_left(end)):
        raise TimeoutError
    if isinstance(addresses[0], Exception):
        raise addresses[0]
    return addresses[0]


def _resolve(question: tuple[Any, ...], addresses: list[Any], done: Any) -> None:
    try:
        addresses.append(socket.getaddrinfo(*question))
    except Exception as error:
        addresses.append(error)
    finally:
        done.release()


def speaks_plain(family: int, address: Any, timeout: float) -> bool:
    """Return whether a Redis server without TLS answers at an address."""
    with contextlib.suppress(OSError), socket.socket(family, socket.SOCK_STREAM) as sock:
        sock.settimeout(timeout)
        sock.connect(address)
        sock.sendall(b"PING\r\n")
        return is_plain_redis(sock.recv(64))
    return False


def speaks_tls(family: int, address: Any, timeout: float) -> bool:
    """Return whether a server at an address speaks TLS."""
    with contextlib.suppress(OSError), socket.socket(family, socket.SOCK_STREAM) as sock:
        sock.settimeout(timeout)
        sock.connect(address)
        with probe_context().wrap_socket(sock):
            return True
    return False


def raise_alert(settings: ConnectionSettings, family: int, address: Any, host: str, timeout: float) -> None:
    """Repeat the TLS handshake and send nothing after it. A server that refuses the client then says why.

    A command that the client sends meanwhile would reset the connection, and the alert could be lost.

    Raises:
        ssl.SSLError: The server's reason.
    """
    context = settings.tls()
    assert context is not None
    silent = (ssl.SSLEOFError, ConnectionError, TimeoutError)
    with contextlib.suppress(*silent), socket.socket(family, socket.SOCK_STREAM) as sock:
        sock.settimeout(timeout)
        sock.connect(address)
        with context.wrap_socket(sock, server_hostname=host) as secured:
            secured.recv(1)
