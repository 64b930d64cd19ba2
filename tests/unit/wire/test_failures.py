"""The public error of a call that has failed: it says whether something may have been written."""

from __future__ import annotations

from redis.exceptions import ConnectionError, ResponseError

from histstore import BackendConfigError, BackendUnavailableError, OutcomeUnknownError
from histstore.attempt import Attempt
from histstore.log.unreadable import BrokenChainError
from histstore.protocol.call import Call
from histstore.protocol.scripts import SAVE
from histstore.revision import Revision
from histstore.wire.failures import failure_of

LOST = ConnectionError("the connection broke")
READ = Call("load", [("GET", "key")])
REPEATABLE = Call("lock", [("EVALSHA", "0")], script=SAVE)
ATTEMPT = Attempt("save", "n", "run", None, Revision(1, b"e" * 16), b"t" * 16)
WRITE = Call("save", [("EVALSHA", "0")], script=SAVE, write=lambda: ATTEMPT)


def test_a_write_that_may_have_been_applied_is_unknown() -> None:
    """Whatever the last error was."""
    for error in (LOST, ResponseError("NOAUTH Authentication required."), ResponseError("WRONGTYPE")):
        found = failure_of(WRITE, error, ambiguous=True)
        assert isinstance(found, OutcomeUnknownError)
        assert found.attempt == ATTEMPT


def test_other_calls_say_that_nothing_was_written_or_that_repeating_is_safe() -> None:
    """A read writes nothing; a lease's script may have run, and may run again."""
    for call, ambiguous, words in (
        (WRITE, False, "nothing was written, repeating is safe"),
        (READ, True, "nothing was written, repeating is safe"),
        (REPEATABLE, True, "it may have been done, and repeating it is safe"),
    ):
        found = failure_of(call, LOST, ambiguous=ambiguous)
        assert type(found) is BackendUnavailableError
        assert str(found) == f"{call.name}: the connection broke; {words}"


def test_a_wrong_setting_and_damage_have_errors_of_their_own() -> None:
    """Trying again mends neither."""
    assert isinstance(
        failure_of(READ, ResponseError("NOAUTH Authentication required."), ambiguous=False), BackendConfigError
    )
    assert isinstance(failure_of(READ, ResponseError("WRONGTYPE Operation"), ambiguous=False), BrokenChainError)
