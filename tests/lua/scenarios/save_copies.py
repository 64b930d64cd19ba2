"""Scenarios of `save.lua`: copies of an applied save are answered "saved" and change nothing."""

from __future__ import annotations

from collections.abc import Iterator

from histstore.protocol.leases import Ticket
from histstore.protocol.run import NO_LEASE

from ..sending import Save, few
from ..world import MINUTE_MS, QUARTER_MS, World
from .expectations import expect, expect_confirmed, expect_saved, expect_unchanged
from .registry import scenario
from .situations import NOBODY, applied_saves, later_events, without_mark


@scenario
def a_resend_finds_its_own_save(world: World) -> None:
    """A save whose reply was lost is acknowledged by the resend, with the time at which it was saved."""
    base = world.save(None, "a")
    mine = world.plan(base, "b")
    first = world.send(mine)
    expect(world.send(mine, resend=True), "saved", first[1])
    assert world.load() == ["a", "b"]


@scenario
def a_resend_finds_its_save_below_a_rivals(world: World) -> None:
    """A save whose reply was lost is acknowledged even after a rival has saved onto it."""
    base = world.save(None, "a")
    mine = world.plan(base, "b")
    world.send(mine)
    world.save(mine.after, "rival")
    expect(world.send(mine, resend=True), "saved", b"")
    assert world.load() == ["a", "b", "rival"]


@scenario
def a_resend_finds_its_save_after_its_entry_was_trimmed(world: World) -> None:
    """A save whose reply was lost counts even after a rival's checkpoint has trimmed its entry."""
    base = world.save(None, "a")
    mine = world.plan(base, "b")
    world.send(mine)
    world.save(mine.after, "rival", full=True)
    assert world.client.xlen(world.keys.log) == 1
    expect(world.send(mine, resend=True), "saved", b"")
    expect(world.resolve(mine), "applied", b"")


@scenario
def a_resend_of_an_applied_save_is_saved_under_anothers_lease(world: World) -> None:
    """The script looks for the applied save before it checks who holds the lease now."""
    base = world.save(None, "a")
    mine = world.plan(base, "b")
    world.send(mine)
    world.grant("other")
    expect(world.send(mine, resend=True), "saved")


@scenario
def a_resend_of_an_applied_save_is_saved_though_its_lease_was_lost(world: World) -> None:
    """A holder's save was applied, its reply was lost, and another holder came: the answer is saved, not lost."""
    base = world.save(None, "a")
    lease = world.grant("me")
    mine = world.plan(base, "b", lease=lease)
    world.send(mine)
    world.lapse()
    world.grant("next")
    expect(world.send(mine, resend=True), "saved")


@scenario
def a_resend_of_an_applied_save_is_saved_though_its_lease_was_released(world: World) -> None:
    """An applied save is saved even if its lease was released, broken or handed over since."""
    for force in (False, True):
        base = world.save(None, "a")
        lease = world.grant("me")
        mine = world.plan(base, "b", lease=lease)
        world.send(mine)
        world.release("me", force=force)
        for _ in range(2):
            expect(world.send(mine, resend=True), "saved")
            world.acquire(Ticket("next", MINUTE_MS, NOBODY))
        world.client.delete(*world.all_keys)


@scenario
def a_resend_of_an_applied_save_in_a_deleted_run_is_saved(world: World) -> None:
    """An applied save is saved even if the run was deleted since."""
    mine = world.plan(None, "a")
    world.send(mine)
    world.delete(mine.after)
    expect(world.send(mine, resend=True), "saved", b"")
    expect(world.resolve(mine), "applied", b"")
    assert world.load() is None


@scenario
def a_late_first_save_does_not_bring_a_deleted_run_back(world: World) -> None:
    """A copy of an applied first save that arrives after the delete writes nothing."""
    for forgotten in ((), (world.keys.marks,), (world.keys.etags,)):
        mine = world.plan(None, "a")
        world.send(mine)
        world.delete(mine.after)
        if forgotten:  # evicted: either memory is enough
            world.client.delete(*forgotten)
        for resend in (False, True):
            expect(world.send(mine, resend=resend), "saved")
        assert world.load() is None


@scenario
def a_first_save_resent_after_delete_and_re_creation_leaves_the_successor(world: World) -> None:
    """Fault 20: a run is deleted and created again. No copy of the old first save touches the new run."""
    mine = world.plan(None, "old")
    world.send(mine)
    world.delete(mine.after)
    world.save(None, "new")
    before = world.dump()
    expect(world.send(mine, resend=True), "saved", b"")
    world.send(mine)
    expect_unchanged(world, before)
    assert world.load() == ["new"]


@scenario
def a_resend_of_the_head_is_saved_though_the_list_is_gone(world: World) -> None:
    """An evicted list hides nothing: the head itself names its save."""
    base = world.save(None, "a")
    mine = world.plan(base, "b")
    first = world.send(mine)
    world.client.delete(world.keys.etags)
    for answer, word in ((world.send(mine, resend=True), "saved"), (world.resolve(mine), "applied")):
        expect(answer, word, first[1])
    assert not world.marked(mine)
    assert world.load() == ["a", "b"]


@scenario
def already_saved_writes_something_for_wait(world: World) -> None:
    """A resend and resolve write something, so that a WAIT after them counts replicas."""

    def writes(what: Save) -> None:
        with world.watching(*world.data_keys) as written:
            expect(world.send(what, resend=True), "saved")
            assert written(), "the resend wrote nothing"
        with world.watching(*world.data_keys) as written:
            expect(world.resolve(what), "applied")
            assert written(), "resolve wrote nothing"

    for ttl in (None, QUARTER_MS):
        applied = applied_saves(world, ttl)
        for mine in applied:
            writes(mine)
        world.client.delete(world.keys.etags)
        writes(applied[-1])  # without the list
        world.delete(applied[-1].after)
        mine = world.plan(None, "d", ttl=ttl)
        world.send(mine)
        world.delete(mine.after)
        writes(mine)  # without a head
        world.client.delete(world.keys.etags)
        with world.watching(world.keys.marks) as written:
            expect(world.send(mine, resend=True), "saved")
            assert written(), "without a head and a list the resend wrote nothing"


@scenario
def already_saved_leaves_run_and_lifetimes_as_they_were(world: World) -> None:
    """The write for WAIT changes neither contents nor lifetimes."""
    for ttl in (None, QUARTER_MS, 2 * QUARTER_MS):
        applied = applied_saves(world, ttl)
        before, deadlines = world.dump(), world.deadlines()
        for mine in applied:
            expect_confirmed(world, mine)
        expect_unchanged(world, before)
        world.expire_alike(deadlines)
        world.delete(applied[-1].after)
        before, deadlines = world.dump(), world.deadlines()
        for mine in applied:
            expect_confirmed(world, mine)
        expect_unchanged(world, before)
        world.expire_alike(deadlines)
        world.vanish()


@scenario
def already_saved_needs_no_permission_for_its_write(world: World) -> None:
    """An applied save is confirmed even if the write for WAIT is forbidden. The run gets no lifetime from it."""
    with world.limited() as without:
        for denied in few(("PTTL", "PEXPIRE", "PERSIST")):
            for ttl in (None, QUARTER_MS):
                applied = applied_saves(world, ttl)
                before, deadlines = world.dump(), world.deadlines()
                for mine in applied:
                    expect_confirmed(world, mine, without(denied))
                expect_unchanged(world, before)
                world.expire_alike(deadlines)
                world.vanish()


@scenario
def touching_moves_no_deadline(world: World) -> None:
    """The write for WAIT goes to the list if there is one: head and log keep one deadline, to the millisecond."""
    for ttl in (None, QUARTER_MS):
        applied = applied_saves(world, ttl)
        deadlines = world.deadlines()
        with world.watching(world.keys.head, world.keys.log) as written:
            for mine in applied:
                expect_confirmed(world, mine)
            assert not written(), "head or log was written to"
        assert world.deadlines()[:2] == deadlines[:2]
        world.vanish()


def saves_to_apply(world: World) -> Iterator[Save]:
    """Yield saves to apply: the first of a run and a later one, with and without a lease."""
    for leased in (False, True):
        for later in (False, True):
            world.client.delete(*world.all_keys)
            lease = world.grant("me") if leased else NO_LEASE
            yield world.plan(world.save(None, "a", lease=lease) if later else None, "b", lease=lease)


@scenario
def a_copy_of_an_applied_save_is_saved_whatever_came_since(world: World) -> None:
    """Row 25: a first send may be a copy too. The answer is saved, and nothing changes."""
    for mine in saves_to_apply(world):
        first_reply = world.send(mine)
        expect(first_reply, "saved")
        expect(world.send(mine), "saved", first_reply[1])
        for what in later_events(world, mine.after):
            before = world.dump()
            for reply in (world.send(mine), world.send(mine, resend=True)):
                assert reply in (["saved", b""], first_reply), f"{what}: {reply}"
            expect(world.resolve(mine), "applied")
            expect_unchanged(world, before)


@scenario
def a_save_that_is_applied_searches_no_list(world: World) -> None:
    """The script looks for copies only before a refusal and for a first save. Any other save pays nothing for it."""
    base = world.save(None, "a")
    with world.limited() as without:
        expect(world.send(world.plan(base, "b"), by=without(["LPOS", "LLEN"])), "saved")


@scenario
def a_first_save_is_resent_onto_an_absent_run(world: World) -> None:
    """Nothing exists and nothing was deleted, so no earlier copy was applied: the resend is applied."""
    expect(world.send(world.plan(None, "a"), resend=True), "saved")
    assert world.load() == ["a"]


@scenario
def a_first_save_is_known_however_old(world: World) -> None:
    """The head names the run's first save, and a mark that of a deleted run. No list has to reach back to it."""
    applied, missed = world.plan(None, "a"), world.plan(None, "missed")
    world.send(applied)
    head = world.saves(applied.after, 300, full=True)
    for _ in range(2):
        expect(world.send(applied), "saved", b"")
        expect(world.send(applied, resend=True), "saved", b"")
        expect(world.resolve(applied), "applied", b"")
        expect(world.send(missed, resend=True), "conflict", str(head.head.version).encode(), head.head.etag)
        expect(world.resolve(without_mark(world, missed)), "never")
        without_mark(world, missed)
        world.delete(head)
        head = world.saves(None, 301, full=True)
    assert world.head("origin") not in (applied.etag, None)


@scenario
def evicted_etags_do_not_deny_an_applied_save(world: World) -> None:
    """A first save is not looked for in the list alone."""
    first = world.plan(None, "a")
    world.send(first)
    base = world.save(first.after, "b")
    world.client.delete(world.keys.etags)
    expect_saved(world, first)
    world.saves(base, 5)
    expect_saved(world, first)


@scenario
def a_failed_write_does_not_make_a_full_list_look_complete(world: World) -> None:
    """A save or delete that fails half-way may cost a full list its oldest etag. The answers stay true."""
    first = world.plan(None, "a")
    world.send(first)
    world.delete(first.after)
    base = world.saves(None, 254, full=True)  # with the delete, as many as the list holds
    assert world.etags()[0] == first.etag
    before = world.dump()
    with world.limited() as without:
        save, delete = world.plan(base, "x"), world.deletion(base)
        for what, denied in ((save, "XADD"), (save, "RPUSH"), (delete, "DEL")):
            for _ in range(3):
                expect(world.send(what, by=without([denied])), "failed")
            assert world.client.llen(world.keys.etags) == 255
            expect_saved(world, first)
            world.restore(before)


@scenario
def a_save_resent_onto_the_head_is_applied_though_the_list_is_gone(world: World) -> None:
    """The parent is still the head, so no copy was applied. That needs no list, with or without a lease in the way."""
    base = world.save(None, "a")
    mine, locked = world.plan(base, "b"), world.plan(base, "b")
    world.client.delete(world.keys.etags)
    world.grant("other")
    expect(world.send(locked, resend=True), "locked")
    expect(world.send(world.deletion(base), resend=True), "locked")
    world.lapse()
    expect(world.send(mine, resend=True), "saved")
    assert world.load() == ["a", "b"]


@scenario
def a_resent_first_save_does_not_bring_a_run_back_that_forgot_it(world: World) -> None:
    """A run was saved 300 times and deleted. Its absence does not prove that the first save was not applied."""
    applied = world.plan(None, "a")
    world.send(applied)
    world.delete(world.saves(applied.after, 300, full=True))
    before = world.dump()
    for resend in (False, True):
        expect(world.send(applied, resend=resend), "saved", b"")
    expect(world.resolve(applied), "applied", b"")
    expect_unchanged(world, before)
    assert world.load() is None
