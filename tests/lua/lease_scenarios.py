"""What must hold of leases, one small story each. Registered beside those of `scenarios.py`, and told alike."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Final

import redis

from histstore.log.chain import Base
from histstore.protocol import leases as _leasing
from histstore.protocol.leases import Ticket
from histstore.protocol.requests import Call, Carried

from .scenarios import SCENARIOS, _full, _has_lost, _untouched, expect, own_server, scenario
from .world import MINUTE_MS, QUARTER_MS, Process, Reply, World, commands, exchange

__all__ = ["SCENARIOS"]

CLAIM_MS: Final = 1000
NOBODY: Final = "nobody-listens-here"
FAR: Final = 4_000_000_000_000_001  # a fence that no clock reaches, and that no double rounds


def _digits(number: int) -> bytes:
    return str(number).encode()


def _pttl(world: World, key: bytes | None = None) -> int:
    return int(world.client.pttl(key or world.keys.lease))


def _held_by(world: World, holder: str, most: int = MINUTE_MS) -> Carried:
    """Holds that the lease is `holder`'s, for at most `most` ms from now, and that the head knows."""
    lease = world.leased()
    assert lease is not None, f"the run is free, not {holder}'s"
    assert lease.holder == holder, f"{lease.holder} has it, not {holder}"
    assert _pttl(world) <= most, f"{holder} has it for {_pttl(world)} ms"
    assert (world.head("fence"), world.head("holder")) == (_digits(lease.fence), holder.encode())
    return lease


def _free(world: World) -> None:
    """Holds that nobody has the run, nobody waits for it, and the keys for that are gone."""
    assert not world.client.exists(world.keys.lease, world.keys.queue)


def _lease_ends(world: World) -> int:
    return int(world.client.pexpiretime(world.keys.lease))


# ---------------------------------------------------------------------------------------- acquire


@scenario
def a_free_run_is_granted(world: World) -> None:
    """Who finds it free gets a lease with an end, and a fence by the clock, which the head knows at once."""
    for present in (False, True):
        if present:
            world.save(None, "a")
        before = world.now()
        reply = world.acquire(Ticket("me", MINUTE_MS, NOBODY))
        fence = int(world.head("fence") or 0)
        assert reply == ["granted", _digits(fence)]
        assert before <= fence <= world.now()
        assert world.client.hgetall(world.keys.lease) == {
            b"holder": b"me", b"fence": _digits(fence), b"since": _digits(fence),
        }  # fmt: skip
        assert 0 < _pttl(world) <= MINUTE_MS
        _held_by(world, "me")
        assert not world.client.exists(world.keys.queue, world.keys.marks)
        world.client.delete(*world.all_keys)  # within the same millisecond the next fence would be above the clock


@scenario
def a_newer_format_is_not_leased(world: World) -> None:
    """Who would wait for a run that this version cannot read is told so, and nothing is written."""
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
def who_does_not_queue_is_told_who_holds_it(world: World) -> None:
    """Without a channel nobody is put into the queue, and nothing is written."""
    world.grant("me")
    with world.watching(*world.all_keys) as written:
        reply = world.acquire(Ticket("other", MINUTE_MS, NOBODY), queue=False)
        assert not written()
    assert reply[:2] == ["held", b"me"]
    assert [0 < left <= MINUTE_MS for left in reply[2:]] == [True]


@scenario
def who_queues_is_told_its_place(world: World) -> None:
    """Each waiter stands in the queue once, in order of arrival, however often its request arrives."""
    world.grant("me")
    tickets = [Ticket(name, 1000 + rank, f"channel-{name}") for rank, name in enumerate(("a", "b", "c"))]
    for _ in range(2):
        for rank, ticket in enumerate(tickets):
            word, holder, left, place = world.acquire(ticket)
            assert (word, holder, place) == ("queued", b"me", rank)
            assert 0 < left <= MINUTE_MS
            assert MINUTE_MS < _pttl(world, world.keys.queue) <= 2 * MINUTE_MS
    assert world.waiting() == ["1000 channel-a a", "1001 channel-b b", "1002 channel-c c"]
    assert world.waiting() == [ticket.place for ticket in tickets]


@scenario
def a_resent_acquire_is_the_same_lease(world: World) -> None:
    """A copy of what was granted gets the same fence, and the full time from now."""
    lease = world.grant("me")
    world.client.pexpire(world.keys.lease, 10_000)
    assert world.grant("me") == lease
    assert 10_000 < _pttl(world) <= MINUTE_MS
    assert world.grant("me") == _held_by(world, "me")


# --------------------------------------------------------------------------------------- hand-off


@scenario
def a_release_hands_the_run_to_the_first_waiter(world: World) -> None:
    """In the order of arrival; each has a claim first, and its full time when it claims."""
    with world.process() as process:
        world.grant("holder")
        tickets = [world.queue(name, process.channel) for name in ("a", "b", "c", "d")]
        last = "holder"
        for number, ticket in enumerate(tickets):
            expect(world.release(last), "released")
            lease = _held_by(world, ticket.holder, most=CLAIM_MS)
            assert world.waiting() == [later.place for later in tickets[number + 1 :]]
            for _ in range(2):
                expect(world.acquire(ticket), "granted", _digits(lease.fence))
                if number % 2:
                    expect(world.renew(lease), "renewed")
            assert _held_by(world, ticket.holder) == lease
            assert _pttl(world) > CLAIM_MS
            last = ticket.holder
        expect(world.release(last), "released")
        _free(world)


@scenario
def nobody_barges(world: World) -> None:
    """Whoever finds a lapsed lease serves the first in the queue, and takes the place behind the last."""
    for queues in (True, False):
        with world.process() as process:
            world.grant("holder")
            for name in ("a", "b"):
                world.queue(name, process.channel)
            world.lapse()
            expect(world.acquire(Ticket("newcomer", MINUTE_MS, NOBODY), queue=queues), "queued" if queues else "held")
            _held_by(world, "a", most=CLAIM_MS)
            assert [place.split()[-1] for place in world.waiting()] == (["b", "newcomer"] if queues else ["b"])
            world.client.delete(*world.all_keys)


@scenario
def who_is_first_takes_a_lapsed_run_itself(world: World) -> None:
    """The first waiter whose time to ask has come is granted the run for its full time, without being rung."""
    with world.process() as process:
        world.grant("holder")
        ticket, later = world.queue("a", process.channel), world.queue("b", process.channel)
        world.lapse()
        expect(world.acquire(ticket), "granted")
        _held_by(world, "a")
        assert _pttl(world) > CLAIM_MS
        assert world.waiting() == [later.place]
        assert process.heard() == []


@scenario
def whose_turn_it_is_after_the_dead_has_its_full_time(world: World) -> None:
    """Who asks, and is the first that listens, or the only one left, has no need to claim."""
    for listens, queues in ((True, True), (False, True), (False, False)):
        with world.process() as process:
            world.grant("holder")
            world.queue("dead", NOBODY)
            ticket = Ticket("me", MINUTE_MS, process.channel if listens else NOBODY)
            if queues:
                world.queue("me", ticket.channel)
            world.lapse()
            expect(world.acquire(ticket), "granted")
            _held_by(world, "me")
            assert _pttl(world) > CLAIM_MS
            assert world.waiting() == []
            world.client.delete(*world.all_keys)


@scenario
def a_place_that_nobody_listens_to_is_dropped_at_once(world: World) -> None:
    """Its process is gone: it costs nobody any time, and if all are gone the run is free."""
    with world.process() as process:
        for listener in (True, False):
            world.grant("holder")
            for name in ("dead", "dead too"):
                world.queue(name, NOBODY)
            if listener:
                world.queue("alive", process.channel)
            expect(world.release("holder"), "released")
            if listener:
                _held_by(world, "alive", most=CLAIM_MS)
                world.client.delete(*world.all_keys)
            else:
                _free(world)


@scenario
def whoever_asks_leaves_those_behind_it_in_their_places(world: World) -> None:
    """A free run is handed to those who came before it; that nobody seems to listen behind it is no reason to drop."""
    with world.process() as process:
        for place in range(3):
            world.grant("holder")
            channels = [NOBODY] * 3
            channels[place] = process.channel
            tickets = [world.queue(name, channel) for name, channel in zip("abc", channels, strict=True)]
            world.lapse()
            expect(world.acquire(tickets[place]), "granted")
            assert world.waiting() == [ticket.place for ticket in tickets[place + 1 :]]
            assert not any(holder for _, _, holder in process.heard())
            world.client.delete(*world.all_keys)


@scenario
def who_hears_without_being_counted_keeps_its_place(world: World) -> None:
    """It listens at a replica, say, and its place tells so once it has found out: then no count of listeners matters.

    It has a claim like everybody, and one that is gone costs that.
    """
    with world.process() as process:
        for counted in (False, True):
            world.grant("holder")
            ticket = Ticket("deaf", MINUTE_MS, process.channel if counted else NOBODY)
            expect(world.acquire(ticket, uncounted=True), "queued")
            assert world.waiting() == [f"60000 ?{ticket.channel} deaf"]
            later = world.queue("later", process.channel)
            process.said()
            expect(world.release("holder"), "released")
            _held_by(world, "deaf", most=CLAIM_MS)
            name = process.channel.rpartition(":")[2]
            assert process.heard() == [(name, 0, None), *([(name, 0, "deaf")] if counted else [])]
            assert world.waiting() == [later.place]
            expect(world.acquire(ticket, uncounted=True), "granted")
            _held_by(world, "deaf")
            assert _pttl(world) > CLAIM_MS
            world.client.delete(*world.all_keys)


@scenario
def a_place_that_says_so_is_one_and_the_same(world: World) -> None:
    """Copies that were sent before and after a waiter found out that it is not counted take one place, and leave it."""
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
            _held_by(world, "me", most=CLAIM_MS)
            world.lapse()
            expect(world.acquire(ticket, uncounted=not first), "granted")
            assert world.waiting() == []
            world.client.delete(*world.all_keys)


@scenario
def those_who_cannot_be_counted_are_called_one_after_the_other(world: World) -> None:
    """A waiter that nobody seems to hear is told how many were called before it, so that all who hear come in order.

    One that is counted, and so has the run, is told to come at once.
    """
    with _waiting(world, "a at -", "b at -", "c at x", "d at y") as (processes, _):
        world.release("holder")
        _held_by(world, "c", most=CLAIM_MS)
        calls = [(name, rank) for name, rank, holder in processes.heard() if holder == "c"]
        assert calls == [("x", 2), ("x", 0)]


@scenario
def a_waiter_that_does_not_claim_costs_its_claim(world: World) -> None:
    """One that listens and does nothing has the run for a second, or for its own time if that is less."""
    for ttl, claim in ((MINUTE_MS, CLAIM_MS), (CLAIM_MS + 1, CLAIM_MS), (300, 300)):
        with world.process() as process:
            world.grant("holder")
            world.queue("asleep", process.channel, ttl=ttl)
            later = world.queue("awake", process.channel)
            world.release("holder")
            _held_by(world, "asleep", most=claim)
            assert [data.split()[0] for _, data in process.said()] == [_digits(claim)] * 2
            world.lapse()
            expect(world.acquire(later), "granted")
            _held_by(world, "awake")
            expect(world.release("awake"), "released")
            _free(world)
            world.client.delete(*world.all_keys)


@scenario
def a_waiter_that_came_too_late_to_claim_queues_again(world: World) -> None:
    """Its claim is over, another has the run: it is told so, and stands at the end."""
    with world.process() as process:
        world.grant("holder")
        asleep, later = world.queue("asleep", process.channel), world.queue("awake", process.channel)
        world.release("holder")
        late = _held_by(world, "asleep", most=CLAIM_MS)
        world.lapse()
        expect(world.acquire(later), "granted")
        lease = _held_by(world, "awake")
        expect(world.renew(late), "lost", _digits(lease.fence))
        expect(world.acquire(asleep), "queued", b"awake")
        assert _held_by(world, "awake") == lease


@scenario
def an_item_of_the_queue_that_is_none_is_passed_over(world: World) -> None:
    """What histstore did not put there costs nobody the run."""
    with world.process() as process:
        world.grant("holder")
        world.client.rpush(world.keys.queue, b"x")
        ticket = world.queue("a", process.channel)
        world.client.rpush(world.keys.queue, b"", b"x y z")
        world.queue("b", process.channel)
        expect(world.release("holder"), "released")
        expect(world.acquire(ticket), "granted")
        expect(world.release("a"), "released")
        _held_by(world, "b", most=CLAIM_MS)


@scenario
def the_run_is_handed_over_though_nobody_may_be_told(world: World) -> None:
    """Row 22: PUBLISH is forbidden, or the channels are. The first waiter gets the run, and asks at its time."""
    with world.limited() as without:
        for denied in ("PUBLISH", "channels"):
            world.grant("holder")
            ticket = world.queue("a", NOBODY)
            later = world.queue("b", NOBODY)
            expect(world.release("holder", by=without([denied])), "released")
            _held_by(world, "a", most=CLAIM_MS)
            expect(world.acquire(ticket, by=without([denied])), "granted")
            lease = _held_by(world, "a")
            expect(world.renew(lease, by=without([denied])), "renewed")
            world.lapse()
            expect(world.acquire(Ticket("c", MINUTE_MS, NOBODY), by=without([denied])), "queued", b"b")
            expect(world.acquire(later, by=without([denied])), "granted")
            world.client.delete(*world.all_keys)


# --------------------------------------------------------------------------------------- doorbell


@contextmanager
def _waiting(world: World, *places: str) -> Iterator[tuple[Process, list[Ticket]]]:
    """Somebody has the run, and waiters are there; "b at x" waits in process x, one at "-" listens no more."""
    asked = [place.split(" at ") for place in places]
    names = sorted({process for _, process in asked if process != "-"})
    with world.process(*names) as processes:
        channels = dict(zip(names, processes.channels, strict=True))
        world.grant("holder")
        tickets = [world.queue(name, channels.get(process, f"{NOBODY}-{name}")) for name, process in asked]
        yield processes, tickets
    world.client.delete(*world.all_keys)


@scenario
def a_hand_off_tells_who_has_the_run_and_who_is_near(world: World) -> None:
    """Word by word. The neighbours, two processes, are told before it: the server writes in the reverse order."""
    for fence in (9, FAR):
        with _waiting(world, "a at x", "b at x", "c at y", "d at x", "e at z") as (processes, _):
            world.client.hset(world.keys.head, "fence", fence)
            expect(world.release("holder"), "released")
            lease = _held_by(world, "a", most=CLAIM_MS)
            since = world.client.hget(world.keys.lease, "since")
            assert isinstance(since, bytes)
            assert lease.fence == max(fence + 1, int(since))
            x, y, _z = processes.channels
            key = world.keys.lease
            assert processes.said() == [(x, b"1000 0 - " + key), (y, b"1000 1 - " + key), (x, b"1000 0 a " + key)]


@scenario
def a_claim_tells_who_is_near_how_long_the_run_is_taken(world: World) -> None:
    """Those who were told that the claim is awaited, and nobody else."""
    with _waiting(world, "a at w", "b at x", "c at x", "d at y", "e at z") as (processes, tickets):
        world.release("holder")
        _held_by(world, "a", most=CLAIM_MS)
        processes.said()
        expect(world.acquire(tickets[0]), "granted")
        _, x, y, _ = processes.channels
        assert processes.said() == [
            (channel, b"60000 %d - " % rank + world.keys.lease) for channel, rank in ((x, 0), (y, 2))
        ]


@scenario
def a_renewal_tells_all_who_wait(world: World) -> None:
    """Each process once, with the rank of its first waiter; also when the lease had lapsed and nobody waited yet."""
    with _waiting(world, "a at w", "b at x", "c at x", "d at y", "e at z") as (processes, _):
        expect(world.renew(Carried(_held_by(world, "holder").fence, "holder"), 70_000), "renewed")
        assert processes.said() == [
            (channel, b"70000 %d - " % rank + world.keys.lease)
            for channel, rank in zip(processes.channels, (0, 1, 3, 4), strict=True)
        ]


@scenario
def a_neighbour_that_nobody_listens_to_does_not_count(world: World) -> None:
    """Waiters that are gone do not keep those behind them from hearing how long the run is taken."""
    with _waiting(world, "a at w", "b at -", "c at x", "d at -", "e at y", "f at z") as (processes, _):
        world.release("holder")
        assert processes.heard() == [("x", 1, None), ("y", 3, None), ("w", 0, "a")]


@scenario
def neighbours_are_looked_for_nearby(world: World) -> None:
    """A hand-off does not wade through a long queue, and not even a renewal through an endless one."""

    def dead(count: int) -> list[str]:
        return [f"60000 {NOBODY} dead-{number}" for number in range(count)]

    for row, renews in ((16, False), (1024, True)):
        for count, told in ((row - 1, True), (row, False)):
            with _waiting(world, "a at x") as (processes, _):
                world.client.rpush(world.keys.queue, *dead(count), f"60000 {processes.channel} b")
                if renews:
                    world.client.lpop(world.keys.queue)
                    world.renew(Carried(_held_by(world, "holder").fence, "holder"))
                else:
                    world.release("holder")
                heard = [rank for _, rank, holder in processes.heard() if holder is None]
                assert heard == ([row - 1] if told else []), f"{count} before it, renews={renews}: {heard}"


# ----------------------------------------------------------------------------------------- fences


def _clock_goes_on(world: World, fence: int) -> None:
    while world.now() <= fence:
        pass


@scenario
def fences_rise(world: World) -> None:
    """Each lease's fence is above the one before, whatever ended that or was forgotten; and that one has lost."""

    def by_release(lease: Carried) -> None:
        expect(world.release(lease.holder), "released")

    def by_lapse(lease: Carried) -> None:
        world.lapse()

    def by_delete(lease: Carried) -> None:
        world.delete(world.save(None, "a", lease=lease), lease=lease)
        by_release(lease)

    def by_forced_delete(lease: Carried) -> None:
        expect(world.send(world.deletion(None, force=True)), "absent")

    def by_breaking(lease: Carried) -> None:
        expect(world.release(lease.holder, force=True), "released")

    def by_losing_all_keys(lease: Carried) -> None:
        world.client.delete(*world.all_keys)
        _clock_goes_on(world, lease.fence)

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
                expect(world.send(world.plan(None, "late", lease=first)), "lost", _digits(second.fence))
            world.client.delete(*world.all_keys)


@scenario
def two_grants_in_one_millisecond_differ_by_their_holder(world: World) -> None:
    """All keys are lost, and the run is granted again at once: the first holder has lost, fence or no fence."""
    calls = [_leasing.acquire(world.where, Ticket(name, MINUTE_MS, ""), queue=False) for name in ("first", "second")]
    first, second = (world.in_full(call) for call in calls)
    for _ in range(100):
        *_, replies = exchange(world.client, ("MULTI",), first, ("DEL", *world.all_keys), second, ("EXEC",))
        (_, one), _, (_, two) = replies
        assert int(one) <= int(two)
        if one == two:
            break  # else a millisecond ended between the two: it has to be one and the same
        world.client.delete(*world.all_keys)
    assert one == two
    lease, late = Carried(int(two), "second"), Carried(int(one), "first")
    assert _held_by(world, "second") == lease
    expect(world.send(world.plan(None, "late", lease=late)), "lost", two)
    expect(world.renew(late), "lost", two)
    world.lapse()
    expect(world.send(world.plan(None, "late", lease=late)), "lost", two)
    world.release("second")
    expect(world.send(world.plan(None, "late", lease=late)), "lost", two)
    expect(world.renew(late), "lost", two)


@own_server
def fences_rise_over_flushall(world: World) -> None:
    """Row 8: everything is gone, and the clock still fences the holder from before."""
    first = world.grant("first")
    world.client.flushall()
    _clock_goes_on(world, first.fence)
    second = world.grant("second")
    assert first.fence < second.fence
    world.lapse()
    expect(world.send(world.plan(None, "late", lease=first)), "lost", _digits(second.fence))


@scenario
def a_grant_fences_the_holder_before_at_once(world: World) -> None:
    """Not only from the new holder's first save on: by whichever way the run came to somebody else."""

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
            new = _held_by(world, "next")
            for lapsed in (False, True):
                if lapsed:
                    world.lapse()
                _has_lost(world, base, lease, new.fence)
                expect(world.renew(lease), "lost", _digits(new.fence))
            base = world.save(base, "b", lease=new)
            world.delete(base, lease=new)
            world.client.delete(*world.all_keys)


# ------------------------------------------------------------------------------------- late copies


@scenario
def a_late_acquire_after_its_release_is_no_ghost(world: World) -> None:
    """Row 24: where a copy may still arrive, release and leaving leave a mark, for 15 minutes."""
    with world.process() as process:
        for leaves in (False, True):
            holder = world.grant("other" if leaves else "me")
            ticket = world.queue("me", process.channel) if leaves else Ticket("me", MINUTE_MS, process.channel)
            place = ticket.place if leaves else ""
            expect(world.release("me", place, late=True), "lost" if leaves else "released")
            assert 0 < _pttl(world, world.keys.marks) <= QUARTER_MS
            for _ in range(2):
                for queues in (True, False):
                    world.client.hdel(world.keys.head, "left")  # many have left since; the mark outlasts that
                    assert world.acquire(ticket, queue=queues) == ["cancelled"]
                assert world.waiting() == []
                if leaves:
                    assert _held_by(world, "other") == holder
                    expect(world.release("other"), "released")
                leaves = False
                assert world.leased() is None
            world.grant("next")
            world.client.delete(*world.all_keys)


@scenario
def what_has_no_late_copy_leaves_no_mark(world: World) -> None:
    """A release that follows an answer has nothing to be remembered."""
    world.grant("me")
    ticket = world.queue("other", NOBODY)
    expect(world.release("other", ticket.place), "lost")
    expect(world.release("me"), "released")
    assert not world.client.exists(world.keys.marks)


@scenario
def a_late_renewal_or_save_after_the_release_has_lost(world: World) -> None:
    """Row 24: it was given up, and nobody was granted the run since; no ghost lease, and nothing is saved."""
    base = world.save(None, "a")
    lease = world.grant("me")
    for lapsed in (False, True):
        if lapsed:
            lease = world.grant("me")
            world.lapse()
        expect(world.release("me"), "released")
        expect(world.renew(lease), "lost", _digits(lease.fence))
        assert world.leased() is None
        _has_lost(world, base, lease, lease.fence)
        world.client.hdel(world.keys.head, "left")
    world.save(base, "b")


@scenario
def late_copies_do_nothing_to_the_successor(world: World) -> None:
    """Row 14: release, renew and acquire of an earlier holder neither free, nor shorten, nor prolong its lease.

    Also when so many have left since that it is not remembered any more; it is told the truth while it is.
    """
    with world.process() as process:
        for handed, remembered in ((False, False), (True, False), (False, True)):
            lease = world.grant("me")
            ticket = Ticket("me", 3 * MINUTE_MS, "")
            if handed:
                world.queue("next", process.channel)
            expect(world.release("me"), "released")
            new = _held_by(world, "next", most=CLAIM_MS) if handed else world.grant("next")
            world.renew(new, 2 * MINUTE_MS)
            ends = _lease_ends(world)

            def again(call: Call, word: str, truth: str = "lost", remembered: bool = remembered) -> None:
                if not remembered:
                    world.client.hdel(world.keys.head, "left")
                expect(world.send(call), truth if remembered else word)

            for _ in range(2):
                again(_leasing.release(world.where, "me"), "lost", "released")
                again(_leasing.release(world.where, "me", ticket.place, late=False, force=True), "lost")
                again(_leasing.renew(world.where, lease, 3 * MINUTE_MS), "lost")
                again(_leasing.renew(world.where, Carried(lease.fence, "next"), 3 * MINUTE_MS), "lost")
                again(_leasing.renew(world.where, Carried(new.fence, "me"), 3 * MINUTE_MS), "lost")
                again(_leasing.acquire(world.where, ticket, queue=True), "held", "cancelled")
                again(_leasing.release(world.where, "me", late=True), "lost", "released")
                assert _held_by(world, "next", most=2 * MINUTE_MS) == new
                assert _lease_ends(world) == ends
                world.client.delete(world.keys.marks)
            world.client.delete(*world.all_keys)


@scenario
def who_has_left_is_remembered_by_the_head(world: World) -> None:
    """Item by item: the last six who gave up a lease, or lost it, or left the queue, in one small field.

    A proxy may deliver a request again whose answer has come, so that no mark was left. A copy of their acquire takes
    nothing, a copy of their release is told the same again, and writes nothing.
    """
    with world.process() as process:
        for present in (False, True):
            if present:
                world.save(None, "a")
            first = world.grant("host:1:first-of-all")
            waiter = world.queue("host:1:waits-and-leaves", process.channel)
            expect(world.release(waiter.holder, waiter.place), "lost", _digits(first.fence))
            expect(world.release(first.holder), "released")
            assert world.head("left") == b"!d-leaves +t-of-all "
            _clock_goes_on(world, first.fence)
            lapsed = world.grant("host:1:has-lost-it")
            world.lapse()
            held = world.grant("host:1:another-one")
            expect(world.release(lapsed.holder), "lost", _digits(held.fence))
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
                _untouched(world, before)
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
    """A head that was made for that alone would have no end."""
    for name in ("me", ""):
        assert world.release(name) == ["lost", b"0"]
    assert not world.client.exists(*world.all_keys)


@scenario
def who_was_broken_is_no_one_who_gave_up(world: World) -> None:
    """Its own release, which comes later, says that it has lost, however often it comes."""
    world.grant("me")
    expect(world.release("me", force=True), "released")
    assert world.head("left") == b"!me "
    for _ in range(2):
        expect(world.release("me"), "lost")
    assert world.head("left") == b"!me "
    expect(world.acquire(Ticket("me", MINUTE_MS, "")), "cancelled")


@scenario
def a_late_acquire_after_a_break_or_a_delete_is_no_ghost(world: World) -> None:
    """Whoever was broken, or had left a run that was deleted since: no copy of their acquire takes the run."""
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
def a_release_that_comes_twice_is_done_once(world: World) -> None:
    """The copy is told the same, and changes nothing; one of a holder that is unknown says so."""
    world.save(None, "a")
    world.grant("me")
    expect(world.release("me"), "released")
    before = world.dump()
    assert world.release("me") == ["released"]
    _untouched(world, before)
    world.client.delete(*world.all_keys)
    assert world.release("me") == ["lost", b"0"]
    assert not world.client.exists(*world.all_keys)


@scenario
def who_leaves_the_queue_is_handed_nothing(world: World) -> None:
    """A waiter that gives up goes out of the row; one that was handed the run meanwhile hands it on."""
    with world.process() as process:
        lease = world.grant("holder")
        tickets = [world.queue(name, process.channel) for name in ("a", "b", "c")]
        expect(world.release("b", tickets[1].place), "lost", _digits(lease.fence))
        assert _held_by(world, "holder") == lease
        assert world.waiting() == [tickets[0].place, tickets[2].place]
        world.release("holder")
        _held_by(world, "a", most=CLAIM_MS)
        expect(world.release("a", tickets[0].place), "released")
        _held_by(world, "c", most=CLAIM_MS)


@scenario
def a_place_that_a_late_acquire_took_is_given_up_with_the_lease(world: World) -> None:
    """Its holder had been granted the run before, and does not know that it stands in the queue now."""
    with world.process() as process:
        mine = Ticket("me", MINUTE_MS, process.channel)
        expect(world.acquire(mine), "granted")
        world.lapse()
        lease = world.grant("next")
        expect(world.acquire(mine), "queued")
        other = world.queue("other", process.channel)
        expect(world.release("me", mine.place, late=True), "lost", _digits(lease.fence))
        assert world.waiting() == [other.place]
        assert _held_by(world, "next") == lease
        world.release("next")
        _held_by(world, "other", most=CLAIM_MS)


@scenario
def who_leaves_the_queue_of_a_free_run_serves_the_next(world: World) -> None:
    """The lease has lapsed unnoticed: a leaving waiter, or nobody by name, need not wait for the next one's timer."""
    with world.process() as process:
        for leaves in ("a", ""):
            lease = world.grant("holder")
            tickets = [world.queue(name, process.channel) for name in ("a", "b")]
            world.lapse()
            expect(world.release(leaves, tickets[0].place), "lost", _digits(lease.fence))
            _held_by(world, "b", most=CLAIM_MS)
            assert world.head("left") == (b"!a " if leaves else None)
            world.client.delete(*world.all_keys)


# ------------------------------------------------------------------------------------------- renew


@scenario
def a_renewal_prolongs(world: World) -> None:
    """From now on, for as long as it says; it may come twice, and changes nothing else."""
    lease = world.grant("me")
    held = world.client.hgetall(world.keys.lease)
    for ttl in (2 * MINUTE_MS, 2 * MINUTE_MS, 30_000):
        assert world.renew(lease, ttl) == ["renewed"]
        assert ttl - 20_000 < _pttl(world) <= ttl
        assert world.client.hgetall(world.keys.lease) == held


@scenario
def a_lapsed_lease_is_renewed_while_nobody_was_granted_the_run(world: World) -> None:
    """The work goes on: the head still names holder and fence, and nobody waits. It is the same lease as before."""
    for present in (False, True):
        base = world.save(None, "a") if present else None
        lease = world.grant("me")
        world.lapse()
        before = world.now()
        assert world.renew(lease, 30_000) == ["renewed"]
        assert _held_by(world, "me", most=30_000) == lease
        assert before <= int(world.client.hget(world.keys.lease, "since") or 0) <= world.now()
        expect(world.send(world.plan(base, "b", lease=lease)), "saved")
        world.client.delete(*world.all_keys)


@scenario
def a_lapsed_lease_is_not_renewed_once_the_run_may_be_anothers(world: World) -> None:
    """Another was granted the run since, or waits for it, or the head tells nothing any more."""

    def granted_since(lease: Carried) -> bytes:
        fence = world.grant("other").fence
        world.lapse()
        return _digits(fence)

    def anothers_by_name(lease: Carried) -> bytes:
        world.client.hset(world.keys.head, "holder", "other")
        return _digits(lease.fence)

    def anothers_by_fence(lease: Carried) -> bytes:
        world.client.hset(world.keys.head, "fence", lease.fence + 1)
        return _digits(lease.fence + 1)

    def awaited(lease: Carried) -> bytes:
        world.client.rpush(world.keys.queue, Ticket("other", MINUTE_MS, NOBODY).place)
        return _digits(lease.fence)

    def forgotten(lease: Carried) -> bytes:
        world.client.delete(*world.all_keys)
        return b"0"

    for way in (granted_since, anothers_by_name, anothers_by_fence, awaited, forgotten):
        world.save(None, "a")
        lease = world.grant("me")
        world.lapse()
        found = way(lease)
        assert world.renew(lease) == ["lost", found], way.__name__
        assert world.leased() is None, way.__name__
        world.client.delete(*world.all_keys)


# ------------------------------------------------------------------------------------------- break


@scenario
def breaking_a_lease_fences_its_holder(world: World) -> None:
    """Live, or lapsed while the head still names it: nothing of its holder's comes after, and the run is free."""
    for lapsed in (False, True):
        for present in (False, True):
            base = world.save(None, "a") if present else None
            lease = world.grant("me")
            if lapsed:
                world.lapse()
            expect(world.release("me", force=True), "released")
            _free(world)
            assert int(world.head("fence") or 0) > lease.fence
            assert world.head("holder") == b""
            for ask in (world.send(world.plan(base, "late", lease=lease)), world.renew(lease), world.release("me")):
                expect(ask, "lost")
            if base is not None:
                _has_lost(world, base, lease, int(world.head("fence") or 0))
            assert world.grant("next").fence > int(lease.fence) + 1
            world.client.delete(*world.all_keys)


@scenario
def breaking_raises_the_fence_above_all(world: World) -> None:
    """Above the clock's, the head's and the lease's, whichever is highest."""
    base = world.save(None, "a")
    lease = world.plant("me", 9)
    before = world.now()
    expect(world.release("me", force=True), "released")
    assert before <= int(world.head("fence") or 0) <= world.now()
    _has_lost(world, base, lease, int(world.head("fence") or 0))
    for in_head, in_lease in ((FAR, 9), (9, FAR), (FAR, FAR)):
        world.plant("me", in_head)
        world.plant("me", in_lease, remember=False)
        expect(world.release("me", force=True), "released")
        assert world.head("fence") == _digits(FAR + 1), (in_head, in_lease)
        world.client.hset(world.keys.head, "fence", 9)


@scenario
def breaking_hands_the_run_over_and_its_copy_does_not_break_again(world: World) -> None:
    """By name: a late copy of it must not break the lease of whoever came next."""
    with world.process() as process:
        lease = world.grant("me")
        ticket = world.queue("next", process.channel)
        expect(world.release("me", force=True), "released")
        new = _held_by(world, "next", most=CLAIM_MS)
        assert new.fence > lease.fence + 1
        expect(world.acquire(ticket), "granted")
        ends = _lease_ends(world)
        expect(world.release("me", force=True), "lost", _digits(new.fence))
        assert _held_by(world, "next") == new
        assert _lease_ends(world) == ends


@scenario
def breaking_nobodys_lease_fences_nobody(world: World) -> None:
    """An empty name is nobody's: neither of a run that was released, nor of one that never was held."""
    with world.process() as process:
        lease = world.grant("me")
        world.release("me")
        before = world.dump()
        assert world.release("", force=True) == ["lost", _digits(lease.fence)]
        _untouched(world, before)
        world.grant("another")
        world.queue("next", process.channel)
        world.lapse()
        world.client.hset(world.keys.head, "holder", "")
        expect(world.release("", force=True), "lost")
        _held_by(world, "next", most=CLAIM_MS)
        world.client.delete(*world.all_keys)
        assert world.release("", force=True) == ["lost", b"0"]
        assert not world.client.exists(*world.all_keys)


@scenario
def breaking_the_lease_of_an_absent_run_leaves_a_fence_that_expires(world: World) -> None:
    """Also where nothing was left of the head but the lease."""
    for forgotten in (False, True):
        lease = world.grant("me")
        if forgotten:
            world.client.delete(world.keys.head)
        expect(world.release("me", force=True), "released")
        assert int(world.head("fence") or 0) > lease.fence
        assert 0 < _pttl(world, world.keys.head) <= QUARTER_MS
        world.client.delete(*world.all_keys)


# --------------------------------------------------------------------------------------- lifetimes


def _granted(world: World, ttl: int) -> Carried:
    return world.grant("me", ttl)


def _claimed(world: World, ttl: int) -> Carried:
    lease = world.grant("me", 1000)
    assert world.grant("me", ttl) == lease
    return lease


def _renewed(world: World, ttl: int) -> Carried:
    lease = world.grant("me", 1000)
    expect(world.renew(lease, ttl), "renewed")
    return lease


def _revived(world: World, ttl: int) -> Carried:
    lease = world.grant("me", 1000)
    world.lapse()
    expect(world.renew(lease, ttl), "renewed")
    return lease


WAYS: Final = (_granted, _claimed, _renewed, _revived)


@scenario
def a_run_does_not_expire_under_its_holder(world: World) -> None:
    """Grant, claim and renewal push head, log and etags, with one deadline, to the lease's end at least."""
    for way in WAYS:
        world.saves(None, 2, ttl=2 * MINUTE_MS)
        way(world, QUARTER_MS)
        deadlines = world.deadlines()
        assert len(set(deadlines)) == 1, f"{way.__name__}: {deadlines}"
        assert deadlines[0] >= _lease_ends(world), way.__name__
        assert _pttl(world, world.keys.head) <= QUARTER_MS
        world.client.delete(*world.all_keys)


@scenario
def a_lease_leaves_longer_lifetimes_alone(world: World) -> None:
    """A run that lasts for ever, or longer than the lease, does so whatever is leased."""
    for way in WAYS:
        for ttl in (None, 2 * QUARTER_MS):
            world.saves(None, 2, ttl=ttl)
            before = world.deadlines()
            way(world, QUARTER_MS)
            assert world.deadlines() == before, way.__name__
            world.client.delete(*world.all_keys)


@scenario
def a_lease_does_not_shorten_the_memory_of_a_delete(world: World) -> None:
    """The etags of a deleted run outlive its short-lived successor, leased or not."""
    for way in WAYS:
        world.delete(world.save(None, "old"))
        world.save(None, "new", ttl=MINUTE_MS)
        etags = world.deadlines()[2]
        way(world, 5 * MINUTE_MS)
        head, log, left = world.deadlines()
        assert head == log >= _lease_ends(world), way.__name__
        assert left == etags, way.__name__
        world.client.delete(*world.all_keys)


@scenario
def the_head_that_a_holder_deletes_lives_as_long_as_the_lease(world: World) -> None:
    """Its fence is what refuses an older holder, and what a renewal goes by."""
    base = world.save(None, "a")
    lease = world.grant("me", ttl=4 * QUARTER_MS)
    world.delete(base, lease=lease)
    assert _pttl(world, world.keys.head) > 3 * QUARTER_MS


@scenario
def the_head_of_an_absent_run_expires(world: World) -> None:
    """It only remembers a fence: for 15 minutes, or as long as the lease lives; never for ever, and never shorter."""
    for way in WAYS:
        for ttl, least in ((MINUTE_MS, QUARTER_MS), (4 * QUARTER_MS, 4 * QUARTER_MS)):
            lease = way(world, ttl)
            assert least - MINUTE_MS < _pttl(world, world.keys.head) <= least, (way.__name__, ttl)
            assert ttl <= MINUTE_MS or _lease_ends(world) <= world.deadlines()[0], way.__name__
            world.release(lease.holder)
            assert least - MINUTE_MS < _pttl(world, world.keys.head) <= least, (way.__name__, ttl)
            assert world.client.exists(*world.all_keys) == 1
            world.client.hdel(world.keys.head, "left")  # the same name once more
            way(world, 1000)
            assert least - MINUTE_MS < _pttl(world, world.keys.head), "a short lease shortened what is remembered"
            world.client.delete(*world.all_keys)


@scenario
def a_save_does_not_cut_a_run_below_its_lease(world: World) -> None:
    """A save or a compare that carries a lease may name a lifetime that is over before it; a longer one counts."""
    for ttl, lasts in ((1000, QUARTER_MS), (2 * QUARTER_MS, 2 * QUARTER_MS)):
        for present in (False, True):
            base = world.save(None, "a", ttl=4 * QUARTER_MS) if present else None
            lease = world.grant("me", QUARTER_MS)
            base = world.save(base, "b", lease=lease, ttl=ttl)
            for _ in range(2):
                deadlines = world.deadlines()
                assert len(set(deadlines)) == 1, deadlines
                assert deadlines[0] >= _lease_ends(world) - 1000, "the save cut the run below its lease"
                assert lasts - MINUTE_MS < _pttl(world, world.keys.head) <= lasts
                expect(world.compare(base, lease, ttl=ttl), "same")
            world.client.delete(*world.all_keys)


@scenario
def a_lapsed_lease_does_not_lengthen_a_lifetime(world: World) -> None:
    """What is left of it counts, and nothing is."""
    base = world.save(None, "a", ttl=QUARTER_MS)
    lease = world.grant("me")
    world.lapse()
    base = world.save(base, "b", lease=lease, ttl=MINUTE_MS)
    assert 0 < _pttl(world, world.keys.head) <= MINUTE_MS
    expect(world.compare(base, lease, ttl=MINUTE_MS // 2), "same")
    assert 0 < _pttl(world, world.keys.head) <= MINUTE_MS // 2


@scenario
def a_queue_ends_a_minute_after_the_lease(world: World) -> None:
    """Whoever queued last, and whatever became of the lease: grant, renewal, hand-off, claim."""

    def ends() -> None:
        assert len(world.waiting()) > 0
        queue = int(world.client.pexpiretime(world.keys.queue))
        # A script reads what is left and sets that, while the server's clock may go on.
        assert abs(queue - _lease_ends(world) - MINUTE_MS) < 5000, queue - _lease_ends(world)

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


@scenario
def nothing_of_a_lease_is_left_after_it(world: World) -> None:
    """Invariant 7: no lease, no queue, no mark; of an absent run only a fence, for a while."""
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
            found = world.client.keys(f"{world.namespace}:*")
            assert set(found) == set(keys), found
            assert (_pttl(world, world.keys.head) == -1) == present


@scenario
def a_resend_of_an_applied_save_is_not_told_that_its_lease_was_released(world: World) -> None:
    """Whether it was applied comes before the lease it carried: released since, broken, or handed over."""
    for force in (False, True):
        base = world.save(None, "a")
        lease = world.grant("me")
        mine = world.plan(base, "b", lease=lease)
        world.send(mine)
        world.release("me", force=force)
        for _ in range(2):
            expect(world.send(mine, resend=True), "saved")
            world.acquire(Ticket("next", MINUTE_MS, NOBODY))
        world.client.delete(*world.all_keys)


# ------------------------------------------------------------------------------ failures and damage


def _requests(world: World, channel: str) -> list[tuple[str, Callable[[], Call]]]:
    """Returns ways to a request about a lease, by each of which a script takes another path."""

    def run() -> Base:
        return world.save(None, "a", ttl=MINUTE_MS)

    def acquire(holder: str, ttl: int = QUARTER_MS) -> Call:
        return _leasing.acquire(world.where, Ticket(holder, ttl, channel), queue=True)

    def handed_over() -> None:
        world.grant("holder")
        world.queue("me", channel)
        world.queue("later", channel)

    def of_an_absent_run() -> Call:
        return acquire("me")

    def of_a_run() -> Call:
        run()
        return acquire("me")

    def queueing() -> Call:
        run()
        world.grant("holder")
        return acquire("me")

    def claim() -> Call:
        run()
        handed_over()
        world.release("holder")
        return acquire("me")

    def my_turn() -> Call:
        handed_over()
        world.lapse()
        return acquire("me", MINUTE_MS)

    def anothers_turn() -> Call:
        run()
        handed_over()
        world.lapse()
        return acquire("newcomer")

    def renew() -> Call:
        run()
        lease = world.grant("holder")
        world.queue("later", channel)
        return _leasing.renew(world.where, lease, QUARTER_MS)

    def revive() -> Call:
        run()
        lease = world.grant("holder")
        world.lapse()
        return _leasing.renew(world.where, lease, QUARTER_MS)

    def release() -> Call:
        run()
        handed_over()
        return _leasing.release(world.where, "holder", late=True)

    def release_absent() -> Call:
        handed_over()
        return _leasing.release(world.where, "holder")

    def break_() -> Call:
        run()
        handed_over()
        return _leasing.release(world.where, "holder", force=True)

    def break_absent() -> Call:
        world.grant("holder")
        return _leasing.release(world.where, "holder", force=True)

    def leave() -> Call:
        run()
        handed_over()
        return _leasing.release(world.where, "me", Ticket("me", MINUTE_MS, channel).place, late=True)

    ways = (
        of_an_absent_run, of_a_run, queueing, claim, my_turn, anothers_turn, renew, revive, release, release_absent,
        break_, break_absent, leave,
    )  # fmt: skip
    return [(way.__name__, way) for way in ways]


LEASE_SCRIPTS: Final = ("acquire", "renew", "release")


@scenario
def no_forbidden_command_locks_a_run_for_ever(world: World) -> None:
    """Row 22: whichever command is forbidden, there is no lease without an end, and the run can be used again."""
    failures: set[str] = set()
    with world.process() as process, world.limited() as without:
        for denied in sorted(set().union(*(commands(script) for script in LEASE_SCRIPTS))):
            for name, way in _requests(world, process.channel):
                label = f"{name} without {denied}"
                call = way()
                content = world.load()
                reply = world.try_(call, by=without([denied]))
                if isinstance(reply, Exception):
                    failures.add(denied)
                assert world.client.pttl(world.keys.lease) != -1, f"{label}: a lease without an end"
                assert world.load() == content, label
                for _ in range(5):
                    world.lapse()
                    taken = world.acquire(Ticket("after", MINUTE_MS, ""), queue=False)
                    if taken[0] == "granted":
                        break
                assert taken[0] == "granted", f"{label}: {taken}"
                base = world.applied[-1].after if content else None
                world.save(base, "b", lease=_held_by(world, "after"))
                expect(world.release("after"), "released")
                _free(world)
                world.client.delete(*world.all_keys)
    assert failures >= {
        "HMGET", "HEXISTS", "LINDEX", "LPOP", "LPOS", "RPUSH", "LRANGE", "LREM", "LLEN", "HSET", "DEL", "PEXPIRE",
        "PEXPIREAT", "PTTL", "TIME",
    }, failures  # fmt: skip


@scenario
def a_key_of_a_foreign_type_is_met_before_the_first_write(world: World) -> None:
    """What histstore did not put there raises WRONGTYPE, and nothing else of the run is changed, and nobody told."""

    def state() -> object:
        return [(world.client.dump(key), world.client.pexpiretime(key)) for key in world.all_keys]

    changed: list[str] = []
    with world.process() as process:
        for key in (world.keys.head, world.keys.marks, world.keys.lease, world.keys.queue):
            for name, way in _requests(world, process.channel):
                call = way()
                label = f"{name}, {key.rpartition(b':')[2].decode()}"
                world.foreign(key)
                process.said()
                before = state()
                reply = world.try_(call)
                if isinstance(reply, Exception):
                    assert "WRONGTYPE" in str(reply), f"{label}: {reply}"
                    if state() != before or process.said():
                        changed.append(label)
                else:
                    # Marks are nothing to who neither asks for the run, nor leaves one.
                    assert key == world.keys.marks, f"{label}: {reply}"
                world.client.delete(*world.all_keys)
    assert not changed, f"WRONGTYPE after a write: {changed}"


# ------------------------------------------------------------------------------------- full memory


@own_server
def full_memory_keeps_nobody_from_going_on(world: World) -> None:
    """Renewal, release, leaving, hand-off and claim need no memory; of a lapsed lease and of breaking the same."""
    try:
        with world.process() as process:
            for name, way in _requests(world, process.channel):
                if name == "queueing":
                    continue
                call = way()
                _full(world, True)
                reply = world.try_(call)
                _full(world, False)
                assert not isinstance(reply, Exception), f"{name}: {reply}"
                assert reply[0] in ("granted", "queued", "renewed", "released", "lost"), f"{name}: {reply}"
                world.leased()
                world.client.delete(*world.all_keys)
            world.grant("holder")
            tickets = [world.queue(name, process.channel) for name in ("a", "b")]
            _full(world, True)
            expect(world.release("holder", late=True), "released")
            lease = _held_by(world, "a", most=CLAIM_MS)
            expect(world.renew(lease), "renewed")
            expect(world.acquire(tickets[0]), "granted")
            world.lapse()
            expect(world.acquire(Ticket("c", MINUTE_MS, ""), queue=False), "held", b"b")
            lease = _held_by(world, "b", most=CLAIM_MS)
            world.lapse()
            expect(world.renew(lease), "renewed")
            expect(world.release("b", force=True), "released")
            _full(world, False)
            _free(world)
    finally:
        _full(world, False)


@own_server
def full_memory_takes_no_place_in_the_queue(world: World) -> None:
    """Who would have to wait is told why not, and leaves nothing; it may wait when there is room."""
    try:
        world.grant("holder")
        for waiting in (False, True):
            if waiting:
                world.queue("a", NOBODY)
            places = world.waiting()
            call = _leasing.acquire(world.where, Ticket("b", MINUTE_MS, NOBODY), queue=True)
            _full(world, True)
            reply: Reply | Exception = world.try_(call)
            _full(world, False)
            assert isinstance(reply, redis.exceptions.OutOfMemoryError), reply
            assert world.waiting() == places
        expect(world.send(call), "queued", b"holder")
    finally:
        _full(world, False)
