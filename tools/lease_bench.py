"""Measures leases: by hand, before and after a change. Nothing is asserted.

    python tools/lease_bench.py [--url redis://…] [--shell async|sync] [--only cost|handoff|takeover] …

cost       taking and giving up a free lease, and two PINGs of redis-py's own client, in turns
handoff    from the holder's leaving to the next one's being inside: processes that wait for one run, and hold it 20 ms
takeover   from kill -9 of a holder that renews a lease of 1 s to the next one's being inside, and from the lease's end

Medians, with quartiles. The machine's noise is part of them: compare runs that were made at the same time.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import itertools
import json
import shutil
import socket
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence

import redis
import redis.asyncio

import histstore
import histstore.sync

NAMESPACE = "lease-bench"


# -------------------------------------------------------------------------------------------- cost


async def cost_async(url: str, rounds: int) -> tuple[list[float], list[float]]:
    pings, leases = [], []
    client = redis.asyncio.Redis.from_url(url)
    async with histstore.RedisBackend.from_url(url, namespace=NAMESPACE) as backend:
        store = backend.store("cost")
        for _ in range(rounds):
            began = time.perf_counter()
            await client.ping()
            await client.ping()
            between = time.perf_counter()
            async with store.lock():
                pass
            leases.append(time.perf_counter() - between)
            pings.append(between - began)
    await client.aclose()
    return pings, leases


def cost_sync(url: str, rounds: int) -> tuple[list[float], list[float]]:
    pings, leases = [], []
    client = redis.Redis.from_url(url)
    with histstore.sync.RedisBackend.from_url(url, namespace=NAMESPACE) as backend:
        store = backend.store("cost")
        for _ in range(rounds):
            began = time.perf_counter()
            client.ping()
            client.ping()
            between = time.perf_counter()
            with store.lock():
                pass
            leases.append(time.perf_counter() - between)
            pings.append(between - began)
    client.close()
    return pings, leases


def cost(url: str, shell: str, rounds: int) -> None:
    pings, leases = asyncio.run(cost_async(url, rounds)) if shell == "async" else cost_sync(url, rounds)
    print(f"{shell:5}  cost      two PINGs {spread(pings, 1e6)} µs, lease {spread(leases, 1e6)} µs")
    ratios = [lease / ping for lease, ping in zip(leases, pings, strict=True)]
    of_medians = statistics.median(leases) / statistics.median(pings)
    print(f"{shell:5}  cost      {of_medians:.2f} times two PINGs (each to its neighbour: {spread(ratios)})")


# ------------------------------------------------------------------------------------ with processes


class Process:
    """A worker process: it says a JSON value a line, and waits for lines."""

    def __init__(self, *words: object) -> None:
        command = [sys.executable, __file__, "--worker", json.dumps(words)]
        self.inner = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)

    def hear(self) -> object:
        assert self.inner.stdout is not None
        return json.loads(self.inner.stdout.readline())

    def go(self) -> None:
        assert self.inner.stdin is not None
        self.inner.stdin.write("\n")
        self.inner.stdin.flush()

    def kill(self) -> float:
        now = time.monotonic()
        self.inner.kill()
        self.inner.communicate()
        return now


def say(value: object) -> None:
    print(json.dumps(value), flush=True)


async def take_async(url: str, run: str, rounds: int, hold: float, ttl: float) -> None:
    async with histstore.RedisBackend.from_url(url, namespace=NAMESPACE) as backend:
        store = backend.store(run)
        await store.info()
        say("ready")
        sys.stdin.readline()
        turns = []
        for _ in range(rounds):
            async with store.lock(ttl=ttl) as lease:
                began = time.monotonic()
                await asyncio.sleep(hold)
                turns.append((lease.fence, began, time.monotonic()))
        say(turns)
        sys.stdin.readline()


def take_sync(url: str, run: str, rounds: int, hold: float, ttl: float) -> None:
    with histstore.sync.RedisBackend.from_url(url, namespace=NAMESPACE) as backend:
        store = backend.store(run)
        store.info()
        say("ready")
        sys.stdin.readline()
        turns = []
        for _ in range(rounds):
            with store.lock(ttl=ttl) as lease:
                began = time.monotonic()
                time.sleep(hold)
                turns.append((lease.fence, began, time.monotonic()))
        say(turns)
        sys.stdin.readline()


def handoff(url: str, shell: str, processes: int, rounds: int, hold: float) -> None:
    run = f"handoff-{processes}-{time.monotonic_ns()}"
    workers = [Process(shell, url, run, rounds, hold, 30.0) for _ in range(processes)]
    for each in workers:
        each.hear()
    with redis.Redis.from_url(url) as client:
        before = sent(client)
        for each in workers:
            each.go()
        turns = sorted(turn for each in workers for turn in each.hear())  # type: ignore[attr-defined]
        commands = sent(client) - before
    for each in workers:
        each.go()
        each.inner.communicate()
    times = [after[1] - before[2] for before, after in itertools.pairwise(turns)]
    print(
        f"{shell:5}  handoff   to {processes} processes: {spread(times, 1e3)} ms, 99 %: "
        f"{sorted(times)[int(len(times) * 0.99)] * 1e3:.2f} ms ({len(times)} times, "
        f"{commands / len(turns):.1f} scripts and subscriptions a turn)"
    )


def sent(client: redis.Redis) -> int:
    stats = client.info("commandstats")
    names = ("cmdstat_evalsha", "cmdstat_eval", "cmdstat_subscribe")
    return sum(stats[name]["calls"] for name in names if name in stats)  # type: ignore[index]


def takeover(url: str, shell: str, rounds: int, ttl: float) -> None:
    times, over = [], []
    with redis.Redis.from_url(url) as client:
        for turn in range(rounds):
            run = f"takeover-{turn}-{time.monotonic_ns()}"
            key = f"{NAMESPACE}:{{{run}}}"
            holder, waiter = Process(shell, url, run, 1, 1e6, ttl), Process(shell, url, run, 1, 0.0, ttl)
            holder.hear()
            holder.go()
            wait_for(client, "EXISTS", f"{key}:lease")
            waiter.hear()
            waiter.go()
            wait_for(client, "LLEN", f"{key}:queue")
            time.sleep(ttl * (0.5 + turn % 7 / 14))  # all phases of the renewal
            killed = holder.kill()
            left = int(client.pttl(f"{key}:lease")) / 1000  # type: ignore[arg-type]
            ((_, began, _),) = waiter.hear()  # type: ignore[misc]
            waiter.go()
            waiter.inner.communicate()
            times.append(began - killed)
            over.append(began - killed - left)
    print(f"{shell:5}  takeover  {spread(times, 1)} s after kill -9 of a lease of {ttl:g} s")
    print(f"{shell:5}  takeover  {spread(over, 1e3)} ms after the lease's end")


def wait_for(client: redis.Redis, command: str, key: str) -> None:
    while not client.execute_command(command, key):
        time.sleep(0.002)


# ---------------------------------------------------------------------------------------- the program


def spread(values: Sequence[float], scale: float = 1.0) -> str:
    """Returns the median with the quartiles."""
    low, middle, high = statistics.quantiles([value * scale for value in values], n=4)
    return f"{middle:.3g} [{low:.3g}, {high:.3g}]"


@contextlib.contextmanager
def server() -> Iterator[str]:
    """Runs a server of its own."""
    binary = shutil.which("redis-server") or shutil.which("valkey-server")
    if binary is None:
        sys.exit("no redis-server or valkey-server here: give --url")
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    with tempfile.TemporaryDirectory() as folder:
        command = [binary, "--port", str(port), "--bind", "127.0.0.1", "--save", "", "--dir", folder]
        process = subprocess.Popen(command, stdout=subprocess.DEVNULL)
        url = f"redis://127.0.0.1:{port}/0"
        try:
            with redis.Redis.from_url(url) as client:
                while process.poll() is None:
                    with contextlib.suppress(redis.ConnectionError):
                        client.ping()
                        break
                    time.sleep(0.02)
            yield url
        finally:
            process.kill()
            process.wait()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--url", help="a server; without it one is started")
    parser.add_argument("--shell", choices=("async", "sync"), help="only this shell")
    parser.add_argument("--only", choices=("cost", "handoff", "takeover"), help="only this")
    parser.add_argument("--rounds", type=int, default=3000, help="leases for cost (%(default)s)")
    parser.add_argument("--handoffs", type=int, default=300, help="turns for handoff, in all (%(default)s)")
    parser.add_argument("--hold", type=float, default=0.02, help="seconds inside, for handoff (%(default)s)")
    parser.add_argument("--waiting", type=int, nargs="*", default=[2, 16], help="processes for handoff (2 16)")
    parser.add_argument("--takeovers", type=int, default=10, help="kills for takeover (%(default)s)")
    parser.add_argument("--worker", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.worker:
        shell, *words = json.loads(options.worker)
        asyncio.run(take_async(*words)) if shell == "async" else take_sync(*words)
        return
    with contextlib.nullcontext(options.url) if options.url else server() as url:
        for shell in (options.shell,) if options.shell else ("async", "sync"):
            if options.only in (None, "cost"):
                cost(url, shell, options.rounds)
            if options.only in (None, "handoff"):
                for processes in options.waiting:
                    handoff(url, shell, processes, max(1, options.handoffs // processes), options.hold)
            if options.only in (None, "takeover"):
                takeover(url, shell, options.takeovers, 1.0)


if __name__ == "__main__":
    main()
