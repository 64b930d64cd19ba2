"""Scenarios of `save.lua` and `compare.lua`: a damaged run takes no save."""

from __future__ import annotations

from ..world import QUARTER_MS, World
from .expectations import expect, expect_unchanged
from .registry import scenario
from .situations import MADE_UP


@scenario
def a_newer_format_is_left_alone(world: World) -> None:
    """A run in a newer format takes no save. The reply names the format."""
    base = world.save(None, "a")
    world.client.hset(world.keys.head, "format", "2")
    before = world.dump()
    expect(world.send(world.plan(base, "b")), "format", b"2")
    expect(world.compare(base), "format", b"2")
    expect_unchanged(world, before)


@scenario
def a_log_without_a_head_takes_no_save(world: World) -> None:
    """A first save onto a run whose head is gone reports damage, neither success nor a conflict."""
    base = world.save(None, "a")
    world.client.delete(world.keys.head)
    before = world.dump()
    expect(world.send(world.plan(None, "b")), "corrupt", b"")
    expect(world.compare(base), "corrupt", b"")
    expect_unchanged(world, before)


@scenario
def a_head_without_a_log_takes_no_save(world: World) -> None:
    """A save onto a run whose log is gone is refused: acknowledging it would hide the damage."""
    base = world.saves(None, 2)
    world.client.delete(world.keys.log)
    before = world.dump()
    expect(world.send(world.plan(base, "b")), "corrupt", b"2")
    expect(world.compare(base), "corrupt", b"2")
    expect_unchanged(world, before)


@scenario
def a_missing_entry_takes_no_save(world: World) -> None:
    """A save onto a log with a hole is refused: acknowledging it would hide the damage."""
    base = world.saves(None, 3)
    world.client.xdel(world.keys.log, "0-2")
    before = world.dump()
    expect(world.send(world.plan(base, "b")), "corrupt", b"3")
    expect(world.compare(base), "corrupt", b"3")
    expect_unchanged(world, before)


@scenario
def a_head_whose_numbers_are_none_takes_no_save(world: World) -> None:
    """A `version` or `first` that is not a number is damage, not a script error."""
    for name in ("version", "first"):
        base = world.save(None, "a")
        world.client.hset(world.keys.head, name, "x")
        expect(world.send(world.plan(base, "b")), "corrupt")
        expect(world.compare(base), "corrupt")
        world.delete(base)


@scenario
def a_span_past_the_checkpoint_trims_nothing(world: World) -> None:
    """A damaged span would trim the entries that readers start from, so the save is refused."""
    base = world.saves(None, 3)
    world.client.hset(world.keys.head, "spans", "1:3")
    before = world.dump()
    expect(world.send(world.plan(base, "b")), "corrupt", b"3")
    expect_unchanged(world, before)
    assert world.load() == ["message 0", "message 1", "message 2"]


@scenario
def a_list_of_a_foreign_type_fails_a_save_and_stays(world: World) -> None:
    """A foreign type in place of the etags fails every save before it has left a trace."""
    base = world.saves(None, 2)
    plans = [world.plan(base, "b"), world.plan(base, "b", ttl=QUARTER_MS), world.plan(base, "b", lease=MADE_UP)]
    world.foreign(world.keys.etags)
    before, deadlines = world.dump(), world.deadlines()
    for mine in plans:
        for reply in (world.send(mine), world.send(mine, resend=True)):
            expect(reply, "failed")
            assert b"WRONGTYPE" in reply[1], reply
        expect_unchanged(world, before)
        assert world.deadlines() == deadlines
    world.vanish()
    world.foreign(world.keys.etags)
    before = world.dump()
    assert "WRONGTYPE" in str(world.try_(world.plan(None, "a")))
    expect_unchanged(world, before)
