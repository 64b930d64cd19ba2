"""Requests about leases: build the call, read the reply, and read what a doorbell says. No I/O."""

from __future__ import annotations

import functools
import os
import platform
import re
import secrets
from dataclasses import dataclass
from typing import Any, Final

from ..errors import UnsupportedVersionError
from ..log import chain
from .keys import escape, run_keys, run_of_lease
from .requests import (
    Call,
    Carried,
    Where,
    as_text,
    number,
    number_or_none,
    read_call,
    reading,
    script_call,
    seconds,
    shown,
)
from .scripts import ACQUIRE, RELEASE, RENEW

LONGEST: Final = 86400 * 365
"""Seconds that a lease may live."""


@functools.cache
def _host() -> str:
    # No spaces: a place in the queue is three words.
    return re.sub(r"[^\w.-]", "-", platform.node(), flags=re.ASCII)[:32] or "localhost"


def new_holder() -> str:
    """Returns a name that nobody else has: host, process, and 16 random bytes."""
    return f"{_host()}:{os.getpid()}:{secrets.token_urlsafe(16)}"


def new_channel(namespace: str) -> str:
    """Returns the name of a channel that nobody else listens on. It starts like the namespace's keys, for ACLs."""
    return f"{escape(namespace)}:doorbell:{secrets.token_urlsafe(16)}"


@dataclass(frozen=True, slots=True)
class Ticket:
    """One acquisition, over all copies of its requests.

    Attributes:
        holder: Who asks, and who then holds the lease.
        ttl_ms: Milliseconds that the lease is to live.
        channel: Where the asking process listens.
    """

    holder: str
    ttl_ms: int
    channel: str

    @property
    def place(self) -> str:
        """What stands in the queue for it, but for the mark of one that is not counted."""
        return f"{self.ttl_ms} {self.channel} {self.holder}"


@dataclass(frozen=True, slots=True)
class Granted:
    """The lease is the asker's."""

    fence: int


@dataclass(frozen=True, slots=True)
class Taken:
    """Another holds the lease.

    Attributes:
        holder: Who.
        expires_in: Seconds until it expires unless it is renewed.
        rank: Waiters before the asker; None: it is not in the queue.
    """

    holder: str
    expires_in: float
    rank: int | None = None


def acquire(where: Where, ticket: Ticket, *, queue: bool, uncounted: bool = False) -> Call:
    """Builds the request for a lease.

    Args:
        where: The run.
        ticket: Who asks.
        queue: Whether to take a place in the queue if another holds it.
        uncounted: Whether the asker hears its channel though the server does not count it as a listener.
    """
    keys = where.keys
    channel = ticket.channel if queue else ""
    if queue and uncounted:
        channel = f"?{channel}"
    return script_call(
        ACQUIRE,
        (keys.head, keys.log, keys.etags, keys.marks, keys.lease, keys.queue),
        (ticket.holder, str(ticket.ttl_ms), channel),
    )


def read_acquire(where: Where, reply: Any) -> Granted | Taken | None:
    """Returns who has the lease; None: this acquisition was given up before."""
    match reply:
        case [b"granted", fence]:
            # Nearly always so; two calls less.
            plain = type(fence) is bytes and len(fence) < 16 and fence.isdigit()
            held = int(fence) if plain else number_or_none(fence)
            if held is None:
                raise where.corrupt(None, "the head's or the lease's fence is not readable")
            return Granted(held)
        case [b"queued" | b"held", _, int(pttl), *_] if not -1 < pttl <= LONGEST * 1000:
            raise where.corrupt(None, "the lease never ends")
        case [b"queued", bytes(holder), int(pttl), int(rank)]:
            return Taken(shown(holder), seconds(pttl), rank)
        case [b"held", bytes(holder), int(pttl)]:
            return Taken(shown(holder), seconds(pttl))
        case [b"cancelled"]:
            return None
        case [b"format", found]:
            raise UnsupportedVersionError(shown(found), chain.FORMAT)
    raise where.corrupt(None, "the server answered with what no script of this version says")


def renew(where: Where, lease: Carried, ttl_ms: int) -> Call:
    """Builds the request that prolongs a lease."""
    keys = where.keys
    return script_call(
        RENEW,
        (keys.head, keys.log, keys.etags, keys.lease, keys.queue),
        (lease.holder, str(lease.fence), str(ttl_ms)),
    )


@dataclass(frozen=True, slots=True)
class Lost:
    """A lease is not its holder's any more.

    Attributes:
        current: The fence that stands now; None: nobody was granted the run since, or it is not known.
        reason: How that came about, where this process knows.
    """

    current: int | None
    reason: str | None = None


def read_over(where: Where, lease: Carried, reply: Any) -> Lost | None:
    """Reads the reply to `renew` or `release`; None: it was done."""
    match reply:
        case [b"renewed"] | [b"released"]:
            return None
        case [b"lost", fence]:
            current = number_or_none(fence) or 0
            return Lost(current if current > lease.fence else None)
    raise where.corrupt(None, "the server answered with what no script of this version says")


def release(where: Where, holder: str, place: str = "", *, late: bool = False, force: bool = False) -> Call:
    """Builds the request that ends a lease, or the wait for one, and serves the next waiter.

    Args:
        where: The run.
        holder: Whose lease; empty: nobody's, only the next waiter is to be served.
        place: What stands in the queue for the holder, if something does.
        late: Whether a copy of its `acquire` may still arrive.
        force: Whether the holder does not know, and is to be fenced.
    """
    keys = where.keys
    return script_call(
        RELEASE,
        (keys.head, keys.log, keys.etags, keys.marks, keys.lease, keys.queue),
        (holder, place, "1" if late else "0", "1" if force else "0"),
    )


@dataclass(frozen=True, slots=True)
class Occupied:
    """Who has to do with a run's lease.

    Attributes:
        holder: Who holds it, or was the last to; empty: nobody.
        waiting: How many wait for it.
    """

    holder: str
    waiting: int


def occupied(where: Where) -> Call:
    """Builds the look before a lease is broken."""
    keys = where.keys
    return read_call(
        "break_lease", ("HMGET", keys.lease, "holder"), ("HMGET", keys.head, "holder"), ("LLEN", keys.queue)
    )


@reading
def read_occupied(where: Where, reply: Any) -> Occupied:
    """Reads the reply to `occupied`."""
    if any(isinstance(part, Exception) for part in reply):
        raise where.corrupt(None, "a key of the run holds what histstore did not put there")
    (holder,), (last,), waiting = reply
    return Occupied(as_text(holder or last or b""), int(waiting))


def drop_queue(where: Where) -> Call:
    """Builds the request that drops a queue, whatever it is. Whoever stands in it asks when its time has come."""
    return Call("delete", [("DEL", where.keys.queue)])


@dataclass(frozen=True, slots=True)
class Ring:
    """What a doorbell says about a run's lease. It is advice: only the server's answer grants a lease.

    Attributes:
        key: The lease's key.
        expires_in: Seconds until it ends unless its holder does something.
        rank: Waiters before the first of this process; before `holder`, if there is one.
        holder: Whose turn it is to ask; None: nobody's.
    """

    key: bytes
    expires_in: float
    rank: int
    holder: str | None


def read_ring(message: Any) -> Ring | None:
    """Reads a message of a channel; None: it is not one of ours."""
    try:
        lasts, rank, holder, key = bytes(message).split(b" ", 3)
        whose = None if holder == b"-" else as_text(holder)
        return Ring(key, number(lasts, LONGEST * 1000 + 1) / 1000, number(rank), whose)
    except (TypeError, ValueError):
        return None


def where_it_rang(namespace: str, ring: Ring) -> Where | None:
    """Returns the run that a doorbell speaks of; None: it is none of this namespace."""
    run_id = run_of_lease(namespace, ring.key)
    return None if run_id is None else Where(namespace, run_id, run_keys(namespace, run_id))
