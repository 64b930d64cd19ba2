"""What operations leave behind in memory, and how much they need for a moment. In a process of its own."""

from __future__ import annotations

import asyncio
import gc
import json
import os
import subprocess
import sys
import tracemalloc
from typing import Final

from .operations import LENGTHS, OPERATIONS, SHELLS, Operation, repeat, runs

WARM_UP: Final = 20
COUNTED: Final = 400
PEAKS: Final = 40
SECONDS: Final = 120
METRICS: Final = ("kept blocks", "peak", "cyclic garbage")

Key = tuple[str, str, int]


def measure(url: str) -> dict[str, dict[Key, float]]:
    """Returns for each metric what a call costs, by shell, operation and length."""
    clean = {name: value for name, value in os.environ.items() if not name.startswith("PYTHON")}
    done = subprocess.run(
        [sys.executable, "-m", __spec__.name, url],
        env=clean | {"PYTHONHASHSEED": "0", "PYTHONPATH": os.pathsep.join(filter(None, sys.path))},
        capture_output=True,
        text=True,
        timeout=SECONDS,
        check=False,
    )
    if done.returncode != 0:
        raise AssertionError(f"it failed:\n{done.stdout}{done.stderr}")
    found: dict[str, dict[Key, float]] = {metric: {} for metric in METRICS}
    for shell, operation, length, values in json.loads(done.stdout):
        for metric, value in zip(METRICS, values, strict=True):
            found[metric][shell, operation, length] = value
    return found


# ------------------------------------------------------------------------- inside the process


async def _count(operation: Operation) -> tuple[float, int, int]:
    """Returns the memory blocks that a call keeps, the bytes that it needs at most, and the cyclic garbage it makes."""
    await repeat(operation, WARM_UP)
    gc.collect()
    gc.disable()
    before = sys.getallocatedblocks()
    await repeat(operation, COUNTED)
    garbage = gc.collect()
    kept = sys.getallocatedblocks() - before
    peaks = []
    tracemalloc.start()
    for _ in range(PEAKS):
        tracemalloc.reset_peak()
        before = tracemalloc.get_traced_memory()[0]
        await operation()
        peaks.append(tracemalloc.get_traced_memory()[1] - before)
    tracemalloc.stop()
    gc.enable()
    # The three highest are left out: a list of messages and one of pins that grow over their reserve move as wholes.
    # Halves of a block: a table that grows once in a while moves the average, and is no leak.
    return round(2 * kept / COUNTED) / 2, sorted(peaks)[-4], round(garbage / COUNTED)


async def _count_all(url: str) -> list[tuple[str, str, int, tuple[float, int, int]]]:
    found = []
    for shell in SHELLS:
        async with runs(shell, url) as made:
            for operation in OPERATIONS:
                for length in LENGTHS:
                    found.append((shell, operation, length, await _count(getattr(made[length], operation))))
    return found


if __name__ == "__main__":
    json.dump(asyncio.run(_count_all(sys.argv[1])), sys.stdout)
