"""Scenarios of `save.lua`: the lifetimes of a run."""

from __future__ import annotations

import time

from histstore.protocol.run import LeaseToken

from ..world import MINUTE_MS, QUARTER_MS, World
from .expectations import expect, expect_confirmed
from .registry import scenario


@scenario
def one_deadline_for_all_keys(world: World) -> None:
    """Head, log and etags expire in the same millisecond, whether a save or a compare set it."""
    base = world.save(None, "a", ttl=500_000)
    deadlines = [world.deadlines()]
    base = world.save(base, "b", ttl=700_000)
    deadlines.append(world.deadlines())
    base = world.save(base, "c", ttl=800_000, full=True)
    deadlines.append(world.deadlines())
    expect(world.compare(base, ttl=900_000), "same")
    deadlines.append(world.deadlines())
    base = world.save(base, "d")
    deadlines.append(world.deadlines())
    seconds, micros = world.client.time()
    now = seconds * 1000 + micros // 1000
    for found, ttl in zip(deadlines, (500_000, 700_000, 800_000, 900_000, 900_000), strict=True):
        assert len(set(found)) == 1, f"deadlines differ: {found}"
        assert now + ttl - 60_000 < found[0] <= now + ttl, f"{found[0] - now} ms from now, not {ttl}"


@scenario
def a_save_early_in_a_second_has_its_time(world: World) -> None:
    """The server gives microseconds without leading zeros. The time of the save has all of its digits."""
    base, micros = None, 100_000
    while micros >= 100_000:  # a busy machine comes late
        _, micros = world.client.time()
        time.sleep(max(0.0, 1.001 - micros / 1e6))
        save = world.plan(base, "a")
        reply, base = world.send(save), save.after
        seconds, micros = world.client.time()
    expect(reply, "saved")
    assert 0 <= seconds * 1000 + micros // 1000 - int(reply[1]) < 500, reply


@scenario
def without_a_lifetime_a_run_is_for_ever(world: World) -> None:
    """The remains of a deleted run expire, but a run that is created on top of them does not."""
    old = world.save(None, "old", lease=LeaseToken(5, "me"))
    world.delete(old, lease=LeaseToken(5, "me"))
    left = [world.client.pttl(world.keys.head), world.client.pttl(world.keys.etags)]
    assert all(0 < ttl <= QUARTER_MS for ttl in left), left
    base = world.save(None, "new")
    assert world.deadlines() == [-1, -1, -1], world.deadlines()
    world.save(base, "more")
    assert world.deadlines() == [-1, -1, -1], world.deadlines()


@scenario
def a_save_without_a_lifetime_leaves_one_alone(world: World) -> None:
    """A save without a lifetime leaves a lifetime from elsewhere as it is."""
    base = world.save(None, "a", ttl=500_000)
    before = world.deadlines()
    world.save(base, "b")
    assert world.deadlines() == before


@scenario
def a_lifetime_can_be_shortened(world: World) -> None:
    """Head and log live as the newest save says. The etags may outlive them, but by no more than 15 minutes."""
    base = world.save(None, "a", ttl=4 * QUARTER_MS)
    base = world.save(base, "b", ttl=MINUTE_MS)
    assert len(set(world.deadlines())) == 1, world.deadlines()
    assert 0 < world.client.pttl(world.keys.head) <= MINUTE_MS
    world.save(base, "c", ttl=MINUTE_MS // 2)
    head, log, etags = world.deadlines()
    assert head == log <= etags, (head, log, etags)
    assert 0 < world.client.pttl(world.keys.head) <= MINUTE_MS // 2


@scenario
def a_lifetime_that_is_over_at_once_leaves_nothing_immortal(world: World) -> None:
    """Keys that expire while the script runs are gone after it: no log without a head, no head without a lifetime."""
    for present, ttl in ((False, None), (True, None), (True, MINUTE_MS)):
        onto = world.saves(None, 2, ttl=ttl) if present else None
        expect(world.send(world.plan(onto, "b", ttl=0)), "saved")
        assert not world.client.exists(world.keys.head, world.keys.log)
        assert world.load() is None


@scenario
def a_short_lived_successor_does_not_shorten_the_memory_of_a_delete(world: World) -> None:
    """The memory of a deleted run outlives a short-lived successor."""
    first = world.plan(None, "old")
    world.send(first)
    world.delete(first.after)
    new = world.save(None, "new", ttl=MINUTE_MS)
    world.save(new, "more", ttl=MINUTE_MS)
    assert world.client.pttl(world.keys.head) <= MINUTE_MS
    assert world.client.pttl(world.keys.etags) > QUARTER_MS - MINUTE_MS
    expect_confirmed(world, first)
