"""The retry policy as tenacity runs it."""

from __future__ import annotations

import pytest
from tenacity import RetryCallState, Retrying

from histstore import RetryPolicy
from histstore.wire.retrying import RetryableError, tenacity_options


def pauses(policy: RetryPolicy, left: float | None = None) -> tuple[int, list[float]]:
    """Tries, and the pauses between them, of a call that always fails and has so many seconds left."""
    slept: list[float] = []
    tries = 0

    def fail() -> None:
        nonlocal tries
        tries += 1
        raise RetryableError(ValueError())

    with pytest.raises(RetryableError):
        Retrying(sleep=slept.append, **tenacity_options(policy, policy.deadline if left is None else left))(fail)
    return tries, slept


def test_the_policy_as_tenacity_runs_it() -> None:
    """So many tries in all; jittered pauses that may double up to the cap; none past the deadline."""
    runs = [pauses(RetryPolicy(attempts=8, base=0.5, cap=3.0, deadline=840)) for _ in range(200)]
    assert {tries for tries, _ in runs} == {8}
    for number in range(7):
        bound = min(3.0, 0.5 * 2**number)
        found = [slept[number] for _, slept in runs]
        assert all(0 <= pause <= bound for pause in found)
        assert max(found) > bound / 2 > min(found), "no jitter over the whole length"
    assert pauses(RetryPolicy(attempts=1)) == (1, [])
    tries, slept = pauses(RetryPolicy(attempts=50, base=10, cap=10, deadline=5.0), 1e-6)
    assert (tries, slept) == (1, [])


def test_what_is_not_retryable_is_not_tried_again() -> None:
    """Only failures that were found to be worth another try get one."""
    seen: list[RetryCallState] = []

    def fail() -> None:
        raise KeyError

    with pytest.raises(KeyError):
        Retrying(sleep=lambda _: None, after=seen.append, **tenacity_options(RetryPolicy(), 30.0))(fail)
    assert seen == []
