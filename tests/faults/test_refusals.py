"""Every public write, with every definite refusal that a real server can be made to give.

A server that has answered is not told as one that has not: the class says that nothing was written, the text names the
cause and what to do, and the run is as it was. What comes from the middle of a script (a command that its user may not
run, after others) stays open, and says so.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import socket
import subprocess
import threading
import time
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest
import redis

from histstore import (
    ANY,
    Attempt,
    BackendConfigError,
    BackendError,
    BackendUnavailableError,
    ConversationSnapshot,
    OutcomeUnknownError,
    RetryPolicy,
    Revision,
)
from histstore.protocol.scripts import SAVE
from histstore.wire.faults import FAULTS

from ..support.generations import skip_without_min_replicas
from ..support.history import message
from ..support.proxy import Proxy
from ..support.servers import Server, server_binary
from ..support.shells import SHELLS, Shell, until
from .shells import GUARD, carries, keys_of

ETAG = b"x" * 16
BRIEF = RetryPolicy(attempts=1, deadline=5.0)
TWICE = RetryPolicy(attempts=2, deadline=1.0, base=0.001, cap=0.002)
PARTS = ("head", "log", "etags", "marks", "lease", "queue")
USER = "u"


# ------------------------------------------------------------------------------------------- refusals


@dataclass
class Refusal:
    """What makes a server refuse.

    Attributes:
        word: The first word of its answer.
        says: What the error says besides, of what to do.
        begin: Makes it refuse.
        end: Makes it well again.
        reads: Whether reads are refused, too.
        deletes: Whether what frees memory is refused, too.
        kind: The error that it is told as.
    """

    word: str
    says: str
    begin: Callable[[Server, redis.Redis], object]
    end: Callable[[Server, redis.Redis], object]
    reads: bool = False
    deletes: bool = True
    kind: type[BackendError] = BackendUnavailableError


def _lacking(_server: Server, raw: redis.Redis) -> None:
    skip_without_min_replicas(raw)
    raw.config_set("min-replicas-to-write", "1")


def _replica(_server: Server, raw: redis.Redis) -> None:
    raw.replicaof("127.0.0.1", "1")


def _primary(_server: Server, raw: redis.Redis) -> None:
    raw.replicaof("NO", "ONE")
    raw.config_set("replica-serve-stale-data", "yes")


def _stale(server: Server, raw: redis.Redis) -> None:
    raw.config_set("replica-serve-stale-data", "no")
    _replica(server, raw)


def _broken_disk(_server: Server, raw: redis.Redis) -> None:
    # Nothing can be renamed over a folder.
    (name,) = raw.config_get("dir").values()  # type: ignore[union-attr]
    (Path(str(name)) / "dump.rdb").mkdir(exist_ok=True)
    raw.config_set("stop-writes-on-bgsave-error", "yes")
    raw.config_set("save", "3600 1")
    with contextlib.suppress(redis.ResponseError):  # it may refuse already
        raw.set("dirty", "1")
        raw.bgsave()
    end = time.monotonic() + GUARD
    while raw.info("persistence")["rdb_last_bgsave_status"] != "err":
        assert time.monotonic() < end, "the server saves all the same"
        time.sleep(0.01)


def _sound_disk(_server: Server, raw: redis.Redis) -> None:
    raw.config_set("save", "")
    raw.config_set("stop-writes-on-bgsave-error", "no")


def _busy(server: Server, raw: redis.Redis) -> None:
    raw.config_set("busy-reply-threshold", "1")

    def run() -> None:
        with server.client(socket_timeout=GUARD) as other, contextlib.suppress(redis.RedisError):
            other.eval("while true do end", 0)

    threading.Thread(target=run, daemon=True).start()
    end = time.monotonic() + GUARD
    while True:
        try:
            raw.ping()
        except redis.ResponseError as error:
            if "BUSY" in str(error):
                return
        assert time.monotonic() < end


def _idle(_server: Server, raw: redis.Redis) -> None:
    end = time.monotonic() + GUARD
    raw.execute_command("SCRIPT", "KILL")
    while True:
        try:
            raw.ping()
            return
        except redis.ResponseError:
            assert time.monotonic() < end


REFUSALS: dict[str, Refusal] = {
    "READONLY": Refusal("READONLY", "connect to the primary", _replica, _primary),
    "MASTERDOWN": Refusal("MASTERDOWN|stale replica|READONLY", "connect to the primary", _stale, _primary, reads=True),
    "NOREPLICAS": Refusal(
        "NOREPLICAS", "min-replicas-to-write", _lacking, lambda _s, raw: raw.config_set("min-replicas-to-write", "0")
    ),
    "MISCONF": Refusal("MISCONF", "its log says why", _broken_disk, _sound_disk),
    "OOM": Refusal(
        "OOM", "raise maxmemory, or delete runs", lambda _server, raw: raw.config_set("maxmemory", "1"),
        lambda _server, raw: raw.config_set("maxmemory", "0"), deletes=False,
    ),
    "BUSY": Refusal("BUSY", "SCRIPT KILL", _busy, _idle, reads=True),
    "NOPERM": Refusal(
        "NOPERM", "deploy/users.acl",
        lambda _server, raw: raw.execute_command("ACL", "SETUSER", USER, "-evalsha", "-eval"),
        lambda _server, raw: raw.execute_command("ACL", "SETUSER", USER, "+@all"), kind=BackendConfigError,
    ),
}  # fmt: skip


# --------------------------------------------------------------------------------------------- writes


@dataclass
class Scene:
    """A run, a backend that has used it, and leases that are held there."""

    backend: Any
    store: Any
    lease: Any
    turn: Any
    attempt: Attempt


async def _enter(scope: Any) -> None:
    async with scope:
        pass


async def _save_of_turn(scene: Scene) -> None:
    scene.turn.append(message("turn"))
    await scene.turn.save()


WRITES: dict[str, Callable[[Scene], Awaitable[Any]]] = {
    "first save": lambda scene: scene.backend.store("new").save(ConversationSnapshot([message("x")]), expected=None),
    "first append": lambda scene: scene.backend.store("new").append(message("x")),
    "append": lambda scene: scene.store.append(message("x")),
    "append to any": lambda scene: scene.backend.store("run").append(message("x"), expected=ANY),
    "save": lambda scene: scene.store.save(ConversationSnapshot([message("x")]), expected=ANY),
    "splice": lambda scene: scene.store.splice(0, 1, message("x")),
    "update": lambda scene: scene.store.update(lambda snapshot: snapshot.append(message("x"))),
    "trim": lambda scene: scene.backend.store("long").trim(),
    "delete": lambda scene: scene.store.delete(),
    "backend.delete": lambda scene: scene.backend.delete("run"),
    "backend.delete of nothing": lambda scene: scene.backend.delete("nothing"),
    "resolve": lambda scene: scene.store.resolve(scene.attempt),
    "lock": lambda scene: _enter(scene.store.lock(ttl=20.0)),
    "lock once": lambda scene: _enter(scene.store.lock(ttl=20.0, acquire_timeout=0)),
    "turn": lambda scene: _enter(scene.store.turn(ttl=20.0)),
    "turn.save": _save_of_turn,
    "renew": lambda scene: scene.lease.renew(),
    "break_lease": lambda scene: scene.backend.break_lease("held"),
    "break_lease of nobody": lambda scene: scene.backend.break_lease("run"),
}
FREES = {
    "delete", "backend.delete", "backend.delete of nothing", "break_lease", "break_lease of nobody", "renew", "lock",
    "lock once", "turn",
}  # fmt: skip
"""What full memory does not keep from being done."""


def _dump(raw: redis.Redis) -> dict[str, Any]:
    runs = ("run", "new", "long", "held", "turned", "nothing")
    keys = {f"{run} {part}": getattr(keys_of("histstore", run), part) for run in runs for part in PARTS}
    with raw.pipeline(transaction=False) as pipe:
        for key in keys.values():
            pipe.dump(key)
        return dict(zip(keys, pipe.execute(), strict=True))


@contextlib.asynccontextmanager
async def _scene(flavour: Shell, url: str) -> Any:
    options = {"retry": BRIEF, "keep_revisions": 5}
    async with flavour.from_url(url, **options) as backend:
        store = backend.store("run")
        for text in "ab":
            await store.append(message(text))
            await backend.store("long").append(message(text), expected=ANY)
        held = backend.store("held").lock(ttl=600.0)
        taken = backend.store("turned").turn(ttl=600.0)
        lease = await held.__aenter__()
        turn = await taken.__aenter__()
        attempt = Attempt("save", "histstore", store.run_id, None, Revision(1, ETAG), ETAG, datetime.now(UTC))
        try:
            yield Scene(backend, store, lease, turn, attempt)
        finally:
            for scope in (taken, held):
                with contextlib.suppress(Exception):
                    await scope.__aexit__(None, None, None)


@pytest.fixture
def refusing(private_server: Callable[..., Server]) -> Server:
    server = private_server()
    with server.client() as raw:
        raw.execute_command("ACL", "SETUSER", USER, "on", ">pw", "~*", "&*", "+@all")
    return server


def _url(server: Server) -> str:
    return f"redis://{USER}:pw@127.0.0.1:{server.port}/0"


async def _told(work: Awaitable[Any]) -> BaseException | Any:
    try:
        async with asyncio.timeout(GUARD):
            return await work
    except Exception as error:
        return error


@pytest.mark.parametrize("name", REFUSALS)
@pytest.mark.parametrize("flavour", SHELLS, ids=lambda shell: shell.name)
async def test_a_definite_refusal_is_told_as_such(
    flavour: Shell, name: str, refusing: Server, caplog: pytest.LogCaptureFixture
) -> None:
    """The class, the cause, the advice, and the bytes of every key."""
    refusal = REFUSALS[name]
    problems = []
    with refusing.client() as raw, caplog.at_level(logging.WARNING, "histstore"):
        async with _scene(flavour, _url(refusing)) as scene:
            before = _dump(raw)
            for write, work in WRITES.items():
                refusal.begin(refusing, raw)
                caplog.clear()
                told = await _told(work(scene))
                warned = [record.getMessage() for record in caplog.records]
                refusal.end(refusing, raw)
                if not refusal.deletes and write in FREES:
                    if isinstance(told, Exception):
                        problems.append(f"{write}: {told!r}")
                    _restore(raw, before)
                    continue
                text = str(told)
                if type(told) is not refusal.kind:
                    problems.append(f"{write}: {told!r}")
                elif not any(word in text for word in refusal.word.split("|")) or refusal.says not in text:
                    problems.append(f"{write}: the cause, or what to do, is missing: {text}")
                elif "nothing was written" not in text or "may have been" in text or "no answer" in text:
                    problems.append(f"{write}: it says: {text}")
                elif "script:" in text:
                    problems.append(f"{write}: it quotes the script: {text}")
                if scene.store.unsettled is not None:
                    problems.append(f"{write}: it is unsettled")
                if warned:
                    problems.append(f"{write}: a warning: {warned}")
                changed = [key for key, value in _dump(raw).items() if value != before[key]]
                if changed:
                    problems.append(f"{write}: {changed} changed")
                    _restore(raw, before)
    assert not problems, "\n".join(problems)


def _restore(raw: redis.Redis, dumps: dict[str, Any]) -> None:
    with raw.pipeline(transaction=False) as pipe:
        for name, dump in dumps.items():
            run, part = name.split()
            key = getattr(keys_of("histstore", run), part)
            pipe.delete(key)
            if dump is not None:
                pipe.restore(key, 600_000 if part == "lease" else 0, dump)
        pipe.execute()


@pytest.mark.parametrize("name", ["READONLY", "NOREPLICAS", "MISCONF"])
@pytest.mark.parametrize("flavour", SHELLS, ids=lambda shell: shell.name)
async def test_a_lease_that_cannot_be_given_up_lapses(
    flavour: Shell, name: str, refusing: Server, caplog: pytest.LogCaptureFixture
) -> None:
    """The exit of a lock whose body is done raises nothing: a warning names the run and the cause."""
    refusal = REFUSALS[name]
    with refusing.client() as raw, caplog.at_level(logging.WARNING, "histstore"):
        async with flavour.from_url(_url(refusing), retry=BRIEF) as backend:
            scope = backend.store("run").lock(ttl=1.0)
            await scope.__aenter__()
            refusal.begin(refusing, raw)
            await scope.__aexit__(None, None, None)
            warned = [record.getMessage() for record in caplog.records]
            refusal.end(refusing, raw)
            assert len(warned) == 1, warned
            assert "'run'" in warned[0], warned
            assert refusal.word in warned[0], warned
            assert refusal.says in warned[0], warned
        await until(lambda: not raw.exists(keys_of("histstore", "run").lease))


@pytest.mark.parametrize("flavour", SHELLS, ids=lambda shell: shell.name)
async def test_a_refusal_does_not_hide_an_earlier_copy(
    flavour: Shell, refusing: Server, wire: Callable[[str], Proxy]
) -> None:
    """A try whose answer was lost, and a second one that is refused: that stays unknown, and names the refusal."""
    between = wire(refusing.url)
    with refusing.client() as raw:

        async def demote() -> None:
            raw.replicaof("127.0.0.1", "1")

        async with flavour.from_url(between.url, retry=BRIEF) as backend:
            store = backend.store("run")
            await store.append(message("a"))
            between.before_cut = demote
            between.lose_replies(1, carries(SAVE))
            told = await _told(flavour.apart(store.append(message("b"), retry=TWICE)))
            raw.replicaof("NO", "ONE")
            assert type(told) is OutcomeUnknownError, told
            assert "READONLY" in told.reason
            assert "connect to the primary" in str(told)
            assert (await store.resolve()).version == 2


# ------------------------------------------------------------------- a command that is not allowed

COMMANDS = (
    "exists", "hmget", "xlen", "hexists", "llen", "lpos", "pttl", "time", "hset", "ltrim", "rpush", "pexpire",
    "persist", "pexpireat", "xadd", "xtrim", "lindex", "lpop", "lrem", "lrange", "del", "type", "publish",
)  # fmt: skip


@pytest.mark.parametrize("flavour", SHELLS, ids=lambda shell: shell.name)
@pytest.mark.parametrize("command", COMMANDS)
async def test_a_command_that_is_not_allowed(flavour: Shell, command: str, refusing: Server) -> None:
    """A command of the scripts taken away in mid-life: a call is done all the same, or names what is missing.

    BackendConfigError of a save or a delete means that nothing was written. Where a script may have written
    before it was stopped the outcome is open, and what resolve() says of it holds.
    """
    problems = []
    with refusing.client() as raw:
        async with _scene(flavour, _url(refusing)) as scene:
            before = _dump(raw)
            for write, work in WRITES.items():
                raw.execute_command("ACL", "SETUSER", USER, "+@all", f"-{command}")
                told = await _told(work(scene))
                raw.execute_command("ACL", "SETUSER", USER, "+@all")
                note = f"without {command}, {write}: {told!r}"
                after = _dump(raw)
                data = [key for key in after if key.split()[1] == "log" and after[key] != before[key]]
                if isinstance(told, (BackendUnavailableError, BackendConfigError, OutcomeUnknownError)):
                    text = str(told)
                    if "deploy/users.acl" not in text:
                        problems.append(f"{note}: it does not say what to do")
                    if data and not isinstance(told, OutcomeUnknownError):
                        problems.append(f"{note}: {data} changed")
                    if isinstance(told, OutcomeUnknownError) and "resolve()" not in text:
                        problems.append(note)
                elif isinstance(told, Exception) and not (write == "break_lease" or "lost" in str(told)):
                    problems.append(note)
                for store in (scene.store, scene.backend.store("new")):
                    with contextlib.suppress(Exception):
                        await store.resolve()
                if write == "turn.save" and not isinstance(told, Exception):
                    before = after  # the turn has moved on with its run
                _restore(raw, before)
                await scene.store.load()
    assert not problems, "\n".join([f"{len(problems)} problems", *problems[:40]])


# ---------------------------------------------------------------------------------- at the door

BARE = ("first append", "delete", "backend.delete of nothing", "resolve", "lock", "break_lease")


@pytest.mark.parametrize("flavour", SHELLS, ids=lambda shell: shell.name)
@pytest.mark.parametrize("write", BARE)
async def test_who_is_not_let_in(flavour: Shell, write: str, refusing: Server) -> None:
    """NOAUTH, WRONGPASS and too many clients: nothing was sent."""
    with refusing.client() as raw:
        raw.execute_command("ACL", "SETUSER", "default", "on", ">secret", "~*", "&*", "+@all")
        raw.execute_command("AUTH", "secret")
        urls = {
            "NOAUTH": f"redis://127.0.0.1:{refusing.port}/0",
            "WRONGPASS": f"redis://{USER}:wrong@127.0.0.1:{refusing.port}/0",
        }
        for word, url in urls.items():
            async with flavour.from_url(url, retry=BRIEF) as backend:
                scene = _bare(backend)
                told = await _told(WRITES[write](scene))
                assert type(told) is BackendConfigError, told
                assert word in str(told), told
                assert FAULTS[word].advice in str(told), told
                assert "wrong" not in str(told).lower().replace("wrongpass", ""), told
        raw.config_set("maxclients", "1")
        async with flavour.from_url(_url(refusing), retry=BRIEF) as backend:
            told = await _told(WRITES[write](_bare(backend)))
            assert type(told) is BackendUnavailableError, told
            assert "nothing was written" in str(told), told
        raw.config_set("maxclients", "100")
        raw.execute_command("ACL", "SETUSER", "default", "nopass")
        assert raw.keys("*") == []


def _bare(backend: Any) -> Scene:
    store = backend.store("run")
    attempt = Attempt("save", "histstore", store.run_id, None, Revision(1, ETAG), ETAG, datetime.now(UTC))
    return Scene(backend, store, None, None, attempt)


@pytest.mark.parametrize("flavour", SHELLS, ids=lambda shell: shell.name)
async def test_a_cluster_without_slots(flavour: Shell, private_server: Callable[..., Server]) -> None:
    """CLUSTERDOWN: definite, for every write, from the first call on."""
    server = private_server(cluster_enabled="yes")
    async with flavour.from_url(server.url, retry=BRIEF) as backend:
        scene = _bare(backend)
        for write in BARE:
            told = await _told(WRITES[write](scene))
            assert type(told) is BackendUnavailableError, (write, told)
            assert "CLUSTERDOWN" in str(told), told
            assert "CLUSTER INFO" in str(told), told


@pytest.fixture
def big_server(private_server: Callable[..., Server]) -> Server:
    """A server that takes half a minute to load what it has saved, and answers now and then meanwhile."""
    server = private_server(**{"key-load-delay": "5000", "loading-process-events-interval-bytes": "1024"})
    with server.client() as raw:
        with raw.pipeline(transaction=False) as pipe:
            for number in range(6000):  # 30 seconds
                pipe.set(f"key {number}", "x" * 100)
            pipe.execute()
        raw.save()
    return server


@pytest.mark.parametrize("flavour", SHELLS, ids=lambda shell: shell.name)
async def test_a_server_that_loads(flavour: Shell, big_server: Server) -> None:
    """LOADING: definite; and when it has loaded, calls go on."""
    async with flavour.from_url(big_server.url, retry=BRIEF) as backend:
        await backend.store("run").append(message("a"))
        big_server.kill()
        with contextlib.suppress(AssertionError):
            _start_without_waiting(big_server)
        await _told(backend.store("run").load())  # finds the old connection broken
        for write in BARE:
            told = await _told(WRITES[write](_bare(backend)))
            assert type(told) is BackendUnavailableError, (write, told)
            assert "LOADING" in str(told), (write, told)
            assert "wait until the server has loaded" in str(told), told
        big_server.kill()
        big_server.options["key-load-delay"] = "0"
        big_server.start()
        await _told(backend.store("run").load())
        await backend.store("run").append(message("b"), expected=ANY)


def _start_without_waiting(server: Server) -> None:
    assert server.folder is not None
    options = {"port": str(server.port), "bind": "127.0.0.1", "save": "", "appendonly": "no"}
    options |= {"dir": str(server.folder), "daemonize": "no", "loglevel": "warning"} | server.options
    command = [str(server_binary())] + [part for name, value in options.items() for part in (f"--{name}", value)]
    server.process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    end = time.monotonic() + GUARD
    while True:
        assert time.monotonic() < end
        with contextlib.suppress(OSError), socket.create_connection(("127.0.0.1", server.port), 1) as probe:
            probe.sendall(b"PING\r\n")
            if probe.recv(64):
                return
        time.sleep(0.005)
