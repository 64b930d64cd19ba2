"""A sentinel that says what a test has it say: real ones agree too soon."""

from __future__ import annotations

import socket
import socketserver
import threading
from collections.abc import Iterator
from contextlib import contextmanager

import hiredis


class Liar(socketserver.ThreadingTCPServer):
    """Speaks as much of Sentinel's protocol as a client needs.

    Attributes:
        named: The port of the server that it names as the primary, on the loopback interface.
        epoch: The number of the failover that made it so.
        asked: How often it was asked.
        silent: Whether it closes each connection over which it is asked.
        losing: How many of the next connections over which it is asked it closes instead.
        listeners: The connections that wait for announcements.
    """

    daemon_threads = True
    allow_reuse_address = True

    def __init__(self, named: int, epoch: int) -> None:
        super().__init__(("127.0.0.1", 0), _Talk)
        self.named = named
        self.epoch = epoch
        self.asked = 0
        self.silent = False
        self.losing = 0
        self.listeners: list[socket.socket] = []

    @property
    def port(self) -> int:
        return int(self.server_address[1])

    def announce(self) -> None:
        """Announce a new primary of the service `main`. What is new about it, it says when it is asked."""
        for each in self.listeners:
            each.sendall(_array("message", "+switch-master", "main 127.0.0.1 1 127.0.0.1 2"))


class _Talk(socketserver.BaseRequestHandler):
    server: Liar

    def handle(self) -> None:
        reader = hiredis.Reader()
        while data := self.request.recv(1 << 16):
            if self.server.silent:
                return
            if self.server.losing:
                self.server.losing -= 1
                return
            reader.feed(data)
            while (command := reader.gets()) is not False:
                self.request.sendall(self._answer([part.decode() for part in command]))

    def _answer(self, command: list[str]) -> bytes:
        port, epoch = str(self.server.named), str(self.server.epoch)
        match [command[0].upper(), *(part.upper() for part in command[1:2])]:
            case ["SENTINEL", "GET-MASTER-ADDR-BY-NAME"]:
                self.server.asked += 1
                return _array("127.0.0.1", port)
            case ["SENTINEL", "MASTER"]:
                return _array("name", command[2], "config-epoch", epoch, "num-other-sentinels", "2")
            case ["SUBSCRIBE", _]:
                self.server.listeners.append(self.request)
                return b"*3\r\n" + _bulk("subscribe") + _bulk(command[1]) + b":1\r\n"
        return b"+PONG\r\n"


def _bulk(text: str) -> bytes:
    return b"$%d\r\n%s\r\n" % (len(text), text.encode())


def _array(*texts: str) -> bytes:
    return b"*%d\r\n" % len(texts) + b"".join(map(_bulk, texts))


@contextmanager
def liar(named: int, epoch: int = 0) -> Iterator[Liar]:
    """Runs one."""
    with Liar(named, epoch) as running:
        thread = threading.Thread(target=running.serve_forever, daemon=True)
        thread.start()
        try:
            yield running
        finally:
            running.shutdown()
            thread.join()
