"""RESP, packed and parsed by hiredis, with a bound on what a reply may announce before hiredis allocates it."""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from typing import Any, Final, NoReturn

import hiredis
from redis.exceptions import ConnectionError, ResponseError

from ..protocol.call import Command

MAX_REPLY: Final = 1 << 29
"""Largest reply in bytes. It is Redis' own limit for a value, and enough for several default snapshots."""
MAX_ITEMS: Final = 10_000_000
"""Bound on the items of one array; every load has fewer.

hiredis allocates room for all items when it reads the length. For 2,147,483,647 items that is 16 GB. hiredis may fill
them at once (a push), or the garbage collector traverses them for seconds, again and again.
"""
LONG_DIGITS: Final = 4
"""Digits in the length of a long array. Our replies have one such array at most; `MAX_LONG_ARRAYS` are accepted."""
MAX_LONG_ARRAYS: Final = 4
HEADER_SIZE: Final = 24
"""Longest incomplete header in bytes at the end of a chunk. A longer one announces too many items anyway."""

# A header begins a line. The same bytes may also be part of a value.
_HEADER: Final = re.compile(rb"([*>~])(\d{%d,})" % LONG_DIGITS)
_search = re.compile(rb"\n[*>~]\d{%d}" % LONG_DIGITS).search
_UNFINISHED: Final = re.compile(rb"[*>~]\d*\r?\Z")
_NEWLINE, _ZERO, _NINE = b"\n09"

_pack = hiredis.pack_command


class _Packed(dict[Any, bytes]):
    """Packed commands of a single word, made when they are first used."""

    def __missing__(self, word: Any) -> bytes:
        found: bytes = _pack((word,))
        self[word] = found
        return found


_WORDS: Final = _Packed()


def pack(commands: Sequence[Command]) -> bytes:
    """Return the bytes of commands. A load sends two commands of a single word, which are packed only once."""
    return b"".join([_pack(command) if len(command) > 1 else _WORDS[command[0]] for command in commands])  # type: ignore[arg-type]


# Errors of hiredis, or of the objects that it makes: a map with a list as a key, say. A signal handler raised any other
# error, which propagates unchanged.
_PARSE_ERRORS: Final = (hiredis.HiredisError, TypeError, ValueError, RecursionError, MemoryError)


def _closed(*_: object) -> NoReturn:
    raise ConnectionError("the connection was given up")


class Replies:
    """Parse the replies of one connection. hiredis limits their nesting to 1,024 levels.

    Raises:
        ConnectionError: Every call may raise it: the peer is no Redis server, or the reply is too large.
    """

    __slots__ = ("_arrays", "_begins", "_careful", "_feed", "_gets", "_has_data", "_held", "_unread")

    def __init__(self) -> None:
        reader = hiredis.Reader(replyError=ResponseError)
        self._feed: Callable[[bytes], object] = reader.feed
        self._gets: Callable[[], Any] = reader.gets
        self._has_data: Callable[[], bool] = reader.has_data
        self._held = b""
        self._begins = True  # whether the held bytes, or the next chunk, begin a line
        self._careful = False
        self._unread = self._arrays = 0

    def read(self, data: bytes) -> list[Any]:
        """Return the replies that `data`, which is not empty, completes. An error reply is a value."""
        if (
            self._careful
            or data[-1] != _NEWLINE
            or (len(data) > LONG_DIGITS and _ZERO <= data[LONG_DIGITS] <= _NINE and _HEADER.match(data))
            or _search(data)
        ):
            return self._sift(data)
        return self._parse(data)

    def _parse(self, data: bytes) -> list[Any]:
        try:
            self._feed(data)
            reply = self._gets()
            # Most chunks hold exactly one reply, and checking for that is cheaper than asking for another.
            if reply is not False and not self._unread and not self._has_data():
                return [reply]
            return self._rest(reply, len(data))
        except _PARSE_ERRORS as error:
            problem = str(error)
        self._refuse(problem)

    def _refuse(self, problem: str) -> NoReturn:
        """Stop parsing for good, and free the bytes received: an error's traceback keeps this object alive.

        Call it outside of any `except` block: the frames of a handled error would be kept alive as well.
        """
        self._feed = self._gets = self._has_data = _closed
        self._held = b""
        raise ConnectionError(f"what answers there is no Redis server: {problem}")

    def _rest(self, reply: Any, size: int) -> list[Any]:
        """Return the replies from `reply` on, and count the bytes that belong to an incomplete reply."""
        gets = self._gets
        replies: list[Any] = []
        while reply is not False:
            replies.append(reply)
            reply = gets()
        self._unread = 0 if replies else self._unread + size
        if self._unread > MAX_REPLY:
            raise ValueError(f"its reply is larger than {MAX_REPLY:,} bytes")
        return replies

    def _sift(self, data: bytes) -> list[Any]:
        """Parse data that may announce a huge array, in this chunk or together with the next one."""
        begins = self._begins
        data, self._held = self._held + data, b""
        unfinished = _UNFINISHED.search(data, max(0, len(data) - HEADER_SIZE))
        if unfinished is not None:
            # An incomplete header completes no reply, so it can be held until its rest comes.
            data, self._held = data[: unfinished.start()], data[unfinished.start() :]
        if data:
            self._begins = data[-1] == _NEWLINE
        self._careful = not self._begins or bool(self._held)
        replies: list[Any] = []
        at = 0
        headers = _HEADER.finditer(data) if _search(data) or _HEADER.match(data) else ()
        for header in headers:
            start = header.start()
            if data[start - 1] == _NEWLINE if start else begins:
                replies += self._parse(data[at:start])
                at = start
                # Inside a value hiredis still holds earlier bytes. Where it expects a header, it has consumed
                # everything.
                if not self._has_data():
                    self._check_header(header[1], header[2])
        return replies + self._parse(data[at:])

    def _check_header(self, kind: bytes, length: bytes) -> None:
        """Refuse the header of an array that is too long, before hiredis sees it."""
        # Sets and pushes do not exist in RESP2, the protocol that the connection uses.
        self._arrays = self._arrays + 1 if self._unread else 1
        if kind != b"*" or len(length) >= len(str(MAX_ITEMS)) or self._arrays > MAX_LONG_ARRAYS:
            self._refuse("it announces a huge array")
