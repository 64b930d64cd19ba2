"""Cuts what clients send into requests, and what a server sends into replies. Nothing is decoded (RESP 2)."""

from __future__ import annotations

from histstore.protocol.scripts import ALL

_SCRIPTS = {script.sha.encode(): script.name for script in ALL} | {
    script.source.encode(): script.name for script in ALL
}


class Requests:
    """Cuts a stream of bytes into requests: arrays of bulk strings, as clients send them."""

    def __init__(self) -> None:
        self._rest = b""

    def feed(self, data: bytes) -> list[bytes]:
        """Returns the requests that `data` completes.

        Raises:
            ValueError: It is no request.
        """
        data = self._rest + data
        found = []
        at = 0
        while (end := _end_of_request(data, at)) > 0:
            found.append(data[at:end])
            at = end
        self._rest = data[at:]
        return found


def _end_of_request(data: bytes, at: int) -> int:
    """Returns where the request that begins at `at` ends; 0: not here yet."""
    end = data.find(b"\r\n", at)
    if end < 0:
        return 0
    if data[at : at + 1] != b"*":
        raise ValueError("a request is an array")
    count, at = int(data[at + 1 : end]), end + 2
    for _ in range(count):
        end = data.find(b"\r\n", at)
        if end < 0:
            return 0
        at = end + 2 + int(data[at + 1 : end]) + 2
    return at if at <= len(data) else 0


def words(request: bytes, count: int) -> list[bytes]:
    """Returns a request's first words."""
    found = []
    at = request.index(b"\r\n") + 2
    for _ in range(min(count, int(request[1 : at - 2]))):
        end = request.index(b"\r\n", at)
        size = int(request[at + 1 : end])
        found.append(request[end + 2 : end + 2 + size])
        at = end + 2 + size + 2
    return found


def script_of(request: bytes) -> str | None:
    """Returns the name of the script that a request calls; None: it calls none of ours."""
    if b"EVAL" not in request[:32]:
        return None
    command, script = words(request, 2)
    return _SCRIPTS.get(script) if command in (b"EVAL", b"EVALSHA") else None


class Replies:
    """Cuts a stream of bytes into replies."""

    def __init__(self) -> None:
        self._data = b""
        self._at = 0
        self._open = 1

    def feed(self, data: bytes) -> list[bytes]:
        """Returns the replies that `data` completes, each as its bytes."""
        self._data += data
        found = []
        data, at, wanted = self._data, self._at, self._open
        start = 0
        size = len(data)
        while True:
            end = data.find(b"\r\n", at)
            if end < 0:
                break
            kind = data[at]
            after = end + 2
            if kind == 36:  # $
                length = int(data[at + 1 : end])
                if length >= 0:
                    after += length + 2
                if after > size:
                    break
            elif kind == 42:  # *
                wanted += max(int(data[at + 1 : end]), 0)
            at = after
            wanted -= 1
            if not wanted:
                found.append(data[start:at])
                start, wanted = at, 1
        self._data, self._at, self._open = data[start:], at - start, wanted
        return found


def first_word(reply: bytes) -> str:
    """Returns what a script's reply begins with, for counting."""
    if reply[:1] == b"*":
        parts = reply.split(b"\r\n", 3)
        return parts[2].decode("utf-8", "replace") if len(parts) > 2 else ""
    return reply[1:].split(b" ", 1)[0].split(b"\r\n", 1)[0].decode("utf-8", "replace")
