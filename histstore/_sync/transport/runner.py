# Generated from histstore/_async/transport/runner.py by tools/unasync.py; do not edit.
"""Sends calls: one try, then the policy's. The only place that decides what a failed send means."""

from __future__ import annotations

import logging
import math
import weakref
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any, Final

from redis import exceptions as redis_errors

from ...errors import BackendConfigError, BackendError, BackendUnavailableError, OutcomeUnknownError
from ...log.chain import BrokenChainError
from ...policy import (
    Durability,
    RetryableError,
    RetryPolicy,
    UndoneError,
    classify,
    describe,
    explain,
    is_damage,
    tenacity_options,
)
from ...protocol import requests as _protocol
from ...protocol.keys import run_keys
from ...protocol.requests import Call, Command
from ...snapshot import RunId
from ...wire.opening import FRESH
from ...wire.settings import ConnectionSettings
from ..compat import io
from .connections import Connections

ROLE_EVERY: Final = 5.0
"""Seconds after which a read asks the server, along with what it reads, whether it is still the primary."""
TEST_EVERY: Final = 1.0
"""Seconds between two self-tests of a server that is loading, full or read-only."""
LEAVE_EVERY: Final = 0.1
"""Seconds between two times at which all connections are dropped: a lone replica is not connected to over and over."""
_ROLE: Final = ("INFO", "replication")

CLOSED: Final = (
    "this backend is closed: make a new one, or close it (aclose, the end of a `with`) only after its last use"
)

log = logging.getLogger("histstore")


class Delivery(io.Sent):
    """One call over all its tries.

    Attributes:
        ambiguous: Whether a try was sent and not answered: it may have been applied, or may still arrive.
        began: When the last try began, by `io.monotonic`.
        error: What the last try failed with.
    """

    __slots__ = ("ambiguous", "began", "error")

    def __init__(self) -> None:
        super().__init__()
        self.ambiguous = False
        self.began = 0.0
        self.error: Exception | None = None


class Runner:
    """Runs calls against one server, in one process and event loop.

    Args:
        settings: How to connect.
        durability: What writes wait for.
        namespace: Where the self-test's scratch key stands.
    """

    def __init__(self, settings: ConnectionSettings, durability: Durability, namespace: str) -> None:
        self._settings = settings
        self._durability = durability
        self._waits = durability.wanted > 0
        self._namespace = namespace
        # One for requests, one to listen, one for the group commit: with fewer, durable writes go with the requests.
        self._grouped = self._waits and settings.max_connections >= 3
        self._connections = Connections(settings, int(self._grouped))
        self._commits = io.GroupCommit(settings)
        self._tested = False
        self._testing = io.Lock()
        self._test_again = -math.inf
        self._closed = False
        self._listeners: weakref.WeakSet[io.Connection] = weakref.WeakSet()
        self._left = -math.inf
        self._primary = False  # whether one was ever seen: who connects to a replica from the beginning means it
        self._role_due = -math.inf
        self.warned: set[str] = set()
        """What was logged about the server. All runners of a backend share it, so that it is said once."""
        self.prepare: Callable[[], None] | None = None
        """Run before the first call, until it succeeds: starts the server, say."""

    def reconnect(self, settings: ConnectionSettings) -> None:
        """Changes where the connections that are made from now on lead to."""
        old_connections, old_commits = self._connections, self._commits
        self._settings = settings
        self._connections = Connections(settings, int(self._grouped))
        self._commits = io.GroupCommit(settings)
        old_commits.close()
        old_connections.close()

    @property
    def may_listen(self) -> bool:
        """Whether there may be a connection to listen on beside the one for requests."""
        return self._settings.max_connections > 1

    @property
    def connections(self) -> tuple[int, int]:
        """Connections in use, and idle ones."""
        return self._connections.count

    def run(
        self, call: Call, policy: RetryPolicy, delivery: Delivery | None = None, within: float = math.inf
    ) -> tuple[Any, int | None]:
        """Returns the reply to `call`, and how many copies confirmed it if it is a durable write.

        Args:
            call: What to send.
            policy: When to try again.
            delivery: Is told what became of the tries, also where this raises.
            within: Seconds after which the answer is of no use; the policy's deadline may be sooner.

        Raises:
            BackendConfigError: A mistake in the settings; nothing was written.
            BackendUnavailableError: The server could not be used, and nothing was written.
            OutcomeUnknownError: `call` writes, was sent, and no answer came.
            BrokenChainError: A key of the run is of a foreign type.
            BackendError: This backend is closed.
        """
        if self._closed:
            raise BackendError(CLOSED)
        now = io.monotonic()
        deadline = now + min(policy.deadline, within)
        state = Delivery() if delivery is None else delivery
        try:
            try:
                return self._try(call, state, deadline, now)
            except RetryableError as first:
                if policy.attempts == 1:
                    raise
                return self._retry(call, policy, state, deadline, first)
        except RetryableError as error:
            raise self._failure(call, state, error.cause) from error.cause
        except OutcomeUnknownError:
            raise
        except BackendError as error:
            if call.write is not None and state.ambiguous:
                # Whatever went wrong afterwards, in a self-test say, tells nothing of the copy that was sent.
                raise OutcomeUnknownError(call.write(), describe(error)) from error
            raise

    def together(self, calls: Sequence[Call], timeout: float) -> list[Any]:
        """Returns the replies to calls that are sent at once, in one try; errors of the server are values.

        Raises:
            RedisError: They could not be sent, or were not answered within `timeout` seconds.
        """
        end = io.monotonic() + timeout
        self._ready(end)
        began = io.monotonic()
        with self._noticing():
            replies = self._connections.exchange(_commands(calls, in_full=False), end, io.Sent())
            unknown = [at for at, reply in enumerate(replies) if _begins(reply, "NOSCRIPT")]
            if unknown:
                again = _commands([calls[at] for at in unknown], in_full=True)
                found = self._connections.exchange(again, end, io.Sent())
                for at, reply in zip(unknown, found, strict=True):
                    replies[at] = reply
        if any(isinstance(reply, Exception) and classify(reply, sent=True).elsewhere for reply in replies):
            self._leave(began)
        return replies

    def connect(self) -> io.Connection:
        """Returns a connection of the caller's own, to listen on.

        Raises:
            RedisError: There is none.
        """
        end = io.monotonic() + self.try_timeout
        self._ready(end)
        connection = self._connections.lend(end)
        with self._noticing():
            connection.open(self.try_timeout)
        try:
            connection.keep_alive()
        except BaseException:
            connection.close()
            raise
        self._listeners.add(connection)
        return connection

    def _leave(self, began: float) -> None:
        """Drops all connections: the server that they lead to refuses, and its name may stand for another by now.

        What was asked over them is still answered.

        Args:
            began: When the request was sent that was refused.
        """
        now = io.monotonic()
        if began < self._left or now < self._left + LEAVE_EVERY:
            return  # it was refused over a connection that has been dropped since, or that is new
        self._left = now
        if self._role_due != math.inf:
            self._role_due = now
        self.drop()

    @contextmanager
    def _noticing(self) -> Iterator[None]:
        """Notices when a server that is ours to start may be down: the next try starts it."""
        try:
            yield
        except redis_errors.ConnectionError:
            self._tested = self._tested and self.prepare is None
            raise

    def _ready(self, end: float) -> None:
        """Starts the server that is ours to start, if it is down."""
        self._check_open()
        if self.prepare is not None and not self._tested:
            self._self_test(end)

    @property
    def try_timeout(self) -> float:
        """Seconds that one try waits for its answer."""
        return self._settings.try_timeout

    def _retry(
        self, call: Call, policy: RetryPolicy, state: Delivery, deadline: float, first: RetryableError
    ) -> tuple[Any, int | None]:
        pending: RetryableError | None = first
        options = tenacity_options(policy, deadline - io.monotonic())
        for attempt in io.Retrying(sleep=io.sleep, **options):
            with attempt:
                if pending is not None:
                    # The plain first try was tenacity's first; it only pauses for it here.
                    error, pending = pending, None
                    raise error
                self._check_open()
                return self._try(call, state, deadline, io.monotonic())
        raise AssertionError("tenacity ends with a result or an error")

    def _try(self, call: Call, state: Delivery, deadline: float, now: float) -> tuple[Any, int | None]:
        if now >= deadline:
            raise RetryableError(state.error or redis_errors.TimeoutError("the deadline has passed"))
        end = min(now + self._settings.try_timeout, deadline)
        this = io.Sent()
        state.began = now
        try:
            if not self._tested:
                self._self_test(end)
                state.began = io.monotonic()
            relaxed = call.relaxed
            if relaxed is not None and now >= self._role_due:
                reply, acked = self._ask(call, this, end), None
            elif relaxed is None and (state.ambiguous or (call.durable and self._waits)):
                reply, acked = self._send(call, state, this, end)
            else:
                replies = self._connections.exchange(call.batch, end, this, call.large)
                reply, acked = replies[-1] if type(replies[-1]) is list else _last(replies), None
            # What a script answers begins with a word: nearly all answers end here.
            if (
                type(reply) is not list
                or not reply
                or reply[0] == b"failed"
                or (relaxed is not None and not _whole(reply, relaxed))
            ):
                reply, acked = self._second_look(call, state, this, end, reply, acked)
        except (redis_errors.RedisError, OSError) as failure:
            error = failure if this.sent else self._why(failure)
            state.sent = state.sent or this.sent
            if self.prepare is not None and not this.sent and isinstance(error, redis_errors.ConnectionError):
                self._tested = False  # the server may have died: the next try starts it
            raise self._judge(call, state, error, this.sent) from failure
        except BaseException:
            state.sent = state.sent or this.sent
            raise
        state.sent = True
        return reply, acked

    def _why(self, error: Exception) -> Exception:
        """Returns why a request was not sent. If it took too long, a connection that could not be opened says it.

        Not one that failed long ago: others may have served since then.
        """
        if not isinstance(error, redis_errors.TimeoutError):
            return error
        for latest in (self._commits.latest, self._connections.latest):
            if latest is not None and latest.opening.ended > io.monotonic() - FRESH:
                return latest.opening.late()
        return error

    def _ask(self, call: Call, this: io.Sent, end: float) -> Any:
        """Sends a read, and asks the server for its role.

        Raises:
            ReadOnlyError: It was a primary once, and is none now: what it knows may be old.
        """
        *replies, role = self._connections.exchange([*call.batch, _ROLE], end, this, call.large)
        self._hear_role(role)
        return _last(replies)

    def _hear_role(self, reply: Any) -> None:
        """Takes in what the server says of its role.

        Raises:
            ReadOnlyError: It was a primary once, and is none now.
        """
        if isinstance(reply, bytes):
            replica = b"role:slave" in reply
            if replica and self._primary:
                raise redis_errors.ReadOnlyError("READONLY the server was the primary, and is a replica now")
            self._primary = not replica
            self._role_due = io.monotonic() + ROLE_EVERY
        elif _begins(reply, "NOPERM") or _begins(reply, "ERR"):
            self._role_due = math.inf  # it may not be asked

    def _second_look(
        self, call: Call, state: Delivery, this: io.Sent, end: float, reply: Any, acked: int | None
    ) -> tuple[Any, int | None]:
        """Returns a reply that is none of a script's; sends the call in another form where that helps.

        Raises:
            RedisError: It is an error.
        """
        if _begins(reply, "NOSCRIPT"):
            # Restarts and SCRIPT FLUSH empty the script cache. Nothing ran: send the source along.
            this.sent = False
            reply, acked = self._send(call, state, this, end, in_full=True)
        if _begins(reply, "OOM") and call.relaxed:
            reply = self._connections.exchange(call.relaxed, end, this, call.large)
        failure = _protocol.in_script_failure(reply)
        if failure is not None:
            raise UndoneError(failure)
        if isinstance(reply, Exception):
            raise reply
        _raise_from_within(call, reply)
        return reply, acked

    def _judge(self, call: Call, state: Delivery, error: Exception, sent: bool) -> Exception:
        """Returns what a failed try means: try again, or give up."""
        fault = classify(error, sent=sent)
        if fault.elsewhere:
            self._leave(state.began)
        if not fault.definite:
            state.ambiguous = True
        state.error = error
        if fault.retry:
            return RetryableError(error)
        return self._failure(call, state, error)

    def _failure(self, call: Call, state: Delivery, error: Exception) -> Exception:
        reason = explain([error], sent=True)
        fault = classify(error, sent=True)
        if call.write is not None and state.ambiguous:
            # Also after a definite refusal of a resend: that says nothing about the earlier copy.
            return OutcomeUnknownError(call.write(), reason)
        if is_damage(error):
            return BrokenChainError(None, "a key of the run holds what histstore did not put there")
        if fault.config and not state.ambiguous:
            return BackendConfigError(f"{call.name}: {reason}; nothing was written")
        if state.ambiguous and call.script is not None:
            return BackendUnavailableError(f"{call.name}: {reason}; it may have been done, and repeating it is safe")
        return BackendUnavailableError(f"{call.name}: {reason}; nothing was written, repeating is safe")

    def _send(
        self, call: Call, state: Delivery, this: io.Sent, end: float, *, in_full: bool = False
    ) -> tuple[Any, int | None]:
        commands = call.commands(state.ambiguous, in_full)
        if not call.durable or not self._waits:
            return _last(self._connections.exchange(commands, end, this, call.large)), None
        wait = self._durability.command()
        patience = self._durability.timeout
        if call.large or not self._grouped:
            # In a batch it would hold up the others.
            *replies, acked = self._connections.exchange([*commands, wait], end + patience, this, True)
        else:
            replies, acked = self._commits.exchange(commands, wait, _left(end), patience, this)
        return _last(replies), self._durability.copies(acked)

    def _self_test(self, end: float) -> None:
        """Runs every command that the library uses, once a backend, before its first call.

        Raises:
            BackendError: The server lacks a command or a permission, or cannot be as durable as asked.
        """
        with io.Held(self._testing, _left(end), redis_errors.TimeoutError, "no answer in time"):
            if self._tested:
                return
            if self.prepare is not None:
                self._check_open()
                self.prepare()
            if io.monotonic() < self._test_again:
                return
            call = _protocol.probe(run_keys(self._namespace, f"probe-{RunId.new()}"))
            commands: Sequence[Command] = call.commands(False, False)
            if self._durability.fsync:
                commands = [*commands, ("WAITAOF", "1", "0", "1")]
            replies = self._connections.exchange(commands, end, io.Sent())
            problems = _problems(commands, replies)
            faults = [classify(problem, sent=False) for problem in problems]
            if any(not fault.retry for fault in faults):
                found = explain(problems, sent=False)
                raise BackendConfigError(f"the server refuses what histstore needs: {found}") from problems[0]
            self._hear_role(replies[list(commands).index(_ROLE)])
            if problems:
                # Loading, full, read-only: what the call itself may bear.
                self._test_again = io.monotonic() + TEST_EVERY
                return
            _warn_of_eviction(replies, self.warned)
            self._tested = True

    def _check_open(self) -> None:
        if self._closed:
            raise BackendError(CLOSED)

    def drop(self) -> None:
        """Closes all connections, each when what was asked over it is answered. Others are opened when needed."""
        self._connections.drop()
        self._commits.drop()
        for connection in list(self._listeners):
            connection.interrupt()

    def aclose(self) -> None:
        """Closes the connections. What is under way is answered first, or fails."""
        self._closed = True
        with self._testing:  # a server that is being started is there to be closed afterwards
            self._commits.close()
            self._connections.close()


def _commands(calls: Sequence[Call], *, in_full: bool) -> list[Command]:
    return [command for call in calls for command in call.commands(False, in_full)]


def _left(end: float) -> float:
    """Returns the seconds until `end`; never none, since a timeout of 0 means all kinds of things."""
    return max(0.001, end - io.monotonic())


def _last(replies: list[Any]) -> Any:
    """Returns the answer that counts: the last one, or what made the server abort before it."""
    last = replies[-1]
    if type(last) is not list and isinstance(last, Exception) and str(last).startswith("EXECABORT"):
        return next((reply for reply in replies if isinstance(reply, Exception)), last)
    return last


def _begins(reply: Any, word: str) -> bool:
    """Tells whether a reply is an error that begins with a word. Others may nest deeper than they can be printed."""
    return isinstance(reply, redis_errors.ResponseError) and str(reply).startswith(word)


def _raise_from_within(call: Call, reply: Any) -> None:
    """Raises what a command of a transaction failed with. A foreign type is damage, and is told elsewhere."""
    if type(reply) is not list or not reply or (call.relaxed is not None and len(reply) != len(call.relaxed)):
        raise redis_errors.ConnectionError("what answers there is no Redis server")
    for part in reply:
        if isinstance(part, Exception) and not str(part).startswith("WRONGTYPE"):
            raise part


def _whole(replies: Sequence[Any], commands: Sequence[Command]) -> bool:
    """Tells whether a transaction has a reply to each command, and none is an error."""
    for reply in replies:
        if isinstance(reply, Exception):
            return False
    return len(replies) == len(commands)


def _problems(commands: Sequence[Command], replies: Sequence[Any]) -> list[Exception]:
    """Returns what the self-test's replies complain of, other than what it expects."""
    problems: list[Exception] = []
    for command, reply in zip(commands, replies, strict=True):
        if isinstance(reply, Exception):
            text = str(reply)
            if command[0] == "WAITAOF":
                text = text if text.startswith("NOPERM") else f"WAITAOF, for Durability(fsync=True): {describe(reply)}"
            # The digest of the EVALSHA is nobody's; INFO only serves a warning.
            expected = {"EVALSHA": "NOSCRIPT", "INFO": "NOPERM"}.get(str(command[0]))
            if expected is None or not text.startswith(expected):
                problems.append(redis_errors.ResponseError(text))
        elif command[0] in ("EXEC", "EVAL") and type(reply) is not list:
            raise redis_errors.ConnectionError("what answers there is no Redis server")
        elif command[0] == "EXEC":
            problems += [part for part in reply if isinstance(part, Exception)]
        elif command[0] == "EVAL":
            problems += [UndoneError(str(line, errors="replace")) for line in reply]
    return problems


def _warn_of_eviction(replies: Sequence[Any], warned: set[str]) -> None:
    for reply in replies:
        if isinstance(reply, bytes) and b"maxmemory_policy:" in reply:
            policy = reply.split(b"maxmemory_policy:", 1)[1].split(b"\r\n", 1)[0].decode()
            if policy != "noeviction" and policy not in warned:
                warned.add(policy)
                log.warning(
                    "the server may evict conversations when its memory is full (maxmemory-policy %s): "
                    "set it to noeviction",
                    policy,
                )
