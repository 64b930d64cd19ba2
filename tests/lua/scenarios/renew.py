"""Scenarios of `renew.lua`, and of the lifetimes that a lease extends."""

from __future__ import annotations

from typing import Final

from histstore.protocol.leases import Ticket
from histstore.protocol.run import LeaseToken

from ..world import MINUTE_MS, QUARTER_MS, World
from .expectations import digits, expect, expect_held_by, lease_ends, pttl
from .registry import scenario
from .situations import NOBODY


@scenario
def a_renewal_prolongs(world: World) -> None:
    """The lease lives as long as the renewal says, from now on. A copy changes nothing else."""
    lease = world.grant("me")
    held = world.client.hgetall(world.keys.lease)
    for ttl in (2 * MINUTE_MS, 2 * MINUTE_MS, 30_000):
        assert world.renew(lease, ttl) == ["renewed"]
        assert ttl - 20_000 < pttl(world) <= ttl
        assert world.client.hgetall(world.keys.lease) == held


@scenario
def a_lapsed_lease_is_renewed_while_nobody_was_granted_the_run(world: World) -> None:
    """The head still names holder and fence, and nobody waits: the renewal makes the same lease again."""
    for present in (False, True):
        base = world.save(None, "a") if present else None
        lease = world.grant("me")
        world.lapse()
        before = world.now()
        assert world.renew(lease, 30_000) == ["renewed"]
        assert expect_held_by(world, "me", most=30_000) == lease
        assert before <= int(world.client.hget(world.keys.lease, "since") or 0) <= world.now()
        expect(world.send(world.plan(base, "b", lease=lease)), "saved")
        world.client.delete(*world.all_keys)


@scenario
def a_lapsed_lease_is_not_renewed_once_the_run_may_be_anothers(world: World) -> None:
    """A lapsed lease is lost if another was granted the run or waits for it, or if the head names nobody."""

    def granted_since(lease: LeaseToken) -> bytes:
        fence = world.grant("other").fence
        world.lapse()
        return digits(fence)

    def anothers_by_name(lease: LeaseToken) -> bytes:
        world.client.hset(world.keys.head, "holder", "other")
        return digits(lease.fence)

    def anothers_by_fence(lease: LeaseToken) -> bytes:
        world.client.hset(world.keys.head, "fence", lease.fence + 1)
        return digits(lease.fence + 1)

    def awaited(lease: LeaseToken) -> bytes:
        world.client.rpush(world.keys.queue, Ticket("other", MINUTE_MS, NOBODY).place)
        return digits(lease.fence)

    def forgotten(lease: LeaseToken) -> bytes:
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


def granted(world: World, ttl: int) -> LeaseToken:
    return world.grant("me", ttl)


def claimed(world: World, ttl: int) -> LeaseToken:
    lease = world.grant("me", 1000)
    assert world.grant("me", ttl) == lease
    return lease


def renewed(world: World, ttl: int) -> LeaseToken:
    lease = world.grant("me", 1000)
    expect(world.renew(lease, ttl), "renewed")
    return lease


def revived(world: World, ttl: int) -> LeaseToken:
    lease = world.grant("me", 1000)
    world.lapse()
    expect(world.renew(lease, ttl), "renewed")
    return lease


WAYS: Final = (granted, claimed, renewed, revived)


@scenario
def a_run_does_not_expire_under_its_holder(world: World) -> None:
    """Grant, claim and renewal move head, log and etags, with one deadline, to the lease's end at least."""
    for way in WAYS:
        world.saves(None, 2, ttl=2 * MINUTE_MS)
        way(world, QUARTER_MS)
        deadlines = world.deadlines()
        assert len(set(deadlines)) == 1, f"{way.__name__}: {deadlines}"
        assert deadlines[0] >= lease_ends(world), way.__name__
        assert pttl(world, world.keys.head) <= QUARTER_MS
        world.client.delete(*world.all_keys)


@scenario
def a_lease_leaves_longer_lifetimes_alone(world: World) -> None:
    """A run without a lifetime, or with one longer than the lease, keeps it under any lease."""
    for way in WAYS:
        for ttl in (None, 2 * QUARTER_MS):
            world.saves(None, 2, ttl=ttl)
            before = world.deadlines()
            way(world, QUARTER_MS)
            assert world.deadlines() == before, way.__name__
            world.client.delete(*world.all_keys)


@scenario
def a_lease_does_not_shorten_the_memory_of_a_delete(world: World) -> None:
    """The etags of a deleted run outlive its short-lived successor, with or without a lease."""
    for way in WAYS:
        world.delete(world.save(None, "old"))
        world.save(None, "new", ttl=MINUTE_MS)
        etags = world.deadlines()[2]
        way(world, 5 * MINUTE_MS)
        head, log, left = world.deadlines()
        assert head == log >= lease_ends(world), way.__name__
        assert left == etags, way.__name__
        world.client.delete(*world.all_keys)


@scenario
def the_head_of_an_absent_run_expires(world: World) -> None:
    """It only remembers a fence: for 15 minutes, or for as long as the lease if that is longer."""
    for way in WAYS:
        for ttl, least in ((MINUTE_MS, QUARTER_MS), (4 * QUARTER_MS, 4 * QUARTER_MS)):
            lease = way(world, ttl)
            assert least - MINUTE_MS < pttl(world, world.keys.head) <= least, (way.__name__, ttl)
            assert ttl <= MINUTE_MS or lease_ends(world) <= world.deadlines()[0], way.__name__
            world.release(lease.holder)
            assert least - MINUTE_MS < pttl(world, world.keys.head) <= least, (way.__name__, ttl)
            assert world.client.exists(*world.all_keys) == 1
            world.client.hdel(world.keys.head, "left")  # the same name once more
            way(world, 1000)
            assert least - MINUTE_MS < pttl(world, world.keys.head), "a short lease shortened what is remembered"
            world.client.delete(*world.all_keys)
