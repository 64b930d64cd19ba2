"""deploy/redis.conf starts on every server, and its settings take effect."""

from __future__ import annotations

import re
from collections.abc import Callable

import pytest
import redis

from histstore import ANY, RedisBackend

from ..support.shells import until
from .conftest import DEPLOY, Deployed

SETTINGS = dict(
    line.split(" ", 1) for line in (DEPLOY / "redis.conf").read_text().splitlines() if re.match(r"[a-z]", line)
)


def test_the_settings_take_effect(deployed: Deployed) -> None:
    """The server runs with each setting of the file, and the default user is switched off."""
    with deployed.admin() as client:
        for name, value in SETTINGS.items():
            if name != "aclfile":
                assert client.config_get(name) == {name: value}
        assert deployed.name in f"valkey-{client.info('server').get('valkey_version', '')} {_version(client)}"
    with deployed.server.client(retry=None) as client, pytest.raises(redis.exceptions.AuthenticationError):
        client.ping()


async def test_runs_survive_a_restart(deploy: Callable[..., Deployed]) -> None:
    """Killed and started again, the server has each run. It reads its append-only file with the rights of `default`."""
    running = deploy()
    revisions = {}
    async with RedisBackend.from_url(running.url()) as backend:
        for run in ("a", "b", "c"):
            await backend.store(run).append({"role": "user", "content": "hi"})
            revisions[run] = await backend.store(run).append({"role": "user", "content": "again"}, expected=ANY)
    with running.admin() as client:  # with `everysec`, a write may wait for the fsync before it
        await until(lambda: client.info("persistence")["aof_buffer_length"] == 0)
    running.server.kill()
    running.server.start()
    async with RedisBackend.from_url(running.url()) as backend:
        assert {info.run_id: info.revision async for info in backend.runs()} == revisions


def test_nobody_can_log_in_as_the_default_user(deployed: Deployed) -> None:
    """It has all rights, and no password that would open the door."""
    for password in ("", "x", "nopass", "change-me"):
        with (
            deployed.server.client(username="default", password=password, retry=None) as client,
            pytest.raises(redis.exceptions.AuthenticationError),
        ):
            client.ping()


def _version(client: redis.Redis) -> str:
    return str(client.info("server")["redis_version"])


def test_the_settings_for_replicas_take_effect(deploy: Callable[..., Deployed]) -> None:
    """The two settings that the file has as comments are right as well."""
    text = "min-replicas-to-write 1", "min-replicas-max-lag 10"
    started = deploy(lambda conf: re.sub(r"# (min-replicas-[a-z-]+ \d+)", r"\1", conf))
    with started.admin() as client:
        for line in text:
            name, value = line.split()
            assert client.config_get(name) == {name: value}
