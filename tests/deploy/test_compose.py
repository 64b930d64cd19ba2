"""The compose files: Docker Compose accepts them, and what they describe works and survives a failure."""

from __future__ import annotations

import re
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import redis
import yaml

from histstore import Durability

from ..support.shells import until
from .compose import Container, Stack, seconds
from .conftest import DEPLOY, PASSWORDS, rules_of
from .talk import talk
from .test_users import ADDITIONS

FILES = sorted(path.name for path in DEPLOY.glob("docker-compose*.yml"))
COMPOSE = shutil.which("docker-compose", path=str(Path(sys.executable).parent))


def services(file: str) -> dict[str, dict[str, Any]]:
    """Return the services of a compose file."""
    found: dict[str, dict[str, Any]] = yaml.safe_load((DEPLOY / file).read_text(encoding="utf-8"))["services"]
    return found


def test_there_is_a_file_for_each_topology() -> None:
    """One server, a primary with replicas and sentinels, and a cluster."""
    assert FILES == ["docker-compose.cluster.yml", "docker-compose.sentinel.yml", "docker-compose.yml"]


@pytest.mark.skipif(COMPOSE is None, reason="there is no Docker Compose for this platform on PyPI")
@pytest.mark.parametrize("file", FILES)
def test_compose_accepts_the_file(file: str) -> None:
    """Docker Compose itself checks the file against the Compose specification."""
    done = subprocess.run([str(COMPOSE), "-f", DEPLOY / file, "config", "-q"], capture_output=True, text=True)
    assert (done.returncode, done.stderr) == (0, "")


@pytest.mark.parametrize("file", FILES)
def test_each_service_is_set_up_with_care(file: str) -> None:
    """Images are pinned by tag, ports are open to this machine only, and each service restarts and is checked."""
    for name, spec in services(file).items():
        if "image" in spec:
            assert re.fullmatch(r"[\w/]+:\d+\.\d+[\w.-]*", spec["image"]), name
        for port in spec.get("ports", []):
            assert port.startswith("127.0.0.1:"), name
        if name != "cluster-init":
            assert spec["restart"] == "unless-stopped", name
            assert {"test", "interval", "timeout", "retries"} <= spec["healthcheck"].keys(), name
        if "worker" not in name and name != "cluster-init":
            assert [mount for mount in spec["volumes"] if mount.endswith(":/data")], name


@pytest.mark.parametrize("file", FILES)
def test_workers_have_time_to_end_their_turns(file: str) -> None:
    """Docker waits longer than the longest turn takes. A worker can write nowhere but to /tmp."""
    worker = services(file)["worker"]
    assert seconds(worker["stop_grace_period"]) > float(worker["environment"]["WORKER_TURN_LIMIT"]) + 10
    assert worker["deploy"]["replicas"] >= 2
    assert worker["read_only"] is True
    assert worker["tmpfs"] == ["/tmp"]
    assert worker["cap_drop"] == ["ALL"]


def test_the_acl_files_give_the_library_the_same_rights() -> None:
    """With replicas, the users are those of users.acl and more. A cluster also has the README's additions."""
    users = (DEPLOY / "users.acl").read_text(encoding="utf-8")
    assert (DEPLOY / "users-replicated.acl").read_text(encoding="utf-8").startswith(users)
    [added] = [words.replace("¦", "|").split() for title, words in ADDITIONS if "Redis Cluster" in title]
    cluster = DEPLOY / "users-cluster.acl"
    assert rules_of("histstore", cluster) == [*rules_of("histstore", DEPLOY / "users.acl"), *added]
    assert rules_of("inspect", cluster) == rules_of("inspect", DEPLOY / "users.acl")
    assert rules_of("default", cluster) == rules_of("default", DEPLOY / "users.acl")


# ------------------------------------------------------------------------------------------ it is started


linux = pytest.mark.skipif(sys.platform != "linux", reason="only Linux has all of 127.0.0.0/8 on its loopback")


@pytest.fixture
def stack(tmp_path: Path) -> Iterator[Callable[..., Stack]]:
    """Return a function that starts what a compose file describes."""
    started: list[Stack] = []

    def start(file: str, **more: str) -> Stack:
        folder = tmp_path / str(len(started))
        folder.mkdir()
        started.append(Stack(file, folder, **more))
        started[-1].up()
        return started[-1]

    yield start
    for each in started:
        each.down()


def role(server: Container, user: str, password: str) -> str:
    """Return a server's role: "master", or "slave" if it follows its primary."""
    if server.process is None:
        return "down"
    with redis.Redis(host=server.address, username=user, password=password, socket_timeout=2) as client:
        try:
            info: Any = client.info("replication")
        except redis.exceptions.RedisError:
            return "down"
    return info["role"] if info["role"] == "master" or info["master_link_status"] == "up" else "lost"


def sentinel_role(server: Container) -> str:
    return role(server, "sentinel", "change-me-sentinel")


def cluster_role(server: Container) -> str:
    return role(server, "operator", "change-me-operator")


def written(server: Container) -> bool:
    """Whether the server has written what it has acknowledged. With `everysec`, a write may wait for an fsync."""
    with redis.Redis(host=server.address, username="histstore", password=PASSWORDS["histstore"]) as client:
        info: Any = client.info("persistence")
        return bool(info["aof_buffer_length"] == 0)


async def kill_all(servers: list[Container]) -> None:
    """kill -9 all servers, when they have written everything."""
    for each in servers:
        await until(lambda each=each: written(each), "it does not write", 60)
    for each in servers:
        each.kill()


async def stop_workers(running: Stack) -> None:
    """Stop the workers as Docker does. Each ends in time, and as it should."""
    assert [worker.stop() for worker in running.named("worker")] == [0, 0]


@linux
@pytest.mark.long
async def test_one_server_is_killed_and_comes_back(stack: Callable[..., Stack]) -> None:
    """Nothing that was acknowledged is lost, and no question is answered twice."""
    running = stack("docker-compose.yml")
    async with talk(running.url) as users:
        await users.round()
        server = running.containers["valkey"]
        await kill_all([server])
        server.start()
        await users.round()
        assert all(worker.healthy() for worker in running.named("worker"))
        await stop_workers(running)
        assert await users.leases() == []
        await users.check()
        assert server.stop() == 0


@linux
@pytest.mark.long
async def test_sentinels_promote_a_replica(stack: Callable[..., Stack]) -> None:
    """The primary dies, comes back as a replica, and stays one when all servers are restarted."""
    running = stack("docker-compose.sentinel.yml")
    first, *others = servers = running.named("valkey")
    async with talk(running.url, durability=Durability(replicas=1)) as users:
        await users.round()
        assert [sentinel_role(each) for each in servers] == ["master", "slave", "slave"]
        first.kill()
        await users.round()
        [promoted] = [each for each in others if sentinel_role(each) == "master"]
        first.start()
        await until(lambda: sentinel_role(first) == "slave", "it does not follow", 60)
        await users.round()
        await kill_all(servers)
        for each in running.named("sentinel"):
            each.kill()
        for each in [*servers, *running.named("sentinel")]:
            each.start()
        await until(lambda: [sentinel_role(each) for each in servers].count("slave") == 2, "no replicas", 60)
        assert sentinel_role(promoted) == "master"
        await users.round()
        await stop_workers(running)
        assert await users.leases() == []
        await users.check()
        assert [each.stop() for each in running.named("sentinel")] == [0, 0, 0]


@linux
@pytest.mark.long
async def test_a_cluster_promotes_a_replica(stack: Callable[..., Stack]) -> None:
    """A primary dies and comes back as a replica. The cluster survives a restart of all servers."""
    running = stack("docker-compose.cluster.yml")
    nodes = running.named("node")
    async with talk(running.url, durability=Durability(replicas=1)) as users:
        await users.round()
        assert [cluster_role(each) for each in nodes] == 3 * ["master"] + 3 * ["slave"]
        nodes[0].kill()
        await until(lambda: [cluster_role(each) for each in nodes].count("master") == 3, "no promotion", 60)
        await users.round()
        nodes[0].start()
        await until(lambda: cluster_role(nodes[0]) == "slave", "it does not follow", 60)
        await kill_all(nodes)
        for each in nodes:
            each.start()
        await users.round()
        await until(lambda: [cluster_role(each) for each in nodes].count("slave") == 3, "no replicas", 60)
        await stop_workers(running)
        assert await users.leases() == []
        await users.check()
        # The service that joins the servers notices that they are joined.
        again = running.containers["cluster-init"]
        again.start()
        again.wait("service_completed_successfully")
