"""The garbage collector, kept out of large decodes.

What a load makes is all alive: every collection that its allocations trigger walks it and frees nothing.
"""

from __future__ import annotations

import functools
import gc
from collections.abc import Callable
from typing import ParamSpec, TypeVar

P = ParamSpec("P")
T = TypeVar("T")


def paused(work: Callable[P, T]) -> Callable[P, T]:
    """Holds automatic collections off while `work` runs; one of the young may follow.

    For synchronous work only: across an await others would go without a collector. It may be nested, and
    used in several threads: whoever leaves first lets the collector go on for all, which costs them time
    and nothing else, and what was disabled before it stays so.

    No context manager: a signal's handler may raise on the way into a Python `__exit__`, and collections would stay
    off. Between the end of a `try` and the call of C code in its `finally` nothing can be raised.
    """

    @functools.wraps(work)
    def run(*args: P.args, **kwargs: P.kwargs) -> T:
        enabled = gc.isenabled()
        try:
            gc.disable()
            return work(*args, **kwargs)
        finally:
            if enabled:
                gc.enable()

    return run
