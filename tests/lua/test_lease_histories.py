"""Random histories of leases: requests arrive once, twice, or long after they were given up; processes vanish."""

from __future__ import annotations

import random
from collections.abc import Callable
from dataclasses import dataclass, field

import pytest

from histstore.log.base import Base
from histstore.protocol import leases
from histstore.protocol.call import Call
from histstore.protocol.leases import Ticket
from histstore.protocol.run import LeaseToken

from .doorbell import Process
from .guards import find_guard
from .world import MINUTE_MS, World

DEAD = "nobody-listens-here"
REMEMBERED = 6
"""How many holders that left a run's head remembers."""


@dataclass
class Acquisition:
    """One acquisition, from its first request to the end of its lease.

    Attributes:
        listens: Whether its process listens to its doorbell.
        copies: Requests that are still under way.
        over: Whether it was given up and the server knows it.
        unknown: The number of releases before it was given up, if its process did not know of late copies.
        lease: The lease that it was granted, if any.
    """

    ticket: Ticket
    listens: bool
    copies: list[Call] = field(default_factory=list)
    over: bool = False
    unknown: int | None = None
    lease: LeaseToken | None = None

    @property
    def late(self) -> bool:
        return any(call.name == "acquire" for call in self.copies)


@dataclass
class History:
    """Play processes, network and clock against one run, and check after every step.

    Attributes:
        held: The live lease after the previous step.
        newest: The last lease that was granted. The head names it until it is released or broken.
        row: The queue after the previous step.
        base: The content of the run.
    """

    world: World
    process: Process
    seed: int
    chance: random.Random = field(init=False)
    acquisitions: dict[str, Acquisition] = field(default_factory=dict)
    held: LeaseToken | None = None
    newest: LeaseToken = field(default_factory=LeaseToken)
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

    def send(self, acquisition: Acquisition, call: Call, label: str, *, ends: str = "", leaves: str = "") -> None:
        """Deliver a request. `ends`: whose lease it may end. `leaves`: whose place it may remove from the queue."""
        reply = self.world.send(call)
        self.releases += call.name == "release"
        self.words.add(reply[0])
        self.steps.append(f"{label} {acquisition.ticket.holder} -> {reply}")
        if call.name == "release" and reply[0] == "released" and ends == self.newest.holder:
            self.named = False
        self.check(label, ends, leaves, acquisition.ticket.holder if call.name == "acquire" else "")
        if call.name == "renew":
            *_, holder, fence, _ = call.commands(False, False)[0]
            mine = self.held == LeaseToken(int(fence), str(holder))
            assert mine == (reply[0] == "renewed"), self.fail(f"{holder}, {fence}: {reply}; in force: {self.held}")

    def check(self, label: str, ends: str = "", leaves: str = "", asks: str = "") -> None:
        """Find out what a step did to lease and queue, and check that it was allowed to."""
        held, row, before = self.world.leased(), self.world.waiting(), self.row
        # One that does not listen may be dropped by its own request, and stands at the end of the queue after it.
        dropped = (
            self.held is None and asks and not self.acquisitions[asks].listens and self.acquisitions[asks].ticket.place
        )
        kept = [place for place in before if place in row]
        orders = (kept, [place for place in kept if place != dropped])
        assert any(row[: len(order)] == order for order in orders), self.fail(
            f"{row} after {before}: not in order of arrival"
        )
        assert len(set(row)) == len(row), self.fail(f"somebody stands in the queue twice: {row}")
        if held != self.held:
            assert self.held is None or self.held.holder == ends, self.fail(f"{label} took a lease: {self.held}")
        if held is not None and held != self.held:
            assert not self.acquisitions[held.holder].over, self.fail(f"a ghost lease of {held.holder}")
            if held == self.newest:
                assert self.named, self.fail("a lease that was given up or broken is in force again")
                assert not before, self.fail(f"it was renewed though others wait: {before}")
            else:
                assert held.fence > self.newest.fence, self.fail(f"{held} after {self.newest}: the fence did not rise")
                mine = self.acquisitions[held.holder].ticket.place
                ahead = before[: before.index(mine)] if mine in before else before
                listening = [place for place in ahead if f" {self.process.channel} " in place]
                assert all(place.split()[-1] == leaves for place in listening), self.fail(f"{mine} barged: {before}")
                reachable = held.holder == asks or self.acquisitions[held.holder].listens
                assert reachable, self.fail(f"{held.holder} was handed the run, and does not listen")
                self.newest, self.named = held, True
            self.acquisitions[held.holder].lease = held
        assert held is None or self.acquisitions[held.holder].ticket.place not in row, self.fail(
            "the holder waits for itself"
        )
        self.held, self.row = held, row
        # Only a step of the history is to end a lease, however slow this machine is.
        self.world.client.pexpire(self.world.keys.lease, MINUTE_MS)

    def some(self, *, over: bool | None = False, leased: bool = False) -> Acquisition | None:
        found = [
            w for w in self.acquisitions.values() if over in (None, w.over) and (w.lease is not None or not leased)
        ]
        return self.chance.choice(found) if found else None

    def also_later(self, acquisition: Acquisition, call: Call) -> Call:
        if self.chance.random() < 0.3:
            acquisition.copies.append(call)
        return call

    def ask(self, acquisition: Acquisition) -> None:
        call = leases.acquire(self.world.where, acquisition.ticket, queue=self.chance.random() < 0.8)
        self.send(acquisition, self.also_later(acquisition, call), "acquire")

    def give_up(self, acquisition: Acquisition) -> None:
        """A process knows that copies may arrive if an answer was lost, but not if a proxy makes them."""
        holder, knows = acquisition.ticket.holder, self.chance.random() < 0.5
        acquisition.unknown = None if knows else self.releases
        call = leases.release(self.world.where, holder, acquisition.ticket.place, late=acquisition.late and knows)
        acquisition.over = True
        self.send(acquisition, self.also_later(acquisition, call), "give up", ends=holder, leaves=holder)

    def deliver(self, acquisition: Acquisition) -> None:
        call = acquisition.copies.pop(self.chance.randrange(len(acquisition.copies)))
        if (
            call.name == "acquire"
            and acquisition.unknown is not None
            and self.releases - acquisition.unknown > REMEMBERED
        ):
            return  # it comes too late to be known: that costs its ttl, or a claim
        # A late copy of a release, of a break too, may still end the lease that it was meant for, and no other.
        holder = acquisition.ticket.holder if call.name == "release" else ""
        self.send(acquisition, call, f"late {call.name}", ends=holder, leaves=holder)

    def save(self, acquisition: Acquisition) -> None:
        """Holds that a save is accepted while its lease is in force, and no longer."""
        assert acquisition.lease is not None
        save = self.world.plan(self.base, f"message {len(self.steps)}", lease=acquisition.lease)
        word = self.world.send(save)[0]
        self.steps.append(f"save by {acquisition.lease} -> {word}")
        allowed = acquisition.lease == (self.held or self.newest) and (self.held is not None or self.named)
        assert (word == "saved") == allowed, self.fail(f"the newest is {self.newest}, named {self.named}: {word}")
        self.base = save.after if allowed else self.base

    def step(self) -> None:
        kind, acquisition = self.chance.random(), self.some()
        flying = [each for each in self.acquisitions.values() if each.copies]
        if kind < 0.15 or acquisition is None:
            name, listens = f"w{len(self.acquisitions)}", self.chance.random() < 0.7
            ticket = Ticket(name, MINUTE_MS, self.process.channel if listens else DEAD)
            self.acquisitions[name] = acquisition = Acquisition(ticket, listens)
            self.ask(acquisition)
        elif kind < 0.35:
            self.ask(acquisition)
        elif kind < 0.5 and flying:
            self.deliver(self.chance.choice(flying))
        elif kind < 0.6 and (acquisition := self.some(over=None, leased=True)):
            assert acquisition.lease is not None
            call = leases.renew(self.world.where, acquisition.lease, MINUTE_MS)
            self.send(acquisition, self.also_later(acquisition, call), "renew")
        elif kind < 0.75 and (acquisition := self.some(over=None, leased=True)):
            self.save(acquisition)
        elif kind < 0.85 and (acquisition := self.some()):
            self.give_up(acquisition)
        elif kind < 0.9 and self.newest.holder:
            acquisition = self.acquisitions[self.newest.holder]
            call = leases.release(self.world.where, acquisition.ticket.holder, force=True)
            self.send(acquisition, self.also_later(acquisition, call), "break", ends=acquisition.ticket.holder)
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
        for acquisition in history.acquisitions.values():
            if not acquisition.over:
                history.give_up(acquisition)
        for acquisition in history.acquisitions.values():
            while acquisition.copies:
                history.deliver(acquisition)
        assert history.held is None, history.fail(f"{history.held} is left")
        assert not history.row, history.fail(f"{history.row} are left")
        assert len(history.words) > 3, history.fail(f"nothing happened: {history.words}")


def play_all(make_world: Callable[..., World], sources: dict[str, str]) -> None:
    for seed in range(SEEDS):
        play(make_world("", sources), seed)


@pytest.mark.parametrize("seed", range(SEEDS))
def test_a_random_history_of_leases(seed: int, make_world: Callable[..., World]) -> None:
    """One holder at a time, in order of arrival, by rising fences; what was given up stays so; nothing is left."""
    play(make_world(""), seed)


@pytest.mark.parametrize(
    "name",
    [
        ("acquire", "marked: cut"),
        ("acquire", "nobody-barges: never"),
        ("acquire", "nobody-barges: without and not lease[1]"),
        ("acquire", "queued-counted: cut and queued-uncounted: cut"),
        ("acquire", "left: cut and released: never"),
        ("granting", "first-come: LPOP -> RPOP"),
        ("granting", "waiter-listens: without ~= 0"),
        ("granting", "grant-writes-head: cut"),
        ("renew", "own-lease: cut"),
        ("renew", "lapsed-lease: without head[3] ~= holder or"),
        ("renew", "lapsed-lease: without or waiting > 0"),
        ("release", "held: without == holder"),
        ("release", "release-clears-head: never"),
        ("release", "marked: cut"),
        ("release", "next-served: always"),
        ("save", "head-fence: without fence < head_fence or"),
        ("save", "head-fence: head_holder and -> (head_holder or '') ~= '' and"),
    ],
    ids=": ".join,
)
def test_random_histories_of_leases_notice_a_missing_guard(
    name: tuple[str, str], make_world: Callable[..., World]
) -> None:
    """The histories are wild enough: without the guard, one of them goes wrong."""
    with pytest.raises(AssertionError):
        play_all(make_world, find_guard(*name).sources())
