"""The budget: what was recorded, what may be added to it, and how counts are held against both. No I/O."""

from __future__ import annotations

import json
import tomllib
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

from .operations import LONG, OPERATIONS, SHELLS, SHORT

FILE: Final = Path(__file__).parent.parent / "budget.toml"

Counts = Mapping[str, Mapping[tuple[str, str, int], float]]
"""For each metric what a call costs, by shell, operation and length."""


@dataclass(frozen=True)
class Metric:
    """Something that is counted.

    Attributes:
        name: Its name in the budget.
        unit: Its unit.
        meaning: What it is.
        margin: Percent that a count may be above what was recorded, in a new budget.
        growth: Units that a call may cost more on a long conversation than on a short one, in a new budget.
        by_python: Whether it differs by Python's minor version.
    """

    name: str
    unit: str
    meaning: str
    margin: float
    growth: float
    by_python: bool = False


METRICS: Final = (
    Metric("bytes sent", "bytes", "what the client sends, but for host and process in a holder's name", 1, 8),
    Metric("bytes received", "bytes", "what the server sends, but for the same", 1, 8),
    Metric("round trips", "round trips", "how often the client waits for the server", 0, 0),
    Metric("script calls", "script calls", "scripts that the server runs", 0, 0),
    Metric("commands", "commands", "all other commands that the server runs, also inside scripts", 0, 0),
    Metric("instructions", "SETs", "instructions of the client's process, a plain SET's being 1", 5, 0.05, True),
    Metric("kept blocks", "blocks", "blocks of memory that Python has allocated and not freed afterwards", 10, 1, True),
    Metric("peak", "bytes", "memory needed for a moment; most of it is the buffer for a reply", 3, 2000, True),
    Metric("cyclic garbage", "objects", "objects that only the garbage collector frees", 0, 0, True),
)
NAMES: Final = tuple(f"{shell} {operation}" for shell in SHELLS for operation in OPERATIONS)

HEAD: Final = """\
# What a save of a turn, an unchanged load and an uncontended lock may cost; `make costs` holds the code against it.
# "save_dict" and "load_dict" are the same calls with plain messages instead of typed ones.
# All counts are of one call. "recorded" was measured by `python -m tests.bench.cost --record`, which replaces what is
# measured and keeps what somebody chose: margin and growth. Metrics that differ by Python are recorded by each minor
# version for itself: say it with every Python, or the rows of the others stay what they were.
"""


@dataclass
class Budget:
    """What is in the file.

    Attributes:
        margin: Percent by metric.
        growth: Units by metric.
        recorded: What was measured at the short length, by metric, Python ("any" where it is the same), and name.
    """

    margin: dict[str, float] = field(default_factory=dict)
    growth: dict[str, float] = field(default_factory=dict)
    recorded: dict[str, dict[str, dict[str, float]]] = field(default_factory=dict)

    def rows(self, metric: Metric, python: str) -> tuple[str, dict[str, float]]:
        """Returns the Python whose rows count for `python`, and them: its own, else those of the one next before it."""
        found = self.recorded.get(metric.name, {})
        if not metric.by_python:
            return "any", found.get("any", {})
        known = sorted(found, key=_minor)
        chosen = next(
            (each for each in reversed(known) if _minor(each) <= _minor(python)), known[0] if known else python
        )
        return chosen, found.get(chosen, {})


@dataclass(frozen=True)
class Line:
    """One count against its limit."""

    metric: str
    name: str
    length: int
    value: float
    least: float
    limit: float
    why: str

    @property
    def holds(self) -> bool:
        return self.value <= self.limit

    @property
    def slack(self) -> bool:
        """Whether it costs so much less than was recorded that the budget would let a regression pass."""
        return self.value < self.least

    def __str__(self) -> str:
        unit = next(metric.unit for metric in METRICS if metric.name == self.metric)
        where = f"{self.metric}, {self.name} at {self.length:,}"
        return f"{where}: {number(self.value)} {unit}, at most {number(self.limit)} ({self.why})"


def check(budget: Budget, counts: Counts, python: str) -> Iterator[Line]:
    """Holds every count against the budget.

    Raises:
        LookupError: The budget lacks a row for something that was counted, or nobody counted what it has a row for.
    """
    for metric in METRICS:
        if metric.name not in counts:
            continue
        found = counts[metric.name]
        margin, growth = budget.margin[metric.name], budget.growth[metric.name]
        _, rows = budget.rows(metric, python)
        measured = {f"{shell} {operation}" for shell, operation, _ in found}
        if measured != set(rows):
            odd = ", ".join(sorted(measured ^ set(rows)))
            raise LookupError(f"{metric.name}: {odd} is not both counted and in the budget: record it")
        for name, recorded in rows.items():
            shell, operation = name.split(" ")
            short, long = found[shell, operation, SHORT], found[shell, operation, LONG]
            why = f"{number(recorded)} were recorded, {number(margin)} % more may be"
            most, least = recorded * (1 + margin / 100), recorded * (1 - margin / 100)
            yield Line(metric.name, name, SHORT, short, least, most, why)
            why = f"{number(short)} at {SHORT}, {number(growth)} more may be"
            yield Line(metric.name, name, LONG, long, 0, short + growth, why)


def record(budget: Budget, counts: Counts, python: str) -> Budget:
    """Returns the budget with `counts` in place of what `python` had recorded."""
    new = Budget(dict(budget.margin), dict(budget.growth), {name: dict(rows) for name, rows in budget.recorded.items()})
    for metric in METRICS:
        new.margin.setdefault(metric.name, metric.margin)
        new.growth.setdefault(metric.name, metric.growth)
        rows = {
            f"{shell} {operation}": float(f"{value:.4g}") if metric.name == "instructions" else value
            for (shell, operation, length), value in counts[metric.name].items()
            if length == SHORT
        }
        new.recorded.setdefault(metric.name, {})[python if metric.by_python else "any"] = rows
    return new


def read(text: str) -> Budget:
    data: dict[str, Any] = tomllib.loads(text)
    return Budget(data["margin"], data["growth"], data["recorded"])


def write(budget: Budget) -> str:
    """Returns the text of the file; each line says what it is, and its unit."""
    lines = [HEAD]
    lines.append("[margin] # percent by which a call may cost more than was recorded")
    lines += [_row(metric.name, budget.margin[metric.name], "percent") for metric in METRICS]
    lines.append(f"\n[growth] # by how much a call may cost more at {LONG:,} messages than at {SHORT}")
    lines += [_row(metric.name, budget.growth[metric.name], metric.unit) for metric in METRICS]
    for metric in METRICS:
        lines.append(f"\n# {metric.name}: {metric.meaning}")
        for python in sorted(budget.recorded[metric.name], key=_minor):
            lines.append(f"[recorded.{json.dumps(metric.name)}.{json.dumps(python)}]")
            rows = budget.recorded[metric.name][python]
            lines += [_row(name, rows[name], f"{metric.unit} a call") for name in NAMES]
    return "\n".join(lines) + "\n"


def _row(name: str, value: float, unit: str) -> str:
    exact = f"{value:.0f}" if value == int(value) else repr(value)
    return f"{json.dumps(name):17} = {exact:>8} # {unit}"


def number(value: float) -> str:
    """Returns a number without the digits that say nothing."""
    return f"{value:,.0f}" if value == int(value) or value >= 10_000 else f"{value:,.5g}"


def _minor(python: str) -> tuple[int, ...]:
    return tuple(int(part) for part in python.split(".")) if python != "any" else ()
