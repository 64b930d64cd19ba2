"""How errors about one run leave its store."""

from __future__ import annotations

import pytest

from histstore import BackendError, ConflictError, CorruptSnapshotError, RunId
from histstore.log.unreadable import BrokenChainError
from histstore.protocol.keys import run_keys
from histstore.protocol.run import RunRef
from histstore.protocol.run_errors import RunErrors


@pytest.fixture
def errors() -> RunErrors:
    return RunErrors(RunRef("test", RunId("run"), run_keys("test", RunId("run"))))


def test_an_error_learns_its_run(errors: RunErrors) -> None:
    with pytest.raises(ConflictError, match="run 'run'") as caught, errors:
        raise ConflictError(None, None)
    assert caught.value.run_id == "run"


def test_an_error_that_knows_its_run_keeps_it(errors: RunErrors) -> None:
    with pytest.raises(BackendError) as caught, errors:
        raise BackendError("no", run_id="other")
    assert caught.value.run_id == "other"


def test_what_does_not_add_up_is_damage_of_the_run(errors: RunErrors) -> None:
    with pytest.raises(CorruptSnapshotError, match="run 'run' is damaged at version 3: torn") as caught, errors:
        raise BrokenChainError(3, "torn")
    assert isinstance(caught.value.__cause__, BrokenChainError)


def test_other_errors_pass(errors: RunErrors) -> None:
    error = KeyError("x")
    with pytest.raises(KeyError) as caught, errors:
        raise error
    assert caught.value is error
    assert error.__context__ is None


def test_it_may_be_entered_again(errors: RunErrors) -> None:
    with pytest.raises(ConflictError) as caught, errors, errors:
        raise ConflictError(None, None)
    assert caught.value.run_id == "run"
