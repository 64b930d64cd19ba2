"""The public calls of a store that read its run."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable
from typing import Generic, NoReturn

from ..arguments import check_limit
from ..attempt import Attempt
from ..errors import BackendError
from ..info import Page, RunInfo
from ..log.entry import Entry
from ..messages import M
from ..options import Options
from ..policy import RetryPolicy
from ..revision import Revision, RunId, brief
from ..snapshot import ConversationSnapshot
from ..values.text import quoted
from .reads import REVISIONS, Reads
from .run import Run
from .seats import Seat


class ReadableRun(Generic[M]):
    """The half of `RedisHistoryStore` that reads."""

    def __init__(self, here: Callable[[], Seat], options: Options, run_id: RunId) -> None:
        self._run = Run(here, options, run_id)
        self._known = self._run.known
        self._errors = self._run.errors
        self._reads = Reads(self._run)

    @property
    def run_id(self) -> RunId:
        """The run."""
        return self._run.where.run_id

    @property
    def revision(self) -> Revision | None:
        """The revision that this store last loaded, read or saved; None: none, or the run is absent."""
        return self._known.revision

    @property
    def unsettled(self) -> Attempt | None:
        """The write that was sent and has no answer yet; None if there is none."""
        return self._known.unsettled

    def __reduce__(self) -> NoReturn:
        raise BackendError(
            "a store cannot be pickled, because it remembers what this process has seen and sent: pickle the backend "
            "and the run id, and call backend.store(run_id) there"
        )

    def __repr__(self) -> str:
        return f"<RedisHistoryStore of run {quoted(self.run_id)} at {brief(self.revision)}>"

    async def load(
        self, *, at: int | Revision | None = None, retry: RetryPolicy | None = None
    ) -> ConversationSnapshot[M] | None:
        """Return the conversation; None if the run was never written to, or was deleted.

        Its messages are read-only, plain ones too; `copies()` returns mutable copies. While the run does not change,
        each load returns the same snapshot. Cancelling a load is harmless.

        Args:
            at: A version or a revision to load instead of the newest. This does not move `revision`.
            retry: The policy for this call.

        Raises:
            RevisionGoneError: The run does not have the revision `at` (any more).
            CorruptSnapshotError: The stored bytes differ from what was saved.
            UnsupportedVersionError: A newer version of the library wrote the run.
            BackendUnavailableError: The server could not be used within the deadline.
        """
        with self._errors:
            if at is not None:
                return await self._reads.at(at, self._run.policy(retry))
            return await self._reads.newest(self._run.policy(retry))

    async def read(
        self, start: int | None = None, stop: int | None = None, *, retry: RetryPolicy | None = None
    ) -> Page[M] | None:
        """Return some of the messages; None if the run is absent.

        A tail costs no more than the tail, and no page costs more than a load. Each entry that is read is proven to be
        what was saved; only `load` proves the whole chain.

        The page and its `length`, `meta` and `revision` show the run at one moment: that of the first reply. Later
        saves by rivals are not in it. If rivals trim entries that the page still needs, or delete the run, the page is
        read again, and shows a later moment. The policy's deadline bounds the whole call.

        Args:
            start: Index of the first message, as in a list slice.
            stop: Index after the last one, as in a list slice.
            retry: The policy for this call.

        Raises:
            CorruptSnapshotError: The stored bytes differ from what was saved.
            BackendUnavailableError: The page could not be read within the deadline.
        """
        with self._errors:
            return await self._reads.page(start, stop, self._run.policy(retry))

    async def info(self, *, retry: RetryPolicy | None = None) -> RunInfo | None:
        """Return what is known about the run, without messages; None if it is absent and nobody holds it.

        Raises:
            CorruptSnapshotError: The run's head is damaged.
        """
        with self._errors:
            return await self._reads.info(self._run.policy(retry))

    async def revisions(self, *, limit: int | None = None, retry: RetryPolicy | None = None) -> AsyncIterator[Revision]:
        """Yield the revisions that `load(at=)` reaches, newest first.

        Each step reads several revisions from the server. The policy's deadline bounds a step, however many requests
        it takes. Time that the caller spends between steps does not count.

        Args:
            limit: Maximum number of revisions; None: all.
            retry: The policy for each step.

        Raises:
            CorruptSnapshotError: An entry of the log is damaged.
            RevisionGoneError: Meanwhile the run was deleted, or trimmed past the last revision that was yielded.
            BackendUnavailableError: A step was not done within the deadline.
        """
        with self._errors:
            check_limit(limit)
            policy = self._run.policy(retry)
            left = limit
            after: Entry | None = None
            while left is None or left > 0:
                count = REVISIONS if left is None else min(left, REVISIONS)
                budget = self._run.budget("revisions", policy)
                found, oldest = await self._reads.revisions(after, count, budget)
                for entry in found:
                    if entry.checkpoint < oldest:
                        return
                    yield entry.revision()
                if len(found) < count:
                    return
                after = found[-1]
                left = None if left is None else left - len(found)
