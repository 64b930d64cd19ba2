"""State of one acquisition and of one held lease. No I/O: the shells send the requests that these build."""

from __future__ import annotations

from dataclasses import dataclass, field

from ..errors import LeaseLostError
from .call import Call
from .leases import RELEASED, Loss, Ticket, release, renew
from .run import LeaseToken, RunRef


@dataclass(slots=True, eq=False)
class Acquisition:
    """One attempt to acquire a lease, over all copies of its requests.

    Attributes:
        where: The run.
        ticket: The name of this acquisition.
        known: Whether the server may know of it: as a lease, a place in the queue, or a request under way.
        ambiguous: Whether a copy of a request may still arrive after the acquisition was abandoned.
        queued: Whether it asked for a place in the queue.
        called: Whether the doorbell has called it.
        began: When the last request was sent.
        until: When the lease expires, once it is granted.
    """

    where: RunRef
    ticket: Ticket
    known: bool = field(default=False, init=False)
    ambiguous: bool = field(default=False, init=False)
    queued: bool = field(default=False, init=False)
    called: bool = field(default=False, init=False)
    began: float = field(default=0.0, init=False)
    until: float = field(default=0.0, init=False)

    @property
    def place(self) -> str:
        """Return its place in the queue, as `release` names it; empty: it asked for none."""
        return self.ticket.place if self.queued else ""

    def release(self, *, ambiguous: bool) -> Call:
        """Build the request that removes all traces of it from the server."""
        return release(self.where, self.ticket.holder, self.place, late=ambiguous)


@dataclass(slots=True, eq=False)
class LeaseRecord:
    """What this process knows about a lease that it was granted. Times are in seconds, by the holder's clock.

    Attributes:
        where: The run.
        token: The fence and the holder, which every request about the lease carries.
        ttl: Seconds that the lease lives after each renewal.
        renews: Whether it is renewed in the background.
        until: When it expires, counted from when its last request was sent.
        renew_at: When to renew it; its expiry, if it is not renewed.
        renewing: Whether a renewal is under way.
        missed: Whether the last renewal failed.
        ambiguous: Whether a copy of its `acquire` may still arrive.
        place: Its place in the queue, which such a copy may take; empty: it asked for none.
        loss: How it was lost, for good; None: it was not lost, as far as is known.
        released: Whether its holder has released it, or has begun to.
    """

    where: RunRef
    token: LeaseToken
    ttl: float
    renews: bool
    until: float
    renew_at: float = field(init=False)
    renewing: bool = field(default=False, init=False)
    missed: bool = field(default=False, init=False)
    ambiguous: bool = field(default=False, init=False)
    place: str = field(default="", init=False)
    loss: Loss | None = field(default=None, init=False)
    released: bool = field(default=False, init=False)

    def __post_init__(self) -> None:
        self.renew_at = self.until - self.ttl * 2 / 3 if self.renews else self.until

    @property
    def active(self) -> bool:
        """Whether it is neither lost nor released, as far as is known."""
        return self.loss is None and not self.released

    def remaining(self, now: float) -> float:
        """Return the seconds for which it is surely held without a renewal."""
        if self.loss is not None or self.released:
            return 0.0
        return max(0.0, self.until - now)

    def refuse_if_over(self) -> None:
        """Raise LeaseLostError if it is lost or released, so that the server need not be asked."""
        if self.loss is not None or self.released:
            raise self.error()

    def error(self) -> LeaseLostError:
        """Return the error for a use of the lease after its end."""
        loss = self.loss or Loss(None, RELEASED)
        return LeaseLostError(self.token.fence, loss.current, loss.reason, run_id=self.where.run_id)

    def add_loss(self, loss: Loss) -> None:
        """Record what the reply to its release says about its loss. The first reason stands."""
        first = self.loss or loss
        self.loss = Loss(first.current or loss.current, first.reason)

    # ------------------------------------------------------------------------------------ renewing

    def due(self, now: float) -> bool:
        """Return whether to renew it now. A lease that is nearly due shares the request of those that are."""
        return self.renews and self.renew_at <= now + self.ttl / 10

    def expired(self, now: float) -> bool:
        """Return whether its time is over and no renewal is left to try.

        A lease may expire only because this process stood still: it gets one last renewal.
        """
        return self.until <= now and (self.missed or not self.renews)

    def extend(self, began: float) -> None:
        """Record that a renewal succeeded which was sent at `began`."""
        self.missed = False
        self.until = max(self.until, began + self.ttl)
        self.renew_at = began + self.ttl / 3 if self.renews else self.until

    def miss(self, now: float) -> None:
        """Record that a renewal failed. The less time is left, the sooner the next try, the last one at the expiry."""
        self.missed = True
        self.renew_at = min(now + max(0.01, min(self.ttl / 12, (self.until - now) / 3)), self.until)

    def renewal(self) -> Call:
        """Build the request that renews it."""
        return renew(self.where, self.token, round(self.ttl * 1000))

    def release(self) -> Call:
        """Build the request that releases it."""
        return release(self.where, self.token.holder, self.place, late=self.ambiguous)
