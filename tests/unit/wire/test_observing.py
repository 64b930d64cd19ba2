"""How the events of a call are built."""

from __future__ import annotations

from typing import Any

import pytest
from redis.exceptions import ConnectionError, ResponseError

from histstore import BackendError, BackendUnavailableError, Event, Observer, OutcomeUnknownError
from histstore.attempt import Attempt
from histstore.protocol.call import Call
from histstore.protocol.scripts import SAVE
from histstore.revision import Revision
from histstore.wire.failures import CLOSED
from histstore.wire.observing import Observed
from histstore.wire.retrying import RetryableError

CALL = Call("save", [("EVALSHA", b"sha", b"1", b"key", "text")], script=SAVE, run=("n", "run"))
ATTEMPT = Attempt("save", "n", "run", None, Revision(1, b"e" * 16), b"t" * 16)
READ = Call("load", [("MULTI",), ("GET", "key"), ("EXEC",)])


class Recorder(Observer):
    def __init__(self) -> None:
        self.events: list[Event] = []

    def started(self, event: Event) -> None:
        self.events.append(event)

    tried = finished = started


def observe(call: Call) -> tuple[Recorder, Observed]:
    recorder = Recorder()
    return recorder, Observed(recorder, call, "h:6379", 10.0, set())


def test_a_call_with_two_tries() -> None:
    """Bytes add up over the tries; a try's seconds are its own, the call's are all."""
    recorder, observed = observe(CALL)
    observed.begin_try(10.0)
    observed.end_try(10.5, error=RetryableError(ConnectionError("lost")))
    observed.begin_try(11.0)
    observed.end_try(11.25, reply=[b"saved", b"1", 12345])
    observed.finish(11.25, reply=[b"saved", b"1", 12345])
    started, failed, answered, finished = recorder.events
    assert (started.name, started.operation, started.run, started.server) == ("save", "save", ("n", "run"), "h:6379")
    assert (failed.outcome, failed.seconds, failed.tries, failed.bytes_sent) == ("failed", 0.5, 1, 18)
    assert isinstance(failed.error, ConnectionError)
    assert (answered.outcome, answered.seconds, answered.tries) == ("answered", 0.25, 2)
    assert (finished.outcome, finished.seconds, finished.tries) == ("answered", 1.25, 2)
    assert (finished.bytes_sent, finished.bytes_received, finished.answer) == (36, 11, "saved")
    assert len({event.call for event in recorder.events}) == 1


def test_calls_have_numbers_of_their_own() -> None:
    """So that an observer can tell them apart while they run at once."""
    assert observe(CALL)[0].events[0].call != observe(CALL)[0].events[0].call


def test_a_read_has_no_answer() -> None:
    """Its first value may be content, also where it looks like a word."""
    recorder, observed = observe(READ)
    observed.finish(11.0, reply=[b"secret", b"x"])
    assert recorder.events[-1].operation == "MULTI"
    assert recorder.events[-1].answer is None


def caused(error: Exception, cause: Exception) -> Exception:
    error.__cause__ = cause
    return error


@pytest.mark.parametrize(
    ("error", "outcome", "answer"),
    [
        (OutcomeUnknownError(ATTEMPT, "lost"), "unknown", None),
        (caused(BackendUnavailableError("x"), ResponseError("OOM command not allowed")), "failed", "OOM"),
        (BackendError(CLOSED), "closed", None),
        (KeyboardInterrupt(), "cancelled", None),
        (ValueError("of a credential provider"), "failed", None),
    ],
    ids=["unknown", "refused", "closed", "interrupted", "foreign"],
)
def test_outcomes(error: Any, outcome: str, answer: str | None) -> None:
    """Each error has one outcome. The server's code is found in what caused it."""
    recorder, observed = observe(CALL)
    observed.finish(11.0, error=error)
    event = recorder.events[-1]
    assert (event.outcome, event.answer, event.error) == (outcome, answer, error)


def test_a_reply_that_nests_deeply_is_counted() -> None:
    """What answers may be hostile."""
    deep: list[Any] = [b"12345"]
    for _ in range(50_000):
        deep = [deep]
    recorder, observed = observe(READ)
    observed.begin_try(10.0)
    observed.end_try(11.0, reply=deep)
    assert recorder.events[-1].bytes_received == 5
    while len(deep) == 1 and isinstance(deep[0], list):
        deep = deep.pop()
