"""Check what a reply says and what a run holds."""

from __future__ import annotations

import redis

from histstore.log.base import Base
from histstore.protocol.run import LeaseToken

from ...support.generations import expires_at
from ..sending import Delete, Reply, Save
from ..world import MINUTE_MS, World


def expect(reply: Reply, *wanted: object) -> None:
    """Check the first words of a reply."""
    assert reply[: len(wanted)] == list(wanted), f"{reply}, not {list(wanted)}"


def expect_lost(world: World, base: Base, lease: LeaseToken, fence: int) -> None:
    """Check that save, compare and delete all answer "lost" to a lease, and name the fence that refuses it."""
    found = str(fence).encode()
    expect(world.send(world.plan(base, "by a zombie", lease=lease)), "lost", found)
    expect(world.compare(base, lease), "lost", found)
    expect(world.send(world.deletion(base, lease)), "lost", found)


def expect_unchanged(world: World, before: dict[bytes, bytes | None]) -> None:
    """Check that the data keys hold what they held before."""
    assert world.dump() == before, "a refusal wrote to the run"


def digits(number: int) -> bytes:
    return str(number).encode()


def pttl(world: World, key: bytes | None = None) -> int:
    return int(world.client.pttl(key or world.keys.lease))


def expect_held_by(world: World, holder: str, most: int = MINUTE_MS) -> LeaseToken:
    """Check that the live lease is `holder`'s, for at most `most` ms from now, and that the head knows it."""
    lease = world.leased()
    assert lease is not None, f"the run is free, not {holder}'s"
    assert lease.holder == holder, f"{lease.holder} has it, not {holder}"
    assert pttl(world) <= most, f"{holder} has it for {pttl(world)} ms"
    assert (world.head("fence"), world.head("holder")) == (digits(lease.fence), holder.encode())
    return lease


def expect_free(world: World) -> None:
    """Check that the run is free: no lease and no queue."""
    assert not world.client.exists(world.keys.lease, world.keys.queue)


def lease_ends(world: World) -> int:
    return expires_at(world.client, world.keys.lease)


def expect_confirmed(world: World, what: Save | Delete, by: redis.Redis | None = None) -> None:
    """Check that a resend and resolve both report an applied save."""
    expect(world.send(what, resend=True, by=by), "saved")
    expect(world.resolve(what, by=by), "applied")


def expect_saved(world: World, applied: Save) -> None:
    """Check that an applied save is reported: by a resend, by a copy of the first send, and by resolve."""
    for resend in (False, True):
        expect(world.send(applied, resend=resend), "saved")
    expect(world.resolve(applied), "applied")
