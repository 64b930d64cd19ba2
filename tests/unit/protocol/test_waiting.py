"""When a waiter asks for a lease, by what replies and messages say."""

from __future__ import annotations

import math

from histstore.protocol.waiting import MARGIN, STAGGER, Schedule


def test_waiters_ask_after_the_expiry_in_the_order_of_the_queue() -> None:
    """Each a little later than the one before it."""
    first, third = Schedule(), Schedule()
    first.expect(100.0, 5.0, 0)
    third.expect(100.0, 5.0, 2)
    assert first.due == 105.0 + MARGIN
    assert third.due == 105.0 + MARGIN + 2 * STAGGER


def test_a_reply_does_not_put_off_an_earlier_message() -> None:
    """The message may be newer: the lease was released, and granted to a waiter that does not claim it."""
    schedule = Schedule()
    assert schedule.arm(100.0, 1.0, 0)
    schedule.expect(100.0, 30.0, 0)
    assert schedule.due == 101.0 + MARGIN
    schedule.expect(100.0, 0.5, 0)
    assert schedule.due == 100.5 + MARGIN


def test_a_message_moves_the_time() -> None:
    """Later in silence; sooner by waking the waiter, or not at all where it is too far behind to be woken."""
    schedule = Schedule()
    schedule.expect(100.0, 10.0, 0)
    assert not schedule.arm(100.0, 20.0, 0)
    assert schedule.due == 120.0 + MARGIN
    assert not schedule.arm(100.0, 5.0, 0, wake=False)
    assert schedule.due == 120.0 + MARGIN
    assert schedule.arm(100.0, 5.0, 0)
    assert schedule.due == 105.0 + MARGIN
    assert not schedule.arm(100.0, 30.0, 0, wake=False)
    assert schedule.due == 130.0 + MARGIN


def test_nothing_puts_off_a_call() -> None:
    """A called waiter asks after those that were called before it; an earlier call counts, a later expiry does not."""
    schedule = Schedule()
    schedule.call(100.0, 2)
    schedule.call(100.0, 4)
    schedule.arm(100.0, 30.0, 0)
    assert schedule.due == 100.0 + 2 * STAGGER
    schedule.call(100.0, 0)
    assert schedule.due == 100.0


def test_a_request_forgets_all_messages_before_it() -> None:
    """And knows whether one of them called the waiter."""
    schedule = Schedule()
    schedule.arm(100.0, 5.0, 0)
    assert not schedule.clear()
    assert schedule.due == math.inf
    schedule.call(100.0, 0)
    assert schedule.clear()
    assert schedule.due == math.inf
