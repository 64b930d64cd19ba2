"""The ACL files of deploy/ allow what the library needs, and nothing else. On every server."""

from __future__ import annotations

import re
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import redis
from redis.backoff import ConstantBackoff
from redis.retry import Retry

from histstore import ANY, BackendConfigError, ConversationSnapshot, Durability

from ..support.samples import PLAIN, TYPED, user
from ..support.servers import free_port
from ..support.shells import Shell, until
from .conftest import DEPLOY, PASSWORDS, Deployed, rules_of

Snapshot = ConversationSnapshot[Any]


@pytest.mark.parametrize("durability", [Durability(), Durability(fsync=True, timeout=10)], ids=["plain", "fsync"])
async def test_all_of_the_api_works_under_the_acl(shell: Shell, deployed: Deployed, durability: Durability) -> None:
    """Every call, with every option that sends another command."""
    if durability.fsync and not deployed.has_waitaof:
        pytest.skip("WAITAOF came with Redis 7.2")
    async with shell.from_url(deployed.url(), run_ttl=3600, keep_revisions=3, durability=durability) as backend:
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
    async with shell.from_url(deployed.url()) as backend:
        await backend.store("for-ever").save(Snapshot())
        await backend.store("for-ever").delete()
        await backend.store("for-ever").save(Snapshot())
        await backend.store("for-ever").delete()


async def test_another_namespace_is_out_of_bounds(shell: Shell, deployed: Deployed) -> None:
    """The key pattern keeps users of one server apart; the error comes before anything is written."""
    async with shell.from_url(deployed.url(), namespace="histstores") as backend:
        for call in (backend.store("run").load, lambda: backend.store("run").append(user(0))):
            with pytest.raises(BackendConfigError, match=r"permission|NOPERM"):
                await call()


async def test_strangers_are_kept_out(shell: Shell, deployed: Deployed) -> None:
    """Without the user's name and password nothing can be read."""
    async with shell.from_url(deployed.server.url) as backend:
        with pytest.raises(BackendConfigError):
            await backend.store("run").load()


@pytest.mark.parametrize(
    "command",
    [("FLUSHALL",), ("FLUSHDB",), ("CONFIG", "SET", "maxmemory", "1"), ("KEYS", "*"), ("SHUTDOWN",), ("ACL", "LIST"),
     ("SCRIPT", "FLUSH"), ("GET", "theirs"), ("SET", "histstore:x", "1"), ("DEL", "theirs"),
     ("SUBSCRIBE", "theirs"), ("PING",), ("SELECT", "1"), ("CLIENT", "LIST"), ("MONITOR",), ("REPLICAOF", "NO", "ONE")],
    ids=lambda command: " ".join(command),
)  # fmt: skip
def test_nothing_else_is_allowed(deployed: Deployed, command: tuple[str, ...]) -> None:
    """Neither what would harm others nor what the library has no use for."""
    with redis.Redis.from_url(deployed.url()) as client, pytest.raises(redis.exceptions.NoPermissionError):
        client.execute_command(*command)


# ------------------------------------------------------------------------------------- nothing is listed in vain


async def _notices(shell: Shell, deployed: Deployed, caplog: pytest.LogCaptureFixture) -> set[str]:
    """Return what a user notices of a list that is too short: refusals, by kind of backend, and a missing warning."""
    found = set()
    kinds = {"plain": Durability(), "replicas": Durability(replicas=1)}
    if deployed.has_waitaof:
        kinds["fsync"] = Durability(fsync=True)
    for kind, durability in kinds.items():
        caplog.clear()
        async with shell.from_url(deployed.url(query="?client_name=app"), durability=durability) as backend:
            try:
                assert await backend.store("run").load() is None
            except BackendConfigError:
                found.add(kind)
            else:
                if "maxmemory-policy allkeys-lru" not in caplog.text:
                    found.add("no warning")
    return found


async def _unneeded(
    shell: Shell, deployed: Deployed, caplog: pytest.LogCaptureFixture, given: list[str], tried: list[str]
) -> list[str]:
    """Return the rules among `tried` whose removal from the `given` ones nobody notices."""
    found = []
    for rule in tried:
        deployed.set_rules("histstore", [each for each in given if each != rule])
        if not await _notices(shell, deployed, caplog):
            found.append(rule)
    return found


def _allowing(rules: list[str]) -> list[str]:
    return [rule for rule in rules if rule[0] in "+~&%"]


async def test_every_rule_is_needed(shell: Shell, scratch: Deployed, caplog: pytest.LogCaptureFixture) -> None:
    """Without any one command or pattern, the first call is refused. Without INFO, a warning is missing."""
    rules = rules_of("histstore", scratch.acl)
    with scratch.admin() as client:
        client.config_set("maxmemory-policy", "allkeys-lru")
    assert await _notices(shell, scratch, caplog) == set()
    assert len(_allowing(rules)) > 35
    assert await _unneeded(shell, scratch, caplog, rules, _allowing(rules)) == []
    # A rule more would be found.
    for extra in ("+get", "+ping", "+@read", "~other:*", "&other:*"):
        assert await _unneeded(shell, scratch, caplog, [*rules, extra], [extra]) == [extra]


@pytest.mark.parametrize("command", ["xadd", "exec", "scan", "wait", "client|setname", "publish", "evalsha"])
async def test_a_missing_permission_is_told_before_anything_is_written(
    shell: Shell, command: str, scratch: Deployed
) -> None:
    """The first call names what is missing, whatever it is. No half of a save is left behind."""
    scratch.set_rules("histstore", [rule for rule in rules_of("histstore", scratch.acl) if rule != f"+{command}"])
    url = scratch.url(query="?client_name=app")
    async with shell.from_url(url, durability=Durability(replicas=1, timeout=0.1)) as backend:
        # The second call meets the same refusal: the first has left the connection in order.
        for _ in range(2):
            with pytest.raises(BackendConfigError, match=r"deploy/users\.acl") as caught:
                await backend.store("run").append(user(0), expected=ANY)
            assert command.split("|")[0] in str(caught.value).lower()
    with scratch.admin() as client:
        assert client.keys() == []


async def test_without_info_everything_else_works(shell: Shell, scratch: Deployed) -> None:
    """INFO only serves a warning and the check of the role."""
    scratch.set_rules("histstore", [rule for rule in rules_of("histstore", scratch.acl) if rule != "+info"])
    async with shell.from_url(scratch.url()) as backend:
        revision = await backend.store("run").append(user(0))
        assert (await backend.store("run").load()).revision == revision


# --------------------------------------------------------------------------------------------- the other files


def test_the_files_differ_in_waitaof_only() -> None:
    """users-7.0.acl is users.acl without the one command that came with Redis 7.2."""
    newer, older = ((DEPLOY / name).read_text(encoding="utf-8") for name in ("users.acl", "users-7.0.acl"))
    assert newer.count(" +waitaof ") == 1
    assert older == newer.replace(" +waitaof ", " ")


ADDITIONS = re.findall(
    r"^\| ([^|]+) \| [^|]+ \| `([^`]+)` \|$",
    (DEPLOY / "README.md").read_text(encoding="utf-8").split("## More than the files allow")[1].replace("\\|", "¦"),
    re.MULTILINE,
)


def test_the_additions_of_the_readme_are_valid(scratch: Deployed) -> None:
    """The server knows each command that the README adds for other uses."""
    assert len(ADDITIONS) >= 4
    for _, rules in ADDITIONS:
        given = rules.replace("¦", "|").split()
        if "+waitaof" not in given or scratch.has_waitaof:
            scratch.set_rules("histstore", [*rules_of("histstore", scratch.acl), *given])


async def test_a_cluster_needs_the_additions(
    shell: Shell, program: tuple[str, Path], deploy: Callable[..., Deployed]
) -> None:
    """A node refuses the user of the file by name. With the README's additions, runs are saved and listed."""
    node = deploy(lambda conf: f"{conf}\ncluster-enabled yes\n")
    rules = rules_of("histstore", node.acl)
    [added] = [words.replace("¦", "|").split() for title, words in ADDITIONS if "Redis Cluster" in title]
    with node.admin() as client:
        client.execute_command("CLUSTER", "ADDSLOTS", *range(16384))
        await until(lambda: b"cluster_state:ok" in client.execute_command("CLUSTER", "INFO"))
        async with shell.from_url(node.url()) as backend:
            with pytest.raises(BackendConfigError, match="cluster"):
                await backend.store("run").append(user(0))
        node.set_rules("histstore", [*rules, *added])
        async with shell.from_url(node.url()) as backend:
            await backend.store("run").append(user(0))
            assert [info.run_id async for info in backend.runs()] == ["run"]


def test_the_line_for_sentinels_is_valid(program: tuple[str, Path], tmp_path: Path) -> None:
    """A sentinel accepts the README's line. Its user finds the primary, hears of a new one, and does nothing else."""
    text = (DEPLOY / "README.md").read_text(encoding="utf-8")
    [line] = re.findall(r"^user histstore .*sentinel\|.*", text, re.MULTILINE)
    port, settings = free_port(), tmp_path / "sentinel.conf"
    settings.write_text(f"port {port}\nbind 127.0.0.1\nsentinel monitor main 127.0.0.1 1 1\n{line}\n")
    with subprocess.Popen(
        [program[1], settings, "--sentinel"], cwd=tmp_path, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
    ) as running:
        try:
            with redis.Redis(port=port, retry=Retry(ConstantBackoff(0.05), 200)) as anybody:
                assert anybody.ping()
            with redis.Redis(port=port, username="histstore", password=PASSWORDS["histstore"]) as client:
                assert client.execute_command("SENTINEL", "GET-MASTER-ADDR-BY-NAME", "main")
                assert client.execute_command("SENTINEL", "MASTER", "main")
                with client.pubsub() as heard:
                    heard.subscribe("+switch-master")
                    assert heard.get_message(timeout=5) is not None
                for command in (("SENTINEL", "FAILOVER", "main"), ("SENTINEL", "REMOVE", "main"), ("SHUTDOWN",)):
                    with pytest.raises(redis.exceptions.NoPermissionError):
                        client.execute_command(*command)
        finally:
            running.kill()


# -------------------------------------------------------------------------------------------- the user `inspect`


RECIPES = (DEPLOY.parent / "lua/README.md").read_text(encoding="utf-8").split("## Looking at a run", 1)[1]
ARGUMENTS: dict[str, tuple[str, ...]] = {
    "scan": ("0", "MATCH", "histstore:*:head"), "hmget": ("head", "etag", "length"), "hgetall": ("head",),
    "hkeys": ("head",), "xinfo|stream": ("log",), "xrevrange": ("log", "+", "-", "COUNT", "1"),
    "lrange": ("etags", "-3", "-1"), "pttl": ("head",), "memory|usage": ("log",),
}  # fmt: skip


def _words(rule: str) -> tuple[str, ...]:
    name, *arguments = rule.split("|"), *ARGUMENTS[rule]
    keys = {part: f"histstore:{{run}}:{part}" for part in ("head", "log", "etags")}
    return (*name, *(keys.get(each, each) for each in arguments))


async def test_inspect_reads_a_run_and_changes_nothing(shell: Shell, scratch: Deployed) -> None:
    """The user sees a run's keys by exactly the commands that lua/README.md shows, and can write nothing."""
    async with shell.from_url(scratch.url()) as backend:
        await backend.store("run").append(user(0))
    allowed = {rule[1:] for rule in rules_of("inspect", scratch.acl) if rule[0] == "+"}
    shown = {words.strip() for words in re.findall(r"redis-cli (?:--)?((?:xinfo |memory )?[a-z]+)", RECIPES)}
    assert allowed == {words.replace(" ", "|") for words in shown} == set(ARGUMENTS)
    with redis.Redis.from_url(scratch.url("inspect")) as client:
        for rule in sorted(allowed):
            assert client.execute_command(*_words(rule)), rule
        for command in [
            ("HSET", "histstore:x", "a", "1"), ("DEL", "histstore:x"), ("EVAL", "return 1", "0"), ("FLUSHALL",),
            ("PUBLISH", "histstore:x", "1"), ("HGETALL", "theirs"), ("MEMORY", "PURGE"),
            ("XADD", "histstore:x", "*", "a", "1"),
        ]:  # fmt: skip
            with pytest.raises(redis.exceptions.NoPermissionError):
                client.execute_command(*command)


def test_every_user_has_a_password_of_its_own() -> None:
    """Whoever may look may not write: the two users of the files do not share a password."""
    for user_name, password in PASSWORDS.items():
        assert f">{password}" in rules_of(user_name, DEPLOY / "users.acl")
    assert len(set(PASSWORDS.values())) == len(PASSWORDS)
