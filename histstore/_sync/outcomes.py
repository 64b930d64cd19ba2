# Generated from histstore/_async/outcomes.py by tools/unasync.py; do not edit.
"""The outcome of a write: sending it, and settling it if its answer was lost. `known` describes a write's life."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Any

from ..attempt import Attempt
from ..errors import BackendError, HistoryStoreError, NotReplicatedError, OutcomeUnknownError, SnapshotError
from ..known import Write
from ..log.unreadable import BrokenChainError
from ..policy import RetryPolicy
from ..protocol import saves
from ..revision import Revision
from ..values.text import quoted
from .run import Run
from .transport.runner import Delivery


class Outcomes:
    """Sends writes of one run, and finds out what became of them.

    Args:
        run: The run.
    """

    __slots__ = ("_known", "_run")

    def __init__(self, run: Run) -> None:
        self._run = run
        self._known = run.known

    def deliver(self, write: Write, policy: RetryPolicy) -> tuple[Any, int | None]:
        """Send a write; return the reply, and the number of copies that confirmed it.

        The write stays pending until its outcome is recorded. If the call is cancelled after a byte was sent, the write
        is unsettled.

        Raises:
            OutcomeUnknownError: No answer came: the write is unsettled.
            BackendError: Nothing was written.
            BrokenChainError: Nothing was written, because a key of the run is of a foreign type.
        """
        known, delivery = self._known, Delivery()
        known.send(write)
        try:
            return self._run.here().runner.run(write.call, policy, delivery)
        except OutcomeUnknownError:
            raise
        except (BackendError, BrokenChainError):
            known.refuse(write)
            raise
        except BaseException:
            # A cancellation, or an error of a signal's handler. It says nothing about what was sent.
            known.interrupt(write, delivery.sent)
            raise

    def resolve(self, attempt: Attempt | None, policy: RetryPolicy) -> Revision | None:
        """Settle a write whose outcome is open: `attempt`, or None for this store's own.

        Returns:
            The revision that it made or deleted; None: it was not applied and never will be.
        """
        if attempt is not None and not isinstance(attempt, Attempt):
            raise SnapshotError("attempt= is an Attempt, or None (Attempt.parse reads one from text)")
        if attempt is not None and (attempt.namespace, attempt.run_id) != self._run.where.key:
            raise SnapshotError(
                f"the attempt is that of run {quoted(attempt.run_id)}: resolve it with that run's store"
            )
        known = self._known
        with self._run.exclusive(policy):
            known.disown(self._run.calls.pid)
            if known.pending is not None and attempt in (None, known.unsettled):
                return self.settle(policy, report=True)
            if attempt is None:
                return known.result
            revision, acked = self._ask_outcome(attempt, policy)
            if revision is not None:
                self.check_copies(revision, acked)
            return revision

    def settle(self, policy: RetryPolicy, *, report: bool = False) -> Revision | None:
        """Settle the pending write, if there is one.

        Args:
            policy: When the request is tried again.
            report: Whether the caller asks for the outcome. If so, `Durability` is checked; otherwise the write that
                comes next waits for the copies itself.
        """
        known = self._known
        known.disown(self._run.calls.pid)
        write = known.pending
        if write is None:
            return None
        attempt = write.call.attempt
        assert attempt is not None  # only what may have been written is pending
        revision, acked = self._ask_outcome(attempt, policy, write)
        known.settle(write, revision, report=report)
        if report and revision is not None:
            self.check_copies(revision, acked)
        return revision

    def _ask_outcome(
        self, attempt: Attempt, policy: RetryPolicy, write: Write | None = None
    ) -> tuple[Revision | None, int | None]:
        """Ask the server what became of an attempt; it will never be applied later.

        Returns:
            The revision that it made or deleted, None if it never will; and the number of copies that confirmed it.
        """
        reply, acked = self._run.send(saves.resolve(self._run.where, attempt), policy)
        try:
            revision = saves.read_resolve(self._run.where, attempt, reply, datetime.now(UTC), self._run.ttl_ms)
        except HistoryStoreError:
            if write is not None:
                self._known.refuse(write)  # there is no more to learn
            raise
        return revision, acked

    def check_copies(self, revision: Revision, acked: int | None) -> None:
        """Check that enough copies confirmed a write.

        Args:
            revision: What was written.
            acked: Number of copies that confirmed it; None: nobody waited for them.

        Raises:
            NotReplicatedError: Fewer did than `Durability` asks for.
        """
        wanted = self._run.options.durability.wanted
        if acked is not None and acked < wanted:
            raise NotReplicatedError(revision, acked, wanted)
