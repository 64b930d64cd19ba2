"""The retry policy as tenacity runs it."""

from __future__ import annotations

import itertools
from collections.abc import Callable

import pytest
import tenacity
from tenacity import RetryCallState, Retrying

from histstore import RetryPolicy
from histstore.wire.retrying import LEAST_PAUSE, LONGEST_PAUSE, RetryableError, tenacity_options

from ...support.ids import stable


def pauses(
    policy: RetryPolicy, left: float | None = None, passing: Callable[[int], bool] = lambda _try: False
) -> tuple[int, list[float]]:
    """Tries, and the pauses between them, of a call that always fails and has so many seconds left.

    Args:
        policy: The policy.
        left: Seconds until the call must have ended; None: the policy's deadline.
        passing: Whether a try, by its number, fails for a state of the server that passes.
    """
    slept: list[float] = []
    tries = 0

    def fail() -> None:
        nonlocal tries
        tries += 1
        raise RetryableError(ValueError(), passing=passing(tries))

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


class Clock:
    """Time that passes only while somebody sleeps, or where a test says so."""

    def __init__(self) -> None:
        self.now = 0.0

    def monotonic(self) -> float:
        return self.now

    def sleep(self, seconds: float) -> None:
        self.now += seconds


def outage(policy: RetryPolicy, monkeypatch: pytest.MonkeyPatch, lasts: float = 0.0001) -> list[float]:
    """Returns when each try of a call begins, during an outage that does not end."""
    clock = Clock()
    began: list[float] = []
    with monkeypatch.context() as patched:
        patched.setattr(tenacity, "time", clock)

        def fail() -> None:
            began.append(clock.now)
            assert len(began) < 1000, "a storm"
            clock.now += lasts
            raise RetryableError(ValueError(), passing=True)

        with pytest.raises(RetryableError):
            Retrying(sleep=clock.sleep, **tenacity_options(policy, policy.deadline))(fail)
    return began


def test_a_state_that_passes_is_waited_for_until_the_deadline(monkeypatch: pytest.MonkeyPatch) -> None:
    """Attempts do not end it, and no pause is long: the state may end at any moment."""
    for _ in range(10):
        began = outage(RetryPolicy(), monkeypatch)
        assert 29.0 < began[-1] <= 30.0
        later = [after - before for before, after in itertools.pairwise(began[8:])]
        assert max(later) <= LONGEST_PAUSE + 0.001
        assert len(began) < 200


@pytest.mark.parametrize("policy", [
    RetryPolicy(), RetryPolicy(base=0), RetryPolicy(cap=0), RetryPolicy(attempts=2, base=0.001, cap=0.002),
    RetryPolicy(attempts=20, deadline=3.0, base=0.001), RetryPolicy(deadline=0.05),
], ids=stable)  # fmt: skip
def test_an_outage_makes_no_storm(policy: RetryPolicy, monkeypatch: pytest.MonkeyPatch) -> None:
    """Beyond the attempts, ten tries a second at most, also just before the deadline."""
    most = round(1.0 / LEAST_PAUSE) + 2  # the last pause may be shorter
    for _ in range(10):
        began = outage(policy, monkeypatch)
        later = began[policy.attempts :]
        assert all(last - first >= 1.0 for first, last in zip(later, later[most:], strict=False))
        assert began[-1] <= policy.deadline


def test_only_other_failures_count_as_attempts() -> None:
    """However many tries met an outage between them."""
    quick = RetryPolicy(attempts=4, base=0.0, cap=0.0)
    assert pauses(quick, passing=lambda number: number % 5 != 0)[0] == 20
    assert pauses(quick, passing=lambda number: number > 3, left=0.0)[0] == 1


def test_one_attempt_is_one_try() -> None:
    """Also where the failure passes."""
    assert pauses(RetryPolicy(attempts=1), passing=lambda _try: True) == (1, [])


def test_what_is_not_retryable_is_not_tried_again() -> None:
    """Only failures that were found to be worth another try get one."""
    seen: list[RetryCallState] = []

    def fail() -> None:
        raise KeyError

    with pytest.raises(KeyError):
        Retrying(sleep=lambda _: None, after=seen.append, **tenacity_options(RetryPolicy(), 30.0))(fail)
    assert seen == []
