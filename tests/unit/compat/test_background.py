"""The blocking twin's work in the background, interrupted by a signal's handler at each of its bytecodes."""

from __future__ import annotations

import functools
import itertools
import threading
import time

import pytest

from histstore._sync.compat.background import Alarm, Background, Routine

from .interrupted import GUARD, interrupted, until


def test_an_alarm_that_is_set_after_an_interruption_goes_off() -> None:
    """Also if it had been set for sooner, and nobody was there to hear of it."""
    for after in itertools.count(1):
        rung = threading.Event()
        alarm = Alarm(lambda rung=rung: rung.set(), "histstore-test-alarm", ())  # type: ignore[misc]
        now = time.monotonic()
        fired = interrupted(lambda alarm=alarm, now=now: alarm.set(now + 0.001), after)
        alarm.set(now + 0.002)
        assert rung.wait(GUARD)
        alarm.close()
        if not fired:
            return


def test_an_alarm_is_closed_also_if_its_work_is_under_way() -> None:
    """`close` waits for the work, unless the work itself closes it; none is done after it."""
    begun, go_on = threading.Event(), threading.Event()
    done = []

    def work() -> float:
        begun.set()
        go_on.wait(GUARD)
        done.append(1)
        return 0.0

    alarm = Alarm(work, "histstore-test-alarm", ())
    alarm.set(0.0)
    assert begun.wait(GUARD)
    closing = threading.Thread(target=alarm.close)
    closing.start()
    assert not done
    go_on.set()
    closing.join(GUARD)
    assert not closing.is_alive()
    assert done == [1]
    alarm.set(0.0)
    itself = Alarm(lambda: itself.close(), "histstore-test-alarm", ())  # type: ignore[func-returns-value]
    itself.set(0.0)
    until(lambda: itself._closed and not itself._running.locked(), "it ends")
    assert done == [1]


class Work:
    """Work that goes on until it is told to end, and counts how often it is done at once."""

    def __init__(self) -> None:
        self.inside = self.most = self.runs = 0
        self.over = threading.Event()

    def __call__(self) -> None:
        self.inside += 1
        self.runs += 1
        self.most = max(self.most, self.inside)
        self.over.wait(GUARD)
        self.inside -= 1

    @property
    def ended(self) -> bool:
        return self.runs > 0 and self.inside == 0


def test_a_routine_runs_once_at_a_time() -> None:
    """Started by a call that is interrupted, or twice: never two at once, and never none."""
    for after in itertools.count(1):
        work = Work()
        routine = Routine(work, "histstore-test-routine")
        fired = interrupted(routine.start, after)
        routine.start()
        time.sleep(0.002)  # for the other one
        work.over.set()
        until(functools.partial(getattr, work, "ended"), "it ran")
        routine.end(None)
        assert work.most == 1
        if not fired:
            return


def test_work_in_the_background_is_waited_for() -> None:
    """`end` waits for what is under way, but not for itself."""
    background, done = Background("histstore-test-background"), []
    begun = threading.Event()

    def work() -> None:
        begun.set()
        time.sleep(0.02)
        background.end()
        done.append(1)

    background.start(work)
    assert begun.wait(GUARD)
    background.end()
    assert done == [1]


@pytest.fixture(autouse=True)
def nothing_left() -> object:
    """No thread outlives a test."""
    yield
    until(lambda: not any(thread.name.startswith("histstore-test") for thread in threading.enumerate()), "threads end")
