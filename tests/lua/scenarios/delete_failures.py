"""Scenarios of `delete.lua`: half-way failures, full memory, demoted servers."""

from __future__ import annotations

from typing import Final

from histstore.protocol.run import LeaseToken

from ..sending import few
from ..world import World
from .expectations import expect, expect_unchanged
from .registry import own_server, scenario
from .situations import Elsewhere, contents, delete_of_damage, deletes_done, demoted, fill_memory, lacking_replicas

DELETE_WRITES: Final = ("LREM", "RPUSH", "LTRIM", "PEXPIRE", "HSET", "DEL")


@scenario
def a_delete_that_fails_half_way_deletes_nothing(world: World) -> None:
    """Row 22, for deletes: with any one or two commands forbidden, all or nothing; then it can be repeated."""
    failures = 0
    with world.limited() as without:
        for force in (False, True):
            for denied in few(DELETE_WRITES):
                world.client.delete(*world.data_keys, world.keys.marks, world.keys.lease)
                base = world.saves(None, 2)
                lease = world.grant("me")
                mine = world.deletion(base, lease=LeaseToken() if force else lease, force=force)
                before = contents(world)
                reply = world.try_(mine, by=without(denied))
                assert not isinstance(reply, Exception), f"without {denied}, force={force}: {reply}"
                if reply[0] == "failed":
                    failures += 1
                    assert contents(world) == before, f"without {denied}, force={force}: {reply} left something behind"
                    expect(world.send(mine, resend=True), "deleted")
                expect(reply, reply[0] if reply[0] == "failed" else "deleted")
                assert world.load() is None
                assert int(world.head("fence") or 0) >= lease.fence
    assert failures > 20, failures


@scenario
def a_delete_that_fails_half_way_leaves_no_mark_without_an_end(world: World) -> None:
    """The marks of a delete expire even if it deleted nothing."""
    with world.limited() as without:
        for denied in few(("DEL", "PEXPIRE")):
            base = world.save(None, "a")
            expect(world.send(world.deletion(base), by=without(denied)), "failed")
            assert world.client.pttl(world.keys.marks) != -1, f"without {denied}"
            world.delete(base)
            world.client.delete(*world.all_keys)


@scenario
def a_delete_of_damage_that_fails_half_way_does_not_count_as_done(world: World) -> None:
    """Only the mark shows that a damaged run was deleted, so a failed delete removes it again."""
    with world.limited() as without:
        for denied in few(("DEL", "HDEL", "HSET", "LREM", "LTRIM", "PEXPIRE", "RPUSH")):
            mine = delete_of_damage(world)
            expect(world.send(mine, by=without(denied)), "failed")
            assert world.client.exists(world.keys.log)
            assert world.client.hget(world.keys.marks, mine.ticket) is None, f"without {denied}"
            expect(world.send(mine, resend=True), "deleted")
            assert not world.client.exists(world.keys.log), f"without {denied}"
            world.client.delete(*world.all_keys)


@own_server
def full_memory_denies_no_applied_delete(world: World) -> None:
    """A resend of a delete that is done needs no memory, and changes nothing."""
    try:
        for way_to in deletes_done(world):
            mine = way_to()
            before, deadlines = world.dump(), world.deadlines()
            fill_memory(world, True)
            expect(world.send(mine, resend=True), "deleted")
            fill_memory(world, False)
            expect_unchanged(world, before)
            world.expire_alike(deadlines, way_to.__name__)
            world.vanish()
    finally:
        fill_memory(world, False)


@own_server
def full_memory_accepts_deletes(world: World) -> None:
    """Deleting is how memory is freed, so full memory refuses no delete, of damaged runs either."""
    try:
        base = world.saves(None, 3)
        world.grant("holder")
        fill_memory(world, True)
        world.delete(base, force=True)
        assert not world.client.exists(world.keys.log)
        fill_memory(world, False)
        base = world.saves(None, 3)
        world.foreign(world.keys.etags)
        fill_memory(world, True)
        world.delete(base)
        assert not world.client.exists(world.keys.log)
        fill_memory(world, False)
        world.vanish()
        for held in (False, True):
            if held:
                world.grant("holder")
            fill_memory(world, True)
            reply = world.try_(world.deletion(None, force=True))
            fill_memory(world, False)
            assert reply == ["absent"], reply
            assert world.leased() is None
    finally:
        fill_memory(world, False)


def expect_no_delete_confirmed(world: World, elsewhere: Elsewhere) -> None:
    for way_to in deletes_done(world):
        mine = way_to()
        before = world.dump()
        with elsewhere(world) as said:
            reply = world.try_(mine, resend=True)
            assert isinstance(reply, Exception), f"{way_to.__name__}: {reply}"
            assert said in str(reply), f"{way_to.__name__}: {reply}"
        expect_unchanged(world, before)
        expect(world.send(mine, resend=True), "deleted")
        world.vanish()


@own_server
def a_read_only_server_confirms_no_delete(world: World) -> None:
    """Row 10, for deletes, whoever deleted the run."""
    expect_no_delete_confirmed(world, demoted)


@own_server
def a_server_that_lacks_replicas_confirms_no_delete(world: World) -> None:
    """The same for a primary that may have been replaced."""
    expect_no_delete_confirmed(world, lacking_replicas)
