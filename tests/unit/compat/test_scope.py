"""The blocking twin's search for abandoned bodies, interrupted by a signal's handler at each of its bytecodes."""

from __future__ import annotations

import itertools
import threading

from histstore._sync.compat.scope import AbandonedBodies

from .interrupted import GUARD, interrupted


def test_a_body_that_is_found_while_two_collect_is_collected() -> None:
    """A thread removes what it found before its own work began, and leaves what another found to that one."""
    seen: list[list[object]] = []

    def work() -> None:
        seen.append(list(bodies.found))
        if len(seen) == 1:
            thread = threading.Thread(target=bodies.collect)
            thread.start()
            thread.join(GUARD)
            bodies.found.append("second")

    bodies = AbandonedBodies(work)
    bodies.found.append("first")
    bodies.collect()
    assert seen == [["first"], ["first"], ["second"]]
    assert not bodies.found


def test_a_body_whose_release_is_interrupted_is_collected_again() -> None:
    """It stays found until its lease is released."""
    done = []
    for after in itertools.count(1):
        bodies = AbandonedBodies(lambda: done.append(1))
        bodies.found.append("body")
        fired = interrupted(bodies.collect, after)
        bodies.collect()
        assert done
        assert not bodies.found
        done.clear()
        if not fired:
            return
