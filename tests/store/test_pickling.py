"""What travels to other processes in a pickle, and what says why it does not."""

from __future__ import annotations

import asyncio
import copy
import multiprocessing
import pickle
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path
from typing import Any

import pytest

import histstore
import histstore.sync
from histstore import ANY, BackendError, Durability, HistoryStoreError, LockError, RetryPolicy

from ..support.shells import Shell


def append(backend: Any, run: str, number: int) -> int:
    """Runs in a process that was spawned."""
    message = {"number": number}
    policy = RetryPolicy(attempts=500, deadline=60, base=0.001, cap=0.02)
    if not asyncio.iscoroutinefunction(backend.delete):
        backend.store(run).append(message, expected=ANY, retry=policy)
    else:

        async def main() -> None:
            await backend.store(run).append(message, expected=ANY, retry=policy)

        asyncio.run(main())
    return number


class MineAsync(histstore.RedisBackend):
    """Of a user's own."""


class MineSync(histstore.sync.RedisBackend):
    """The same."""


MINE: dict[str, Any] = {"async": MineAsync, "sync": MineSync}


def bare(backend: Any) -> Any:
    return getattr(backend, "inner", backend)


@pytest.mark.parametrize("copied", [lambda it: pickle.loads(pickle.dumps(it)), copy.copy, copy.deepcopy])
async def test_a_backend_travels_as_its_url_and_its_options(shell: Shell, backends: Any, copied: Any) -> None:
    """All of them; what comes out is a backend of its own, with connections of its own."""
    options = {
        "run_ttl": 3600.0,
        "keep_revisions": 3,
        "retry": RetryPolicy(attempts=7, deadline=9.0),
        "durability": Durability(timeout=0.5),
        "max_snapshot_bytes": 12345,
    }
    made = backends(**options)
    await made.store("run").append({"a": 1})
    found = copied(bare(made))
    assert type(found) is type(bare(made))
    assert {name: getattr(found, name) for name in [*options, "namespace"]} == options | {"namespace": made.namespace}
    await made.aclose()
    other = shell.dress(found)
    assert [dict(message) for message in (await other.store("run").load()).messages] == [{"a": 1}]
    await other.aclose()


@pytest.mark.parametrize("protocol", range(pickle.HIGHEST_PROTOCOL + 1))
def test_every_protocol(shell: Shell, protocol: int) -> None:
    """Also the old ones."""
    backend = shell.module.RedisBackend.from_url("redis://:s3cret@localhost:1/0", namespace="n")
    again = pickle.loads(pickle.dumps(backend, protocol))
    assert again.namespace == "n"
    assert "s3cret" not in repr(again)
    assert "s3cret" in repr(pickle.dumps(backend, protocol)), "as its docstring warns"


def test_a_subclass_travels_as_itself(shell: Shell) -> None:
    """By the constructors that it inherits."""
    backend = MINE[shell.name].from_url("redis://localhost:1/0")
    assert type(pickle.loads(pickle.dumps(backend))) is MINE[shell.name]


async def test_in_a_pool_of_spawned_processes(shell: Shell, backends: Any) -> None:
    """As multiprocessing, Ray and Dask send their arguments: every message is there once."""
    made = backends()
    await made.store("run").append({"number": -1})
    with ProcessPoolExecutor(2, mp_context=multiprocessing.get_context("spawn")) as pool:
        calls = [pool.submit(append, bare(made), "run", number) for number in range(10)]
        assert [call.result(60) for call in calls] == list(range(10))
    found = (await made.store("run").load()).messages
    assert sorted(message["number"] for message in found) == list(range(-1, 10))


async def test_an_embedded_server_with_a_folder_travels_on_its_machine(
    shell: Shell, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Processes that open the folder share the server; on another machine the folder would be another one."""
    made = shell.module.RedisBackend.embedded(tmp_path / "data", namespace="n")
    backend = shell.dress(made)
    await backend.store("run").append({"number": -1})
    with ProcessPoolExecutor(1, mp_context=multiprocessing.get_context("spawn")) as pool:
        assert pool.submit(append, made, "run", 0).result(60) == 0
    assert len((await backend.store("run").load()).messages) == 2
    pickled = pickle.dumps(made)
    monkeypatch.setattr("platform.node", lambda: "elsewhere")
    with pytest.raises(BackendError, match="run a server that both machines reach, and use from_url"):
        pickle.loads(pickled)
    monkeypatch.undo()
    await backend.aclose()


async def test_what_cannot_travel_says_what_to_do(shell: Shell, backend: Any, server_url: str) -> None:
    """One line below 300 characters, by an error of ours; and following it works."""
    client = shell.redis.Redis.from_url(server_url)
    of_a_client = shell.module.RedisBackend(client, namespace=backend.namespace)
    temporary = shell.module.RedisBackend.embedded()
    store = backend.store("run")
    async with store.turn() as turn:
        cases: list[tuple[Any, type[HistoryStoreError], str]] = [
            (of_a_client, BackendError, "use RedisBackend.from_url"),
            (temporary, BackendError, "give embedded.* a path, or use from_url"),
            (store, BackendError, "pickle the backend and the run id"),
            (turn, LockError, "pickle turn.snapshot instead"),
            (turn.lease, LockError, "the run where the work is done"),
            (store.lock(), LockError, "where the work is done"),
            (store.turn(), LockError, "where the work is done"),
        ]
        for thing, kind, advice in cases:
            for way in (pickle.dumps, copy.copy, copy.deepcopy):
                with pytest.raises(kind, match=advice) as caught:
                    way(bare(thing))
                assert type(caught.value) is kind
                assert len(str(caught.value)) < 300
                assert "\n" not in str(caught.value)
        turn.append({"a": 1})
        assert pickle.loads(pickle.dumps(turn.snapshot)).messages == ({"a": 1},)
    sent, run_id = pickle.loads(pickle.dumps((bare(backend), store.run_id)))
    other = shell.dress(sent)
    assert len((await other.store(run_id).load()).messages) == 1
    await other.aclose()
    await shell.close_client(client)
