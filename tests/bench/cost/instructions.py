"""Instructions of the client's process, counted by callgrind. The server runs outside of it.

The process calls getppid(2), which nothing else does, where a count begins and where it ends, and callgrind writes down
what was counted so far whenever that function is entered. So one process, with one start-up, counts everything.
"""

from __future__ import annotations

import asyncio
import gc
import os
import re
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Final

from .operations import LENGTHS, OPERATIONS, SHELLS, Operation, repeat, runs, yardsticks

WARM_UP: Final = 20
"""Calls before the count: Python specialises code while it runs, and the server learns the scripts."""
COUNTED: Final = 40
SECONDS: Final = 300
INSTALL: Final = "apt-get install valgrind"
YARDSTICK: Final = "yardstick"

Key = tuple[str, str, int]
"""A shell, an operation and a length; for the yardstick the operation is its name and the length 0."""


class MissingError(Exception):
    """There is no valgrind on this machine."""


def keys() -> list[Key]:
    """Returns what is counted, in the order in which it is."""
    found = []
    for shell in SHELLS:
        found += [(shell, operation, length) for operation in OPERATIONS for length in LENGTHS]
        found.append((shell, YARDSTICK, 0))
    return found


def measure(url: str) -> dict[Key, float]:
    """Returns instructions a call, in yardsticks of the same shell; the yardsticks themselves in instructions.

    Raises:
        MissingError: valgrind is not installed.
    """
    dumps = profile([sys.executable, "-m", __spec__.name, url])
    expected = 1 + 2 * len(keys())
    if len(dumps) != expected:
        raise AssertionError(f"callgrind counted {len(dumps)} spans instead of {expected}")
    # Every other one is what lies between two counts.
    return in_yardsticks({key: total / COUNTED for key, total in zip(keys(), dumps[2::2], strict=True)})


def in_yardsticks(instructions: dict[Key, float]) -> dict[Key, float]:
    """Returns what each operation costs divided by its shell's yardstick, and the yardsticks as they are."""
    return {
        key: count if key[1] == YARDSTICK else count / instructions[key[0], YARDSTICK, 0]
        for key, count in instructions.items()
    }


def profile(command: Sequence[str]) -> list[int]:
    """Returns the instructions that `command` spends until its first mark, from there to its second one, and so on.

    Raises:
        MissingError: valgrind is not installed.
    """
    if shutil.which("valgrind") is None:
        raise MissingError(f"valgrind is missing: {INSTALL}")
    # Hashes of text decide where it stands in a table, and what a collision costs. PYTHONMALLOC must be Python's own.
    clean = {name: value for name, value in os.environ.items() if not name.startswith(("PYTHON", "VALGRIND"))}
    with tempfile.TemporaryDirectory(prefix="histstore-cost-") as folder:
        out = Path(folder) / "out"
        done = subprocess.run(
            ["valgrind", "-q", "--tool=callgrind", f"--callgrind-out-file={out}", "--dump-before=getppid", *command],
            env=clean | {"PYTHONHASHSEED": "0", "PYTHONPATH": os.pathsep.join(filter(None, sys.path))},
            capture_output=True,
            text=True,
            timeout=SECONDS,
            check=False,
        )
        if done.returncode != 0:
            raise AssertionError(f"it failed under valgrind:\n{done.stdout}{done.stderr}")
        count = len(list(Path(folder).glob("out.*")))
        return [read_total((Path(folder) / f"out.{number}").read_text()) for number in range(1, count + 1)]


def read_total(dump: str) -> int:
    """Returns how many instructions a file of callgrind's counts."""
    events = re.search(r"^events: Ir$", dump, re.MULTILINE)
    totals = re.search(r"^totals: (\d+)$", dump, re.MULTILINE)
    if events is None or totals is None:
        raise AssertionError("callgrind wrote no total of instructions")
    return int(totals[1])


# -------------------------------------------------------------------------- inside valgrind

mark = os.getppid


async def _count(operation: Operation) -> None:
    await repeat(operation, WARM_UP)
    # When a collection falls due depends on what was allocated before. What it has to do is counted in `memory`.
    gc.collect()
    gc.disable()
    mark()
    await repeat(operation, COUNTED)
    mark()
    gc.enable()


async def _count_all(url: str) -> None:
    mark()  # The first one is dearer than the others: the loader looks up what it calls.
    for shell in SHELLS:
        async with runs(shell, url) as made:
            for operation in OPERATIONS:
                for length in LENGTHS:
                    await _count(getattr(made[length], operation))
        async with yardsticks(shell, url) as yardstick:
            await _count(yardstick)


if __name__ == "__main__":
    asyncio.run(_count_all(sys.argv[1]))
