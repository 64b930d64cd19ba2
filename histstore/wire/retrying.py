"""How tenacity is configured: which failures are tried again, and how long the pauses are."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any, Final

import redis.exceptions as redis_errors
from tenacity import retry_if_exception_type
from tenacity.wait import wait_random_exponential

from ..policy import RetryPolicy

LEAST_PAUSE: Final = 0.1
"""Shortest pause in seconds once a call has made as many tries as its policy has attempts.

The later tries are those that only the deadline bounds. Without this, a policy with a small `cap` would make thousands
of tries during an outage. So would any policy just before its deadline, because pauses shrink there.
"""


LONGEST_PAUSE: Final = 0.5
"""Longest pause in seconds after a passing fault, which a failover for example ends at any moment.

With the pauses of `RetryPolicy.cap`, calls would go on some seconds after the promotion of another server.
"""


class RetryableError(Exception):
    """Carry a failure that may be tried again through tenacity.

    Attributes:
        cause: The failure.
        passing: Whether only the deadline bounds such tries, as `Fault.passing` says.
    """

    def __init__(self, cause: Exception, *, passing: bool = False) -> None:
        self.cause = cause
        self.passing = passing
        super().__init__(str(cause))


class _Tries:
    """The tries of one call, as tenacity's hooks see them.

    Args:
        policy: The policy.
        left: Seconds until the call must have ended.
    """

    def __init__(self, policy: RetryPolicy, left: float) -> None:
        self._attempts = policy.attempts
        self._left = left
        self._counted = 0
        self._jitter = wait_random_exponential(multiplier=policy.base, max=policy.cap)

    def stop(self, state: Any) -> bool:
        """Count a try that has failed, unless its fault is passing. Return whether no other try may follow.

        Tenacity calls this once for each try that failed.
        """
        self._counted += not state.outcome.exception().passing
        left = self._left - state.seconds_since_start
        # With one attempt there is no retry, whatever the fault is.
        return self._attempts == 1 or self._counted >= self._attempts or left <= self._least(state)

    def wait(self, state: Any) -> float:
        """Return the seconds until the next try."""
        # A pause takes at most half of the time left, so that a try follows it.
        half = max(0.0, self._left - state.seconds_since_start) / 2
        longest = LONGEST_PAUSE if state.outcome.exception().passing else math.inf
        return float(min(max(min(self._jitter(state), longest), self._least(state)), half))

    def _least(self, state: Any) -> float:
        return LEAST_PAUSE if state.attempt_number >= self._attempts else 0.0


def tenacity_options(policy: RetryPolicy, left: float) -> dict[str, Any]:
    """Return tenacity's options for the tries after a first one that failed.

    Args:
        policy: The policy.
        left: Seconds until the call must have ended.
    """
    tries = _Tries(policy, max(0.0, left))
    return {
        "stop": tries.stop,
        "wait": tries.wait,
        "retry": retry_if_exception_type(RetryableError),
        "reraise": True,
    }


def listening_options(stop: Callable[[], bool]) -> dict[str, Any]:
    """Return tenacity's options for connecting the doorbell: it retries until `stop` returns True."""
    return {
        "stop": lambda _state: stop(),
        "wait": wait_random_exponential(multiplier=0.05, max=2.0),
        "retry": retry_if_exception_type((redis_errors.RedisError, OSError)),
        "reraise": True,
    }
