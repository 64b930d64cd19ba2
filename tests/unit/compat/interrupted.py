"""Calls that a signal's handler interrupts, and waiting for what they leave to threads."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Callable

from ...support.interrupts import TimeLimitError, Tripwire

GUARD = 20.0


def interrupted(call: Callable[[], object], after: int) -> bool:
    """Makes a call that is interrupted; returns whether it was."""
    tripwire = Tripwire(after)
    with tripwire.armed(), contextlib.suppress(TimeLimitError):
        tripwire.run(call)
    return tripwire.fired > 0


def until(condition: Callable[[], object], what: str) -> None:
    end = time.monotonic() + GUARD
    while not condition():
        assert time.monotonic() < end, what
        time.sleep(0.001)
