"""Deletes: what is read before one, and the compare-and-delete itself."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from ..attempt import Attempt
from ..revision import Revision
from .call import Call, Command, read_call, script_call
from .replies import VERSIONS, number, raise_refusal, reply_reader
from .run import LeaseToken, RunRef
from .scripts import DELETE


@dataclass(frozen=True, slots=True)
class Peeked:
    """A run that exists, sound or damaged.

    Attributes:
        etag: The etag in its head; empty: there is none.
        revision: Its revision; None: the head is not readable.
    """

    etag: bytes
    revision: Revision | None


def peek(where: RunRef) -> Call:
    """Build the look before a delete. It accepts a damaged run, because a delete is what clears the damage."""
    keys = where.keys
    types: list[Command] = [("TYPE", key) for key in (keys.head, keys.log, keys.etags, keys.marks, keys.lease)]
    return read_call(where, "delete", *types, ("HMGET", keys.head, "version", "etag"))


@reply_reader
def read_peek(reply: Any) -> Peeked | None:
    """Read the reply to `peek`. Return None if the run is absent."""
    *types, fields = reply
    version, etag = fields if isinstance(fields, list) else (None, None)
    sound = zip(types, (b"hash", b"none", b"list", b"hash", b"hash"), strict=True)
    if version is None and etag is None and all(found in (b"none", usual) for found, usual in sound):
        return None
    try:
        revision: Revision | None = Revision(number(version or 0, VERSIONS), bytes(etag or b""))
    except (TypeError, ValueError):
        revision = None  # damaged
    return Peeked(etag or b"", revision)


def last_entry(where: RunRef) -> Call:
    """Build the read of the newest entry of a run whose head is not readable."""
    return read_call(where, "delete", ("XREVRANGE", where.keys.log, "+", "-", "COUNT", "1"), large=True)


def delete(where: RunRef, attempt: Attempt, expected: bytes, lease: LeaseToken, force: bool) -> Call:
    """Build a compare-and-delete.

    Args:
        where: The run.
        attempt: Names the delete.
        expected: The etag in the head, as it was read.
        lease: The lease that it carries.
        force: Whether to delete the run although another worker holds its lease, and to fence that worker.
    """
    keys = where.keys
    return script_call(
        where,
        DELETE,
        (keys.head, keys.log, keys.etags, keys.marks, keys.lease),
        (
            expected, attempt.ticket, "0", str(lease.fence) if lease.holder else "", lease.holder,
            "1" if force else "0",
        ),
        resend=2,
        write=lambda: attempt,
    )  # fmt: skip


@reply_reader
def read_delete(where: RunRef, attempt: Attempt, lease: LeaseToken, reply: Any) -> bool | None:
    """Return whether this call deleted the run. Return None if it was cancelled for good before it did.

    Raises:
        HistoryStoreError: The script refused. Nothing was deleted.
    """
    match reply:
        case [b"deleted"]:
            return True
        case [b"absent"]:
            return False
        case [b"cancelled"]:
            return None
    raise_refusal(where, reply, attempt.parent, attempt.revision, lease)
