"""Scenarios of `save.lua`: when the outcome of earlier copies cannot be known."""

from __future__ import annotations

from collections.abc import Callable

from ..world import World
from .expectations import expect, expect_unchanged
from .registry import scenario
from .situations import without_mark


@scenario
def a_resend_older_than_the_list_is_gone(world: World) -> None:
    """After 256 later saves nobody can know whether a save was applied: neither saved nor conflict."""
    base = world.save(None, "a")
    applied = world.plan(base, "b")
    world.send(applied)
    missed = world.plan(base, "c")
    head = world.saves(applied.after, 256, full=True)
    for mine in (applied, missed):
        expect(world.resolve(mine), "gone", b"258", head.head.etag)
    applied, missed = without_mark(world, applied), without_mark(world, missed)
    expect(world.send(applied, resend=True), "gone", b"258", head.head.etag)
    expect(world.send(missed, resend=True), "gone", b"258", head.head.etag)


@scenario
def a_resend_older_than_the_list_is_gone_under_any_lease(world: World) -> None:
    """An applied save was forgotten. The answer is neither locked nor lost: both would say that nothing was written."""
    applied = world.plan(world.save(None, "a"), "b")
    world.send(applied)
    with_lease = world.plan(applied.after, "c", lease=world.grant("me"))
    world.send(with_lease)
    world.lapse()
    rival = world.grant("rival")
    head = world.saves(with_lease.after, 300, full=True, lease=rival)
    before = world.dump()
    for save in (applied, with_lease):
        for _ in range(2):
            expect(world.send(save, resend=True), "gone", b"303", head.head.etag)
        assert world.marked(save)
        expect(world.send(save), "locked" if save is applied else "lost")
    expect_unchanged(world, before)
    assert world.leased() == rival


@scenario
def a_second_resend_after_gone_is_gone(world: World) -> None:
    """The mark that gone leaves is for first copies. A second resend must not hear that nothing was written."""
    applied = world.plan(world.save(None, "a"), "b")
    world.send(applied)
    head = world.saves(applied.after, 300, full=True)
    for _ in range(3):
        expect(world.send(applied, resend=True), "gone", b"302", head.head.etag)
        assert world.marked(applied)
        expect(world.send(applied), "conflict")


@scenario
def without_an_origin_a_first_save_is_gone(world: World) -> None:
    """Runs of an earlier version have no origin. Their first saves are gone, even after the delete of such a run."""
    applied, missed = world.plan(None, "a"), world.plan(None, "missed")
    world.send(applied)
    head = world.saves(applied.after, 300, full=True)
    world.client.hdel(world.keys.head, "origin")
    steps: dict[bytes, Callable[[], object]] = {
        b"301": lambda: None, b"": lambda: world.delete(head), b"1": lambda: world.save(None, "new"),
    }  # fmt: skip
    for version, step in steps.items():
        step()
        if version == b"301":
            expect(world.send(world.deletion(None, read=b""), resend=True), "gone", version)
        for mine in (applied, missed):
            assert world.send(without_mark(world, mine), resend=True)[:2] == ["gone", version]
            assert world.marked(mine)
            expect(world.resolve(without_mark(world, mine)), "gone", version)
    expect(world.send(without_mark(world, missed)), "conflict", b"1")


@scenario
def a_resend_after_the_run_vanished_is_gone(world: World) -> None:
    """After DEL, FLUSHALL or expiry nobody knows whether a save was applied."""
    base = world.save(None, "a")
    mine = world.plan(base, "b")
    world.vanish()
    expect(world.send(mine), "conflict", b"", b"")
    expect(world.send(mine, resend=True), "gone", b"", b"")
    other = world.save(None, "new")
    without_mark(world, mine)
    expect(world.send(mine, resend=True), "gone", b"1", other.head.etag)
    expect(world.resolve(mine), "gone", b"1", other.head.etag)


@scenario
def a_resend_that_the_list_reaches_conflicts(world: World) -> None:
    """While the list reaches back to the parent, a lost race is a conflict."""
    base = world.save(None, "a")
    mine, first = world.plan(base, "b"), world.plan(None, "new")
    head = world.saves(base, 20)
    expect(world.send(mine, resend=True), "conflict", b"21", head.head.etag)
    expect(world.send(first, resend=True), "conflict", b"21", head.head.etag)
