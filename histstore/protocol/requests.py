"""One function per request: build the call, read the reply. No I/O.

A reply becomes a value or an error here and nowhere else.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from functools import partial, wraps
from typing import Any, Final, NoReturn, ParamSpec, TypeVar

from ..errors import (
    ConflictError,
    CorruptSnapshotError,
    HistoryStoreError,
    LeaseLostError,
    LockedError,
    RevisionGoneError,
    UnsupportedVersionError,
)
from ..log import chain as _chain
from ..log.chain import Base, BrokenChainError, Entry, Head, timestamp
from ..log.plan import Plan
from ..messages import freeze_json
from ..snapshot import Attempt, LeaseInfo, Revision, RunId, RunInfo
from .keys import Keys, head_pattern
from .scripts import COMPARE, DELETE, PROBE, RESOLVE, SAVE, Script

P = ParamSpec("P")
T = TypeVar("T")

Command = tuple[bytes | str, ...]
"""A command and its arguments. Never an int: a signal handler that raises while hiredis packs one crashes Python."""

# What EVALSHA is told of the number of keys.
_COUNTS: Final = tuple(b"%d" % number for number in range(10))

RELIABLE: Final = 840.0
"""Seconds for which a server surely remembers what became of a write to a run that was deleted, and its refusals.

That memory is `MEMORY_MS` in `lua/include/common.lua`, 15 minutes; less a minute, for clocks differ.
"""
VERSIONS: Final = 10**15
"""What every version is below."""

LARGE: Final = 1 << 16
"""Bytes of a request above which it has a connection to itself, so that it holds up no others."""


@dataclass(slots=True)
class Call:
    """One request: commands that are sent together and answered together.

    Attributes:
        name: What it does, for error texts.
        batch: The commands of a first send.
        script: The script that is the one command; None: it is none.
        resend: The place, after the script's name, of what tells a copy from the first request; None: they are alike.
        write: Names the write whose outcome is open if the answer is lost; None: a read, or a write that
            may be repeated as it is.
        relaxed: The same reads outside of a transaction: a server whose memory is full refuses to queue
            any. What was read at two moments fails the proof of the chain, and is read again.
        durable: Whether it writes what `Durability` is about.
        large: Whether the request is large, or its answer may be.
        key: The key that routes it to a server; None: any server.
        run: The namespace and the run id, for observers; None: it is about no single run.
    """

    name: str
    batch: Sequence[Command]
    script: Script | None = None
    resend: int | None = None
    write: Callable[[], Attempt] | None = None
    relaxed: Sequence[Command] | None = None
    durable: bool = False
    large: bool = False
    key: bytes | None = None
    run: tuple[str, str] | None = None

    @property
    def attempt(self) -> Attempt | None:
        """The write whose outcome is open if the answer is lost, by name."""
        return self.write() if self.write is not None else None

    def commands(self, again: bool, in_full: bool) -> Sequence[Command]:
        """Returns the commands for a first send or a resend, with the script named or in full."""
        script, resend = self.script, self.resend
        if script is None or not (in_full or (again and resend is not None)):
            return self.batch
        ((verb, name, *values),) = self.batch
        if again and resend is not None:
            values[resend] = "1"
        if in_full:
            verb, name = "EVAL", script.source
        return [(verb, name, *values)]


def script_call(
    script: Script, keys: tuple[bytes, ...], args: Command, resend: int | None = None,
    write: Callable[[], Attempt] | None = None, durable: bool = False, large: bool = False,
) -> Call:  # fmt: skip
    """Builds the call of a script; `resend` is the argument that tells a copy from the first request."""
    if not script.resend_safe:
        raise ValueError(f"{script.name} must not be sent twice, and what goes through the runner may be")
    batch: list[Command] = [("EVALSHA", script.sha, _COUNTS[len(keys)], *keys, *args)]
    place = None if resend is None else 1 + len(keys) + resend
    return Call(script.name, batch, script, place, write, None, durable or write is not None, large)


def read_call(name: str, *commands: Command, large: bool = False) -> Call:
    """All or nothing, at one moment of the server."""
    return Call(name, [("MULTI",), *commands, ("EXEC",)], relaxed=commands, large=large)


def in_script_failure(reply: Any) -> str | None:
    """Returns the error text of a script that failed and undid what it had written; else None."""
    if type(reply) is list and len(reply) == 2 and reply[0] == b"failed":
        return bytes(reply[1]).decode(errors="replace")
    return None


# ------------------------------------------------------------------------------------------- leases


@dataclass(frozen=True, slots=True)
class Carried:
    """The lease that a write carries; the default: none."""

    fence: int = 0
    holder: str = ""


NO_LEASE: Final = Carried()


@dataclass(slots=True)
class Where:
    """The run that a call is about."""

    namespace: str
    run_id: RunId
    keys: Keys
    key: tuple[str, str] = field(init=False)

    def __post_init__(self) -> None:
        self.key = self.namespace, self.run_id

    def corrupt(self, version: int | None, reason: str) -> CorruptSnapshotError:
        """Return the error for stored bytes of this run that are not what was saved."""
        return CorruptSnapshotError(str(self.run_id), version, reason)


NONSENSE: Final = (TypeError, ValueError, LookupError, AttributeError, OverflowError)
"""What reading a reply raises that no script of this version, and no server that knows its commands, gives."""


def reading(read: Callable[P, T]) -> Callable[P, T]:
    """Lets nothing but our own errors out of a function that reads a reply. Its first argument may be the run."""

    @wraps(read)
    def run(*args: P.args, **kwargs: P.kwargs) -> T:
        try:
            return read(*args, **kwargs)
        except HistoryStoreError:
            raise
        except NONSENSE:
            reason = "the server answered with what no script of this version says"
            if args and isinstance(args[0], Where):
                raise args[0].corrupt(None, reason) from None
            raise BrokenChainError(None, reason) from None

    return run


def as_text(value: Any) -> str:
    """Returns the text of a reply.

    Raises:
        ValueError: It is none. `bytes` of a number would be that many.
    """
    if type(value) is not bytes:
        raise ValueError("not text")
    return value.decode(errors="replace")


SHOWN: Final = 200
"""Characters of what a key holds that an error shows at most."""


def shown(value: Any) -> str:
    """Returns the beginning of what a key holds, for an error's text."""
    return as_text(value[: 4 * SHOWN] if type(value) is bytes else value)[:SHOWN]


COUNTABLE: Final = 1 << 53
"""What every number is below that scripts reckon with: Lua counts no further in whole steps."""
_LONGEST: Final = 20


def number(value: Any, limit: int = COUNTABLE) -> int:
    """Reads a whole number from a key, or from what a script or the server answered.

    Python refuses to read one of more than 4,300 digits, and reads shorter ones that nothing of ours can hold.

    Args:
        value: The number, or its digits.
        limit: What it has to be below.

    Raises:
        ValueError: It is no number from 0 to the limit.
    """
    if type(value) is not int and (type(value) is not bytes or len(value) > _LONGEST):
        raise ValueError("not a number of ours")
    found = int(value)
    if not 0 <= found < limit:
        raise ValueError("out of range")
    return found


def number_or_none(value: Any, limit: int = COUNTABLE) -> int | None:
    """Reads a number that an answer can do without."""
    try:
        return number(value, limit)
    except ValueError:
        return None


def seconds(pttl: Any) -> float:
    """Reads what PTTL says of a key that has a lifetime; one that has none by now, or for ever, counts as over."""
    return max(0, int(pttl)) / 1000


def _revision(version: Any, etag: Any) -> Revision | None:
    """Reads a version and etag as scripts return them; both empty: the run is absent."""
    try:
        return Revision(number(version, VERSIONS), bytes(etag)) if version else None
    except ValueError:
        return None


def _requested(revision: Revision | None) -> Revision | int:
    """Returns what an error names where a damaged run could not tell its revision."""
    return 0 if revision is None else revision


@reading
def _refused(
    where: Where, reply: list[Any], expected: Revision | None, requested: Revision | None, lease: Carried
) -> NoReturn:
    """Raises what a script refused with. Whatever it is, the script wrote nothing."""
    match reply:
        case [b"conflict", version, etag]:
            raise ConflictError(expected, _revision(version, etag))
        case [b"locked", holder, pttl]:
            raise LockedError(shown(holder), seconds(pttl))
        case [b"lost", fence]:
            raise LeaseLostError(lease.fence, number_or_none(fence) or None)
        case [b"gone", version, etag]:
            newest = _revision(version, etag)
            raise RevisionGoneError(_requested(requested), newest, newest, reason="forgotten")
        case [b"corrupt", version, reason]:
            raise where.corrupt(number_or_none(version, VERSIONS), shown(reason))
        case [b"format", found]:
            raise UnsupportedVersionError(shown(found), _chain.FORMAT)
    raise where.corrupt(None, "the server answered with what no script of this version says")


# -------------------------------------------------------------------------------------------- saves


def save(
    where: Where, plan: Plan, parent: Revision | None, lease: Carried, ttl: int | None, keep: int, now: float
) -> Call:
    """Builds the save of a planned entry; `now` is seconds since the epoch."""
    entry = plan.entry
    meta = plan.meta if plan.meta_changed else b""
    return script_call(
        SAVE,
        (where.keys.head,),
        (
            b"%d" % entry.version, entry.header(), entry.body, entry.check(plan.meta), meta,
            "0", lease.holder, "" if ttl is None else b"%d" % ttl, b"%d" % keep,
        ),
        resend=5,
        write=partial(_save_attempt, where, parent, entry, now),
        large=len(entry.body) + len(meta) > LARGE,
    )  # fmt: skip


def _save_attempt(where: Where, parent: Revision | None, entry: Entry, now: float) -> Attempt:
    made_at = datetime.fromtimestamp(now, UTC)
    return Attempt("save", where.namespace, where.run_id, parent, entry.revision(), entry.etag, made_at)


def read_save(where: Where, plan: Plan, expected: Revision | None, lease: Carried, reply: Any) -> Revision | None:
    """Returns the new revision; None when the save was cancelled for good before it was applied."""
    word = reply[0] if type(reply) is list and reply else None
    if word == b"saved" and len(reply) == 2:
        return plan.entry.saved_at(reply[1])
    if word == b"cancelled":
        return None
    _refused(where, reply, expected, plan.entry.revision(), lease)


def compare(where: Where, expected: Revision | None, lease: Carried, ttl: int | None) -> Call:
    """Build the save of content that did not change; `expected` None: of none, to a run that is absent."""
    keys = where.keys
    etag = b"" if expected is None else expected.etag
    return script_call(
        COMPARE,
        (keys.head, keys.log, keys.etags, keys.lease),
        (etag, str(lease.fence) if lease.holder else "", lease.holder, "" if ttl is None else b"%d" % ttl),
    )


@reading
def read_compare(where: Where, expected: Revision | None, lease: Carried, reply: Any) -> None:
    """Returns if the run is at the expected revision; raises what it refused with otherwise."""
    match reply:
        case [b"same", _]:
            return
        case [b"conflict", b"", b""] if expected is None:
            return  # an absent run has no etag, not even an empty one: all else was checked before
    _refused(where, reply, expected, expected, lease)


def resolve(where: Where, attempt: Attempt) -> Call:
    """Builds the request that settles an attempt."""
    keys = where.keys
    parent = attempt.parent.etag if attempt.parent is not None else b""
    return script_call(RESOLVE, (keys.head, keys.etags, keys.marks), (attempt.ticket, parent), durable=True)


@reading
def read_resolve(where: Where, attempt: Attempt, reply: Any, now: datetime, ttl: int | None) -> Revision | None:
    """Returns the attempt's revision if it was applied, None if it never will be.

    Args:
        where: The run.
        attempt: What was asked about.
        reply: The answer.
        now: The time.
        ttl: Milliseconds that a run lives after its last save; None: for ever.

    Raises:
        RevisionGoneError: It cannot be known any more. The server knows a write that had no parent, of a run that was
            deleted since, for a while only.
        CorruptSnapshotError: A damaged run was deleted, which could not tell its revision.
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
            # A run that has expired is as forgotten as one whose delete is.
            memory = RELIABLE if ttl is None else min(RELIABLE, ttl / 1000)
            old = attempt.made_at is None or (now - attempt.made_at).total_seconds() >= memory
            if attempt.parent is None and old:
                newest = _revision(version, etag)
                raise RevisionGoneError(_requested(revision), newest, newest, reason="forgotten")
            return None
    _refused(where, reply, attempt.parent, revision, NO_LEASE)


# ------------------------------------------------------------------------------------------ deletes


@dataclass(frozen=True, slots=True)
class Peeked:
    """That there is a run, whatever state it is in.

    Attributes:
        etag: Its head's etag as it stands there; empty: it has none.
        revision: Its revision, if it can be told.
    """

    etag: bytes
    revision: Revision | None


def peek(where: Where) -> Call:
    """Builds the look before a delete. It bears damage: deleting is what clears it."""
    keys = where.keys
    types: list[Command] = [("TYPE", key) for key in (keys.head, keys.log, keys.etags, keys.marks, keys.lease)]
    return read_call("delete", *types, ("HMGET", keys.head, "version", "etag"))


@reading
def read_peek(reply: Any) -> Peeked | None:
    """Reads the reply to `peek`; None: the run is absent."""
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


def newest_entry(where: Where) -> Call:
    """Builds the read of the newest entry of a run whose head cannot be read."""
    return read_call("delete", ("XREVRANGE", where.keys.log, "+", "-", "COUNT", "1"), large=True)


def delete(where: Where, attempt: Attempt, expected: bytes, lease: Carried, force: bool) -> Call:
    """Builds a compare-and-delete; `expected` is the head's etag as it was read."""
    keys = where.keys
    return script_call(
        DELETE,
        (keys.head, keys.log, keys.etags, keys.marks, keys.lease),
        (
            expected, attempt.ticket, "0", str(lease.fence) if lease.holder else "", lease.holder,
            "1" if force else "0",
        ),
        resend=2,
        write=lambda: attempt,
    )  # fmt: skip


@reading
def read_delete(where: Where, attempt: Attempt, lease: Carried, reply: Any) -> bool | None:
    """Returns whether this call deleted the run; None when it was cancelled for good before it did."""
    match reply:
        case [b"deleted"]:
            return True
        case [b"absent"]:
            return False
        case [b"cancelled"]:
            return None
    _refused(where, reply, attempt.parent, attempt.revision, lease)


# ------------------------------------------------------------------------------------------ reading

_HEAD: Final = (
    "format", "version", "etag", "length", "size", "checkpoint", "logged", "check", "first", "saved",
)  # fmt: skip


@dataclass(slots=True)
class RawHead:
    """A run's head as it was read: sound in itself, but not yet held against the log."""

    version: int
    etag: bytes
    length: int
    size: int
    checkpoint: int
    logged: int
    check: bytes
    first: int
    saved: bytes

    def head(self, meta: bytes, fence: int | None = None) -> Head:
        """Returns the head, proven against its check.

        Raises:
            BrokenChainError: It is not the head that was saved.
        """
        revision = Revision(self.version, self.etag, timestamp(self.saved), fence, self.length, self.size)
        head = Head(revision, self.length, self.size, self.checkpoint, self.logged, meta)
        if head.check() != self.check:
            raise BrokenChainError(self.version, "the head does not match its check")
        return head

    def made_by(self, entry: Entry, meta: bytes) -> bool:
        """Tells whether this is the head that an entry made, with a run's encoded meta."""
        mine = self.version, self.etag, self.length, self.size, self.checkpoint, self.logged
        theirs = entry.version, entry.etag, entry.length, entry.size, entry.checkpoint, entry.logged
        return mine == theirs and entry.check(meta) == self.check


def _raw_head(fields: Sequence[Any]) -> RawHead | None:
    format_, version, etag, length, size, checkpoint, logged, check, first, saved = fields
    if etag is None and version is None:
        return None
    if format_ != b"1" and (number_or_none(format_) or 0) > _chain.FORMAT:
        raise UnsupportedVersionError(number(format_), _chain.FORMAT)
    try:
        if etag is None or version is None or len(etag) != 16 or format_ != b"1":
            raise ValueError("not a head")
        raw = RawHead(
            int(version),
            bytes(etag),
            int(length),
            int(size),
            int(checkpoint),
            int(logged),
            bytes(check),
            int(first),
            saved,
        )
        if not 0 < raw.version < VERSIONS or min(raw.length, raw.size, raw.checkpoint, raw.logged, raw.first) < 0:
            raise ValueError("out of range")
        if max(raw.length, raw.size, raw.checkpoint, raw.logged, raw.first) >= 2**63:
            raise ValueError("out of range")
    except (TypeError, ValueError):
        raise BrokenChainError(number_or_none(version, VERSIONS), "the head is not readable") from None
    return raw


DELTA: Final = 32
"""Entries that a reader who knows the run nearly expects at most, so that it needs no connection to itself."""
_DELTA: Final = b"%d" % DELTA


def delta(where: Where, base: Base) -> Call:
    """Builds the read of a run's head and of the first `DELTA` entries after `base`."""
    keys, head = where.keys, base.head
    entries: Command = ("XRANGE", keys.log, f"(0-{head.version}", "+", "COUNT", _DELTA)
    # What comes next is expected to be like the newest save, unless that was the first or a checkpoint.
    version, cost = base.log[base.log_length - 1]
    large = version != head.checkpoint and cost > LARGE // 4
    return read_call("load", ("HMGET", keys.head, *_HEAD), entries, large=large)


def load(where: Where, after: int | None) -> Call:
    """Builds the read of a run's head and of the entries after version `after`; None: of all."""
    keys = where.keys
    start = "-" if after is None else f"(0-{after}"
    return read_call("load", ("HMGET", keys.head, *_HEAD), ("XRANGE", keys.log, start, "+"), large=True)


def load_from(where: Where, version: int) -> Call:
    """Builds the read of a run's head and of the entries from version `version` on."""
    keys = where.keys
    return read_call("load", ("HMGET", keys.head, *_HEAD), ("XRANGE", keys.log, f"0-{version}", "+"), large=True)


def load_at(where: Where, version: int) -> Call:
    """Builds the read of a run's head and of the entries up to version `version`."""
    keys = where.keys
    return read_call("load", ("HMGET", keys.head, *_HEAD), ("XRANGE", keys.log, "-", f"0-{version}"), large=True)


def head_only(where: Where) -> Call:
    """Builds the read of a run's head, its meta, and the length of its log."""
    keys = where.keys
    return read_call("load", ("HMGET", keys.head, *_HEAD, "meta"), ("XLEN", keys.log))


def between(where: Where, first: int, before: int) -> Call:
    """Builds the read of a run's head and of its entries from version `first` to below `before`."""
    keys = where.keys
    # Forwards, which streams are faster at.
    entries: Command = ("XRANGE", keys.log, f"0-{first}", f"(0-{before}")
    return read_call("read", ("HMGET", keys.head, *_HEAD), entries, large=before - first > DELTA)


def newest(where: Where, before: int | None, count: int) -> Call:
    """Builds the read of a run's head with meta, and of its newest `count` entries below `before`."""
    keys = where.keys
    stop = "+" if before is None else f"(0-{before}"
    entries: Command = ("XREVRANGE", keys.log, stop, "-", "COUNT", b"%d" % count)
    return read_call("read", ("HMGET", keys.head, *_HEAD, "meta"), entries, large=count > DELTA)


@dataclass(slots=True)
class Loaded:
    """A head and the entries read with it, at one moment.

    Attributes:
        head: None: the run is absent.
        items: Raw stream entries.
        meta: The head's meta, where it was asked for.
    """

    head: RawHead | None
    items: list[Any]
    meta: bytes | None = None


def read_loaded(reply: Any) -> Loaded:
    """Reads the reply to any of the loads above.

    Raises:
        BrokenChainError: The head is not readable.
        UnsupportedVersionError: A newer format.
    """
    try:
        fields, items = reply
        if isinstance(fields, Exception) or isinstance(items, Exception):
            raise BrokenChainError(None, "a key of the run holds what histstore did not put there")
        head = _raw_head(fields[:10])
        return Loaded(head, items if type(items) is list else [items], fields[10] if len(fields) > 10 else None)
    except HistoryStoreError:
        raise
    except NONSENSE:
        raise BrokenChainError(None, "the server answered with what no head and no entries are") from None


def same_head(raw: RawHead, base: Base) -> bool:
    """Tells whether `base` is the content at a head.

    Raises:
        BrokenChainError: It should be, but the head was changed.
    """
    if raw.etag != base.head.etag:
        return False
    raw.head(base.head.meta)
    if raw.version != base.head.version:
        raise BrokenChainError(raw.version, "the head's version is not its etag's")
    return True


def fold(raw: RawHead, entries: Sequence[Entry], base: Base | None) -> Base:
    """Returns the content at a head, from entries after `base` or from its checkpoint on.

    Raises:
        BrokenChainError: Entries and head do not prove each other.
    """
    if base is None and entries and entries[0].version < raw.checkpoint:
        entries = [entry for entry in entries if entry.version >= raw.checkpoint]
    if not entries or entries[-1].version != raw.version or entries[-1].etag != raw.etag:
        raise BrokenChainError(raw.version, "the head names an entry that the log does not end with")
    found = _chain.replay(entries, base)
    if found.head.checkpoint != raw.checkpoint or found.head.length != raw.length or found.head.size != raw.size:
        raise BrokenChainError(raw.version, "the head does not say what the newest entry says")
    raw.head(found.head.meta)
    return found


_INFO: Final = (*_HEAD, "meta", "created")


def info(where: Where) -> Call:
    """Builds the read of what is known about a run without its messages."""
    keys = where.keys
    return read_call(
        "info",
        ("HMGET", keys.head, *_INFO),
        ("PTTL", keys.head),
        ("TIME",),
        ("HMGET", keys.lease, "holder", "fence", "since"),
        ("PTTL", keys.lease),
        ("XLEN", keys.log),
    )


@reading
def read_info(where: Where, reply: Any) -> RunInfo | None:
    """Reads the reply to `info`; None: the run is absent, and nobody holds it."""
    if any(isinstance(part, Exception) for part in reply):
        raise where.corrupt(None, "a key of the run holds what histstore did not put there")
    fields, pttl, (seconds, micros), (holder, fence, since), lease_pttl, entries = reply
    try:
        raw = _raw_head(fields[:10])
        now = timestamp(int(seconds) * 1000 + int(micros) // 1000)
        if now is None:
            raise BrokenChainError(None, "the server's clock is not readable")
        expires_at = timestamp(round(now.timestamp() * 1000) + pttl) if pttl >= 0 else None
        lease = None
        if holder is not None and lease_pttl > 0:
            held_by = number_or_none(fence)
            if held_by is None:
                raise BrokenChainError(raw.version if raw is not None else None, "the lease has no fence")
            lease = LeaseInfo(as_text(holder), held_by, timestamp(since) or now, lease_pttl / 1000)
        if raw is None:
            if entries:
                raise BrokenChainError(None, "there is a log, but no head")
            if lease is None:
                return None  # a lease that has lapsed, a queue or a fence alone is no run
            return RunInfo(where.run_id, None, 0, 0, freeze_json({}, "meta"), None, None, expires_at, lease)
        if entries != raw.version - raw.first + 1:
            raise BrokenChainError(raw.version, "the log does not hold what the head says")
        meta, created = fields[10] or b"", fields[11]
        head = raw.head(meta)
        created_at = timestamp(created)
        if created_at is None or head.revision.saved_at is None:
            raise BrokenChainError(raw.version, "the head holds no times")
        return RunInfo(
            where.run_id,
            head.revision,
            head.length,
            head.size,
            _chain.decode_meta(meta),
            created_at,
            head.revision.saved_at,
            expires_at,
            lease,
        )
    except BrokenChainError as error:
        raise where.corrupt(error.version, error.reason) from error


# ------------------------------------------------------------------------------------- the backend


def scan(namespace: str, prefix: str, cursor: int) -> Call:
    """Builds one step of a walk over the heads of all runs."""
    command: Command = ("SCAN", b"%d" % cursor, "MATCH", head_pattern(namespace, prefix), "COUNT", "500")
    return Call("runs", [command])


def probe(keys: Keys) -> Call:
    """Builds the self-test of a connection: every command that this library sends, on a scratch key."""
    scratch = keys.head
    reads: list[Command] = [
        ("MULTI",),
        ("HMGET", scratch, "etag"),
        ("XRANGE", scratch, "-", "+"),
        ("XREVRANGE", scratch, "+", "-", "COUNT", "1"),
        ("XLEN", scratch),
        ("PTTL", scratch),
        ("TIME",),
        ("EXEC",),
        ("EVALSHA", "0" * 40, "1", scratch),
        ("SUBSCRIBE", scratch),
        ("UNSUBSCRIBE", scratch),
        ("INFO", "memory"),
        ("INFO", "replication"),
        ("EVAL", PROBE.source, "1", scratch),
    ]
    return Call("probe", reads)
