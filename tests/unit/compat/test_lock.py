"""The lock that lets a store's calls take turns, in asyncio's hand-written half."""

from __future__ import annotations

import asyncio
import threading
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest

from histstore._async.compat.io import Held, Lock


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


class Other:
    """An event loop in a thread of its own."""

    def __init__(self) -> None:
        self.loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self.loop.run_forever)
        self._thread.start()

    def start(self, work: Any) -> Any:
        return asyncio.run_coroutine_threadsafe(work, self.loop)

    def stop(self) -> None:
        self.loop.call_soon_threadsafe(self.loop.stop)
        self._thread.join(20)

    def __enter__(self) -> Other:
        return self

    def __exit__(self, *_error: object) -> None:
        self.stop()
        self.loop.close()


def test_a_loop_that_never_lets_it_go_free_starves_no_other() -> None:
    """Its tasks queue for it without a pause; one of another loop gets it when it is its turn."""
    lock, over, rounds = Lock(), False, 0

    async def one() -> None:
        nonlocal rounds
        while not over:
            async with held(lock):
                rounds += 1
                await asyncio.sleep(0)

    async def busy() -> None:
        await asyncio.gather(*[one() for _ in range(3)])

    async def visit() -> int:
        before = rounds
        async with held(lock, 20.0):
            return rounds - before

    with Other() as other:
        work = other.start(busy())
        try:
            while rounds < 10:
                pass
            assert [asyncio.run(visit()) >= 0 for _ in range(10)] == [True] * 10
        finally:
            over = True
        work.result(20)
    assert lock.take()


def test_who_leaves_just_when_another_loop_hands_it_over_passes_it_on() -> None:
    """The hand-over is on its way to a task that is cancelled just before, or just after, it arrives."""
    lock = Lock()

    async def main() -> None:
        with Other() as other:
            for number in range(200):
                mine = held(lock)
                await lock.acquire(mine)
                theirs = other.start(_hold(lock))
                while not lock._waiters:
                    await asyncio.sleep(0)
                if number % 2:
                    lock.release(mine)
                    theirs.cancel()
                else:
                    theirs.cancel()
                    lock.release(mine)
                async with held(lock, 20.0):
                    pass
                async with asyncio.timeout(20):
                    while lock._waiters:  # it is on its way out
                        await asyncio.sleep(0)

    asyncio.run(main())
    assert lock.take()


async def _hold(lock: Lock) -> None:
    async with held(lock):
        await asyncio.sleep(0)


def test_a_loop_that_stands_still_is_passed_over() -> None:
    """Who waits in it gets the lock when it runs again, and keeps nobody waiting until then."""
    lock = Lock()
    still = asyncio.new_event_loop()

    async def leave() -> asyncio.Task[None]:
        task = still.create_task(_hold(lock))
        await asyncio.sleep(0)
        return task

    async def main() -> asyncio.Task[None]:
        async with held(lock):
            task = await asyncio.to_thread(still.run_until_complete, leave())
            later = asyncio.create_task(_hold(lock))
            await asyncio.sleep(0)
        async with asyncio.timeout(20):
            await later
        return task

    still.run_until_complete(asyncio.wait_for(asyncio.run(main()), 20))
    still.close()
    assert lock.take()


def test_those_who_wait_outlive_a_loop_that_it_was_handed_to() -> None:
    """They came when a task of their own loop had it. It passes to another loop, which ends with it."""
    lock = Lock()

    async def keep() -> None:
        await lock.acquire(held(lock))

    async def main() -> None:
        with Other() as other:
            mine = held(lock)
            await lock.acquire(mine)
            theirs = other.start(keep())
            while not lock._waiters:
                await asyncio.sleep(0)
            later = asyncio.create_task(_hold(lock))
            await asyncio.sleep(0)
            lock.release(mine)
            await asyncio.wrap_future(theirs)
        async with asyncio.timeout(20):
            await later

    asyncio.run(main())
    assert lock.take()
