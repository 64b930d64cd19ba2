"""A TCP address that leads to one server, and connections that subscribe to another: a doorbell that is not counted."""

from __future__ import annotations

import asyncio
import contextlib
import threading
import time
from collections.abc import Callable, Iterator

import hiredis

SUBSCRIBES = b"*2\r\n$9\r\nSUBSCRIBE\r\n"


class _Connection:
    """A client's connection, and the one to a server that it leads to at the moment."""

    def __init__(self, router: Router, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.router, self.reader, self.writer = router, reader, writer
        self.listens = False
        self._said = b""
        self._upstream: asyncio.StreamWriter | None = None
        self._down: asyncio.Task[None] | None = None

    async def carry(self) -> None:
        try:
            await self._lead_to(self.router.port)
            while data := await self.reader.read(1 << 16):
                # The self-test, which subscribes, too, comes in one write with much else.
                if data.startswith(SUBSCRIBES) and b"UNSUBSCRIBE" not in data:
                    self.listens = True
                    if self.router.listen_port is not None:
                        await self._lead_to(self.router.listen_port)
                elif len(self._said) < 1 << 12:
                    self._said += data  # of a connection that subscribes: its handshake
                assert self._upstream is not None
                self._upstream.write(data)
                await self._upstream.drain()
        except OSError:
            pass
        finally:
            self.abort()

    async def _lead_to(self, port: int) -> None:
        if self._down is not None:
            self._down.cancel()
        if self._upstream is not None:
            self._upstream.transport.abort()
        reader, self._upstream = await asyncio.open_connection("127.0.0.1", port)
        if self._said:
            # The client has had the answers to its handshake.
            self._upstream.write(self._said)
            answers = hiredis.Reader()
            for _ in range(self._said.count(b"\r\n*") + 1):
                while answers.gets() is False:
                    answers.feed(await reader.read(1 << 16))
        self._down = asyncio.create_task(self._back(reader))

    async def _back(self, reader: asyncio.StreamReader) -> None:
        due = 0.0
        while data := await reader.read(1 << 16):
            due = max(due, time.monotonic() + (self.router.listener_delay() if self.listens else 0.0))
            # In the order in which it was said, and no chunk waits for the delay of the one before it to begin.
            asyncio.get_running_loop().call_later(max(0.0, due - time.monotonic()), self._tell, data)
        self.abort()

    def _tell(self, data: bytes) -> None:
        if not self.writer.transport.is_closing():
            self.writer.write(data)

    def abort(self) -> None:
        self.writer.transport.abort()
        if self._upstream is not None:
            self._upstream.transport.abort()
        if self._down is not None:
            self._down.cancel()


class Router:
    """Leads connections to servers of the loopback interface.

    Attributes:
        port: Where connections lead to that are opened from now on.
        listen_port: Where connections lead to once they subscribe; None: where they led to before.
        listener_delay: How long what the server says is held up on connections that have subscribed.
    """

    def __init__(self, port: int) -> None:
        self.port = port
        self.listen_port: int | None = None
        self.listener_delay: Callable[[], float] = lambda: 0.0
        self._connections: set[_Connection] = set()
        self._loop = asyncio.new_event_loop()
        self._server: asyncio.Server | None = None

    @property
    def url(self) -> str:
        assert self._server is not None
        return f"redis://127.0.0.1:{self._server.sockets[0].getsockname()[1]}/0"

    def cut(self, *, listeners: bool) -> None:
        """Resets the connections that have subscribed, or the others. Called from another thread."""

        def cut() -> None:
            for connection in list(self._connections):
                if connection.listens == listeners:
                    connection.abort()

        self._loop.call_soon_threadsafe(cut)

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        connection = _Connection(self, reader, writer)
        self._connections.add(connection)
        try:
            with contextlib.suppress(asyncio.CancelledError):
                await connection.carry()
        finally:
            self._connections.discard(connection)

    async def _open(self) -> None:
        self._server = await asyncio.start_server(self._serve, "127.0.0.1", 0)

    async def _close(self) -> None:
        assert self._server is not None
        self._server.close()
        for connection in list(self._connections):
            connection.abort()
        others = asyncio.all_tasks() - {asyncio.current_task()}
        for task in others:
            task.cancel()
        await asyncio.gather(*others, return_exceptions=True)


@contextlib.contextmanager
def router(port: int) -> Iterator[Router]:
    """Runs a router, in a thread of its own, that leads to a server on `port`."""
    running = Router(port)
    thread = threading.Thread(target=running._loop.run_forever, name="router", daemon=True)
    thread.start()
    try:
        asyncio.run_coroutine_threadsafe(running._open(), running._loop).result(20)
        yield running
        asyncio.run_coroutine_threadsafe(running._close(), running._loop).result(20)
    finally:
        running._loop.call_soon_threadsafe(running._loop.stop)
        thread.join(20)
        running._loop.close()
