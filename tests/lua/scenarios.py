"""What must hold, one small story each, told on a `World`. A violation is an AssertionError.

`test_scenarios.py` tells each on the real scripts, `test_guards.py` on scripts with a guard taken out.
"""

from __future__ import annotations

import functools
import itertools
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from typing import Final

import redis
from redis.exceptions import AskError

from histstore.log.chain import Base
from histstore.protocol import requests as _protocol
from histstore.protocol.requests import NO_LEASE, Call, Carried

from .world import MINUTE_MS, QUARTER_MS, Delete, Reply, Save, World, commands, few

Scenario = Callable[[World], None]
SCENARIOS: Final[dict[str, Scenario]] = {}
MADE_UP: Final = Carried(7, "made-up")


def scenario(story: Scenario) -> Scenario:
    assert story.__doc__, story
    SCENARIOS[story.__name__] = story
    return story


def expect(reply: Reply, *wanted: object) -> None:
    """Holds a reply against the words it is to begin with."""
    assert reply[: len(wanted)] == list(wanted), f"{reply}, not {list(wanted)}"


def _resolution(world: World, what: Save | Delete) -> Call:
    assert what.call.attempt is not None
    return _protocol.resolve(world.where, what.call.attempt)


def _has_lost(world: World, base: Base, lease: Carried, fence: int) -> None:
    """Holds that neither a save, nor a compare, nor a delete is accepted with a lease: `fence` stands against it."""
    found = str(fence).encode()
    expect(world.send(world.plan(base, "by a zombie", lease=lease)), "lost", found)
    expect(world.compare(base, lease), "lost", found)
    expect(world.send(world.deletion(base, lease)), "lost", found)


def _untouched(world: World, before: dict[bytes, bytes | None]) -> None:
    assert world.dump() == before, "a refusal wrote to the run"


# ------------------------------------------------------------------------------------- damaged runs


@scenario
def a_newer_format_is_left_alone(world: World) -> None:
    """A run that a newer format wrote takes no save, and says what it found."""
    base = world.save(None, "a")
    world.client.hset(world.keys.head, "format", "2")
    before = world.dump()
    expect(world.send(world.plan(base, "b")), "format", b"2")
    expect(world.compare(base), "format", b"2")
    _untouched(world, before)


@scenario
def a_log_without_a_head_takes_no_save(world: World) -> None:
    """A first save onto a run whose head is gone is told of the damage, not that all is well or of a conflict."""
    base = world.save(None, "a")
    world.client.delete(world.keys.head)
    before = world.dump()
    expect(world.send(world.plan(None, "b")), "corrupt", b"")
    expect(world.compare(base), "corrupt", b"")
    _untouched(world, before)


@scenario
def a_head_without_a_log_takes_no_save(world: World) -> None:
    """A save onto a run whose log is gone would acknowledge what nobody can read."""
    base = world.saves(None, 2)
    world.client.delete(world.keys.log)
    before = world.dump()
    expect(world.send(world.plan(base, "b")), "corrupt", b"2")
    expect(world.compare(base), "corrupt", b"2")
    _untouched(world, before)


@scenario
def a_missing_entry_takes_no_save(world: World) -> None:
    """A save onto a log with a hole would acknowledge what nobody can read."""
    base = world.saves(None, 3)
    world.client.xdel(world.keys.log, "0-2")
    before = world.dump()
    expect(world.send(world.plan(base, "b")), "corrupt", b"3")
    expect(world.compare(base), "corrupt", b"3")
    _untouched(world, before)


@scenario
def a_head_whose_numbers_are_none_takes_no_save(world: World) -> None:
    """A version or a first that is no number is damage, not an error of the script."""
    for name in ("version", "first"):
        base = world.save(None, "a")
        world.client.hset(world.keys.head, name, "x")
        expect(world.send(world.plan(base, "b")), "corrupt")
        expect(world.compare(base), "corrupt")
        world.delete(base)


# ------------------------------------------------------------------------------------ already saved


@scenario
def a_resend_finds_its_own_save(world: World) -> None:
    """A save whose reply was lost is acknowledged by the resend, once, with the time it was saved."""
    base = world.save(None, "a")
    mine = world.plan(base, "b")
    first = world.send(mine)
    expect(world.send(mine, resend=True), "saved", first[1])
    assert world.load() == ["a", "b"]


@scenario
def a_resend_finds_its_save_below_a_rivals(world: World) -> None:
    """A save whose reply was lost is acknowledged also when a rival has saved onto it."""
    base = world.save(None, "a")
    mine = world.plan(base, "b")
    world.send(mine)
    world.save(mine.after, "rival")
    expect(world.send(mine, resend=True), "saved", b"")
    assert world.load() == ["a", "b", "rival"]


@scenario
def a_resend_finds_its_save_after_its_entry_was_trimmed(world: World) -> None:
    """A rival's checkpoint trims the entry of a save whose reply was lost; the save still counts."""
    base = world.save(None, "a")
    mine = world.plan(base, "b")
    world.send(mine)
    world.save(mine.after, "rival", full=True)
    assert world.client.xlen(world.keys.log) == 1
    expect(world.send(mine, resend=True), "saved", b"")
    expect(world.resolve(mine), "applied", b"")


@scenario
def a_resend_of_an_applied_save_is_not_told_of_a_lease(world: World) -> None:
    """Whether it was applied comes before who holds the lease now."""
    base = world.save(None, "a")
    mine = world.plan(base, "b")
    world.send(mine)
    world.grant("other")
    expect(world.send(mine, resend=True), "saved")


@scenario
def a_resend_of_an_applied_save_is_not_told_that_its_own_lease_was_lost(world: World) -> None:
    """A holder's save was applied, the reply was lost, and the next holder came: it is saved, not lost."""
    base = world.save(None, "a")
    lease = world.grant("me")
    mine = world.plan(base, "b", lease=lease)
    world.send(mine)
    world.lapse()
    world.grant("next")
    expect(world.send(mine, resend=True), "saved")


@scenario
def a_resend_of_an_applied_save_in_a_deleted_run_is_saved(world: World) -> None:
    """It was applied; that the run was deleted since is another matter."""
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
    """Fault 20: the run is deleted and made anew; no copy of the old first save touches it."""
    mine = world.plan(None, "old")
    world.send(mine)
    world.delete(mine.after)
    world.save(None, "new")
    before = world.dump()
    expect(world.send(mine, resend=True), "saved", b"")
    world.send(mine)
    _untouched(world, before)
    assert world.load() == ["new"]


@scenario
def a_resend_of_the_head_is_saved_though_the_list_is_gone(world: World) -> None:
    """An evicted list denies nothing: the head says itself whose save it is."""
    base = world.save(None, "a")
    mine = world.plan(base, "b")
    first = world.send(mine)
    world.client.delete(world.keys.etags)
    for answer, word in ((world.send(mine, resend=True), "saved"), (world.resolve(mine), "applied")):
        expect(answer, word, first[1])
    assert not world.marked(mine)
    assert world.load() == ["a", "b"]


def _applied(world: World, ttl: int | None = None) -> list[Save]:
    """Returns applied saves by all places where they can be found, the one of the head last; the run lives `ttl`."""
    below = world.plan(world.save(None, "a"), "b")
    world.send(below)
    newest = world.plan(below.after, "c", ttl=ttl)
    world.send(newest)
    return [below, newest]


def _again_both_ways(world: World, what: Save | Delete, by: redis.Redis | None = None) -> None:
    """Asks for an applied save, by resend and by resolve."""
    expect(world.send(what, resend=True, by=by), "saved")
    expect(world.resolve(what, by=by), "applied")


@scenario
def already_saved_writes_something_for_wait(world: World) -> None:
    """A WAIT after "already saved" or "applied" must count: WAIT answers at once where nothing was written."""

    def writes(what: Save) -> None:
        with world.watching(*world.data_keys) as written:
            expect(world.send(what, resend=True), "saved")
            assert written(), "the resend wrote nothing"
        with world.watching(*world.data_keys) as written:
            expect(world.resolve(what), "applied")
            assert written(), "resolve wrote nothing"

    for ttl in (None, QUARTER_MS):
        applied = _applied(world, ttl)
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
    """The write for WAIT changes nothing, with a lifetime and without one."""
    for ttl in (None, QUARTER_MS, 2 * QUARTER_MS):
        applied = _applied(world, ttl)
        before, deadlines = world.dump(), world.deadlines()
        for mine in applied:
            _again_both_ways(world, mine)
        _untouched(world, before)
        world.expire_alike(deadlines)
        world.delete(applied[-1].after)
        before, deadlines = world.dump(), world.deadlines()
        for mine in applied:
            _again_both_ways(world, mine)
        _untouched(world, before)
        world.expire_alike(deadlines)
        world.vanish()


@scenario
def already_saved_needs_no_permission_for_its_write(world: World) -> None:
    """An applied save is answered for though the write for WAIT is forbidden, and gets no lifetime by it."""
    with world.limited() as without:
        for denied in few(("PTTL", "PEXPIRE", "PERSIST")):
            for ttl in (None, QUARTER_MS):
                applied = _applied(world, ttl)
                before, deadlines = world.dump(), world.deadlines()
                for mine in applied:
                    _again_both_ways(world, mine, without(denied))
                _untouched(world, before)
                world.expire_alike(deadlines)
                world.vanish()


@scenario
def touching_moves_no_deadline(world: World) -> None:
    """The write for WAIT is to the list where there is one: head and log keep one deadline, to the millisecond."""
    for ttl in (None, QUARTER_MS):
        applied = _applied(world, ttl)
        deadlines = world.deadlines()
        with world.watching(world.keys.head, world.keys.log) as written:
            for mine in applied:
                _again_both_ways(world, mine)
            assert not written(), "head or log was written to"
        assert world.deadlines()[:2] == deadlines[:2]
        world.vanish()


# --------------------------------------------------------------------------- refused is refused for good


def _refused_then_late(world: World, mine: Save, kind: str, heal: Callable[[], object], *leftover: str) -> None:
    """Refuses a resend, removes the reason, and lets the first copy arrive."""
    expect(world.send(mine, resend=True), kind)
    assert world.marked(mine), f"{kind}: a refused resend left no mark"
    left = world.client.pttl(world.keys.marks)
    assert 0 < left <= QUARTER_MS, f"the marks live {left} ms"
    heal()
    before = world.dump()
    for resend in (False, True):
        expect(world.send(mine, resend=resend), "cancelled")
    _untouched(world, before)


@scenario
def a_late_copy_after_locked_is_not_applied(world: World) -> None:
    """A resend was refused as locked; then the lease lapses and the first copy arrives."""
    base = world.save(None, "a")
    world.grant("other")
    _refused_then_late(world, world.plan(base, "b"), "locked", world.lapse)


@scenario
def a_late_copy_after_lost_to_a_live_lease_is_not_applied(world: World) -> None:
    """A resend was refused as lost to a live lease; then that lapses, and the first copy arrives."""
    base = world.save(None, "a")
    world.plant("other", 9, remember=False)
    _refused_then_late(world, world.plan(base, "b", lease=Carried(10, "me")), "lost", world.lapse)


@scenario
def a_late_copy_after_lost_to_a_fence_is_not_applied(world: World) -> None:
    """A resend was refused for its fence; a failover forgets that fence, and the first copy arrives."""
    base = world.save(None, "a")
    before = world.dump()
    world.client.hset(world.keys.head, mapping={"fence": 9, "holder": "other"})
    mine = world.plan(base, "b", lease=Carried(8, "me"))
    _refused_then_late(world, mine, "lost", lambda: world.restore(before))


@scenario
def a_late_copy_after_conflict_is_not_applied(world: World) -> None:
    """A resend was refused as a conflict; a failover forgets the rival's save, and the first copy arrives."""
    base = world.save(None, "a")
    before = world.dump()
    world.save(base, "rival")
    _refused_then_late(world, world.plan(base, "b"), "conflict", lambda: world.restore(before))


@scenario
def a_late_copy_after_gone_is_not_applied(world: World) -> None:
    """A resend found the run gone without a trace; it comes back, and so does the first copy."""
    base = world.save(None, "a")
    before = world.dump()
    world.vanish()
    _refused_then_late(world, world.plan(base, "b"), "gone", lambda: world.restore(before))


@scenario
def a_late_copy_after_corrupt_is_not_applied(world: World) -> None:
    """A resend was told of damage, of each kind in turn; the damage goes, and the first copy arrives."""
    base = world.saves(None, 3)
    before = world.dump()
    damages: list[Callable[[], object]] = [
        lambda: world.client.delete(world.keys.log),
        lambda: world.client.hset(world.keys.head, "spans", "1:3"),
    ]
    for damage in damages:
        damage()
        _refused_then_late(world, world.plan(base, "late"), "corrupt", lambda: world.restore(before))
    world.client.delete(world.keys.head)
    mine = world.plan(None, "late")
    expect(world.send(mine, resend=True), "corrupt")
    world.delete(None)
    expect(world.send(mine), "cancelled")
    assert world.load() is None


@scenario
def a_late_copy_after_format_is_not_applied(world: World) -> None:
    """A resend was told of a newer format; a failover forgets that, and the first copy arrives."""
    base = world.save(None, "a")
    before = world.dump()
    world.client.hset(world.keys.head, "format", "2")
    _refused_then_late(world, world.plan(base, "b"), "format", lambda: world.restore(before))


@scenario
def a_late_copy_after_never_is_not_applied(world: World) -> None:
    """After resolve said never, neither the first copy nor a resend of the save is applied."""
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
    """After resolve said never of a save that was to create the run, no copy creates it."""
    mine = world.plan(None, "a")
    expect(world.resolve(mine), "never")
    for resend in (False, True):
        expect(world.send(mine, resend=resend), "cancelled")
    assert world.load() is None


@scenario
def a_late_copy_after_resolve_said_gone_is_not_applied(world: World) -> None:
    """Also after "it cannot be told any more" the answer stays true: it is not applied from then on."""
    base = world.save(None, "a")
    before = world.dump()
    world.vanish()
    mine = world.plan(base, "b")
    expect(world.resolve(mine), "gone", b"", b"")
    world.restore(before)
    expect(world.send(mine), "cancelled")


# ---------------------------------------------------- copies that no sender knows of: a proxy repeats requests


def _since(world: World, applied: Base) -> Iterator[str]:
    """Lets happen to a run, step by step, what would have a script refuse a copy of the save that made it `applied`."""
    world.lapse()
    rival = world.grant("rival")
    yield "another holds the lease"
    base = world.save(applied, "rival", lease=rival)
    yield "another has saved"
    base = world.save(base, "rival", full=True, lease=rival)
    yield "the entry was trimmed"
    world.delete(base, lease=rival)
    yield "the run was deleted"
    base = world.save(None, "new", lease=rival)
    yield "the run was made anew"
    world.lapse()
    yield "the fence has risen"
    world.delete(base, force=True)
    yield "the run was deleted once more, by force"


def _sent(world: World) -> Iterator[Save]:
    """Yields saves that are to be applied: the run's first, a later one, and each of them under a lease."""
    for leased in (False, True):
        for later in (False, True):
            world.client.delete(*world.all_keys)
            lease = world.grant("me") if leased else NO_LEASE
            yield world.plan(world.save(None, "a", lease=lease) if later else None, "b", lease=lease)


@scenario
def a_copy_of_an_applied_save_is_saved_whatever_came_since(world: World) -> None:
    """Row 25: a first send may be a copy, too. It is told that it is saved, and changes nothing."""
    for mine in _sent(world):
        told = world.send(mine)
        expect(told, "saved")
        expect(world.send(mine), "saved", told[1])
        for what in _since(world, mine.after):
            before = world.dump()
            for reply in (world.send(mine), world.send(mine, resend=True)):
                assert reply in (["saved", b""], told), f"{what}: {reply}"
            expect(world.resolve(mine), "applied")
            _untouched(world, before)


@scenario
def a_copy_of_an_applied_delete_is_deleted_whatever_came_since(world: World) -> None:
    """Row 25: a delete that arrives twice deletes once, and is told so both times."""
    for force in (False, True):
        mine = world.deletion(world.save(None, "a"), force=force)
        expect(world.send(mine), "deleted")
        expect(world.send(mine), "deleted")
        for what in _since(world, world.save(None, "new")):
            before = world.dump()
            reply = world.send(mine)
            assert reply == ["deleted"], f"{what}: {reply}"
            _untouched(world, before)
        world.client.delete(*world.all_keys)


@scenario
def a_copy_of_an_applied_delete_of_damage_reaches_no_other_damage(world: World) -> None:
    """It expects no etag, so nothing in a successor that is damaged, too, says that it was sent for another run."""
    mine = _damaged(world)
    expect(world.send(mine), "deleted")
    world.saves(None, 2)
    world.client.delete(world.keys.head)
    before = world.dump()
    for resend in (False, True):
        expect(world.send(mine, resend=resend), "deleted")
    _untouched(world, before)
    world.foreign(world.keys.etags)
    for resend in (False, True):
        expect(world.send(mine, resend=resend), "deleted")


@scenario
def a_copy_of_a_refused_first_send_is_refused_too(world: World) -> None:
    """The reason of the refusal goes, and a copy arrives that no sender knows of: it is not applied."""
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
    """A head never comes back to a parent that it has left, and fences never fall: a copy is refused as well."""
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
def a_save_that_is_applied_looks_for_nothing(world: World) -> None:
    """Whether it may be a copy is asked before a refusal, and of a first save: a turn does not pay for it."""
    base = world.save(None, "a")
    with world.limited() as without:
        expect(world.send(world.plan(base, "b"), by=without(["LPOS", "LLEN"])), "saved")


@scenario
def a_first_save_is_resent_onto_an_absent_run(world: World) -> None:
    """Nothing was there and nothing was deleted, so that no earlier copy was applied."""
    expect(world.send(world.plan(None, "a"), resend=True), "saved")
    assert world.load() == ["a"]


@scenario
def a_first_save_is_never_applied_after_never(world: World) -> None:
    """The mark of the first answer is no mark of a save that was applied."""
    mine = world.plan(None, "a")
    for _ in range(2):
        expect(world.resolve(mine), "never")
        assert 0 < world.client.pttl(world.keys.marks) <= QUARTER_MS
    world.save(None, "rival")
    expect(world.resolve(mine), "never")
    expect(world.send(mine), "conflict")


@scenario
def never_needs_no_list_where_the_head_tells(world: World) -> None:
    """A save was not applied if its parent is in the list, or is the head, and it is in neither."""
    base = world.save(None, "a")
    missed = world.plan(base, "b")
    newer = world.save(base, "rival")
    expect(world.resolve(missed), "never")
    world.client.delete(world.keys.etags)
    expect(world.resolve(world.plan(newer, "c")), "never")


@scenario
def old_marks_go_while_new_ones_come(world: World) -> None:
    """A run whose saves are refused again and again keeps the marks of a quarter of an hour, and not all."""
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
    """What is only housekeeping may be forbidden."""
    base = world.save(None, "a")
    world.grant("other")
    old = world.now() // 1000 - QUARTER_MS // 1000 - 1
    world.client.hset(world.keys.marks, "old", f"1 {old}")
    with world.limited() as without:
        for denied in ("HRANDFIELD", "HDEL"):
            mine = world.plan(base, "b")
            expect(world.send(mine, by=without([denied])), "locked")
            assert world.marked(mine)


# --------------------------------------------------------------------------------------- the lease


@scenario
def a_live_lease_locks_out_who_does_not_carry_it(world: World) -> None:
    """While a lease lives, a save, a compare and a delete without it are refused, with who and how long."""
    base = world.save(None, "a")
    mine = world.plan(base, "b")
    world.grant("other")
    before = world.dump()
    for reply in (world.send(mine), world.compare(base), world.send(world.deletion(base))):
        expect(reply, "locked", b"other")
        assert 0 < reply[2] <= 60_000
    _untouched(world, before)


@scenario
def a_live_lease_locks_out_a_first_save(world: World) -> None:
    """Who holds a run that is absent is to make it; nothing but the lease is there to tell, not even a head."""
    world.grant("other")
    world.client.delete(world.keys.head)
    expect(world.send(world.plan(None, "a")), "locked", b"other")
    assert world.load() is None


@scenario
def a_live_lease_fences_another_holder(world: World) -> None:
    """Who carries another lease than the live one has lost theirs, whatever their fence, also the same one."""
    base = world.save(None, "a")
    world.plant("other", 9, remember=False)
    before = world.dump()
    for fence in (8, 9, 10):
        _has_lost(world, base, Carried(fence, "me"), 9)
    _untouched(world, before)


@scenario
def a_live_lease_fences_its_holders_older_one(world: World) -> None:
    """A holder's name with another fence than the live lease's is another lease."""
    base = world.save(None, "a")
    world.plant("me", 9, remember=False)
    before = world.dump()
    for fence in (8, 10):
        _has_lost(world, base, Carried(fence, "me"), 9)
    _untouched(world, before)


@scenario
def the_holder_saves_and_deletes(world: World) -> None:
    """Who carries the live lease may do everything."""
    base = world.save(None, "a")
    lease = world.grant("me")
    named = str(lease.fence).encode(), b"me"
    base = world.save(base, "b", lease=lease)
    expect(world.compare(base, lease), "same")
    assert (world.head("fence"), world.head("holder")) == named
    world.delete(base, lease=lease)
    assert (world.head("fence"), world.head("holder")) == named


@scenario
def a_fence_below_the_heads_has_lost(world: World) -> None:
    """Once a fence was granted, nothing with a lower one is accepted, also when no lease lives."""
    base = world.save(None, "a")
    fence = world.grant("next").fence
    world.lapse()
    before = world.dump()
    for holder in ("me", "next"):
        _has_lost(world, base, Carried(fence - 1, holder), fence)
    _untouched(world, before)


@scenario
def an_equal_fence_of_another_holder_has_lost(world: World) -> None:
    """Two grants can fall in one millisecond: fences count with their holder."""
    base = world.save(None, "a")
    fence = world.grant("next").fence
    world.lapse()
    before = world.dump()
    _has_lost(world, base, Carried(fence, "me"), fence)
    _untouched(world, before)


@scenario
def a_lapsed_lease_that_the_head_still_names_is_accepted(world: World) -> None:
    """Nobody else was granted the run meanwhile, so the work of the late holder is not thrown away."""
    base = world.save(None, "a")
    lease = world.grant("me")
    world.lapse()
    expect(world.compare(base, lease), "same")
    base = world.save(base, "b", lease=lease)
    world.delete(base, lease=lease)


@scenario
def a_released_lease_has_lost(world: World) -> None:
    """A head whose holder is empty says "released": whoever carries its fence has given the run up, or been broken."""
    base = world.save(None, "a")
    world.plant("me", 9)
    world.client.hset(world.keys.head, "holder", "")
    world.lapse()
    before = world.dump()
    _has_lost(world, base, Carried(9, "me"), 9)
    _untouched(world, before)


@scenario
def a_head_that_names_no_holder_accepts_an_equal_fence(world: World) -> None:
    """Only a holder that is named can be another one."""
    base = world.save(None, "a")
    lease = Carried(9, "me")
    world.client.hset(world.keys.head, "fence", "9")
    expect(world.compare(base, lease), "same")
    base = world.save(base, "b", lease=lease)
    world.client.hdel(world.keys.head, "holder")
    world.delete(base, lease=lease)


@scenario
def without_a_lease_a_lapsed_one_is_no_hindrance(world: World) -> None:
    """A lease that is over locks nobody out."""
    base = world.save(None, "a")
    fence = world.grant("other").fence
    world.lapse()
    expect(world.compare(base), "same")
    base = world.save(base, "b")
    assert world.head("fence") == str(fence).encode()
    world.delete(base)


@scenario
def an_accepted_save_raises_the_fence(world: World) -> None:
    """A save with a higher fence than the head's fences everyone below, though no grant wrote it there."""
    base = world.save(None, "a")
    base = world.save(base, "b", lease=Carried(9, "next"))
    expect(world.send(world.plan(base, "c", lease=Carried(8, "me"))), "lost", b"9")
    expect(world.send(world.plan(base, "c", lease=Carried(9, "me"))), "lost", b"9")


@scenario
def a_holders_later_lease_raises_the_fence(world: World) -> None:
    """Whoever holds a run twice is fenced out of the first time, too."""
    base = world.save(None, "a", lease=Carried(5, "me"))
    base = world.save(base, "b", lease=Carried(9, "me"))
    _has_lost(world, base, Carried(8, "me"), 9)
    world.save(base, "c", lease=Carried(9, "me"))


@scenario
def a_save_names_its_holder_where_the_head_names_none(world: World) -> None:
    """Two grants can fall in one millisecond: of two with one fence, the first that saves is the one."""
    base = world.save(None, "a")
    world.client.hset(world.keys.head, "fence", "9")
    base = world.save(base, "b", lease=Carried(9, "me"))
    _has_lost(world, base, Carried(9, "other"), 9)


@scenario
def lease_before_conflict(world: World) -> None:
    """Who has neither the lease nor the newest revision is told of the lease: waiting comes first."""
    base = world.save(None, "a")
    stale, stale_lost = world.plan(base, "b"), world.plan(base, "b", lease=MADE_UP)
    world.save(base, "rival")
    world.grant("other")
    expect(world.send(stale), "locked")
    expect(world.send(stale_lost), "lost")
    expect(world.compare(base), "locked")
    expect(world.send(world.deletion(base)), "locked")


# ----------------------------------------------------------------------------------------- compare


@scenario
def of_two_writers_at_one_revision_the_later_conflicts(world: World) -> None:
    """The later of two writers is told the current revision, and writes nothing."""
    base = world.save(None, "a")
    stale = world.plan(base, "b", "c")
    newer = world.save(base, "rival")
    before = world.dump()
    for reply in (world.send(stale), world.send(world.plan(None, "new")), world.compare(base)):
        expect(reply, "conflict", b"2", newer.head.etag)
    expect(world.send(world.deletion(base)), "conflict", b"2", newer.head.etag)
    _untouched(world, before)


@scenario
def the_same_version_of_another_incarnation_conflicts(world: World) -> None:
    """ABA: delete and re-creation lead back to the same version number, not to the same revision."""
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
    """The run is absent, and its list still tells that the save was not applied: no "gone"."""
    base = world.save(None, "a")
    mine = world.plan(base, "b")
    world.delete(base)
    expect(world.send(mine), "conflict", b"", b"")
    expect(world.compare(base), "conflict", b"", b"")
    expect(world.send(mine, resend=True), "conflict", b"", b"")


@scenario
def content_that_did_not_change_is_confirmed(world: World) -> None:
    """A compare at the head answers with the time of the save, and writes nothing without a lifetime."""
    base = world.save(None, "a")
    before = world.dump()
    expect(world.compare(base), "same", world.head("saved"))
    _untouched(world, before)
    assert world.deadlines() == [-1, -1, -1]


# -------------------------------------------------------------------------------------------- gone


@scenario
def a_resend_older_than_the_list_is_gone(world: World) -> None:
    """256 saves later nothing tells any more whether a save was applied: neither saved nor conflict."""
    base = world.save(None, "a")
    applied = world.plan(base, "b")
    world.send(applied)
    missed = world.plan(base, "c")
    head = world.saves(applied.after, 256, full=True)
    for mine in (applied, missed):
        expect(world.resolve(mine), "gone", b"258", head.head.etag)
    applied, missed = _again(world, applied), _again(world, missed)
    expect(world.send(applied, resend=True), "gone", b"258", head.head.etag)
    expect(world.send(missed, resend=True), "gone", b"258", head.head.etag)


@scenario
def a_resend_older_than_the_list_is_not_told_of_a_lease(world: World) -> None:
    """It was applied, and forgotten: neither locked nor lost, which would say that nothing was written."""
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
    _untouched(world, before)
    assert world.leased() == rival


@scenario
def a_second_resend_after_gone_is_gone(world: World) -> None:
    """The mark that "gone" has left is for first copies: a resend is not told that nothing was written."""
    applied = world.plan(world.save(None, "a"), "b")
    world.send(applied)
    head = world.saves(applied.after, 300, full=True)
    for _ in range(3):
        expect(world.send(applied, resend=True), "gone", b"302", head.head.etag)
        assert world.marked(applied)
        expect(world.send(applied), "conflict")


@scenario
def a_resent_first_save_does_not_bring_a_run_back_that_forgot_it(world: World) -> None:
    """The run was saved 300 times and deleted: that it is absent now does not say that the save was not applied."""
    applied = world.plan(None, "a")
    world.send(applied)
    world.delete(world.saves(applied.after, 300, full=True))
    before = world.dump()
    for resend in (False, True):
        expect(world.send(applied, resend=resend), "saved", b"")
    expect(world.resolve(applied), "applied", b"")
    _untouched(world, before)
    assert world.load() is None


@scenario
def a_save_resent_onto_the_head_is_applied_though_the_list_is_gone(world: World) -> None:
    """Nothing came after its parent, so no copy of it was applied. That needs no list, whether it is locked or not."""
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
def a_first_save_is_known_however_old(world: World) -> None:
    """The head names the run's first save, and a mark that of a run that was deleted: no list must reach back to it."""
    applied, missed = world.plan(None, "a"), world.plan(None, "missed")
    world.send(applied)
    head = world.saves(applied.after, 300, full=True)
    for _ in range(2):
        expect(world.send(applied), "saved", b"")
        expect(world.send(applied, resend=True), "saved", b"")
        expect(world.resolve(applied), "applied", b"")
        expect(world.send(missed, resend=True), "conflict", str(head.head.version).encode(), head.head.etag)
        expect(world.resolve(_again(world, missed)), "never")
        _again(world, missed)
        world.delete(head)
        head = world.saves(None, 301, full=True)
    assert world.head("origin") not in (applied.etag, None)


@scenario
def a_head_that_does_not_name_its_first_save_tells_nothing_of_one(world: World) -> None:
    """So it is with runs of an earlier version. A first save is then gone, also after the delete of such a run."""
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
            assert world.send(_again(world, mine), resend=True)[:2] == ["gone", version]
            assert world.marked(mine)
            expect(world.resolve(_again(world, mine)), "gone", version)
    expect(world.send(_again(world, missed)), "conflict", b"1")


def _again(world: World, what: Save) -> Save:
    """Forgets that an answer has marked a save as never to be applied, so that the story can be told another way."""
    if world.marked(what):
        world.client.hdel(world.keys.marks, what.etag)
    return what


def _told(world: World, applied: Save) -> None:
    """Holds that an applied save is told so: by a resend, by a copy of the first send, and by resolve."""
    for resend in (False, True):
        expect(world.send(applied, resend=resend), "saved")
    expect(world.resolve(applied), "applied")


@scenario
def a_failed_write_does_not_make_a_full_list_look_complete(world: World) -> None:
    """A save or a delete that fails half-way may cost a full list its oldest etag; what it tells stays true."""
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
            _told(world, first)
            world.restore(before)


@scenario
def evicted_etags_do_not_deny_an_applied_save(world: World) -> None:
    """A first save is not looked for in the list alone."""
    first = world.plan(None, "a")
    world.send(first)
    base = world.save(first.after, "b")
    world.client.delete(world.keys.etags)
    _told(world, first)
    world.saves(base, 5)
    _told(world, first)


@scenario
def a_resend_after_the_run_vanished_is_gone(world: World) -> None:
    """After DEL, FLUSHALL or expiry nobody knows whether a save was applied before."""
    base = world.save(None, "a")
    mine = world.plan(base, "b")
    world.vanish()
    expect(world.send(mine), "conflict", b"", b"")
    expect(world.send(mine, resend=True), "gone", b"", b"")
    other = world.save(None, "new")
    _again(world, mine)
    expect(world.send(mine, resend=True), "gone", b"1", other.head.etag)
    expect(world.resolve(mine), "gone", b"1", other.head.etag)


@scenario
def a_resend_that_the_list_reaches_conflicts(world: World) -> None:
    """While the list reaches back to the parent, a lost race is a lost race."""
    base = world.save(None, "a")
    mine, first = world.plan(base, "b"), world.plan(None, "new")
    head = world.saves(base, 20)
    expect(world.send(mine, resend=True), "conflict", b"21", head.head.etag)
    expect(world.send(first, resend=True), "conflict", b"21", head.head.etag)


@scenario
def resolve_bears_a_version_that_is_no_number(world: World) -> None:
    """Damage of the head is no error of the script, and takes nothing from what is known of saves."""
    mine, base = world.plan(None, "b"), world.save(None, "a")
    world.client.hset(world.keys.head, "version", "x")
    expect(world.resolve(mine), "never")
    expect(world.resolve(world.plan(base, "c")), "never")
    expect(world.resolve(world.plan(mine.after, "c")), "gone", b"x")
    assert world.marked(mine)


# ------------------------------------------------------------------------------- what a save leaves


@scenario
def one_deadline_for_all_keys(world: World) -> None:
    """Head, log and etags expire in one millisecond, whichever save or compare set it."""
    base = world.save(None, "a", ttl=500_000)
    deadlines = [world.deadlines()]
    base = world.save(base, "b", ttl=700_000)
    deadlines.append(world.deadlines())
    base = world.save(base, "c", ttl=800_000, full=True)
    deadlines.append(world.deadlines())
    expect(world.compare(base, ttl=900_000), "same")
    deadlines.append(world.deadlines())
    base = world.save(base, "d")
    deadlines.append(world.deadlines())
    seconds, micros = world.client.time()
    now = seconds * 1000 + micros // 1000
    for found, ttl in zip(deadlines, (500_000, 700_000, 800_000, 900_000, 900_000), strict=True):
        assert len(set(found)) == 1, f"deadlines differ: {found}"
        assert now + ttl - 60_000 < found[0] <= now + ttl, f"{found[0] - now} ms from now, not {ttl}"


@scenario
def without_a_lifetime_a_run_is_for_ever(world: World) -> None:
    """What a delete left behind expires, but not the run that was made anew on it."""
    old = world.save(None, "old", lease=Carried(5, "me"))
    world.delete(old, lease=Carried(5, "me"))
    left = [world.client.pttl(world.keys.head), world.client.pttl(world.keys.etags)]
    assert all(0 < ttl <= QUARTER_MS for ttl in left), left
    base = world.save(None, "new")
    assert world.deadlines() == [-1, -1, -1], world.deadlines()
    world.save(base, "more")
    assert world.deadlines() == [-1, -1, -1], world.deadlines()


@scenario
def a_save_without_a_lifetime_leaves_one_alone(world: World) -> None:
    """A lifetime that somebody else gave the run stays as it is."""
    base = world.save(None, "a", ttl=500_000)
    before = world.deadlines()
    world.save(base, "b")
    assert world.deadlines() == before


@scenario
def a_lifetime_can_be_shortened(world: World) -> None:
    """Head and log live as the newest save says; the etags may outlive them, but by no more than a memory does."""
    base = world.save(None, "a", ttl=4 * QUARTER_MS)
    base = world.save(base, "b", ttl=MINUTE_MS)
    assert len(set(world.deadlines())) == 1, world.deadlines()
    assert 0 < world.client.pttl(world.keys.head) <= MINUTE_MS
    world.save(base, "c", ttl=MINUTE_MS // 2)
    head, log, etags = world.deadlines()
    assert head == log <= etags, (head, log, etags)
    assert 0 < world.client.pttl(world.keys.head) <= MINUTE_MS // 2


@scenario
def a_lifetime_that_is_over_at_once_leaves_nothing_immortal(world: World) -> None:
    """What expires while the script still runs is gone after it: no log without a head, no head without a lifetime."""
    for present, ttl in ((False, None), (True, None), (True, MINUTE_MS)):
        onto = world.saves(None, 2, ttl=ttl) if present else None
        expect(world.send(world.plan(onto, "b", ttl=0)), "saved")
        assert not world.client.exists(world.keys.head, world.keys.log)
        assert world.load() is None


@scenario
def a_short_lived_successor_does_not_shorten_the_memory_of_a_delete(world: World) -> None:
    """What is remembered of a deleted run outlives a successor that is short-lived."""
    first = world.plan(None, "old")
    world.send(first)
    world.delete(first.after)
    new = world.save(None, "new", ttl=MINUTE_MS)
    world.save(new, "more", ttl=MINUTE_MS)
    assert world.client.pttl(world.keys.head) <= MINUTE_MS
    assert world.client.pttl(world.keys.etags) > QUARTER_MS - MINUTE_MS
    _again_both_ways(world, first)


@scenario
def a_compare_does_not_shorten_the_memory_of_a_delete(world: World) -> None:
    """What is remembered of a deleted run outlives a successor whose short lifetime is renewed."""
    first = world.plan(None, "old")
    world.send(first)
    world.delete(first.after)
    new = world.save(None, "new", ttl=MINUTE_MS)
    expect(world.compare(new, ttl=MINUTE_MS), "same")
    assert 0 < world.client.pttl(world.keys.head) <= MINUTE_MS
    assert world.client.pttl(world.keys.etags) > QUARTER_MS - MINUTE_MS
    _again_both_ways(world, first)


@scenario
def a_compare_can_shorten_a_lifetime(world: World) -> None:
    """Also that of the etags, where it is longer than a memory."""
    base = world.save(None, "a", ttl=4 * QUARTER_MS)
    expect(world.compare(base, ttl=MINUTE_MS), "same")
    assert len(set(world.deadlines())) == 1, world.deadlines()
    assert 0 < world.client.pttl(world.keys.head) <= MINUTE_MS


@scenario
def trimming_keeps_what_keep_asks_for(world: World) -> None:
    """After every save the newest `keep` past revisions can be read, whatever checkpoints came between."""
    for keep, checkpoints in ((0, (3, 4)), (2, (3, 4, 6, 9)), (3, (2, 8)), (5, tuple(range(2, 20)))):
        base = world.save(None, "message 1")
        for version in range(2, 20):
            base = world.save(base, f"message {version}", keep=keep, full=version in checkpoints)
            for past in range(max(1, version - keep), version + 1):
                assert world.load(past) == [f"message {n}" for n in range(1, past + 1)], f"keep={keep}, {version}"
        first = int(world.head("first") or 0)
        assert first > 1, f"keep={keep}: nothing was trimmed"
        assert world.load() == [f"message {n}" for n in range(1, 20)]
        world.delete(base)


@scenario
def a_checkpoint_trims_the_log(world: World) -> None:
    """What lies before a checkpoint goes, at once, and the head counts right."""
    base = world.saves(None, 5)
    assert world.client.xlen(world.keys.log) == 5
    base = world.save(base, "all of it", full=True)
    assert (world.client.xlen(world.keys.log), world.head("first"), world.head("spans")) == (1, b"6", b"6:6")
    base = world.saves(base, 2)
    assert (world.client.xlen(world.keys.log), world.head("first")) == (3, b"6")


@scenario
def what_was_kept_goes_when_its_time_has_come(world: World) -> None:
    """What lies before a checkpoint stays while it is wanted, and goes by a save that moves no checkpoint itself."""
    base = world.saves(None, 3, keep=2)
    base = world.save(base, "all of it", full=True, keep=2)
    base = world.save(base, "5", keep=2)
    held = world.head("first"), world.head("checkpoint"), world.head("spans"), world.client.xlen(world.keys.log)
    assert held == (b"1", b"4", b"1:1 4:4", 5), held
    for version in (6, 7):
        base = world.save(base, str(version), keep=2)
        held = world.head("first"), world.head("checkpoint"), world.head("spans"), world.client.xlen(world.keys.log)
        assert held == (b"4", b"4", b"4:4", version - 3), held


@scenario
def a_span_that_was_lost_costs_what_it_kept_and_no_more(world: World) -> None:
    """`first` says what the log holds also where the spans tell less than there is: the run stays whole."""
    base = world.saves(None, 3)
    base = world.save(base, "all of it", full=True, keep=9)
    world.client.hset(world.keys.head, "spans", "4:4")
    for _ in range(2):
        base = world.save(base, "b", keep=9)
    assert (world.head("first"), world.client.xlen(world.keys.log)) == (b"4", 3)


@scenario
def spans_are_bounded(world: World) -> None:
    """The head does not grow with the checkpoints, however many past revisions are to be kept."""
    base = world.save(None, "a")
    for _ in range(40):
        base = world.save(base, "b", full=True, keep=10_000)
    assert len((world.head("spans") or b"").split()) <= 32
    for past in (1, 2, 20, 41):
        assert len(world.load(past) or ()) == past


@scenario
def the_log_is_bounded_also_when_spans_are_forgotten(world: World) -> None:
    """Where more checkpoints are kept than spans, the log still stays near what was asked for."""
    base = world.save(None, "x")
    for version in range(2, 202):
        base = world.save(base, "y", full=True, keep=40)
        if version % 20 == 0:
            for past in (version - 40, version - 20, version):
                assert past < 1 or len(world.load(past) or ()) == past
    assert world.client.xlen(world.keys.log) <= 100, world.client.xlen(world.keys.log)


@scenario
def a_span_that_names_trimmed_entries_is_not_believed(world: World) -> None:
    """`first` never goes back: the head would count entries that the log does not hold."""
    base = world.saves(None, 3)
    base = world.save(base, "all of it", full=True)
    world.client.hset(world.keys.head, "spans", "4:2")
    world.saves(base, 2)
    assert world.head("first") == b"4"


@scenario
def a_span_past_the_checkpoint_trims_nothing(world: World) -> None:
    """A damaged span would have the script trim what readers start from; the save is refused instead."""
    base = world.saves(None, 3)
    world.client.hset(world.keys.head, "spans", "1:3")
    before = world.dump()
    expect(world.send(world.plan(base, "b")), "corrupt", b"3")
    _untouched(world, before)
    assert world.load() == ["message 0", "message 1", "message 2"]


@scenario
def etags_are_capped(world: World) -> None:
    """The list remembers 256 etags and tickets, also over deletes."""
    base = world.saves(None, 260, full=True)
    assert world.client.llen(world.keys.etags) == 256
    world.delete(base)
    assert world.client.llen(world.keys.etags) == 256


@scenario
def meta_and_birth_stay(world: World) -> None:
    """A save that does not change the meta does not touch it, and only the first one tells when the run began."""
    base = world.save(None, "a", meta={"job": "4711"})
    created, meta = world.head("created"), world.head("meta")
    world.client.hset(world.keys.head, "created", "1")
    base = world.save(base, "b")
    assert (world.head("created"), world.head("meta")) == (b"1", meta)
    assert created is not None
    world.save(base, meta={"job": "4712"})
    assert world.head("meta") not in (meta, b"", None)


# ----------------------------------------------------------------------------------------- deletes


@scenario
def a_delete_leaves_only_memory(world: World) -> None:
    """Head and log are gone at once, and the etags after 15 minutes."""
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
    """Neither where nothing is, nor where a fence is remembered: that expires when it was to."""
    expect(world.send(world.deletion(None)), "absent")
    assert not world.client.exists(*world.all_keys)
    lease = Carried(9, "me")
    world.delete(world.save(None, "a"), lease=lease)
    with world.watching(*world.data_keys) as written:
        expect(world.send(world.deletion(None)), "absent")
        expect(world.send(world.deletion(None, lease)), "absent")
        assert not written()


@scenario
def a_forced_delete_of_an_absent_run_leaves_only_its_ticket(world: World) -> None:
    """For 15 minutes, and as one of 256: where nobody held the run there is no fence to remember."""
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
    """Neither the lease that was granted since its answer, nor what is saved with it, suffers from the first copy."""
    for resent in (True, False):
        world.grant("before")
        mine = world.deletion(None, force=True)
        expect(world.send(mine, resend=resent), "deleted" if resent else "absent")
        lease = world.grant("next")
        before, ends = world.dump(), world.client.pexpiretime(world.keys.lease)
        for resend in (False, True):
            expect(world.send(mine, resend=resend), "deleted")
            assert world.leased() == lease, "a late copy has fenced the successor"
            assert world.client.pexpiretime(world.keys.lease) == ends
            _untouched(world, before)
        world.save(None, "new", lease=lease)
        expect(world.send(mine), "deleted")
        assert world.load() == ["new"]
        world.client.delete(*world.all_keys)


@scenario
def a_late_forced_delete_that_was_refused_fences_nobody(world: World) -> None:
    """It was sent for an absent run and refused, since the run was made meanwhile; that run was deleted, too."""
    mine = world.deletion(None, force=True)
    base = world.save(None, "new")
    expect(world.send(mine), "conflict")
    world.delete(base)
    lease = world.grant("next")
    expect(world.send(mine), "cancelled")
    assert world.leased() == lease
    assert world.head("fence") == str(lease.fence).encode()


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
    """The run that it was sent for is gone, also where nothing tells any more who deleted it."""
    for forgotten in (False, True):
        base = world.save(None, "a")
        mine = world.deletion(base)
        world.delete(base)
        if forgotten:
            world.vanish()
        expect(world.send(mine, resend=True), "deleted")


@scenario
def a_resent_delete_leaves_the_successor(world: World) -> None:
    """Fault 20: no copy of an applied delete touches the run that was made since; the resend knows it is done."""
    old = world.save(None, "old")
    mine = world.deletion(old)
    expect(world.send(mine), "deleted")
    world.save(None, "new")
    before = world.dump()
    expect(world.send(mine, resend=True), "deleted")
    expect(world.send(mine), "deleted")
    _untouched(world, before)
    assert world.load() == ["new"]


@scenario
def a_resent_delete_older_than_the_list_is_gone(world: World) -> None:
    """Once the list does not reach back to what a delete expected, nobody can tell: neither deleted nor conflict."""
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
    _untouched(world, before)


@scenario
def a_resent_delete_older_than_the_list_is_not_told_of_a_lease(world: World) -> None:
    """It was applied, and forgotten: neither locked nor lost, which would say that nothing was deleted."""
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
    _untouched(world, before)
    assert world.leased() == rival


@scenario
def a_delete_resent_to_the_head_that_it_expects_is_applied(world: World) -> None:
    """Nothing came after what it expects, so no copy of it was applied; that needs no list."""
    mine = world.deletion(world.save(None, "a"))
    world.client.delete(world.keys.etags)
    expect(world.send(mine, resend=True), "deleted")
    assert world.load() is None


@scenario
def a_late_delete_after_gone_is_not_applied(world: World) -> None:
    """A resent delete was told "gone"; a failover brings back what it expected, and the first copy arrives."""
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
    """While the list reaches back to what a delete expected, a lost race is a lost race; so for damaged runs."""
    base = world.save(None, "a")
    mine, of_damage = world.deletion(base), world.deletion(None, read=b"")
    head = world.saves(base, 20)
    for delete in (mine, of_damage):
        expect(world.send(delete, resend=True), "conflict", b"21", head.head.etag)


@scenario
def an_applied_delete_is_not_a_conflict_after_the_list_was_evicted(world: World) -> None:
    """Without a list nobody can tell: "gone", and no copy of it is applied from then on."""
    mine = world.deletion(world.save(None, "a"))
    world.send(mine)
    new = world.save(None, "new")
    world.client.delete(world.keys.etags)
    expect(world.send(mine, resend=True), "gone", b"1", new.head.etag)
    assert world.marked(mine)
    assert world.load() == ["new"]


def _damaged(world: World) -> Delete:
    """Makes a run without a head, and plans its delete."""
    world.save(None, "a")
    world.client.delete(world.keys.head)
    return world.deletion(None, read=b"")


@scenario
def an_applied_delete_of_a_damaged_run_is_known_by_its_mark(world: World) -> None:
    """It expected no etag, so that no list tells how far back it must reach: a full one, an evicted one or none."""
    mine = _damaged(world)
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
def a_delete_of_a_damaged_run_is_told_of_a_lost_race(world: World) -> None:
    """However long ago that was: the run names its first save, and none was deleted that could not."""
    mine = world.deletion(None, read=b"")
    head = world.saves(None, 300, full=True)
    expect(world.send(mine, resend=True), "conflict", b"300", head.head.etag)


def _deleted(world: World) -> list[Callable[[], Delete]]:
    """Returns ways to a delete that is done, by all paths on which a resend finds that out."""

    def mine() -> Delete:
        done = world.deletion(world.save(None, "a"))
        expect(world.send(done), "deleted")
        return done

    def mine_below_a_successor() -> Delete:
        done = mine()
        world.save(None, "new")
        return done

    def anothers() -> Delete:
        base = world.save(None, "a")
        done = world.deletion(base)
        world.delete(base)
        return done

    def nobodys() -> Delete:
        done = world.deletion(world.save(None, "a"))
        world.client.delete(world.keys.head, world.keys.log)
        return done

    def mine_of_damage() -> Delete:
        done = _damaged(world)
        expect(world.send(done), "deleted")
        world.client.delete(world.keys.etags)
        return done

    return [mine, mine_below_a_successor, anothers, nobodys, mine_of_damage]


@scenario
def already_deleted_writes_something_for_wait(world: World) -> None:
    """Row 23: a WAIT after "deleted" must not count replicas that have not got the delete."""
    for way_to in _deleted(world):
        mine = way_to()
        with world.watching(*world.data_keys, world.keys.marks) as written:
            expect(world.send(mine, resend=True), "deleted")
            assert written(), way_to.__name__
        world.vanish()


@scenario
def already_deleted_leaves_all_as_it_was(world: World) -> None:
    """The write for WAIT changes nothing: neither the successor, nor what is remembered, nor for how long."""
    for way_to in _deleted(world):
        mine = way_to()
        before, deadlines = world.dump(), world.deadlines()
        expect(world.send(mine, resend=True), "deleted")
        _untouched(world, before)
        world.expire_alike(deadlines, way_to.__name__)
        world.vanish()


@scenario
def already_deleted_needs_no_permission_for_its_write(world: World) -> None:
    """A delete that is done is answered for though the write for WAIT is forbidden, and gives no lifetime by it."""
    with world.limited() as without:
        for denied in few(("PTTL", "PEXPIRE", "PERSIST")):
            for way_to in _deleted(world):
                mine = way_to()
                before, deadlines = world.dump(), world.deadlines()
                expect(world.send(mine, resend=True, by=without(denied)), "deleted")
                _untouched(world, before)
                world.expire_alike(deadlines, f"{way_to.__name__}, without {denied}")
                world.vanish()


@scenario
def a_resent_delete_bears_a_list_of_a_foreign_type(world: World) -> None:
    """It is refused, by a word and not by an error, and marked."""
    mine = world.deletion(world.save(None, "a"))
    world.vanish()
    world.save(None, "b")
    world.foreign(world.keys.etags)
    assert world.send(mine, resend=True)[0] in ("conflict", "gone")
    assert world.marked(mine)
    assert world.load() == ["b"]


@scenario
def a_late_copy_of_a_refused_delete_is_not_applied(world: World) -> None:
    """A resent delete was refused, for each reason in turn; the reason goes, and the first copy arrives."""
    base = world.save(None, "a")
    mine = world.deletion(base)
    world.plant("other", 9, remember=False)
    lost_to_lease = world.deletion(base, Carried(10, "me"))
    expect(world.send(mine, resend=True), "locked")
    expect(world.send(lost_to_lease, resend=True), "lost")
    world.lapse()
    before = world.dump()
    world.client.hset(world.keys.head, mapping={"fence": 9, "holder": "other"})
    lost_to_fence = world.deletion(base, Carried(8, "me"))
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
def a_late_delete_after_never_is_not_applied(world: World) -> None:
    """After resolve said that a delete never happened, no copy of it deletes."""
    base = world.save(None, "a")
    mine = world.deletion(base)
    expect(world.resolve(mine), "never")
    expect(world.send(mine), "cancelled")
    expect(world.send(mine, resend=True), "cancelled")
    assert world.load() == ["a"]


@scenario
def fences_survive_a_delete(world: World) -> None:
    """A holder from before the delete has lost, also in the run that was made since."""
    base = world.save(None, "a")
    fence = world.grant("next").fence
    found = str(fence).encode()
    world.lapse()
    world.delete(base)
    assert (world.head("fence"), world.head("holder")) == (found, b"next")
    assert 0 < world.client.pttl(world.keys.head) <= QUARTER_MS
    expect(world.send(world.plan(None, "late", lease=Carried(fence - 1, "me"))), "lost", found)
    expect(world.send(world.plan(None, "late", lease=Carried(fence, "me"))), "lost", found)
    base = world.save(None, "new")
    expect(world.send(world.plan(base, "late", lease=Carried(fence - 1, "me"))), "lost", found)


@scenario
def a_delete_with_a_lease_leaves_its_fence(world: World) -> None:
    """Also when the head had not heard of that lease."""
    base = world.save(None, "a")
    world.delete(base, lease=Carried(9, "next"))
    expect(world.send(world.plan(None, "late", lease=Carried(8, "me"))), "lost", b"9")


@scenario
def a_forced_delete_fences_the_holder(world: World) -> None:
    """Whoever holds the lease is not obeyed but fenced: nothing of theirs comes after the delete."""
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
    """While the head names them, their late save would be accepted; not after a forced delete."""
    base = world.save(None, "a")
    lease = world.grant("holder")
    world.lapse()
    world.delete(base, force=True)
    expect(world.send(world.plan(None, "late", lease=lease)), "lost")


@scenario
def a_forced_delete_of_an_absent_run_fences_its_holder(world: World) -> None:
    """Who holds a lease on a run that is not there cannot create it after a forced delete."""
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
def a_delete_of_an_absent_run_fences_nobody_unless_forced(world: World) -> None:
    """Who holds a lease on a run that is not there keeps it."""
    lease = world.grant("holder")
    expect(world.send(world.deletion(None)), "absent")
    expect(world.send(world.plan(None, "a", lease=lease)), "saved")


@scenario
def a_forced_delete_with_a_lease_does_not_lower_the_fence(world: World) -> None:
    """The lease that a forced delete carries may be older than the head's."""
    far = 4_000_000_000_000
    base = world.save(None, "a")
    world.plant("next", far)
    world.lapse()
    world.delete(base, lease=Carried(8, "me"), force=True)
    assert int(world.head("fence") or 0) == far + 1


@scenario
def a_forced_delete_raises_the_fence_above_all(world: World) -> None:
    """Above the head's, the lease's and the clock's: whichever is highest."""
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
def a_delete_by_the_holder_leaves_the_lease(world: World) -> None:
    """Who holds the run goes on holding it, and may make it anew; nobody else may."""
    base = world.save(None, "a")
    lease = world.grant("me")
    world.delete(base, lease=lease)
    assert 0 < world.client.pttl(world.keys.lease) <= MINUTE_MS
    expect(world.send(world.plan(None, "other")), "locked", b"me")
    expect(world.send(world.plan(None, "new", lease=lease)), "saved")


@scenario
def a_forced_delete_fences_though_the_head_is_of_a_foreign_type(world: World) -> None:
    """Damage of the head does not keep a forced delete from clearing it, nor from fencing whom the lease names."""
    world.save(None, "a")
    lease = world.plant("holder", 9, remember=False)
    world.foreign(world.keys.head)
    expect(world.send(world.deletion(None, force=True)), "deleted")
    assert not world.client.exists(world.keys.lease, world.keys.log)
    assert int(world.head("fence") or 0) > 9
    expect(world.send(world.plan(None, "late", lease=lease)), "lost")


@scenario
def a_forced_delete_that_is_acknowledged_has_fenced(world: World) -> None:
    """Row 22: whichever command was forbidden, once it or its resend says deleted, the holder has lost."""
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
    """The same where there is no run, whose holder is about to make it; and nothing is left there for ever."""
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
    """Where the run is absent, and the fence cannot be written, nobody else gets in between."""
    lease = world.plant("holder", 9, remember=False)
    with world.limited() as without:
        for resend in (False, True):
            reply = world.try_(world.deletion(None, force=True), resend, without(["HSET"]))
            assert isinstance(reply, Exception), reply
            assert 0 < world.client.pttl(world.keys.lease) <= MINUTE_MS, "the lease went, and no fence came"
    expect(world.send(world.plan(None, "other")), "locked", b"holder")
    expect(world.send(world.plan(None, "a", lease=lease)), "saved")


@scenario
def a_delete_clears_damage(world: World) -> None:
    """Whatever is broken, a delete that names what it read clears it, and the run can be made anew."""
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
    """What the other keys hold does not keep a damaged run from being deleted, nor the next one from its saves."""
    for key in (world.keys.marks, world.keys.lease):
        for force in (False, True):
            base = world.save(None, "a")
            world.foreign(key)
            expect(world.send(world.deletion(base, force=force)), "deleted")
            assert not world.client.exists(world.keys.head, world.keys.log)
            assert world.client.type(key) in (b"none", b"hash")
            world.delete(world.save(None, "new"))


# -------------------------------------------------------------------------------- half-way failures

SAVE_WRITES: Final = (
    "HSET", "HDEL", "LTRIM", "RPUSH", "PEXPIREAT", "PERSIST", "PEXPIRE", "XTRIM", "XADD",
)  # fmt: skip


def _situations(world: World) -> list[tuple[str, Save]]:
    """Returns saves for the run as it is left by the step of the same number; each is a different path."""
    old = world.save(None, "old", lease=Carried(5, "me"))
    base = world.saves(old, 2)
    return [
        ("a later save", world.plan(base, "b")),
        ("with a lifetime", world.plan(base, "b", ttl=QUARTER_MS)),
        ("with trimming", world.plan(base, "b", full=True)),
        ("with everything", world.plan(base, "b", full=True, ttl=QUARTER_MS, lease=Carried(6, "me"), meta={"a": 1})),
    ]


def _holds(world: World) -> dict[bytes, object]:
    """Returns what the run holds but for the head's `format`, which says nothing by itself."""
    head = world.client.hgetall(world.keys.head)
    head.pop(b"format", None)
    dump = world.dump()
    return {b"head": head, b"log": dump[world.keys.log], b"etags": dump[world.keys.etags]}


def _fails_half_way(world: World, mine: Save, limited: redis.Redis, content: list[str], label: str) -> bool:
    before = _holds(world)
    reply = world.try_(mine, by=limited)
    if isinstance(reply, list) and reply[0] == "saved":
        assert world.load() == content, label
        return False
    assert isinstance(reply, Exception) or reply[0] == "failed", f"{label}: {reply}"
    assert _holds(world) == before, f"{label}: {reply} left something behind"
    return True


@scenario
def a_list_of_a_foreign_type_is_told_of_and_left_alone(world: World) -> None:
    """What is not ours where the etags should be fails a save before it has left a trace, whoever saves."""
    base = world.saves(None, 2)
    plans = [world.plan(base, "b"), world.plan(base, "b", ttl=QUARTER_MS), world.plan(base, "b", lease=MADE_UP)]
    world.foreign(world.keys.etags)
    before, deadlines = world.dump(), world.deadlines()
    for mine in plans:
        for reply in (world.send(mine), world.send(mine, resend=True)):
            expect(reply, "failed")
            assert b"WRONGTYPE" in reply[1], reply
        _untouched(world, before)
        assert world.deadlines() == deadlines
    world.vanish()
    world.foreign(world.keys.etags)
    before = world.dump()
    assert "WRONGTYPE" in str(world.try_(world.plan(None, "a")))
    _untouched(world, before)


@scenario
def a_save_that_fails_half_way_changes_nothing(world: World) -> None:
    """Row 22: with any one or two commands forbidden, a save writes all or nothing, and can be repeated."""
    failures = 0
    with world.limited() as without:
        for number in range(4):
            for denied in few(SAVE_WRITES):
                world.client.delete(*world.data_keys, world.keys.marks)
                label, mine = _situations(world)[number]
                label = f"{label} without {denied}"
                content = ["old", "message 0", "message 1", "b"]
                if _fails_half_way(world, mine, without(denied), content, label):
                    failures += 1
                    expect(world.send(mine, resend=True), "saved")
                    assert world.load() == content, label
                world.save(mine.after, "c")
                assert world.load() == [*content, "c"], label
    assert failures > 60, failures


@scenario
def a_first_save_that_fails_half_way_changes_nothing(world: World) -> None:
    """Row 22, for the save that creates a run, on nothing or on what a delete left."""
    failures = 0
    with world.limited() as without:
        for ttl in (None, QUARTER_MS):
            for deleted in (False, True):
                for denied in few(SAVE_WRITES):
                    world.client.delete(*world.data_keys, world.keys.marks)
                    if deleted:
                        world.delete(world.save(None, "old"), lease=Carried(5, "me"))
                    mine = world.plan(None, "b", ttl=ttl)
                    label = f"ttl={ttl}, deleted={deleted}, without {denied}"
                    if _fails_half_way(world, mine, without(denied), ["b"], label):
                        failures += 1
                        assert world.load() is None, label
                        expect(world.send(mine, resend=True), "saved")
                    assert world.load() == ["b"], label
    assert failures > 60, failures


@scenario
def a_first_save_that_fails_leaves_no_key_and_no_immortal_one(world: World) -> None:
    """A failed first save creates nothing, and what a delete left behind still expires."""
    with world.limited() as without:
        expect(world.send(world.plan(None, "a"), by=without(["XADD"])), "failed")
        assert not world.client.exists(*world.data_keys)
        world.delete(world.save(None, "old"), lease=Carried(5, "me"))
        expect(world.send(world.plan(None, "a"), by=without(["XADD"])), "failed")
        left = [world.client.pttl(world.keys.head), world.client.pttl(world.keys.etags)]
        assert all(0 < ttl <= QUARTER_MS for ttl in left), left


@scenario
def a_full_list_survives_a_failed_save(world: World) -> None:
    """What a save that fails half-way pushes out of a full list is the very oldest etag at most."""
    base = world.saves(None, 256, full=True)
    before = world.dump()
    with world.limited() as without:
        for denied in (["XADD"], ["LTRIM"], ["RPUSH"], ["RPUSH", "XADD"], ["LTRIM", "XADD"]):
            world.restore(before)
            mine = world.plan(base, "b")
            expect(world.send(mine, by=without(denied)), "failed")
            assert world.etags()[-255:] == [save.etag for save in world.applied[-255:]], denied
            expect(world.send(mine, resend=True), "saved")
            world.applied.pop()
    assert world.client.llen(world.keys.etags) == 256


def _runs(world: World) -> list[tuple[str, Callable[[], Save]]]:
    """Returns ways to a run that takes a save, which plan that save; by each, the script takes another path."""

    def fresh(ttl: int | None) -> Save:
        return world.plan(None, "x", ttl=ttl)

    def deleted(ttl: int | None) -> Save:
        world.delete(world.save(None, "old"), lease=Carried(5, "me"))
        return world.plan(None, "x", ttl=ttl)

    def lasting(ttl: int | None) -> Save:
        return world.plan(world.saves(None, 2), "x", ttl=ttl, full=True)

    def mortal(ttl: int | None) -> Save:
        return world.plan(world.saves(None, 2, ttl=QUARTER_MS), "x", ttl=ttl)

    def long_lived(ttl: int | None) -> Save:
        return world.plan(world.saves(None, 2, ttl=4 * QUARTER_MS), "x", ttl=ttl)

    return [
        (f"{way.__name__}, ttl={ttl}", functools.partial(way, ttl))
        for way in (fresh, deleted, lasting, mortal, long_lived)
        for ttl in (None, MINUTE_MS, 2 * QUARTER_MS)
    ]


@scenario
def no_forbidden_command_leaves_half_a_save(world: World) -> None:
    """Row 22: whichever command is forbidden, an etag is in the list only with its entry, and lifetimes stay.

    Whether the script raises or answers `failed`: nobody is told "already saved" of what is not in the log.
    """
    failures: set[str] = set()
    with world.limited() as without:
        for denied in sorted(commands("save"), reverse=True):  # sooner at what the guards are about
            for way, way_to in _runs(world):
                label = f"{way}, without {denied}"
                world.client.delete(*world.data_keys, world.keys.marks)
                mine = way_to()
                content, deadlines, before = world.load(), world.deadlines(), _holds(world)
                reply = world.try_(mine, by=without([denied]))
                saved = isinstance(reply, list) and reply[0] == "saved"
                assert (mine.etag in world.etags()) == saved, f"{label}: {reply}"
                assert (world.head("etag") == mine.etag) == saved, f"{label}: {reply}"
                if not saved:
                    failures.add(denied)
                    assert _holds(world) == before, f"{label}: {reply} left something behind"
                    world.expire_alike(deadlines, label)
                assert world.load() == ([*(content or ()), "x"] if saved else content), label
                expect(world.send(mine, resend=True), "saved")
                assert world.load() == [*(content or ()), "x"], label
    assert failures >= {
        "EXISTS", "HMGET", "XLEN", "LPOS", "TIME", "PTTL", "HSET", "LTRIM", "RPUSH", "XADD",
    }, failures  # fmt: skip


@scenario
def a_failed_save_leaves_lifetimes_as_they_were(world: World) -> None:
    """Head, log and etags keep theirs, whether the save asks for one, and whether the run is absent or has one."""
    with world.limited() as without:
        by = without(["XADD"])
        for way, way_to in _runs(world):
            mine = way_to()
            deadlines, before = world.deadlines(), _holds(world)
            expect(world.send(mine, by=by), "failed")
            assert _holds(world) == before, way
            world.expire_alike(deadlines, way)
            world.vanish()


@scenario
def a_failed_save_gives_no_lifetime_though_persist_is_forbidden(world: World) -> None:
    """A run that is for ever stays so: what can give a lifetime must be able to take it off again."""
    with world.limited() as without:
        for denied in (["PERSIST"], ["XADD"], ["XADD", "PERSIST"]):
            base = world.save(None, "a")
            expect(world.send(world.plan(base, "b", ttl=MINUTE_MS), by=without(denied)), "failed")
            assert world.deadlines() == [-1, -1, -1], f"without {denied}: {world.deadlines()}"
            world.vanish()


@scenario
def a_failed_save_takes_no_lifetime_though_setting_one_is_forbidden(world: World) -> None:
    """A lifetime that cannot be set cannot be put back either, so it is not taken off first."""
    base = world.save(None, "a", ttl=QUARTER_MS)
    deadlines = world.deadlines()
    with world.limited() as without:
        expect(world.send(world.plan(base, "b", ttl=2 * QUARTER_MS), by=without(["PEXPIREAT"])), "failed")
    assert world.deadlines() == deadlines


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
                mine = world.deletion(base, lease=Carried() if force else lease, force=force)
                before = _holds(world)
                reply = world.try_(mine, by=without(denied))
                assert not isinstance(reply, Exception), f"without {denied}, force={force}: {reply}"
                if reply[0] == "failed":
                    failures += 1
                    assert _holds(world) == before, f"without {denied}, force={force}: {reply} left something behind"
                    expect(world.send(mine, resend=True), "deleted")
                expect(reply, reply[0] if reply[0] == "failed" else "deleted")
                assert world.load() is None
                assert int(world.head("fence") or 0) >= lease.fence
    assert failures > 20, failures


@scenario
def a_delete_that_fails_half_way_leaves_no_mark_without_an_end(world: World) -> None:
    """What a delete leaves behind expires, also where it deleted nothing."""
    with world.limited() as without:
        for denied in few(("DEL", "PEXPIRE")):
            base = world.save(None, "a")
            expect(world.send(world.deletion(base), by=without(denied)), "failed")
            assert world.client.pttl(world.keys.marks) != -1, f"without {denied}"
            world.delete(base)
            world.client.delete(*world.all_keys)


@scenario
def a_delete_of_damage_that_fails_half_way_is_not_told_as_done(world: World) -> None:
    """Nothing in a damaged run says whether it was deleted but the mark, which goes where it was not."""
    with world.limited() as without:
        for denied in few(("DEL", "HDEL", "HSET", "LREM", "LTRIM", "PEXPIRE", "RPUSH")):
            mine = _damaged(world)
            expect(world.send(mine, by=without(denied)), "failed")
            assert world.client.exists(world.keys.log)
            assert world.client.hget(world.keys.marks, mine.ticket) is None, f"without {denied}"
            expect(world.send(mine, resend=True), "deleted")
            assert not world.client.exists(world.keys.log), f"without {denied}"
            world.client.delete(*world.all_keys)


# ------------------------------------------------------------------------------------- full memory


def _full(world: World, full: bool) -> None:
    world.client.config_set("maxmemory", "1" if full else "0")


OWN_SERVER: Final[dict[str, Scenario]] = {}


def own_server(story: Scenario) -> Scenario:
    """Registers a scenario that needs a server of its own, to fill it up or to demote it."""
    OWN_SERVER[story.__name__] = scenario(story)
    return story


@own_server
def a_save_into_full_memory_changes_nothing(world: World) -> None:
    """With full memory the first write of a save fails, so nothing was written; it succeeds when there is room."""
    try:
        for number in range(2):
            base = world.saves(None, 3) if number else None
            content = ["message 0", "message 1", "message 2"] if number else None
            mine = world.plan(base, "b")
            before = world.dump()
            _full(world, True)
            reply = world.send(mine)
            expect(reply, "failed")
            assert b"OOM" in reply[1], reply
            _full(world, False)
            _untouched(world, before)
            assert world.load() == content
            expect(world.send(mine, resend=True), "saved")
            assert world.load() == [*(content or ()), "b"]
            world.delete(mine.after)
    finally:
        _full(world, False)


@own_server
def full_memory_denies_no_applied_save(world: World) -> None:
    """A resend and a resolve of an applied save need no memory, and leave run and lifetimes as they were."""
    try:
        for ttl in (None, QUARTER_MS):
            applied = _applied(world, ttl)
            before, deadlines = world.dump(), world.deadlines()
            _full(world, True)
            for mine in applied:
                _again_both_ways(world, mine)
            _full(world, False)
            _untouched(world, before)
            world.expire_alike(deadlines)
            world.vanish()
    finally:
        _full(world, False)


@own_server
def full_memory_denies_no_applied_delete(world: World) -> None:
    """A resend of a delete that is done needs no memory, and leaves everything as it was."""
    try:
        for way_to in _deleted(world):
            mine = way_to()
            before, deadlines = world.dump(), world.deadlines()
            _full(world, True)
            expect(world.send(mine, resend=True), "deleted")
            _full(world, False)
            _untouched(world, before)
            world.expire_alike(deadlines, way_to.__name__)
            world.vanish()
    finally:
        _full(world, False)


@own_server
def full_memory_takes_deletes(world: World) -> None:
    """Deleting is how memory is freed, so full memory does not forbid it, damaged runs included."""
    try:
        base = world.saves(None, 3)
        world.grant("holder")
        _full(world, True)
        world.delete(base, force=True)
        assert not world.client.exists(world.keys.log)
        _full(world, False)
        base = world.saves(None, 3)
        world.foreign(world.keys.etags)
        _full(world, True)
        world.delete(base)
        assert not world.client.exists(world.keys.log)
        _full(world, False)
        world.vanish()
        for held in (False, True):
            if held:
                world.grant("holder")
            _full(world, True)
            reply = world.try_(world.deletion(None, force=True))
            _full(world, False)
            assert reply == ["absent"], reply
            assert world.leased() is None
    finally:
        _full(world, False)


@own_server
def full_memory_makes_no_unmarked_refusal(world: World) -> None:
    """Where no mark can be left, a resend is not refused and resolve does not say never: the outcome stays open."""
    try:
        base = world.save(None, "a")
        mine, doomed = world.plan(base, "b"), world.deletion(base)
        world.save(base, "rival")
        _full(world, True)
        for delivered in (mine, doomed):
            assert isinstance(world.try_(delivered, resend=True), Exception)
            assert isinstance(world.try_(_resolution(world, delivered)), Exception)
            assert not world.marked(delivered)
    finally:
        _full(world, False)


# ------------------------------------------------------------------ servers whose answer does not count


@contextmanager
def _demoted(world: World) -> Iterator[str]:
    """The server is a replica meanwhile, whose data will be thrown away; yields what it says to writes."""
    world.client.execute_command("REPLICAOF", "127.0.0.1", "1")
    try:
        yield "read only replica"
    finally:
        world.client.execute_command("REPLICAOF", "NO", "ONE")


@contextmanager
def _lonely(world: World) -> Iterator[str]:
    """The server may take no writes meanwhile, for it may be a primary that was replaced; yields what it says."""
    world.client.config_set("min-replicas-to-write", "1")
    try:
        yield "Not enough good replicas"
    finally:
        world.client.config_set("min-replicas-to-write", "0")


Elsewhere = Callable[[World], AbstractContextManager[str]]


def _confirms_no_save(world: World, elsewhere: Elsewhere) -> None:
    def asked(what: Save) -> None:
        before, deadlines = world.dump(), world.deadlines()
        with elsewhere(world) as said:
            for call, resend in ((what, True), (_resolution(world, what), False)):
                reply = world.try_(call, resend)
                assert isinstance(reply, Exception), reply
                assert said in str(reply), reply
        _untouched(world, before)
        world.expire_alike(deadlines)
        _again_both_ways(world, what)

    for ttl in (None, QUARTER_MS):
        applied = _applied(world, ttl)
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


def _confirms_no_delete(world: World, elsewhere: Elsewhere) -> None:
    for way_to in _deleted(world):
        mine = way_to()
        before = world.dump()
        with elsewhere(world) as said:
            reply = world.try_(mine, resend=True)
            assert isinstance(reply, Exception), f"{way_to.__name__}: {reply}"
            assert said in str(reply), f"{way_to.__name__}: {reply}"
        _untouched(world, before)
        expect(world.send(mine, resend=True), "deleted")
        world.vanish()


@own_server
def a_read_only_server_denies_no_open_outcome_and_confirms_none(world: World) -> None:
    """Row 10: a primary demoted to replica, whose data will be thrown away, must not answer saved or applied."""
    _confirms_no_save(world, _demoted)


@own_server
def a_server_that_lacks_replicas_confirms_no_open_outcome(world: World) -> None:
    """A primary that may have been replaced behind its back must not answer saved or applied."""
    _confirms_no_save(world, _lonely)


@own_server
def a_read_only_server_confirms_no_delete(world: World) -> None:
    """Row 10, for deletes, whoever deleted the run."""
    _confirms_no_delete(world, _demoted)


@own_server
def a_server_that_lacks_replicas_confirms_no_delete(world: World) -> None:
    """The same for a primary that may have been replaced."""
    _confirms_no_delete(world, _lonely)


# ------------------------------------------------------------------------------- a slot on the move

IN_CLUSTER: Final[dict[str, Scenario]] = {}


def in_cluster(story: Scenario) -> Scenario:
    """Registers a scenario that needs a cluster of two nodes: `client` reaches the one that owns all slots."""
    IN_CLUSTER[story.__name__] = scenario(story)
    return story


@in_cluster
def a_save_to_a_slot_on_the_move_is_neither_applied_nor_misled(world: World) -> None:
    """A cluster moves a slot key by key. Half-way a save raises, wherever it goes: what is not there is not absent."""
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
