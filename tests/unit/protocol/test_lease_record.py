"""A held lease's record, and an acquisition's: when a lease is renewed, when it is over, what its release names."""

from __future__ import annotations

import pytest

from histstore.errors import LeaseLostError
from histstore.protocol.keys import run_keys
from histstore.protocol.lease_record import Acquisition, LeaseRecord
from histstore.protocol.leases import Loss, Ticket, release
from histstore.protocol.run import LeaseToken, RunRef
from histstore.revision import RunId

WHERE = RunRef("test", RunId("run"), run_keys("test", RunId("run")))


def record(ttl: float = 30.0, renews: bool = True, until: float = 130.0) -> LeaseRecord:
    return LeaseRecord(WHERE, LeaseToken(7, "me"), ttl, renews, until)


def test_a_lease_is_renewed_after_a_third_of_its_time() -> None:
    """A little earlier, if the request is made for another lease anyway; each renewal counts from when it was sent."""
    lease = record()
    assert lease.renew_at == 110.0
    assert not lease.due(106.9)
    assert lease.due(107.0)
    lease.extend(108.0)
    assert (lease.until, lease.renew_at) == (138.0, 118.0)


def test_a_late_reply_does_not_shorten_a_lease() -> None:
    """Two renewals may be answered out of order."""
    lease = record(until=140.0)
    lease.extend(105.0)
    assert lease.until == 140.0


def test_a_lease_that_is_not_renewed_expires_at_its_end() -> None:
    """It is looked at once, when its time is over."""
    lease = record(renews=False)
    assert lease.renew_at == 130.0
    assert not lease.due(130.0)
    assert not lease.expired(129.9)
    assert lease.expired(130.0)
    lease.extend(120.0)  # by hand
    assert lease.renew_at == lease.until == 150.0


def test_a_process_that_stood_still_has_a_last_renewal() -> None:
    """A lease is over when its time is and a renewal has failed."""
    lease = record()
    assert not lease.expired(500.0)
    assert lease.due(500.0)
    lease.miss(500.0)
    assert lease.expired(500.0)


def test_failed_renewals_come_closer_together() -> None:
    """A twelfth of the time first, then a third of what is left, never less than 10 ms, and the last at the end."""
    lease, now, pauses = record(), 110.0, []
    while now < lease.until:
        lease.miss(now)
        pauses.append(lease.renew_at - now)
        now = lease.renew_at
    assert pauses[0] == 2.5
    assert pauses == sorted(pauses, reverse=True)
    assert min(pauses[:-1]) >= 0.0099
    assert now == lease.until
    lease.extend(now)
    assert not lease.missed


def test_a_lease_that_is_over_says_why() -> None:
    """Lost: with the reason; released: that it was given up. Nothing is left of its time then."""
    lease = record()
    lease.refuse_if_over()
    assert lease.remaining(120.0) == 10.0
    assert lease.remaining(131.0) == 0.0
    lease.released = True
    assert not lease.active
    assert lease.remaining(120.0) == 0.0
    with pytest.raises(LeaseLostError, match="it was given up"):
        lease.refuse_if_over()
    lease = record()
    lease.loss = Loss(9, "break_lease took it")
    assert lease.remaining(120.0) == 0.0
    with pytest.raises(LeaseLostError, match="break_lease took it") as caught:
        lease.refuse_if_over()
    assert (caught.value.fence, caught.value.current, caught.value.run_id) == (7, 9, "run")


@pytest.mark.parametrize(
    ("before", "reply", "after"),
    [
        (None, Loss(9), Loss(9)),
        (Loss(None, "it was broken"), Loss(9), Loss(9, "it was broken")),
        (Loss(8, "it was broken"), Loss(9), Loss(8, "it was broken")),
    ],
    ids=["first", "reason known", "fence known"],
)
def test_the_reply_to_a_release_adds_to_what_is_known(before: Loss | None, reply: Loss, after: Loss) -> None:
    """The first reason and the first fence stand."""
    lease = record()
    lease.loss = before
    lease.add_loss(reply)
    assert lease.loss == after


def test_a_release_names_what_a_copy_could_leave_behind() -> None:
    """The place in the queue, and that a copy of `acquire` may still arrive."""
    lease = record()
    assert lease.release().batch == release(WHERE, "me").batch
    lease.ambiguous, lease.place = True, "30000 channel me"
    assert lease.release().batch == release(WHERE, "me", "30000 channel me", late=True).batch


def test_an_acquisition_names_its_place_only_if_it_asked_for_one() -> None:
    """A release that named a place would search the queue in vain."""
    ticket = Ticket("me", 30_000, "channel")
    acquisition = Acquisition(WHERE, ticket)
    assert acquisition.release(ambiguous=False).batch == release(WHERE, "me").batch
    acquisition.queued = True
    assert acquisition.release(ambiguous=True).batch == release(WHERE, "me", ticket.place, late=True).batch
