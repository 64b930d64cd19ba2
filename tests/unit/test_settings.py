"""Connection settings: redis-py's, without what would retry, decode or push behind our back."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest
import redis
import redis.asyncio
from redis.asyncio.retry import Retry
from redis.backoff import NoBackoff

from histstore import RedisBackend, SnapshotError
from histstore._settings import connection_settings

NO_RETRY = Retry(NoBackoff(), 0)


def settings(url: str) -> Any:
    pool = redis.asyncio.ConnectionPool.from_url(url)
    given = {**pool.connection_kwargs, "max_connections": pool.max_connections}
    return connection_settings(pool.connection_class, given, NO_RETRY, None)


def test_ours_win() -> None:
    """Whatever the URL or client says: no decoding, no retries of redis-py's, the protocol that we speak."""
    found = settings("redis://h/3?decode_responses=true&protocol=3&retry_on_timeout=yes&health_check_interval=5")
    assert found.kwargs["decode_responses"] is False
    assert found.kwargs["protocol"] == 2
    assert found.kwargs["retry"] is NO_RETRY
    assert not {"retry_on_timeout", "retry_on_error", "health_check_interval"} & set(found.kwargs)
    assert (found.kwargs["host"], found.kwargs["db"]) == ("h", 3)
    connection = found.make()
    assert connection.retry._retries == 0


def test_timeouts() -> None:
    """socket_timeout bounds a try; connecting has its own, or the same."""
    assert (settings("redis://h").try_timeout, settings("redis://h").connect_timeout) == (5.0, 5.0)
    found = settings("redis://h?socket_timeout=2&socket_connect_timeout=0.5&max_connections=3")
    assert (found.try_timeout, found.connect_timeout, found.max_connections) == (2.0, 0.5, 3)
    assert settings("redis://h?socket_timeout=2").connect_timeout == 2.0


def test_the_given_settings_are_not_changed() -> None:
    """A copy is made: the client goes on as it was."""
    client = redis.asyncio.Redis.from_url("redis://:pw@h?decode_responses=1&socket_timeout=3")
    before = dict(client.connection_pool.connection_kwargs)
    RedisBackend(client)
    assert client.connection_pool.connection_kwargs == before


@pytest.mark.parametrize(
    "given", [{"socket_timeout": 0}, {"socket_timeout": -1}, {"socket_timeout": "soon"}, {"socket_timeout": True},
              {"socket_timeout": float("inf")}, {"socket_connect_timeout": 0}, {"nonsense": "s3cret"},
              {"max_connections": -1}, {"max_connections": "many"}],
    ids=repr,
)  # fmt: skip
def test_what_is_of_no_use_is_refused(given: dict[str, Any]) -> None:
    """The error names the option, not its value."""
    with pytest.raises(SnapshotError) as caught:
        connection_settings(redis.asyncio.Connection, {"password": "s3cret", **given}, NO_RETRY, None)
    assert next(iter(given)) in str(caught.value)
    assert "s3cret" not in str(caught.value)


def test_no_password_is_shown() -> None:
    """Settings and backends show none in their repr."""
    found = settings("redis://user:s3cret@h/0")
    assert "s3cret" not in repr(found)
    backend = RedisBackend.from_url("redis://user:s3cret@h/0")
    assert "s3cret" not in repr(backend) + repr(vars(backend)) + repr(backend.store("run"))
    asyncio.run(backend.aclose())
