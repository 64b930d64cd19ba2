"""The blocking half of work on several servers at once: in threads of its own."""

from __future__ import annotations

import threading
from collections.abc import Callable, Sequence
from typing import TypeVar

T = TypeVar("T")


def together(works: Sequence[Callable[[], T]]) -> list[T | Exception]:
    """Run works at the same time, and return the result or the error of each. The last one runs in this thread."""
    found: dict[int, T | Exception] = {}

    def run(place: int) -> None:
        try:
            found[place] = works[place]()
        except Exception as error:
            found[place] = error

    threads = [
        threading.Thread(target=run, args=(place,), name="histstore-node", daemon=True)
        for place in range(len(works) - 1)
    ]
    for thread in threads:
        thread.start()
    if works:
        run(len(works) - 1)
    for thread in threads:
        thread.join()
    return [found[place] for place in range(len(works))]


def until_one_ends(works: Sequence[Callable[[], None]], timeout: float | None, stop: Callable[[], None]) -> None:
    """Run works at the same time until one of them ends, and end the others.

    Args:
        works: The works.
        timeout: Seconds after which all are ended; None: no limit.
        stop: Makes the works end.

    Raises:
        Exception: What the first one raised that has ended.
    """
    ended = threading.Event()
    errors: list[Exception] = []

    def run(work: Callable[[], None]) -> None:
        try:
            work()
        except Exception as error:
            errors.append(error)
        finally:
            ended.set()

    threads = [threading.Thread(target=run, args=(work,), name="histstore-node", daemon=True) for work in works]
    for thread in threads:
        thread.start()
    try:
        ended.wait(timeout)
    finally:
        stop()
        for thread in threads:
            thread.join()
    if errors:
        raise errors[0]
