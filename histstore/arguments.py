"""Checks of arguments that several calls take."""

from __future__ import annotations

from typing import Final

from .errors import SnapshotError
from .info import Page
from .revision import Expect, Revision

YEAR: Final = 86400 * 365
"""The longest time that an argument may name, in seconds."""


def not_a_snapshot(value: object) -> SnapshotError:
    """Return the error for something else than a snapshot that `save` is to save."""
    hint = ": a Page is not the whole conversation, load() it" if isinstance(value, Page) else ""
    return SnapshotError(f"save() takes a ConversationSnapshot, not a {type(value).__name__}{hint}")


def check_expected(expected: object) -> None:
    """Check an `expected=` argument.

    Raises:
        SnapshotError: It is no revision, nor anything else that stands for one.
    """
    if expected is not None and not isinstance(expected, (Revision, Expect)):
        raise SnapshotError("expected= is a Revision, None, SEEN or ANY (Revision.parse reads one from text)")


def check_limit(limit: object) -> None:
    """Check a `limit=` argument.

    Raises:
        SnapshotError: It is no number of items.
    """
    if limit is not None and (type(limit) is not int or limit < 0):
        raise SnapshotError("limit is a whole number from 0, or None")


def check_lock(ttl: float, acquire_timeout: float | None, renew: bool, cancel: bool) -> None:
    """Check the arguments of `lock`.

    Raises:
        SnapshotError: One is out of range, or of the wrong type.
    """
    if type(renew) is not bool:
        raise SnapshotError("renew is True or False")
    if type(cancel) is not bool:
        raise SnapshotError("cancel is True or False")
    if type(ttl) not in (int, float) or not 0.01 <= ttl <= YEAR:
        raise SnapshotError("ttl is a number of seconds, from 0.01 to a year")
    if acquire_timeout is not None and (type(acquire_timeout) not in (int, float) or not 0 <= acquire_timeout <= YEAR):
        raise SnapshotError("acquire_timeout is a number of seconds from 0 to a year, or None")


def check_drain(drain: float) -> None:
    """Check the `drain=` argument of `aclose`.

    Raises:
        SnapshotError: It is out of range, or of the wrong type.
    """
    if type(drain) not in (int, float) or not 0 <= drain <= YEAR:
        raise SnapshotError("drain is a number of seconds from 0 to a year")


def check_function(fn: object) -> None:
    """Check the function that `update` calls.

    Raises:
        SnapshotError: It cannot be called.
    """
    if not callable(fn):
        raise SnapshotError(f"update() takes a function of the snapshot, not a {type(fn).__name__}")
