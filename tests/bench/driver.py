"""What may be asked of a contender: here in the process, or of a child over JSON lines."""

from __future__ import annotations

import asyncio
import pickle
import random
import time
from pathlib import Path
from typing import Any

from .contenders import make
from .texts import Texts

MAX_DRIFT = 20
"""A conversation may grow by a 20th of its length before it is begun anew: cost is told by length."""

MAX_TURNS = 16
"""Turns of one conversation while throughput is measured: what costs more with length is to cost it elsewhere."""


class Driver:
    """Does what is asked with one contender. Arguments and results are JSON."""

    def __init__(self, module: str, url: str, seed: int = 1) -> None:
        self.contender = make(module, url)
        self._texts = Texts(seed)
        self._random = random.Random(seed)
        self._kept: dict[str, list[Any]] = {}
        self._calls: list[list[tuple[list[bytes], list[bytes]]]] = []
        self._names = 0

    # ------------------------------------------------------------------------------- conversations

    async def prepare(self, run: str, count: int, size: int) -> None:
        """Begins a conversation of `count` messages, for `turns` and `loads`."""
        texts = self._texts.some(count, size)
        self._kept[run] = [texts, size, run, 0]
        await self.contender.start(run, self.contender.messages(texts))

    async def turns(self, run: str, count: int) -> list[float]:
        """Saves turns of two messages; returns the seconds of each."""
        seconds = []
        for _ in range(count):
            kept = self._kept[run]
            if kept[3] * 2 > max(6, len(kept[0]) // MAX_DRIFT):
                self._names += 1
                kept[2], kept[3] = f"{run}-{self._names}", 0
                await self.contender.start(kept[2], self.contender.messages(kept[0]))
            kept[3] += 1
            messages = self.contender.messages(self._texts.some(2, kept[1]))
            began = time.perf_counter()
            await self.contender.save(kept[2], messages)
            seconds.append(time.perf_counter() - began)
        return seconds

    async def latest(self, run: str) -> list[str]:
        """Returns the texts that are stored in the conversation that `turns` saves onto now."""
        return await self.read(self._kept[run][2])

    async def loads(self, run: str, count: int) -> list[float]:
        """Loads the conversation as a fresh process would; returns the seconds of each time."""
        seconds = []
        for _ in range(count):
            began = time.perf_counter()
            await self.contender.load(run)
            seconds.append(time.perf_counter() - began)
        return seconds

    async def grow(self, run: str, turns: int, size: int) -> None:
        """Saves turns one by one from nothing."""
        await self.contender.start(run, self.contender.messages(self._texts.some(2, size)))
        for _ in range(turns - 1):
            await self.contender.save(run, self.contender.messages(self._texts.some(2, size)))

    async def read(self, run: str) -> list[str]:
        """Returns the texts that are stored."""
        return list(self.contender.texts(await self.contender.load(run)))

    # ------------------------------------------------------------------------------------ together

    async def rate(self, run: str, runs: int, saves: int, size: int) -> float:
        """Saves turns in `runs` conversations at a time, about `saves` in all; returns saves a second."""
        each = max(2, -(-saves // runs))
        work: list[list[tuple[str, Any]]] = [[] for _ in range(runs)]
        for number in range(runs):
            for turn in range(each):
                name = f"{run}-{number}-{turn // MAX_TURNS}"
                if turn % MAX_TURNS == 0:
                    await self.contender.start(name, self.contender.messages(self._texts.some(2, size)))
                work[number].append((name, self.contender.messages(self._texts.some(2, size))))

        async def one(turns: list[tuple[str, Any]]) -> None:
            for name, messages in turns:
                await self.contender.save(name, messages)

        await asyncio.gather(*(one(turns[:1]) for turns in work))  # opens the connections
        began = time.perf_counter()
        await asyncio.gather(*(one(turns[1:]) for turns in work))
        return runs * (each - 1) / (time.perf_counter() - began)

    async def learn(self, file: str) -> None:
        """Reads the script and its calls, which `cluster.write_calls` wrote, and connects."""
        source, self._calls = _load(file)
        await self.contender.connect(source)

    async def calls(self) -> tuple[float, float]:
        """Sends the script calls: those of a run in order, and all runs at a time.

        Returns:
            Calls a second, and the seconds of CPU that this process spent on a call.
        """
        call = self.contender.call

        async def one(requests: list[tuple[list[bytes], list[bytes]]]) -> None:
            for keys, args in requests:
                reply = await call(keys, args)
                if reply[0] != b"saved":
                    raise RuntimeError(f"the script did not save: {reply}")

        await asyncio.gather(*(one(requests[:1]) for requests in self._calls))  # opens the connections
        began, spent = time.perf_counter(), time.process_time()
        await asyncio.gather(*(one(requests[1:]) for requests in self._calls))
        took, spent = time.perf_counter() - began, time.process_time() - spent
        count = sum(len(requests) - 1 for requests in self._calls)
        return count / took, spent / count

    async def race(self, run: str, worker: int, count: int) -> list[str]:
        """Adds messages to a run that other processes add to; returns the texts that were acknowledged."""
        acknowledged = []
        for number in range(count):
            text = f"worker {worker} message {number}"
            await self.contender.add(run, self.contender.messages([text]))
            acknowledged.append(text)
        return acknowledged

    async def begin(self, run: str, texts: list[str]) -> None:
        """Begins a conversation with these texts."""
        await self.contender.start(run, self.contender.messages(texts))

    async def say(self, run: str, texts: list[str]) -> str | None:
        """Saves a turn with these texts; returns the name of the error that it raised."""
        try:
            await self.contender.save(run, self.contender.messages(texts))
        except Exception as error:  # any: what a contender raises is what is asked
            return type(error).__name__
        return None

    # --------------------------------------------------------------------------------------- locks

    async def warm(self, run: str) -> None:
        """Connects."""
        await self.contender.warm(run)

    async def inside(
        self, run: str, rounds: int, hold: float, ttl: float = 30.0, wait: tuple[float, float] = (0.0, 0.0)
    ) -> list[tuple[float, float]]:
        """Takes the lock `rounds` times, after a random wait; returns from when to when it was inside."""
        await asyncio.sleep(self._random.uniform(*wait))
        return list(await self.contender.turns(run, rounds, hold, ttl))

    async def close(self) -> None:
        """Closes the connections."""
        await self.contender.close()

    async def ask(self, do: str, **arguments: Any) -> Any:
        """The same face as a child's."""
        return await getattr(self, do)(**arguments)


def _load(file: str) -> Any:
    return pickle.loads(Path(file).read_bytes())
