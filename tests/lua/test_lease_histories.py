"""Random histories of leases: requests arrive once, twice, or long after they were given up; processes vanish."""

from __future__ import annotations

import random
from collections.abc import Callable
from dataclasses import dataclass, field

import pytest

from histstore.log.chain import Base
from histstore.protocol import leases as _leasing
from histstore.protocol.leases import Ticket
from histstore.protocol.requests import Call, Carried

from .test_guards import GUARDS
from .world import MINUTE_MS, Process, World

DEAD = "nobody-listens-here"
REMEMBERED = 6
"""So many of those who left last a run's head remembers."""


@dataclass
class Way:
    """One way to a lease.

    Attributes:
        listens: Whether its process does.
        copies: Requests that are still on their way.
        over: Whether it was given up, and the server knows.
        unknown: How many requests had given something up then, if its process did not know that copies may arrive.
        lease: What it was granted, if it was.
    """

    ticket: Ticket
    listens: bool
    copies: list[Call] = field(default_factory=list)
    over: bool = False
    unknown: int | None = None
    lease: Carried | None = None

    @property
    def late(self) -> bool:
        return any(call.name == "acquire" for call in self.copies)


@dataclass
class History:
    """Plays processes, network and clock against one run, and checks after every step.

    Attributes:
        held: The live lease, as it was found after the step before.
        newest: The last lease that was granted; the head names it until it is given up or broken.
        row: The queue, as it was found after the step before.
        base: What the run holds.
    """

    world: World
    process: Process
    seed: int
    chance: random.Random = field(init=False)
    ways: dict[str, Way] = field(default_factory=dict)
    held: Carried | None = None
    newest: Carried = field(default_factory=Carried)
    named: bool = False
    row: list[str] = field(default_factory=list)
    base: Base | None = None
    releases: int = 0
    words: set[str] = field(default_factory=set)
    steps: list[str] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.chance = random.Random(self.seed)

    def fail(self, text: str) -> str:
        return f"seed {self.seed}: {text}; steps: {self.steps[-30:]}"

    def send(self, way: Way, call: Call, label: str, *, ends: str = "", leaves: str = "") -> None:
        """Delivers a request. `ends`: whose lease it may end; `leaves`: whose place it may take out of the queue."""
        reply = self.world.send(call)
        self.releases += call.name == "release"
        self.words.add(reply[0])
        self.steps.append(f"{label} {way.ticket.holder} -> {reply}")
        if call.name == "release" and reply[0] == "released" and ends == self.newest.holder:
            self.named = False
        self.check(label, ends, leaves, way.ticket.holder if call.name == "acquire" else "")
        if call.name == "renew":
            *_, holder, fence, _ = call.commands(False, False)[0]
            mine = self.held == Carried(int(fence), str(holder))
            assert mine == (reply[0] == "renewed"), self.fail(f"{holder}, {fence}: {reply}; in force: {self.held}")

    def check(self, label: str, ends: str = "", leaves: str = "", asks: str = "") -> None:
        """Finds out what a step did to lease and queue, and whether it was allowed to."""
        held, row, before = self.world.leased(), self.world.waiting(), self.row
        # One that does not listen may be dropped by its own request, and stands at the end of the queue after it.
        dropped = self.held is None and asks and not self.ways[asks].listens and self.ways[asks].ticket.place
        kept = [place for place in before if place in row]
        orders = (kept, [place for place in kept if place != dropped])
        assert any(row[: len(order)] == order for order in orders), self.fail(
            f"{row} after {before}: not in order of arrival"
        )
        assert len(set(row)) == len(row), self.fail(f"somebody stands in the queue twice: {row}")
        if held != self.held:
            assert self.held is None or self.held.holder == ends, self.fail(f"{label} took a lease: {self.held}")
        if held is not None and held != self.held:
            assert not self.ways[held.holder].over, self.fail(f"a ghost lease of {held.holder}")
            if held == self.newest:
                assert self.named, self.fail("a lease that was given up or broken is in force again")
                assert not before, self.fail(f"it was renewed though others wait: {before}")
            else:
                assert held.fence > self.newest.fence, self.fail(f"{held} after {self.newest}: the fence did not rise")
                mine = self.ways[held.holder].ticket.place
                ahead = before[: before.index(mine)] if mine in before else before
                listening = [place for place in ahead if f" {self.process.channel} " in place]
                assert all(place.split()[-1] == leaves for place in listening), self.fail(f"{mine} barged: {before}")
                heard = held.holder == asks or self.ways[held.holder].listens
                assert heard, self.fail(f"{held.holder} was handed the run, and does not listen")
                self.newest, self.named = held, True
            self.ways[held.holder].lease = held
        assert held is None or self.ways[held.holder].ticket.place not in row, self.fail("the holder waits for itself")
        self.held, self.row = held, row
        # Only a step of the history is to end a lease, however slow this machine is.
        self.world.client.pexpire(self.world.keys.lease, MINUTE_MS)

    def some(self, *, over: bool | None = False, leased: bool = False) -> Way | None:
        found = [w for w in self.ways.values() if over in (None, w.over) and (w.lease is not None or not leased)]
        return self.chance.choice(found) if found else None

    def also_later(self, way: Way, call: Call) -> Call:
        if self.chance.random() < 0.3:
            way.copies.append(call)
        return call

    def ask(self, way: Way) -> None:
        call = _leasing.acquire(self.world.where, way.ticket, queue=self.chance.random() < 0.8)
        self.send(way, self.also_later(way, call), "acquire")

    def give_up(self, way: Way) -> None:
        """A process knows that copies may arrive if an answer was lost, but not if a proxy makes them."""
        holder, knows = way.ticket.holder, self.chance.random() < 0.5
        way.unknown = None if knows else self.releases
        call = _leasing.release(self.world.where, holder, way.ticket.place, late=way.late and knows)
        way.over = True
        self.send(way, self.also_later(way, call), "give up", ends=holder, leaves=holder)

    def deliver(self, way: Way) -> None:
        call = way.copies.pop(self.chance.randrange(len(way.copies)))
        if call.name == "acquire" and way.unknown is not None and self.releases - way.unknown > REMEMBERED:
            return  # it comes too late to be known: that costs its ttl, or a claim
        # A late copy of a release, of a break too, may still end the lease that it was meant for, and no other.
        holder = way.ticket.holder if call.name == "release" else ""
        self.send(way, call, f"late {call.name}", ends=holder, leaves=holder)

    def save(self, way: Way) -> None:
        """Holds that a save is accepted while its lease is in force, and no longer."""
        assert way.lease is not None
        save = self.world.plan(self.base, f"message {len(self.steps)}", lease=way.lease)
        word = self.world.send(save)[0]
        self.steps.append(f"save by {way.lease} -> {word}")
        allowed = way.lease == (self.held or self.newest) and (self.held is not None or self.named)
        assert (word == "saved") == allowed, self.fail(f"the newest is {self.newest}, named {self.named}: {word}")
        self.base = save.after if allowed else self.base

    def step(self) -> None:
        kind, way = self.chance.random(), self.some()
        flying = [each for each in self.ways.values() if each.copies]
        if kind < 0.15 or way is None:
            name, listens = f"w{len(self.ways)}", self.chance.random() < 0.7
            ticket = Ticket(name, MINUTE_MS, self.process.channel if listens else DEAD)
            self.ways[name] = way = Way(ticket, listens)
            self.ask(way)
        elif kind < 0.35:
            self.ask(way)
        elif kind < 0.5 and flying:
            self.deliver(self.chance.choice(flying))
        elif kind < 0.6 and (way := self.some(over=None, leased=True)):
            assert way.lease is not None
            call = _leasing.renew(self.world.where, way.lease, MINUTE_MS)
            self.send(way, self.also_later(way, call), "renew")
        elif kind < 0.75 and (way := self.some(over=None, leased=True)):
            self.save(way)
        elif kind < 0.85 and (way := self.some()):
            self.give_up(way)
        elif kind < 0.9 and self.newest.holder:
            way = self.ways[self.newest.holder]
            call = _leasing.release(self.world.where, way.ticket.holder, force=True)
            self.send(way, self.also_later(way, call), "break", ends=way.ticket.holder)
        elif self.held is not None:
            self.world.lapse()
            self.steps.append("lapse")
            self.check("lapse", ends=self.held.holder)


SEEDS = 40


def play(world: World, seed: int) -> None:
    with world.process() as process:
        history = History(world, process, seed)
        for _ in range(80):
            history.step()
        for way in history.ways.values():
            if not way.over:
                history.give_up(way)
        for way in history.ways.values():
            while way.copies:
                history.deliver(way)
        assert history.held is None, history.fail(f"{history.held} is left")
        assert not history.row, history.fail(f"{history.row} are left")
        assert len(history.words) > 3, history.fail(f"nothing happened: {history.words}")


@pytest.mark.parametrize("seed", range(SEEDS))
def test_a_random_history_of_leases(seed: int, make_world: Callable[..., World]) -> None:
    """One holder at a time, in order of arrival, by rising fences; what was given up stays so; nothing is left."""
    play(make_world(""), seed)


@pytest.mark.parametrize(
    "name",
    [
        ("acquire", "marks are obeyed"),
        ("acquire", "nobody barges"),
        ("acquire", "a run that is taken is not handed over"),
        ("acquire", "no copy of one place is another"),
        ("acquire", "who has left is not granted"),
        ("granting", "first come, first served"),
        ("granting", "who does not listen is passed over"),
        ("granting", "the head knows the lease"),
        ("renew", "another's lease"),
        ("renew", "the head's holder is another"),
        ("renew", "somebody waits"),
        ("release", "only its holder's lease ends"),
        ("release", "the head forgets who has released"),
        ("release", "late copies find a mark"),
        ("release", "a run that is taken is not handed over"),
        ("save", "a lower fence"),
        ("save", "a released lease"),
    ],
    ids=": ".join,
)
def test_random_histories_of_leases_notice_a_missing_guard(
    name: tuple[str, str], make_world: Callable[..., World]
) -> None:
    """The histories are wild enough: without the guard, one of them goes wrong."""
    (guard,) = [guard for guard in GUARDS if (guard.file, guard.name) == name]
    for seed in range(SEEDS):
        try:
            play(make_world("", guard.sources()), seed)
        except AssertionError:
            return
    raise AssertionError(f"seeds 0 to {SEEDS - 1} all passed")
