"""Errors raised by real calls name their run, whatever goes wrong, in both shells."""

from __future__ import annotations

import asyncio
import inspect
import os
import pickle
import random
import re
import subprocess
import sys
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from typing import Any

import pytest
import redis

import histstore
from histstore import (
    ANY,
    Attempt,
    BackendConfigError,
    BackendError,
    BackendUnavailableError,
    ConflictError,
    ConversationSnapshot,
    CorruptSnapshotError,
    Durability,
    HistoryStoreError,
    LeaseLostError,
    LockedError,
    LockError,
    LockTimeoutError,
    NotReplicatedError,
    OutcomeUnknownError,
    RetryPolicy,
    Revision,
    RevisionGoneError,
    RunId,
    SnapshotError,
    SnapshotTooLargeError,
    UnsupportedVersionError,
)
from histstore.protocol.keys import Keys, run_keys
from histstore.protocol.scripts import ALL

from ..support.ids import stable
from ..support.samples import plain, user
from ..support.servers import Server
from ..support.shells import SHELLS, Shell, threaded_proxy
from .conftest import Backends

RUN = "tenant\n42/\x1b[31m" + "x" * 2_000 + "/end"
ONCE = RetryPolicy(attempts=1, deadline=10.0)
NOWHERE = "redis://127.0.0.1:1/0"  # nobody listens there
THEN = Revision(7, b"t" * 16)

Call = Callable[[Any], Awaitable[Any]]


def check_text(error: BaseException) -> None:
    """Fails for a text that is no single line below 300 characters, or says something twice."""
    text = str(error)
    assert len(text) < 300
    assert text.isprintable()
    assert len(repr(error)) < 340
    parts = [part.strip(" .") for part in re.split(r"[;:,()]", text)]
    said = [part for part in parts if len(part) > 12]
    assert len(said) == len(set(said)), text


def shows(text: str, run: str) -> bool:
    """Whether a text shows a run id, or the beginning and the end of one that is long."""
    named = repr(run)
    return named in text if len(named) <= 48 else named[:31] in text and named[-15:] in text


def check(error: BaseException, run: str = RUN) -> None:
    """Fails for an error that does not name its run, or is none of ours."""
    assert isinstance(error, HistoryStoreError), repr(error)
    assert error.run_id == run, repr(error)
    assert shows(str(error), run), str(error)
    check_text(error)
    twin = pickle.loads(pickle.dumps(error))
    assert (twin.run_id, str(twin)) == (run, str(error))


async def entered(scope: Any) -> None:
    async with scope:
        pass


async def listed(found: AsyncIterator[Any]) -> list[Any]:
    return [each async for each in found]


# One call of each public method of a store. The value that they save is always a new one.
CALLS: dict[str, Call] = {
    "load": lambda store: store.load(),
    "save": lambda store: store.save(ConversationSnapshot([user(1)])),
    "append": lambda store: store.append(user(1)),
    "splice": lambda store: store.splice(0, 0, user(1)),
    "update": lambda store: store.update(lambda _: ConversationSnapshot([user(1)])),
    "read": lambda store: store.read(-1),
    "info": lambda store: store.info(),
    "revisions": lambda store: listed(store.revisions()),
    "trim": lambda store: store.trim(),
    "delete": lambda store: store.delete(),
    "lock": lambda store: entered(store.lock(acquire_timeout=0)),
    "turn": lambda store: entered(store.turn(acquire_timeout=0)),
    "resolve": lambda store: store.resolve(attempt(store)),
}
# What else begins a call: the same methods in other forms, and what a backend does to one run.
FORMS: dict[str, Call] = {
    "load at": lambda store: store.load(at=1),
    "save any": lambda store: store.save(ConversationSnapshot([user(1)]), expected=ANY),
    "append any": lambda store: store.append(user(1), expected=ANY),
    "splice any": lambda store: store.splice(0, 0, user(1), expected=ANY),
    "splice nothing": lambda store: store.splice(-1, None),
    "lock and wait": lambda store: entered(store.lock(acquire_timeout=0.05)),
    "backend.delete": lambda store: store.test_backend.delete(RUN),
    "backend.break_lease": lambda store: store.test_backend.break_lease(RUN),
}


class Run:
    """A store, and the backend that made it."""

    def __init__(self, backend: Any, run: str = RUN) -> None:
        self.test_backend = backend
        self._store = backend.store(run)

    def __getattr__(self, name: str) -> Any:
        return getattr(self._store, name)


def attempt(store: Any, run: str = RUN) -> Attempt:
    return Attempt("save", store.test_backend.namespace, RunId(run), THEN, Revision(8, b"u" * 16), b"u" * 16)


ALL_CALLS = CALLS | FORMS


def test_every_method_is_called_here() -> None:
    """A new method of a store needs a row in `CALLS`."""
    members = inspect.getmembers(histstore.RedisHistoryStore, inspect.isfunction)
    assert {name for name, _ in members if name[0] != "_"} == set(CALLS)


@pytest.mark.parametrize("call", ALL_CALLS)
async def test_a_closed_backend_names_the_run(backends: Backends, call: str) -> None:
    """Of a worker of thousands of runs, the one whose call came too late."""
    backend = backends()
    await backend.aclose()
    with pytest.raises(BackendError) as caught:
        await ALL_CALLS[call](Run(backend))
    check(caught.value)


@pytest.mark.parametrize("call", ALL_CALLS)
async def test_a_server_that_is_down_names_the_run(backends: Backends, call: str) -> None:
    """An outage is told by every call that it fails, and each of them names its run."""
    with pytest.raises(BackendUnavailableError) as caught:
        await ALL_CALLS[call](Run(backends(NOWHERE, retry=ONCE)))
    check(caught.value)


@pytest.mark.parametrize("call", ALL_CALLS)
async def test_a_refusing_server_names_the_run(
    backends: Backends, private_server: Callable[..., Server], call: str
) -> None:
    """What is lacking is said once, however many commands are refused, and so is what to do about it."""
    server = private_server()
    with server.client() as client:
        client.execute_command("ACL", "SETUSER", "nobody", "on", ">secret", "~*", "&*", "+ping")
    backend = backends(server.url.replace("//", "//nobody:secret@"), retry=ONCE)
    with pytest.raises(BackendError) as caught:
        await ALL_CALLS[call](Run(backend))
    check(caught.value)
    assert str(caught.value).count("NOPERM") == 1
    assert str(caught.value).count("deploy/users.acl") == 1


@pytest.mark.parametrize("damage", ["a foreign head", "a newer format", "a foreign lease", "a foreign log"])
async def test_a_damaged_run_is_named(backends: Backends, raw: redis.Redis, namespace: str, damage: str) -> None:
    """By whichever call finds it."""
    keys = run_keys(namespace, RUN)
    found = set()
    for name, call in ALL_CALLS.items():
        backend = backends(retry=ONCE)
        await backend.store(RUN).append(user(0))
        match damage:
            case "a foreign head":
                raw.set(keys.head, "x")
            case "a newer format":
                raw.hset(keys.head, "format", "99")
            case "a foreign lease":
                raw.set(keys.lease, "x")
            case "a foreign log":
                raw.set(keys.log, "x")
        try:
            await call(Run(backend))
        except Exception as error:
            check(error)
            found.add(name)
        await backend.delete(RUN)
        raw.delete(*all_of(keys))
    assert len(found) >= 3, found


def all_of(keys: Keys) -> list[bytes]:
    return [getattr(keys, name) for name in Keys.__slots__]


async def test_whatever_is_given_that_is_of_no_use_is_refused_by_name(backends: Backends, namespace: str) -> None:
    """Each parameter of each method, with a value of no type that it could have."""
    backend = backends()
    refused = set()
    for name in CALLS:
        parameters = inspect.signature(getattr(histstore.RedisHistoryStore, name)).parameters
        for parameter in list(parameters)[1:]:
            store = Run(backend)
            values: dict[str, Any] = {
                key: each.default if each.default is not inspect.Parameter.empty else 0
                for key, each in parameters.items()
                if key != "self"
            }
            if name == "save":
                values["snapshot"] = ConversationSnapshot()
            if name == "update":
                values["fn"] = lambda before: before
            values[parameter] = object()
            many = [values.pop(key) for key in list(values) if parameters[key].kind is inspect.Parameter.VAR_POSITIONAL]
            first = [values.pop(key) for key in ("start", "stop", "snapshot", "fn") if key in values]
            positional = [*first, *([many[0]] if parameter == "messages" else [])]
            if name == "splice" and parameter == "pinned":
                positional.append(user(0))
            try:
                found = getattr(store, name)(*positional, **values)
                if name in ("lock", "turn"):
                    await entered(found)
                elif name == "revisions":
                    await listed(found)
                else:
                    await found
            except Exception as error:
                check(error)
                assert isinstance(error, SnapshotError)
                refused.add((name, parameter))
            else:
                pytest.fail(f"{name}({parameter}=) takes anything")
    assert len(refused) > 20


async def test_a_backend_refuses_a_policy_that_is_none(backends: Backends) -> None:
    backend = backends()
    calls: dict[str, Callable[[Any], Any]] = {
        "runs": lambda retry: listed(backend.runs(retry=retry)),
        "delete": lambda retry: backend.delete(RUN, retry=retry),
        "break_lease": lambda retry: backend.break_lease(RUN, retry=retry),
    }
    for name, call in calls.items():
        with pytest.raises(SnapshotError, match="retry= is a RetryPolicy or None") as caught:
            await call(3)
        assert caught.value.run_id == (None if name == "runs" else RUN)


# ------------------------------------------------------------------------------- each kind of error


class Scene:
    """What a test of one error has to hand."""

    def __init__(self, shell: Shell, backends: Backends, raw: redis.Redis, namespace: str, url: str) -> None:
        self.shell, self.backends, self.raw, self.namespace, self.url = shell, backends, raw, namespace, url


async def snapshot_error(scene: Scene) -> None:
    await scene.backends().store(RUN).append(object())


async def too_large(scene: Scene) -> None:
    await scene.backends(max_snapshot_bytes=10).store(RUN).append(plain("x" * 100))


async def conflict(scene: Scene) -> None:
    backend = scene.backends()
    await backend.store(RUN).append(user(0))
    await backend.store(RUN).append(user(1))


async def leased_twice(scene: Scene) -> None:
    store = scene.backends().store(RUN)
    async with store.lock():
        await entered(store.lock())


async def lock_timeout(scene: Scene) -> None:
    async with scene.backends().store(RUN).lock():
        await entered(scene.backends().store(RUN).lock(acquire_timeout=0.05))


async def locked(scene: Scene) -> None:
    async with scene.backends().store(RUN).lock():
        await scene.backends().store(RUN).append(user(0))


async def lease_lost(scene: Scene) -> None:
    store = scene.backends().store(RUN)
    async with store.lock(cancel=False):
        await scene.backends().break_lease(RUN)
        await store.append(user(0))


async def never_was(scene: Scene) -> None:
    store = scene.backends().store(RUN)
    await store.append(user(0))
    await store.load(at=99)


async def corrupt(scene: Scene) -> None:
    scene.raw.set(run_keys(scene.namespace, RUN).head, "x")
    await scene.backends().store(RUN).load()


async def newer_format(scene: Scene) -> None:
    store = scene.backends().store(RUN)
    await store.append(user(0))
    scene.raw.hset(run_keys(scene.namespace, RUN).head, "format", "99")
    await store.load()


async def not_replicated(scene: Scene) -> None:
    await scene.backends(durability=Durability(replicas=1, timeout=0.01)).store(RUN).append(user(0))


async def closed(scene: Scene) -> None:
    backend = scene.backends()
    await backend.aclose()
    await backend.store(RUN).load()


async def unavailable(scene: Scene) -> None:
    await scene.backends(NOWHERE, retry=ONCE).store(RUN).load()


async def misconfigured(scene: Scene) -> None:
    url = scene.url.replace("//", "//nobody:wrong@")
    await scene.backends(url, retry=ONCE).store(RUN).load()


async def outcome_unknown(scene: Scene) -> None:
    for script in ALL:
        scene.raw.script_load(script.source)
    with threaded_proxy(scene.url) as wire:
        async with scene.shell.from_url(wire.url, namespace=scene.namespace, retry=ONCE) as backend:
            await backend.store(RUN).load()
            wire.lose_replies(1)
            await backend.store(RUN).append(user(0))


SCENES: dict[type[HistoryStoreError], Callable[[Scene], Awaitable[None]]] = {
    SnapshotError: snapshot_error,
    SnapshotTooLargeError: too_large,
    ConflictError: conflict,
    LockError: leased_twice,
    LockTimeoutError: lock_timeout,
    LockedError: locked,
    LeaseLostError: lease_lost,
    RevisionGoneError: never_was,
    CorruptSnapshotError: corrupt,
    UnsupportedVersionError: newer_format,
    NotReplicatedError: not_replicated,
    BackendError: closed,
    BackendConfigError: misconfigured,
    BackendUnavailableError: unavailable,
    OutcomeUnknownError: outcome_unknown,
}


@pytest.mark.parametrize("kind", SCENES, ids=lambda kind: kind.__name__)
async def test_each_error_names_its_run(
    shell: Shell, backends: Backends, raw: redis.Redis, namespace: str, server_url: str, kind: type[HistoryStoreError]
) -> None:
    """Raised as in practice; of a run whose id is long and would garble a terminal."""
    with pytest.raises(kind) as caught:
        await SCENES[kind](Scene(shell, backends, raw, namespace, server_url))
    assert type(caught.value) is kind
    check(caught.value)
    raw.delete(*all_of(run_keys(namespace, RUN)))


def test_each_error_has_a_scene() -> None:
    """A new public error needs a row in `SCENES`."""
    names = {name for name in histstore.__all__ if name.endswith("Error")}
    assert names - {"HistoryStoreError"} == {kind.__name__ for kind in SCENES}


async def test_what_a_turn_and_a_lease_raise_names_the_run(backend: Any) -> None:
    """Each of their methods."""
    store, rival = backend.store(RUN), backend.store(RUN)
    raised: list[BaseException] = []

    async def raise_all() -> None:
        async with store.turn(cancel=False) as turn:
            for wrong in (
                lambda: turn.append(object()),
                lambda: turn.append(user(0), pinned=3),
                lambda: turn.append(meta=object()),
                lambda: turn.replace(object()),
                lambda: set_meta(turn, object()),
            ):
                with pytest.raises(SnapshotError) as refused:
                    wrong()
                raised.append(refused.value)
            assert turn.messages == ()
            await backend.break_lease(RUN)
            for call in (turn.save, turn.lease.renew):
                with pytest.raises(LeaseLostError) as caught:
                    await call()
                raised.append(caught.value)
            with pytest.raises(LeaseLostError) as caught:
                turn.lease.check()
            raised.append(caught.value)

    with pytest.raises(LeaseLostError) as lost:
        await raise_all()
    scope = rival.lock()
    await entered(scope)
    with pytest.raises(LockError, match="entered before") as again:
        await entered(scope)
    await rival.append(user(1))
    with pytest.raises(ConflictError) as moved:
        await entered(rival.turn(expected=None))
    for error in (*raised, lost.value, again.value, moved.value):
        check(error)


async def test_errors_of_a_backend_as_a_whole_name_no_run(backends: Backends) -> None:
    """A walk over all runs, and options."""
    with pytest.raises(BackendUnavailableError) as caught:
        await listed(backends(NOWHERE, retry=ONCE).runs())
    assert caught.value.run_id is None
    check_text(caught.value)


async def test_an_error_of_another_run_keeps_its_name(backend: Any) -> None:
    """A function that `update` runs may use other stores, or raise what it likes."""
    await backend.store("other").append(user(0))

    async def uses_another(_before: Any) -> Any:
        await backend.store("other").append(user(1))

    def uses_another_store(_before: Any) -> Any:
        backend.inner.store("other").append(user(1))

    asynchronous = isinstance(backend, histstore.RedisBackend)
    with pytest.raises(ConflictError) as caught:
        await backend.store("run").update(uses_another if asynchronous else uses_another_store)
    check(caught.value, "other")

    mine = LockError("mine")

    def raises(_before: Any) -> Any:
        raise mine

    with pytest.raises(LockError) as own:
        await backend.store("run").update(raises)
    assert own.value is mine
    assert mine.run_id is None


async def test_a_file_is_named_by_its_path(shell: Shell, tmp_path: Any) -> None:
    """As in CorruptSnapshotError."""
    path = tmp_path / "run.json"
    store = shell.dress(shell.module.JsonFileHistoryStore(path))
    await store.save(ConversationSnapshot())
    with pytest.raises(ConflictError) as caught:
        await store.save(ConversationSnapshot([user(0)]), expected=None)
    check(caught.value, str(path))
    path.write_text('{"version": 99}')
    with pytest.raises(UnsupportedVersionError) as newer:
        await store.load()
    check(newer.value, str(path))


# ------------------------------------------------------------------------------ revisions that are not there


async def gone(store: Any, at: Any) -> RevisionGoneError:
    with pytest.raises(RevisionGoneError) as caught:
        await store.load(at=at)
    check(caught.value, "run")
    return caught.value


async def test_a_version_that_never_was_is_no_trimmed_one(backend: Any) -> None:
    """Nor a lost one: each has a reason and a text of its own, whose advice helps."""
    store = backend.store("run")
    error = await gone(store, 1)
    assert (error.reason, error.newest) == ("absent", None)
    assert await store.load() is None  # what the text says
    for number in range(5):
        revision = await store.append(user(number))
    # keep_revisions=0: nothing but the newest is promised, though appends leave what they build on.
    error = await gone(store, 99)
    assert (error.reason, error.newest) == ("never", 5)
    assert "has never had version 99 (its newest is 5)" in str(error)
    assert "keep_revisions" not in str(error)
    assert (await store.load()).revision == revision  # what the text says
    await store.trim()
    error = await gone(store, 2)
    assert error.reason == "trimmed"
    assert "keep_revisions" in str(error)
    error = await gone(store, revision)
    assert error.reason == "trimmed"
    # Another history in the place of the one that the revision is of.
    await store.delete()
    again = await backend.store("run").append(user(0))
    assert again.version == 1
    error = await gone(store, revision)
    assert error.reason == "lost"
    assert "begun anew" in str(error)
    error = await gone(store, Revision(1, b"x" * 16))
    assert error.reason == "lost"


async def test_what_an_entry_builds_on_may_be_trimmed_before_it(backends: Backends) -> None:
    """The text does not say that the run holds what it has just said is trimmed."""
    store = backends(keep_revisions=3).store("run")
    rng = random.Random(0)
    missing = []
    for _ in range(60):
        if store.revision is None or rng.random() < 0.6:
            await store.append(plain("x" * rng.choice([10, 3000])))
        else:
            await store.splice(0, rng.randrange(1, 5))
        newest = store.revision.version
        for version in range(max(1, newest - 8), newest):
            try:
                await store.load(at=version)
            except RevisionGoneError as error:
                check(error, "run")
                missing.append(error)
    inside = [error for error in missing if error.requested >= error.oldest]
    assert inside
    for error in missing:
        assert error.reason == "trimmed"
        assert ("the run holds" in str(error)) is (error not in inside)


# ---------------------------------------------------------------------------------------- attempts

RESOLVE = """
import asyncio, sys
import histstore, histstore.sync

def main():
    url, namespace, shell, text = sys.argv[1:]
    attempt = histstore.Attempt.parse(text)
    if shell == "sync":
        with histstore.sync.RedisBackend.from_url(url, namespace=namespace) as backend:
            return backend.store(attempt.run_id).resolve(attempt)
    async def resolve():
        async with histstore.RedisBackend.from_url(url, namespace=namespace) as backend:
            return await backend.store(attempt.run_id).resolve(attempt)
    return asyncio.run(resolve())

found = main()
print("never" if found is None else f"{found} {found.length} {found.size} {found.fence}")
"""


@pytest.mark.parametrize("applied", [True, False], ids=["applied", "never"])
async def test_another_process_settles_what_a_text_names(
    shell: Shell, server_url: str, namespace: str, raw: redis.Redis, applied: bool
) -> None:
    """The text of an attempt is all that it takes: from a log, or a queue, to a process that knows nothing else."""
    for script in ALL:
        raw.script_load(script.source)
    run = "tenant 42/\n'ü':%41"
    with threaded_proxy(server_url) as wire:
        async with shell.from_url(wire.url, namespace=namespace, retry=ONCE) as backend:
            store = backend.store(run)
            await store.append(user(0))
            if applied:
                wire.lose_replies(1)
            else:
                wire.keep_back(1, lambda _request: True)
            with pytest.raises(OutcomeUnknownError) as caught:
                await store.append(user(1))
    text = str(caught.value.attempt)
    command = [sys.executable, "-c", RESOLVE, server_url, namespace, shell.name, text]
    process = await asyncio.to_thread(
        subprocess.run, command, capture_output=True, text=True, timeout=60, env=dict(os.environ), check=False
    )
    assert process.returncode == 0, process.stderr
    made = caught.value.attempt.revision
    assert process.stdout.strip() == (f"{made} 2 {made.size} {made.fence}" if applied else "never")


# ---------------------------------------------------------------------------------- turns and their meta


async def test_a_turn_saves_meta(backend: Any) -> None:
    """With messages, without them, set or given; read-only as it will be saved."""
    store = backend.store("run")
    given = {"job": [1]}
    async with store.turn() as turn:
        assert turn.meta == {}
        turn.append(user(0), meta=given)
        given["job"].append(2)
        assert turn.meta == turn.snapshot.meta == {"job": [1]}
        with pytest.raises(TypeError):
            turn.meta["job"] = 2
        turn.append(user(1))
        assert turn.meta == {"job": [1]}
    assert (await backend.store("run").load()).meta == {"job": [1]}
    async with store.turn() as turn:
        assert turn.meta == {"job": [1]}
        set_meta(turn, {"job": 2})
        assert turn.meta == {"job": 2}
        assert turn.messages == (user(0), user(1))
        revision = await turn.save()
        assert (revision, turn.revision) == (turn.revision, revision)
        assert revision.version == 2
        assert await turn.save() is None
        turn.append(meta={"job": 3})
    found = await backend.store("run").load()
    assert (found.meta, found.messages, found.revision.version) == ({"job": 3}, (user(0), user(1)), 3)
    async with store.turn() as turn:
        set_meta(turn, {})
    assert (await backend.store("run").load()).meta == {}


def set_meta(turn: Any, meta: Any) -> None:
    getattr(turn, "inner", turn).meta = meta


async def test_a_first_turn_may_save_meta_alone(backend: Any) -> None:
    """It counts as pending, at the exit, too."""
    async with backend.store("run").turn() as turn:
        set_meta(turn, {"title": "x"})
    found = await backend.store("run").load()
    assert (found.messages, found.meta) == ((), {"title": "x"})


@pytest.mark.parametrize(
    "meta", [None, 3, "text", [("a", 1)], {1: 2}, {"a": object()}, {"a": float("nan")}], ids=stable
)
async def test_meta_that_cannot_be_saved_changes_nothing(backend: Any, meta: Any) -> None:
    """Neither the meta nor the messages that came with it."""
    async with backend.store("run").turn() as turn:
        turn.append(user(0), meta={"a": 1})
        for wrong in (lambda: set_meta(turn, meta), lambda: turn.append(user(1), meta=meta)):
            with pytest.raises(SnapshotError, match="meta") as caught:
                wrong()
            check(caught.value, "run")
        assert (turn.messages, turn.meta) == ((user(0),), {"a": 1})


# ----------------------------------------------------------------------------------- nothing to write

NOTHING: dict[str, Call] = {
    "splice": lambda store: store.splice(-1, None),
    "splice any": lambda store: store.splice(-1, None, expected=ANY),
    "splice none": lambda store: store.splice(0, 5, expected=None),
    "splice meta": lambda store: store.splice(0, 5, meta={}),
    "append": lambda store: store.append(),
    "append any": lambda store: store.append(expected=ANY),
    "append none": lambda store: store.append(expected=None),
    "append meta": lambda store: store.append(meta={}),
}


@pytest.mark.parametrize("call", NOTHING)
async def test_nothing_makes_no_empty_run(backend: Any, raw: redis.Redis, namespace: str, call: str) -> None:
    """To drop what is not there, or to add nothing, writes nothing and returns None."""
    store = backend.store("run")
    assert await NOTHING[call](store) is None
    assert store.revision is None
    assert store.unsettled is None
    assert list(raw.scan_iter(match=f"{namespace}:*")) == []
    assert await store.load() is None
    revision = await store.append(user(0))
    assert revision.version == 1


@pytest.mark.parametrize("call", ["splice", "append", "splice none", "append none"])
async def test_nothing_is_still_compared(backend: Any, call: str) -> None:
    """A store that takes a run for absent hears that it is not, and by whom it is held before that."""
    rival = backend.store("run")
    revision = await rival.append(user(0))
    store = backend.store("run")
    with pytest.raises(ConflictError) as caught:
        await NOTHING[call](store)
    assert (caught.value.expected, caught.value.actual) == (None, revision)
    check(caught.value, "run")
    await rival.delete()


@pytest.mark.parametrize("call", NOTHING)
async def test_nothing_obeys_leases(backends: Backends, shell: Shell, call: str) -> None:
    """As a save of what did not change does."""
    async with backends().store("run").lock():
        with pytest.raises(LockedError):
            await NOTHING[call](backends().store("run"))


@pytest.mark.parametrize("call", ["splice", "append"])
async def test_nothing_onto_a_run_returns_its_revision(backend: Any, call: str) -> None:
    """A tail that is not there is dropped from a run that is."""
    store = backend.store("run")
    revision = await store.save(ConversationSnapshot())
    assert await NOTHING[call](store) == revision
    assert (await backend.store("run").load()).revision == revision


async def test_meta_alone_makes_a_run(backend: Any) -> None:
    """That is something to write."""
    revision = await backend.store("run").splice(-1, None, meta={"a": 1})
    assert revision.version == 1
    assert (await backend.store("run").load()).meta == {"a": 1}


# ------------------------------------------------------------------------------------ a slow update(fn)


@pytest.mark.parametrize("shell_name", [shell.name for shell in SHELLS])
async def test_update_does_not_count_the_time_of_its_function(server_url: str, namespace: str, shell_name: str) -> None:
    """A model call takes minutes: a race that is lost after it is tried again all the same."""
    policy, runs = RetryPolicy(deadline=0.5), []
    if shell_name == "sync":
        with histstore.sync.RedisBackend.from_url(server_url, namespace=namespace) as backend:

            def slow(before: Any) -> Any:
                runs.append(before)
                if len(runs) == 1:
                    backend.store("run").append(user(0))
                time.sleep(0.8)
                return (before or ConversationSnapshot()).append(user(1))

            backend.store("run").update(slow, retry=policy)
            found = backend.store("run").load()
    else:
        async with histstore.RedisBackend.from_url(server_url, namespace=namespace) as other:

            async def model(before: Any) -> Any:
                runs.append(before)
                if len(runs) == 1:
                    await other.store("run").append(user(0))
                await asyncio.sleep(0.8)
                return (before or ConversationSnapshot()).append(user(1))

            await other.store("run").update(model, retry=policy)
            found = await other.store("run").load()
    assert len(runs) == 2
    assert found is not None
    assert found.messages == (user(0), user(1))


async def test_update_that_always_loses_ends(backend: Any, shell: Shell) -> None:
    """However long the function takes: what is between its runs is bounded."""
    runs = []
    rival = backend.store("run")
    await rival.append(user(0))
    inner = getattr(rival, "inner", rival)

    def lose(before: Any) -> Any:
        runs.append(before)
        assert len(runs) < 10_000
        return before.append(user(1))

    async def loses(before: Any) -> Any:
        await inner.append(user(2), expected=ANY)
        return lose(before)

    def loses_too(before: Any) -> Any:
        inner.append(user(2), expected=ANY)
        return lose(before)

    with pytest.raises(ConflictError) as caught:
        await backend.store("run").update(
            loses if shell.name == "async" else loses_too, retry=RetryPolicy(deadline=0.1)
        )
    check(caught.value, "run")
    assert len(runs) > 1
