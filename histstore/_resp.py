"""RESP, as hiredis packs and parses it. Keeps hiredis from replies that announce more than any reply of ours holds."""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Any, Final

import hiredis
from redis.exceptions import ConnectionError, ResponseError

from ._protocol import Command

LARGEST: Final = 1 << 29
"""Bytes of one reply at most. It is Redis' own limit for a value, and a load of several default snapshots."""
DIGITS: Final = 8
"""An array whose length has so many digits is refused.

hiredis makes room for all items when it reads the length. For 2,147,483,647 of them that is 16 GB, which it may fill at
once (a push) or the garbage collector walks over for seconds, again and again.
"""

# Headers stand at the beginnings of lines. What looks like one may also stand inside of a value.
_HEADER: Final = re.compile(rb"[*>~]\d{%d}" % DIGITS)
_search = re.compile(rb"\n[*>~]\d{%d}" % DIGITS).search
_UNFINISHED: Final = re.compile(rb"[*>~]\d*\r?\Z")
_NEWLINE, _ZERO, _NINE = b"\n09"

_pack = hiredis.pack_command


class _Packed(dict[Any, bytes]):
    """Commands of a single word."""

    def __missing__(self, word: Any) -> bytes:
        found: bytes = _pack((word,))
        self[word] = found
        return found


_WORDS: Final = _Packed()


def pack(commands: Sequence[Command]) -> bytes:
    """Returns the bytes of commands. Every load sends two of a single word, which are packed already."""
    return b"".join([_pack(command) if len(command) > 1 else _WORDS[command[0]] for command in commands])  # type: ignore[arg-type]


class Replies:
    """The replies that come over one connection. hiredis bounds how deep they nest, at nine.

    Raises:
        ConnectionError: From each call: what answers is no Redis server, or the reply is too large.
    """

    __slots__ = ("_feed", "_gets", "_has_data", "_held", "_unread")

    def __init__(self) -> None:
        reader = hiredis.Reader(replyError=ResponseError)
        self._feed, self._gets, self._has_data = reader.feed, reader.gets, reader.has_data
        self._held = b""
        self._unread = 0

    def read(self, data: bytes) -> list[Any]:
        """Returns the replies that `data`, which is not empty, completes; an error reply is a value."""
        if (
            self._held
            or data[-1] != _NEWLINE
            or (len(data) > DIGITS and _ZERO <= data[DIGITS] <= _NINE and _HEADER.match(data))
            or _search(data)
        ):
            return self._sift(data)
        return self._parse(data)

    def _parse(self, data: bytes) -> list[Any]:
        try:
            self._feed(data)
            reply = self._gets()
            # To see that one reply was all, as it mostly is, is cheaper than to ask for another.
            if reply is not False and not self._unread and not self._has_data():
                return [reply]
            return self._rest(reply, len(data))
        except Exception as error:
            # Of hiredis itself, or of what it makes: a map with a list for a key, say.
            raise ConnectionError(f"what answers there is no Redis server: {error}") from error

    def _rest(self, reply: Any, size: int) -> list[Any]:
        """Returns the replies from `reply` on, and keeps count of what none of them has used up."""
        gets = self._gets
        found: list[Any] = []
        while reply is not False:
            found.append(reply)
            reply = gets()
        self._unread = 0 if found else self._unread + size
        if self._unread > LARGEST:
            raise ValueError(f"a reply of more than {LARGEST:,} bytes")
        return found

    def _sift(self, data: bytes) -> list[Any]:
        """Does the same for data that may announce a huge array, now or with what comes next."""
        data, self._held = self._held + data, b""
        unfinished = _UNFINISHED.search(data, max(0, len(data) - DIGITS - 2))
        if unfinished is not None:
            # It completes no reply, so it can wait for its rest.
            data, self._held = data[: unfinished.start()], data[unfinished.start() :]
        found: list[Any] = []
        at = 0
        if _search(data) or _HEADER.match(data):
            for suspect in _HEADER.finditer(data):
                found += self._parse(data[at : suspect.start()])
                at = suspect.start()
                # Inside of a value hiredis keeps what came before; where a header is due it has used up everything.
                if not self._has_data():
                    raise ConnectionError("what answers there is no Redis server: it announces a huge array")
        return found + self._parse(data[at:])
