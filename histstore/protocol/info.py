"""What is known about a run without its messages."""

from __future__ import annotations

from datetime import datetime
from typing import Any, Final

from ..info import LeaseInfo, RunInfo
from ..log.head import read_meta, timestamp
from ..log.unreadable import BrokenChainError
from ..values.frozen import freeze_json
from .call import Call, read_call
from .heads import FIELDS, RawHead, read_raw_head
from .replies import as_text, number_or_none, reply_reader
from .run import RunRef

_INFO: Final = (*FIELDS, "meta", "created")


def info(where: RunRef) -> Call:
    """Build the read of a run's head, its lease, and their lifetimes."""
    keys = where.keys
    return read_call(
        where,
        "info",
        ("HMGET", keys.head, *_INFO),
        ("PTTL", keys.head),
        ("TIME",),
        ("HMGET", keys.lease, "holder", "fence", "since"),
        ("PTTL", keys.lease),
        ("XLEN", keys.log),
    )


@reply_reader
def read_info(where: RunRef, reply: Any) -> RunInfo | None:
    """Read the reply to `info`. Return None if the run is absent and nobody holds it."""
    if any(isinstance(part, Exception) for part in reply):
        raise where.corrupt(None, "a key of the run holds what histstore did not put there")
    fields, pttl, (seconds, micros), lease_fields, lease_pttl, entries = reply
    try:
        raw = read_raw_head(fields[:10])
        now = timestamp(int(seconds) * 1000 + int(micros) // 1000)
        if now is None:
            raise BrokenChainError(None, "the server's clock is not readable")
        expires_at = timestamp(round(now.timestamp() * 1000) + pttl) if pttl >= 0 else None
        lease = _read_lease(raw, lease_fields, lease_pttl, now)
        if raw is None:
            if entries:
                raise BrokenChainError(None, "there is a log, but no head")
            if lease is None:
                return None  # an expired lease, a queue or a fence alone is no run
            return RunInfo(
                where.run_id,
                None,
                0,
                0,
                meta=freeze_json({}, "meta"),
                created_at=None,
                saved_at=None,
                expires_at=expires_at,
                lease=lease,
            )
        if entries != raw.version - raw.first + 1:
            raise BrokenChainError(raw.version, "the log does not hold what the head says")
        meta = fields[10] or b""
        head = raw.head(meta)
        created_at, saved_at = timestamp(fields[11]), head.revision.saved_at
        if created_at is None or saved_at is None:
            raise BrokenChainError(raw.version, "the head holds no times")
        return RunInfo(
            where.run_id,
            head.revision,
            head.length,
            head.size,
            meta=read_meta(meta),
            created_at=created_at,
            saved_at=saved_at,
            expires_at=expires_at,
            lease=lease,
        )
    except BrokenChainError as error:
        raise where.corrupt(error.version, error.reason) from error


def _read_lease(raw: RawHead | None, fields: list[Any], pttl: int, now: datetime) -> LeaseInfo | None:
    """Read a lease's fields. Return None if nobody holds it."""
    holder, fence, since = fields
    if holder is None or pttl <= 0:
        return None
    held_by = number_or_none(fence)
    if held_by is None:
        raise BrokenChainError(raw.version if raw is not None else None, "the lease has no fence")
    return LeaseInfo(as_text(holder), held_by, timestamp(since) or now, pttl / 1000)
