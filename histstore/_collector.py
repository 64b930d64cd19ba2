"""The garbage collector, kept out of large decodes.

What a load makes is all alive: every collection that its allocations trigger walks it and frees nothing.
"""

from __future__ import annotations

import gc


class Paused:
    """Holds automatic collections off while its body runs; one of the young may follow.

    For synchronous work only: across an await others would go without a collector. It may be nested, and
    used in several threads: whoever leaves first lets the collector go on for all, which costs them time
    and nothing else, and what was disabled before it stays so. What a signal's handler raises between two
    steps of this class may leave collections off.
    """

    __slots__ = ("_enabled",)

    def __enter__(self) -> None:
        self._enabled = gc.isenabled()
        gc.disable()

    def __exit__(self, *_error: object) -> None:
        if self._enabled:
            gc.enable()
