"""Many at a time: throughput of one process, messages lost by racing processes, locks handed over."""

from __future__ import annotations

import asyncio
import itertools
import time
from typing import Any

import redis.asyncio

import histstore

from .child import ChildError, child
from .contenders import Entry
from .measure import interleave, orders, spread
from .plan import Plan
from .single import SIZE, Samples

WORKERS = 8
"""Racing processes."""


async def throughput(plan: Plan) -> dict[str, dict[int, list[float]]]:
    """Saves a second of every contender with some runs at a time: samples in turns, each contender in its process."""
    concurrent = plan.stores("histstore_sync", "langchain_history")  # blocking: one at a time in an event loop
    contenders = await plan.children(concurrent)
    rates: dict[str, dict[int, list[float]]] = {name: {} for name in contenders}
    peers = {entry.name for entry in concurrent if entry.distribution is not None}
    for runs in plan.scale.runs:
        left = set(contenders)
        for order in orders(list(contenders), plan.scale.samples):
            for name in order:
                if name not in left:
                    continue
                saves = plan.scale.saves // (8 if name in peers else 1)  # as many as take about as long
                try:
                    rate = await contenders[name].ask("rate", run=plan.run(), runs=runs, saves=saves, size=SIZE)
                except ChildError as error:
                    plan.failing(name, f"{runs} runs at a time", error)
                    left.discard(name)
                    continue
                rates[name].setdefault(runs, []).append(rate)
    return {name: each for name, each in rates.items() if each}


async def races(plan: Plan) -> dict[str, Any]:
    """Messages that eight processes add to one run, load and save, and that are there afterwards."""
    found = {}
    for entry in plan.stores("raw_turn"):
        try:
            it = await plan.child(entry)
            run = plan.run()
            await it.ask("begin", run=run, texts=["hello", "good morning"])
            add = {"do": "race", "run": run, "count": plan.scale.racing}
            told = await it.ask("together", requests=[add | {"worker": worker} for worker in range(WORKERS)])
            acknowledged = [text for (texts,) in told for text in texts]
            stored = await it.ask("read", run=run)
            found[entry.name] = {
                "acknowledged": len(acknowledged),
                "lost": len(set(acknowledged) - set(stored)),
                "doubled": len(stored) - len(set(stored)),
            }
        except ChildError as error:
            plan.failing(entry.name, "eight racing workers", error)
    return found


async def handoffs(plan: Plan) -> dict[str, dict[int, Any]]:
    """From one holder's leaving to the next one's being inside: processes that wait for one lock and hold it 20 ms."""
    found: dict[str, dict[int, Any]] = {}
    for entry in plan.locks():
        for waiting in plan.scale.waiting:
            try:
                found.setdefault(entry.name, {})[waiting] = spread(await _handoffs(plan, entry, waiting)).json(1e3)
            except ChildError as error:
                plan.failing(entry.name, f"hand-off to {waiting}", error)
    return {name: each for name, each in found.items() if each}


async def _handoffs(plan: Plan, entry: Entry, waiting: int) -> list[float]:
    """Lets one process and those that wait for it through, each once, again and again.

    A process that asked anew at once would come in again before any that sleeps: an unfair lock would look fast. They
    come at random times, while the first is inside: those that look again from time to time must not do so in step.
    """
    times = max(1 + (waiting > 2), plan.scale.handoffs // waiting)
    run = plan.run()
    it = await plan.child(entry)
    first = {"do": "inside", "run": run, "rounds": 1, "hold": 0.15}
    others = first | {"hold": 0.02, "wait": (0.01, 0.11)}
    each = await it.ask("together", requests=[first] + [others] * waiting, warm=run, times=times)
    seconds = []
    for through in zip(*each, strict=True):
        inside = sorted(tuple(times) for (times,) in through)
        seconds += [after[0] - before[1] for before, after in itertools.pairwise(inside)]
    return seconds


async def lease_cost(plan: Plan) -> Samples:
    """Taking and giving up a lease that is free, and two PINGs of redis-py's own client, in turns."""
    client = redis.asyncio.Redis.from_url(plan.url)
    async with histstore.RedisBackend.from_url(plan.url) as backend:
        store = backend.store(plan.run())

        async def lease() -> float:
            began = time.perf_counter()
            async with store.lock():
                pass
            return time.perf_counter() - began

        async def pings() -> float:
            began = time.perf_counter()
            await client.ping()
            await client.ping()
            return time.perf_counter() - began

        samples = await interleave({"lease": lease, "two PINGs": pings}, plan.scale.rounds // 2)
    await client.aclose()
    return samples


async def takeovers(plan: Plan, ttl: float = 1.0) -> Samples:
    """From kill -9 of a holder that renews its lease to the next one's being inside, and from the lease's end."""
    samples: Samples = {"after kill -9": [], "after the lease's end": []}
    entry = next(entry for entry in plan.locks() if entry.module == "lease_async")
    for turn in range(plan.scale.takeovers):
        run = plan.run()
        async with (
            histstore.RedisBackend.from_url(plan.url) as backend,
            child(plan.python(entry), entry.module, plan.url) as holder,
            child(plan.python(entry), entry.module, plan.url) as waiter,
        ):
            store = backend.store(run)
            await store.append({"role": "user", "content": "hello"})  # what is absent has no info
            holder.tell("inside", run=run, rounds=1, hold=1e6, ttl=ttl)
            while (info := await store.info()) is None or info.lease is None:
                await asyncio.sleep(0.01)
            waiter.tell("inside", run=run, rounds=1, hold=0.0, ttl=ttl)
            await asyncio.sleep(ttl * (0.5 + turn % 7 / 14))  # all phases of the renewal
            killed = time.monotonic()
            holder.kill()
            info = await store.info()
            left = info.lease.expires_in if info is not None and info.lease is not None else 0.0
            ((began, _),) = await waiter.hear()
            samples["after kill -9"].append(began - killed)
            samples["after the lease's end"].append(began - killed - left)
    return samples


async def leases(plan: Plan) -> dict[str, Any]:
    """What a free lease costs, and how long a killed holder keeps the others waiting."""
    cost = await lease_cost(plan)
    of_pings = [lease / pings for lease, pings in zip(cost["lease"], cost["two PINGs"], strict=True)]
    found = {
        "a free lease taken and given up, µs": spread(cost["lease"]).json(1e6),
        "two PINGs, µs": spread(cost["two PINGs"]).json(1e6),
        "lease ÷ two PINGs, one by one": spread(of_pings).json(),
    }
    for name, seconds in (await takeovers(plan)).items():
        if seconds:
            found[f"inside {name} (a lease of 1 s), ms"] = spread(seconds).json(1e3)
    return found
