"""What calls cost in bytes, round trips, commands and memory. `make costs` counts instructions, too, with valgrind."""

from __future__ import annotations

import sys
from collections.abc import Callable

import pytest

from ...support.servers import Server
from . import memory, wire
from .__main__ import PYTHON
from .budget import FILE, check, read

pytestmark = pytest.mark.slow


def test_calls_cost_what_the_budget_says_on_the_wire_and_on_the_server(
    private_server: Callable[..., Server],
) -> None:
    """Bytes, round trips and commands of saves, unchanged loads and a lock; the same at 10 and at 10,000."""
    counts, _ = wire.measure(private_server().url)
    lines = list(check(read(FILE.read_text()), counts, PYTHON))
    assert len(lines) == 5 * 2 * 5 * 2
    assert [str(line) for line in lines if not line.holds] == []


@pytest.mark.skipif(sys.implementation.name != "cpython", reason="it counts CPython's blocks of memory")
def test_calls_cost_what_the_budget_says_in_memory(private_server: Callable[..., Server]) -> None:
    """Memory kept, memory needed and cyclic garbage of the same calls; the same at 10 and at 10,000."""
    lines = list(check(read(FILE.read_text()), memory.measure(private_server().url), PYTHON))
    assert len(lines) == 3 * 2 * 5 * 2
    assert [str(line) for line in lines if not line.holds] == []
