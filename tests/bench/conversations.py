"""Real conversations, replayed turn by turn."""

from __future__ import annotations

import json
import time
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

import redis.asyncio

import histstore
from histstore.demo import transcripts

from ..support.proxy import Proxy, proxy
from .measure import orders, spread
from .plan import Plan
from .wire import through

Save = Callable[[str, list[Any], list[Any]], Awaitable[float]]
"""Saves the messages of a run's next turn, after those before it; returns the seconds."""


class Replayed:
    """The three that replay: this library, a SET of the turn, and a SET of everything so far, both as JSON."""

    def __init__(self, url: str) -> None:
        self.backend = histstore.RedisBackend.from_url(url)
        self.client = redis.asyncio.Redis.from_url(url)
        self._runs: dict[str, list[Any]] = {}
        self.ways: dict[str, Save] = {
            "histstore": self._histstore,
            "raw redis-py": self._turn,
            "whole snapshot": self._whole,
        }

    async def _histstore(self, run: str, before: list[Any], turn: list[Any]) -> float:
        if run not in self._runs:
            self._runs[run] = [self.backend.store(run), histstore.ConversationSnapshot()]
        kept = self._runs[run]
        began = time.perf_counter()
        kept[1] = kept[1].append(*turn)
        await kept[0].save(kept[1])
        return time.perf_counter() - began

    async def _turn(self, run: str, before: list[Any], turn: list[Any]) -> float:
        encoded = json.dumps(turn)
        began = time.perf_counter()
        await self.client.set(f"bench:raw:{run}", encoded)
        return time.perf_counter() - began

    async def _whole(self, run: str, before: list[Any], turn: list[Any]) -> float:
        began = time.perf_counter()
        await self.client.set(f"bench:whole:{run}", json.dumps(before + turn))
        return time.perf_counter() - began

    async def load(self, name: str, run: str) -> float | None:
        """Loads a whole conversation; None where there is none to load."""
        began = time.perf_counter()
        if name == "histstore":
            await self.backend.store(run).load()
        elif name == "whole snapshot":
            json.loads(await self.client.get(f"bench:whole:{run}"))
        else:
            return None
        return time.perf_counter() - began

    async def close(self) -> None:
        """Closes the connections."""
        await self.backend.aclose()
        await self.client.aclose()


async def replay(plan: Plan, file: Path) -> dict[str, Any]:
    """Replays the conversations in a file: once for time, every turn in changing order, and once for bytes."""
    given = transcripts.load(file)
    it = Replayed(plan.url)
    saves: dict[str, list[float]] = {name: [] for name in it.ways}
    loads: dict[str, list[float]] = {name: [] for name in it.ways}
    shuffled = orders(list(it.ways), sum(each.turns + 1 for each in given))
    for transcript in given:
        run = plan.run()
        for start in range(0, len(transcript.messages), transcripts.TURN):
            turn = transcript.messages[start : start + transcripts.TURN]
            for name in next(shuffled):
                saves[name].append(await it.ways[name](run, transcript.messages[:start], turn))
        for name in next(shuffled):
            if (seconds := await it.load(name, run)) is not None:
                loads[name].append(seconds)
    await it.close()
    async with proxy(plan.url) as wire:
        sent = await _sent(plan, given, wire)
    return {
        "file": file.name,
        "runs": len(given),
        "messages": sum(len(each.messages) for each in given),
        "turns": sum(each.turns for each in given),
        "contenders": {
            name: {
                "save": spread(saves[name]).json(1e3),
                "load": spread(loads[name]).json(1e3) if loads[name] else None,
                "sent_median": spread(sent[name]).median,
                "sent_all": sum(sent[name]),
            }
            for name in saves
        },
    }


async def _sent(plan: Plan, given: list[transcripts.Transcript], wire: Proxy) -> dict[str, list[float]]:
    it = Replayed(through(wire, plan.url))
    sent: dict[str, list[float]] = {name: [] for name in it.ways}
    await it.client.ping()  # what the first words say is not a turn's
    await it.backend.store(plan.run()).load()
    for transcript in given:
        run = plan.run()
        for start in range(0, len(transcript.messages), transcripts.TURN):
            turn = transcript.messages[start : start + transcripts.TURN]
            for name, save in it.ways.items():
                wire.reset_counts()
                await save(run, transcript.messages[:start], turn)
                sent[name].append(wire.sent)
    await it.close()
    return sent
