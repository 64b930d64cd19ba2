# Generated from histstore/_async/transport/self_test.py by tools/unasync.py; do not edit.
"""The self-test of a server before its first call: commands and permissions, role, eviction policy."""

from __future__ import annotations

import logging
import math
from collections.abc import Callable, Sequence
from typing import Final

from redis import exceptions as redis_errors

from ...errors import BackendConfigError
from ...policy import Durability
from ...protocol.backend import probe
from ...protocol.call import Command
from ...protocol.keys import Keys, run_keys
from ...revision import RunId
from ...wire.faults import classify, explain
from ...wire.health import ROLE, Role, eviction_policy, is_cluster_node, problems_of
from ...wire.sending import SendState
from ..compat import io
from .transport import Exchange, Transport

TEST_EVERY: Final = 1.0
"""Seconds between two self-tests of a server that is loading, full or read-only."""

log = logging.getLogger("histstore")


def _confirmations(durability: Durability) -> list[Command]:
    """Return the command that saves wait by, in a form that the server answers at once."""
    if durability.fsync:
        return [("WAITAOF", "1", "0", "1")]
    return [("WAIT", "0", "1")] if durability.replicas else []


class SelfTest:
    """Runs every command that the library uses, once, before the first call.

    Attributes:
        passed: Whether the server has passed. False again after an embedded server may have died.
        prepare: Called before the test, until it succeeds: starts the embedded server. None: nothing to start.
        on_cluster: Called if the server turns out to be one of a cluster; None: that is known.
        lock: Held while a test runs.

    Args:
        transport: Sends the commands.
        durability: What writes wait for.
        namespace: Prefix of the test's scratch key.
        role: Records the server's role.
        prepare: See Attributes.
        warned: The warnings already logged. All runners of a backend share it, so each warning is logged once.
    """

    def __init__(
        self, transport: Transport, durability: Durability, namespace: str, role: Role,
        *, prepare: Callable[[], None] | None, warned: set[str],
    ) -> None:  # fmt: skip
        self._transport = transport
        self._durability = durability
        self._namespace = namespace
        self._role = role
        self._warned = warned
        self._next = -math.inf
        self.prepare = prepare
        self.on_cluster: Callable[[], None] | None = None
        self.passed = False
        self.lock = io.Lock()

    def forget(self) -> None:
        """Test an embedded server again, because it may have died. The next try then starts it."""
        if self.prepare is not None:
            self.passed = False

    def run(self, end: float, check_open: Callable[[], None]) -> None:
        """Start the embedded server if there is one, and test the server.

        Args:
            end: When to stop waiting, by `monotonic`.
            check_open: Raises BackendError if the backend is closed.

        Raises:
            BackendConfigError: The server lacks a command or a permission, or cannot be as durable as asked.
            BackendError: The backend is closed, or the embedded server does not start.
            redis.exceptions.RedisError: The server could not be asked.
        """
        timeout = max(0.001, end - io.monotonic())
        with io.Held(self.lock, timeout, redis_errors.TimeoutError, "no answer in time"):
            if self.passed:
                return
            if self.prepare is not None:
                check_open()
                self.prepare()
            if io.monotonic() < self._next:
                return
            self.passed = self.examine(self._transport.exchange, lambda _key: True, end)
            if not self.passed:
                # The server is loading, full or read-only. The call itself may still succeed.
                self._next = io.monotonic() + TEST_EVERY

    def examine(self, exchange: Exchange, owns: Callable[[bytes], bool], end: float) -> bool:
        """Examine one server.

        Args:
            exchange: Sends commands to it.
            owns: Whether it owns a key.
            end: When to stop waiting, by `monotonic`.

        Returns:
            Whether it does all that is needed, now.

        Raises:
            BackendConfigError: It lacks a command or a permission, or cannot be as durable as asked.
            redis.exceptions.RedisError: It could not be asked.
        """
        call = probe(self._scratch(owns))
        commands: Sequence[Command] = [*call.batch, *_confirmations(self._durability)]
        replies = exchange(call.key, commands, end, SendState())
        if self.on_cluster is not None and is_cluster_node(replies):
            self.on_cluster()
            return True
        problems = problems_of(commands, replies)
        faults = [classify(problem, sent=False) for problem in problems]
        if any(not fault.retry for fault in faults):
            reasons = explain(problems, sent=False)
            raise BackendConfigError(f"the server refuses what histstore needs: {reasons}") from problems[0]
        self._role.record(replies[list(commands).index(ROLE)], io.monotonic())
        if problems:
            return False
        self._warn_of_eviction(eviction_policy(replies))
        return True

    def _scratch(self, owns: Callable[[bytes], bool]) -> Keys:
        """Return keys of a run that does not exist, and that the server would own."""
        while True:
            keys = run_keys(self._namespace, f"probe-{RunId.new()}")
            if owns(keys.head):
                return keys

    def _warn_of_eviction(self, policy: str | None) -> None:
        if policy not in (None, "noeviction") and policy not in self._warned:
            self._warned.add(str(policy))
            log.warning(
                "the server may evict conversations when its memory is full (maxmemory-policy %s): "
                "set it to noeviction",
                policy,
            )
