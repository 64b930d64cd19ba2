"""What a RedisBackend does: options, URLs, clients of one's own, all runs at once. In both shells."""

from __future__ import annotations

import asyncio
import pickle
from typing import Any

import pytest
import redis
import redis.asyncio
from redis.backoff import NoBackoff
from redis.retry import Retry

import histstore
from histstore import (
    ANY,
    BackendConfigError,
    BackendError,
    ConversationSnapshot,
    CorruptSnapshotError,
    Durability,
    HistoryStoreError,
    RetryPolicy,
    RunId,
    SnapshotError,
)
from histstore.protocol.keys import run_keys

from ..support.generations import expires_at
from ..support.ids import stable
from ..support.samples import PLAIN, TYPED, faithful, plain, user
from ..support.shells import Shell, threaded_proxy
from .conftest import Backends
from .test_redis_store import ODD_RUNS

Snapshot = ConversationSnapshot[Any]


# ---------------------------------------------------------------------------------------------- runs


async def test_runs_yields_every_run_once(backend: Any) -> None:
    """More runs than one SCAN step brings, each once, with what info() tells."""
    made = {f"run-{number}": await backend.store(f"run-{number}").append(plain(number)) for number in range(600)}
    found = [info async for info in backend.runs()]
    assert len(found) == 600
    assert {info.run_id: info.revision for info in found} == made
    assert all(type(info.run_id) is RunId and info.length == 1 for info in found)


async def test_runs_matches_prefixes_of_the_ids_themselves(backend: Any) -> None:
    """Run ids and prefixes are any text: globs and braces in them stand for themselves."""
    for run in [*ODD_RUNS, "plain", "pla*n"]:
        await backend.store(run).append(user(0))
    assert {info.run_id async for info in backend.runs()} == {*ODD_RUNS, "plain", "pla*n"}
    for prefix in ["p", "pla", "pla*", "a{", "a{b}", "%", "*", "[", "\\", "tab\t", "ün", " ", "nothing"]:
        expected = {run for run in [*ODD_RUNS, "plain", "pla*n"] if run.startswith(prefix)}
        assert {info.run_id async for info in backend.runs(prefix=prefix)} == expected, prefix


async def test_runs_leaves_out_what_is_not_a_run(backends: Backends, namespace: str, raw: redis.Redis) -> None:
    """Other namespaces, deleted runs and foreign keys are not runs."""
    backend, other = backends(), backends(namespace=f"{namespace}:2")
    await backend.store("a").append(user(0))
    await other.store("b").append(user(0))
    await backend.store("c").append(user(0))
    await backend.delete("c")
    raw.set(f"{namespace}:other", "x")
    assert [info.run_id async for info in backend.runs()] == ["a"]
    assert [info.run_id async for info in other.runs()] == ["b"]
    with pytest.raises(SnapshotError, match="prefix"):
        async for _ in backend.runs(prefix=None):
            pass


async def test_runs_tells_of_damage_last(backend: Any, namespace: str, raw: redis.Redis) -> None:
    """A damaged run does not hide the others, and is not passed over in silence."""
    for run in "abcd":
        await backend.store(run).append(user(0))
    raw.hset(run_keys(namespace, "b").head, "length", "7")
    seen = []

    async def walk() -> None:
        async for info in backend.runs():
            seen.append(info.run_id)

    with pytest.raises(CorruptSnapshotError) as caught:
        await walk()
    assert sorted(seen) == ["a", "c", "d"]
    assert caught.value.run_id == "b"


@pytest.mark.parametrize("part", ["head", "log", "etags", "marks", "lease"])
async def test_a_key_of_a_foreign_type_is_damage(backend: Any, raw: redis.Redis, namespace: str, part: str) -> None:
    """A save that meets what is not ours says so, at once and whichever key it is, and has written nothing."""
    keys = run_keys(namespace, "run")
    store = backend.store("run")
    await store.append(user(0))
    raw.set(getattr(keys, part), "not ours")
    before = [raw.dump(key) for key in (keys.head, keys.log, keys.etags)]
    with pytest.raises(CorruptSnapshotError) as caught:
        await store.append(user(1))
    assert caught.value.run_id == "run"
    assert store.unsettled is None
    assert [raw.dump(key) for key in (keys.head, keys.log, keys.etags)] == before
    raw.delete(getattr(keys, part))  # nobody can give up a lease that is none


async def test_backend_delete(backend: Any) -> None:
    """The backend deletes by run id, and tells whether there was something."""
    await backend.store("run").append(user(0))
    assert await backend.delete("run") is True
    assert await backend.delete("run") is False
    assert await backend.store("run").load() is None


# ------------------------------------------------------------------------------------------- run_ttl


def _deadlines(raw: redis.Redis, namespace: str, run: str = "run") -> set[int]:
    """The deadlines of all keys of a run that are there, in milliseconds; -1: none."""
    keys = run_keys(namespace, run)
    assert raw.exists(keys.head, keys.log, keys.etags) == 3
    return {expires_at(raw, key) for key in (keys.head, keys.log, keys.etags)}


async def test_run_ttl_is_on_every_key_in_the_same_millisecond(
    backends: Backends, raw: redis.Redis, namespace: str
) -> None:
    """Each save, changed or not, renews the lifetime of all keys of the run at once."""
    backend = backends(run_ttl=3600)
    store = backend.store("run")
    snapshot = Snapshot([user(0)])

    async def writes() -> Any:
        yield await store.save(snapshot)
        yield await store.save(snapshot)
        yield await store.append(user(1))
        yield await store.splice(0, 1)
        yield await store.append(user(2), expected=ANY)
        yield await store.update(lambda before: before.append(user(3)))
        yield await store.trim()

    async for revision in writes():
        [deadline] = _deadlines(raw, namespace)
        seconds, micros = raw.time()
        assert 0 <= int(seconds) * 1000 + int(micros) // 1000 + 3_600_000 - deadline < 60_000, revision
        info = await store.info()
        assert abs(info.expires_at.timestamp() * 1000 - deadline) < 100
        keys = run_keys(namespace, "run")
        for key in (keys.head, keys.log, keys.etags):
            raw.pexpire(key, 1000_000)


async def test_without_run_ttl_lifetimes_are_left_alone(backends: Backends, raw: redis.Redis, namespace: str) -> None:
    """A backend without run_ttl neither sets nor clears what another one, or an operator, has set."""
    store = backends().store("run")
    await store.append(user(0))
    assert _deadlines(raw, namespace) == {-1}
    await backends(run_ttl=3600).store("run").append(user(1), expected=ANY)
    [deadline] = _deadlines(raw, namespace)
    await store.append(user(2), expected=ANY)
    snapshot = await store.load()
    await store.save(snapshot)
    await store.save(snapshot.splice(0, 1))
    await store.trim()
    assert _deadlines(raw, namespace) == {deadline}


async def test_an_expired_run_is_absent(backends: Backends, raw: redis.Redis, namespace: str) -> None:
    """When its time is over a run is gone as a whole, and what descends from it conflicts."""
    store = backends(run_ttl=0.05).store("run")
    snapshot = Snapshot([user(0)])
    await store.save(snapshot)
    for _ in range(10_000):
        await asyncio.sleep(0.001)
        if not list(raw.scan_iter(match=f"{namespace}:*")):
            break
    else:
        raise AssertionError("keys outlive their run")
    with pytest.raises(histstore.ConflictError):
        await store.save(snapshot.append(user(1)))
    assert await store.load() is None


async def test_no_lifetime_is_too_short(backends: Backends, raw: redis.Redis, namespace: str) -> None:
    """A lifetime that ends while the save still runs leaves nothing behind that lives for ever."""
    backend = backends(run_ttl=0.001)
    for number in range(400):
        await backend.store(f"run-{number}").append(user(0))
    left = [key for key in raw.scan_iter(match=f"{namespace}:*") if raw.pttl(key) == -1]
    assert left == []


# ------------------------------------------------------------------------------------------- options


@pytest.mark.parametrize(
    "options",
    [
        {"namespace": ""},
        {"namespace": 3},
        {"namespace": "\ud800"},
        {"run_ttl": 0},
        {"run_ttl": -1},
        {"run_ttl": float("nan")},
        {"run_ttl": "60"},
        {"run_ttl": True},
        {"keep_revisions": -1},
        {"keep_revisions": 1.5},
        {"keep_revisions": True},
        {"max_snapshot_bytes": 0},
        {"max_snapshot_bytes": None},
        {"retry": 3},
        {"durability": 1},
    ],
    ids=repr,
)
async def test_an_option_of_no_use_is_refused(shell: Shell, options: dict[str, Any]) -> None:
    """Bad options are SnapshotError when the backend is made, and name the option."""
    with pytest.raises(SnapshotError) as caught:
        shell.from_url("redis://localhost:6379/0", **options)
    assert next(iter(options)) in str(caught.value)


async def test_defaults(shell: Shell) -> None:
    """from_url needs no argument, and constructing costs no I/O."""
    backend = shell.dress(shell.module.RedisBackend.from_url())
    assert (backend.namespace, backend.run_ttl, backend.keep_revisions) == ("histstore", None, 0)
    assert (backend.retry, backend.durability) == (RetryPolicy(), Durability())
    assert backend.max_snapshot_bytes == 64 * 2**20
    await backend.aclose()


async def test_namespaces_are_apart(backends: Backends, namespace: str) -> None:
    """The same run id in two namespaces is two runs, also where one name starts with the other."""
    names = [namespace, f"{namespace}:", f"{namespace}x", f"{namespace}:{{run}}"]
    for number, name in enumerate(names):
        await backends(namespace=name).store("run").append(plain(number))
    for number, name in enumerate(names):
        backend = backends(namespace=name)
        assert (await backend.store("run").load()).messages == (plain(number),)
        assert [info.run_id async for info in backend.runs()] == ["run"]


async def test_every_key_is_in_the_namespace(shell: Shell, private_server: Any) -> None:
    """Nothing is written outside of the namespace, and all keys of a run share one hash tag."""
    server = private_server()
    async with shell.from_url(server.url, namespace="n:s", run_ttl=60) as backend:
        store = backend.store("a{b")
        await store.append(user(0))
        await store.delete()
        await store.append(user(0))
    with redis.Redis.from_url(server.url) as client:
        keys = [key.decode() for key in client.scan_iter()]
    assert len(keys) >= 3
    assert all(key.startswith("n%3As:{a%7Bb}:") for key in keys), keys


# -------------------------------------------------------------------------------------------- closing


async def test_a_closed_backend_says_so(backends: Backends) -> None:
    """Closing may be repeated; a call afterwards is an error that says what to do."""
    backend = backends()
    store = backend.store("run")
    async with backend:
        await store.append(user(0))
    await backend.aclose()
    with pytest.raises(BackendError, match="closed"):
        await store.load()


async def test_connections_are_given_back(backends: Backends, raw: redis.Redis) -> None:
    """After aclose() no connection of the backend is left at the server."""
    backend = backends()
    name = f"conn-{id(backend)}"
    backend = backends(f"{_url(raw)}?client_name={name}")
    for number in range(3):
        await backend.store(f"run-{number}").append(user(0))
    assert sum(each["name"] == name for each in raw.client_list()) == 1
    await backend.aclose()
    for _ in range(1000):
        await asyncio.sleep(0.001)
        if not any(each["name"] == name for each in raw.client_list()):
            break
    else:
        raise AssertionError("the connection is still there")


def _url(raw: redis.Redis) -> str:
    made_with = raw.connection_pool.connection_kwargs
    return f"redis://{made_with['host']}:{made_with['port']}/{made_with.get('db', 0)}"


# ---------------------------------------------------------------------------------------------- URLs


async def test_query_options_of_redis_py(shell: Shell, raw: redis.Redis, namespace: str) -> None:
    """Database and query options of the URL hold for every connection."""
    name = f"client-{namespace}"
    base = _url(raw).rsplit("/", 1)[0]
    url = f"{base}/5?client_name={name}&socket_timeout=3.5&max_connections=7&socket_keepalive=yes&decode_responses=1"
    async with shell.from_url(url, namespace=namespace) as backend:
        await backend.store("run").append({"bytes": b"\xff\xfe"})
        assert (await backend.store("run").load()).messages == ({"bytes": b"\xff\xfe"},)
        mine = [each for each in raw.client_list() if each["name"] == name]
        assert {each["db"] for each in mine} == {"5"}
    assert list(raw.scan_iter(match=f"{namespace}:*")) == []
    with redis.Redis.from_url(f"{base}/5") as other:
        keys = list(other.scan_iter(match=f"{namespace}:*"))
        assert keys
        other.delete(*keys)


async def test_a_unix_socket(shell: Shell, private_server: Any, tmp_path: Any) -> None:
    """unix:// URLs work, with a database."""
    path = tmp_path / "s.sock"
    private_server(unixsocket=str(path))
    async with shell.from_url(f"unix://{path}?db=2") as backend:
        await backend.store("run").append(user(0))
        assert (await backend.store("run").load()).messages == (user(0),)


async def test_a_password_in_the_url(shell: Shell, private_server: Any) -> None:
    """A right password connects; a wrong one is an error at once, which does not quote it."""
    server = private_server(requirepass="s3cret word")
    async with shell.from_url(f"redis://:s3cret%20word@127.0.0.1:{server.port}/0") as backend:
        await backend.store("run").append(user(0))
        assert "s3cret" not in repr(backend) + repr(vars(backend))
    for credentials in ("", ":wr0ng@", "nobody:wr0ng@"):
        async with shell.from_url(f"redis://{credentials}127.0.0.1:{server.port}/0") as backend:
            with pytest.raises(BackendConfigError) as caught:
                await backend.store("run").load()
            error: BaseException | None = caught.value
            while error is not None:
                assert "wr0ng" not in str(error) + repr(error)
                error = error.__cause__ or error.__context__


@pytest.mark.parametrize(
    "url",
    [
        "redis://user:s3cret@localhost:port/0",
        "redis://user:s3cret@localhost:99999999/0",
        "redis://user:s3cret@[::1/0",
        "redis://user:s3cret@localhost:6379/0?socket_timeout=soon",
        "redis://user:s3cret@localhost:6379/0?socket_timeout=-1",
        "redis://user:s3cret@localhost:6379/0?nonsense=s3cret",
        "redis://user:s3cret@localhost:6379/0?max_connections=none",
        "redis://user:s3cret@localhost:6379/0?protocol=s3cret",
        "http://user:s3cret@localhost:6379/0",
        "s3cret",
        "user:s3cret@localhost",
        "redis+nonsense://user:s3cret@localhost",
        "",
        "\ud800",
        b"redis://localhost",
        None,
        3,
    ],
    ids=repr,
)
async def test_a_url_of_no_use_is_refused_without_quoting_it(shell: Shell, url: Any) -> None:
    """A bad URL is a SnapshotError when the backend is made; neither it nor its causes show the password."""
    with pytest.raises(SnapshotError) as caught:
        shell.from_url(url)
    error: BaseException | None = caught.value
    while error is not None:
        assert "s3cret" not in str(error) + repr(error)
        error = error.__cause__ or (None if error.__suppress_context__ else error.__context__)
    assert "s3cret" not in str(pickle.loads(pickle.dumps(caught.value)))


# ---------------------------------------------------------------------------------- clients of one's own


async def test_a_client_of_ones_own(shell: Shell, server_url: str, namespace: str) -> None:
    """A client is neither changed nor closed, and none of its connections is used."""
    client = shell.redis.Redis.from_url(server_url, client_name="theirs", decode_responses=True, protocol=3)
    settings = dict(client.connection_pool.connection_kwargs)
    hooks = client.get_retry()
    backend = shell.backend(client, namespace=namespace)
    async with backend:
        await backend.store("run").save(Snapshot(TYPED + PLAIN, meta={"b": b"\xff"}))
        found = await backend.store("run").load()
        assert [faithful(m) for m in found.messages] == [faithful(m) for m in TYPED + PLAIN]
        assert [info.run_id async for info in backend.runs()] == ["run"]
    assert client.connection_pool.connection_kwargs == settings
    assert client.get_retry() is hooks
    assert client.connection_pool._in_use_connections == set()
    set_, got = client.hset(f"{namespace}:x", "a", "ä"), client.hmget(f"{namespace}:x", "a")
    assert (got if shell.name == "sync" else [await set_, await got][1]) == ["ä"]
    await shell.close_client(client)


async def test_retries_of_the_client_are_off(shell: Shell, server_url: str, namespace: str) -> None:
    """redis-py would send a script ten times; here the policy alone decides."""
    with threaded_proxy(server_url) as wire:
        kind = redis.asyncio.retry.Retry if shell.name == "async" else Retry
        client = shell.redis.Redis.from_url(
            wire.url, retry=kind(NoBackoff(), 5), retry_on_timeout=True, retry_on_error=[redis.ConnectionError]
        )
        backend = shell.backend(client, namespace=namespace, retry=RetryPolicy(attempts=2, base=0.001))
        async with backend:
            store = backend.store("run")
            await store.append(user(0))
            before = wire.lost
            wire.lose_replies(100, lambda request: b"EVALSHA" in request)
            with pytest.raises(histstore.OutcomeUnknownError):
                await store.append(user(1))
            assert wire.lost - before == 2
            wire.lose_replies(0)
            assert (await store.resolve()).version == 2
        await shell.close_client(client)


@pytest.mark.parametrize("wrong", [None, "redis://localhost", object()], ids=stable)
async def test_what_is_no_client_is_refused(shell: Shell, wrong: Any) -> None:
    """The error says what to give instead."""
    with pytest.raises(SnapshotError, match="from_url"):
        shell.backend(wrong)


async def test_a_client_of_the_other_flavour_is_refused(shell: Shell) -> None:
    """A blocking client in the asyncio shell, and the other way round, are told apart at once."""
    other = redis.Redis() if shell.name == "async" else redis.asyncio.Redis()
    with pytest.raises(SnapshotError, match="same flavour"):
        shell.backend(other)


async def test_an_embedded_server(shell: Shell) -> None:
    """A server of one's own, with nothing to set up; all of the API works on it."""
    backend = shell.dress(shell.module.RedisBackend.embedded(run_ttl=60))
    async with backend:
        store = backend.store("run")
        await store.append(*TYPED, *PLAIN)
        assert len((await backend.store("run").load()).messages) == len(TYPED + PLAIN)
        assert [info.run_id async for info in backend.runs()] == ["run"]
    with pytest.raises(HistoryStoreError):
        await store.load()
