"""A holder outlives its lease without knowing (row 4): it is told, and the current holder does not notice."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import redis

from ..support.lease_workers import Worker
from .shells import entries

Crew = Callable[..., Worker]
TTL = 0.3


@pytest.mark.parametrize("how", ["lock", "turn"])
@pytest.mark.parametrize(("shell", "fault"), [("async", "frozen"), ("sync", "frozen"), ("async", "blocked")])
def test_the_save_of_a_holder_that_stood_still_is_refused_and_the_current_holders_is_not(
    shell: str, fault: str, how: str, worker: Crew, server_url: str, namespace: str, raw: redis.Redis
) -> None:
    """Twenty times a holder stands still past its lease and goes on while, or after, a rival takes its turn.

    Twenty times it gets LeaseLostError, from the save if nothing stopped its body before, and nothing of it is stored.
    """
    rivals = worker(shell, server_url, namespace=namespace)
    holders = [worker(shell, server_url, namespace=namespace) for _ in range(10)]
    outcomes = []
    for turn in range(2):
        runs = [f"{turn}-{index}" for index in range(10)]
        stale = [
            # Half of them are not cancelled when they wake up: only the save itself can tell them.
            holder.take(run, how=how, ttl=TTL, token="zombie", cancel=index % 2 == 0, blocks=fault == "blocked")
            for index, (run, holder) in enumerate(zip(runs, holders, strict=True))
        ]
        before = [holder.wait(job, "in").fence for job, holder in zip(stale, holders, strict=True)]
        if fault == "frozen":
            for holder in holders:
                holder.freeze()
        current = [rivals.take(run, how=how, token="rival") for run in runs]
        after = [rivals.wait(job, "in").fence for job in current]
        assert all(old < new for old, new in zip(before, after, strict=True))

        def go(indices: range, stale: list[str] = stale) -> None:
            for index in indices:
                holders[index].go(stale[index])
                holders[index].thaw()
            for index in indices:
                said = holders[index].wait(stale[index], "out")
                outcomes.append((said.saved, said.error))

        go(range(5))  # while the rival is in its turn
        for job in current:
            rivals.go(job)
        results = [rivals.wait(job, "out") for job in current]
        go(range(5, 10))  # after it
        assert [(said.saved, said.error) for said in results] == [("saved", None)] * 10
    assert [error for _, error in outcomes] == ["LeaseLostError"] * 20
    assert {saved for saved, _ in outcomes} <= {"LeaseLostError", "CancelledError", None}
    # None, CancelledError: the body was cancelled where it stood. Where that was switched off, the save was refused.
    assert sum(saved == "LeaseLostError" for saved, _ in outcomes) >= 10
    assert all(entries(raw, namespace, f"{turn}-{index}") == 1 for turn in range(2) for index in range(10))
