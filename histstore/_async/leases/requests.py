"""Requests about leases, sent with a time limit: a request that takes longer than its lease lives is of no use."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from typing import Any, Final

from redis import exceptions as redis_errors

from ...errors import HistoryStoreError
from ...log.unreadable import BrokenChainError
from ...policy import RetryPolicy
from ...protocol.call import Call
from ...protocol.run import RunRef
from ..transport.runner import Delivery, Runner

PATIENCE: Final = 1.0
"""Seconds for which a request about a lease is tried at least, however little time the lease has left."""

log = logging.getLogger("histstore")


class LeaseRequests:
    """Sends requests about leases.

    Args:
        runner: Sends calls.
        policy: When a request is tried again, if its caller does not say.

    Attributes:
        runner: The same runner.
        policy: The same policy.
    """

    def __init__(self, runner: Runner, policy: RetryPolicy) -> None:
        self.runner = runner
        self.policy = policy

    async def send(
        self, where: RunRef, call: Call, within: float, delivery: Delivery, policy: RetryPolicy | None = None
    ) -> Any:
        """Return the reply to a request.

        Args:
            where: The run.
            call: The request.
            within: Seconds for which the request is of use. It is tried for at least `PATIENCE` seconds.
            delivery: Records whether the request was sent.
            policy: When it is tried again; None: as always.
        """
        policy = self.policy if policy is None else policy
        try:
            reply, _ = await self.runner.run(call, policy, delivery, max(within, PATIENCE))
        except BrokenChainError as error:
            raise where.corrupt(error.version, error.reason) from error
        return reply

    async def send_releases(self, calls: Sequence[Call]) -> None:
        """Send requests that release leases without their holders. Does not raise."""
        try:
            await self.runner.run_batch(calls, 2 * PATIENCE)
        except (redis_errors.RedisError, OSError, HistoryStoreError) as error:
            log.warning("%d leases were not given up, and lapse: %s", len(calls), error)
