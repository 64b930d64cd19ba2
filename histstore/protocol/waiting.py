"""When a waiter asks the server for a lease: after the expiry that it knows, or when the doorbell calls it. No I/O."""

from __future__ import annotations

import math
from typing import Final

MARGIN: Final = 0.002
"""Seconds after a lease's expiry at which its waiters ask. The server counts in whole milliseconds."""

STAGGER: Final = 0.005
"""Seconds between the requests of two neighbours in the queue."""


class Schedule:
    """The times at which a waiter asks, by its own clock.

    Attributes:
        ask_at: When to ask if the doorbell does not ring before.
        called_at: When to ask because the doorbell called this waiter. Later messages do not postpone it.
    """

    # Defaults on the class: most waiters are granted the lease at once, and need no times.
    ask_at = math.inf
    called_at = math.inf

    @property
    def due(self) -> float:
        """When to ask."""
        return min(self.ask_at, self.called_at)

    def clear(self) -> bool:
        """Forget all messages so far, because they are older than the reply to come; return whether one called."""
        called = self.called_at < math.inf
        self.ask_at = self.called_at = math.inf
        return called

    def call(self, now: float, rank: int) -> None:
        """Ask after the `rank` waiters that were called before and did not count as listeners: they may be alive."""
        self.called_at = min(self.called_at, now + rank * STAGGER)

    def expect(self, now: float, expires_in: float, rank: int) -> None:
        """Take a reply's word for the expiry, unless a message since the request named an earlier time.

        The message may be newer than the reply: the lease was released, say, and granted to a waiter that does not
        claim it. If the message is older, the waiter asks once too often.
        """
        self.ask_at = min(self.ask_at, _after(now, expires_in, rank))

    def arm(self, now: float, expires_in: float, rank: int, *, wake: bool = True) -> bool:
        """Ask after the expiry that a message names, in the order of the queue.

        Args:
            now: The time.
            expires_in: Seconds until the lease expires.
            rank: Waiters that ask before this one.
            wake: Whether to ask earlier than planned too, for which the waiter has to be woken.

        Returns:
            Whether to wake the waiter, because it sleeps until a later time.
        """
        when = _after(now, expires_in, rank)
        sooner = when < self.ask_at
        if wake or not sooner:
            self.ask_at = when
        return wake and sooner


def _after(now: float, expires_in: float, rank: int) -> float:
    return now + expires_in + MARGIN + rank * STAGGER
