"""How tenacity is configured: which failures are tried again, and how long the pauses are."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import redis.exceptions as redis_errors
from tenacity import retry_if_exception_type, stop_after_attempt, stop_after_delay
from tenacity.wait import wait_random_exponential

from ..policy import RetryPolicy


class RetryableError(Exception):
    """Carry a failure that may be tried again through tenacity."""

    def __init__(self, cause: Exception) -> None:
        self.cause = cause
        super().__init__(str(cause))


def tenacity_options(policy: RetryPolicy, left: float) -> dict[str, Any]:
    """Return tenacity's options for the tries after a first one that failed.

    Args:
        policy: The policy.
        left: Seconds until the call must have ended.
    """
    left = max(0.0, left)
    jitter = wait_random_exponential(multiplier=policy.base, max=policy.cap)

    def wait(state: Any) -> float:
        # A pause takes at most half of the time left, so that a try follows it.
        return float(min(jitter(state), max(0.0, left - state.seconds_since_start) / 2))

    return {
        "stop": stop_after_attempt(policy.attempts) | stop_after_delay(left),
        "wait": wait,
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
