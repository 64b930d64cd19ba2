"""Scenarios of `delete.lua`: what a delete removes, and what it leaves."""

from __future__ import annotations

from collections.abc import Callable

from histstore.protocol.run import LeaseToken

from ..world import MINUTE_MS, QUARTER_MS, World
from .expectations import expect, pttl
from .registry import scenario


@scenario
def a_delete_leaves_only_memory(world: World) -> None:
    """Head and log are gone at once, the etags after 15 minutes."""
    base = world.saves(None, 3)
    world.delete(base)
    assert world.load() is None
    assert not world.client.exists(world.keys.head, world.keys.log, world.keys.lease)
    for left in (world.client.pttl(world.keys.etags), world.client.pttl(world.keys.marks)):
        assert 0 < left <= QUARTER_MS, left
    assert world.client.hlen(world.keys.marks) == 1  # the run's first save
    expect(world.send(world.deletion(base)), "absent")
    world.delete(world.save(None, "b"), force=True)
    assert not world.client.exists(world.keys.head)  # nobody held it: there is no fence to remember


@scenario
def a_delete_of_an_absent_run_writes_nothing(world: World) -> None:
    """It writes nothing on an empty run, and leaves a remembered fence and its expiry alone."""
    expect(world.send(world.deletion(None)), "absent")
    assert not world.client.exists(*world.all_keys)
    lease = LeaseToken(9, "me")
    world.delete(world.save(None, "a"), lease=lease)
    with world.watching(*world.data_keys) as written:
        expect(world.send(world.deletion(None)), "absent")
        expect(world.send(world.deletion(None, lease)), "absent")
        assert not written()


@scenario
def a_delete_clears_damage(world: World) -> None:
    """Whatever is broken, a delete with the etag that was read clears it, and the run can be created again."""
    head, log, etags = world.data_keys

    def sound() -> None:
        world.saves(None, 2)

    damages: list[Callable[[], object]] = [
        lambda: world.client.delete(head),
        lambda: world.client.delete(log),
        lambda: world.client.xdel(log, "0-1"),
        lambda: world.client.hdel(head, "etag"),
        lambda: world.client.hset(head, mapping={"version": "x", "fence": "y"}),
        lambda: world.foreign(head),
        lambda: world.foreign(log),
        lambda: world.foreign(etags),
        lambda: world.foreign(*world.data_keys),
        lambda: world.foreign(head, log) and world.client.delete(log),
        lambda: world.client.hdel(head, "etag") and world.client.delete(log),
        lambda: world.client.hdel(head, "version") and world.client.delete(log),
        lambda: world.vanish() or world.foreign(etags),
        lambda: world.vanish() or world.foreign(world.keys.marks),
        lambda: world.vanish() or world.foreign(world.keys.lease),
    ]
    for number, damage in enumerate(damages):
        sound()
        damage()
        read = world.head("etag") if world.client.type(head) == b"hash" else None
        expect(world.send(world.deletion(None, read=read)), "deleted")
        assert world.load() is None, f"damage {number} was not cleared"
        base = world.save(None, "new")
        assert world.load() == ["new"], f"damage {number}"
        world.delete(base)


@scenario
def a_delete_clears_marks_and_a_lease_of_a_foreign_type(world: World) -> None:
    """Foreign types in other keys stop neither the delete of a damaged run nor the saves of its successor."""
    for key in (world.keys.marks, world.keys.lease):
        for force in (False, True):
            base = world.save(None, "a")
            world.foreign(key)
            expect(world.send(world.deletion(base, force=force)), "deleted")
            assert not world.client.exists(world.keys.head, world.keys.log)
            assert world.client.type(key) in (b"none", b"hash")
            world.delete(world.save(None, "new"))


@scenario
def fences_survive_a_delete(world: World) -> None:
    """A holder from before the delete has lost, in the run that was created since too."""
    base = world.save(None, "a")
    fence = world.grant("next").fence
    found = str(fence).encode()
    world.lapse()
    world.delete(base)
    assert (world.head("fence"), world.head("holder")) == (found, b"next")
    assert 0 < world.client.pttl(world.keys.head) <= QUARTER_MS
    expect(world.send(world.plan(None, "late", lease=LeaseToken(fence - 1, "me"))), "lost", found)
    expect(world.send(world.plan(None, "late", lease=LeaseToken(fence, "me"))), "lost", found)
    base = world.save(None, "new")
    expect(world.send(world.plan(base, "late", lease=LeaseToken(fence - 1, "me"))), "lost", found)


@scenario
def a_delete_with_a_lease_leaves_its_fence(world: World) -> None:
    """The fence stays even if the head did not know that lease."""
    base = world.save(None, "a")
    world.delete(base, lease=LeaseToken(9, "next"))
    expect(world.send(world.plan(None, "late", lease=LeaseToken(8, "me"))), "lost", b"9")


@scenario
def a_delete_by_the_holder_leaves_the_lease(world: World) -> None:
    """The holder keeps its lease and may create the run again; nobody else may."""
    base = world.save(None, "a")
    lease = world.grant("me")
    world.delete(base, lease=lease)
    assert 0 < world.client.pttl(world.keys.lease) <= MINUTE_MS
    expect(world.send(world.plan(None, "other")), "locked", b"me")
    expect(world.send(world.plan(None, "new", lease=lease)), "saved")


@scenario
def the_head_that_a_holder_deletes_lives_as_long_as_the_lease(world: World) -> None:
    """Its fence refuses older holders, and renewals need it."""
    base = world.save(None, "a")
    lease = world.grant("me", ttl=4 * QUARTER_MS)
    world.delete(base, lease=lease)
    assert pttl(world, world.keys.head) > 3 * QUARTER_MS


@scenario
def a_delete_of_an_absent_run_fences_nobody_unless_forced(world: World) -> None:
    """The holder of a lease on an absent run keeps it."""
    lease = world.grant("holder")
    expect(world.send(world.deletion(None)), "absent")
    expect(world.send(world.plan(None, "a", lease=lease)), "saved")
