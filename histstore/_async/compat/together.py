"""The asyncio half of work on several servers at once: in tasks of its own."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine, Sequence
from typing import Any, TypeVar

T = TypeVar("T")


async def together(works: Sequence[Callable[[], Coroutine[Any, Any, T]]]) -> list[T | Exception]:
    """Run works at the same time, and return the result or the error of each. A cancellation ends all of them."""
    found: list[T | Exception] = []
    for result in await asyncio.gather(*[work() for work in works], return_exceptions=True):
        if isinstance(result, BaseException) and not isinstance(result, Exception):
            raise result
        found.append(result)
    return found


async def until_one_ends(
    works: Sequence[Callable[[], Coroutine[Any, Any, None]]], timeout: float | None, stop: Callable[[], None]
) -> None:
    """Run works at the same time until one of them ends, and end the others.

    Args:
        works: The works.
        timeout: Seconds after which all are ended; None: no limit.
        stop: Makes the works end in the blocking twin; unused here.

    Raises:
        Exception: What the one raised that has ended.
    """
    tasks = [asyncio.ensure_future(work()) for work in works]
    try:
        done, _ = await asyncio.wait(tasks, timeout=timeout, return_when=asyncio.FIRST_COMPLETED)
        for task in done:
            task.result()
    finally:
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
