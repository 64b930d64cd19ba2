"""Scenarios of `delete.lua`: copies of a delete."""

from __future__ import annotations

from histstore.protocol.run import LeaseToken

from ..sending import few
from ..world import QUARTER_MS, World
from .expectations import expect, expect_unchanged
from .registry import scenario
from .situations import MADE_UP, delete_of_damage, deletes_done, later_events


@scenario
def a_resent_delete_is_done(world: World) -> None:
    """A delete whose reply was lost is acknowledged by the resend and by resolve."""
    base = world.save(None, "a")
    mine = world.deletion(base)
    expect(world.send(mine), "deleted")
    expect(world.send(mine, resend=True), "deleted")
    expect(world.resolve(mine), "applied")


@scenario
def a_delete_resent_for_a_run_that_another_deleted_is_done(world: World) -> None:
    """The run is gone, even if nothing shows any more who deleted it."""
    for forgotten in (False, True):
        base = world.save(None, "a")
        mine = world.deletion(base)
        world.delete(base)
        if forgotten:
            world.vanish()
        expect(world.send(mine, resend=True), "deleted")


@scenario
def a_resent_delete_leaves_the_successor(world: World) -> None:
    """Fault 20: no copy of an applied delete touches a run that was created since. The resend is answered deleted."""
    old = world.save(None, "old")
    mine = world.deletion(old)
    expect(world.send(mine), "deleted")
    world.save(None, "new")
    before = world.dump()
    expect(world.send(mine, resend=True), "deleted")
    expect(world.send(mine), "deleted")
    expect_unchanged(world, before)
    assert world.load() == ["new"]


@scenario
def a_resent_delete_older_than_the_list_is_gone(world: World) -> None:
    """Once the list does not reach back to the expected etag, nobody can know: neither deleted nor conflict."""
    old = world.save(None, "old")
    mine = world.deletion(old)
    expect(world.send(mine), "deleted")
    new = world.saves(None, 256, full=True)
    before = world.dump()
    expect(world.resolve(mine), "gone", b"256", new.head.etag)
    world.client.delete(world.keys.marks)
    expect(world.send(world.deletion(old)), "conflict", b"256", new.head.etag)
    expect(world.send(mine, resend=True), "gone", b"256", new.head.etag)
    assert world.marked(mine)
    expect(world.send(mine), "conflict")
    expect(world.send(mine, resend=True), "gone", b"256", new.head.etag)
    expect_unchanged(world, before)


@scenario
def a_resent_delete_older_than_the_list_is_gone_under_any_lease(world: World) -> None:
    """An applied delete was forgotten. The answer is neither locked nor lost, which would deny the delete."""
    old = world.save(None, "old")
    mine = world.deletion(old)
    expect(world.send(mine), "deleted")
    old = world.save(None, "old", lease=MADE_UP)
    with_lease = world.deletion(old, MADE_UP)
    expect(world.send(with_lease), "deleted")
    rival = world.grant("rival")
    new = world.saves(None, 300, full=True, lease=rival)
    before = world.dump()
    for delete in (mine, with_lease):
        for _ in range(2):
            expect(world.send(delete, resend=True), "gone", b"300", new.head.etag)
        expect(world.send(delete), "locked" if delete is mine else "lost")
    expect_unchanged(world, before)
    assert world.leased() == rival


@scenario
def a_delete_resent_to_the_head_that_it_expects_is_applied(world: World) -> None:
    """The expected etag is still the head, so no copy was applied. That needs no list."""
    mine = world.deletion(world.save(None, "a"))
    world.client.delete(world.keys.etags)
    expect(world.send(mine, resend=True), "deleted")
    assert world.load() is None


@scenario
def a_late_delete_after_gone_is_not_applied(world: World) -> None:
    """A resent delete was answered gone. A failover brings back what it expected, and the first copy arrives."""
    old = world.save(None, "old")
    before = world.dump()
    mine = world.deletion(old)
    world.vanish()
    world.save(None, "new")
    expect(world.send(mine, resend=True), "gone", b"1")
    world.restore(before)
    expect(world.send(mine), "cancelled")
    assert world.load() == ["old"]


@scenario
def a_resent_delete_that_the_list_reaches_conflicts(world: World) -> None:
    """While the list reaches back to the expected etag, a lost race is a conflict; for damaged runs too."""
    base = world.save(None, "a")
    mine, of_damage = world.deletion(base), world.deletion(None, read=b"")
    head = world.saves(base, 20)
    for delete in (mine, of_damage):
        expect(world.send(delete, resend=True), "conflict", b"21", head.head.etag)


@scenario
def an_applied_delete_is_not_a_conflict_after_the_list_was_evicted(world: World) -> None:
    """Without a list nobody can know: the answer is gone, and no copy is applied from then on."""
    mine = world.deletion(world.save(None, "a"))
    world.send(mine)
    new = world.save(None, "new")
    world.client.delete(world.keys.etags)
    expect(world.send(mine, resend=True), "gone", b"1", new.head.etag)
    assert world.marked(mine)
    assert world.load() == ["new"]


@scenario
def an_applied_delete_of_a_damaged_run_is_known_by_its_mark(world: World) -> None:
    """It expected no etag, so no list can show how far back it must reach: a full list, an evicted one, or none."""
    mine = delete_of_damage(world)
    expect(world.send(mine), "deleted")
    assert 0 < world.client.pttl(world.keys.marks) <= QUARTER_MS
    base = world.saves(None, 256, full=True)
    missed = world.deletion(None, read=b"")
    for evicted in (False, True):
        if evicted:
            world.client.delete(world.keys.etags)
            base = world.save(base, "after")
        world.client.hset(world.keys.head, "version", "x") if evicted else None
        for resend in (False, True):
            expect(world.send(mine, resend=resend), "deleted")
        expect(world.resolve(mine), "applied")
    expect(world.send(missed, resend=True), "gone", b"x", base.head.etag)  # whose first save is lost, nobody can tell


@scenario
def a_delete_of_a_damaged_run_conflicts_after_a_lost_race(world: World) -> None:
    """However long ago the race was: the run names its first save, and no run was deleted that could not."""
    mine = world.deletion(None, read=b"")
    head = world.saves(None, 300, full=True)
    expect(world.send(mine, resend=True), "conflict", b"300", head.head.etag)


@scenario
def already_deleted_writes_something_for_wait(world: World) -> None:
    """Row 23: a WAIT after deleted must not count replicas that lack the delete."""
    for way_to in deletes_done(world):
        mine = way_to()
        with world.watching(*world.data_keys, world.keys.marks) as written:
            expect(world.send(mine, resend=True), "deleted")
            assert written(), way_to.__name__
        world.vanish()


@scenario
def already_deleted_leaves_all_as_it_was(world: World) -> None:
    """The write for WAIT changes nothing: neither the successor, nor what is remembered, nor for how long."""
    for way_to in deletes_done(world):
        mine = way_to()
        before, deadlines = world.dump(), world.deadlines()
        expect(world.send(mine, resend=True), "deleted")
        expect_unchanged(world, before)
        world.expire_alike(deadlines, way_to.__name__)
        world.vanish()


@scenario
def already_deleted_needs_no_permission_for_its_write(world: World) -> None:
    """A delete that is done is confirmed even if the write for WAIT is forbidden. Nothing gets a lifetime from it."""
    with world.limited() as without:
        for denied in few(("PTTL", "PEXPIRE", "PERSIST")):
            for way_to in deletes_done(world):
                mine = way_to()
                before, deadlines = world.dump(), world.deadlines()
                expect(world.send(mine, resend=True, by=without(denied)), "deleted")
                expect_unchanged(world, before)
                world.expire_alike(deadlines, f"{way_to.__name__}, without {denied}")
                world.vanish()


@scenario
def a_resent_delete_accepts_a_list_of_a_foreign_type(world: World) -> None:
    """The delete is refused by a reply, not by an error, and marked."""
    mine = world.deletion(world.save(None, "a"))
    world.vanish()
    world.save(None, "b")
    world.foreign(world.keys.etags)
    assert world.send(mine, resend=True)[0] in ("conflict", "gone")
    assert world.marked(mine)
    assert world.load() == ["b"]


@scenario
def a_late_copy_of_a_refused_delete_is_not_applied(world: World) -> None:
    """A resent delete was refused, for each reason in turn. The reason goes, and the first copy arrives."""
    base = world.save(None, "a")
    mine = world.deletion(base)
    world.plant("other", 9, remember=False)
    lost_to_lease = world.deletion(base, LeaseToken(10, "me"))
    expect(world.send(mine, resend=True), "locked")
    expect(world.send(lost_to_lease, resend=True), "lost")
    world.lapse()
    before = world.dump()
    world.client.hset(world.keys.head, mapping={"fence": 9, "holder": "other"})
    lost_to_fence = world.deletion(base, LeaseToken(8, "me"))
    expect(world.send(lost_to_fence, resend=True), "lost")
    world.restore(before)
    stale = world.deletion(base)
    world.save(base, "rival")
    expect(world.send(stale, resend=True), "conflict")
    world.restore(before)
    left = world.client.pttl(world.keys.marks)
    assert 0 < left <= QUARTER_MS, f"the marks live {left} ms"
    for delete in (mine, lost_to_lease, lost_to_fence, stale):
        assert world.marked(delete)
        expect(world.send(delete), "cancelled")
        expect(world.send(delete, resend=True), "cancelled")
    assert world.load() == ["a"]


@scenario
def a_copy_of_an_applied_delete_is_deleted_whatever_came_since(world: World) -> None:
    """Row 25: a delete that arrives twice deletes once, and both answers say so."""
    for force in (False, True):
        mine = world.deletion(world.save(None, "a"), force=force)
        expect(world.send(mine), "deleted")
        expect(world.send(mine), "deleted")
        for what in later_events(world, world.save(None, "new")):
            before = world.dump()
            reply = world.send(mine)
            assert reply == ["deleted"], f"{what}: {reply}"
            expect_unchanged(world, before)
        world.client.delete(*world.all_keys)


@scenario
def a_copy_of_an_applied_delete_of_damage_reaches_no_other_damage(world: World) -> None:
    """The delete expects no etag, so it would fit a damaged successor too. The mark of the delete prevents that."""
    mine = delete_of_damage(world)
    expect(world.send(mine), "deleted")
    world.saves(None, 2)
    world.client.delete(world.keys.head)
    before = world.dump()
    for resend in (False, True):
        expect(world.send(mine, resend=resend), "deleted")
    expect_unchanged(world, before)
    world.foreign(world.keys.etags)
    for resend in (False, True):
        expect(world.send(mine, resend=resend), "deleted")
