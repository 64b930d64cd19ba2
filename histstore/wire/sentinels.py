"""What sentinels say: which server is the primary, and how recent that is. No I/O.

Source: Redis's documentation for clients of Sentinel.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any, Final

from redis import exceptions as redis_errors

from ..protocol.call import Command
from .faults import Fault, OpeningError, OpeningTimeoutError, classify, describe, mistake, passes
from .opening import LOG_IN, USE_PLAIN, USE_TLS
from .slots import ServerAddress

CHANNEL: Final = "+switch-master"
"""The channel on which a sentinel announces a new primary."""

_LOG_IN_ADVICE: Final = "the sentinels have a log-in of their own: sentinel_username and sentinel_password in the URL"
_TLS_ADVICE: Final = {
    USE_PLAIN: "give the URL sentinel_ssl=false, if the sentinels are without TLS",
    USE_TLS: "give the URL sentinel_ssl=true, if the sentinels have TLS",
}
_NO_SENTINEL: Final = mistake("that is no sentinel: give the sentinels' addresses, or use redis:// for a server")
_UNKNOWN: Final = passes("compare the service's name in the URL with the one that the sentinels monitor")
_TOO_FEW: Final = passes("start more sentinels, or lower min_other_sentinels")


def questions(service: str) -> list[Command]:
    """Return the commands that ask a sentinel for the primary.

    The first one's answer is the earliest to name a new primary. The second one's tells how recent the answer is.
    """
    return [("SENTINEL", "GET-MASTER-ADDR-BY-NAME", service), ("SENTINEL", "MASTER", service)]


@dataclass(frozen=True, slots=True)
class Answer:
    """A sentinel's answer.

    Attributes:
        address: The primary's host and port.
        epoch: The number of the failover that made it so; a greater one is more recent. 0: the sentinel does not say.
    """

    address: ServerAddress
    epoch: int


def read_answer(replies: Sequence[Any], min_others: int) -> Answer:
    """Return a sentinel's answer to `questions`.

    Args:
        replies: The replies.
        min_others: How many other sentinels it has to know.

    Raises:
        OpeningError: It knows no such service, or too few other sentinels, or it is none.
        redis.exceptions.RedisError: It refused the question.
    """
    named, details = replies
    if isinstance(named, Exception):
        if str(named).lower().startswith("err unknown command"):
            raise OpeningError("it does not know the command SENTINEL", _NO_SENTINEL)
        raise named
    match named:
        case [bytes(host), bytes(port)] if port.isdigit():
            address = host.decode(errors="replace"), int(port)
        case _:
            raise OpeningError("it knows no such service", _UNKNOWN)
    known = _details(details)
    if min_others and int(known.get(b"num-other-sentinels", b"0")) < min_others:
        raise OpeningError(f"it knows fewer than {min_others} other sentinels", _TOO_FEW)
    epoch = known.get(b"config-epoch", b"")
    return Answer(address, int(epoch) if epoch.isdigit() else 0)


def _details(reply: Any) -> dict[bytes, bytes]:
    """Return the fields of a reply to SENTINEL MASTER; empty where the user may not ask."""
    return dict(zip(reply[::2], reply[1::2], strict=False)) if isinstance(reply, list) else {}


def concerns(message: Any, service: str) -> bool:
    """Return whether a message of a sentinel announces a new primary of a service."""
    match message:
        case [b"message", _, bytes(data)]:
            return data.split(b" ", 1)[0] == service.encode()
    return False


def unfound(service: str, failures: Sequence[tuple[ServerAddress, Exception]]) -> Exception:
    """Return the error for a primary that no sentinel names.

    Args:
        service: The name of the service.
        failures: The sentinels that were asked, and how each failed.
    """
    causes: dict[str, list[str]] = {}
    for (host, port), error in failures:
        causes.setdefault(_cause(error), []).append(f"{host}:{port}")
    text = "; ".join(f"{', '.join(places)}: {cause}" for cause, places in causes.items())
    # A mistake of one of them is the reason, if no other one answers.
    faults = [_fault(error) for _, error in failures]
    fault = next((fault for fault in faults if not fault.retry), faults[0] if faults else passes())
    # A deadline may have cut the questions short. Then an earlier failure says more, and the runner looks for one.
    late = all(isinstance(error, redis_errors.TimeoutError) for _, error in failures)
    kind = OpeningTimeoutError if late else OpeningError
    return kind(f"no sentinel names the primary of {service!r} ({text})", fault)


def behind(service: str) -> Exception:
    """Return the error for sentinels that know an older primary than one that was named before."""
    return OpeningError(
        f"the sentinels that answer are behind the others: they name an old primary of {service!r}",
        passes("look at SENTINEL MASTER on each of them"),
    )


def _cause(error: Exception) -> str:
    # The text of a connection that could not be opened names the place, which is named here already.
    text = describe(error)
    return text.partition("): ")[2] or text if isinstance(error, OpeningError | redis_errors.TimeoutError) else text


def _fault(error: Exception) -> Fault:
    fault = classify(error, sent=False)
    if fault.advice in _TLS_ADVICE:
        return replace(fault, advice=_TLS_ADVICE[fault.advice])
    if fault.config and str(error).startswith((LOG_IN, "NOAUTH", "NOPERM", "WRONGPASS")):
        return replace(fault, advice=_LOG_IN_ADVICE)
    return fault
