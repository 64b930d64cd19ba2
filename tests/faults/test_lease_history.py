"""Workers take turns on few runs while others of them are killed, frozen, thawed and cut off: the log stays right."""

from __future__ import annotations

import random
import struct
import time
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Any

import pytest
import redis

import histstore.sync

from ..support.history import Append, History, Load, tokens_of
from ..support.lease_workers import Report, Shift, Worker
from ..support.proxy import Proxy
from .shells import keys_of

# How many turns fit into its seconds depends on the clock.
pytestmark = pytest.mark.alone

Crew = Callable[..., Worker]
Wire = Callable[[str], Proxy]

RUNS = ("run a", "run b")
SECONDS = 5.0
TTL = 0.4


@dataclass
class Chaos:
    """Six workers, and what happens to them."""

    rng: random.Random
    make: Callable[[int], Worker]
    way: Proxy
    working: list[Worker] = field(default_factory=list)
    all: list[Worker] = field(default_factory=list)
    frozen: dict[int, float] = field(default_factory=dict)
    count: Counter[str] = field(default_factory=Counter)

    def run(self, seconds: float) -> None:
        for place in range(6):
            self.working.append(self._new(place))
        end = time.monotonic() + seconds
        while time.monotonic() < end:
            time.sleep(self.rng.uniform(0.02, 0.2))
            for worker in self.all:
                worker.read()
            self._happen()
        for place in list(self.frozen):
            self._thaw(place)

    def _new(self, place: int) -> Worker:
        worker = self.make(place)
        self.all.append(worker)
        worker.work(Shift("shift", RUNS, TTL, f"{self.rng.random()}"))
        return worker

    def _happen(self) -> None:
        now = time.monotonic()
        for place, when in list(self.frozen.items()):
            if when <= now:
                self._thaw(place)
        what = self.rng.choice(("kill", "freeze", "freeze", "cut"))
        # Rather one that is inside: whoever spoke last.
        spoke = [each.reports[-1].at if each.reports else 0.0 for each in self.working]
        place = spoke.index(max(spoke)) if self.rng.random() < 0.7 else self.rng.randrange(6)
        if what == "cut":
            self.way.from_outside(self.way.cut)
        elif place in self.frozen:
            return
        elif what == "kill":
            self.working[place].kill()
            self.working[place] = self._new(place)
        else:
            self.working[place].freeze()
            # Some for less than a lease, some for much more.
            self.frozen[place] = now + self.rng.choice((0.1, 0.3, 1.0)) * self.rng.uniform(0.5, 1.5)
        self.count[what] += 1

    def _thaw(self, place: int) -> None:
        del self.frozen[place]
        self.working[place].thaw()


def _write_down(history: History, client: str, run: str, reports: list[Report]) -> Iterator[tuple[str, int]]:
    """Adds what a worker said to a run's history; yields the fence that each of its saves carried."""
    calls: dict[str, Append] = {}
    for report in reports:
        if report.facts.get("run") != run:
            continue
        match report.kind:
            case "saw":
                load = Load(history, client, report.began, report.at, tuple(report.tokens))
                history.loads.append(load)
            case "saving":
                calls[report.token] = Append(history, client, (report.token,), report.at)
                calls[report.token].outcome = "unknown"  # what a killed worker leaves behind
                history.appends.append(calls[report.token])
                yield report.token, report.fence
            case "saved" | "refused":
                call = calls[report.token]
                call.outcome, call.ended = report.kind, report.at  # type: ignore[assignment]
                call.version = report.facts.get("version")


def _fences(raw: redis.Redis, namespace: str, run: str) -> list[int]:
    entries: Any = raw.xrange(keys_of(namespace, run).log)
    return [struct.unpack(">Q", fields[b"h"][-8:])[0] for _, fields in entries]


@pytest.mark.parametrize("seed", [2401, 2402])
def test_turns_of_workers_that_are_killed_frozen_and_cut_off(
    seed: int, worker: Crew, wire: Wire, server_url: str, namespace: str, raw: redis.Redis
) -> None:
    """Saves of two holders never mingle, fences never fall along the log, and what the workers were told is so."""
    print(f"seed {seed}")
    way = wire(server_url)

    def make(place: int) -> Worker:
        url = way.url if place % 3 == 0 else server_url
        return worker("sync" if place % 2 else "async", url, namespace=namespace, keep_revisions=10_000)

    chaos = Chaos(random.Random(seed), make, way)
    chaos.run(SECONDS)
    for each in chaos.working:
        each.go("shift")
    for each in chaos.working:
        each.wait("shift", "done")
    note = f"seed {seed}, {dict(chaos.count)}"
    for each in chaos.all:
        each.read()
    errors = Counter(r.error for each in chaos.all for r in each.reports if r.kind == "failed")
    assert set(errors) <= {"LeaseLostError", "LockTimeoutError"}, f"{note}: {errors}"
    told: Counter[str] = Counter()
    for run in RUNS:
        history = History()
        carried: dict[str, int] = {}
        for number, each in enumerate(chaos.all):
            carried.update(_write_down(history, f"worker {number}", run, each.reports))
        with histstore.sync.RedisBackend.from_url(server_url, namespace=namespace) as backend:
            snapshot = backend.store(run).load()
        final = tokens_of(snapshot.messages) if snapshot is not None else []
        history.check(final, f"{note}, {run}")
        fences = _fences(raw, namespace, run)
        assert fences == sorted(fences), note
        assert fences == [carried[token] for token in final], note
        assert len(set(fences)) > 20, f"{note}: hardly anybody had a turn"
        told += history.counts()
    print(f"{note}: {dict(told)}, {dict(errors)}")
    assert told["saved"] > 100, f"{note}: {told}"
    assert min(chaos.count.values()) >= 3, note
