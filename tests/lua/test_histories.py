"""Random histories: copies of saves and deletes arrive once, twice, late, or after they were refused."""

from __future__ import annotations

import random
from collections.abc import Callable
from dataclasses import dataclass, field

import pytest

from histstore.log.base import Base
from histstore.protocol.run import NO_LEASE, LeaseToken

from .guards import find_guard
from .sending import Delete, Save
from .world import World

REFUSED = {"conflict", "locked", "lost", "cancelled", "never", "absent"}


@dataclass
class Write:
    """A write, the number of copies under way, and the outcome that its client knows."""

    what: Save | Delete
    name: str
    onto: bytes
    copies: int = 0
    outcome: str | None = None
    applied: int = 0


@dataclass
class History:
    """Play clients, network and clock against one run, and check after every step.

    Attributes:
        contents: The content of every revision so far, by etag.
    """

    world: World
    seed: int
    chance: random.Random = field(init=False)
    writes: list[Write] = field(default_factory=list)
    contents: dict[bytes, Base] = field(default_factory=dict)
    head: bytes = b""
    steps: list[str] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.chance = random.Random(self.seed)

    def fail(self, text: str) -> str:
        return f"seed {self.seed}: {text}; steps: {self.steps[-30:]}"

    def seen(self) -> Base | None:
        """Return what a client has loaded: mostly the newest, sometimes an old revision."""
        if self.chance.random() < 0.25 and self.contents:
            return self.chance.choice(list(self.contents.values()))
        return self.contents.get(self.head)

    def lease(self) -> LeaseToken:
        fence = self.world.client.hget(self.world.keys.lease, "fence")
        if self.chance.random() < 0.5 or not fence:
            return NO_LEASE
        return LeaseToken(int(fence) - self.chance.choice((0, 0, 0, 1)), "holder")

    def start(self) -> None:
        number = len(self.writes)
        base = self.seen()
        if base is not None and self.chance.random() < 0.2:
            delete = self.world.deletion(base, self.lease(), force=self.chance.random() < 0.2)
            self.writes.append(Write(delete, f"delete {number}", base.head.etag))
        else:
            onto = None if self.chance.random() < 0.15 else base
            options = {"full": onto is not None and self.chance.random() < 0.3, "keep": self.chance.choice((0, 2))}
            save = self.world.plan(onto, f"message {number}", lease=self.lease(), **options)  # type: ignore[arg-type]
            self.writes.append(Write(save, f"save {number}", onto.head.etag if onto is not None else b""))
        write = self.writes[-1]
        write.copies = self.chance.choice((0, 0, 0, 1, 2))  # that a proxy makes, and no client knows of
        if self.chance.random() < 0.5:
            self.deliver(write, resend=False, answered=True)
        else:
            write.copies += 1  # sent, and not answered: it arrives at some time, or never

    def deliver(self, write: Write, *, resend: bool, answered: bool) -> None:
        self.steps.append(f"{write.name}{' again' if resend else ''}{'' if answered else ' unanswered'}")
        word = self.world.send(write.what, resend=resend)[0]
        self.check(write)
        if answered:
            self.record(write, word)

    def record(self, write: Write, word: str) -> None:
        self.steps.append(f"-> {word}")
        if word in ("saved", "deleted", "applied"):
            # "deleted" also answers the resend for a run that somebody else has deleted.
            assert write.applied == 1 or word == "deleted", self.fail(
                f"{write.name}: {word}, applied {write.applied} times"
            )
        else:
            assert word in REFUSED, self.fail(f"{write.name}: {word}, though nothing is damaged or forgotten")
            assert write.applied == 0, self.fail(f"{write.name}: {word}, but it was applied")
        write.outcome = write.outcome or word

    def check(self, write: Write) -> None:
        """Find out what a step did to the run, and check that it was allowed to."""
        now: bytes = self.world.head("etag") or b""
        if now != self.head:
            assert write.applied == 0, self.fail(f"{write.name} was applied twice")
            assert write.outcome is None, self.fail(f"{write.name} was answered {write.outcome}, and applied then")
            assert write.onto == self.head, self.fail(f"{write.name} replaced what it does not descend from")
            if isinstance(write.what, Save):
                assert now == write.what.etag, self.fail("somebody else's save appeared")
                self.contents[now] = write.what.after
            else:
                assert now == b"", self.fail("a delete did not delete")
            write.applied += 1
            self.head = now
        expected = self.contents[now].messages() if now else None
        assert self.world.load() == expected, self.fail("the run does not hold what was saved")

    def step(self) -> None:
        open_ = [write for write in self.writes if write.outcome is None]
        late = [write for write in self.writes if write.copies]
        kind = self.chance.random()
        if kind < 0.4 or not open_:
            self.start()
        elif kind < 0.6 and late:
            write = self.chance.choice(late)
            write.copies -= 1
            self.deliver(write, resend=False, answered=write.outcome is None and self.chance.random() < 0.4)
        elif kind < 0.8:
            write = self.chance.choice(open_)
            answered = self.chance.random() < 0.6
            if not answered and self.chance.random() < 0.5:
                write.copies += 1  # this resend is late as well
            else:
                self.deliver(write, resend=True, answered=answered)
        elif kind < 0.9:
            write = self.chance.choice(open_)
            self.steps.append(f"resolve {write.name}")
            self.record(write, self.world.resolve(write.what)[0])
        elif self.world.client.exists(self.world.keys.lease):
            self.steps.append("lapse")
            self.world.lapse()
        else:
            self.steps.append("grant")
            self.world.grant("holder")


SEEDS = 50


def play(world: World, seed: int) -> None:
    history = History(world, seed)
    for _ in range(60):
        history.step()
    for write in history.writes:
        if write.outcome is None:
            history.deliver(write, resend=True, answered=True)
        while write.copies:
            write.copies -= 1
            history.deliver(write, resend=False, answered=False)
    outcomes = {write.outcome for write in history.writes}
    assert len(outcomes) > 2, history.fail(f"nothing happened: {outcomes}")


def play_all(make_world: Callable[..., World], sources: dict[str, str]) -> None:
    for seed in range(SEEDS):
        play(make_world("", sources), seed)


@pytest.mark.parametrize("seed", range(SEEDS))
def test_a_random_history(seed: int, make_world: Callable[..., World]) -> None:
    """No write is applied twice, after it was refused, or onto what it does not descend from; all can be read."""
    play(make_world(""), seed)


@pytest.mark.parametrize(
    "name",
    [
        ("save", "applied-before-refusal: without outcome() or"),
        ("save", "birth: without , 'origin', etag"),
        ("save", "marked: never"),
        ("save", "live-lease-locked: refuse( -> outcome() or ("),
        ("save", "refusal-marked: without parent == ABSENT or"),
        ("save", "refusal-marked: without or reply[1] == 'locked'"),
        ("save", "compare: current ~= parent -> tonumber(present and at or '0') + 1 ~= tonumber(version)"),
        ("save", "trim: cut"),
        ("resolve", "marked: cut"),
        ("resolve", "applied: never"),
        ("delete", "compare: cut"),
        ("delete", "mark-read: never"),
        ("delete", "applied-before-refusal: cut"),
    ],
    ids=": ".join,
)
def test_random_histories_notice_a_missing_guard(name: tuple[str, str], make_world: Callable[..., World]) -> None:
    """The histories are wild enough: without the guard, one of them goes wrong."""
    with pytest.raises(AssertionError):
        play_all(make_world, find_guard(*name).sources())
