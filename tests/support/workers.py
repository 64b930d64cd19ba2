"""What tests run in processes of their own. Importable by name, so that no state of the test comes along."""

from __future__ import annotations

import asyncio
import multiprocessing
from collections.abc import Callable, Sequence
from typing import Any

import histstore
import histstore.sync

_CONTEXT = multiprocessing.get_context("forkserver")
_CONTEXT.set_forkserver_preload(["histstore", "histstore.sync"])


def _outcome(function: Callable[..., Any], args: tuple[Any, ...], pipe: Any) -> None:
    try:
        pipe.send((True, function(*args)))
    except Exception as error:
        pipe.send((False, f"{type(error).__name__}: {error}"))


def in_processes(function: Callable[..., Any], arguments: Sequence[tuple[Any, ...]]) -> list[Any]:
    """Runs `function` once for each tuple of arguments, all at once, each in a process; returns the results."""
    running = []
    for args in arguments:
        ours, theirs = _CONTEXT.Pipe(duplex=False)
        process = _CONTEXT.Process(target=_outcome, args=(function, args, theirs))
        process.start()
        theirs.close()
        running.append((process, ours))
    results = []
    for process, pipe in running:
        assert pipe.poll(60), "a worker process hangs"
        fine, result = pipe.recv()
        pipe.close()
        process.join(10)
        assert fine, result
        results.append(result)
    return results


def add_messages(shell: str, url: str, namespace: str, run: str, worker: int, count: int) -> list[str]:
    """Adds `count` messages to a run, one `update` each; returns the revisions."""

    def add(number: int) -> Callable[[Any], Any]:
        def change(snapshot: Any) -> Any:
            if snapshot is None:
                snapshot = histstore.ConversationSnapshot()
            return snapshot.append({"worker": worker, "number": number})

        return change

    if shell == "sync":
        with histstore.sync.RedisBackend.from_url(url, namespace=namespace) as backend:
            store = backend.store(run)
            return [str(store.update(add(number))) for number in range(count)]

    async def main() -> list[str]:
        async with histstore.RedisBackend.from_url(url, namespace=namespace) as backend:
            store = backend.store(run)
            return [str(await store.update(add(number))) for number in range(count)]

    return asyncio.run(main())


def save_snapshot(url: str, namespace: str, run: str, snapshot: Any, message: Any) -> Any:
    """Saves what `snapshot` is with `message` added; returns the revision, or the error's name."""
    with histstore.sync.RedisBackend.from_url(url, namespace=namespace) as backend:
        try:
            return backend.store(run).save(snapshot.append(message))
        except histstore.ConflictError as error:
            return error


def settle(url: str, attempt: Any) -> Any:
    """Resolves an attempt that another process made."""
    with histstore.sync.RedisBackend.from_url(url, namespace=attempt.namespace) as backend:
        return backend.store(attempt.run_id).resolve(attempt)
