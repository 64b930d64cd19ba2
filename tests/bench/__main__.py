"""Runs the benchmark: `make bench`, or `python -m tests.bench`."""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import json
import subprocess
import sys
import time
from collections.abc import Awaitable, Iterator
from pathlib import Path
from typing import Any, TypeVar

from . import acceptance, cluster, environment, readme, single, stack, tables, together, venv, wire
from .child import ROOT
from .contenders import CLIENTS, LOCKS, STORES, Entry
from .measure import spread
from .plan import FULL, QUICK, SMOKE, Plan

RESULTS = Path(__file__).with_name("results")
T = TypeVar("T")


def options() -> argparse.Namespace:
    """Reads the command line."""
    parser = argparse.ArgumentParser(prog="python -m tests.bench", description="This library, measured beside others.")
    much = parser.add_mutually_exclusive_group()
    much.add_argument(
        "--quick", action="store_true", help="less of everything, in under a minute; does not install peers"
    )
    much.add_argument("--smoke", action="store_true", help="every section once, in seconds: the figures mean nothing")
    parser.add_argument("--no-peers", action="store_true", help="leave the peers out")
    parser.add_argument(
        "--input", type=Path, metavar="FILE", help='real conversations: {"run": …, "messages": […]} a line'
    )
    parser.add_argument("--out", type=Path, metavar="DIR", help="where results and plots go")
    parser.add_argument("--check", action="store_true", help="exit with 1 if a target is missed")
    parser.add_argument(
        "--only", nargs="*", choices=[*SECTIONS], metavar="SECTION", help=f"some of: {' '.join(SECTIONS)}"
    )
    return parser.parse_args()


SECTIONS = ("acceptance", "length", "throughput", "wire", "races", "replies", "locks", "cluster")


def say(text: str) -> None:
    """Tells what is going on, beside the tables."""
    print(text, file=sys.stderr, flush=True)


async def section(plan: Plan, name: str, work: Awaitable[T]) -> T:
    """Does one section, deletes what it stored, and says how long it took."""
    began = time.monotonic()
    done = await work
    await plan.forget()
    say(f"{name}: {time.monotonic() - began:.0f} s")
    return done


async def run(plan: Plan, wanted: tuple[str, ...], given: Path | None) -> dict[str, Any]:
    """Measures what is wanted, and ends the contenders' processes."""
    async with plan:
        return await measure(plan, wanted, given)


async def measure(plan: Plan, wanted: tuple[str, ...], given: Path | None) -> dict[str, Any]:
    """Measures what is wanted."""
    results: dict[str, Any] = {}
    targets: list[acceptance.Target] = []
    if "acceptance" in wanted:
        targets, samples = await section(plan, "single operations", acceptance.measure(plan))
        results["samples_us"] = {name: spread(values).json(1e6) for name, values in samples.items()}
    if "length" in wanted:
        results |= await section(plan, "time over length", single.over_length(plan))
    if "throughput" in wanted:
        rates = await section(plan, "throughput", together.throughput(plan))
        results["throughput"] = {
            name: {runs: spread(r).json() for runs, r in each.items()} for name, each in rates.items()
        }
        if (target := acceptance.throughput(rates)) is not None:
            targets.append(target)
    if "wire" in wanted:
        results["per_save"] = await section(plan, "bytes and memory", wire.per_save(plan))
    if "races" in wanted:
        results["races"] = await section(plan, "racing workers", together.races(plan))
    if "replies" in wanted:
        results["lost_reply"] = await section(plan, "lost replies", wire.after_a_lost_reply(plan))
    if "locks" in wanted:
        results["handoff"] = await section(plan, "lock hand-off", together.handoffs(plan))
        results["leases"] = await section(plan, "leases", together.leases(plan))
    if "cluster" in wanted:
        calls, cpu, lone = await section(plan, "cluster", cluster.measure(plan))
        results["cluster"] = {name: spread(each).json() for name, each in calls.items()}
        results["cluster_cpu_us"] = {name: spread(each).json(1e6) for name, each in cpu.items()}
        targets += acceptance.in_cluster(calls, lone, plan.scale.callers)
    if given is not None:
        from . import conversations

        results["input"] = await section(plan, "conversations", conversations.replay(plan, given))
    results["acceptance"] = [target.json() for target in targets]
    return results


@contextlib.contextmanager
def modules_server(plan: Plan) -> Iterator[None]:
    """Finds a server for the peers that need modules, unless the server has them."""
    with contextlib.ExitStack() as held:
        if any(not entry.modules <= plan.modules and entry.distribution not in plan.failed for entry in STORES):
            plan.stack_url, plan.stack = held.enter_context(stack.modules_server())
        yield


def peers(wanted: tuple[str, ...], given: Path | None) -> list[str]:
    """Returns what the contenders of some sections, and of the conversations that are given, come in."""
    entries: list[Entry] = [*CLIENTS] if "cluster" in wanted else []
    if set(wanted) - {"cluster"} or given is not None:
        entries += [*STORES, *LOCKS]
    return list(dict.fromkeys(entry.distribution for entry in entries if entry.distribution is not None))


def missing(asked: argparse.Namespace, names: list[str]) -> dict[str, str]:
    """Returns which peers are not there, and why; a full run installs them."""
    found = {}
    for name in names:
        peer = venv.Environment(name)
        if asked.no_peers or asked.smoke:
            found[name] = "left out"
        elif asked.quick and not peer.there():
            found[name] = "not installed yet: a full run does that"
        elif (why := peer.make()) is not None:
            found[name] = f"does not install: {why}"
    return found


def main() -> int:
    """Runs the benchmark; returns the exit status."""
    asked = options()
    scale = SMOKE if asked.smoke else QUICK if asked.quick else FULL
    wanted = SECTIONS if asked.only is None else tuple(asked.only)
    names = peers(wanted, asked.input)
    began = time.monotonic()
    with environment.bench_server() as (url, where):
        described = environment.describe(url, where)
        say(f"server: {described['name']}, {where}")
        plan = Plan(scale, url, frozenset(described["modules"]))
        plan.failed = missing(asked, names)
        try:
            with modules_server(plan):
                results = asyncio.run(run(plan, wanted, asked.input))
        finally:
            environment.forget(url, plan.mark)
        results["environment"] = {
            "machine": environment.machine(),
            "versions": environment.versions(),
            "server": described,
            "peers": {name: venv.Environment(name).versions() for name in names if name not in plan.failed},
            "modules_server": plan.stack if plan.stack_url is not None else None,
            "seconds": round(time.monotonic() - began),
        }
        results["not_measured"] = plan.absent
    results = json.loads(json.dumps(results))
    print(tables.report(results))
    out = asked.out or (ROOT / "build" / "bench" if asked.quick or asked.smoke or asked.only else RESULTS)
    write(results, out, quick=asked.quick or asked.smoke)
    missed = [each for each in results["acceptance"] if not each["met"]]
    return 1 if asked.check and missed else 0


def write(results: dict[str, Any], out: Path, *, quick: bool) -> None:
    """Writes the results, and the plots if what draws them is there, or may be installed."""
    out.mkdir(parents=True, exist_ok=True)
    file = out / "results.json"
    file.write_text(json.dumps(results, indent=1, ensure_ascii=False) + "\n")
    if not venv.PLOTS.there() and (quick or venv.PLOTS.make() is not None):
        drawn = "without plots: a full run installs what draws them"
    else:
        command = [str(venv.PLOTS.python), "-m", "tests.bench.plots", str(file), str(out)]
        done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
        drawn = "and plots" if done.returncode == 0 else f"without plots: {done.stderr.strip().rpartition(chr(10))[2]}"
    if out == RESULTS:
        readme.main()
    say(f"{file} written, {drawn}")


if __name__ == "__main__":
    sys.exit(main())
