"""A proxy delivers each request of each script up to three times, in any order (rows 19, 20, 24 and 25)."""

from __future__ import annotations

import os

import pytest

from ..support.storm.run import run
from . import duplicates

SECONDS = float(os.environ.get("HISTSTORE_DUPLICATES_SECONDS", "12"))
SEED = int(os.environ.get("HISTSTORE_STORM_SEED", "7"))
SCRIPTS = ("save", "compare", "delete", "resolve", "acquire", "renew", "release")


@pytest.mark.long
def test_requests_that_are_delivered_three_times_in_any_order_count_once() -> None:
    """Under sixteen writers nothing is doubled, and nobody is told an error, or "never", of a write that stands."""
    result = run(duplicates.plan(SECONDS, SEED))
    print(result.text)
    assert not result.verdict.count, result.text
    for script in SCRIPTS:
        for when in ("before", "beside", "late"):
            assert result.counts[f"copies of {script}, {when}"], f"no copy of {script} came {when}\n{result.text}"
    assert result.counts["replies of copies given to clients"]
