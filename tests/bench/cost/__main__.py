"""Counts what operations cost, on a server of its own, and holds it against the budget.

    python -m tests.bench.cost              everything; half a minute
    python -m tests.bench.cost --quick      without the instructions, which need valgrind; seconds
    python -m tests.bench.cost --record     writes what it finds into the budget, for this minor version of Python

Exit status: 0 within the budget, 1 something costs more, 2 valgrind is missing.
"""

from __future__ import annotations

import argparse
import sys

from ...support.servers import server
from . import instructions, memory, wire
from .budget import FILE, Budget, Counts, check, number, read, record, write

PYTHON = f"{sys.version_info.major}.{sys.version_info.minor}"


def count(*, quick: bool) -> tuple[Counts, list[str]]:
    """Returns all counts, and what else is worth a line.

    Raises:
        MissingError: valgrind is not installed.
    """
    with server() as running:
        counts, commands = wire.measure(running.url)
        said = [
            f"commands, {' '.join(map(str, key))}: "
            + ", ".join(f"{name} {number(calls / wire.COUNTED)}" for name, calls in sorted(spent.items()))
            for key, spent in commands.items()
        ]
        counts |= memory.measure(running.url)
        if not quick:
            found = instructions.measure(running.url)
            for shell, operation, length in list(found):
                if operation == instructions.YARDSTICK:
                    value = found.pop((shell, operation, length))
                    said.append(f"instructions, {shell} plain SET: {value:,.0f}")
            counts["instructions"] = found
    return counts, said


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m tests.bench.cost", description=__doc__.partition("\n")[0])
    how = parser.add_mutually_exclusive_group()
    how.add_argument("--quick", action="store_true", help="leave the instructions out, which need valgrind")
    how.add_argument("--record", action="store_true", help="write what is found into the budget")
    arguments = parser.parse_args()
    try:
        counts, said = count(quick=arguments.quick)
    except instructions.MissingError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    budget = read(FILE.read_text()) if FILE.exists() else Budget()
    if arguments.record:
        budget = record(budget, counts, PYTHON)
        FILE.write_text(write(budget))
    print(*said, sep="\n")
    try:
        lines = list(check(budget, counts, PYTHON))
    except LookupError as error:
        print(f"error: {error.args[0]}", file=sys.stderr)
        return 1
    print(*lines, sep="\n")
    broken = [line for line in lines if not line.holds]
    for line in broken:
        print(f"OVER BUDGET: {line}")
    if any(line.slack for line in lines):
        print("some cost less than recorded: `python -m tests.bench.cost --record`, lest they creep back")
    print(f"{len(lines) - len(broken)} of {len(lines)} counts are within the budget for Python {PYTHON}")
    return 1 if broken else 0


if __name__ == "__main__":
    sys.exit(main())
