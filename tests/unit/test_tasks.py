"""The blocking twin's events, alarms and routines, interrupted by a signal's handler at each of their bytecodes."""

from __future__ import annotations

import contextlib
import functools
import itertools
import threading
import time
from collections.abc import Callable

import pytest

from histstore._sync.compat.tasks import Alarm, Aside, Event, Routine, Strays

from ..support.interrupts import TimeLimitError, Tripwire

GUARD = 20.0


def interrupted(call: Callable[[], object], after: int) -> bool:
    """Makes a call that is interrupted; returns whether it was."""
    tripwire = Tripwire(after)
    with tripwire.armed(), contextlib.suppress(TimeLimitError):
        tripwire.run(call)
    return tripwire.fired > 0


def no_strays() -> Strays:
    return Strays(lambda: None)


def until(condition: Callable[[], object], what: str) -> None:
    end = time.monotonic() + GUARD
    while not condition():
        assert time.monotonic() < end, what
        time.sleep(0.001)


@pytest.mark.parametrize("what", ["set", "wait"])
def test_an_event_stays_of_use(what: str) -> None:
    """Another thread sets it, and is not held up; who waits for it then is woken."""
    for after in itertools.count(1):
        event = Event()
        fired = interrupted(event.set if what == "set" else lambda event=event: event.wait(0.0005), after)
        event.clear()
        setter = threading.Thread(target=event.set)
        setter.start()
        assert event.wait(GUARD)
        setter.join(GUARD)
        assert not setter.is_alive()
        assert not event._places
        if not fired:
            return


def test_an_event_that_is_set_is_noticed_by_who_waits() -> None:
    """By all of them, also if they wait for ever; a wait ends in time."""
    event = Event()
    assert not event.wait(0)
    assert not event.wait(0.01)
    waiting = [threading.Thread(target=event.wait, args=(None,)) for _ in range(3)]
    for thread in waiting:
        thread.start()
    until(lambda: len(event._places) == 3, "all wait")
    event.set()
    for thread in waiting:
        thread.join(GUARD)
        assert not thread.is_alive()


def test_an_alarm_that_is_set_after_an_interruption_goes_off() -> None:
    """Also if it had been set for sooner, and nobody was there to hear of it."""
    for after in itertools.count(1):
        rung = threading.Event()
        alarm = Alarm(lambda rung=rung: rung.set(), "histstore-test-alarm", no_strays())  # type: ignore[misc]
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

    alarm = Alarm(work, "histstore-test-alarm", no_strays())
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
    itself = Alarm(lambda: itself.close(), "histstore-test-alarm", no_strays())  # type: ignore[func-returns-value]
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


def test_work_aside_is_waited_for() -> None:
    """`end` waits for what is under way, but not for itself."""
    aside, done = Aside("histstore-test-aside"), []
    begun = threading.Event()

    def work() -> None:
        begun.set()
        time.sleep(0.02)
        aside.end()
        done.append(1)

    aside.start(work)
    assert begun.wait(GUARD)
    aside.end()
    assert done == [1]


def test_a_stray_that_is_found_while_two_look_is_looked_for() -> None:
    """A look does away with what it found before its work began, not with what another's look has left to it."""
    seen: list[list[object]] = []

    def work() -> None:
        seen.append(list(strays.found))
        if len(seen) == 1:
            thread = threading.Thread(target=strays.look)
            thread.start()
            thread.join(GUARD)
            strays.found.append("second")

    strays = Strays(work)
    strays.found.append("first")
    strays.look()
    assert seen == [["first"], ["first"], ["second"]]
    assert not strays.found


def test_a_stray_whose_work_is_interrupted_is_looked_for_again() -> None:
    """It stays found until the work is done."""
    done = []
    for after in itertools.count(1):
        strays = Strays(lambda: done.append(1))
        strays.found.append("stray")
        fired = interrupted(strays.look, after)
        strays.look()
        assert done
        assert not strays.found
        done.clear()
        if not fired:
            return


@pytest.fixture(autouse=True)
def nothing_left() -> object:
    """No thread outlives a test."""
    yield
    until(lambda: not any(thread.name.startswith("histstore-test") for thread in threading.enumerate()), "threads end")
