"""Scenarios of handing a run over, and of the doorbell: `include/granting.lua` and `include/lasting.lua`."""

from __future__ import annotations

from histstore.protocol.leases import Ticket
from histstore.protocol.run import LeaseToken

from ..world import MINUTE_MS, World
from .expectations import digits, expect, expect_free, expect_held_by, pttl
from .registry import scenario
from .situations import CLAIM_MS, FAR, NOBODY, queue_of


@scenario
def a_release_hands_the_run_to_the_first_waiter(world: World) -> None:
    """Waiters are served in order of arrival. Each has a claim first, and its full time once it claims."""
    with world.process() as process:
        world.grant("holder")
        tickets = [world.queue(name, process.channel) for name in ("a", "b", "c", "d")]
        last = "holder"
        for number, ticket in enumerate(tickets):
            expect(world.release(last), "released")
            lease = expect_held_by(world, ticket.holder, most=CLAIM_MS)
            assert world.waiting() == [later.place for later in tickets[number + 1 :]]
            for _ in range(2):
                expect(world.acquire(ticket), "granted", digits(lease.fence))
                if number % 2:
                    expect(world.renew(lease), "renewed")
            assert expect_held_by(world, ticket.holder) == lease
            assert pttl(world) > CLAIM_MS
            last = ticket.holder
        expect(world.release(last), "released")
        expect_free(world)


@scenario
def nobody_barges(world: World) -> None:
    """A newcomer that finds a lapsed lease serves the first waiter, and queues behind the last."""
    for queues in (True, False):
        with world.process() as process:
            world.grant("holder")
            for name in ("a", "b"):
                world.queue(name, process.channel)
            world.lapse()
            expect(world.acquire(Ticket("newcomer", MINUTE_MS, NOBODY), queue=queues), "queued" if queues else "held")
            expect_held_by(world, "a", most=CLAIM_MS)
            assert [place.split()[-1] for place in world.waiting()] == (["b", "newcomer"] if queues else ["b"])
            world.client.delete(*world.all_keys)


@scenario
def who_is_first_takes_a_lapsed_run_itself(world: World) -> None:
    """The first waiter whose time to ask has come is granted the run for its full time, without a call."""
    with world.process() as process:
        world.grant("holder")
        ticket, later = world.queue("a", process.channel), world.queue("b", process.channel)
        world.lapse()
        expect(world.acquire(ticket), "granted")
        expect_held_by(world, "a")
        assert pttl(world) > CLAIM_MS
        assert world.waiting() == [later.place]
        assert process.rings() == []


@scenario
def the_first_living_waiter_has_its_full_time(world: World) -> None:
    """A waiter that asks, and is the first that listens or the only one left, does not have to claim."""
    for listens, queues in ((True, True), (False, True), (False, False)):
        with world.process() as process:
            world.grant("holder")
            world.queue("dead", NOBODY)
            ticket = Ticket("me", MINUTE_MS, process.channel if listens else NOBODY)
            if queues:
                world.queue("me", ticket.channel)
            world.lapse()
            expect(world.acquire(ticket), "granted")
            expect_held_by(world, "me")
            assert pttl(world) > CLAIM_MS
            assert world.waiting() == []
            world.client.delete(*world.all_keys)


@scenario
def a_place_that_nobody_listens_to_is_dropped_at_once(world: World) -> None:
    """A waiter whose process is gone costs no time. If all are gone, the run is free."""
    with world.process() as process:
        for listener in (True, False):
            world.grant("holder")
            for name in ("dead", "dead too"):
                world.queue(name, NOBODY)
            if listener:
                world.queue("alive", process.channel)
            expect(world.release("holder"), "released")
            if listener:
                expect_held_by(world, "alive", most=CLAIM_MS)
                world.client.delete(*world.all_keys)
            else:
                expect_free(world)


@scenario
def whoever_asks_leaves_those_behind_it_in_their_places(world: World) -> None:
    """A free run goes to the waiters before the asker. Those behind it are not dropped, even if they seem gone."""
    with world.process() as process:
        for place in range(3):
            world.grant("holder")
            channels = [NOBODY] * 3
            channels[place] = process.channel
            tickets = [world.queue(name, channel) for name, channel in zip("abc", channels, strict=True)]
            world.lapse()
            expect(world.acquire(tickets[place]), "granted")
            assert world.waiting() == [ticket.place for ticket in tickets[place + 1 :]]
            assert not any(holder for _, _, holder in process.rings())
            world.client.delete(*world.all_keys)


@scenario
def an_uncounted_listener_keeps_its_place(world: World) -> None:
    """A waiter that listens at a replica marks its place; then the count of listeners does not matter.

    It has a claim like every waiter. If it is gone, that costs one claim.
    """
    with world.process() as process:
        for counted in (False, True):
            world.grant("holder")
            ticket = Ticket("deaf", MINUTE_MS, process.channel if counted else NOBODY)
            expect(world.acquire(ticket, uncounted=True), "queued")
            assert world.waiting() == [f"60000 ?{ticket.channel} deaf"]
            later = world.queue("later", process.channel)
            process.messages()
            expect(world.release("holder"), "released")
            expect_held_by(world, "deaf", most=CLAIM_MS)
            name = process.channel.rpartition(":")[2]
            assert process.rings() == [(name, 0, None), *([(name, 0, "deaf")] if counted else [])]
            assert world.waiting() == [later.place]
            expect(world.acquire(ticket, uncounted=True), "granted")
            expect_held_by(world, "deaf")
            assert pttl(world) > CLAIM_MS
            world.client.delete(*world.all_keys)


@scenario
def uncounted_listeners_are_called_one_after_the_other(world: World) -> None:
    """A waiter that nobody seems to hear learns how many were called before it, so that all come in order.

    A waiter that is counted, and so has the run, is called to come at once.
    """
    with queue_of(world, "a at -", "b at -", "c at x", "d at y") as (processes, _):
        world.release("holder")
        expect_held_by(world, "c", most=CLAIM_MS)
        calls = [(name, rank) for name, rank, holder in processes.rings() if holder == "c"]
        assert calls == [("x", 2), ("x", 0)]


@scenario
def a_waiter_that_does_not_claim_costs_its_claim(world: World) -> None:
    """A waiter that listens and does nothing has the run for a second, or for its own time if that is less."""
    for ttl, claim in ((MINUTE_MS, CLAIM_MS), (CLAIM_MS + 1, CLAIM_MS), (300, 300)):
        with world.process() as process:
            world.grant("holder")
            world.queue("asleep", process.channel, ttl=ttl)
            later = world.queue("awake", process.channel)
            world.release("holder")
            expect_held_by(world, "asleep", most=claim)
            assert [data.split()[0] for _, data in process.messages()] == [digits(claim)] * 2
            world.lapse()
            expect(world.acquire(later), "granted")
            expect_held_by(world, "awake")
            expect(world.release("awake"), "released")
            expect_free(world)
            world.client.delete(*world.all_keys)


@scenario
def a_waiter_that_came_too_late_to_claim_queues_again(world: World) -> None:
    """Its claim is over and another has the run: the waiter is queued again, at the end."""
    with world.process() as process:
        world.grant("holder")
        asleep, later = world.queue("asleep", process.channel), world.queue("awake", process.channel)
        world.release("holder")
        late = expect_held_by(world, "asleep", most=CLAIM_MS)
        world.lapse()
        expect(world.acquire(later), "granted")
        lease = expect_held_by(world, "awake")
        expect(world.renew(late), "lost", digits(lease.fence))
        expect(world.acquire(asleep), "queued", b"awake")
        assert expect_held_by(world, "awake") == lease


@scenario
def an_item_of_the_queue_that_is_none_is_passed_over(world: World) -> None:
    """A queue item that histstore did not write costs nobody the run."""
    with world.process() as process:
        world.grant("holder")
        world.client.rpush(world.keys.queue, b"x")
        ticket = world.queue("a", process.channel)
        world.client.rpush(world.keys.queue, b"", b"x y z")
        world.queue("b", process.channel)
        expect(world.release("holder"), "released")
        expect(world.acquire(ticket), "granted")
        expect(world.release("a"), "released")
        expect_held_by(world, "b", most=CLAIM_MS)


@scenario
def the_run_is_handed_over_though_publishing_is_forbidden(world: World) -> None:
    """Row 22: PUBLISH or the channels are forbidden. The first waiter gets the run, and asks in its time."""
    with world.limited() as without:
        for denied in ("PUBLISH", "channels"):
            world.grant("holder")
            ticket = world.queue("a", NOBODY)
            later = world.queue("b", NOBODY)
            expect(world.release("holder", by=without([denied])), "released")
            expect_held_by(world, "a", most=CLAIM_MS)
            expect(world.acquire(ticket, by=without([denied])), "granted")
            lease = expect_held_by(world, "a")
            expect(world.renew(lease, by=without([denied])), "renewed")
            world.lapse()
            expect(world.acquire(Ticket("c", MINUTE_MS, NOBODY), by=without([denied])), "queued", b"b")
            expect(world.acquire(later, by=without([denied])), "granted")
            world.client.delete(*world.all_keys)


@scenario
def a_hand_off_notifies_the_next_holder_and_its_neighbours(world: World) -> None:
    """Word by word. Two neighbours are notified before the next holder: the server writes in reverse order."""
    for fence in (9, FAR):
        with queue_of(world, "a at x", "b at x", "c at y", "d at x", "e at z") as (processes, _):
            world.client.hset(world.keys.head, "fence", fence)
            expect(world.release("holder"), "released")
            lease = expect_held_by(world, "a", most=CLAIM_MS)
            since = world.client.hget(world.keys.lease, "since")
            assert isinstance(since, bytes)
            assert lease.fence == max(fence + 1, int(since))
            x, y, _z = processes.channels
            key = world.keys.lease
            assert processes.messages() == [(x, b"1000 0 - " + key), (y, b"1000 1 - " + key), (x, b"1000 0 a " + key)]


@scenario
def a_claim_notifies_the_neighbours(world: World) -> None:
    """A claim notifies the same processes as the hand-off, and no others."""
    with queue_of(world, "a at w", "b at x", "c at x", "d at y", "e at z") as (processes, tickets):
        world.release("holder")
        expect_held_by(world, "a", most=CLAIM_MS)
        processes.messages()
        expect(world.acquire(tickets[0]), "granted")
        _, x, y, _ = processes.channels
        assert processes.messages() == [
            (channel, b"60000 %d - " % rank + world.keys.lease) for channel, rank in ((x, 0), (y, 2))
        ]


@scenario
def a_renewal_notifies_all_waiters(world: World) -> None:
    """Each process is notified once, with the rank of its first waiter."""
    with queue_of(world, "a at w", "b at x", "c at x", "d at y", "e at z") as (processes, _):
        expect(world.renew(LeaseToken(expect_held_by(world, "holder").fence, "holder"), 70_000), "renewed")
        assert processes.messages() == [
            (channel, b"70000 %d - " % rank + world.keys.lease)
            for channel, rank in zip(processes.channels, (0, 1, 3, 4), strict=True)
        ]


@scenario
def a_neighbour_that_nobody_listens_to_does_not_count(world: World) -> None:
    """Dead waiters do not keep those behind them from hearing how long the run is taken."""
    with queue_of(world, "a at w", "b at -", "c at x", "d at -", "e at y", "f at z") as (processes, _):
        world.release("holder")
        assert processes.rings() == [("x", 1, None), ("y", 3, None), ("w", 0, "a")]


@scenario
def neighbours_are_looked_for_nearby(world: World) -> None:
    """A hand-off does not read a long queue, and even a renewal does not read an endless one."""

    def dead(count: int) -> list[str]:
        return [f"60000 {NOBODY} dead-{number}" for number in range(count)]

    for row, renews in ((16, False), (1024, True)):
        for count, notified in ((row - 1, True), (row, False)):
            with queue_of(world, "a at x") as (processes, _):
                world.client.rpush(world.keys.queue, *dead(count), f"60000 {processes.channel} b")
                if renews:
                    world.client.lpop(world.keys.queue)
                    world.renew(LeaseToken(expect_held_by(world, "holder").fence, "holder"))
                else:
                    world.release("holder")
                ranks = [rank for _, rank, holder in processes.rings() if holder is None]
                assert ranks == ([row - 1] if notified else []), f"{count} before it, renews={renews}: {ranks}"
