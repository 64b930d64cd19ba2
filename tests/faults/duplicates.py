"""Sixteen writers behind proxies that deliver each request of each script up to three times, in any order.

    python -m tests.faults.duplicates --seconds 120 --seed 7

Ends with 0 if nothing is doubled or lost, and nobody was told an error, or "never", of a write that stands.
"""

from __future__ import annotations

import sys

from ..support.storm.fleet import Crew
from ..support.storm.proxy import Weather
from ..support.storm.run import Plan, main


def plan(seconds: float, seed: int) -> Plan:
    """Returns a plan with sixteen writers; nine of ten of their calls of scripts are delivered twice or three times."""
    return Plan(
        "duplicates",
        seconds,
        seed,
        Weather(f"{seed}", twice=0.9, thrice=0.5, late=3.0),
        proxies=2,
        crews=(Crew("async", 2, 5), Crew("sync", 2, 3)),
        happenings={},
    )


if __name__ == "__main__":
    sys.exit(main(__doc__, plan, seconds=120.0))
