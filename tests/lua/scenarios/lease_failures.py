"""Scenarios of the lease scripts: forbidden commands, foreign types, full memory."""

from __future__ import annotations

from typing import Final

from histstore.protocol.leases import Ticket

from ...support.generations import expires_at
from ..sending import commands
from ..world import MINUTE_MS, World
from .expectations import expect, expect_free, expect_held_by
from .registry import own_server, scenario
from .situations import CLAIM_MS, fill_memory, lease_requests

LEASE_SCRIPTS: Final = ("acquire", "renew", "release")


@scenario
def no_forbidden_command_locks_a_run_for_ever(world: World) -> None:
    """Row 22: whichever command is forbidden, no lease lacks an expiry, and the run can be used again."""
    failures: set[str] = set()
    with world.process() as process, world.limited() as without:
        for denied in sorted(set().union(*(commands(script) for script in LEASE_SCRIPTS))):
            for name, way in lease_requests(world, process.channel):
                label = f"{name} without {denied}"
                call = way()
                content = world.load()
                reply = world.try_(call, by=without([denied]))
                if isinstance(reply, Exception):
                    failures.add(denied)
                assert world.client.pttl(world.keys.lease) != -1, f"{label}: a lease without an end"
                assert world.load() == content, label
                for _ in range(5):
                    world.lapse()
                    taken = world.acquire(Ticket("after", MINUTE_MS, ""), queue=False)
                    if taken[0] == "granted":
                        break
                assert taken[0] == "granted", f"{label}: {taken}"
                base = world.applied[-1].after if content else None
                world.save(base, "b", lease=expect_held_by(world, "after"))
                expect(world.release("after"), "released")
                expect_free(world)
                world.client.delete(*world.all_keys)
    assert failures >= {
        "HMGET", "HEXISTS", "LINDEX", "LPOP", "LPOS", "RPUSH", "LRANGE", "LREM", "LLEN", "HSET", "DEL", "PEXPIRE",
        "PEXPIREAT", "PTTL", "TIME",
    }, failures  # fmt: skip


@scenario
def a_key_of_a_foreign_type_is_met_before_the_first_write(world: World) -> None:
    """A foreign key raises WRONGTYPE before anything is changed and before anybody is notified."""

    def state() -> object:
        return [(world.client.dump(key), expires_at(world.client, key)) for key in world.all_keys]

    changed: list[str] = []
    with world.process() as process:
        for key in (world.keys.head, world.keys.marks, world.keys.lease, world.keys.queue):
            for name, way in lease_requests(world, process.channel):
                call = way()
                label = f"{name}, {key.rpartition(b':')[2].decode()}"
                world.foreign(key)
                process.messages()
                before = state()
                reply = world.try_(call)
                if isinstance(reply, Exception):
                    assert "WRONGTYPE" in str(reply), f"{label}: {reply}"
                    if state() != before or process.messages():
                        changed.append(label)
                else:
                    # Marks are nothing to who neither asks for the run, nor leaves one.
                    assert key == world.keys.marks, f"{label}: {reply}"
                world.client.delete(*world.all_keys)
    assert not changed, f"WRONGTYPE after a write: {changed}"


@own_server
def full_memory_stops_no_holder_and_no_hand_off(world: World) -> None:
    """Renewal, release, leaving, hand-off and claim need no memory, and neither do reviving or breaking a lease."""
    try:
        with world.process() as process:
            for name, way in lease_requests(world, process.channel):
                if name == "queueing":
                    continue
                call = way()
                fill_memory(world, True)
                reply = world.try_(call)
                fill_memory(world, False)
                assert not isinstance(reply, Exception), f"{name}: {reply}"
                assert reply[0] in ("granted", "queued", "renewed", "released", "lost"), f"{name}: {reply}"
                world.leased()
                world.client.delete(*world.all_keys)
            world.grant("holder")
            tickets = [world.queue(name, process.channel) for name in ("a", "b")]
            fill_memory(world, True)
            expect(world.release("holder", late=True), "released")
            lease = expect_held_by(world, "a", most=CLAIM_MS)
            expect(world.renew(lease), "renewed")
            expect(world.acquire(tickets[0]), "granted")
            world.lapse()
            expect(world.acquire(Ticket("c", MINUTE_MS, ""), queue=False), "held", b"b")
            lease = expect_held_by(world, "b", most=CLAIM_MS)
            world.lapse()
            expect(world.renew(lease), "renewed")
            expect(world.release("b", force=True), "released")
            fill_memory(world, False)
            expect_free(world)
    finally:
        fill_memory(world, False)
