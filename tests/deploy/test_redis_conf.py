"""deploy/redis.conf starts on every server, and its settings take effect."""

from __future__ import annotations

import re
from collections.abc import Callable

import pytest
import redis

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
    with deployed.server.client() as client, pytest.raises(redis.exceptions.AuthenticationError):
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
