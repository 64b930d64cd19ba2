"""Scenarios of `release.lua`: releasing, leaving the queue, breaking a lease."""

from __future__ import annotations

from histstore.protocol import leases
from histstore.protocol.call import Call
from histstore.protocol.leases import Ticket
from histstore.protocol.run import LeaseToken

from ..world import MINUTE_MS, QUARTER_MS, World
from .expectations import digits, expect, expect_free, expect_held_by, expect_lost, expect_unchanged, lease_ends, pttl
from .registry import scenario
from .situations import CLAIM_MS, FAR, NOBODY, wait_past


@scenario
def what_has_no_late_copy_leaves_no_mark(world: World) -> None:
    """A release that follows an answer leaves no mark."""
    world.grant("me")
    ticket = world.queue("other", NOBODY)
    expect(world.release("other", ticket.place), "lost")
    expect(world.release("me"), "released")
    assert not world.client.exists(world.keys.marks)


@scenario
def a_late_renewal_or_save_after_the_release_has_lost(world: World) -> None:
    """Row 24: the lease was released. A late renewal or save makes no ghost lease and saves nothing."""
    base = world.save(None, "a")
    lease = world.grant("me")
    for lapsed in (False, True):
        if lapsed:
            lease = world.grant("me")
            world.lapse()
        expect(world.release("me"), "released")
        expect(world.renew(lease), "lost", digits(lease.fence))
        assert world.leased() is None
        expect_lost(world, base, lease, lease.fence)
        world.client.hdel(world.keys.head, "left")
    world.save(base, "b")


@scenario
def late_copies_do_nothing_to_the_successor(world: World) -> None:
    """Row 14: late copies of a release, renewal or acquire neither free, shorten nor prolong a successor's lease.

    That holds even after so many have left that the head has forgotten the holder. Until then, the reply is the truth.
    """
    with world.process() as process:
        for handed, remembered in ((False, False), (True, False), (False, True)):
            lease = world.grant("me")
            ticket = Ticket("me", 3 * MINUTE_MS, "")
            if handed:
                world.queue("next", process.channel)
            expect(world.release("me"), "released")
            new = expect_held_by(world, "next", most=CLAIM_MS) if handed else world.grant("next")
            world.renew(new, 2 * MINUTE_MS)
            ends = lease_ends(world)

            def again(call: Call, word: str, truth: str = "lost", remembered: bool = remembered) -> None:
                if not remembered:
                    world.client.hdel(world.keys.head, "left")
                expect(world.send(call), truth if remembered else word)

            for _ in range(2):
                again(leases.release(world.where, "me"), "lost", "released")
                again(leases.release(world.where, "me", ticket.place, late=False, force=True), "lost")
                again(leases.renew(world.where, lease, 3 * MINUTE_MS), "lost")
                again(leases.renew(world.where, LeaseToken(lease.fence, "next"), 3 * MINUTE_MS), "lost")
                again(leases.renew(world.where, LeaseToken(new.fence, "me"), 3 * MINUTE_MS), "lost")
                again(leases.acquire(world.where, ticket, queue=True), "held", "cancelled")
                again(leases.release(world.where, "me", late=True), "lost", "released")
                assert expect_held_by(world, "next", most=2 * MINUTE_MS) == new
                assert lease_ends(world) == ends
                world.client.delete(world.keys.marks)
            world.client.delete(*world.all_keys)


@scenario
def who_has_left_is_remembered_by_the_head(world: World) -> None:
    """The head remembers the last six that released, lost a lease or left the queue, in one small field.

    A proxy may deliver an answered request again, for which no mark was left. A copy of an acquire takes nothing. A
    copy of a release gets the same reply again, and writes nothing.
    """
    with world.process() as process:
        for present in (False, True):
            if present:
                world.save(None, "a")
            first = world.grant("host:1:first-of-all")
            waiter = world.queue("host:1:waits-and-leaves", process.channel)
            expect(world.release(waiter.holder, waiter.place), "lost", digits(first.fence))
            expect(world.release(first.holder), "released")
            assert world.head("left") == b"!d-leaves +t-of-all "
            wait_past(world, first.fence)
            lapsed = world.grant("host:1:has-lost-it")
            world.lapse()
            held = world.grant("host:1:another-one")
            expect(world.release(lapsed.holder), "lost", digits(held.fence))
            expect(world.release(held.holder), "released")
            assert world.head("left") == b"!d-leaves +t-of-all !-lost-it +ther-one "
            for taken in (False, True):
                if taken:
                    holder = world.grant("host:1:has-it-now")
                before = world.dump()
                for each in (waiter.holder, first.holder, lapsed.holder, held.holder):
                    for queue in (True, False):
                        ticket = Ticket(each, MINUTE_MS, process.channel)
                        assert world.acquire(ticket, queue=queue) == ["cancelled"]
                    word = "released" if each in (first.holder, held.holder) else "lost"
                    expect(world.release(each), word)
                    expect(world.release(each, force=True), "lost")
                expect_unchanged(world, before)
                assert world.waiting() == []
                assert world.leased() == (holder if taken else None)
            expect(world.release(holder.holder), "released")
            for number in range(6):
                assert world.head("left") is not None
                expect(world.acquire(Ticket(held.holder, MINUTE_MS, "")), "cancelled") if number < 5 else None
                world.release(world.grant(f"host:1:number-{number}").holder)
            left = world.head("left") or b""
            assert len(left) == 60
            assert left.endswith(b"+number-5 ")
            world.grant(held.holder)
            world.client.delete(*world.all_keys)


@scenario
def who_left_an_unknown_run_leaves_no_head(world: World) -> None:
    """A head made only for that would have no expiry."""
    for name in ("me", ""):
        assert world.release(name) == ["lost", b"0"]
    assert not world.client.exists(*world.all_keys)


@scenario
def a_broken_holder_has_not_released(world: World) -> None:
    """A broken holder's own release, which comes later, is answered lost, however often it comes."""
    world.grant("me")
    expect(world.release("me", force=True), "released")
    assert world.head("left") == b"!me "
    for _ in range(2):
        expect(world.release("me"), "lost")
    assert world.head("left") == b"!me "
    expect(world.acquire(Ticket("me", MINUTE_MS, "")), "cancelled")


@scenario
def a_release_that_comes_twice_is_done_once(world: World) -> None:
    """The copy gets the same reply and changes nothing. A release by an unknown holder is answered lost."""
    world.save(None, "a")
    world.grant("me")
    expect(world.release("me"), "released")
    before = world.dump()
    assert world.release("me") == ["released"]
    expect_unchanged(world, before)
    world.client.delete(*world.all_keys)
    assert world.release("me") == ["lost", b"0"]
    assert not world.client.exists(*world.all_keys)


@scenario
def who_leaves_the_queue_is_handed_nothing(world: World) -> None:
    """A waiter that gives up leaves the queue. One that was handed the run meanwhile hands it on."""
    with world.process() as process:
        lease = world.grant("holder")
        tickets = [world.queue(name, process.channel) for name in ("a", "b", "c")]
        expect(world.release("b", tickets[1].place), "lost", digits(lease.fence))
        assert expect_held_by(world, "holder") == lease
        assert world.waiting() == [tickets[0].place, tickets[2].place]
        world.release("holder")
        expect_held_by(world, "a", most=CLAIM_MS)
        expect(world.release("a", tickets[0].place), "released")
        expect_held_by(world, "c", most=CLAIM_MS)


@scenario
def a_place_that_a_late_acquire_took_is_given_up_with_the_lease(world: World) -> None:
    """The holder was granted the run before, and does not know that it stands in the queue now."""
    with world.process() as process:
        mine = Ticket("me", MINUTE_MS, process.channel)
        expect(world.acquire(mine), "granted")
        world.lapse()
        lease = world.grant("next")
        expect(world.acquire(mine), "queued")
        other = world.queue("other", process.channel)
        expect(world.release("me", mine.place, late=True), "lost", digits(lease.fence))
        assert world.waiting() == [other.place]
        assert expect_held_by(world, "next") == lease
        world.release("next")
        expect_held_by(world, "other", most=CLAIM_MS)


@scenario
def who_leaves_the_queue_of_a_free_run_serves_the_next(world: World) -> None:
    """The lease has lapsed unnoticed. A leaving waiter, or a release by nobody, serves the next without its timer."""
    with world.process() as process:
        for leaves in ("a", ""):
            lease = world.grant("holder")
            tickets = [world.queue(name, process.channel) for name in ("a", "b")]
            world.lapse()
            expect(world.release(leaves, tickets[0].place), "lost", digits(lease.fence))
            expect_held_by(world, "b", most=CLAIM_MS)
            assert world.head("left") == (b"!a " if leaves else None)
            world.client.delete(*world.all_keys)


@scenario
def breaking_a_lease_fences_its_holder(world: World) -> None:
    """A live lease, or a lapsed one that the head still names: its holder has lost, and the run is free."""
    for lapsed in (False, True):
        for present in (False, True):
            base = world.save(None, "a") if present else None
            lease = world.grant("me")
            if lapsed:
                world.lapse()
            expect(world.release("me", force=True), "released")
            expect_free(world)
            assert int(world.head("fence") or 0) > lease.fence
            assert world.head("holder") == b""
            for ask in (world.send(world.plan(base, "late", lease=lease)), world.renew(lease), world.release("me")):
                expect(ask, "lost")
            if base is not None:
                expect_lost(world, base, lease, int(world.head("fence") or 0))
            assert world.grant("next").fence > int(lease.fence) + 1
            world.client.delete(*world.all_keys)


@scenario
def breaking_raises_the_fence_above_all(world: World) -> None:
    """The new fence is above the clock, the head's fence and the lease's, whichever is highest."""
    base = world.save(None, "a")
    lease = world.plant("me", 9)
    before = world.now()
    expect(world.release("me", force=True), "released")
    assert before <= int(world.head("fence") or 0) <= world.now()
    expect_lost(world, base, lease, int(world.head("fence") or 0))
    for in_head, in_lease in ((FAR, 9), (9, FAR), (FAR, FAR)):
        world.plant("me", in_head)
        world.plant("me", in_lease, remember=False)
        expect(world.release("me", force=True), "released")
        assert world.head("fence") == digits(FAR + 1), (in_head, in_lease)
        world.client.hset(world.keys.head, "fence", 9)


@scenario
def breaking_hands_the_run_over_and_its_copy_does_not_break_again(world: World) -> None:
    """A break names a holder, so a late copy does not break the next holder's lease."""
    with world.process() as process:
        lease = world.grant("me")
        ticket = world.queue("next", process.channel)
        expect(world.release("me", force=True), "released")
        new = expect_held_by(world, "next", most=CLAIM_MS)
        assert new.fence > lease.fence + 1
        expect(world.acquire(ticket), "granted")
        ends = lease_ends(world)
        expect(world.release("me", force=True), "lost", digits(new.fence))
        assert expect_held_by(world, "next") == new
        assert lease_ends(world) == ends


@scenario
def breaking_nobodys_lease_fences_nobody(world: World) -> None:
    """An empty holder is nobody: neither of a released run nor of one that was never held."""
    with world.process() as process:
        lease = world.grant("me")
        world.release("me")
        before = world.dump()
        assert world.release("", force=True) == ["lost", digits(lease.fence)]
        expect_unchanged(world, before)
        world.grant("another")
        world.queue("next", process.channel)
        world.lapse()
        world.client.hset(world.keys.head, "holder", "")
        expect(world.release("", force=True), "lost")
        expect_held_by(world, "next", most=CLAIM_MS)
        world.client.delete(*world.all_keys)
        assert world.release("", force=True) == ["lost", b"0"]
        assert not world.client.exists(*world.all_keys)


@scenario
def breaking_the_lease_of_an_absent_run_leaves_a_fence_that_expires(world: World) -> None:
    """The fence expires even if the lease was all that was left."""
    for forgotten in (False, True):
        lease = world.grant("me")
        if forgotten:
            world.client.delete(world.keys.head)
        expect(world.release("me", force=True), "released")
        assert int(world.head("fence") or 0) > lease.fence
        assert 0 < pttl(world, world.keys.head) <= QUARTER_MS
        world.client.delete(*world.all_keys)


@scenario
def nothing_of_a_lease_is_left_after_it(world: World) -> None:
    """Invariant 7: no lease, no queue and no mark are left; of an absent run only a fence, for a while."""
    others = set(world.client.keys(f"{world.namespace}:*"))  # of scenarios that one test has run before
    with world.process() as process:
        for present in (False, True):
            if present:
                world.save(None, "a")
            world.grant("holder")
            tickets = [world.queue(name, process.channel) for name in ("a", "b")]
            world.queue("dead", NOBODY)
            world.release("b", tickets[1].place)
            world.release("holder")
            expect(world.acquire(tickets[0]), "granted")
            expect(world.release("a"), "released")
            world.client.hdel(world.keys.head, "left")  # the same names once more
            keys = world.data_keys if present else (world.keys.head,)
            found = set(world.client.keys(f"{world.namespace}:*")) - others
            assert found == set(keys), found
            assert (pttl(world, world.keys.head) == -1) == present
