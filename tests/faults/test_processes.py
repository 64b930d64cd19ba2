"""Threads that share a backend of the blocking twin (row 16)."""

from __future__ import annotations

import random
from concurrent.futures import ThreadPoolExecutor

import histstore.sync
from histstore import ANY, ConversationSnapshot

from ..support.history import History, message, tokens_of
from .shells import GUARD, PERSISTENT


def test_threads_that_share_a_sync_backend_get_their_own_answers(server_url: str, namespace: str) -> None:
    """Eight threads, many runs and one that all write: no answer is crossed, nothing is lost or doubled."""
    seed, turns = 31, 25
    history = History()
    with histstore.sync.RedisBackend.from_url(server_url, namespace=namespace) as backend:

        def work(name: str) -> None:
            rng = random.Random(f"{seed} {name}")
            mine, shared = backend.store(name), backend.store("shared")
            expected: list[str] = []
            for turn in range(turns):
                token = f"{name}-{turn}"
                if rng.random() < 0.5:
                    expected.append(token)
                    assert mine.append(message(token)).version == len(expected)
                with history.append(name, token) as call:
                    if rng.random() < 0.5:
                        call.saved(
                            shared.update(
                                lambda old, token=token: (old or ConversationSnapshot()).append(message(token))  # type: ignore[misc]
                            )
                        )
                    else:
                        call.saved(shared.append(message(token), expected=ANY, retry=PERSISTENT))
                load = history.load(name)
                load.returned(shared.load())
                snapshot = mine.load()
                assert (tokens_of(snapshot.messages) if snapshot is not None else []) == expected, name

        with ThreadPoolExecutor(8) as pool:
            for outcome in [pool.submit(work, name) for name in "abcdefgh"]:
                outcome.result(4 * GUARD)
        busy, idle = backend._runner.connections
        assert busy == 0
        assert idle <= 8
        snapshot = backend.store("shared").load()
        assert snapshot is not None
        history.check(tokens_of(snapshot.messages), f"seed {seed}")
    assert len(snapshot.messages) == 8 * turns
    assert history.counts() == {"saved": 8 * turns}


def test_threads_that_share_a_store_take_turns(server_url: str, namespace: str) -> None:
    """One store in eight threads: appends go one after the other, each onto what the one before it left."""
    history = History()
    with histstore.sync.RedisBackend.from_url(server_url, namespace=namespace) as backend:
        store = backend.store("run")

        def work(name: str) -> None:
            for turn in range(10):
                with history.append(name, f"{name}-{turn}") as call:
                    call.saved(store.append(message(f"{name}-{turn}")))

        with ThreadPoolExecutor(8) as pool:
            for outcome in [pool.submit(work, name) for name in "abcdefgh"]:
                outcome.result(4 * GUARD)
        snapshot = store.load()
        assert snapshot is not None
        history.check(tokens_of(snapshot.messages))
    assert history.counts() == {"saved": 80}
