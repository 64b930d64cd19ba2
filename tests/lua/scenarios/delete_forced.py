"""Scenarios of `delete.lua`: a forced delete fences the holder."""

from __future__ import annotations

from histstore.protocol.run import LeaseToken

from ...support.generations import expires_at
from ..sending import commands
from ..world import MINUTE_MS, QUARTER_MS, World
from .expectations import expect, expect_unchanged
from .registry import scenario


@scenario
def a_forced_delete_of_an_absent_run_leaves_only_its_ticket(world: World) -> None:
    """The ticket stays for 15 minutes as one of 256. Without a holder there is no fence to remember."""
    for _ in range(2):
        mine = world.deletion(None, force=True)
        expect(world.send(mine), "absent")
        assert world.etags() == [mine.ticket]
        assert QUARTER_MS - MINUTE_MS < world.client.pttl(world.keys.etags) <= QUARTER_MS
        assert world.client.exists(*world.all_keys) == 1
        world.vanish()
    world.client.rpush(world.keys.etags, *(b"%016d" % number for number in range(256)))
    world.client.pexpire(world.keys.etags, MINUTE_MS)
    mine = world.deletion(None, force=True)
    expect(world.send(mine), "absent")
    etags = world.etags()
    assert (len(etags), etags[0], etags[-1]) == (256, b"%016d" % 1, mine.ticket)
    assert QUARTER_MS - MINUTE_MS < world.client.pttl(world.keys.etags) <= QUARTER_MS


@scenario
def a_late_forced_delete_of_an_absent_run_leaves_the_successor(world: World) -> None:
    """A late copy harms neither the lease that was granted since its answer, nor what is saved with it."""
    for resent in (True, False):
        world.grant("before")
        mine = world.deletion(None, force=True)
        expect(world.send(mine, resend=resent), "deleted" if resent else "absent")
        lease = world.grant("next")
        before, ends = world.dump(), expires_at(world.client, world.keys.lease)
        for resend in (False, True):
            expect(world.send(mine, resend=resend), "deleted")
            assert world.leased() == lease, "a late copy has fenced the successor"
            assert expires_at(world.client, world.keys.lease) == ends
            expect_unchanged(world, before)
        world.save(None, "new", lease=lease)
        expect(world.send(mine), "deleted")
        assert world.load() == ["new"]
        world.client.delete(*world.all_keys)


@scenario
def a_late_forced_delete_that_was_refused_fences_nobody(world: World) -> None:
    """It was sent for an absent run and refused, because the run was created meanwhile. That run was deleted too."""
    mine = world.deletion(None, force=True)
    base = world.save(None, "new")
    expect(world.send(mine), "conflict")
    world.delete(base)
    lease = world.grant("next")
    expect(world.send(mine), "cancelled")
    assert world.leased() == lease
    assert world.head("fence") == str(lease.fence).encode()


@scenario
def a_forced_delete_fences_the_holder(world: World) -> None:
    """The holder's lease is not obeyed but fenced: none of its writes come after the delete."""
    base = world.save(None, "a")
    lease = world.grant("holder")
    world.delete(base, force=True)
    assert not world.client.exists(world.keys.lease)
    expect(world.send(world.plan(None, "late", lease=lease)), "lost")
    assert int(world.head("fence") or 0) > lease.fence
    assert 0 < world.client.pttl(world.keys.head) <= QUARTER_MS
    new = world.save(None, "new")
    expect(world.send(world.plan(new, "late", lease=lease)), "lost")


@scenario
def a_forced_delete_fences_a_holder_whose_lease_lapsed(world: World) -> None:
    """While the head names the holder, its late save would be accepted; after a forced delete it is not."""
    base = world.save(None, "a")
    lease = world.grant("holder")
    world.lapse()
    world.delete(base, force=True)
    expect(world.send(world.plan(None, "late", lease=lease)), "lost")


@scenario
def a_forced_delete_of_an_absent_run_fences_its_holder(world: World) -> None:
    """The holder of a lease on an absent run cannot create the run after a forced delete."""
    for remember in (False, True):
        lease = world.plant("holder", 9, remember=remember)
        expect(world.send(world.deletion(None, force=True)), "absent")
        assert not world.client.exists(world.keys.lease)
        expect(world.send(world.plan(None, "a", lease=lease)), "lost")
        assert int(world.head("fence") or 0) > 9
        assert 0 < world.client.pttl(world.keys.head) <= QUARTER_MS
        world.vanish()
    lease = world.grant("holder")
    expect(world.send(world.deletion(None, force=True), resend=True), "deleted")
    expect(world.send(world.plan(None, "a", lease=lease)), "lost")
    world.vanish()
    lease = world.grant("holder")
    world.lapse()
    expect(world.send(world.deletion(None, force=True)), "absent")
    expect(world.send(world.plan(None, "a", lease=lease)), "lost")


@scenario
def a_forced_delete_with_a_lease_does_not_lower_the_fence(world: World) -> None:
    """The lease that a forced delete carries may be older than the head's fence."""
    far = 4_000_000_000_000
    base = world.save(None, "a")
    world.plant("next", far)
    world.lapse()
    world.delete(base, lease=LeaseToken(8, "me"), force=True)
    assert int(world.head("fence") or 0) == far + 1


@scenario
def a_forced_delete_raises_the_fence_above_all(world: World) -> None:
    """The new fence is above the head's, the lease's and the clock, whichever is highest."""
    far = 4_000_000_000_000
    base = world.save(None, "a")
    world.plant("holder", far, remember=False)
    world.delete(base, force=True)
    assert int(world.head("fence") or 0) == far + 1
    world.vanish()
    base = world.save(None, "a")
    world.plant("holder", far)
    world.plant("holder", 9, remember=False)
    world.delete(base, force=True)
    assert int(world.head("fence") or 0) == far + 1
    world.vanish()
    base = world.save(None, "a")
    world.plant("holder", 9)
    world.delete(base, force=True)
    seconds, _ = world.client.time()
    assert abs(int(world.head("fence") or 0) - seconds * 1000) < 60_000


@scenario
def a_forced_delete_fences_though_the_head_is_of_a_foreign_type(world: World) -> None:
    """A damaged head stops a forced delete neither from clearing it nor from fencing the lease's holder."""
    world.save(None, "a")
    lease = world.plant("holder", 9, remember=False)
    world.foreign(world.keys.head)
    expect(world.send(world.deletion(None, force=True)), "deleted")
    assert not world.client.exists(world.keys.lease, world.keys.log)
    assert int(world.head("fence") or 0) > 9
    expect(world.send(world.plan(None, "late", lease=lease)), "lost")


@scenario
def a_forced_delete_that_is_acknowledged_has_fenced(world: World) -> None:
    """Row 22: whichever command is forbidden, once the delete or its resend is answered, the holder has lost."""
    failures: set[str] = set()
    with world.limited() as without:
        for denied in sorted(commands("delete")):
            for remember in (False, True):
                label = f"without {denied}, remember={remember}"
                world.client.delete(*world.data_keys, world.keys.marks, world.keys.lease)
                base = world.save(None, "a")
                lease = world.plant("holder", 9, remember=remember)
                mine = world.deletion(base, force=True)
                reply = world.try_(mine, by=without([denied]))
                if isinstance(reply, Exception) or reply[0] == "failed":
                    failures.add(denied)
                    assert world.load() == ["a"], f"{label}: {reply}"
                    assert world.client.exists(world.keys.lease), f"{label}: {reply}"
                    expect(world.compare(base, lease), "same")
                else:
                    expect(reply, "deleted")
                expect(world.send(mine, resend=True), "deleted")
                late = world.send(world.plan(None, "late", lease=lease))
                assert late[0] == "lost", f"{label}: {late}"
    assert failures >= {"TYPE", "HMGET", "TIME", "LREM", "RPUSH", "LTRIM", "PEXPIRE", "HSET", "DEL"}, failures


@scenario
def a_forced_delete_of_an_absent_run_that_is_acknowledged_has_fenced(world: World) -> None:
    """The same for an absent run that its holder is about to create. Nothing is left there for ever."""
    failures: set[str] = set()
    with world.limited() as without:
        for denied in sorted(commands("delete")):
            for remember in (None, False, True):
                label = f"without {denied}, remember={remember}"
                world.client.delete(*world.all_keys)
                lease = world.plant("holder", 9, remember=remember) if remember is not None else None
                mine = world.deletion(None, force=True)
                reply = world.try_(mine, by=without([denied]))
                if isinstance(reply, Exception):
                    failures.add(denied)
                    assert -1 not in world.deadlines()[1:], f"{label}: {world.deadlines()}"
                    assert remember or world.deadlines()[0] != -1, f"{label}: a head that nobody will expire"
                else:
                    expect(reply, "absent")
                expect(world.send(mine, resend=True), "deleted")
                if lease is not None:
                    late = world.send(world.plan(None, "late", lease=lease))
                    assert late[0] == "lost", f"{label}: {late}"
    assert failures >= {"TYPE", "HMGET", "TIME", "RPUSH", "LTRIM", "PEXPIRE", "HSET", "DEL"}, failures


@scenario
def a_forced_delete_that_cannot_fence_leaves_the_lease(world: World) -> None:
    """If the run is absent and the fence cannot be written, the lease stays and nobody else gets in between."""
    lease = world.plant("holder", 9, remember=False)
    with world.limited() as without:
        for resend in (False, True):
            reply = world.try_(world.deletion(None, force=True), resend, without(["HSET"]))
            assert isinstance(reply, Exception), reply
            assert 0 < world.client.pttl(world.keys.lease) <= MINUTE_MS, "the lease went, and no fence came"
    expect(world.send(world.plan(None, "other")), "locked", b"holder")
    expect(world.send(world.plan(None, "a", lease=lease)), "saved")
