"""RESP, as hiredis packs and parses it. Keeps hiredis from replies that announce more than any reply of ours holds."""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from typing import Any, Final, NoReturn

import hiredis
from redis.exceptions import ConnectionError, ResponseError

from ..protocol.requests import Command

LARGEST: Final = 1 << 29
"""Bytes of one reply at most. It is Redis' own limit for a value, and a load of several default snapshots."""
LONGEST: Final = 10_000_000
"""Items of one array, less than which a load may have.

hiredis makes room for all items when it reads the length. For 2,147,483,647 of them that is 16 GB, which it may fill at
once (a push), or the garbage collector walks over for seconds, again and again.
"""
LONG: Final = 4
"""Digits of the length of a long array: there is one in a reply of ours at most, and a few are accepted."""
FEW: Final = 4
WIDTH: Final = 24
"""Bytes of a header that may stand at the end of what has come. A longer one announces too much anyway."""

# Headers stand at the beginnings of lines. What looks like one may also stand inside of a value.
_HEADER: Final = re.compile(rb"([*>~])(\d{%d,})" % LONG)
_search = re.compile(rb"\n[*>~]\d{%d}" % LONG).search
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


# Of hiredis itself, or of what it makes: a map with a list for a key, say. Whatever else is raised here is a signal
# handler's, and goes on as it is.
_REFUSED: Final = (hiredis.HiredisError, TypeError, ValueError, RecursionError, MemoryError)


def _over(*_: object) -> NoReturn:
    raise ConnectionError("the connection was given up")


class Replies:
    """The replies that come over one connection. hiredis bounds how deep they nest, at 1,024.

    Raises:
        ConnectionError: From each call: what answers is no Redis server, or the reply is too large.
    """

    __slots__ = ("_arrays", "_begins", "_careful", "_feed", "_gets", "_has_data", "_held", "_unread")

    def __init__(self) -> None:
        reader = hiredis.Reader(replyError=ResponseError)
        self._feed: Callable[[bytes], object] = reader.feed
        self._gets: Callable[[], Any] = reader.gets
        self._has_data: Callable[[], bool] = reader.has_data
        self._held = b""
        self._begins = True  # whether a line begins with what is held, or with what comes next
        self._careful = False
        self._unread = self._arrays = 0

    def read(self, data: bytes) -> list[Any]:
        """Returns the replies that `data`, which is not empty, completes; an error reply is a value."""
        if (
            self._careful
            or data[-1] != _NEWLINE
            or (len(data) > LONG and _ZERO <= data[LONG] <= _NINE and _HEADER.match(data))
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
        except _REFUSED as error:
            problem = str(error)
        self._refuse(problem)

    def _refuse(self, problem: str) -> NoReturn:
        """Gives up for good, and frees what has come: an error's traceback keeps this object for as long as it lives.

        To be called where no other error is handled, whose frames would be kept as well.
        """
        self._feed = self._gets = self._has_data = _over
        self._held = b""
        raise ConnectionError(f"what answers there is no Redis server: {problem}")

    def _rest(self, reply: Any, size: int) -> list[Any]:
        """Returns the replies from `reply` on, and keeps count of what none of them has used up."""
        gets = self._gets
        found: list[Any] = []
        while reply is not False:
            found.append(reply)
            reply = gets()
        self._unread = 0 if found else self._unread + size
        if self._unread > LARGEST:
            raise ValueError(f"its reply is larger than {LARGEST:,} bytes")
        return found

    def _sift(self, data: bytes) -> list[Any]:
        """Does the same for data that may announce a huge array, now or with what comes next."""
        begins = self._begins
        data, self._held = self._held + data, b""
        unfinished = _UNFINISHED.search(data, max(0, len(data) - WIDTH))
        if unfinished is not None:
            # It completes no reply, so it can wait for its rest.
            data, self._held = data[: unfinished.start()], data[unfinished.start() :]
        if data:
            self._begins = data[-1] == _NEWLINE
        self._careful = not self._begins or bool(self._held)
        found: list[Any] = []
        at = 0
        suspects = _HEADER.finditer(data) if _search(data) or _HEADER.match(data) else ()
        for suspect in suspects:
            start = suspect.start()
            if data[start - 1] == _NEWLINE if start else begins:
                found += self._parse(data[at:start])
                at = start
                # Inside of a value hiredis keeps what came before; where a header is due it has used up everything.
                if not self._has_data():
                    self._announced(suspect[1], suspect[2])
        return found + self._parse(data[at:])

    def _announced(self, kind: bytes, length: bytes) -> None:
        """Decides on the header of a long array, before hiredis sees it."""
        # Sets and pushes are not of the protocol that was agreed on.
        self._arrays = self._arrays + 1 if self._unread else 1
        if kind != b"*" or len(length) >= len(str(LONGEST)) or self._arrays > FEW:
            self._refuse("it announces a huge array")
