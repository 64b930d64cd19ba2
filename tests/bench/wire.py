"""What travels and what is kept: bytes and round trips counted by a proxy, and memory as the server tells it."""

from __future__ import annotations

import statistics
import uuid
from typing import Any
from urllib.parse import urlsplit

import redis

from ..support.proxy import Proxy, proxy
from .child import Child, ChildError
from .driver import Driver
from .plan import Plan, settle
from .single import SIZE
from .texts import Texts

LENGTH = 100
"""Messages in the conversation that the turn is saved onto."""

TURN = 2000
"""Bytes of text in the turn."""


async def per_save(plan: Plan) -> dict[str, Any]:
    """Bytes and round trips of a save and of a load, and memory, for every contender."""
    found = {}
    for entry in plan.stores("raw_turn"):
        try:
            async with proxy(plan.server(entry)) as wire:
                it = await plan.child(entry, through(wire, plan.server(entry)))
                found[entry.name] = await _counted(plan, it, wire)
                run = plan.run()
                await it.ask("grow", run=run, turns=plan.scale.turns, size=SIZE)
                found[entry.name]["memory_ratio"] = memory(plan.server(entry), run) / (plan.scale.turns * 2 * SIZE)
        except ChildError as error:
            plan.failing(entry.name, "bytes and memory", error)
    return found


def through(wire: Proxy, url: str) -> str:
    """Returns the URL of the proxy, with the user and the password of the server's."""
    user, at, _host = urlsplit(url).netloc.rpartition("@")
    return wire.url.replace("://", f"://{user}{at}", 1)


async def _counted(plan: Plan, it: Child, wire: Proxy) -> dict[str, Any]:
    counts: dict[str, list[int]] = {name: [] for name in ("trips", "sent", "received", "load_trips", "load_received")}
    for _ in range(3):
        run = plan.run()
        await it.ask("prepare", run=run, count=LENGTH, size=TURN // 2)
        await it.ask("turns", run=run, count=1)  # what only the first one sends
        await settle()
        wire.reset_counts()
        await it.ask("turns", run=run, count=1)
        await settle()
        for name in ("trips", "sent", "received"):
            counts[name].append(getattr(wire, name))
        await it.ask("loads", run=run, count=1)
        await settle()
        wire.reset_counts()
        await it.ask("loads", run=run, count=1)
        await settle()
        counts["load_trips"].append(wire.trips)
        counts["load_received"].append(wire.received)
    return {name: statistics.median(values) for name, values in counts.items()}


async def bytes_up(plan: Plan) -> int:
    """Bytes that this library sends for a turn of 2,000 bytes: a run named by a UUID, the default namespace."""
    async with proxy(plan.url) as wire:
        ours = Driver("histstore_async", through(wire, plan.url))
        run = str(uuid.uuid4())
        try:
            await ours.prepare(run, LENGTH, TURN // 2)
            await ours.turns(run, 1)
            wire.reset_counts()
            await ours.turns(run, 1)
            return wire.sent
        finally:
            await ours.close()
            await settle()
            _unlink(plan.url, run)


async def memory_ratio(plan: Plan, turns: int) -> float:
    """Memory of a run after one-turn saves, over the bytes of its messages' text."""
    ours = Driver("histstore_async", plan.url)
    run = plan.run()
    await ours.grow(run, turns, SIZE)
    await ours.close()
    return memory(plan.url, run) / (turns * 2 * SIZE)


def memory(url: str, run: str) -> int:
    """Returns the memory of all keys that have the run's name in theirs."""
    with redis.Redis.from_url(url) as client:
        keys = client.scan_iter(match=f"*{run}*", count=1000)
        return sum(int(client.memory_usage(key, samples=0) or 0) for key in keys)  # type: ignore[arg-type]


def _unlink(url: str, run: str) -> None:
    with redis.Redis.from_url(url) as client:
        for key in client.scan_iter(match=f"*{run}*", count=1000):
            client.unlink(key)


async def after_a_lost_reply(plan: Plan) -> dict[str, Any]:
    """What a save says when its reply was lost; how often the turn is stored then, and once the caller tried again."""
    found = {}
    for entry in plan.stores("raw_turn", "whole_snapshot"):
        run, turn = plan.run(), Texts(4).some(2, 1000)
        try:
            async with proxy(plan.server(entry)) as wire:
                it = await plan.child(entry, through(wire, plan.server(entry)))
                await it.ask("begin", run=run, texts=["hello", "good morning"])
                await it.ask("say", run=run, texts=["a question", "an answer"])
                wire.lose_replies(1, lambda data: len(data) > 2000)  # by size: one peer encodes texts as base64
                error = await it.ask("say", run=run, texts=turn)
                assert wire.lost == 1, f"{entry.name} sent no request as large as its turn"
                copies = await _copies(it, run, turn)
                if error is not None:
                    await it.ask("say", run=run, texts=turn)
                again = await _copies(it, run, turn)
                found[entry.name] = {"raises": error, "copies": copies, "copies_again": again}
        except ChildError as error:
            plan.failing(entry.name, "a lost reply", error)
    return found


async def _copies(it: Child, run: str, turn: list[str]) -> int:
    """Returns how often the message of the turn that is there most often is there."""
    stored = await it.ask("read", run=run)
    return max(stored.count(text) for text in turn)
