"""Ids of parametrised tests are the same in every process, so that workers can share the tests."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from ..support.ids import stable

ROOT = Path(__file__).resolve().parents[2]


@pytest.mark.slow
def test_another_process_collects_the_same_ids(request: pytest.FixtureRequest) -> None:
    """An id must not hold a memory address, or the order of a set. Python gives each process another hash seed."""
    command = [sys.executable, "-m", "pytest", "--collect-only", "-q", "-p", "no:cacheprovider", "tests"]
    environment = {name: value for name, value in os.environ.items() if name != "PYTHONHASHSEED"}
    environment["PYTEST_ADDOPTS"] = ""
    output = subprocess.check_output(command, cwd=ROOT, env=environment, text=True, timeout=300)
    elsewhere = {line for line in output.splitlines() if "::" in line}
    assert len(elsewhere) > 1000
    assert {item.nodeid for item in request.session.items} <= elsewhere


def test_a_stable_id_has_no_address_and_sorts_sets() -> None:
    assert stable(object()) == stable(object()) == "<object object>"
    assert stable({"a", "b", "c"}) == "{'a', 'b', 'c'}"
    assert stable(["x", 1]) == "['x', 1]"
