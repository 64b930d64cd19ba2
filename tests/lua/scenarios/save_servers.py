"""Scenarios of `save.lua` and `resolve.lua`: full memory, demoted servers, a slot that is being migrated."""

from __future__ import annotations

import itertools

from redis.exceptions import AskError

from ..sending import Save
from ..world import QUARTER_MS, World
from .expectations import expect, expect_confirmed, expect_unchanged
from .registry import in_cluster, own_server
from .situations import Elsewhere, applied_saves, demoted, fill_memory, lacking_replicas, resolution


def expect_no_save_confirmed(world: World, elsewhere: Elsewhere) -> None:
    def asked(what: Save) -> None:
        before, deadlines = world.dump(), world.deadlines()
        with elsewhere(world) as said:
            for call, resend in ((what, True), (resolution(world, what), False)):
                reply = world.try_(call, resend)
                assert isinstance(reply, Exception), reply
                assert said in str(reply), reply
        expect_unchanged(world, before)
        world.expire_alike(deadlines)
        expect_confirmed(world, what)

    for ttl in (None, QUARTER_MS):
        applied = applied_saves(world, ttl)
        for mine in applied:
            asked(mine)
        world.client.delete(world.keys.etags)
        asked(applied[-1])  # without the list
        world.delete(applied[-1].after)
        mine = world.plan(None, "d", ttl=ttl)
        world.send(mine)
        world.delete(mine.after)
        asked(mine)  # without a head
        world.vanish()


@own_server
def a_save_into_full_memory_changes_nothing(world: World) -> None:
    """With full memory the first write of a save fails, so nothing is written. The save succeeds when there is room."""
    try:
        for number in range(2):
            base = world.saves(None, 3) if number else None
            content = ["message 0", "message 1", "message 2"] if number else None
            mine = world.plan(base, "b")
            before = world.dump()
            fill_memory(world, True)
            reply = world.send(mine)
            expect(reply, "failed")
            assert b"OOM" in reply[1], reply
            fill_memory(world, False)
            expect_unchanged(world, before)
            assert world.load() == content
            expect(world.send(mine, resend=True), "saved")
            assert world.load() == [*(content or ()), "b"]
            world.delete(mine.after)
    finally:
        fill_memory(world, False)


@own_server
def full_memory_denies_no_applied_save(world: World) -> None:
    """A resend and a resolve of an applied save need no memory, and change neither run nor lifetimes."""
    try:
        for ttl in (None, QUARTER_MS):
            applied = applied_saves(world, ttl)
            before, deadlines = world.dump(), world.deadlines()
            fill_memory(world, True)
            for mine in applied:
                expect_confirmed(world, mine)
            fill_memory(world, False)
            expect_unchanged(world, before)
            world.expire_alike(deadlines)
            world.vanish()
    finally:
        fill_memory(world, False)


@own_server
def full_memory_makes_no_unmarked_refusal(world: World) -> None:
    """If no mark can be left, a resend is not refused and resolve does not say never: the outcome stays open."""
    try:
        base = world.save(None, "a")
        mine, doomed = world.plan(base, "b"), world.deletion(base)
        world.save(base, "rival")
        fill_memory(world, True)
        for delivered in (mine, doomed):
            assert isinstance(world.try_(delivered, resend=True), Exception)
            assert isinstance(world.try_(resolution(world, delivered)), Exception)
            assert not world.marked(delivered)
    finally:
        fill_memory(world, False)


@own_server
def a_read_only_server_denies_no_open_outcome_and_confirms_none(world: World) -> None:
    """Row 10: a primary demoted to replica, whose data will be thrown away, must not answer saved or applied."""
    expect_no_save_confirmed(world, demoted)


@own_server
def a_server_that_lacks_replicas_confirms_no_open_outcome(world: World) -> None:
    """A primary that may have been replaced unnoticed must not answer saved or applied."""
    expect_no_save_confirmed(world, lacking_replicas)


@in_cluster
def a_save_to_a_slot_on_the_move_is_neither_applied_nor_misled(world: World) -> None:
    """A cluster migrates a slot key by key. Meanwhile a save raises on either node: a migrated key is not absent."""
    lease = world.grant("me")
    base = world.saves(None, 2, lease=lease)
    marked, free = world.plan(base, "marked", lease=lease), world.plan(base, "x", lease=lease)
    expect(world.resolve(marked), "never")
    everything = [key for key in world.all_keys if key != world.keys.queue]
    with world.moving() as (move, ask):
        for count in range(1, len(everything)):
            for keys in itertools.combinations(everything, count):
                move(keys, True)
                for mine in (marked, free, world.plan(base, "x"), world.plan(None, "x", lease=lease)):
                    for resend in (False, True):
                        reply = world.try_(mine, resend)
                        if isinstance(reply, AskError):
                            reply = ask(mine, resend)
                        assert isinstance(reply, Exception), f"{keys} have moved: {reply}"
                move(keys, False)
    assert world.load() == ["message 0", "message 1"]
    assert not world.marked(free)
    expect(world.send(marked), "cancelled")
    expect(world.send(free, resend=True), "saved")
