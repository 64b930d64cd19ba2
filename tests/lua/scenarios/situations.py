"""Bring a run into the situations that several scenarios start from."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass
from typing import Final

from histstore.log.base import Base
from histstore.protocol import leases, saves
from histstore.protocol.call import Call
from histstore.protocol.leases import Ticket
from histstore.protocol.run import LeaseToken

from ...support.generations import skip_without_min_replicas
from ..doorbell import Process
from ..sending import Delete, Save
from ..world import MINUTE_MS, QUARTER_MS, World
from .expectations import expect

MADE_UP: Final = LeaseToken(7, "made-up")


CLAIM_MS: Final = 1000


NOBODY: Final = "nobody-listens-here"


FAR: Final = 4_000_000_000_000_001  # a fence that no clock reaches, and that no double rounds


def resolution(world: World, what: Save | Delete) -> Call:
    assert what.call.attempt is not None
    return saves.resolve(world.where, what.call.attempt)


def applied_saves(world: World, ttl: int | None = None) -> list[Save]:
    """Return applied saves, one for each place where a copy can find them; the last is the head. `ttl`: of the run."""
    below = world.plan(world.save(None, "a"), "b")
    world.send(below)
    newest = world.plan(below.after, "c", ttl=ttl)
    world.send(newest)
    return [below, newest]


def delete_of_damage(world: World) -> Delete:
    """Make a run without a head, and plan its delete."""
    world.save(None, "a")
    world.client.delete(world.keys.head)
    return world.deletion(None, read=b"")


def deletes_done(world: World) -> list[Callable[[], Delete]]:
    """Return functions that make a delete which is done, one for each way in which a resend finds that out."""

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
        done = delete_of_damage(world)
        expect(world.send(done), "deleted")
        world.client.delete(world.keys.etags)
        return done

    return [mine, mine_below_a_successor, anothers, nobodys, mine_of_damage]


def without_mark(world: World, what: Save) -> Save:
    """Remove the mark that an answer left on a save, so that the scenario can send the save again."""
    if world.marked(what):
        world.client.hdel(world.keys.marks, what.etag)
    return what


def later_events(world: World, applied: Base) -> Iterator[str]:
    """Yield after each event that would make a script refuse a copy of the save that made `applied`."""
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


def contents(world: World) -> dict[bytes, object]:
    """Return the run's contents, without the head's `format`, which says nothing by itself."""
    head = world.client.hgetall(world.keys.head)
    head.pop(b"format", None)
    dump = world.dump()
    return {b"head": head, b"log": dump[world.keys.log], b"etags": dump[world.keys.etags]}


@contextmanager
def queue_of(world: World, *places: str) -> Iterator[tuple[Process, list[Ticket]]]:
    """Take the lease and queue waiters: "b at x" waits in process x; at "-" nobody listens any more."""
    asked = [place.split(" at ") for place in places]
    names = sorted({process for _, process in asked if process != "-"})
    with world.process(*names) as processes:
        channels = dict(zip(names, processes.channels, strict=True))
        world.grant("holder")
        tickets = [world.queue(name, channels.get(process, f"{NOBODY}-{name}")) for name, process in asked]
        yield processes, tickets
    world.client.delete(*world.all_keys)


def wait_past(world: World, fence: int) -> None:
    while world.now() <= fence:
        pass


def fill_memory(world: World, full: bool) -> None:
    world.client.config_set("maxmemory", "1" if full else "0")


@contextmanager
def demoted(world: World) -> Iterator[str]:
    """Make the server a replica for a while: its data will be thrown away. Yields its error for writes."""
    world.client.execute_command("REPLICAOF", "127.0.0.1", "1")
    try:
        yield "read only replica"
    finally:
        world.client.execute_command("REPLICAOF", "NO", "ONE")


@contextmanager
def lacking_replicas(world: World) -> Iterator[str]:
    """Forbid the server to take writes for a while: it may have been replaced. Yields its error for writes."""
    skip_without_min_replicas(world.client)
    world.client.config_set("min-replicas-to-write", "1")
    try:
        yield "Not enough good replicas"
    finally:
        world.client.config_set("min-replicas-to-write", "0")


Elsewhere = Callable[[World], AbstractContextManager[str]]


@dataclass(frozen=True)
class LeaseRequests:
    """Make lease requests; each method prepares the run so that its request takes another path through a script.

    Attributes:
        channel: Where the waiters listen.
    """

    world: World
    channel: str

    def _acquire(self, holder: str, ttl: int = QUARTER_MS) -> Call:
        return leases.acquire(self.world.where, Ticket(holder, ttl, self.channel), queue=True)

    def _run(self) -> Base:
        return self.world.save(None, "a", ttl=MINUTE_MS)

    def _queue(self) -> None:
        self.world.grant("holder")
        self.world.queue("me", self.channel)
        self.world.queue("later", self.channel)

    def acquire_absent(self) -> Call:
        return self._acquire("me")

    def acquire(self) -> Call:
        self._run()
        return self._acquire("me")

    def queueing(self) -> Call:
        self._run()
        self.world.grant("holder")
        return self._acquire("me")

    def claim(self) -> Call:
        self._run()
        self._queue()
        self.world.release("holder")
        return self._acquire("me")

    def own_turn(self) -> Call:
        self._queue()
        self.world.lapse()
        return self._acquire("me", MINUTE_MS)

    def anothers_turn(self) -> Call:
        self._run()
        self._queue()
        self.world.lapse()
        return self._acquire("newcomer")

    def renew(self) -> Call:
        self._run()
        lease = self.world.grant("holder")
        self.world.queue("later", self.channel)
        return leases.renew(self.world.where, lease, QUARTER_MS)

    def revive(self) -> Call:
        self._run()
        lease = self.world.grant("holder")
        self.world.lapse()
        return leases.renew(self.world.where, lease, QUARTER_MS)

    def release(self) -> Call:
        self._run()
        self._queue()
        return leases.release(self.world.where, "holder", late=True)

    def release_absent(self) -> Call:
        self._queue()
        return leases.release(self.world.where, "holder")

    def break_(self) -> Call:
        self._run()
        self._queue()
        return leases.release(self.world.where, "holder", force=True)

    def break_absent(self) -> Call:
        self.world.grant("holder")
        return leases.release(self.world.where, "holder", force=True)

    def leave(self) -> Call:
        self._run()
        self._queue()
        place = Ticket("me", MINUTE_MS, self.channel).place
        return leases.release(self.world.where, "me", place, late=True)


def lease_requests(world: World, channel: str) -> list[tuple[str, Callable[[], Call]]]:
    """Return functions that prepare the run and make a lease request, each with its name."""
    ways = LeaseRequests(world, channel)
    names = [name for name in vars(LeaseRequests) if not name.startswith("_")]
    return [(name, getattr(ways, name)) for name in names if name not in ("world", "channel")]
