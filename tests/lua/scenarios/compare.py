"""Scenarios of `compare.lua`, and of comparing etags in `save.lua` and `delete.lua`."""

from __future__ import annotations

from ..world import MINUTE_MS, QUARTER_MS, World
from .expectations import expect, expect_confirmed, expect_unchanged
from .registry import scenario


@scenario
def of_two_writers_at_one_revision_the_later_conflicts(world: World) -> None:
    """Of two writers at one revision, the later one is answered with the current revision, and writes nothing."""
    base = world.save(None, "a")
    stale = world.plan(base, "b", "c")
    newer = world.save(base, "rival")
    before = world.dump()
    for reply in (world.send(stale), world.send(world.plan(None, "new")), world.compare(base)):
        expect(reply, "conflict", b"2", newer.head.etag)
    expect(world.send(world.deletion(base)), "conflict", b"2", newer.head.etag)
    expect_unchanged(world, before)


@scenario
def the_same_version_of_another_incarnation_conflicts(world: World) -> None:
    """ABA: a deleted and recreated run has the same version number, but another revision."""
    old = world.save(None, "old")
    stale, doomed = world.plan(old, "b"), world.deletion(old)
    world.delete(old)
    new = world.save(None, "new")
    assert new.head.version == old.head.version
    expect(world.send(stale), "conflict", b"1", new.head.etag)
    expect(world.compare(old), "conflict", b"1", new.head.etag)
    expect(world.send(doomed), "conflict", b"1", new.head.etag)
    assert world.load() == ["new"]


@scenario
def a_save_onto_a_deleted_run_conflicts(world: World) -> None:
    """The run is absent, but its list still proves that the save was not applied: the answer is not gone."""
    base = world.save(None, "a")
    mine = world.plan(base, "b")
    world.delete(base)
    expect(world.send(mine), "conflict", b"", b"")
    expect(world.compare(base), "conflict", b"", b"")
    expect(world.send(mine, resend=True), "conflict", b"", b"")


@scenario
def content_that_did_not_change_is_confirmed(world: World) -> None:
    """A compare at the head answers with the time of the save, and without a lifetime it writes nothing."""
    base = world.save(None, "a")
    before = world.dump()
    expect(world.compare(base), "same", world.head("saved"))
    expect_unchanged(world, before)
    assert world.deadlines() == [-1, -1, -1]


@scenario
def a_compare_does_not_shorten_the_memory_of_a_delete(world: World) -> None:
    """The memory of a deleted run outlives a successor whose short lifetime is renewed."""
    first = world.plan(None, "old")
    world.send(first)
    world.delete(first.after)
    new = world.save(None, "new", ttl=MINUTE_MS)
    expect(world.compare(new, ttl=MINUTE_MS), "same")
    assert 0 < world.client.pttl(world.keys.head) <= MINUTE_MS
    assert world.client.pttl(world.keys.etags) > QUARTER_MS - MINUTE_MS
    expect_confirmed(world, first)


@scenario
def a_compare_can_shorten_a_lifetime(world: World) -> None:
    """A compare shortens the etags' lifetime too, if that is longer than 15 minutes."""
    base = world.save(None, "a", ttl=4 * QUARTER_MS)
    expect(world.compare(base, ttl=MINUTE_MS), "same")
    assert len(set(world.deadlines())) == 1, world.deadlines()
    assert 0 < world.client.pttl(world.keys.head) <= MINUTE_MS
