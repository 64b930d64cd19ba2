"""Checks of arguments that several calls take."""

from __future__ import annotations

from typing import Any

import pytest

from histstore import ANY, SEEN, Revision, SnapshotError
from histstore.arguments import check_drain, check_expected, check_function, check_limit, check_lock


@pytest.mark.parametrize("expected", [None, ANY, SEEN, Revision(1, b"x" * 16)], ids=["None", "ANY", "SEEN", "revision"])
def test_what_can_be_expected(expected: Any) -> None:
    check_expected(expected)


@pytest.mark.parametrize("expected", [0, "1-00", b"x" * 16])
def test_what_cannot_be_expected(expected: Any) -> None:
    with pytest.raises(SnapshotError, match="expected= is"):
        check_expected(expected)


@pytest.mark.parametrize("limit", [None, 0, 10])
def test_limits(limit: Any) -> None:
    check_limit(limit)


@pytest.mark.parametrize("limit", [-1, 1.0, True, "1"])
def test_what_is_no_limit(limit: Any) -> None:
    with pytest.raises(SnapshotError, match="limit is"):
        check_limit(limit)


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("ttl", 0.001), ("ttl", "1"), ("ttl", float("nan")), ("ttl", 1e9), ("acquire_timeout", -1),
        ("acquire_timeout", "1"), ("acquire_timeout", True), ("renew", 1), ("cancel", None),
    ],
)  # fmt: skip
def test_an_argument_of_lock_that_is_out_of_range_is_named(name: str, value: Any) -> None:
    arguments: dict[str, Any] = {"ttl": 30.0, "acquire_timeout": None, "renew": True, "cancel": True}
    check_lock(**arguments)
    with pytest.raises(SnapshotError, match=f"^{name} is"):
        check_lock(**arguments | {name: value})


def test_a_drain_and_a_function() -> None:
    check_drain(0)
    check_function(print)
    with pytest.raises(SnapshotError, match="drain is"):
        check_drain(-1)
    with pytest.raises(SnapshotError, match="update"):
        check_function(3)
