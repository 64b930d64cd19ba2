"""The runner over a transport without a server: it decides by what the transport says, and by nothing else."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from typing import Any

import pytest
from redis.exceptions import ConnectionError, ResponseError, TimeoutError

from histstore import BackendUnavailableError, Durability, OutcomeUnknownError, RetryPolicy
from histstore._async.transport.runner import Delivery, Runner
from histstore._async.transport.transport import Examine, Listener
from histstore.attempt import Attempt
from histstore.protocol.call import Call, Command, Route
from histstore.protocol.deletes import delete
from histstore.protocol.keys import run_keys
from histstore.protocol.run import NO_LEASE, RunRef
from histstore.revision import Revision, RunId
from histstore.wire.sending import SendState

FAST = RetryPolicy(attempts=3, deadline=10.0, base=0.0, cap=0.0)
BRIEF = RetryPolicy(attempts=3, deadline=0.25, base=0.0, cap=0.0)
LOST = ConnectionError("the server closed the connection")


class Scripted:
    """A transport that plays a list of answers. This is all that a cluster has to provide.

    Args:
        answers: For each request: whether it left, and the reply or the error of the connection.
    """

    declares_keys = False
    address = "nowhere:0"
    try_timeout = 5.0
    may_listen = False
    count = (0, 0)

    def __init__(self, *answers: tuple[bool, Any]) -> None:
        self.answers = list(answers)
        self.sent: list[tuple[Route, Sequence[Command]]] = []
        self.waits: list[Command] = []
        self.drops = 0

    def examines(self, examine: Examine) -> bool:
        return False

    def servers(self) -> list[Route]:
        return [None]

    async def exchange_batch(
        self, batch: Sequence[tuple[bytes, Sequence[Command]]], end: float, state: SendState
    ) -> list[list[Any] | Exception]:
        commands = [command for _, part in batch for command in part]
        (replies,) = await self.exchange(batch[0][0], commands, end, state)
        return [[reply] for reply in replies]

    async def leave(self, key: Route) -> None:
        await self.drop()

    async def exchange(
        self, key: Route, commands: Sequence[Command], end: float, state: SendState, large: bool = False
    ) -> list[Any]:
        self.sent.append((key, commands))
        left, answer = self.answers.pop(0)
        state.sent = state.sent or left
        if isinstance(answer, ConnectionError):
            raise answer
        return [answer]

    async def commit(
        self, key: Route, commands: Sequence[Command], end: float, state: SendState,
        *, wait: Command, patience: float, large: bool,
    ) -> tuple[list[Any], Any]:  # fmt: skip
        self.waits.append(wait)
        return await self.exchange(key, commands, end, state, large), 1

    async def subscribe(self, end: float) -> Listener:
        raise ConnectionError("nobody to listen to")

    def opening_error(self, now: float) -> Exception | None:
        return None

    async def drop(self) -> None:
        self.drops += 1

    async def close(self) -> None:
        pass


class Down(Scripted):
    """A transport whose last answer is also that to all later requests."""

    async def exchange(self, *args: Any, **options: Any) -> list[Any]:
        if len(self.answers) == 1:
            self.answers *= 2
        return await super().exchange(*args, **options)


def write() -> Call:
    """Returns a call whose outcome matters."""
    revision = Revision(1, b"e" * 16)
    where = RunRef("n", RunId("run"), run_keys("n", RunId("run")))
    attempt = Attempt("delete", "n", "run", revision, revision, b"t" * 16)
    return delete(where, attempt, revision.etag, NO_LEASE, False)


def runner(transport: Scripted, durability: Durability | None = None) -> Runner:
    made = Runner(transport, durability or Durability(), "n")
    made.self_test.passed = True
    return made


GONE = [b"deleted"]


async def test_an_answer_is_returned() -> None:
    """The runner sends once, to the key's server."""
    transport, delivery, call = Scripted((True, GONE)), Delivery(), write()
    assert await runner(transport).run(call, FAST, delivery) == (GONE, None)
    assert [key for key, _ in transport.sent] == [call.key]
    assert (delivery.sent, delivery.ambiguous) == (True, False)


@pytest.mark.parametrize("answers", [[(False, LOST)], [(True, ResponseError("READONLY you can't write"))]])
async def test_what_was_certainly_not_applied_is_sent_as_a_first_request(answers: list[Any]) -> None:
    """A request that never left, or that a server refused before it ran, is simply sent again."""
    transport = Scripted(*answers, (True, GONE))
    assert (await runner(transport).run(write(), FAST))[0] == GONE
    (_, first), (_, second) = transport.sent
    assert first == second


async def test_what_may_have_been_applied_is_sent_as_a_copy() -> None:
    """The copy names itself, and the delivery stays ambiguous."""
    transport, delivery = Scripted((True, LOST), (True, GONE)), Delivery()
    await runner(transport).run(write(), FAST, delivery)
    (_, [first]), (_, [second]) = transport.sent
    assert first != second
    assert sum(one != other for one, other in zip(first, second, strict=True)) == 1
    assert delivery.ambiguous


async def test_a_write_that_was_sent_ends_as_unknown_and_one_that_was_not_as_unavailable() -> None:
    """A later definite refusal proves nothing about the earlier copy."""
    with pytest.raises(OutcomeUnknownError):
        await runner(Down((True, LOST), (False, LOST))).run(write(), BRIEF)
    with pytest.raises(BackendUnavailableError):
        await runner(Down((False, LOST))).run(write(), BRIEF)


PASSING = [
    (False, LOST), (True, ResponseError("READONLY you can't write")), (True, ResponseError("LOADING loading")),
    (True, ResponseError("TRYAGAIN")), (True, ResponseError("CLUSTERDOWN down")), (True, ResponseError("BUSY busy")),
    (True, ResponseError("MOVED 1 127.0.0.1:1")), (True, ResponseError("MASTERDOWN down")),
]  # fmt: skip


async def test_a_state_that_passes_is_outlasted() -> None:
    """Attempts bound it neither before nor after a lost reply, and do not run out meanwhile."""
    transport = Scripted(*PASSING, (True, LOST), (False, LOST), (True, LOST), (True, GONE))
    assert (await runner(transport).run(write(), FAST))[0] == GONE
    assert len(transport.sent) == len(PASSING) + 4


async def test_lost_replies_are_bounded_by_attempts_whatever_comes_between() -> None:
    """Each leaves a copy that may still arrive."""
    transport = Scripted(*[(False, LOST), (True, LOST)] * 3)
    with pytest.raises(OutcomeUnknownError):
        await runner(transport).run(write(), FAST)
    assert (len(transport.sent), transport.answers) == (6, [])


@pytest.mark.parametrize("text", ["OOM full", "MISCONF broken", "NOREPLICAS none", "ERR something new"])
async def test_what_lasts_until_somebody_acts_is_bounded_by_attempts(text: str) -> None:
    transport = Down((True, ResponseError(text)))
    with pytest.raises((BackendUnavailableError, OutcomeUnknownError)):
        await runner(transport).run(write(), FAST)
    assert len(transport.sent) == FAST.attempts


@pytest.mark.parametrize("answer", PASSING, ids=lambda answer: str(answer[1]).split()[0])
async def test_one_attempt_is_one_try(answer: Any) -> None:
    """Also where the failure passes."""
    transport = Scripted(answer)
    with pytest.raises(BackendUnavailableError):
        await runner(transport).run(write(), RetryPolicy(attempts=1))
    assert transport.answers == []


async def test_a_missing_script_is_sent_in_full_within_the_same_try() -> None:
    """Nothing ran, so it is no retry."""
    transport = Scripted((True, ResponseError("NOSCRIPT No matching script")), (True, GONE))
    once = RetryPolicy(attempts=1)
    assert (await runner(transport).run(write(), once))[0] == GONE
    assert [commands[0][0] for _, commands in transport.sent] == ["EVALSHA", "EVAL"]


async def test_a_durable_write_is_committed() -> None:
    """The transport is given the command to wait with, and the copies are counted."""
    transport = Scripted((True, GONE))
    reply, copies = await runner(transport, Durability(replicas=1)).run(write(), FAST)
    assert (reply, copies, transport.waits) == (GONE, 1, [("WAIT", "1", "1000")])


@pytest.mark.parametrize(
    ("text", "drops"), [("READONLY you can't write", 1), ("OOM command not allowed", 0), ("LOADING loading", 1)]
)
async def test_a_server_that_is_no_primary_is_left(text: str, drops: int) -> None:
    """All connections are dropped once, so that the next try looks the name up again."""
    transport = Scripted((True, ResponseError(text)), (True, GONE))
    await runner(transport).run(write(), FAST)
    assert transport.drops == drops


async def test_a_try_that_the_deadline_cuts_short_does_not_hide_the_reason() -> None:
    class Slow(Scripted):
        async def exchange(self, *args: Any, **options: Any) -> list[Any]:
            if not self.answers:
                await asyncio.sleep(max(0.0, args[2] - asyncio.get_running_loop().time()) + 0.001)
                raise TimeoutError("no connection had room in time")
            return await super().exchange(*args, **options)

    transport = Slow((True, ResponseError("READONLY You can't write against a read only replica.")))
    with pytest.raises(BackendUnavailableError, match="READONLY"):
        await runner(transport).run(write(), RetryPolicy(attempts=3, deadline=0.2, base=0.0, cap=0.0))


async def test_a_batch_is_one_request() -> None:
    """Scripts that the server lacks are sent again in full, and only those; an error is a value."""
    refused, unknown = ResponseError("ERR no"), ResponseError("NOSCRIPT No matching script")

    transport = Scripted((True, [GONE, unknown, refused]), (True, [GONE]))
    assert await runner(transport).run_batch([write(), write(), write()], 5.0) == [GONE, GONE, refused]
    assert [len(commands) for _, commands in transport.sent] == [3, 1]
