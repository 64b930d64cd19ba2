"""One backend of each shell everywhere at once (row 16)."""

from __future__ import annotations

import os
import subprocess
import sys

import pytest

SECONDS = os.environ.get("HISTSTORE_LOOPS_SECONDS", "5")
SEED = os.environ.get("HISTSTORE_STORM_SEED", "7")


@pytest.mark.long
def test_one_backend_everywhere_at_once(server_url: str) -> None:
    """50 loops in turn, 8 threads with loops, 4 forked children, a spawn pool: every message once, nothing left.

    In a process of its own: it forks while threads run, which pytest's own threads and captured files are not made for.
    """
    command = [sys.executable, "-W", "error", "-m", "tests.faults.loops", "--seconds", SECONDS, "--seed", SEED]
    done = subprocess.run(
        command, env=os.environ | {"HISTSTORE_TEST_REDIS_URL": server_url}, capture_output=True, text=True, timeout=300
    )
    print(done.stdout[-5000:], done.stderr[-5000:])
    assert done.returncode == 0
    assert "every message once" in done.stdout
    assert not done.stderr.strip(), "no warning, no exception that was ignored"
