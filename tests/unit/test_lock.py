"""The lock that lets a store's calls take turns, in asyncio's hand-written half."""

from __future__ import annotations

import asyncio
import threading
from concurrent.futures import ThreadPoolExecutor
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


# ------------------------------------------------------------------------------- several event loops


def in_a_loop_that_ends_inside(lock: Lock, waiting: int = 0) -> Held:
    """Leaves the lock taken, and tasks that wait for it, in an event loop that is closed."""
    loop = asyncio.new_event_loop()

    async def main() -> Held:
        mine = held(lock)
        await mine.__aenter__()
        tasks = [loop.create_task(lock.acquire(held(lock))) for _ in range(waiting)]
        await asyncio.sleep(0)
        for task in tasks:
            task._log_destroy_pending = False  # type: ignore[attr-defined]
        return mine

    mine = loop.run_until_complete(main())
    loop.close()
    return mine


@pytest.mark.parametrize("waiting", [0, 3])
def test_what_a_loop_that_has_ended_holds_goes_to_whoever_asks(waiting: int) -> None:
    """Its task never goes on. Those who waited in its loop do not either."""
    lock = Lock()
    dead = in_a_loop_that_ends_inside(lock, waiting)

    async def heir() -> None:
        async with held(lock, 5.0):
            # The task is thrown away only now, and runs to the end of its `async with`.
            lock.release(dead)
            assert not lock.take(), "it is the heir's"
        assert lock.take()
        lock.release()

    asyncio.run(heir())


def test_of_many_heirs_one_has_it() -> None:
    """Threads whose loops find the dead one's lock at the same moment."""
    for _ in range(20):
        lock = Lock()
        in_a_loop_that_ends_inside(lock)
        inside = 0
        start = threading.Barrier(4)

        async def heir(lock: Lock = lock, start: threading.Barrier = start) -> None:
            nonlocal inside
            start.wait(20)
            async with held(lock):
                inside += 1
                assert inside == 1
                await asyncio.sleep(0.001)
                inside -= 1

        with ThreadPoolExecutor(4) as pool:
            for outcome in [pool.submit(asyncio.run, heir()) for _ in range(4)]:
                outcome.result(60)


def test_loops_that_run_at_once_take_turns() -> None:
    """Of the tasks of several threads' loops one at a time has it."""
    lock, inside, done = Lock(), 0, 0

    async def one() -> None:
        nonlocal inside, done
        for _ in range(5):
            async with held(lock):
                inside += 1
                assert inside == 1
                await asyncio.sleep(0)
                inside -= 1
                done += 1

    async def several() -> None:
        await asyncio.gather(*[one() for _ in range(3)])

    with ThreadPoolExecutor(4) as pool:
        for outcome in [pool.submit(asyncio.run, several()) for _ in range(4)]:
            outcome.result(60)
    assert done == 60
    asyncio.run(one())
