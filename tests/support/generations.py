"""What Redis 6.2 lacks and tests need: PEXPIRETIME, and min-replicas-to-write for scripts. Both came with 7.0."""

from __future__ import annotations

import pytest
import redis


def expires_at(client: redis.Redis, key: bytes | str) -> int:
    """Return the time at which a key expires, in milliseconds; -1: never, -2: the key does not exist."""
    try:
        return int(client.execute_command("PEXPIRETIME", key))
    except redis.exceptions.ResponseError as error:
        if "unknown command" not in str(error):
            raise
    # Redis 6.2 computes PTTL from the clock that TIME shows. The sum is exact if both were read in one millisecond.
    while True:
        with client.pipeline(transaction=True) as together:
            before, left, after = together.time().pttl(key).time().execute()
        if left < 0:
            return int(left)
        first, last = (seconds * 1000 + micros // 1000 for seconds, micros in (before, after))
        if first == last:
            return int(first + left)


def skip_without_min_replicas(client: redis.Redis) -> None:
    """Skip a test on Redis 6.2, which applies min-replicas-to-write to commands but not to scripts."""
    info = client.info("server")
    if "valkey_version" not in info and info["redis_version"].startswith("6."):
        pytest.skip("Redis 6.2 ignores min-replicas-to-write for scripts; Durability(replicas=) covers it")
