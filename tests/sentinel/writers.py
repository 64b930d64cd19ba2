"""Writers whose saves a failover may lose: each loss has to be reported to its writer, and nothing else may happen."""

from __future__ import annotations

import asyncio
import time
from collections import Counter
from dataclasses import dataclass, field
from typing import Any

from histstore import ConflictError, HistoryStoreError, OutcomeUnknownError, RevisionGoneError

from ..support.shells import Shell


@dataclass
class Writer:
    """Appends to a run of its own, and compares what it was told with what is stored.

    Attributes:
        acked: The messages that were acknowledged and not reported as lost.
        unknown: Messages whose outcome nobody knows.
        reported: The acknowledged messages that were reported as lost. Another failover may bring one back: to a server
            whose copy had it.
        errors: The errors that it got, by class.
        wrong: What must not happen.
        last: When it was told of a success last, by `time.monotonic`.
    """

    backend: Any
    run: str
    acked: list[str] = field(default_factory=list)
    unknown: list[str] = field(default_factory=list)
    reported: set[str] = field(default_factory=set)
    errors: Counter[str] = field(default_factory=Counter)
    wrong: list[str] = field(default_factory=list)
    last: float = 0.0
    over: bool = False

    async def work(self) -> None:
        store = self.backend.store(self.run)
        count = 0
        while not self.over:
            count += 1
            text = f"{self.run}: {count}"
            try:
                await store.append({"role": "user", "content": text})
                self.acked.append(text)
                self.last = time.monotonic()
            except (ConflictError, RevisionGoneError) as error:
                self.errors[type(error).__name__] += 1
                # Reported: what was acknowledged may be gone. The writer looks, and goes on from there.
                await self._compare(store, reported=True)
            except OutcomeUnknownError as error:
                self.errors[type(error).__name__] += 1
                self.unknown.append(text)
                store = self.backend.store(self.run)
                await store.load()
            except HistoryStoreError as error:
                self.errors[f"{type(error).__name__}: {error}"] += 1
            await asyncio.sleep(0.02)
        await self._compare(self.backend.store(self.run), reported=False)

    async def _compare(self, store: Any, *, reported: bool) -> None:
        snapshot = await store.load()
        stored = [] if snapshot is None else [message["content"] for message in snapshot.messages]
        counts = Counter(stored)
        gone = [text for text in self.acked if text not in counts]
        if gone and not reported:
            self.wrong.append(f"{self.run}: {len(gone)} lost, and nobody was told: {gone[:3]}")
        if any(count > 1 for count in counts.values()):
            self.wrong.append(f"{self.run}: doubled")
        known = {*self.acked, *self.unknown, *self.reported}
        if strange := [text for text in stored if text not in known]:
            self.wrong.append(f"{self.run}: refused, and there: {strange[:3]}")
        if [text for text in self.acked if text in counts] != [text for text in stored if text in self.acked]:
            self.wrong.append(f"{self.run}: in another order")
        self.reported.update(gone)
        self.acked = [text for text in self.acked if text in counts]


async def work_all(shell: Shell, writers: list[Writer]) -> list[asyncio.Future[Any]]:
    """Starts all writers: tasks, or threads in the blocking shell."""
    return [shell.apart(each.work()) for each in writers]
