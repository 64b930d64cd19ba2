"""What instructions are measured in: a plain SET by a client of forty lines that nobody improves.

Pythons differ: the same save takes 16 % more instructions in 3.12 than in 3.11, and 12 % fewer where the compiler was
guided by a profile. A yardstick that the same interpreter is held against in the same run cancels most of that: builds
of one Python agree within 4 %. It is of our own code and the standard library, since a real client's cost changes with
the client's releases, and so written that it gains by a better interpreter as much as the library does.

A change in here changes every instruction count: record the budget again.
"""

from __future__ import annotations

import asyncio
import hashlib
import itertools
import socket
import time
from dataclasses import dataclass
from urllib.parse import urlsplit

BODY = b"x" * 900


@dataclass(frozen=True, slots=True)
class Reply:
    kind: str
    text: bytes


class Parts:
    """Collects a request, a part at a time: calls and small objects, as in any client."""

    def __init__(self) -> None:
        self.sizes: list[int] = []
        self.parts: list[bytes] = []

    def __enter__(self) -> Parts:
        return self

    def __exit__(self, *_: object) -> None:
        assert len(self.parts) == len(self.sizes)

    def add(self, part: str | bytes | int) -> None:
        match part:
            case bytes():
                data = part
            case str():
                data = part.encode()
            case _:
                data = b"%d" % part
        self.sizes.append(len(data))
        self.parts.append(data)

    def pack(self) -> bytes:
        lines = [b"$%d\r\n%b\r\n" % (size, part) for size, part in zip(self.sizes, self.parts, strict=True)]
        return b"*%d\r\n%b" % (len(lines), b"".join(lines))


def request(number: int) -> bytes:
    began = time.monotonic()
    header = {"number": number, "kind": "yardstick", "size": len(BODY)}
    digest = hashlib.blake2b(BODY, digest_size=16)
    for name, value in sorted(header.items()):
        digest.update(f"{name}={value};".encode())
    with Parts() as parts:
        for part in ("SET", f"yardstick:{{{number % 7}}}:{digest.hexdigest()}", BODY, "PX", 60_000):
            parts.add(part)
    assert time.monotonic() - began < 60
    return parts.pack()


def parse(data: bytes) -> Reply:
    kind, text = data[:1], data[1:-2]
    if kind == b"-":
        raise OSError(text)
    return Reply("status" if kind == b"+" else "other", text)


class Blocking:
    """The yardstick of the blocking shell."""

    def __init__(self, url: str) -> None:
        parts = urlsplit(url)
        self._socket = socket.create_connection((parts.hostname, parts.port), 20)
        self._numbers = itertools.count()

    async def set(self) -> None:
        self._socket.sendall(request(next(self._numbers)))
        assert parse(self._socket.recv(1 << 16)).text == b"OK"

    async def close(self) -> None:
        self._socket.close()


class Asyncio:
    """The yardstick of the asyncio shell."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._reader, self._writer = reader, writer
        self._numbers = itertools.count()

    @classmethod
    async def connect(cls, url: str) -> Asyncio:
        parts = urlsplit(url)
        return cls(*await asyncio.open_connection(parts.hostname, parts.port))

    async def set(self) -> None:
        async with asyncio.timeout(20):
            self._writer.write(request(next(self._numbers)))
            await self._writer.drain()
            assert parse(await self._reader.readline()).text == b"OK"

    async def close(self) -> None:
        self._writer.close()
        await self._writer.wait_closed()
