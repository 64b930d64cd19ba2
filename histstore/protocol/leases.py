"""Requests about leases: build the call, read the reply, and read a doorbell's message. No I/O."""

from __future__ import annotations

import functools
import os
import platform
import re
import secrets
from dataclasses import dataclass
from typing import Any, Final

from ..errors import UnsupportedVersionError
from ..log.unreadable import FORMAT
from .call import Call, read_call, script_call
from .keys import escape, run_keys, run_of_lease
from .replies import as_text, number, number_or_none, reply_reader, seconds, shown
from .run import LeaseToken, RunRef
from .scripts import ACQUIRE, RELEASE, RENEW

LONGEST: Final = 86400 * 365
"""Seconds that a lease may live at most."""


@functools.cache
def _host() -> str:
    # Without spaces, because a place in the queue is three words separated by spaces.
    return re.sub(r"[^\w.-]", "-", platform.node(), flags=re.ASCII)[:32] or "localhost"


def new_holder() -> str:
    """Return a unique name: host, process, and 16 random bytes."""
    return f"{_host()}:{os.getpid()}:{secrets.token_urlsafe(16)}"


def new_channel(namespace: str) -> str:
    """Return the name of a channel that nobody else uses. It starts like the namespace's keys, for ACLs."""
    return f"{escape(namespace)}:doorbell:{secrets.token_urlsafe(16)}"


@dataclass(slots=True)
class Ticket:
    """The name of one acquisition, over all copies of its requests.

    Attributes:
        holder: The name of the process that asks, and then holds the lease.
        ttl_ms: Milliseconds that the lease shall live.
        channel: The channel that the process listens on.
    """

    holder: str
    ttl_ms: int
    channel: str

    @property
    def place(self) -> str:
        """Its place in the queue, without the mark of a waiter that does not count as a listener."""
        return f"{self.ttl_ms} {self.channel} {self.holder}"


@dataclass(slots=True)
class Granted:
    """The caller has the lease."""

    fence: int


@dataclass(frozen=True, slots=True)
class Taken:
    """Another holder has the lease.

    Attributes:
        holder: That holder.
        expires_in: Seconds until the lease expires unless it is renewed.
        rank: Waiters before the caller; None: the caller is not in the queue.
    """

    holder: str
    expires_in: float
    rank: int | None = None


def acquire(where: RunRef, ticket: Ticket, *, queue: bool, uncounted: bool = False) -> Call:
    """Build the request for a lease.

    Args:
        where: The run.
        ticket: The acquisition.
        queue: Whether to take a place in the queue if another holder has the lease.
        uncounted: Whether the caller hears its channel although the server does not count it as a listener.
    """
    keys = where.keys
    channel = ticket.channel if queue else ""
    if queue and uncounted:
        channel = f"?{channel}"
    return script_call(
        where,
        ACQUIRE,
        (keys.head, keys.log, keys.etags, keys.marks, keys.lease, keys.queue),
        (ticket.holder, str(ticket.ttl_ms), channel),
    )


def read_acquire(where: RunRef, reply: Any) -> Granted | Taken | None:
    """Return who has the lease; None: this acquisition was released before."""
    match reply:
        case [b"granted", fence]:
            # The usual form, read without two calls.
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
            raise UnsupportedVersionError(shown(found), FORMAT)
    raise where.corrupt(None, "the server answered with what no script of this version says")


def renew(where: RunRef, lease: LeaseToken, ttl_ms: int) -> Call:
    """Build the request that renews a lease."""
    keys = where.keys
    return script_call(
        where,
        RENEW,
        (keys.head, keys.log, keys.etags, keys.lease, keys.queue),
        (lease.holder, str(lease.fence), str(ttl_ms)),
    )


RELEASED: Final = "it was given up"
CLOSED: Final = "the backend was closed"
BROKEN: Final = "break_lease took it"
DELETED: Final = "the run was deleted"
LOOP_ENDED: Final = "its event loop has ended, or the backend was closed"


@dataclass(frozen=True, slots=True)
class Loss:
    """How a lease was lost.

    Attributes:
        current: The fence that is valid now; None: nobody was granted the run since, or it is not known.
        reason: The reason for the error's text; None: this process does not know it.
    """

    current: int | None
    reason: str | None = None


def read_loss(where: RunRef, lease: LeaseToken, reply: Any) -> Loss | None:
    """Read the reply to `renew` or `release`; None: it was done."""
    match reply:
        case [b"renewed"] | [b"released"]:
            return None
        case [b"lost", fence]:
            current = number_or_none(fence) or 0
            return Loss(current if current > lease.fence else None)
    raise where.corrupt(None, "the server answered with what no script of this version says")


def release(where: RunRef, holder: str, place: str = "", *, late: bool = False, force: bool = False) -> Call:
    """Build the request that ends a lease, or the wait for one, and serves the next waiter.

    Args:
        where: The run.
        holder: The holder of the lease; empty: only serve the next waiter.
        place: The holder's place in the queue; empty: it has none.
        late: Whether a copy of the holder's `acquire` may still arrive.
        force: Whether to fence the holder, because it does not know of the release.
    """
    keys = where.keys
    return script_call(
        where,
        RELEASE,
        (keys.head, keys.log, keys.etags, keys.marks, keys.lease, keys.queue),
        (holder, place, "1" if late else "0", "1" if force else "0"),
    )


@dataclass(frozen=True, slots=True)
class Occupancy:
    """The holder of a run's lease, and its waiters.

    Attributes:
        holder: The holder, or the last one; empty: there is none.
        waiting: The number of waiters.
    """

    holder: str
    waiting: int


def occupancy(where: RunRef) -> Call:
    """Build the read of a lease's holder and waiters."""
    keys = where.keys
    return read_call(
        where, "break_lease", ("HMGET", keys.lease, "holder"), ("HMGET", keys.head, "holder"), ("LLEN", keys.queue)
    )


@reply_reader
def read_occupancy(where: RunRef, reply: Any) -> Occupancy:
    """Read the reply to `occupancy`."""
    if any(isinstance(part, Exception) for part in reply):
        raise where.corrupt(None, "a key of the run holds what histstore did not put there")
    (holder,), (last,), waiting = reply
    return Occupancy(as_text(holder or last or b""), int(waiting))


def drop_queue(where: RunRef) -> Call:
    """Build the request that deletes a queue, of whatever type. Its waiters ask again when their time has come."""
    return Call("delete", [("DEL", where.keys.queue)], key=where.keys.queue, run=where.key)


@dataclass(frozen=True, slots=True)
class Ring:
    """A doorbell's message about a run's lease. It is advice: only the server's reply grants a lease.

    Attributes:
        key: The lease's key.
        expires_in: Seconds until the lease expires unless its holder does something.
        rank: Waiters before the first one of this process; before `holder`, if there is one.
        holder: The waiter that is called to ask; None: no waiter is called.
    """

    key: bytes
    expires_in: float
    rank: int
    holder: str | None


def read_ring(message: Any) -> Ring | None:
    """Read a message of a channel; None: it is not one of ours."""
    try:
        lasts, rank, holder, key = bytes(message).split(b" ", 3)
        whose = None if holder == b"-" else as_text(holder)
        return Ring(key, number(lasts, LONGEST * 1000 + 1) / 1000, number(rank), whose)
    except (TypeError, ValueError):
        return None


def run_of_ring(namespace: str, ring: Ring) -> RunRef | None:
    """Return the run that a doorbell's message is about; None: it is none of this namespace."""
    run_id = run_of_lease(namespace, ring.key)
    return None if run_id is None else RunRef(namespace, run_id, run_keys(namespace, run_id))
