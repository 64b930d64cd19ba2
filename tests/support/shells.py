"""One test body for both shells: the asyncio one as it is, the blocking one behind awaitable calls.

The blocking objects are called right where the test awaits, in the same thread. Which calls to dress up is
read off the asyncio twin, so a name that one shell lacks fails the tests.
"""

from __future__ import annotations

import asyncio
import contextlib
import inspect
import threading
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Coroutine, Iterator
from concurrent.futures import Future
from contextvars import Context
from types import ModuleType
from typing import Any

import redis
import redis.asyncio

import histstore
import histstore.sync

from .proxy import Proxy


class Blocking:
    """A blocking object with the face of its asyncio twin."""

    def __init__(self, inner: Any) -> None:
        self.inner = inner
        self._twin = getattr(histstore, type(inner).__name__)

    def __getattr__(self, name: str) -> Any:
        theirs = getattr(self._twin, name, None)
        ours = getattr(self.inner, {"aclose": "close"}.get(name, name))
        if inspect.isasyncgenfunction(theirs):

            async def iterate(*args: Any, **kwargs: Any) -> AsyncIterator[Any]:
                for item in ours(*args, **kwargs):
                    yield item

            return iterate
        if inspect.iscoroutinefunction(theirs):

            async def call(*args: Any, **kwargs: Any) -> Any:
                return ours(*args, **{key: _bare(value) for key, value in kwargs.items()})

            return call
        if name == "store":
            return lambda run_id: Blocking(ours(run_id))
        if name in ("lock", "turn"):
            return lambda **kwargs: BlockingScope(ours(**kwargs))
        return Blocking(ours) if isinstance(ours, histstore.sync.Lease) else ours

    async def __aenter__(self) -> Blocking:
        self.inner.__enter__()
        return self

    async def __aexit__(self, *error: Any) -> None:
        self.inner.__exit__(*error)

    def __repr__(self) -> str:
        return repr(self.inner)


class BlockingScope:
    """What the blocking `lock` and `turn` return, to be entered with `async with`."""

    def __init__(self, inner: Any) -> None:
        self.inner = inner

    async def __aenter__(self) -> Blocking:
        return Blocking(self.inner.__enter__())

    async def __aexit__(self, *error: Any) -> None:
        self.inner.__exit__(*error)


def _bare(value: Any) -> Any:
    return value.inner if isinstance(value, Blocking) else value


class Shell:
    """One of the two shells.

    Attributes:
        name: "async" or "sync".
        module: `histstore` or `histstore.sync`.
        redis: The redis-py module whose clients it takes.
    """

    def __init__(self, name: str, module: ModuleType, redis_module: ModuleType) -> None:
        self.name = name
        self.module = module
        self.redis = redis_module

    def dress(self, thing: Any) -> Any:
        """Returns `thing` so that its calls can be awaited."""
        return Blocking(thing) if self.name == "sync" else thing

    def from_url(self, url: str, **options: Any) -> Any:
        return self.dress(self.module.RedisBackend.from_url(url, **options))

    def backend(self, client: Any, **options: Any) -> Any:
        return self.dress(self.module.RedisBackend(client, **options))

    def apart(self, work: Coroutine[Any, Any, Any]) -> asyncio.Future[Any]:
        """Starts somebody else's work: a task with a context of its own, or a thread. Returns what can be awaited."""
        if self.name == "async":
            return asyncio.get_running_loop().create_task(work, context=Context())
        future: Future[Any] = Future()

        def run() -> None:
            try:
                future.set_result(asyncio.run(work))
            except BaseException as error:
                future.set_exception(error)

        # A daemon: a wait that never ends must not outlive the test that fails for it.
        threading.Thread(target=run, daemon=True).start()
        return asyncio.wrap_future(future)

    async def close_client(self, client: Any) -> None:
        if self.name == "sync":
            client.close()
        else:
            await client.aclose()


SHELLS = (Shell("async", histstore, redis.asyncio), Shell("sync", histstore.sync, redis))


def own_work() -> list[str]:
    """Returns the names of the library's tasks in this event loop, and of its threads."""
    names = [task.get_name() for task in asyncio.all_tasks()] + [thread.name for thread in threading.enumerate()]
    return [name for name in names if name.startswith("histstore-")]


async def until(condition: Callable[[], Any], what: str = "", seconds: float = 20.0) -> None:
    """Returns when `condition()`, which may be awaitable, is true. Fails after `seconds`, which nothing should take."""
    end = time.monotonic() + seconds
    while True:
        found = condition()
        if isinstance(found, Awaitable):
            found = await found
        if found:
            return
        assert time.monotonic() < end, f"it did not happen: {what or inspect.getsource(condition).strip()}"
        await asyncio.sleep(0.002)


@contextlib.contextmanager
def threaded_proxy(url: str) -> Iterator[Proxy]:
    """Runs a proxy in a thread of its own, where a blocking caller does not stop it."""
    loop = asyncio.new_event_loop()
    thread = threading.Thread(target=loop.run_forever, name="proxy", daemon=True)
    thread.start()

    async def make() -> Proxy:
        proxy = Proxy(url)
        await proxy.__aenter__()
        return proxy

    try:
        running = asyncio.run_coroutine_threadsafe(make(), loop).result(20)
        try:
            yield running
        finally:
            asyncio.run_coroutine_threadsafe(running.__aexit__(), loop).result(20)
    finally:
        loop.call_soon_threadsafe(loop.stop)
        thread.join(20)
        loop.close()
