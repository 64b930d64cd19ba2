"""Scenarios of `resolve.lua`."""

from __future__ import annotations

from ..world import QUARTER_MS, World
from .expectations import expect
from .registry import scenario


@scenario
def a_late_copy_after_never_is_not_applied(world: World) -> None:
    """After resolve has said never, neither the first copy nor a resend is applied."""
    base = world.save(None, "a")
    for resend in (False, True):
        mine = world.plan(base, "b")
        expect(world.resolve(mine), "never")
        expect(world.send(mine, resend=resend), "cancelled")
    left = world.client.pttl(world.keys.marks)
    assert 0 < left <= QUARTER_MS, f"the marks live {left} ms"
    assert world.load() == ["a"]
    world.save(base, "c")
    assert world.load() == ["a", "c"]


@scenario
def a_late_copy_of_a_first_save_after_never_is_not_applied(world: World) -> None:
    """After resolve has said never about a first save, no copy of it creates the run."""
    mine = world.plan(None, "a")
    expect(world.resolve(mine), "never")
    for resend in (False, True):
        expect(world.send(mine, resend=resend), "cancelled")
    assert world.load() is None


@scenario
def a_late_copy_after_resolve_said_gone_is_not_applied(world: World) -> None:
    """After resolve has said gone, no copy is applied either."""
    base = world.save(None, "a")
    before = world.dump()
    world.vanish()
    mine = world.plan(base, "b")
    expect(world.resolve(mine), "gone", b"", b"")
    world.restore(before)
    expect(world.send(mine), "cancelled")


@scenario
def a_late_delete_after_never_is_not_applied(world: World) -> None:
    """After resolve has said never about a delete, no copy of it deletes."""
    base = world.save(None, "a")
    mine = world.deletion(base)
    expect(world.resolve(mine), "never")
    expect(world.send(mine), "cancelled")
    expect(world.send(mine, resend=True), "cancelled")
    assert world.load() == ["a"]


@scenario
def a_first_save_is_never_applied_after_never(world: World) -> None:
    """The mark of the first answer is not taken for the mark of an applied save."""
    mine = world.plan(None, "a")
    for _ in range(2):
        expect(world.resolve(mine), "never")
        assert 0 < world.client.pttl(world.keys.marks) <= QUARTER_MS
    world.save(None, "rival")
    expect(world.resolve(mine), "never")
    expect(world.send(mine), "conflict")


@scenario
def never_needs_no_list_where_the_head_decides(world: World) -> None:
    """A save was not applied if its parent is the head or in the list, and the save itself is in neither."""
    base = world.save(None, "a")
    missed = world.plan(base, "b")
    newer = world.save(base, "rival")
    expect(world.resolve(missed), "never")
    world.client.delete(world.keys.etags)
    expect(world.resolve(world.plan(newer, "c")), "never")


@scenario
def resolve_accepts_a_version_that_is_no_number(world: World) -> None:
    """A damaged version is not a script error, and hides nothing that is known of saves."""
    mine, base = world.plan(None, "b"), world.save(None, "a")
    world.client.hset(world.keys.head, "version", "x")
    expect(world.resolve(mine), "never")
    expect(world.resolve(world.plan(base, "c")), "never")
    expect(world.resolve(world.plan(mine.after, "c")), "gone", b"x")
    assert world.marked(mine)
