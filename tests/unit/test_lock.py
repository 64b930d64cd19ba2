"""The lock that lets a store's calls take turns, in asyncio's hand-written half."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest

from histstore._async._io import Held, Lock


def held(lock: Lock, timeout: float = 60.0) -> Held:
    return Held(lock, timeout, LookupError, "it took too long")


async def test_it_is_given_in_the_order_of_asking() -> None:
    """Whoever asks while others wait comes after them, also just when it is released."""
    lock, order = Lock(), []

    async def one(number: int) -> None:
        async with held(lock):
            order.append(number)
            await asyncio.sleep(0)

    await lock.acquire()
    tasks = [asyncio.create_task(one(number)) for number in range(5)]
    await asyncio.sleep(0)
    lock.release()
    assert not lock.take(), "the first who waits has it already"
    await asyncio.gather(*tasks)
    assert order == [0, 1, 2, 3, 4]
    assert lock.take(), "nobody has it any more"


async def test_only_one_has_it_whoever_is_cancelled_and_when() -> None:
    """A waiter that is cancelled loses its place; one that had just been given the lock passes it on."""
    lock, inside = Lock(), 0

    async def one() -> None:
        nonlocal inside
        async with held(lock):
            inside += 1
            assert inside == 1
            await asyncio.sleep(0)
            inside -= 1

    await lock.acquire()
    tasks = [asyncio.create_task(one()) for _ in range(6)]
    await asyncio.sleep(0)
    tasks[1].cancel()
    lock.release()
    tasks[0].cancel()  # it was given the lock, and has not run since
    results: list[Any] = await asyncio.gather(*tasks, return_exceptions=True)
    assert [type(result) for result in results] == [asyncio.CancelledError] * 2 + [type(None)] * 4
    assert lock.take()


async def test_waiting_ends_in_time() -> None:
    """A lock that stays taken is the error that the caller named, and leaves no place behind."""
    lock = Lock()
    await lock.acquire()
    with pytest.raises(LookupError, match="too long"):
        async with held(lock, 0.01):
            raise AssertionError("it is taken")
    lock.release()
    assert lock.take()


async def test_what_fails_inside_comes_out_and_leaves_it_free() -> None:
    """The lock is no handler of errors."""
    lock = Lock()
    with pytest.raises(ZeroDivisionError):
        async with held(lock):
            raise ZeroDivisionError
    assert lock.take()
