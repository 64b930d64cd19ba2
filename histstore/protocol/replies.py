"""How replies are read: numbers and texts with limits, and the refusals that scripts share."""

from __future__ import annotations

from collections.abc import Callable
from functools import wraps
from typing import Any, Final, NoReturn, ParamSpec, TypeVar

from ..errors import (
    ConflictError,
    HistoryStoreError,
    LeaseLostError,
    LockedError,
    RevisionGoneError,
    UnsupportedVersionError,
)
from ..log.unreadable import FORMAT, BrokenChainError
from ..revision import Revision
from .run import LeaseToken, RunRef

P = ParamSpec("P")
T = TypeVar("T")

VERSIONS: Final = 10**15
"""Every version is below this."""

COUNTABLE: Final = 1 << 53
"""Every other number that scripts compute with is below this: Lua's doubles merge neighbours above it."""

SHOWN: Final = 200
"""Characters of a stored value that an error's text shows at most."""

MALFORMED: Final = (TypeError, ValueError, LookupError, AttributeError, OverflowError)
"""What reading a reply raises if neither a script of this version nor a Redis server can have sent it."""

# Digits of the longest number. Python refuses to read one of more than 4,300 digits.
_LONGEST: Final = 20


def reply_reader(read: Callable[P, T]) -> Callable[P, T]:
    """Decorate a function that reads a reply, so that a malformed reply raises one of histstore's errors.

    The error names the run if the function's first argument is a `RunRef`.
    """

    @wraps(read)
    def run(*args: P.args, **kwargs: P.kwargs) -> T:
        try:
            return read(*args, **kwargs)
        except HistoryStoreError:
            raise
        except MALFORMED:
            reason = "the server answered with what no script of this version says"
            if args and isinstance(args[0], RunRef):
                raise args[0].corrupt(None, reason) from None
            raise BrokenChainError(None, reason) from None

    return run


def in_script_failure(reply: Any) -> str | None:
    """Return the error text of a script that failed and undid its writes. Return None for any other reply."""
    if type(reply) is list and len(reply) == 2 and reply[0] == b"failed":
        return bytes(reply[1]).decode(errors="replace")
    return None


def as_text(value: Any) -> str:
    """Return the text of a reply.

    Raises:
        ValueError: It is not bytes. `bytes()` of a number would make that many zero bytes.
    """
    if type(value) is not bytes:
        raise ValueError("not text")
    return value.decode(errors="replace")


def shown(value: Any) -> str:
    """Return the beginning of a stored value, for an error's text.

    Raises:
        ValueError: It is not bytes.
    """
    return as_text(value[: 4 * SHOWN] if type(value) is bytes else value)[:SHOWN]


def number(value: Any, limit: int = COUNTABLE) -> int:
    """Read a whole number from a stored value or from a reply.

    Args:
        value: The number, or its digits.
        limit: The number must be below this.

    Raises:
        ValueError: It is not a number from 0 to below the limit.
    """
    if type(value) is not int and (type(value) is not bytes or len(value) > _LONGEST):
        raise ValueError("not a number of ours")
    found = int(value)
    if not 0 <= found < limit:
        raise ValueError("out of range")
    return found


def number_or_none(value: Any, limit: int = COUNTABLE) -> int | None:
    """Read a whole number as `number` does. Return None if it is not one."""
    try:
        return number(value, limit)
    except ValueError:
        return None


def seconds(pttl: Any) -> float:
    """Return the seconds that a key has left to live, from a reply to PTTL.

    A key that is gone, or that never expires, counts as expired.
    """
    return max(0, int(pttl)) / 1000


def revision_or_none(version: Any, etag: Any) -> Revision | None:
    """Read the version and etag that a script returns. Return None if the run is absent, or its head unreadable."""
    try:
        return Revision(number(version, VERSIONS), bytes(etag)) if version else None
    except ValueError:
        return None


def requested_or_zero(revision: Revision | None) -> Revision | int:
    """Return what RevisionGoneError names as requested. A damaged run could not tell its revision: then it is 0."""
    return 0 if revision is None else revision


@reply_reader
def raise_refusal(
    where: RunRef, reply: list[Any], expected: Revision | None, requested: Revision | None, lease: LeaseToken
) -> NoReturn:
    """Raise the error that a script's refusal means. In every case the script wrote nothing.

    Args:
        where: The run.
        reply: The script's reply.
        expected: The revision that the call expected the run to be at; None: absent.
        requested: The revision that the call would have made or deleted; None: unknown.
        lease: The lease that the call carried.
    """
    match reply:
        case [b"conflict", version, etag]:
            raise ConflictError(expected, revision_or_none(version, etag))
        case [b"locked", holder, pttl]:
            raise LockedError(shown(holder), seconds(pttl))
        case [b"lost", fence]:
            raise LeaseLostError(lease.fence, number_or_none(fence) or None)
        case [b"gone", version, etag]:
            newest = revision_or_none(version, etag)
            raise RevisionGoneError(requested_or_zero(requested), newest, newest, reason="forgotten")
        case [b"corrupt", version, reason]:
            raise where.corrupt(number_or_none(version, VERSIONS), shown(reason))
        case [b"format", found]:
            raise UnsupportedVersionError(shown(found), FORMAT)
    raise where.corrupt(None, "the server answered with what no script of this version says")
