"""Everything at once, checked call by call (rows 1, 2, 5, 6, 9, 11, 19, 20, 24 and 25)."""

from __future__ import annotations

import dataclasses
import os

import pytest

from ..support.storm.run import run
from . import storm

SECONDS = float(os.environ.get("HISTSTORE_STORM_SECONDS", "15"))
SEED = int(os.environ.get("HISTSTORE_STORM_SEED", "7"))
FAULTS = (
    "lose request", "lose reply", "tear request", "tear reply", "hang", "hold", "copies of save, before",
    "workers killed", "workers frozen", "server frozen", "SCRIPT FLUSH", "CLIENT KILL",
)  # fmt: skip


@pytest.mark.long
def test_nothing_is_lost_or_doubled_in_a_storm() -> None:
    """Each error that is raised stands in the table of docs/errors.md, and means what it says there."""
    # How many calls that makes depends on the machine: it is counted where the command runs for its two minutes.
    plan = dataclasses.replace(storm.plan(SECONDS, SEED), at_least=0.0)
    # In so short a time each fault has to come sooner to come at all.
    sooner = min(1.0, SECONDS / 50)
    plan = dataclasses.replace(plan, happenings={what: every * sooner for what, every in plan.happenings.items()})
    result = run(plan)
    print(result.text)
    assert not result.verdict.count, result.text
    assert not [fault for fault in FAULTS if not result.counts[fault]], result.text
