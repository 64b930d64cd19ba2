"""Ids of parametrised tests are the same in every process, so that workers can share the tests."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from ..support.ids import stable

ROOT = Path(__file__).resolve().parents[2]


def start(seed: int) -> subprocess.Popen[str]:
    """Start collecting all tests with one hash seed."""
    command = [sys.executable, "-m", "pytest", "--collect-only", "-q", "-p", "no:cacheprovider", "tests"]
    environment = os.environ | {"PYTHONHASHSEED": str(seed), "PYTEST_ADDOPTS": ""}
    return subprocess.Popen(command, cwd=ROOT, env=environment, stdout=subprocess.PIPE, text=True)


@pytest.mark.slow
def test_two_processes_collect_the_same_ids() -> None:
    """An id must not hold a memory address, or the order of a set."""
    first, second = (
        [line for line in process.communicate(timeout=300)[0].splitlines() if "::" in line]
        for process in [start(1), start(2)]
    )
    assert len(first) > 1000
    assert [pair for pair in zip(first, second, strict=True) if pair[0] != pair[1]] == []


def test_a_stable_id_has_no_address_and_sorts_sets() -> None:
    assert stable(object()) == stable(object()) == "<object object>"
    assert stable({"a", "b", "c"}) == "{'a', 'b', 'c'}"
    assert stable(["x", 1]) == "['x', 1]"
