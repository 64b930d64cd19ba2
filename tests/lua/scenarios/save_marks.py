"""Scenarios of `save.lua` and `delete.lua`: a refused write stays refused."""

from __future__ import annotations

from collections.abc import Callable

from histstore.protocol.run import LeaseToken

from ..sending import Save
from ..world import QUARTER_MS, World
from .expectations import expect, expect_unchanged
from .registry import scenario


def refuse_then_deliver(world: World, mine: Save, kind: str, heal: Callable[[], object], *leftover: str) -> None:
    """Refuse a resend, remove the reason with `heal`, and deliver late copies: they must be cancelled."""
    expect(world.send(mine, resend=True), kind)
    assert world.marked(mine), f"{kind}: a refused resend left no mark"
    left = world.client.pttl(world.keys.marks)
    assert 0 < left <= QUARTER_MS, f"the marks live {left} ms"
    heal()
    before = world.dump()
    for resend in (False, True):
        expect(world.send(mine, resend=resend), "cancelled")
    expect_unchanged(world, before)


@scenario
def a_late_copy_after_locked_is_not_applied(world: World) -> None:
    """A resend was refused as locked. The lease lapses, and the first copy arrives."""
    base = world.save(None, "a")
    world.grant("other")
    refuse_then_deliver(world, world.plan(base, "b"), "locked", world.lapse)


@scenario
def a_late_copy_after_lost_to_a_live_lease_is_not_applied(world: World) -> None:
    """A resend lost to a live lease. The lease lapses, and the first copy arrives."""
    base = world.save(None, "a")
    world.plant("other", 9, remember=False)
    refuse_then_deliver(world, world.plan(base, "b", lease=LeaseToken(10, "me")), "lost", world.lapse)


@scenario
def a_late_copy_after_lost_to_a_fence_is_not_applied(world: World) -> None:
    """A resend lost to a fence. A failover forgets that fence, and the first copy arrives."""
    base = world.save(None, "a")
    before = world.dump()
    world.client.hset(world.keys.head, mapping={"fence": 9, "holder": "other"})
    mine = world.plan(base, "b", lease=LeaseToken(8, "me"))
    refuse_then_deliver(world, mine, "lost", lambda: world.restore(before))


@scenario
def a_late_copy_after_conflict_is_not_applied(world: World) -> None:
    """A resend conflicted. A failover forgets the rival's save, and the first copy arrives."""
    base = world.save(None, "a")
    before = world.dump()
    world.save(base, "rival")
    refuse_then_deliver(world, world.plan(base, "b"), "conflict", lambda: world.restore(before))


@scenario
def a_late_copy_after_gone_is_not_applied(world: World) -> None:
    """A resend found no trace of the run. The run comes back, and the first copy arrives."""
    base = world.save(None, "a")
    before = world.dump()
    world.vanish()
    refuse_then_deliver(world, world.plan(base, "b"), "gone", lambda: world.restore(before))


@scenario
def a_late_copy_after_corrupt_is_not_applied(world: World) -> None:
    """A resend found damage, of each kind in turn. The damage goes, and the first copy arrives."""
    base = world.saves(None, 3)
    before = world.dump()
    damages: list[Callable[[], object]] = [
        lambda: world.client.delete(world.keys.log),
        lambda: world.client.hset(world.keys.head, "spans", "1:3"),
    ]
    for damage in damages:
        damage()
        refuse_then_deliver(world, world.plan(base, "late"), "corrupt", lambda: world.restore(before))
    world.client.delete(world.keys.head)
    mine = world.plan(None, "late")
    expect(world.send(mine, resend=True), "corrupt")
    world.delete(None)
    expect(world.send(mine), "cancelled")
    assert world.load() is None


@scenario
def a_late_copy_after_format_is_not_applied(world: World) -> None:
    """A resend found a newer format. A failover forgets that, and the first copy arrives."""
    base = world.save(None, "a")
    before = world.dump()
    world.client.hset(world.keys.head, "format", "2")
    refuse_then_deliver(world, world.plan(base, "b"), "format", lambda: world.restore(before))


@scenario
def a_copy_of_a_refused_first_send_is_refused_too(world: World) -> None:
    """The reason of a refusal goes, and a copy arrives that no sender knows of: it is not applied."""
    base = world.save(None, "a")
    world.grant("other")
    save, delete, first = world.plan(base, "b"), world.deletion(base), world.plan(None, "b")
    for _ in range(2):  # the same reason again for as long as it holds: the sender may hear any copy's answer
        expect(world.send(save), "locked", b"other")
        expect(world.send(delete), "locked", b"other")
    world.lapse()
    for _ in range(2):
        expect(world.send(first), "conflict")
    for mine in (save, delete):
        expect(world.send(mine), "cancelled")
    assert world.load() == ["a"]
    world.delete(base)
    expect(world.send(first), "cancelled")
    assert world.load() is None
    late = world.deletion(None, read=b"")
    base = world.save(None, "c")
    expect(world.send(late), "conflict")
    world.client.delete(world.keys.head)
    expect(world.send(late), "cancelled")
    assert 0 < world.client.pttl(world.keys.marks) <= QUARTER_MS


@scenario
def a_refusal_that_stays_true_leaves_no_mark(world: World) -> None:
    """A head never returns to a parent that it has left, and fences never fall, so every copy is refused as well."""
    base = world.save(None, "a")
    lease = world.grant("me")
    world.lapse()
    newer = world.save(base, "rival", lease=world.grant("rival"))
    world.lapse()
    lost = world.plan(newer, "b", lease=lease)
    for mine in (world.plan(base, "b"), world.deletion(base)):
        expect(world.send(mine), "conflict", b"2", newer.head.etag)
    expect(world.send(lost), "lost")
    expect(world.send(world.deletion(newer, lease)), "lost")
    assert not world.client.exists(world.keys.marks)


@scenario
def old_marks_go_while_new_ones_come(world: World) -> None:
    """A run whose saves are refused again and again keeps only the marks of a quarter of an hour."""
    base = world.save(None, "a")
    world.grant("other")
    old = world.now() // 1000 - QUARTER_MS // 1000 - 1
    world.client.hset(world.keys.marks, mapping={f"old {n}": f"1 {old}" for n in range(300)})
    world.client.hset(world.keys.marks, mapping={f"new {n}": f"1 {old + 60}" for n in range(20)} | {"undated": "1"})
    refused = [world.plan(base, "b") for _ in range(600)]
    for mine in refused:
        expect(world.send(mine), "locked")
    names = world.client.hkeys(world.keys.marks)
    assert sum(name.startswith(b"old") for name in names) < 30, names
    assert sum(name.startswith(b"new") for name in names) == 20
    assert b"undated" in names
    assert all(world.marked(mine) for mine in refused)


@scenario
def marks_count_though_old_ones_may_not_go(world: World) -> None:
    """A mark counts even if the housekeeping of old marks is forbidden."""
    base = world.save(None, "a")
    world.grant("other")
    old = world.now() // 1000 - QUARTER_MS // 1000 - 1
    world.client.hset(world.keys.marks, "old", f"1 {old}")
    with world.limited() as without:
        for denied in ("HRANDFIELD", "HDEL"):
            mine = world.plan(base, "b")
            expect(world.send(mine, by=without([denied])), "locked")
            assert world.marked(mine)
