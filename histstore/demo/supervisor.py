"""Starts the workers, makes trouble among them, and keeps count. It takes no part in who saves what."""

from __future__ import annotations

import asyncio
import contextlib
import os
import random
import signal
import sys
import time
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import histstore
from histstore import JSONValue, RedisBackend, RevisionGoneError

from .checks import Account
from .errors import DemoError
from .job import Event, Hold, Job
from .server import bytes_received
from .transcripts import TURN, Transcript, dump
from .worker import RUN_TTL, meta_of

PACKAGES = str(Path(histstore.__file__).resolve().parent.parent)
"""Where the workers find this package, installed or not."""

STALL = 60.0
"""Seconds without any news after which something is wrong."""


@dataclass(frozen=True, slots=True)
class Script:
    """What is to happen, all of it from the seed.

    Attributes:
        seed: The seed.
        workers: How many workers there are at any time, not counting the zombie.
        pace: Seconds that a model thinks about a turn, on average.
        leased: The indexes of the runs whose turns are taken under their lease.
        killed: The worker that is killed, and replaced.
        kill: Where it is then.
        frozen: The worker that is frozen.
        freeze: Where it is then.
        zombie: The worker that is frozen with a lease, which another takes over; 0: nobody, as nothing is leased.
        doze: Where it is then.
    """

    seed: int
    workers: int
    pace: float
    leased: tuple[int, ...]
    killed: int
    kill: Hold
    frozen: int
    freeze: Hold
    zombie: int
    doze: Hold | None

    @classmethod
    def write(cls, seed: int, workers: int, turns: Sequence[int]) -> Script:
        """Chooses who meets what, for runs of so many turns each.

        Every tenth run is leased, but not the only one. The three are let go before the others, the zombie among the
        leased runs, the two among the rest. So that there is a turn left for each to stand still in, however small
        the input is, the places are early ones, and the killed worker's save is sent only if it cannot be the last.
        A server that has not met the save script yet answers the very first save with a request for it, so the
        killed worker's is a later one.
        """
        choices = random.Random(seed)  # noqa: S311 (no secret)
        killed, frozen = choices.sample(range(1, workers + 1), 2)
        leased = choices.sample(range(len(turns)), -(-len(turns) // 10) if len(turns) > 1 else 0)
        waited = sum(turns[run] for run in leased)
        raced = sum(turns) - waited
        latest = min(6, max(1, raced // 2))
        return cls(
            seed=seed,
            workers=workers,
            # Enough to watch when there is little to do, no brake when there is much.
            pace=min(0.06, 2 * workers / sum(turns)),
            leased=tuple(leased),
            killed=killed,
            kill=Hold(choices.randint(min(2, latest), latest), choices.random() < 0.5 and raced > 1, leased=False),
            frozen=frozen,
            freeze=Hold(choices.randint(1, latest), sent=False, leased=False),
            zombie=workers + 1 if leased else 0,
            doze=Hold(choices.randint(1, min(3, waited)), sent=False, leased=True) if leased else None,
        )

    @property
    def cast(self) -> range:
        """The workers that are started at the beginning."""
        return range(1, self.workers + 1 + bool(self.zombie))

    def hold(self, worker: int) -> Hold | None:
        """Returns where a worker stands still."""
        return {self.killed: self.kill, self.frozen: self.freeze, self.zombie: self.doze}.get(worker)


@dataclass(slots=True)
class Story:
    """What happened.

    Attributes:
        count: Events by their kind.
        held: Where the killed worker, the frozen one and the zombie stood.
        leased: Events in leased turns by their kind.
        waited: The longest time that one waited for a lease, in seconds.
        kills: Workers that were killed.
        freezes: Workers that were frozen and continued.
        frozen_for: Seconds that the frozen worker stood still.
        stale: What became of the save that it then sent.
        arrived: Whether the killed worker's save had been stored.
        zombies: Zombies that were frozen with a lease and continued.
        heir: The worker that was granted the zombie's lease, and saved the turn.
        inherited: Seconds after which it was granted.
        undead: What became of the save that the zombie then sent.
        stands: Whether the heir's turn is what is stored.
        account: What became of the messages.
        versions: Revisions that the runs have gone through, in all.
        sent: Bytes that the server received meanwhile; None when it does not tell.
        saves_alone: Bytes that it received for the same saves, sent once more by a single writer.
        seconds: How long the workers took.
    """

    count: Counter[str] = field(default_factory=Counter)
    held: dict[int, Event] = field(default_factory=dict)
    leased: Counter[str] = field(default_factory=Counter)
    waited: float = 0.0
    kills: int = 0
    freezes: int = 0
    frozen_for: float = 0.0
    stale: str = ""
    arrived: bool | None = None
    zombies: int = 0
    heir: int | None = None
    inherited: float = 0.0
    undead: str = ""
    stands: bool = False
    account: Account = field(default_factory=Account)
    versions: int = 0
    sent: int | None = None
    saves_alone: int | None = None
    seconds: float = 0.0


class _Process:
    """One worker process, seen from outside."""

    def __init__(self, job: Job, process: asyncio.subprocess.Process) -> None:
        self.number = job.worker
        self.process = process
        self.reader: asyncio.Task[None] | None = None
        self.stopped_at: float | None = None
        self.over = False

    @property
    def stdin(self) -> asyncio.StreamWriter:
        assert self.process.stdin is not None
        return self.process.stdin

    def go(self) -> None:
        """Gives the word that it waits for."""
        self.stdin.write(b"go\n")

    def stop(self) -> None:
        """Freezes it."""
        self.signal(signal.SIGSTOP)
        self.stopped_at = time.monotonic()

    def go_on(self) -> float:
        """Lets it go on; returns for how many seconds it was frozen."""
        seconds, self.stopped_at = self.stopped_for, None
        self.signal(signal.SIGCONT)
        self.go()
        return seconds

    @property
    def stopped(self) -> bool:
        """Whether it is frozen."""
        return self.stopped_at is not None

    @property
    def stopped_for(self) -> float:
        """For how many seconds it is frozen by now."""
        return time.monotonic() - self.stopped_at if self.stopped_at is not None else 0.0

    def signal(self, number: signal.Signals) -> None:
        """Sends a signal, unless it has ended."""
        with contextlib.suppress(ProcessLookupError):
            self.process.send_signal(number)


class Supervisor:
    """Runs one demonstration on a server.

    Args:
        script: What is to happen.
        transcripts: The conversations.
        url: The server.
        namespace: Where the conversations stand in it.
        tell: Told what is remarkable.
        tick: Told the turns taken and the story so far, now and then.
    """

    def __init__(
        self,
        script: Script,
        transcripts: list[Transcript],
        url: str,
        namespace: str,
        tell: Callable[[str], None],
        tick: Callable[[int, Story], None],
    ) -> None:
        self.script = script
        self.transcripts = transcripts
        self.url = url
        self.namespace = namespace
        self.tell = tell
        self.tick = tick
        self.story = Story()
        self.turns = sum(each.turns for each in transcripts)
        self._processes: dict[int, _Process] = {}
        self._news: asyncio.Queue[tuple[_Process, Event | None]] = asyncio.Queue()
        self._overtaken = False
        self._granted: dict[int, float] = {}

    # ---------------------------------------------------------------------------------- processes

    async def _start(self, worker: int, hold: Hold | None) -> None:
        job = Job(
            self.url,
            self.namespace,
            worker,
            self.script.seed,
            pace=self.script.pace,
            leased=self.script.leased,
            hold=hold,
        )
        paths = os.pathsep.join(filter(None, [PACKAGES, os.environ.get("PYTHONPATH")]))
        process = await asyncio.create_subprocess_exec(
            sys.executable, "-P", "-m", "histstore.demo.worker",
            stdin=asyncio.subprocess.PIPE,
            stdout=asyncio.subprocess.PIPE,
            env={**os.environ, "PYTHONPATH": paths},
            # Ctrl-C is for the supervisor alone, which then ends them. Not a session of their own: in this one the
            # kernel wakes and ends a frozen worker whose supervisor is killed.
            process_group=0,
        )  # fmt: skip
        started = self._processes[worker] = _Process(job, process)
        started.reader = asyncio.create_task(self._read(started))
        lines = list(dump(self.transcripts))
        started.stdin.write(job.dump() + b"%d\n" % len(lines) + b"".join(lines))

    async def _read(self, worker: _Process) -> None:
        assert worker.process.stdout is not None
        async for line in worker.process.stdout:
            if line.endswith(b"\n"):  # of one that was killed, the last may be cut
                self._news.put_nowait((worker, Event.parse(line)))
        await worker.process.wait()
        self._news.put_nowait((worker, None))

    async def _end(self) -> None:
        """Ends whatever still runs."""
        for worker in self._processes.values():
            if worker.process.returncode is None:
                worker.signal(signal.SIGKILL)  # also ends one that is stopped
        for worker in self._processes.values():
            await worker.process.wait()
            if worker.reader is not None:
                await asyncio.wait([worker.reader])
            worker.stdin.close()

    # --------------------------------------------------------------------------------------- work

    async def run(self) -> None:
        """Lets the workers take all the turns.

        Raises:
            DemoError: A worker failed, or nothing moved any more.
        """
        before = await bytes_received(self.url)
        try:
            await self._work()
        finally:
            await self._end()
        self.story.sent = _difference(before, await bytes_received(self.url))

    async def _work(self) -> None:
        script = self.script
        for number in script.cast:
            await self._start(number, script.hold(number))
        while self.story.count["ready"] < len(script.cast):
            await self._next()
        begun = time.monotonic()
        # Alone at first, so that each is sure to come to the turn in which it stands still.
        first = [number for number in script.cast if script.hold(number) is not None]
        for number in first:
            self._processes[number].go()
        while len(self.story.held) < len(first):
            await self._next()
        for number, worker in self._processes.items():
            if number not in first:
                worker.go()
        substitute = len(script.cast) + 1
        await self._start(substitute, None)
        self._processes[substitute].go()
        while not all(worker.over for worker in self._processes.values()):
            await self._next()
            self._thaw()
        self.story.seconds = time.monotonic() - begun

    def _make_trouble(self, worker: _Process) -> None:
        """Kills or freezes a worker that stands still."""
        if worker.number == self.script.killed:
            worker.signal(signal.SIGKILL)
            self.story.kills += 1
            where = "its save sent, the answer not read" if self.script.kill.sent else "before its save"
            self.tell(f"worker {worker.number} killed (SIGKILL) in {self._place(worker.number)}, {where}")
        else:
            worker.stop()
            where = "before its save" if worker.number == self.script.frozen else "holding the lease"
            self.tell(f"worker {worker.number} stopped (SIGSTOP) in {self._place(worker.number)}, {where}")

    def _place(self, worker: int) -> str:
        event = self.story.held[worker]
        run = self.transcripts[event.run].run
        return f"turn {event.turn + 1} of {run if run.isprintable() and len(run) < 50 else ascii(run)[:50]}"

    def _thaw(self) -> None:
        """Lets the frozen go on when it is time to."""
        story, script = self.story, self.script
        frozen, zombie = self._processes[script.frozen], self._processes.get(script.zombie)
        alone = all(worker.over or worker.stopped for worker in self._processes.values())
        # When a rival has taken its turn, and half of all turns are taken.
        if frozen.stopped and (alone or (self._overtaken and self._taken() * 2 >= self.turns)):
            story.frozen_for = frozen.go_on()
            story.freezes += 1
        if zombie is not None and zombie.stopped and (alone or story.heir is not None):
            zombie.go_on()
            story.zombies += 1

    async def _next(self) -> None:
        """Waits for the next event, and counts it."""
        self.tick(self._taken(), self.story)
        try:
            async with asyncio.timeout(STALL):
                worker, event = await self._news.get()
        except TimeoutError:
            raise DemoError(f"nothing has happened for {STALL:g} s") from None
        if event is None:
            worker.over = True
            status = worker.process.returncode
            if status and not (worker.number == self.script.killed and status == -signal.SIGKILL):
                raise DemoError(f"worker {worker.number} ended with status {status}")
            return
        if event.kind == "failed":
            raise DemoError(f"worker {worker.number}: {event.text}")
        self._count(worker, event)

    def _count(self, worker: _Process, event: Event) -> None:
        story, script, number = self.story, self.script, worker.number
        story.count[event.kind] += 1
        if event.run in script.leased:
            story.leased[event.kind] += 1
            story.waited = max(story.waited, event.waited)
        if event.kind == "holding":
            story.held[number] = event
            self._make_trouble(worker)
            return
        self._frozen_or_overtaken(number, event)
        self._zombie_or_heir(number, event)

    def _frozen_or_overtaken(self, number: int, event: Event) -> None:
        story, held = self.story, self.story.held.get(self.script.frozen)
        if number == self.script.frozen:
            if story.freezes and not story.stale:
                story.stale = event.kind
                refused = "refused" if event.kind == "conflict" else event.kind.upper()
                self.tell(f"worker {number} continued after {story.frozen_for:.1f} s: its stale save {refused}")
        elif held is not None and event.same_turn(held) and event.kind in ("saved", "applied"):
            self._overtaken = True

    def _zombie_or_heir(self, number: int, event: Event) -> None:
        story, held = self.story, self.story.held.get(self.script.zombie)
        if number == self.script.zombie:
            if story.zombies and not story.undead:
                story.undead = event.kind
                refused = "refused, the lease is lost" if event.kind == "lost" else event.kind.upper()
                self.tell(f"worker {number} continued: its save {refused}")
        elif held is not None and event.same_turn(held) and story.heir is None:
            if event.kind == "granted":
                self._granted[number] = self._processes[self.script.zombie].stopped_for
            elif event.kind in ("saved", "applied"):
                story.heir = number
                story.inherited = self._granted[number]
                self.tell(f"worker {number} took the lease over after {story.inherited:.1f} s, and saved the turn")

    def _taken(self) -> int:
        return self.story.count["saved"] + self.story.count["applied"]

    # -------------------------------------------------------------------------------------- check

    async def check(self) -> None:
        """Loads every conversation and compares it with its source."""
        async with RedisBackend.from_url(self.url, namespace=self.namespace, run_ttl=RUN_TTL) as backend:
            for each in self.transcripts:
                snapshot = await backend.store(each.run).load()
                stored = snapshot.messages if snapshot is not None else ()
                self.story.account += Account.of(each.messages, stored)
                if snapshot is not None and snapshot.revision is not None:
                    self.story.versions += snapshot.revision.version
            with contextlib.suppress(RevisionGoneError):
                taker = await self._taker(backend, self.script.killed)
                self.story.arrived = taker == self.script.killed
            if self.script.zombie:
                with contextlib.suppress(RevisionGoneError):
                    taker = await self._taker(backend, self.script.zombie)
                    self.story.stands = taker is not None and taker == self.story.heir

    async def _taker(self, backend: RedisBackend, worker: int) -> JSONValue:
        """Returns which worker's turn is stored where one stood still."""
        held = self.story.held[worker]
        past = await backend.store(self.transcripts[held.run].run).load(at=held.version + 1)
        return past.meta.get("worker") if past is not None else None

    async def measure(self) -> None:
        """Sends every save once more, by a single writer that loads nothing, and counts the bytes."""
        async with RedisBackend.from_url(self.url, namespace=self.namespace, run_ttl=RUN_TTL) as backend:
            await backend.store("measure").info()  # connects
            before = await bytes_received(self.url)
            for each in self.transcripts:
                store = backend.store(f"measure {each.run}")
                for turn, start in enumerate(range(0, len(each.messages), TURN)):
                    await store.append(*each.messages[start : start + TURN], meta=meta_of(turn, 1))
            self.story.saves_alone = _difference(before, await bytes_received(self.url))


def _difference(before: int | None, after: int | None) -> int | None:
    return None if before is None or after is None else after - before
