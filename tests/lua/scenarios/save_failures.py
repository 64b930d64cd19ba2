"""Scenarios of `save.lua`: a save that fails half-way changes nothing."""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Final

import redis

from histstore.protocol.run import LeaseToken

from ..sending import Save, commands, few
from ..world import MINUTE_MS, QUARTER_MS, World
from .expectations import expect
from .registry import scenario
from .situations import contents

SAVE_WRITES: Final = (
    "HSET", "HDEL", "LTRIM", "RPUSH", "PEXPIREAT", "PERSIST", "PEXPIRE", "XTRIM", "XADD",
)  # fmt: skip


def save_situations(world: World) -> list[tuple[str, Save]]:
    """Return saves by the path that they take through the script, each with its label."""
    old = world.save(None, "old", lease=LeaseToken(5, "me"))
    base = world.saves(old, 2)
    return [
        ("a later save", world.plan(base, "b")),
        ("with a lifetime", world.plan(base, "b", ttl=QUARTER_MS)),
        ("with trimming", world.plan(base, "b", full=True)),
        ("with everything", world.plan(base, "b", full=True, ttl=QUARTER_MS, lease=LeaseToken(6, "me"), meta={"a": 1})),
    ]


def fails_half_way(world: World, mine: Save, limited: redis.Redis, content: list[str], label: str) -> bool:
    before = contents(world)
    reply = world.try_(mine, by=limited)
    if isinstance(reply, list) and reply[0] == "saved":
        assert world.load() == content, label
        return False
    assert isinstance(reply, Exception) or reply[0] == "failed", f"{label}: {reply}"
    assert contents(world) == before, f"{label}: {reply} left something behind"
    return True


@scenario
def a_save_that_fails_half_way_changes_nothing(world: World) -> None:
    """Row 22: with any one or two commands forbidden, a save writes all or nothing, and can be repeated."""
    failures = 0
    with world.limited() as without:
        for number in range(4):
            for denied in few(SAVE_WRITES):
                world.client.delete(*world.data_keys, world.keys.marks)
                label, mine = save_situations(world)[number]
                label = f"{label} without {denied}"
                content = ["old", "message 0", "message 1", "b"]
                if fails_half_way(world, mine, without(denied), content, label):
                    failures += 1
                    expect(world.send(mine, resend=True), "saved")
                    assert world.load() == content, label
                world.save(mine.after, "c")
                assert world.load() == [*content, "c"], label
    assert failures > 60, failures


@scenario
def a_first_save_that_fails_half_way_changes_nothing(world: World) -> None:
    """Row 22, for the save that creates a run, on nothing or on the remains of a delete."""
    failures = 0
    with world.limited() as without:
        for ttl in (None, QUARTER_MS):
            for deleted in (False, True):
                for denied in few(SAVE_WRITES):
                    world.client.delete(*world.data_keys, world.keys.marks)
                    if deleted:
                        world.delete(world.save(None, "old"), lease=LeaseToken(5, "me"))
                    mine = world.plan(None, "b", ttl=ttl)
                    label = f"ttl={ttl}, deleted={deleted}, without {denied}"
                    if fails_half_way(world, mine, without(denied), ["b"], label):
                        failures += 1
                        assert world.load() is None, label
                        expect(world.send(mine, resend=True), "saved")
                    assert world.load() == ["b"], label
    assert failures > 60, failures


@scenario
def a_first_save_that_fails_leaves_no_key_and_no_immortal_one(world: World) -> None:
    """A failed first save creates nothing, and the remains of a delete still expire."""
    with world.limited() as without:
        expect(world.send(world.plan(None, "a"), by=without(["XADD"])), "failed")
        assert not world.client.exists(*world.data_keys)
        world.delete(world.save(None, "old"), lease=LeaseToken(5, "me"))
        expect(world.send(world.plan(None, "a"), by=without(["XADD"])), "failed")
        left = [world.client.pttl(world.keys.head), world.client.pttl(world.keys.etags)]
        assert all(0 < ttl <= QUARTER_MS for ttl in left), left


@scenario
def a_full_list_survives_a_failed_save(world: World) -> None:
    """A save that fails half-way costs a full list its oldest etag at most."""
    base = world.saves(None, 256, full=True)
    before = world.dump()
    with world.limited() as without:
        for denied in (["XADD"], ["LTRIM"], ["RPUSH"], ["RPUSH", "XADD"], ["LTRIM", "XADD"]):
            world.restore(before)
            mine = world.plan(base, "b")
            expect(world.send(mine, by=without(denied)), "failed")
            assert world.etags()[-255:] == [save.etag for save in world.applied[-255:]], denied
            expect(world.send(mine, resend=True), "saved")
            world.applied.pop()
    assert world.client.llen(world.keys.etags) == 256


def save_paths(world: World) -> list[tuple[str, Callable[[], Save]]]:
    """Return functions that make a run and plan a save onto it, each with a label; each takes another path."""

    def fresh(ttl: int | None) -> Save:
        return world.plan(None, "x", ttl=ttl)

    def deleted(ttl: int | None) -> Save:
        world.delete(world.save(None, "old"), lease=LeaseToken(5, "me"))
        return world.plan(None, "x", ttl=ttl)

    def lasting(ttl: int | None) -> Save:
        return world.plan(world.saves(None, 2), "x", ttl=ttl, full=True)

    def mortal(ttl: int | None) -> Save:
        return world.plan(world.saves(None, 2, ttl=QUARTER_MS), "x", ttl=ttl)

    def long_lived(ttl: int | None) -> Save:
        return world.plan(world.saves(None, 2, ttl=4 * QUARTER_MS), "x", ttl=ttl)

    return [
        (f"{way.__name__}, ttl={ttl}", functools.partial(way, ttl))
        for way in (fresh, deleted, lasting, mortal, long_lived)
        for ttl in (None, MINUTE_MS, 2 * QUARTER_MS)
    ]


@scenario
def no_forbidden_command_leaves_half_a_save(world: World) -> None:
    """Row 22: whichever command is forbidden, an etag is in the list only with its entry, and lifetimes stay.

    Whether the script raises or answers `failed`: no resend is answered "saved" for an entry that the log lacks.
    """
    failures: set[str] = set()
    with world.limited() as without:
        for denied in sorted(commands("save"), reverse=True):  # sooner at what the guards are about
            for way, way_to in save_paths(world):
                label = f"{way}, without {denied}"
                world.client.delete(*world.data_keys, world.keys.marks)
                mine = way_to()
                content, deadlines, before = world.load(), world.deadlines(), contents(world)
                reply = world.try_(mine, by=without([denied]))
                saved = isinstance(reply, list) and reply[0] == "saved"
                assert (mine.etag in world.etags()) == saved, f"{label}: {reply}"
                assert (world.head("etag") == mine.etag) == saved, f"{label}: {reply}"
                if not saved:
                    failures.add(denied)
                    assert contents(world) == before, f"{label}: {reply} left something behind"
                    world.expire_alike(deadlines, label)
                assert world.load() == ([*(content or ()), "x"] if saved else content), label
                expect(world.send(mine, resend=True), "saved")
                assert world.load() == [*(content or ()), "x"], label
    assert failures >= {
        "EXISTS", "HMGET", "XLEN", "LPOS", "TIME", "PTTL", "HSET", "LTRIM", "RPUSH", "XADD",
    }, failures  # fmt: skip


@scenario
def a_failed_save_leaves_lifetimes_as_they_were(world: World) -> None:
    """Head, log and etags keep their lifetimes, with and without a lifetime in the save, on an absent run too."""
    with world.limited() as without:
        by = without(["XADD"])
        for way, way_to in save_paths(world):
            mine = way_to()
            deadlines, before = world.deadlines(), contents(world)
            expect(world.send(mine, by=by), "failed")
            assert contents(world) == before, way
            world.expire_alike(deadlines, way)
            world.vanish()


@scenario
def a_failed_save_gives_no_lifetime_though_persist_is_forbidden(world: World) -> None:
    """A run without a lifetime keeps none: a save gives one only where it can be removed again."""
    with world.limited() as without:
        for denied in (["PERSIST"], ["XADD"], ["XADD", "PERSIST"]):
            base = world.save(None, "a")
            expect(world.send(world.plan(base, "b", ttl=MINUTE_MS), by=without(denied)), "failed")
            assert world.deadlines() == [-1, -1, -1], f"without {denied}: {world.deadlines()}"
            world.vanish()


@scenario
def a_failed_save_takes_no_lifetime_though_setting_one_is_forbidden(world: World) -> None:
    """A lifetime that cannot be set cannot be restored either, so it is not removed first."""
    base = world.save(None, "a", ttl=QUARTER_MS)
    deadlines = world.deadlines()
    with world.limited() as without:
        expect(world.send(world.plan(base, "b", ttl=2 * QUARTER_MS), by=without(["PEXPIREAT"])), "failed")
    assert world.deadlines() == deadlines
