"""Everything at once: lost, torn, delayed and doubled requests and replies, kills, freezes, and forgotten scripts.

    python -m tests.faults.storm --seconds 120 --seed 7

Ends with 0 if nothing is lost or doubled, and no error was raised that docs/errors.md does not name.
"""

from __future__ import annotations

import sys

from ..support.storm.fleet import Crew
from ..support.storm.proxy import Weather
from ..support.storm.run import Plan, main

OPERATIONS = 50_000
"""Calls that are to be answered in two minutes."""


def plan(seconds: float, seed: int) -> Plan:
    """Returns a plan in which all faults happen all the time."""
    return Plan(
        "storm",
        seconds,
        seed,
        Weather(
            f"{seed}",
            twice=0.15,
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
        proxies=2,
        crews=(Crew("async", 3, 12, durable=True), Crew("sync", 2, 4)),
        happenings={
            "kill_worker": 4.0,
            "freeze_worker": 3.0,
            "flush_scripts": 1.5,
            "kill_clients": 2.0,
            "freeze_server": 10.0,
        },
        at_least=OPERATIONS / 120,
    )


if __name__ == "__main__":
    sys.exit(main(__doc__, plan, seconds=120.0))
