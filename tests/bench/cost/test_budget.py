"""The budget's file, and what counts as over it."""

from __future__ import annotations

import copy
from typing import Any

import pytest

from .budget import FILE, METRICS, Budget, check, number, read, record, write
from .operations import LENGTHS, LONG, OPERATIONS, SHELLS, SHORT

CALLS = [(shell, operation, length) for shell in SHELLS for operation in OPERATIONS for length in LENGTHS]


@pytest.fixture
def counts() -> dict[str, dict[Any, float]]:
    return {metric.name: dict.fromkeys(CALLS, 100.0) for metric in METRICS}


@pytest.fixture
def budget(counts: dict[str, dict[Any, float]]) -> Budget:
    return record(Budget(), counts, "3.11")


def broken(budget: Budget, counts: Any, python: str = "3.11") -> list[tuple[str, str, int]]:
    return [(line.metric, line.name, line.length) for line in check(budget, counts, python) if not line.holds]


def test_what_was_recorded_is_within_the_budget(budget: Budget, counts: Any) -> None:
    """Every metric, shell, operation and length is checked, and none of them is over."""
    assert len(list(check(budget, counts, "3.11"))) == len(METRICS) * len(CALLS)
    assert broken(budget, counts) == []


@pytest.mark.parametrize("metric", METRICS, ids=lambda metric: metric.name)
@pytest.mark.parametrize("shell", SHELLS)
@pytest.mark.parametrize("operation", OPERATIONS)
def test_more_than_the_margin_is_over(budget: Budget, counts: Any, metric: Any, shell: str, operation: str) -> None:
    """A hair below recorded plus margin is within, a hair above is over, at either length."""
    limit = 100 * (1 + metric.margin / 100)
    for length in LENGTHS:
        counts[metric.name][shell, operation, length] = limit
    assert broken(budget, counts) == []
    for length in LENGTHS:
        counts[metric.name][shell, operation, length] = limit + 0.01
    assert broken(budget, counts) == [(metric.name, f"{shell} {operation}", SHORT)]


@pytest.mark.parametrize("metric", METRICS, ids=lambda metric: metric.name)
def test_what_grows_with_the_conversation_is_over(budget: Budget, counts: Any, metric: Any) -> None:
    """More than the growth above the short conversation's cost is over, also where the margin would bear it."""
    counts[metric.name]["async", "save", SHORT] = 50.0
    counts[metric.name]["async", "save", LONG] = 50.0 + metric.growth
    assert broken(budget, counts) == []
    counts[metric.name]["async", "save", LONG] += 0.01
    assert broken(budget, counts) == [(metric.name, "async save", LONG)]


def test_much_less_than_recorded_is_told(budget: Budget, counts: Any) -> None:
    """It is within the budget, and a budget that is to be recorded again."""
    assert not any(line.slack for line in check(budget, counts, "3.11"))
    for length in LENGTHS:
        counts["instructions"]["sync", "load", length] = 94.9
    slack = [line for line in check(budget, counts, "3.11") if line.slack]
    assert [(line.metric, line.name, line.length) for line in slack] == [("instructions", "sync load", SHORT)]
    assert broken(budget, counts) == []


def test_nothing_is_left_out_in_silence(budget: Budget, counts: Any) -> None:
    """A row that nobody counts any more is an error, as is a count without a row."""
    less = copy.deepcopy(counts)
    for length in LENGTHS:
        del less["commands"]["sync", "lock", length]
    with pytest.raises(LookupError, match="commands: sync lock"):
        broken(budget, less)
    more = copy.deepcopy(counts)
    for length in LENGTHS:
        more["peak"]["sync", "trim", length] = 1.0
    with pytest.raises(LookupError, match="peak: sync trim"):
        broken(budget, more)


def test_each_python_has_rows_of_its_own(budget: Budget, counts: Any) -> None:
    """Recording under one Python leaves the others' rows; one without rows takes those of the next older one."""
    dearer = copy.deepcopy(counts)
    dearer["instructions"] = dict.fromkeys(CALLS, 200.0)
    both = record(budget, dearer, "3.13")
    for python, chosen in {"3.10": "3.11", "3.11": "3.11", "3.12": "3.11", "3.13": "3.13", "3.14": "3.13"}.items():
        for metric in METRICS:
            assert both.rows(metric, python)[0] == (chosen if metric.by_python else "any")
        assert bool(broken(both, dearer, python)) == (chosen == "3.11")
    assert broken(budget, dearer, "3.13"), "the first budget has not changed"


def test_the_file_says_what_it_was_given(budget: Budget, counts: Any) -> None:
    """Written and read again it is the same, also with what somebody changed by hand."""
    budget.margin["instructions"], budget.growth["peak"] = 7.5, 123
    budget.recorded["instructions"]["3.11"]["sync save"] = 6.8418
    budget.recorded["bytes sent"]["any"]["async save"] = 1234567.5
    assert read(write(budget)) == budget
    again = read(write(record(read(write(budget)), counts, "3.12")))
    assert (again.margin, again.growth) == (budget.margin, budget.growth)


def test_each_line_of_the_file_says_its_unit() -> None:
    """The committed file is what the code would write, and every number in it has its unit beside it."""
    text = FILE.read_text()
    assert write(read(text)) == text
    units = {metric.unit for metric in METRICS} | {f"{metric.unit} a call" for metric in METRICS} | {"percent"}
    rows = [line for line in text.splitlines() if " = " in line and not line.startswith("#")]
    assert rows
    assert all(row.partition(" # ")[2] in units for row in rows)


@pytest.mark.parametrize(
    ("value", "text"), [(0, "0"), (1452.5, "1,452.5"), (6.8418, "6.8418"), (0.05, "0.05"), (71669.0, "71,669")]
)
def test_numbers(value: float, text: str) -> None:
    assert number(value) == text
