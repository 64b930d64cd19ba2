"""What one run of the benchmark measures: how much of it, on which servers, and who takes part."""

from __future__ import annotations

import asyncio
import sys
import uuid
from contextlib import AsyncExitStack
from dataclasses import dataclass, field
from pathlib import Path

from .child import Child, ChildError, child
from .contenders import CLIENTS, LOCKS, STORES, Entry
from .environment import forget
from .venv import Environment


@dataclass(frozen=True, slots=True)
class Scale:
    """How much is measured.

    Attributes:
        rounds: Rounds of the acceptance table's single operations.
        lengths: Messages in the conversations that are saved and loaded.
        peers_up_to: The greatest length for the peers, some of which take seconds for a turn at 10,000.
        budget: Seconds for each contender at each length.
        runs: How many runs save at the same time.
        saves: Saves in one sample of throughput.
        samples: Samples of throughput.
        racing: Messages that each of the eight racing workers adds.
        handoffs: Lock hand-offs in all.
        waiting: Processes that wait for a lock.
        takeovers: Lock holders that are killed.
        turns: One-turn saves before memory is looked at, for every contender.
        callers: Tasks that send script calls to a cluster at the same time.
        calls: Script calls of each of them in one sample.
    """

    rounds: int
    lengths: tuple[int, ...]
    peers_up_to: int
    budget: float
    runs: tuple[int, ...]
    saves: int
    samples: int
    racing: int
    handoffs: int
    waiting: tuple[int, ...]
    takeovers: int
    turns: int
    callers: int
    calls: int


FULL = Scale(3000, (10, 100, 1000, 10000), 10000, 2.5, (1, 8, 64, 256, 512), 4096, 5, 12, 160, (2, 16), 10, 100,
             256, 32)  # fmt: skip
QUICK = Scale(400, (10, 1000, 10000), 1000, 0.1, (1, 256), 1024, 2, 3, 8, (2, 16), 0, 50, 256, 16)
SMOKE = Scale(12, (10, 100), 100, 0.02, (1, 8), 64, 1, 1, 4, (2,), 1, 4, 8, 2)


@dataclass(slots=True)
class Plan:
    """One run of the benchmark.

    Attributes:
        scale: How much is measured.
        url: The server.
        stack_url: A server with the modules that some peers need; None: there is none.
        stack: What that server is, or why there is none.
        modules: Modules that the server has.
        failed: Peers that are not there, and why.
        absent: Who is not measured, and why.
        mark: What the names of all runs begin with.
    """

    scale: Scale
    url: str
    modules: frozenset[str] = frozenset()
    stack_url: str | None = None
    stack: str = "no server with those modules"
    failed: dict[str, str] = field(default_factory=dict)
    absent: dict[str, str] = field(default_factory=dict)
    mark: str = field(default_factory=lambda: f"bench-{uuid.uuid4().hex[:12]}")
    _names: int = 0
    _children: dict[str, Child] = field(default_factory=dict)
    _held: AsyncExitStack = field(default_factory=AsyncExitStack)

    def run(self) -> str:
        """Returns the name of a new run, as long as a UUID."""
        self._names += 1
        return f"{self.mark}-{self._names:0{35 - len(self.mark)}}"

    def stores(self, *without: str) -> list[Entry]:
        """Returns who stores conversations, without some modules; who cannot take part is noted in `absent`."""
        return [entry for entry in STORES if self._takes_part(entry) and entry.module not in without]

    def locks(self) -> list[Entry]:
        """Returns who locks runs."""
        return [entry for entry in LOCKS if self._takes_part(entry)]

    def clients(self) -> list[Entry]:
        """Returns who sends script calls to a cluster."""
        return [entry for entry in CLIENTS if self._takes_part(entry)]

    def python(self, entry: Entry) -> Path:
        """Returns the interpreter that has the contender."""
        return Path(sys.executable) if entry.distribution is None else Environment(entry.distribution).python

    def server(self, entry: Entry) -> str:
        """Returns the URL of the server that the contender is measured on."""
        if entry.modules <= self.modules:
            return self.url
        assert self.stack_url is not None
        return self.stack_url

    def _takes_part(self, entry: Entry) -> bool:
        why = None
        if entry.distribution is not None:
            if entry.distribution in self.failed:
                why = self.failed[entry.distribution]
            elif not entry.modules <= self.modules and self.stack_url is None:
                why = f"needs the server modules {' and '.join(sorted(entry.modules))}: {self.stack}"
        if why is not None:
            self.absent.setdefault(entry.name, why)
        return entry.name not in self.absent

    async def child(self, entry: Entry, url: str | None = None) -> Child:
        """Returns the contender's process, connected to its server, or to what stands before it.

        There is one for each contender, for all that is measured: some take seconds to import what they need.

        Raises:
            ChildError: It does not start, or does not connect.
        """
        running = self._children.get(entry.module)
        if running is None or not running.alive:
            running = await self._held.enter_async_context(child(self.python(entry), entry.module))
            self._children[entry.module] = running
        await running.ask("connect", url=url or self.server(entry))
        return running

    async def children(self, entries: list[Entry]) -> dict[str, Child]:
        """Returns the processes of contenders; who does not start is noted in `absent`."""

        async def start(entry: Entry) -> Child | None:
            try:
                return await self.child(entry)
            except ChildError as error:
                self.absent[entry.name] = f"did not start: {error}"
                return None

        started = await asyncio.gather(*map(start, entries))
        return {entry.name: each for entry, each in zip(entries, started, strict=True) if each is not None}

    async def forget(self) -> None:
        """Deletes what was stored so far: one peer keeps every past state, which are gigabytes in the end."""
        for url in filter(None, (self.url, self.stack_url)):
            await asyncio.to_thread(forget, url, self.mark)

    async def __aenter__(self) -> Plan:
        return self

    async def __aexit__(self, *_: object) -> None:
        await self._held.aclose()

    def failing(self, entry_name: str, what: str, error: ChildError) -> None:
        """Notes that a contender failed at one measurement: it is told, not dropped."""
        self.absent[f"{entry_name}: {what}"] = str(error)


async def settle() -> None:
    """Lets what just happened, such as connections closing, be over."""
    await asyncio.sleep(0.05)
