"""One conversation at a time: the acceptance table's ratios, and time over length for every contender."""

from __future__ import annotations

import time
from collections.abc import Awaitable, Callable
from typing import Any

import cbor2
import redis.asyncio

import histstore

from .child import Child, ChildError
from .driver import Driver
from .measure import interleave, orders, spread
from .plan import Plan
from .texts import Texts

SIZE = 800
"""Bytes of a message's text."""

Samples = dict[str, list[float]]


def turn(driver: Driver, run: str) -> Callable[[], Awaitable[float]]:
    """Returns an operation that saves a turn, and how long that took."""

    async def save() -> float:
        return (await driver.turns(run, 1))[0]

    return save


def _load(driver: Driver, run: str) -> Callable[[], Awaitable[float]]:
    async def load() -> float:
        return (await driver.loads(run, 1))[0]

    return load


async def _unchanged(store: histstore.RedisHistoryStore[Any]) -> Callable[[], Awaitable[float]]:
    await store.load()

    async def unchanged() -> float:
        began = time.perf_counter()
        await store.load()
        return time.perf_counter() - began

    return unchanged


async def saves(plan: Plan, lengths: tuple[int, ...]) -> Samples:
    """Saves and unchanged loads at some lengths, a SET of the same bytes and a PING: in turns, in one event loop.

    Of typed messages, and of dicts.
    """
    ours, dicts, raw = (
        Driver("histstore_async", plan.url),
        Driver("histstore_dicts", plan.url),
        Driver("raw_turn", plan.url, 2),
    )
    backend = histstore.RedisBackend.from_url(plan.url)
    client = redis.asyncio.Redis.from_url(plan.url)
    operations = {}
    for kind, driver in (("", ours), ("dicts: ", dicts)):
        for length in lengths:
            run = plan.run()
            await driver.prepare(run, length, SIZE)
            operations[f"{kind}save {length}"] = turn(driver, run)
        for length in (lengths[0], lengths[-1]):
            run = plan.run()
            await driver.prepare(run, length, SIZE)
            operations[f"{kind}unchanged {length}"] = await _unchanged(backend.store(run))
    run = plan.run()
    await raw.prepare(run, 2, SIZE)
    operations["SET"] = turn(raw, run)
    run = plan.run()
    await ours.prepare(run, 1000, SIZE)
    operations["unchanged"] = await _unchanged(backend.store(run))

    async def ping() -> float:
        began = time.perf_counter()
        await client.ping()
        return time.perf_counter() - began

    samples = await interleave({**operations, "PING": ping}, plan.scale.rounds)
    for each in (ours, dicts, raw):
        await each.close()
    await backend.aclose()
    await client.aclose()
    return samples


async def against_whole(plan: Plan, length: int) -> Samples:
    """A save at `length`, and a SET of so long a conversation that somebody else has encoded."""
    ours = Driver("histstore_async", plan.url)
    client = redis.asyncio.Redis.from_url(plan.url)
    run = plan.run()
    await ours.prepare(run, length, SIZE)
    encoded = cbor2.dumps([{"role": "user", "content": text} for text in Texts(3).some(length, SIZE)])
    key = f"bench:encoded:{run}"

    async def whole() -> float:
        began = time.perf_counter()
        await client.set(key, encoded)
        return time.perf_counter() - began

    # Four saves for one SET: right after megabytes the caches of both processes are cold, which no other save sees.
    operations = {str(number): turn(ours, run) for number in range(4)} | {"whole SET": whole}
    samples = await interleave(operations, max(8, plan.scale.rounds // 30))
    await ours.close()
    await client.aclose()
    return {
        f"save {length}": [
            seconds for four in zip(*(samples[str(n)] for n in range(4)), strict=True) for seconds in four
        ],
        "whole SET": samples["whole SET"],
    }


async def loads(plan: Plan, length: int) -> Samples:
    """Cold loads of typed messages and of dicts, and GET with cbor2.loads of as many dicts."""
    ours, dicts = Driver("histstore_async", plan.url), Driver("histstore_dicts", plan.url)
    whole = Driver("whole_snapshot", plan.url)
    operations = {}
    for name, driver in (("load", ours), ("dicts: load", dicts), ("GET and decode", whole)):
        run = plan.run()
        await driver.prepare(run, length, SIZE)
        operations[name] = _load(driver, run)
    samples = await interleave(operations, max(8, plan.scale.rounds // 10))
    for each in (ours, dicts, whole):
        await each.close()
    return samples


async def sync_saves(plan: Plan) -> Samples:
    """Saves of the blocking twin, and SETs of the blocking client."""
    ours, raw = Driver("histstore_sync", plan.url), Driver("raw_turn_sync", plan.url, 2)
    operations = {}
    for name, driver in (("sync save", ours), ("sync SET", raw)):
        run = plan.run()
        await driver.prepare(run, 10, SIZE)
        operations[name] = turn(driver, run)
    samples = await interleave(operations, plan.scale.rounds)
    await ours.close()
    await raw.close()
    return samples


async def over_length(plan: Plan) -> dict[str, dict[str, dict[int, Any]]]:
    """Saves and loads of every contender at every length: blocks in turns, each contender in a process of its own."""
    curves: dict[str, dict[str, dict[int, Any]]] = {"save": {}, "load": {}}
    contenders = await plan.children(plan.stores())
    peers = {entry.name for entry in plan.stores() if entry.distribution is not None}
    for length in plan.scale.lengths:
        runs = {}
        for name in contenders:
            if name in peers and length > plan.scale.peers_up_to:
                continue
            try:
                runs[name] = plan.run()
                await contenders[name].ask("prepare", run=runs[name], count=length, size=SIZE)
            except ChildError as error:
                del runs[name]
                plan.failing(name, f"{length} messages", error)
        for what, do in (("save", "turns"), ("load", "loads")):
            samples = await _blocks(plan, {name: contenders[name] for name in runs}, do, runs, f"{what} at {length}")
            for name, seconds in samples.items():
                curves[what].setdefault(name, {})[length] = spread(seconds).json(1e3)
        await plan.forget()
    return curves


async def _blocks(plan: Plan, contenders: dict[str, Child], do: str, runs: dict[str, str], what: str) -> Samples:
    """Takes samples in blocks, in changing order, until each contender's time is up."""
    samples: Samples = {name: [] for name in contenders}
    spent = dict.fromkeys(contenders, 0.0)
    size = dict.fromkeys(contenders, 1)
    left = set(contenders)
    for number, order in enumerate(orders(list(contenders), 1000)):
        for name in order:
            if name not in left:
                continue
            began = time.perf_counter()
            try:
                seconds = await contenders[name].ask(do, run=runs[name], count=size[name])
            except ChildError as error:
                plan.failing(name, what, error)
                left.discard(name)
                continue
            spent[name] += time.perf_counter() - began
            size[name] = max(1, min(8, int(0.02 / seconds[0])))
            if number > 0 or spent[name] > plan.scale.budget:  # the first is a warm-up
                samples[name] += seconds
            if (spent[name] > plan.scale.budget and len(samples[name]) >= 3) or len(samples[name]) >= 1000:
                left.discard(name)
        if not left:
            break
    return {name: seconds for name, seconds in samples.items() if seconds}
