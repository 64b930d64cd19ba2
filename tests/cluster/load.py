"""Writers and lockers on a cluster, and what they were told: nothing may be lost, doubled or held twice."""

from __future__ import annotations

import asyncio
import threading
import time
from collections import Counter
from dataclasses import dataclass, field
from typing import Any

from histstore import ANY, HistoryStoreError, OutcomeUnknownError

from ..support.shells import Shell


@dataclass
class Load:
    """What runs against a backend, and what was told. Its workers are tasks, or threads with a blocking backend.

    Attributes:
        ttl: Lifetime of the leases in seconds. A slot that is held open for longer lets them lapse.
        backend: The backend, with calls that can be awaited.
        acked: Number of the messages that were acknowledged, by run.
        unknown: Messages whose outcome is unknown, by run.
        errors: Errors that reached a caller, by the phase in which they did.
        inside: Holders that are inside a run's lock now.
        twice: Runs that had two holders inside at a time.
        slowest: The longest call in seconds, by phase.
    """

    backend: Any
    writers: int = 16
    lockers: int = 16
    runs: int = 8
    ttl: float = 10.0
    phase: str = "calm"
    acked: dict[str, list[str]] = field(default_factory=dict)
    unknown: dict[str, list[str]] = field(default_factory=dict)
    errors: Counter[str] = field(default_factory=Counter)
    inside: Counter[str] = field(default_factory=Counter)
    twice: list[str] = field(default_factory=list)
    slowest: dict[str, float] = field(default_factory=dict)
    entered: int = 0
    over: bool = False
    _guard: threading.Lock = field(default_factory=threading.Lock)

    def start(self, shell: Shell) -> list[asyncio.Future[Any]]:
        """Starts all workers."""
        works = [self.write(number) for number in range(self.writers)]
        works += [self.lock(number) for number in range(self.lockers)]
        return [shell.apart(work) for work in works]

    def _enters(self, run: str) -> None:
        with self._guard:
            self.entered += 1
            self.inside[run] += 1
            if self.inside[run] > 1:
                self.twice.append(run)

    def _leaves(self, run: str) -> None:
        with self._guard:
            self.inside[run] -= 1

    def _time(self, began: float) -> None:
        self.slowest[self.phase] = max(self.slowest.get(self.phase, 0.0), time.monotonic() - began)

    def _count(self, error: Exception) -> None:
        with self._guard:
            self.errors[f"{self.phase}: {type(error).__name__}: {error}"] += 1

    async def write(self, number: int) -> None:
        """Append to a run of one's own, one message after the other."""
        run = f"writer {number}"
        store = self.backend.store(run)
        acked, unknown = self.acked.setdefault(run, []), self.unknown.setdefault(run, [])
        count = 0
        while not self.over:
            count += 1
            text, began = f"{run} {count}", time.monotonic()
            try:
                await store.append({"role": "user", "content": text}, expected=ANY)
                acked.append(text)
            except OutcomeUnknownError as error:
                unknown.append(text)
                self._count(error)
            except HistoryStoreError as error:
                self._count(error)
            self._time(began)
            await asyncio.sleep(0.001)

    async def lock(self, number: int) -> None:
        """Take a lease of a run that others want, too, and write under it."""
        run = f"locked {number % self.runs}"
        store = self.backend.store(run)
        acked, unknown = self.acked.setdefault(run, []), self.unknown.setdefault(run, [])
        count = 0
        while not self.over:
            count += 1
            text, began = f"{run} of {number}: {count}", time.monotonic()
            try:
                async with store.lock(ttl=self.ttl, acquire_timeout=self.ttl + 20.0):
                    self._enters(run)
                    try:
                        await store.append({"role": "user", "content": text}, expected=ANY)
                        acked.append(text)
                    finally:
                        self._leaves(run)
            except OutcomeUnknownError as error:
                unknown.append(text)
                self._count(error)
            except HistoryStoreError as error:
                self._count(error)
            self._time(began)
            await asyncio.sleep(0.002)

    async def verify(self) -> None:
        """Compare what is stored with what was told."""
        for run, acked in self.acked.items():
            snapshot = await self.backend.store(run).load()
            stored = [] if snapshot is None else [message["content"] for message in snapshot.messages]
            counts = Counter(stored)
            assert not [text for text, count in counts.items() if count > 1], f"{run}: doubled"
            lost = [text for text in acked if text not in counts]
            assert not lost, f"{run}: lost {lost[:3]}"
            alien = set(stored) - set(acked) - set(self.unknown[run])
            assert not alien, f"{run}: refused, and there: {list(alien)[:3]}"
        assert not self.twice, f"two holders inside: {self.twice[:3]}"

    @property
    def total(self) -> int:
        return sum(len(acked) for acked in self.acked.values())
