"""The blocking twin's events, interrupted by a signal's handler at each of their bytecodes."""

from __future__ import annotations

import itertools
import threading

import pytest

from histstore._sync.compat.tasks import Event

from .interrupted import GUARD, interrupted, until


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
