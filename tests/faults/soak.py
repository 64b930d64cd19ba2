"""A topology under load, while its servers and its clients are killed, frozen and cut off, and slots move.

    python -m tests.faults.soak --topology sentinel --minutes 10 --seed 7

16 writers and 16 lockers, each a process of its own, behind proxies that lose, tear, delay and double. Ends with 0 if
each acknowledged write is in the log once or its loss can be noticed, and each kind of fault has happened.
"""

from __future__ import annotations

import argparse
import random
import sys

from ..support.storm.fleet import Crew
from ..support.storm.proxy import Weather
from ..support.storm.replicated import TOPOLOGIES
from ..support.storm.run import Plan, carry_out

PACE = 0.02
"""Seconds between two calls of a worker, on average: servers that get no time to answer would be called dead."""

NAMED = (
    "lose request", "lose reply", "tear request", "tear reply", "hang", "hold", "copies of save, before",
    "copies of save, late", "workers killed", "workers frozen", "SCRIPT FLUSH", "CLIENT KILL",
)  # fmt: skip
"""Faults that have to happen, besides those of the servers."""


def plan(topology: str, seconds: float, seed: int) -> Plan:
    """Returns a plan for a topology. Half of the writers wait for all replicas, if there are any."""
    copies = TOPOLOGIES[topology].copies
    return Plan(
        "soak",
        seconds,
        seed,
        Weather(
            f"{seed}",
            twice=0.1,
            thrice=0.3,
            late=3.0,
            lose_request=0.002,
            lose_reply=0.002,
            tear_request=0.001,
            tear_reply=0.001,
            hang=0.0005,
            hold=0.02,
            held=0.1,
        ),
        proxies=1,
        crews=tuple(
            crew
            for shell in ("async", "sync")
            for crew in (
                Crew(shell, 4, 1, role="writer"),
                Crew(shell, 4, 1, role="writer", copies=copies),
                Crew(shell, 8, 1, role="locker"),
            )
        ),
        happenings={"kill_worker": 4.0, "freeze_worker": 3.0, "flush_scripts": 5.0, "kill_clients": 5.0},
        topology=TOPOLOGIES[topology],
        pace=PACE,
        named=NAMED,
        command=f"make soak MINUTES={seconds / 60:g} TOPOLOGY={topology} SEED={seed}",
    )


def main() -> int:
    """The command."""
    first, _, more = (__doc__ or "").partition("\n")
    parser = argparse.ArgumentParser(description=first, epilog=more.rsplit("\n\n", 1)[-1])
    parser.add_argument("--topology", choices=sorted(TOPOLOGIES), default="single")
    parser.add_argument("--minutes", type=float, default=10.0, help="how long it lasts (default: %(default)g)")
    parser.add_argument("--seed", type=int, default=None, help="chance; without one, a seed is chosen and printed")
    given = parser.parse_args()
    seed = random.SystemRandom().randrange(10**6) if given.seed is None else given.seed
    return carry_out(plan(given.topology, given.minutes * 60, seed))


if __name__ == "__main__":
    sys.exit(main())
