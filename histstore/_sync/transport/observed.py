# Generated from histstore/_async/transport/observed.py by tools/unasync.py; do not edit.
"""A runner that reports its calls to an observer. Without an observer the plain runner is used, which costs nothing."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any

from ...observe import Observer
from ...policy import Durability, RetryPolicy
from ...protocol.call import Call
from ...wire.observing import Observed
from ..compat import io
from .runner import Delivery, Runner
from .transport import Transport


def make_runner(
    transport: Transport, durability: Durability, namespace: str, *, observer: Observer | None,
    prepare: Callable[[], None] | None, warned: set[str],
) -> Runner:  # fmt: skip
    """Make a runner, which reports to the observer if there is one."""
    if observer is None:
        return Runner(transport, durability, namespace, prepare=prepare, warned=warned)
    return ObservedRunner(transport, durability, namespace, observer=observer, prepare=prepare, warned=warned)


class ObservedRunner(Runner):
    """A runner that reports each call, and each of its tries, to an observer."""

    def __init__(
        self, transport: Transport, durability: Durability, namespace: str, *, observer: Observer,
        prepare: Callable[[], None] | None, warned: set[str],
    ) -> None:  # fmt: skip
        super().__init__(transport, durability, namespace, prepare=prepare, warned=warned)
        self._observer = observer

    def _observe(self, call: Call, now: float) -> Observed:
        return Observed(self._observer, call, self.transport.address, now, self.warned)

    def run(
        self, call: Call, policy: RetryPolicy, delivery: Delivery | None = None, within: float = math.inf
    ) -> tuple[Any, int | None]:
        """Run a call as `Runner.run` does, and report it."""
        state = Delivery() if delivery is None else delivery
        observed = state.observed = self._observe(call, io.monotonic())
        try:
            reply, acked = super().run(call, policy, state, within)
        except BaseException as error:
            observed.finish(io.monotonic(), error=error)
            raise
        observed.finish(io.monotonic(), reply=reply)
        return reply, acked

    def _try(self, call: Call, state: Delivery, deadline: float, now: float) -> tuple[Any, int | None]:
        observed = state.observed
        observed.begin_try(now)
        try:
            reply, acked = super()._try(call, state, deadline, now)
        except BaseException as error:
            observed.end_try(io.monotonic(), error=error)
            raise
        observed.end_try(io.monotonic(), reply=reply)
        return reply, acked

    def run_batch(self, calls: Sequence[Call], timeout: float) -> list[Any]:
        """Run calls as `Runner.run_batch` does, and report each as a call with one try."""
        now = io.monotonic()
        batch = [self._observe(call, now) for call in calls]
        for observed in batch:
            observed.begin_try(now)
        try:
            replies = super().run_batch(calls, timeout)
        except BaseException as error:
            now = io.monotonic()
            for observed in batch:
                observed.end_try(now, error=error)
                observed.finish(now, error=error)
            raise
        now = io.monotonic()
        for observed, reply in zip(batch, replies, strict=True):
            refused = reply if isinstance(reply, Exception) else None
            observed.end_try(now, reply=reply, error=refused)
            observed.finish(now, reply=reply, error=refused)
        return replies
