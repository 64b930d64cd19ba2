"""Scenarios of `acquire.lua`: grants, fences, the queue, late copies."""

from __future__ import annotations

import redis

from histstore.protocol import leases
from histstore.protocol.leases import Ticket
from histstore.protocol.run import LeaseToken
from histstore.wire.faults import FAULTS, classify

from ...support.generations import expires_at
from ..sending import Reply, exchange
from ..world import MINUTE_MS, QUARTER_MS, World
from .expectations import digits, expect, expect_held_by, expect_lost, lease_ends, pttl
from .registry import own_server, scenario
from .situations import CLAIM_MS, FAR, NOBODY, fill_memory, wait_past


@scenario
def a_free_run_is_granted(world: World) -> None:
    """A free run is granted with an expiry and a fence by the clock, which the head knows at once."""
    for present in (False, True):
        if present:
            world.save(None, "a")
        before = world.now()
        reply = world.acquire(Ticket("me", MINUTE_MS, NOBODY))
        fence = int(world.head("fence") or 0)
        assert reply == ["granted", digits(fence)]
        assert before <= fence <= world.now()
        assert world.client.hgetall(world.keys.lease) == {
            b"holder": b"me", b"fence": digits(fence), b"since": digits(fence),
        }  # fmt: skip
        assert 0 < pttl(world) <= MINUTE_MS
        expect_held_by(world, "me")
        assert not world.client.exists(world.keys.queue, world.keys.marks)
        world.client.delete(*world.all_keys)  # within the same millisecond the next fence would be above the clock


@scenario
def a_newer_format_is_not_leased(world: World) -> None:
    """Nobody can wait for a run that this version cannot read: the answer names the format, and nothing is written."""
    world.save(None, "a")
    world.grant("me")
    world.client.hset(world.keys.head, "format", "2")
    for lapsed in (False, True):
        if lapsed:
            world.lapse()
        with world.watching(*world.all_keys) as written:
            expect(world.acquire(Ticket("other", MINUTE_MS, NOBODY)), "format", b"2")
            assert not written()


@scenario
def without_a_channel_a_taken_run_is_held(world: World) -> None:
    """Without a channel nobody is queued and nothing is written. The reply names the holder."""
    world.grant("me")
    with world.watching(*world.all_keys) as written:
        reply = world.acquire(Ticket("other", MINUTE_MS, NOBODY), queue=False)
        assert not written()
    assert reply[:2] == ["held", b"me"]
    assert [0 < left <= MINUTE_MS for left in reply[2:]] == [True]


@scenario
def a_waiter_learns_its_place(world: World) -> None:
    """Each waiter stands in the queue once, in order of arrival, however often its request arrives."""
    world.grant("me")
    tickets = [Ticket(name, 1000 + rank, f"channel-{name}") for rank, name in enumerate(("a", "b", "c"))]
    for _ in range(2):
        for rank, ticket in enumerate(tickets):
            word, holder, left, place = world.acquire(ticket)
            assert (word, holder, place) == ("queued", b"me", rank)
            assert 0 < left <= MINUTE_MS
            assert MINUTE_MS < pttl(world, world.keys.queue) <= 2 * MINUTE_MS
    assert world.waiting() == ["1000 channel-a a", "1001 channel-b b", "1002 channel-c c"]
    assert world.waiting() == [ticket.place for ticket in tickets]


@scenario
def a_resent_acquire_is_the_same_lease(world: World) -> None:
    """A copy of a granted request gets the same fence, and the full time from now."""
    lease = world.grant("me")
    world.client.pexpire(world.keys.lease, 10_000)
    assert world.grant("me") == lease
    assert 10_000 < pttl(world) <= MINUTE_MS
    assert world.grant("me") == expect_held_by(world, "me")


@scenario
def fences_rise(world: World) -> None:
    """Each fence is above the one before, however that lease ended or was forgotten, and the earlier lease has lost."""

    def by_release(lease: LeaseToken) -> None:
        expect(world.release(lease.holder), "released")

    def by_lapse(lease: LeaseToken) -> None:
        world.lapse()

    def by_delete(lease: LeaseToken) -> None:
        world.delete(world.save(None, "a", lease=lease), lease=lease)
        by_release(lease)

    def by_forced_delete(lease: LeaseToken) -> None:
        expect(world.send(world.deletion(None, force=True)), "absent")

    def by_breaking(lease: LeaseToken) -> None:
        expect(world.release(lease.holder, force=True), "released")

    def by_losing_all_keys(lease: LeaseToken) -> None:
        world.client.delete(*world.all_keys)
        wait_past(world, lease.fence)

    endings = (by_release, by_lapse, by_delete, by_forced_delete, by_breaking, by_losing_all_keys)
    for future in (False, True):
        for end in endings:
            if future and end is by_losing_all_keys:
                continue  # a fence that no clock reaches is gone for good
            if future:
                world.client.hset(world.keys.head, "fence", FAR)
            first = world.grant("first")
            assert first.fence == FAR + 1 or not future
            end(first)
            second = world.grant("second")
            assert first.fence < second.fence, f"{end.__name__}: {first.fence}, then {second.fence}"
            for lapsed in (False, True):
                if lapsed:
                    world.lapse()
                expect(world.send(world.plan(None, "late", lease=first)), "lost", digits(second.fence))
            world.client.delete(*world.all_keys)


@scenario
def two_grants_in_one_millisecond_differ_by_their_holder(world: World) -> None:
    """All keys are lost and the run is granted again at once. The first holder has lost, even with an equal fence."""
    calls = [leases.acquire(world.where, Ticket(name, MINUTE_MS, ""), queue=False) for name in ("first", "second")]
    first, second = (world.in_full(call) for call in calls)
    for _ in range(100):
        *_, replies = exchange(world.client, ("MULTI",), first, ("DEL", *world.all_keys), second, ("EXEC",))
        (_, one), _, (_, two) = replies
        assert int(one) <= int(two)
        if one == two:
            break  # else a millisecond ended between the two: it has to be one and the same
        world.client.delete(*world.all_keys)
    assert one == two
    lease, late = LeaseToken(int(two), "second"), LeaseToken(int(one), "first")
    assert expect_held_by(world, "second") == lease
    expect(world.send(world.plan(None, "late", lease=late)), "lost", two)
    expect(world.renew(late), "lost", two)
    world.lapse()
    expect(world.send(world.plan(None, "late", lease=late)), "lost", two)
    world.release("second")
    expect(world.send(world.plan(None, "late", lease=late)), "lost", two)
    expect(world.renew(late), "lost", two)


@own_server
def fences_rise_over_flushall(world: World) -> None:
    """Row 8: everything is gone, and the clock still fences the earlier holder."""
    first = world.grant("first")
    world.client.flushall()
    wait_past(world, first.fence)
    second = world.grant("second")
    assert first.fence < second.fence
    world.lapse()
    expect(world.send(world.plan(None, "late", lease=first)), "lost", digits(second.fence))


@scenario
def a_grant_fences_the_holder_before_at_once(world: World) -> None:
    """A grant fences the previous holder at once, not only with the new holder's first save, however it came about."""

    def asked(ticket: Ticket) -> None:
        world.lapse()
        expect(world.acquire(ticket), "granted")

    def handed_over(ticket: Ticket) -> None:
        world.lapse()
        expect(world.acquire(Ticket("third", MINUTE_MS, ""), queue=False), "held", b"next")

    def released(ticket: Ticket) -> None:
        expect(world.release("me"), "released")

    with world.process() as process:
        for way in (asked, handed_over, released):
            base = world.save(None, "a")
            lease = world.grant("me")
            way(world.queue("next", process.channel))
            new = expect_held_by(world, "next")
            for lapsed in (False, True):
                if lapsed:
                    world.lapse()
                expect_lost(world, base, lease, new.fence)
                expect(world.renew(lease), "lost", digits(new.fence))
            base = world.save(base, "b", lease=new)
            world.delete(base, lease=new)
            world.client.delete(*world.all_keys)


@scenario
def a_late_acquire_after_its_release_is_no_ghost(world: World) -> None:
    """Row 24: if a copy may still arrive, releasing and leaving leave a mark, for 15 minutes."""
    with world.process() as process:
        for leaves in (False, True):
            holder = world.grant("other" if leaves else "me")
            ticket = world.queue("me", process.channel) if leaves else Ticket("me", MINUTE_MS, process.channel)
            place = ticket.place if leaves else ""
            expect(world.release("me", place, late=True), "lost" if leaves else "released")
            assert 0 < pttl(world, world.keys.marks) <= QUARTER_MS
            for _ in range(2):
                for queues in (True, False):
                    world.client.hdel(world.keys.head, "left")  # many have left since; the mark outlasts that
                    assert world.acquire(ticket, queue=queues) == ["cancelled"]
                assert world.waiting() == []
                if leaves:
                    assert expect_held_by(world, "other") == holder
                    expect(world.release("other"), "released")
                leaves = False
                assert world.leased() is None
            world.grant("next")
            world.client.delete(*world.all_keys)


@scenario
def a_late_acquire_after_a_break_or_a_delete_is_no_ghost(world: World) -> None:
    """No copy of an acquire takes the run for a holder that was broken, or that left a run deleted since."""
    for way in ("break", "delete"):
        base = world.save(None, "a")
        ticket = Ticket(f"holder of the {way}", MINUTE_MS, "")
        expect(world.acquire(ticket, queue=False), "granted")
        if way == "break":
            expect(world.release(ticket.holder, force=True), "released")
        else:
            expect(world.release(ticket.holder), "released")
            world.delete(base)
        expect(world.acquire(ticket, queue=False), "cancelled")
        if way == "break":
            expect(world.release(ticket.holder), "lost")
        assert world.leased() is None
        world.client.delete(*world.all_keys)


@scenario
def a_place_is_the_same_whether_counted_or_not(world: World) -> None:
    """Copies sent before and after a waiter found out that it is not counted share one place, and leave it together."""
    with world.process() as process:
        for first in (False, True):
            world.grant("holder")
            world.queue("other", process.channel)
            ticket = Ticket("me", MINUTE_MS, process.channel)
            for uncounted in (first, not first, first):
                reply = world.acquire(ticket, uncounted=uncounted)
                assert (reply[0], reply[3]) == ("queued", 1)
            assert len(world.waiting()) == 2
            expect(world.release("me", ticket.place), "lost")
            assert [place.split()[-1] for place in world.waiting()] == ["other"]
            world.client.hdel(world.keys.head, "left")
            expect(world.acquire(ticket, uncounted=first), "queued")
            world.lapse()
            expect(world.release("other", Ticket("other", MINUTE_MS, process.channel).place), "lost")
            expect_held_by(world, "me", most=CLAIM_MS)
            world.lapse()
            expect(world.acquire(ticket, uncounted=not first), "granted")
            assert world.waiting() == []
            world.client.delete(*world.all_keys)


@scenario
def a_queue_ends_a_minute_after_the_lease(world: World) -> None:
    """The queue's expiry follows the lease: through queueing, renewal, hand-off and claim."""

    def ends() -> None:
        assert len(world.waiting()) > 0
        queue = expires_at(world.client, world.keys.queue)
        # A script reads what is left and sets that, while the server's clock may go on.
        assert abs(queue - lease_ends(world) - MINUTE_MS) < 5000, queue - lease_ends(world)

    with world.process() as process:
        lease = world.grant("holder", 2 * MINUTE_MS)
        tickets = [world.queue(name, process.channel) for name in ("a", "b")]
        ends()
        for ttl in (5 * MINUTE_MS, MINUTE_MS):
            world.renew(lease, ttl)
            ends()
        tickets.append(world.queue("c", process.channel))
        ends()
        world.release("holder")
        ends()
        expect(world.acquire(tickets[0]), "granted")
        ends()


@own_server
def full_memory_leaves_no_place_in_the_queue(world: World) -> None:
    """A request that would have to queue gets the error, and leaves nothing. It can queue when there is room."""
    try:
        world.grant("holder")
        for waiting in (False, True):
            if waiting:
                world.queue("a", NOBODY)
            places = world.waiting()
            call = leases.acquire(world.where, Ticket("b", MINUTE_MS, NOBODY), queue=True)
            fill_memory(world, True)
            reply: Reply | Exception = world.try_(call)
            fill_memory(world, False)
            # Redis 6.2 wraps the error of a script, so its class is no proof.
            assert isinstance(reply, redis.exceptions.ResponseError), reply
            assert classify(reply, sent=True).advice == FAULTS["OOM"].advice, reply
            assert world.waiting() == places
        expect(world.send(call), "queued", b"holder")
    finally:
        fill_memory(world, False)
