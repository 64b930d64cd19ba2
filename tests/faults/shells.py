"""Both shells behind one async face, so that one test serves both, and what the fault tests share."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Any

import redis

import histstore
import histstore.sync
from histstore import RetryPolicy
from histstore.protocol.keys import Keys, run_keys
from histstore.protocol.scripts import Script

from ..support.history import tokens_of

FAST = RetryPolicy(attempts=6, deadline=20.0, base=0.002, cap=0.02)
"""Tries as often as by default, with pauses for tests."""

PERSISTENT = RetryPolicy(attempts=500, deadline=60, base=0.001, cap=0.02)
"""Tries for as long as rivals are faster."""

GUARD = 30.0
"""Seconds after which a test that hangs fails. Nothing is expected to take a tenth of it."""


class Threaded:
    """A backend or store of the sync twin; its calls are awaited, and run in threads."""

    def __init__(self, inner: Any) -> None:
        self.inner = inner

    def store(self, run_id: str) -> Any:
        return Threaded(self.inner.store(run_id))

    async def aclose(self) -> None:
        await asyncio.to_thread(self.inner.close)

    def __getattr__(self, name: str) -> Any:
        value = getattr(self.inner, name)
        if name.startswith("_") or not callable(value):
            return value

        async def call(*args: Any, **options: Any) -> Any:
            return await asyncio.to_thread(value, *args, **options)

        return call


def open_backend(shell: str, url: str, **options: Any) -> Any:
    """Makes a backend of the shell "async" or "sync"."""
    options = {"retry": FAST} | options
    if shell == "async":
        return histstore.RedisBackend.from_url(url, **options)
    return Threaded(histstore.sync.RedisBackend.from_url(url, **options))


def carries(*scripts: Script) -> Callable[[bytes], bool]:
    """Returns a test of whether a request's bytes call one of `scripts`, by name or in full."""
    names = [text.encode() for script in scripts for text in (script.sha, script.source)]
    return lambda request: any(name in request for name in names)


async def contents(store: Any) -> list[str]:
    """Returns the tokens of a run's messages as they are loaded now; a missing run has none."""
    snapshot = await store.load()
    return tokens_of(snapshot.messages) if snapshot is not None else []


def told(error: BaseException, phase: str, advice: str) -> None:
    """Asserts that a load's error names the phase of opening a connection and the remedy, and no secret."""
    text = str(error)
    assert f"load: {phase} (" in text, text
    assert advice in text, text
    assert "\n" not in text
    assert len(text) < 300
    found: BaseException | None = error
    while found is not None:
        assert "s3cret" not in str(found) + repr(found)
        found = found.__cause__ or found.__context__


def entries(raw: redis.Redis, namespace: str, run_id: str) -> int:
    """Returns how many entries a run's log holds."""
    return int(raw.xlen(keys_of(namespace, run_id).log))  # type: ignore[arg-type]


def keys_of(namespace: str, run_id: str) -> Keys:
    return run_keys(namespace, run_id)
