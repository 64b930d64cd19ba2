"""One backend in 50 event loops in turn, 8 threads with loops, 4 forked children and a spawn pool, all at once.

    python -m tests.faults.loops --seconds 60 --seed 7

Ends with 0 if every message is there once, no reply was another run's, and nothing is left behind.
"""

from __future__ import annotations

import argparse
import sys

from ..support.everywhere import run
from ..support.servers import shared_server


def main() -> int:
    """Runs it, and says what came of it."""
    arguments = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    arguments.add_argument("--seconds", type=float, default=60.0)
    arguments.add_argument("--seed", type=int, default=7)
    given = arguments.parse_args()
    with shared_server() as (url, source):
        print(f"server: {source}; seed {given.seed}", flush=True)
        result = run(url, given.seconds, given.seed)
    print(result.text)
    return 1 if result.problems else 0


if __name__ == "__main__":
    sys.exit(main())
