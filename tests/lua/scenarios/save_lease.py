"""Scenarios of `save.lua`, `compare.lua` and `delete.lua`: what a lease and a fence refuse."""

from __future__ import annotations

from histstore.protocol.run import LeaseToken

from ..world import MINUTE_MS, QUARTER_MS, World
from .expectations import expect, expect_lost, expect_unchanged, lease_ends, pttl
from .registry import scenario
from .situations import MADE_UP


@scenario
def a_live_lease_locks_out_who_does_not_carry_it(world: World) -> None:
    """While a lease lives, save, compare and delete without it are locked out. The reply names its holder."""
    base = world.save(None, "a")
    mine = world.plan(base, "b")
    world.grant("other")
    before = world.dump()
    for reply in (world.send(mine), world.compare(base), world.send(world.deletion(base))):
        expect(reply, "locked", b"other")
        assert 50_000 < reply[2] <= 60_000
    expect_unchanged(world, before)


@scenario
def a_live_lease_locks_out_a_first_save(world: World) -> None:
    """The holder of an absent run is the one to create it. The lease locks out others even without a head."""
    world.grant("other")
    world.client.delete(world.keys.head)
    expect(world.send(world.plan(None, "a")), "locked", b"other")
    assert world.load() is None


@scenario
def a_live_lease_fences_another_holder(world: World) -> None:
    """A writer that carries another lease than the live one has lost its own, whatever its fence, even an equal one."""
    base = world.save(None, "a")
    world.plant("other", 9, remember=False)
    before = world.dump()
    for fence in (8, 9, 10):
        expect_lost(world, base, LeaseToken(fence, "me"), 9)
    expect_unchanged(world, before)


@scenario
def a_live_lease_fences_its_holders_older_one(world: World) -> None:
    """A holder's name with another fence than the live lease's is another lease."""
    base = world.save(None, "a")
    world.plant("me", 9, remember=False)
    before = world.dump()
    for fence in (8, 10):
        expect_lost(world, base, LeaseToken(fence, "me"), 9)
    expect_unchanged(world, before)


@scenario
def the_holder_saves_and_deletes(world: World) -> None:
    """The writer that carries the live lease may save, compare and delete."""
    base = world.save(None, "a")
    lease = world.grant("me")
    named = str(lease.fence).encode(), b"me"
    base = world.save(base, "b", lease=lease)
    expect(world.compare(base, lease), "same")
    assert (world.head("fence"), world.head("holder")) == named
    world.delete(base, lease=lease)
    assert (world.head("fence"), world.head("holder")) == named


@scenario
def a_fence_below_the_heads_has_lost(world: World) -> None:
    """Once a fence is granted, every lower fence is refused, even if no lease is live."""
    base = world.save(None, "a")
    fence = world.grant("next").fence
    world.lapse()
    before = world.dump()
    for holder in ("me", "next"):
        expect_lost(world, base, LeaseToken(fence - 1, holder), fence)
    expect_unchanged(world, before)


@scenario
def an_equal_fence_of_another_holder_has_lost(world: World) -> None:
    """Fences are compared together with their holders: two grants can fall in one millisecond."""
    base = world.save(None, "a")
    fence = world.grant("next").fence
    world.lapse()
    before = world.dump()
    expect_lost(world, base, LeaseToken(fence, "me"), fence)
    expect_unchanged(world, before)


@scenario
def a_lapsed_lease_that_the_head_still_names_is_accepted(world: World) -> None:
    """Nobody else was granted the run meanwhile, so the late holder's work is accepted."""
    base = world.save(None, "a")
    lease = world.grant("me")
    world.lapse()
    expect(world.compare(base, lease), "same")
    base = world.save(base, "b", lease=lease)
    world.delete(base, lease=lease)


@scenario
def a_released_lease_has_lost(world: World) -> None:
    """An empty holder in the head means released: the former holder has given the run up, or was broken."""
    base = world.save(None, "a")
    world.plant("me", 9)
    world.client.hset(world.keys.head, "holder", "")
    world.lapse()
    before = world.dump()
    expect_lost(world, base, LeaseToken(9, "me"), 9)
    expect_unchanged(world, before)


@scenario
def a_head_that_names_no_holder_accepts_an_equal_fence(world: World) -> None:
    """A head that names no holder refuses nobody with an equal fence."""
    base = world.save(None, "a")
    lease = LeaseToken(9, "me")
    world.client.hset(world.keys.head, "fence", "9")
    expect(world.compare(base, lease), "same")
    base = world.save(base, "b", lease=lease)
    world.client.hdel(world.keys.head, "holder")
    world.delete(base, lease=lease)


@scenario
def without_a_lease_a_lapsed_one_is_no_hindrance(world: World) -> None:
    """A lapsed lease locks nobody out."""
    base = world.save(None, "a")
    fence = world.grant("other").fence
    world.lapse()
    expect(world.compare(base), "same")
    base = world.save(base, "b")
    assert world.head("fence") == str(fence).encode()
    world.delete(base)


@scenario
def an_accepted_save_raises_the_fence(world: World) -> None:
    """A save with a fence above the head's fences every lower one, even if no grant wrote it there."""
    base = world.save(None, "a")
    base = world.save(base, "b", lease=LeaseToken(9, "next"))
    expect(world.send(world.plan(base, "c", lease=LeaseToken(8, "me"))), "lost", b"9")
    expect(world.send(world.plan(base, "c", lease=LeaseToken(9, "me"))), "lost", b"9")


@scenario
def a_holders_later_lease_raises_the_fence(world: World) -> None:
    """A holder that holds a run twice is fenced out of the first time."""
    base = world.save(None, "a", lease=LeaseToken(5, "me"))
    base = world.save(base, "b", lease=LeaseToken(9, "me"))
    expect_lost(world, base, LeaseToken(8, "me"), 9)
    world.save(base, "c", lease=LeaseToken(9, "me"))


@scenario
def a_save_names_its_holder_where_the_head_names_none(world: World) -> None:
    """If two grants have one fence, the first that saves is the holder."""
    base = world.save(None, "a")
    world.client.hset(world.keys.head, "fence", "9")
    base = world.save(base, "b", lease=LeaseToken(9, "me"))
    expect_lost(world, base, LeaseToken(9, "other"), 9)


@scenario
def lease_before_conflict(world: World) -> None:
    """A writer with neither the lease nor the newest revision hears of the lease, so that it waits before it merges."""
    base = world.save(None, "a")
    stale, stale_lost = world.plan(base, "b"), world.plan(base, "b", lease=MADE_UP)
    world.save(base, "rival")
    world.grant("other")
    expect(world.send(stale), "locked")
    expect(world.send(stale_lost), "lost")
    expect(world.compare(base), "locked")
    expect(world.send(world.deletion(base)), "locked")


@scenario
def a_save_does_not_cut_a_run_below_its_lease(world: World) -> None:
    """A save or compare with a lease may ask for a lifetime that ends before the lease. The longer one counts."""
    for ttl, lasts in ((1000, QUARTER_MS), (2 * QUARTER_MS, 2 * QUARTER_MS)):
        for present in (False, True):
            base = world.save(None, "a", ttl=4 * QUARTER_MS) if present else None
            lease = world.grant("me", QUARTER_MS)
            base = world.save(base, "b", lease=lease, ttl=ttl)
            for _ in range(2):
                deadlines = world.deadlines()
                assert len(set(deadlines)) == 1, deadlines
                assert deadlines[0] >= lease_ends(world) - 1000, "the save cut the run below its lease"
                assert lasts - MINUTE_MS < pttl(world, world.keys.head) <= lasts
                expect(world.compare(base, lease, ttl=ttl), "same")
            world.client.delete(*world.all_keys)


@scenario
def a_lapsed_lease_does_not_lengthen_a_lifetime(world: World) -> None:
    """Only the lease's remaining time counts, and a lapsed lease has none."""
    base = world.save(None, "a", ttl=QUARTER_MS)
    lease = world.grant("me")
    world.lapse()
    base = world.save(base, "b", lease=lease, ttl=MINUTE_MS)
    assert 0 < pttl(world, world.keys.head) <= MINUTE_MS
    expect(world.compare(base, lease, ttl=MINUTE_MS // 2), "same")
    assert 0 < pttl(world, world.keys.head) <= MINUTE_MS // 2
