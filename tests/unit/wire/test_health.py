"""What a server's replies say about its commands, its role and its eviction policy."""

from __future__ import annotations

import math

import pytest
from redis.exceptions import ConnectionError, ReadOnlyError, ResponseError

from histstore.wire.health import ROLE_EVERY, Role, eviction_policy, problems_of

PRIMARY, REPLICA = b"# Replication\r\nrole:master\r\n", b"# Replication\r\nrole:slave\r\n"


def test_a_primary_that_became_a_replica_is_refused() -> None:
    """Its data may be old. Asking it again says the same."""
    role = Role()
    role.record(PRIMARY, 100.0)
    for _ in range(2):
        with pytest.raises(ReadOnlyError):
            role.record(REPLICA, 101.0)


def test_a_replica_from_the_beginning_is_accepted() -> None:
    """Somebody connected to it on purpose. It may become the primary, and then it must stay one."""
    role = Role()
    role.record(REPLICA, 1.0)
    role.record(REPLICA, 2.0)
    role.record(PRIMARY, 3.0)
    with pytest.raises(ReadOnlyError):
        role.record(REPLICA, 4.0)


def test_when_the_role_is_due() -> None:
    """At first, every few seconds, and after a refusal at once."""
    role = Role()
    assert role.due == -math.inf
    role.record(PRIMARY, 100.0)
    assert role.due == 100.0 + ROLE_EVERY
    role.ask_again(101.0)
    assert role.due == 101.0


@pytest.mark.parametrize("text", ["NOPERM this user has no permissions", "ERR unknown command"])
def test_a_server_that_may_not_be_asked_is_not_asked_again(text: str) -> None:
    """The role stays unknown, and no read pays for the question."""
    role = Role()
    role.record(ResponseError(text), 1.0)
    role.ask_again(2.0)
    assert role.due == math.inf


def test_a_passing_error_changes_nothing() -> None:
    """A server that is loading is asked with the next read."""
    role = Role()
    role.record(ResponseError("LOADING Redis is loading the dataset in memory"), 1.0)
    assert role.due == -math.inf


def test_problems_are_the_unexpected_errors() -> None:
    """An EVALSHA of an unknown script and an INFO that is not allowed are expected."""
    commands = [("EVALSHA", "0" * 40, "0"), ("INFO", "memory"), ("MULTI",), ("EXEC",), ("EVAL", "source", "0")]
    sound = [ResponseError("NOSCRIPT No matching"), ResponseError("NOPERM no permissions"), b"OK", [b"x"], []]
    assert problems_of(commands, sound) == []
    refused = [ResponseError("NOPERM evalsha"), b"maxmemory:0", b"OK", [ResponseError("NOPERM xrange")], [b"OOM full"]]
    assert [str(problem) for problem in problems_of(commands, refused)] == [
        "NOPERM evalsha",
        "NOPERM xrange",
        "OOM full",
    ]
    assert problems_of([("INFO", "memory")], [ResponseError("ERR this proxy has no INFO")]) == []
    assert len(problems_of([("INFO", "memory")], [ResponseError("LOADING the dataset")])) == 1
    unknown = [ResponseError("ERR unknown command 'WAITAOF', with args beginning with: 'x'")]
    [problem] = problems_of([("WAITAOF", "1", "0", "1")], unknown)
    assert str(problem) == "WAITAOF, for Durability(fsync=True): ERR unknown command 'WAITAOF'"


@pytest.mark.parametrize("command", ["EXEC", "EVAL"])
def test_a_peer_that_is_no_redis_server(command: str) -> None:
    """A transaction and our script are answered by a list."""
    with pytest.raises(ConnectionError, match="no Redis server"):
        problems_of([(command,)], [b"OK"])


def test_a_refused_exec_leaves_the_transaction_open() -> None:
    """The queued script is no proof of a foreign server, if the server has refused the transaction's end."""
    commands = [("EXEC",), ("EVAL", "source", "0")]
    [problem] = problems_of(commands, [ResponseError("ERR unknown command 'EXEC'"), b"QUEUED"])
    assert "EXEC" in str(problem)
    with pytest.raises(ConnectionError, match="no Redis server"):
        problems_of(commands, [[], b"QUEUED"])


def test_the_eviction_policy() -> None:
    """It is read from INFO memory, wherever that stands."""
    assert eviction_policy([b"OK", b"maxmemory:0\r\nmaxmemory_policy:allkeys-lru\r\nx:1\r\n"]) == "allkeys-lru"
    assert eviction_policy([b"OK", ResponseError("NOPERM")]) is None
