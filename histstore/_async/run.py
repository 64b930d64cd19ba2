"""One run as its store reaches it: options, the lock of its calls, and how a request is sent."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from ..errors import BackendUnavailableError
from ..known import Known
from ..options import Options
from ..policy import Budget, RetryPolicy, policy_of
from ..protocol.call import Call
from ..protocol.keys import run_keys
from ..protocol.reads import Loaded, read_loaded
from ..protocol.run import RunRef
from ..protocol.run_errors import RunErrors
from ..revision import RunId
from .call_lock import CallLock
from .compat import io
from .seats import Seat


class Run:
    """What reads, writes and turns of one store have in common.

    Args:
        here: Returns the seat of this process and event loop.
        options: The backend's options.
        run_id: The run's id.

    Attributes:
        here: As above.
        options: As above.
        where: The run: its names and keys.
        ttl_ms: Lifetime of the run after a save, in milliseconds; None: unlimited.
        known: What the store remembers of the run.
        errors: Context manager that makes errors name the run.
        calls: The lock that serialises the store's calls.
    """

    __slots__ = ("calls", "errors", "here", "known", "options", "ttl_ms", "where")

    def __init__(self, here: Callable[[], Seat], options: Options, run_id: RunId) -> None:
        self.here = here
        self.options = options
        self.where = where = RunRef(options.namespace, run_id, run_keys(options.namespace, run_id))
        self.ttl_ms = options.ttl_ms
        self.known = Known(where)
        self.errors = RunErrors(where)
        self.calls = CallLock()

    def exclusive(self, policy: RetryPolicy) -> io.Held:
        """Return a context manager that holds the lock of the store's calls.

        It checks first that the backend can be used here: a call in a wrong place fails at once, and does not wait.

        Raises:
            BackendError: The backend is closed, or no event loop runs here.
            BackendUnavailableError: On entry: another call held the lock until the deadline.
        """
        calls, pid = self.calls, self.here().pid
        lock = calls.lock if calls.pid == pid else calls.of(pid)
        text = "another call of this store was under way until the deadline; nothing was written"
        return io.Held(lock, policy.deadline, BackendUnavailableError, text)

    def policy(self, retry: RetryPolicy | None) -> RetryPolicy:
        """Return the policy of a call: its own, or else the backend's.

        Raises:
            SnapshotError: `retry` is no policy.
        """
        return self.options.retry if retry is None else policy_of(retry, self.options.retry)

    def budget(self, name: str, policy: RetryPolicy) -> Budget:
        """Start to count the time of a call that sends several reads."""
        return Budget(policy, name, io.monotonic)

    async def send(self, call: Call, policy: RetryPolicy) -> tuple[Any, int | None]:
        """Send a call; return the reply, and for a durable write the number of copies that confirmed it."""
        return await self.here().runner.run(call, policy)

    async def read(self, call: Call, policy: RetryPolicy) -> Loaded:
        """Send a read of the run's head and log."""
        reply, _ = await self.here().runner.run(call, policy)
        return read_loaded(reply)

    async def read_within(self, budget: Budget, call: Call) -> Loaded:
        """Send one of the reads that share a time budget."""
        reply, _ = await self.here().runner.run(call, budget.policy, None, budget.left())
        return read_loaded(reply)
