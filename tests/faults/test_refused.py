"""The server refuses in the middle: permissions taken away, memory full, a policy that evicts (rows 12 and 22)."""

from __future__ import annotations

import contextlib
import logging
from collections.abc import Callable
from typing import Any

import pytest

from histstore import ANY, BackendConfigError, BackendError, BackendUnavailableError, ConversationSnapshot, RetryPolicy

from ..support.history import History, message
from ..support.servers import Server
from .shells import contents, entries

Make = Callable[..., Any]
BRIEF = RetryPolicy(attempts=3, deadline=5.0, base=0.001, cap=0.002)

COMMANDS = (
    "xadd", "xlen", "xtrim", "xrange", "xrevrange", "hset", "hdel", "hmget", "hexists", "exists", "rpush", "lpos",
    "llen", "lset", "lrem", "ltrim", "del", "type", "time", "pexpire", "pexpireat", "persist", "pttl", "evalsha",
    "eval", "multi", "exec",
)  # fmt: skip


async def test_permissions_taken_away_in_mid_life(
    shell: str, backends: Make, private_server: Callable[..., Server]
) -> None:
    """Whichever command is refused, wherever in a script: a typed error, a settled outcome, and a run that goes on."""
    server = private_server()
    history = History()
    with server.client() as raw:
        raw.execute_command("ACL", "SETUSER", "u", "on", ">pw", "~*", "&*", "+@all")
        backend = backends(shell, f"redis://u:pw@127.0.0.1:{server.port}/0", run_ttl=600, retry=BRIEF)
        store = backend.store("run")
        with history.append("c", "start"):
            await store.append(message("start"))
        refused = 0
        for command in COMMANDS:
            raw.execute_command("ACL", "SETUSER", "u", f"-{command}")
            doomed = backend.store(f"doomed by {command}")
            for kind in ("append", "first", "save", "unchanged", "load", "info", "delete"):
                token = f"{kind} without {command}"
                before = store.unsettled
                with contextlib.suppress(BackendError):
                    match kind:
                        case "append":
                            with history.append("c", token) as call:
                                await store.append(message(token))
                        case "save":
                            with history.append("c", token) as call:
                                loaded = await store.load()
                                await store.save(loaded.append(message(token)))
                        case "first":
                            await doomed.append(message("first"), expected=ANY)
                        case "unchanged":
                            await store.save(await store.load())
                        case "load":
                            assert await contents(backend.store("run"))
                        case "info":
                            assert await backend.store("run").info() is not None
                        case _:
                            await doomed.delete()
                    refused -= 1
                refused += 1
                if kind in ("append", "save") and call.outcome == "unknown":
                    raw.execute_command("ACL", "SETUSER", "u", "+@all")
                    assert store.unsettled not in (None, before), token
                    call.settle(await store.resolve())
                    raw.execute_command("ACL", "SETUSER", "u", f"-{command}")
            raw.execute_command("ACL", "SETUSER", "u", "+@all")
            await store.resolve()
            history.check(await contents(backend.store("run")), f"without {command}")
            with history.append("c", f"after {command}"):
                await store.append(message(f"after {command}"))
            await doomed.resolve()
            await doomed.append(message("after"), expected=ANY)
            assert (await contents(backend.store(doomed.run_id)))[-1] == "after", f"without {command}"
            info = await backend.store("run").info()
            assert info.expires_at is not None, f"without {command}"
        history.check(await contents(backend.store("run")))
    assert refused > len(COMMANDS)


async def test_keys_taken_away_in_mid_life(shell: str, backends: Make, private_server: Callable[..., Server]) -> None:
    """A user who may no longer touch one of a run's keys writes nothing, and the run goes on afterwards."""
    server = private_server()
    with server.client() as raw:
        raw.execute_command("ACL", "SETUSER", "u", "on", ">pw", "~*", "&*", "+@all")
        backend = backends(shell, f"redis://u:pw@127.0.0.1:{server.port}/0", retry=BRIEF)
        store = backend.store("run")
        await store.append(message("0"))
        parts = ("head", "log", "etags", "marks", "lease")
        for turn, missing in enumerate(parts):
            kept = [f"~*:{part}" for part in parts if part != missing]
            raw.execute_command("ACL", "SETUSER", "u", "resetkeys", *kept)
            with pytest.raises(BackendError):
                await store.append(message("refused"))
            raw.execute_command("ACL", "SETUSER", "u", "allkeys")
            assert await store.resolve() is None, missing
            assert entries(raw, "histstore", "run") == turn + 1
            await store.append(message(str(turn + 1)))
        assert await contents(backend.store("run")) == list("012345")


async def test_full_memory(shell: str, backends: Make, private_server: Callable[..., Server]) -> None:
    """OOM: saves say that nothing was written, and the run goes on once there is room."""
    server = private_server()
    backend = backends(shell, server.url, retry=BRIEF)
    store = backend.store("run")
    await store.append(message("a"))
    with server.client() as raw:
        raw.config_set("maxmemory", "1")
        for call in (
            lambda: store.append(message("refused")),
            lambda: backend.store("new").append(message("refused")),
            lambda: backend.store("run").save(ConversationSnapshot([message("refused")]), expected=ANY),
        ):
            with pytest.raises(BackendUnavailableError):
                await call()
        assert store.unsettled is None
        raw.config_set("maxmemory", "0")
        assert await contents(backend.store("run")) == ["a"]
        assert await backend.store("new").load() is None
        await store.append(message("c"))
        await backend.store("new").append(message("d"), expected=None)
        assert await contents(store) == ["a", "c"]
        assert entries(raw, "histstore", "run") == 2


@pytest.mark.parametrize("known", [True, False])
async def test_full_memory_keeps_nobody_from_reading_and_deleting(
    known: bool, shell: str, backends: Make, private_server: Callable[..., Server]
) -> None:
    """Loads need no memory, and deleting is how memory is freed: for a backend in use and for a new one."""
    server = private_server()
    backend = backends(shell, server.url, retry=BRIEF)
    await backend.store("run").append(message("a"))
    with server.client() as raw:
        raw.config_set("maxmemory", "1")
        if not known:
            backend = backends(shell, server.url, retry=BRIEF)
        assert await contents(backend.store("run")) == ["a"]
        with pytest.raises(BackendUnavailableError):
            await backend.store("run").append(message("b"), expected=ANY)
        assert await backend.delete("run")
        raw.config_set("maxmemory", "0")
        assert await backend.store("run").load() is None


async def test_a_permission_that_is_missing_from_the_start_is_named(
    shell: str, backends: Make, private_server: Callable[..., Server]
) -> None:
    """The first call says which command is refused, before anything is written; a password is never in the text."""
    server = private_server()
    with server.client() as raw:
        for command in ("xadd", "hset", "rpush"):
            raw.execute_command("ACL", "SETUSER", "u", "on", ">hunter2", "~*", "&*", "+@all", f"-{command}")
            backend = backends(shell, f"redis://u:hunter2@127.0.0.1:{server.port}/0", retry=BRIEF)
            with pytest.raises(BackendConfigError, match=f"(?i){command}") as caught:
                await backend.store("run").append(message("x"))
            assert "hunter2" not in f"{caught.value} {caught.value.__cause__}"
        assert raw.keys("*") == []


async def test_a_policy_that_evicts_is_warned_about(
    shell: str, backends: Make, private_server: Callable[..., Server], caplog: pytest.LogCaptureFixture
) -> None:
    """A server that may evict conversations is complained about once a backend; one that may not is not."""
    server = private_server()
    with server.client() as raw, caplog.at_level(logging.WARNING, "histstore"):
        await backends(shell, server.url).store("run").load()
        assert caplog.records == []
        raw.config_set("maxmemory-policy", "allkeys-lru")
        store = backends(shell, server.url).store("run")
        await store.load()
        await store.append(message("x"))
    assert ["allkeys-lru" in record.getMessage() for record in caplog.records] == [True]
