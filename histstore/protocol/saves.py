"""Saves: the save itself, the comparison when nothing changed, and the request that settles an open outcome."""

from __future__ import annotations

from datetime import UTC, datetime
from functools import partial
from typing import Any, Final

from ..attempt import Attempt
from ..errors import RevisionGoneError
from ..log.entry import Entry
from ..log.head import timestamp
from ..log.plan import Plan
from ..revision import Revision
from .call import LARGE, Call, script_call
from .replies import raise_refusal, reply_reader, requested_or_zero, revision_or_none
from .run import NO_LEASE, LeaseToken, RunRef
from .scripts import COMPARE, RESOLVE, SAVE

RELIABLE: Final = 840.0
"""Seconds for which a server surely remembers refusals, and the fate of writes to a run that was deleted.

The scripts keep that memory for 15 minutes (`MEMORY_MS` in `lua/include/common.lua`). This is a minute less, because
clocks differ.
"""


def save(
    where: RunRef, plan: Plan, parent: Revision | None, lease: LeaseToken, *, ttl: int | None, keep: int, now: float
) -> Call:
    """Build the save of a planned entry.

    Args:
        where: The run.
        plan: The entry.
        parent: The revision that it is saved onto; None: the run is absent.
        lease: The lease that it carries.
        ttl: Milliseconds that the run lives after it; None: leave its lifetime alone.
        keep: Number of past revisions to keep.
        now: The client's time, in seconds since 1970.
    """
    entry, keys = plan.entry, where.keys
    meta = plan.meta if plan.meta_changed else b""
    return script_call(
        where,
        SAVE,
        (keys.head,),
        (
            b"%d" % entry.version, entry.header.pack(), entry.body, entry.check(plan.meta), meta,
            "0", lease.holder, "" if ttl is None else b"%d" % ttl, b"%d" % keep,
        ),
        resend=5,
        write=partial(_save_attempt, where, parent, entry, now),
        large=len(entry.body) + len(meta) > LARGE,
        implied=(keys.log, keys.etags, keys.marks, keys.lease),
    )  # fmt: skip


def _save_attempt(where: RunRef, parent: Revision | None, entry: Entry, now: float) -> Attempt:
    made_at = datetime.fromtimestamp(now, UTC)
    return Attempt(
        "save", where.namespace, where.run_id, parent, revision=entry.revision(), ticket=entry.etag, made_at=made_at
    )


def read_save(where: RunRef, plan: Plan, expected: Revision | None, lease: LeaseToken, reply: Any) -> Revision | None:
    """Return the new revision. Return None if the save was cancelled for good before it was applied.

    Raises:
        HistoryStoreError: The script refused. Nothing was written.
    """
    word = reply[0] if type(reply) is list and reply else None
    if word == b"saved" and len(reply) == 2:
        return plan.entry.saved_at(reply[1])
    if word == b"cancelled":
        return None
    raise_refusal(where, reply, expected, plan.entry.revision(), lease)


def compare(where: RunRef, expected: Revision | None, lease: LeaseToken, ttl: int | None) -> Call:
    """Build the save of content that did not change.

    Args:
        where: The run.
        expected: The revision that the run must be at; None: it must be absent.
        lease: The lease that it carries.
        ttl: Milliseconds that the run lives after it; None: leave its lifetime alone.
    """
    keys = where.keys
    etag = b"" if expected is None else expected.etag
    return script_call(
        where,
        COMPARE,
        (keys.head, keys.log, keys.etags, keys.lease),
        (etag, str(lease.fence) if lease.holder else "", lease.holder, "" if ttl is None else b"%d" % ttl),
    )


@reply_reader
def read_compare(where: RunRef, expected: Revision | None, lease: LeaseToken, reply: Any) -> None:
    """Return if the run is at the expected revision.

    Raises:
        HistoryStoreError: The script refused.
    """
    match reply:
        case [b"same", _]:
            return
        case [b"conflict", b"", b""] if expected is None:
            return  # an absent run has no etag, not even an empty one; the script checked the rest before
    raise_refusal(where, reply, expected, expected, lease)


def resolve(where: RunRef, attempt: Attempt) -> Call:
    """Build the request that settles an attempt for good."""
    keys = where.keys
    parent = attempt.parent.etag if attempt.parent is not None else b""
    return script_call(where, RESOLVE, (keys.head, keys.etags, keys.marks), (attempt.ticket, parent), durable=True)


@reply_reader
def read_resolve(where: RunRef, attempt: Attempt, reply: Any, now: datetime, ttl: int | None) -> Revision | None:
    """Return the attempt's revision if it was applied. Return None if it never will be.

    Args:
        where: The run.
        attempt: The attempt.
        reply: The reply.
        now: The client's time.
        ttl: Milliseconds that a run lives after its last save; None: for ever.

    Raises:
        RevisionGoneError: The outcome cannot be known any more. The server remembers writes without a parent to a run
            that was deleted later only for a while.
        CorruptSnapshotError: The attempt deleted a damaged run, which could not tell its revision.
    """
    revision = attempt.revision
    match reply:
        case [b"applied", saved]:
            if revision is None:
                raise where.corrupt(None, "it was deleted by this attempt, and could not tell its revision")
            return Revision(
                revision.version, revision.etag, timestamp(saved), revision.fence, revision.length, revision.size
            )
        case [b"never", version, etag]:
            # An expired run is forgotten, as a deleted one is after a while.
            memory = RELIABLE if ttl is None else min(RELIABLE, ttl / 1000)
            old = attempt.made_at is None or (now - attempt.made_at).total_seconds() >= memory
            if attempt.parent is None and old:
                newest = revision_or_none(version, etag)
                raise RevisionGoneError(requested_or_zero(revision), newest, newest, reason="forgotten")
            return None
    raise_refusal(where, reply, attempt.parent, revision, NO_LEASE)
