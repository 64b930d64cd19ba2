"""Connection settings: redis-py's, without what would retry, decode or push behind our back."""

from __future__ import annotations

import asyncio
import socket
import ssl
from typing import Any

import pytest
import redis
import redis.asyncio

from histstore import BackendConfigError, RedisBackend, SnapshotError
from histstore._async.compat.clients import KINDS
from histstore.wire.settings import connection_settings


def settings(url: str) -> Any:
    pool = redis.asyncio.ConnectionPool.from_url(url)
    given = {**pool.connection_kwargs, "max_connections": pool.max_connections}
    return connection_settings(pool.connection_class, given, KINDS)


def test_ours_win() -> None:
    """Whatever the URL or client says: no decoding, no retries of redis-py's, the protocol that we speak."""
    found = settings("redis://h/3?decode_responses=true&protocol=3&retry_on_timeout=yes&health_check_interval=5")
    given = {"decode_responses", "protocol", "retry", "retry_on_timeout", "retry_on_error", "health_check_interval"}
    assert not given & set(found.kwargs)
    assert (found.address, found.kwargs["db"]) == (("h", 6379), 3)


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
        connection_settings(redis.asyncio.Connection, {"password": "s3cret", **given}, KINDS)
    assert next(iter(given)) in str(caught.value)
    assert "s3cret" not in str(caught.value)


def test_no_password_is_shown() -> None:
    """Settings and backends show none in their repr."""
    found = settings("redis://user:s3cret@h/0")
    assert "s3cret" not in repr(found)
    backend = RedisBackend.from_url("redis://user:s3cret@h/0")
    assert "s3cret" not in repr(backend) + repr(vars(backend)) + repr(backend.store("run"))
    asyncio.run(backend.aclose())


class Own(redis.asyncio.Connection):
    """A connection class of a user's own."""


@pytest.mark.parametrize(
    ("kind", "given", "named"),
    [
        (Own, {}, "Own"),
        (redis.asyncio.Connection, {"redis_connect_func": print}, "redis_connect_func"),
        (redis.asyncio.Connection, {"encoder_class": object}, "encoder_class"),
        (redis.asyncio.SSLConnection, {"ssl_validate_ocsp": True}, "ssl_validate_ocsp"),
        (redis.asyncio.SSLConnection, {"ssl_validate_ocsp_stapled": True}, "ssl_validate_ocsp_stapled"),
    ],
)
def test_what_cannot_be_honoured_is_refused_by_name(kind: type[Any], given: dict[str, Any], named: str) -> None:
    """Ignoring one could weaken a connection. The error says what to do, and both kinds of handlers catch it."""
    with pytest.raises(BackendConfigError, match=named) as caught:
        connection_settings(kind, given, KINDS)
    assert isinstance(caught.value, SnapshotError)
    assert len(str(caught.value)) < 300


@pytest.mark.parametrize(
    "url",
    [
        "http://u:s3cret@h/0", "redis://h/zero", "redis://u:s3/cret@h/0", "redis://u:s3cret@h/0#part",
        "redis://:12?s3cret@h/0", "redis://:12?s3cret@h/0?client_name=a",
        "rediss://h?ssl_min_version=nonsense", "rediss://h?ssl_cert_reqs=perhaps",
        "redis://h?connection_class=s3cret",
    ],
)  # fmt: skip
def test_a_url_that_means_something_else_is_refused(url: str) -> None:
    """redis-py would take database 0 for one that is no number, and cut a password at its slash."""
    with pytest.raises(SnapshotError) as caught:
        RedisBackend.from_url(url)
    assert isinstance(caught.value, BackendConfigError)
    assert "s3" not in str(caught.value)


@pytest.mark.parametrize(
    "url", ["redis://h", "redis://h/", "redis://h/3", "redis://h/3/", "redis://h?db=3", "redis://"]
)
def test_urls_with_and_without_a_database(url: str) -> None:
    """All of these are redis-py's."""
    assert settings(url).kwargs.get("db", 0) == (3 if "3" in url else 0)
    RedisBackend.from_url(url)


def test_tls_options_reach_the_context() -> None:
    """By default the certificate and the host's name are checked; each option is honoured."""
    context = settings("rediss://h").tls()
    assert (context.verify_mode, context.check_hostname) == (ssl.CERT_REQUIRED, True)
    context = settings("rediss://h?ssl_cert_reqs=none").tls()
    assert (context.verify_mode, context.check_hostname) == (ssl.CERT_NONE, False)
    context = settings("rediss://h?ssl_check_hostname=false&ssl_ciphers=ECDHE-RSA-AES256-GCM-SHA384").tls()
    assert (context.verify_mode, context.check_hostname) == (ssl.CERT_REQUIRED, False)
    assert "AES128" not in str([each["name"] for each in context.get_ciphers() if "ECDHE" in each["name"]])
    given = {"ssl_min_version": ssl.TLSVersion.TLSv1_3}
    found = connection_settings(redis.asyncio.SSLConnection, given, KINDS).tls()
    assert found is not None
    assert found.minimum_version == ssl.TLSVersion.TLSv1_3
    assert settings("redis://h").tls() is None


def test_keepalive_options_reach_the_socket() -> None:
    given = {"socket_keepalive": True, "socket_keepalive_options": {socket.TCP_KEEPCNT: 7}}
    found = connection_settings(redis.asyncio.Connection, given, KINDS)
    with socket.socket() as sock:
        found.set_up(sock)
        assert sock.getsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE) == 1
        assert sock.getsockopt(socket.IPPROTO_TCP, socket.TCP_KEEPCNT) == 7
        assert sock.getsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY) != 0
    with socket.socket() as sock:
        connection_settings(redis.asyncio.Connection, {"socket_keepalive": False}, KINDS).set_up(sock)
        assert sock.getsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE) == 0
