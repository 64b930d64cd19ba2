"""A cluster of three servers: script calls a second by several clients, and what a lone save costs there."""

from __future__ import annotations

import os
import pickle
import tempfile
import time
from pathlib import Path
from typing import Any, Final

from histstore import AssistantMessage, UserMessage
from histstore.log.base import Base
from histstore.log.plan import Target, Writer, grow, plan_save
from histstore.protocol import saves
from histstore.protocol.keys import run_keys
from histstore.protocol.run import NO_LEASE, RunRef
from histstore.protocol.scripts import SAVE
from histstore.revision import RunId

from ..support.cluster import Cluster, cluster
from ..support.servers import server, server_binary
from .child import Child, ChildError
from .contenders import Entry
from .driver import Driver
from .measure import interleave, orders
from .plan import Plan
from .single import SIZE, Samples, turn
from .texts import Texts

SERVERS: Final = 3
OURS: Final = "histstore"
REDIS_PY: Final = "redis-py RedisCluster"
GLIDE: Final = "valkey-glide"
WHOLE: Final = "histstore, whole saves"
"""Saves of a store: planned, sent by the same transport, and recorded."""

Request = tuple[list[bytes], list[bytes]]
"""The keys and the arguments of one call of the save script."""


async def measure(plan: Plan) -> tuple[Samples, Samples, Samples]:
    """Returns for each client calls a second and CPU seconds a call, and the seconds of lone saves."""
    if server_binary() is None:
        plan.absent["cluster"] = "no server program on this machine"
        return {}, {}, {}
    with cluster(SERVERS) as nodes, server() as single:
        return *await rates(plan, nodes), await lone_saves(plan, nodes.url, single.url)


async def rates(plan: Plan, nodes: Cluster) -> tuple[Samples, Samples]:
    """Returns calls a second and CPU seconds a call, by client.

    The samples are taken in turns. Each client has a process of its own, and all of them send the same bytes.
    """
    clients: dict[str, Child] = {}
    found: Samples = {}
    spent: Samples = {}
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder) / "calls"
        write_calls(file, plan.scale.callers, plan.scale.calls)
        for each in nodes.servers:
            nodes.client(each).script_load(SAVE.source)
        for entry in plan.clients():
            try:
                clients[entry.name] = await plan.child(entry, nodes.url)
                await clients[entry.name].ask("learn", file=str(file))
            except ChildError as error:
                clients.pop(entry.name, None)
                plan.absent[entry.name] = f"did not start: {error}"
    clients[WHOLE] = await plan.child(Entry(WHOLE, "histstore_async"), nodes.url)
    for order in orders(list(clients), plan.scale.samples):
        for name in order:
            if name not in clients:
                continue
            for each in nodes.servers:
                nodes.client(each).flushall()
            try:
                if name == WHOLE:
                    rate = await _rate_of_saves(plan, clients[name])
                else:
                    rate, cpu = await clients[name].ask("calls")
                    spent.setdefault(name, []).append(cpu)
                found.setdefault(name, []).append(rate)
            except ChildError as error:
                plan.failing(name, f"{plan.scale.callers} tasks on a cluster", error)
                del clients[name]
    return found, spent


async def _rate_of_saves(plan: Plan, client: Child) -> float:
    callers = plan.scale.callers
    return float(await client.ask("rate", run=plan.run(), runs=callers, saves=callers * plan.scale.calls, size=SIZE))


def write_calls(file: Path, runs: int, count: int) -> None:
    """Writes the save script, and the calls that save turns of some runs: as many as are timed, and a first one.

    Nothing in a call depends on the server. So all clients can send the same ones, each onto an empty cluster.
    """
    texts = Texts(5)
    file.write_bytes(pickle.dumps((SAVE.source, [_requests(texts, 1 + count) for _ in range(runs)])))


def _requests(texts: Texts, count: int) -> list[Request]:
    run_id = RunId.new()
    where = RunRef("bench", run_id, run_keys("bench", run_id))
    requests: list[Request] = []
    messages: list[Any] = []
    base: Base | None = None
    for _ in range(count):
        question, answer = texts.some(2, SIZE)
        messages += [UserMessage(question), AssistantMessage(answer)]
        content = Target(messages, [False] * len(messages), len(messages), {}, len(messages) - 2 if base else 0)
        parent = base.head if base is not None else None
        planned = plan_save(parent, base, content, Writer(os.urandom(16), 0, 1 << 26))
        assert planned is not None
        revision = parent.revision if parent is not None else None
        call = saves.save(where, planned, revision, NO_LEASE, ttl=None, keep=0, now=time.time())
        args = [each if isinstance(each, bytes) else each.encode() for each in call.args]
        requests.append(([*call.keys, *call.implied], args))
        base = grow(base, planned, planned.entry.revision())
    return requests


async def lone_saves(plan: Plan, clustered: str, single: str) -> Samples:
    """Returns the seconds of saves one by one, in the cluster and on one server, in turns."""
    drivers: list[Driver] = []
    operations = {}
    for name, url in (("in the cluster", clustered), ("on one server", single)):
        driver, run = Driver("histstore_async", url), plan.run()
        drivers.append(driver)
        await driver.prepare(run, 10, SIZE)
        operations[name] = turn(driver, run)
    samples = await interleave(operations, plan.scale.rounds)
    for driver in drivers:
        await driver.close()
    return samples
