"""Runs a plan, judges it, and prints the report."""

from __future__ import annotations

import argparse
import random
import signal
import time
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, NoReturn

from .fleet import Crew, Fleet
from .proxy import Weather
from .report import report
from .topology import Bare, Topology
from .verdict import Verdict, judge


@dataclass(frozen=True)
class Plan:
    """A storm.

    Attributes:
        name: The module that makes it, for the command that does it again.
        seconds: How long it blows.
        seed: Chance.
        weather: What the proxies do.
        proxies: How many there are.
        crews: The workers.
        happenings: What happens to them and to the server, and every how many seconds, on average.
        at_least: Calls a second that are to be answered.
        topology: Makes the servers.
        pace: Seconds between two calls of a client, on average.
        named: Faults that have to happen, besides those of the servers, by what the report calls them.
        command: The command that does it again; "": the usual one.
    """

    name: str
    seconds: float
    seed: int
    weather: Weather
    proxies: int
    crews: tuple[Crew, ...]
    happenings: dict[str, float]
    at_least: float = 0.0
    topology: Callable[[random.Random], Topology] = Bare
    pace: float = 0.0
    named: tuple[str, ...] = ()
    command: str = ""

    @property
    def replay(self) -> str:
        return self.command or f"python -m tests.faults.{self.name} --seconds {self.seconds:g} --seed {self.seed}"


@dataclass
class Result:
    """What came of a plan.

    Attributes:
        verdict: The verdict.
        counts: What was done.
        text: The report.
    """

    verdict: Verdict
    counts: Counter[str]
    text: str


def run(plan: Plan) -> Result:
    """Carries a plan out, judges it, and leaves nothing behind."""
    with Fleet(plan.weather, plan.proxies, plan.crews, str(plan.seed), topology=plan.topology, pace=plan.pace) as fleet:
        began = time.monotonic()
        fleet.blow(plan.seconds, plan.happenings)
        took = time.monotonic() - began
        fleet.calm_down()
        verdict = judge(fleet)
        counts = fleet.counts + fleet.servers.counts
        missing = [name for name in (*plan.named, *fleet.servers.faults) if not counts[name]]
        verdict.complain("faults that did not happen", missing)
        if verdict.answered < plan.at_least * plan.seconds:
            verdict.complain(
                "too little was tried",
                [f"{verdict.answered:,} calls were answered, and {plan.at_least * plan.seconds:,.0f} are wanted"],
            )
        return Result(verdict, counts, report(verdict, counts, took, plan.replay, fleet.servers.refused))


def main(about: str | None, make: Callable[[float, int], Plan], seconds: float) -> int:
    """The command: reads its arguments, runs the plan, prints the report; 1 if something was violated."""
    first, _, more = (about or "").partition("\n")
    parser = argparse.ArgumentParser(description=first, epilog=more.rsplit("\n\n", 1)[-1])
    parser.add_argument("--seconds", type=float, default=seconds, help="how long it blows (default: %(default)g)")
    parser.add_argument("--seed", type=int, default=None, help="chance; without one, a seed is chosen and printed")
    given = parser.parse_args()
    plan = make(given.seconds, random.SystemRandom().randrange(10**6) if given.seed is None else given.seed)
    return carry_out(plan)


def carry_out(plan: Plan) -> int:
    """Runs a plan and prints the report; returns 1 if something was violated."""
    print(f"seed {plan.seed}: {plan.replay}", flush=True)
    for number in (signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, _terminate)
    try:
        result = run(plan)
    except KeyboardInterrupt:
        return 130
    print(result.text)
    return 1 if result.verdict.count else 0


def _terminate(_number: int, _frame: Any) -> NoReturn:
    raise KeyboardInterrupt
