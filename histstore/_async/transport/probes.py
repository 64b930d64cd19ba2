"""Questions about an address: which addresses a name has, and which protocol a port speaks."""

from __future__ import annotations

import asyncio
import contextlib
import socket
import ssl
from typing import Any

from ...wire.addresses import Address, addresses_of, numeric_addresses
from ...wire.opening import LOOK_UP_PAUSE, PROBE_AFTER, Opening, is_plain_redis, probe_context
from ...wire.settings import ConnectionSettings


async def look_up(opening: Opening, host: str, port: int, family: int, end: float) -> list[Address]:
    """Return the addresses of a host. An unknown name is looked up until `end`: it may be about to be published.

    Raises:
        socket.gaierror: The resolver failed, or the name stayed unknown.
    """
    addresses = numeric_addresses(host, port, family)
    if addresses is not None:
        return addresses  # without a thread
    loop = asyncio.get_running_loop()
    while True:
        try:
            return addresses_of(await loop.getaddrinfo(host, port, family=family, type=socket.SOCK_STREAM))
        except socket.gaierror as error:
            if error.errno != socket.EAI_NONAME or end - loop.time() < 2 * LOOK_UP_PAUSE:
                raise
            opening.last_error = error
        await asyncio.sleep(LOOK_UP_PAUSE)


async def speaks_plain(family: int, address: Any) -> bool:
    """Return whether a Redis server without TLS answers at an address."""
    loop = asyncio.get_running_loop()
    with contextlib.suppress(OSError), socket.socket(family, socket.SOCK_STREAM) as sock:
        sock.setblocking(False)
        async with asyncio.timeout(PROBE_AFTER):
            await loop.sock_connect(sock, address)
            await loop.sock_sendall(sock, b"PING\r\n")
            return is_plain_redis(await loop.sock_recv(sock, 64))
    return False


async def speaks_tls(family: int, address: Any) -> bool:
    """Return whether a server at an address speaks TLS."""
    loop = asyncio.get_running_loop()
    with contextlib.suppress(OSError), socket.socket(family, socket.SOCK_STREAM) as sock:
        sock.setblocking(False)
        async with asyncio.timeout(PROBE_AFTER):
            await loop.sock_connect(sock, address)
            context = probe_context()
            transport, _ = await loop.create_connection(asyncio.Protocol, sock=sock, ssl=context, server_hostname="")
            transport.abort()
            return True
    return False


async def raise_alert(settings: ConnectionSettings, family: int, address: Any, host: str) -> None:
    """Repeat the TLS handshake and send nothing after it. A server that refuses the client then says why.

    A command that the client sends meanwhile would reset the connection, and the alert could be lost.

    Raises:
        ssl.SSLError: The server's reason.
    """
    loop = asyncio.get_running_loop()
    context = settings.tls()
    silent = (ssl.SSLEOFError, ConnectionError, TimeoutError)
    with contextlib.suppress(*silent), socket.socket(family, socket.SOCK_STREAM) as sock:
        sock.setblocking(False)
        async with asyncio.timeout(PROBE_AFTER):
            await loop.sock_connect(sock, address)
            reader, writer = await asyncio.open_connection(sock=sock, ssl=context, server_hostname=host)
            try:
                await reader.read(1)
            finally:
                writer.transport.abort()
