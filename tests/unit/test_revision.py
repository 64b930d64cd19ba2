"""Revisions and run ids."""

from __future__ import annotations

import copy
import pickle
import uuid
from dataclasses import FrozenInstanceError
from datetime import UTC, datetime
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from histstore import Revision, RunId, SnapshotError

ETAG = bytes(range(16))


@given(st.integers(1, 10**16 - 1), st.binary(min_size=16, max_size=16))
def test_what_str_wrote_parse_reads(version: int, etag: bytes) -> None:
    """A revision goes through text, as CouchDB writes its own: number, hyphen, 32 hex digits."""
    revision = Revision(version, etag)
    assert str(revision) == f"{version}-{etag.hex()}"
    assert Revision.parse(str(revision)) == revision


@pytest.mark.parametrize(
    "text",
    ["", "1", "1-", "-1-" + "0" * 32, "0-" + "0" * 32, "01-" + "0" * 32, "1-" + "0" * 31, "1-" + "0" * 33,
     "1-" + "G" * 32, "1-" + "A" * 32, " 1-" + "0" * 32, "1-" + "0" * 32 + "\n", "\u0661-" + "0" * 32,
     "9" * 17 + "-" + "0" * 32, None, 3, b"1-" + b"0" * 32],
    ids=repr,
)  # fmt: skip
def test_what_is_no_revision_is_refused(text: Any) -> None:
    """Anything but the one canonical form is a SnapshotError."""
    with pytest.raises(SnapshotError, match="32 lower-case hex"):
        Revision.parse(text)


def test_two_revisions_are_equal_by_version_and_etag() -> None:
    """When, how long and under which lease are told, not compared: a parsed revision equals the saved one."""
    full = Revision(3, ETAG, datetime(2026, 1, 1, tzinfo=UTC), 7, 10, 1000)
    assert full == Revision.parse(str(full)) == Revision(3, ETAG)
    assert hash(full) == hash(Revision(3, ETAG))
    assert full != Revision(4, ETAG)
    assert full != Revision(3, bytes(16))
    assert full != str(full)
    parsed = Revision.parse(str(full))
    assert (parsed.saved_at, parsed.fence, parsed.length, parsed.size) == (None, None, None, None)


def test_a_revision_is_a_frozen_value() -> None:
    """Picklable with all it knows, copyable, and not to be changed."""
    full = Revision(3, ETAG, datetime(2026, 1, 1, tzinfo=UTC), 7, 10, 1000)
    for twin in (pickle.loads(pickle.dumps(full)), copy.deepcopy(full)):
        assert (twin, twin.saved_at, twin.fence, twin.length, twin.size) == (full, full.saved_at, 7, 10, 1000)
    with pytest.raises(FrozenInstanceError):
        full.version = 4  # type: ignore[misc]


@pytest.mark.parametrize(
    ("version", "etag"), [(0, ETAG), (-1, ETAG), (True, ETAG), ("1", ETAG), (1, b""), (1, "x" * 16), (10**16, ETAG)]
)
def test_a_wrong_revision_cannot_be_made(version: Any, etag: Any) -> None:
    """A revision that exists can be compared and written."""
    with pytest.raises(SnapshotError, match="Revision"):
        Revision(version, etag)


def test_a_run_id_is_text() -> None:
    """Any non-empty text or a UUID; a RunId is a str to everybody else."""
    assert RunId("a") == "a"
    assert isinstance(RunId("a"), str)
    number = uuid.uuid4()
    assert RunId(number) == str(number) == RunId(str(number))
    assert RunId(RunId("x")) == "x"
    assert {RunId("x"): 1}["x"] == 1
    twin = pickle.loads(pickle.dumps(RunId("ü{}")))
    assert twin == "ü{}"
    assert type(twin) is RunId


def test_a_new_run_id_is_a_uuid4() -> None:
    """Lower-case and hyphenated, as the seed's, and never the same."""
    made = {RunId.new() for _ in range(100)}
    assert len(made) == 100
    for run in made:
        parsed = uuid.UUID(run)
        assert parsed.version == 4
        assert str(parsed) == run


@pytest.mark.parametrize("wrong", ["", None, 3, b"x", "\ud800", ["a"]], ids=repr)
def test_what_is_no_run_id_is_refused(wrong: Any) -> None:
    """The empty text would be everybody's run."""
    with pytest.raises(SnapshotError, match="run id"):
        RunId(wrong)
