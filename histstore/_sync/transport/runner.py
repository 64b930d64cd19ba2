# Generated from histstore/_async/transport/runner.py by tools/unasync.py; do not edit.
"""Runs calls: the tries, and what a failed try means. Nothing else decides whether a request is sent again."""

from __future__ import annotations

import logging
import math
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any, Final

from redis import exceptions as redis_errors

from ...errors import BackendError, OutcomeUnknownError
from ...policy import Durability, RetryPolicy
from ...protocol.call import Call, Route
from ...protocol.replies import in_script_failure
from ...wire.failures import CLOSED, failure_of
from ...wire.faults import UndoneError, classify, describe
from ...wire.health import ROLE, Role
from ...wire.observing import Observed
from ...wire.replies import check_transaction, is_complete, is_error, last_reply
from ...wire.retrying import RetryableError, tenacity_options
from ...wire.sending import SendState
from ..compat import io
from .cluster import cluster_of
from .self_test import SelfTest
from .single_server import SingleServer
from .transport import Listener, Transport

log = logging.getLogger("histstore")

DROP_EVERY: Final = 0.1
"""Seconds between two drops of all connections. Without it, a lone replica would be reconnected to continuously."""


class Delivery(SendState):
    """The state of one call over all its tries.

    Attributes:
        ambiguous: Whether a try was sent and not answered. It may have been applied, or may still arrive.
        began: When the last try began, by `io.monotonic`.
        error: The error of the last try that failed.
        observed: Reports the call to an observer. Only an `ObservedRunner` sets it.
    """

    __slots__ = ("ambiguous", "began", "error", "observed")
    observed: Observed

    def __init__(self) -> None:
        # Not `super().__init__()`: it takes longer than the rest, and every request makes a Delivery.
        self.sent = False
        self.ambiguous = False
        self.began = 0.0
        self.error: Exception | None = None


class Runner:
    """Runs calls over a transport, in one process and event loop.

    Attributes:
        transport: Sends the commands.
        try_timeout: Timeout of one try in seconds.
        self_test: The test of the server before the first call.
        warned: The warnings already logged.

    Args:
        transport: Sends the commands.
        durability: What writes wait for.
        namespace: Prefix of the self-test's scratch key.
        prepare: Called before the first call, until it succeeds: starts the embedded server. None: nothing to start.
        warned: The warnings already logged. All runners of a backend share it, so each warning is logged once.
    """

    def __init__(
        self, transport: Transport, durability: Durability, namespace: str,
        *, prepare: Callable[[], None] | None = None, warned: set[str] | None = None,
    ) -> None:  # fmt: skip
        self._use(transport)
        # `io.monotonic` looks the loop up, which takes longer than to read its clock.
        self._clock = io.clock()
        self.try_timeout = transport.try_timeout
        self._durability = durability
        self._waits = durability.wanted > 0
        self._role = Role()
        self.warned: set[str] = set() if warned is None else warned
        self.self_test = SelfTest(transport, durability, namespace, self._role, prepare=prepare, warned=self.warned)
        if transport.examines(self.self_test.examine):
            self.self_test.passed = True
            self._role.ignore()
        else:
            self.self_test.on_cluster = self._become_cluster
        self._closed = False
        self._dropped = -math.inf

    def _use(self, transport: Transport) -> None:
        self.transport = transport
        # Every call uses these.
        self._exchange = transport.exchange
        self._declare = transport.declares_keys

    def _become_cluster(self) -> None:
        """Use the server as the seed of the cluster that it belongs to."""
        single = self.transport
        assert isinstance(single, SingleServer)
        if single.address not in self.warned:
            self.warned.add(single.address)
            log.info("%s is a server of a cluster: it is used as a seed, like redis+cluster://", single.address)
        self.self_test.on_cluster = None
        self._role.ignore()
        self._use(cluster_of(single))
        self.transport.examines(self.self_test.examine)
        single.close()

    @property
    def may_listen(self) -> bool:
        """Whether a connection may be opened for listening, beside the one for requests."""
        return self.transport.may_listen

    @property
    def connections(self) -> tuple[int, int]:
        """The number of connections in use, and of idle ones."""
        return self.transport.count

    def run(
        self, call: Call, policy: RetryPolicy, delivery: Delivery | None = None, within: float = math.inf
    ) -> tuple[Any, int | None]:
        """Return the reply to a call, and the number of copies that confirmed it if it is a durable write.

        Args:
            call: The call.
            policy: When to try again.
            delivery: Records the state of the tries, also where this raises.
            within: Seconds after which the answer is useless. The policy's deadline may be sooner.

        Raises:
            BackendConfigError: A setting is wrong; nothing was written.
            BackendUnavailableError: The server could not be used, and nothing was written.
            OutcomeUnknownError: The call writes, was sent, and no answer came.
            BrokenChainError: A key of the run is of a foreign type.
            BackendError: This backend is closed.
        """
        if self._closed:
            raise BackendError(CLOSED)
        now = self._clock()
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
            raise failure_of(call, error.cause, ambiguous=state.ambiguous) from error.cause
        except OutcomeUnknownError:
            raise
        except BackendError as error:
            if call.write is not None and state.ambiguous:
                # A later failure, of a self-test for example, proves nothing about the copy that was sent.
                raise OutcomeUnknownError(call.write(), describe(error)) from error
            raise

    def run_batch(self, calls: Sequence[Call], timeout: float) -> list[Any]:
        """Return the replies to calls that are sent together, in one try. An error of the server is a value.

        Raises:
            RedisError: They could not be sent, or were not answered within `timeout` seconds.
        """
        end = io.monotonic() + timeout
        self._prepare(end)
        began = io.monotonic()
        with self._noticing_loss():
            replies = self._send_batch(calls, end, in_full=False)
            unknown = [at for at, reply in enumerate(replies) if is_error(reply, "NOSCRIPT")]
            if unknown:
                again = self._send_batch([calls[at] for at in unknown], end, in_full=True)
                for at, reply in zip(unknown, again, strict=True):
                    replies[at] = reply
        for call, reply in zip(calls, replies, strict=True):
            if isinstance(reply, Exception) and classify(reply, sent=True).elsewhere:
                self._leave_server(began, call.key)
        return replies

    def _send_batch(self, calls: Sequence[Call], end: float, *, in_full: bool) -> list[Any]:
        batch = [(call.keys[0], call.commands(False, in_full, self._declare)) for call in calls]
        parts = self.transport.exchange_batch(batch, end, SendState())
        return [part if isinstance(part, Exception) else last_reply(part) for part in parts]

    def subscribe(self) -> Listener:
        """Return a connection to listen on, for the caller alone.

        Raises:
            RedisError: It could not be opened.
        """
        end = io.monotonic() + self.try_timeout
        self._prepare(end)
        with self._noticing_loss():
            return self.transport.subscribe(end)

    def _leave_server(self, began: float, key: Route) -> None:
        """Drop the connections to a server, because it refuses and its name may stand for another server by now.

        Requests that are pending over them are still answered.

        Args:
            began: When the refused request was sent.
            key: Where it was sent to.
        """
        now = io.monotonic()
        if began < self._dropped or now < self._dropped + DROP_EVERY:
            return  # the connection that it was refused over has been dropped since, or is new
        self._dropped = now
        self._role.ask_again(now)
        self.transport.leave(key)

    @contextmanager
    def _noticing_loss(self) -> Iterator[None]:
        """Notice that an embedded server may have died: the next try starts it."""
        try:
            yield
        except redis_errors.ConnectionError:
            self.self_test.forget()
            raise

    def _prepare(self, end: float) -> None:
        """Start an embedded server that is down."""
        self._check_open()
        if self.self_test.prepare is not None and not self.self_test.passed:
            self.self_test.run(end, self._check_open)

    def _retry(
        self, call: Call, policy: RetryPolicy, state: Delivery, deadline: float, first: RetryableError
    ) -> tuple[Any, int | None]:
        pending: RetryableError | None = first
        options = tenacity_options(policy, deadline - io.monotonic())
        for attempt in io.Retrying(sleep=io.sleep, **options):
            with attempt:
                if pending is not None:
                    # `run` has made the first try without tenacity. Raising its error here counts it and pauses.
                    error, pending = pending, None
                    raise error
                self._check_open()
                return self._try(call, state, deadline, io.monotonic())
        raise AssertionError("tenacity ends with a result or an error")

    def _try(self, call: Call, state: Delivery, deadline: float, now: float) -> tuple[Any, int | None]:
        """Make one try.

        Raises:
            RetryableError: It failed, and another try may help.
            BackendError: It failed for good.
        """
        if now >= deadline:
            raise RetryableError(state.error or redis_errors.TimeoutError("the deadline has passed"))
        end = min(now + self.try_timeout, deadline)
        this_try = SendState()
        state.began = now
        try:
            if not self.self_test.passed:
                self.self_test.run(end, self._check_open)
                state.began = io.monotonic()
            relaxed = call.relaxed
            if relaxed is not None and now >= self._role.due:
                reply, acked = self._read_with_role(call, this_try, end), None
            elif relaxed is None and (state.ambiguous or (call.durable and self._waits)):
                reply, acked = self._send(call, state, this_try, end)
            else:
                batch = call.commands(False, False, True) if self._declare else call.batch
                replies = self._exchange(call.key, batch, end, this_try, call.large)
                reply, acked = replies[-1] if type(replies[-1]) is list else last_reply(replies), None
            # A script's answer begins with a word. Nearly all replies end here.
            if (
                type(reply) is not list
                or not reply
                or reply[0] == b"failed"
                or (relaxed is not None and not is_complete(reply, relaxed))
            ):
                reply, acked = self._handle_unusual(call, state, this_try, end, reply, acked)
        except (redis_errors.RedisError, OSError) as failure:
            state.sent = state.sent or this_try.sent
            late = io.monotonic() >= deadline
            raise self._interpret(call, state, failure, this_try.sent, late) from failure
        except BaseException:
            state.sent = state.sent or this_try.sent
            raise
        state.sent = True
        return reply, acked

    def _read_with_role(self, call: Call, this_try: SendState, end: float) -> Any:
        """Send a read, and ask the server for its role.

        Raises:
            ReadOnlyError: The server was the primary once and is a replica now. Its data may be old.
        """
        *replies, role = self._exchange(call.key, [*call.batch, ROLE], end, this_try, call.large)
        self._role.record(role, io.monotonic())
        return last_reply(replies)

    def _handle_unusual(
        self, call: Call, state: Delivery, this_try: SendState, end: float, reply: Any, acked: int | None
    ) -> tuple[Any, int | None]:
        """Return a reply that is not a script's answer, or send the call in another form where that helps.

        Raises:
            RedisError: The reply is an error.
        """
        if is_error(reply, "NOSCRIPT"):
            # A restart and SCRIPT FLUSH empty the script cache. Nothing ran, so send the source.
            this_try.sent = False
            reply, acked = self._send(call, state, this_try, end, in_full=True)
        if is_error(reply, "OOM") and call.relaxed:
            reply = self._exchange(call.key, call.relaxed, end, this_try, call.large)
        failure = in_script_failure(reply)
        if failure is not None:
            raise UndoneError(failure)
        if isinstance(reply, Exception):
            raise reply
        check_transaction(call, reply)
        return reply, acked

    def _interpret(self, call: Call, state: Delivery, failure: Exception, sent: bool, late: bool) -> Exception:
        """Return the meaning of a failed try: a RetryableError to try again, or the public error to give up with."""
        error = failure
        if not sent:
            if isinstance(failure, redis_errors.TimeoutError):
                # The request was not sent in time. A connection that could not be opened is the better reason.
                error = self.transport.opening_error(io.monotonic()) or failure
                if late and state.error is not None:
                    # The deadline cut this try short. The failure of the one before says more.
                    error = state.error
            if isinstance(error, redis_errors.ConnectionError):
                self.self_test.forget()
        fault = classify(error, sent=sent)
        if fault.elsewhere:
            self._leave_server(state.began, call.key)
        if not fault.definite:
            state.ambiguous = True
        state.error = error
        if fault.retry:
            return RetryableError(error, passing=fault.passing)
        return failure_of(call, error, ambiguous=state.ambiguous)

    def _send(
        self, call: Call, state: Delivery, this_try: SendState, end: float, *, in_full: bool = False
    ) -> tuple[Any, int | None]:
        commands = call.commands(state.ambiguous, in_full, self._declare)
        if not call.durable or not self._waits:
            return last_reply(self._exchange(call.key, commands, end, this_try, call.large)), None
        durability = self._durability
        replies, acked = self.transport.commit(
            call.key, commands, end, this_try,
            wait=durability.command(), patience=durability.timeout, large=call.large,
        )  # fmt: skip
        return last_reply(replies), durability.copies(acked)

    def _check_open(self) -> None:
        if self._closed:
            raise BackendError(CLOSED)

    def drop(self) -> None:
        """Close all connections, each after its pending requests are answered. Others are opened when needed."""
        self.transport.drop()

    def close(self) -> None:
        """Close the connections. Pending requests are answered first, or fail."""
        self._closed = True
        # An embedded server that is being started must be up before it can be closed afterwards.
        with self.self_test.lock:
            self.transport.close()
