"""Builds the events of a call for an observer, and protects the call from the observer's errors."""

from __future__ import annotations

import itertools
import logging
from collections.abc import Sequence
from dataclasses import replace
from typing import Any, Final

from redis import exceptions as redis_errors

from ..errors import OutcomeUnknownError
from ..observe import Event, Observer, Outcome
from ..protocol.call import Call
from .failures import CLOSED
from .retrying import RetryableError

log = logging.getLogger("histstore")

_numbers: Final = itertools.count(1)


class Observed:
    """Reports one call to an observer.

    Args:
        observer: The observer.
        call: The call.
        server: The server's address.
        now: The time, in seconds.
        warned: The warnings already logged, so that a failing observer is logged once.
    """

    __slots__ = ("_began", "_event", "_observer", "_scripted", "_size", "_try_began", "_warned")

    def __init__(self, observer: Observer, call: Call, server: str, now: float, warned: set[str]) -> None:
        self._observer = observer
        self._warned = warned
        self._began = self._try_began = now
        self._size = sum(len(part) for command in call.batch for part in command)
        self._scripted = call.script is not None
        operation = call.script.name if call.script is not None else str(call.batch[0][0])
        self._event = Event(next(_numbers), call.name, operation, call.run, server)
        self._report("started", self._event)

    def begin_try(self, now: float) -> None:
        """Count a try."""
        self._try_began = now
        event = self._event
        self._event = replace(event, tries=event.tries + 1, bytes_sent=event.bytes_sent + self._size)

    def end_try(self, now: float, *, reply: Any = None, error: BaseException | None = None) -> None:
        """Report the end of a try, with its reply or its error."""
        self._event = replace(self._event, bytes_received=self._event.bytes_received + _size_of(reply))
        self._report("tried", self._ended(now - self._try_began, reply, error))

    def finish(self, now: float, *, reply: Any = None, error: BaseException | None = None) -> None:
        """Report the end of the call, with its reply or its error."""
        self._report("finished", self._ended(now - self._began, reply, error))

    def _ended(self, seconds: float, reply: Any, error: BaseException | None) -> Event:
        cause = error.cause if isinstance(error, RetryableError) else error
        answer = _word_of(reply) if self._scripted and cause is None else _code_of(cause)
        return replace(self._event, outcome=_outcome(cause), answer=answer, error=cause, seconds=seconds)

    def _report(self, method: str, event: Event) -> None:
        try:
            getattr(self._observer, method)(event)
        except Exception:
            # An observer must not change the outcome of a call.
            if "observer" not in self._warned:
                self._warned.add("observer")
                log.warning("an observer's %s failed; later failures are not logged", method, exc_info=True)


def _outcome(error: BaseException | None) -> Outcome:
    if error is None:
        return "answered"
    if isinstance(error, OutcomeUnknownError):
        return "unknown"
    if not isinstance(error, Exception):
        return "cancelled"
    return "closed" if str(error) == CLOSED else "failed"


def _word_of(reply: Any) -> str | None:
    """Return the word that a script's answer begins with."""
    if type(reply) is list and reply and type(reply[0]) is bytes:
        return reply[0].decode(errors="replace")
    return None


def _code_of(error: BaseException | None) -> str | None:
    """Return the code of the server's error that an error was raised for."""
    while error is not None and not isinstance(error, redis_errors.ResponseError):
        error = error.__cause__
    return None if error is None else str(error).split(" ", 1)[0]


def _size_of(reply: Any) -> int:
    """Return the bytes of a reply's values. No recursion: a hostile server's reply may nest deeply."""
    size, parts = 0, [reply]
    while parts:
        part = parts.pop()
        if isinstance(part, Sequence) and not isinstance(part, bytes | str):
            parts.extend(part)
        elif isinstance(part, bytes):
            size += len(part)
        elif isinstance(part, int):
            size += len(str(part))
    return size
