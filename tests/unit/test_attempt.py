"""The text of an attempt, and how the public values look in a debugger and a log."""

from __future__ import annotations

import string
from datetime import UTC, datetime
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

import histstore.sync
from histstore import (
    Attempt,
    ConversationSnapshot,
    LeaseInfo,
    Page,
    Revision,
    RunId,
    RunInfo,
    SnapshotError,
    UserMessage,
)

TEXTS = st.text(st.characters(exclude_categories=["Cs"]), min_size=1)
NUMBERS = st.none() | st.integers(0, 10**19 - 1)
REVISIONS = st.builds(
    Revision,
    st.integers(1, 10**16 - 1),
    st.binary(min_size=16, max_size=16),
    st.none(),
    NUMBERS,
    NUMBERS,
    NUMBERS,
)
ATTEMPTS = st.builds(
    Attempt,
    st.sampled_from(["save", "delete"]),
    TEXTS,
    TEXTS.map(RunId),
    st.none() | REVISIONS,
    st.none() | REVISIONS,
    st.binary(min_size=16, max_size=16),
    st.none() | st.datetimes(timezones=st.just(UTC)),
)
PRINTABLE = frozenset(string.ascii_letters + string.digits + string.punctuation)
ONE = Revision(3, bytes.fromhex("917fa2") + bytes(13), datetime(2026, 1, 1, tzinfo=UTC), 7, 12, 900)
ATTEMPT = Attempt("save", "histstore", RunId("a:b"), None, ONE, b"t" * 16, datetime(2026, 1, 2, 3, 4, 5, tzinfo=UTC))


@given(ATTEMPTS)
def test_what_str_wrote_parse_reads(attempt: Attempt) -> None:
    """All that `resolve` needs, and what it then returns; on one line of printable ASCII without spaces."""
    text = str(attempt)
    assert PRINTABLE.issuperset(text)
    twin = Attempt.parse(text)
    assert twin == attempt
    assert twin.made_at == attempt.made_at
    assert type(twin.run_id) is RunId
    if attempt.revision is not None and twin.revision is not None:
        for name in ("fence", "length", "size"):
            assert getattr(twin.revision, name) == getattr(attempt.revision, name)
    assert str(twin) == text


def test_the_text_of_an_attempt() -> None:
    """Kept: texts are in logs and queues, and are read by later versions."""
    assert str(ATTEMPT) == (f"save:histstore:a%3Ab::3-917fa2{'0' * 26}:7:12:900:{'74' * 16}:20260102T030405.000000Z")


@given(st.text() | st.text(st.sampled_from(":-0123456789abcdef%.TZ")) | st.none() | st.binary())
def test_other_texts_are_refused(text: Any) -> None:
    """With an error of ours, whatever they are."""
    with pytest.raises(SnapshotError, match="str\\(attempt\\)"):
        Attempt.parse(text)


@given(ATTEMPTS, st.integers(0, 400), st.sampled_from([*": -0f%\n\xe9", ""]))
def test_a_text_that_was_changed_is_an_attempt_or_refused(attempt: Attempt, at: int, char: str) -> None:
    """Nothing but SnapshotError comes out, and what is read has a text that is read as the same."""
    text = str(attempt)
    text = text[: at % len(text)] + char + text[at % len(text) + 1 :]
    try:
        found = Attempt.parse(text)
    except SnapshotError:
        return
    assert Attempt.parse(str(found)) == found


MANY = 1_000
HUGE = RunId("x" * 5_000)
INFO = RunInfo(
    HUGE, ONE, 12, 900, {"k": "secret" * MANY}, None, None, None, LeaseInfo("h" * MANY, 7, datetime.now(UTC), 12.34)
)
PAGE = Page((UserMessage("secret"),) * MANY, (False,) * MANY, 5, 2_000, {"k": "secret" * MANY}, ONE)


@pytest.mark.parametrize(
    ("value", "text"),
    [
        (ONE, "<Revision 3-917fa2…>"),
        (ATTEMPT, "<Attempt to save run 'a:b' as 3-917fa2…, onto absent>"),
        (Attempt("delete", "n", RunId("r"), ONE, ONE, b"t" * 16), "<Attempt to delete run 'r' at 3-917fa2…>"),
        (Attempt("delete", "n", RunId("r"), None, None, b"t" * 16), "<Attempt to delete run 'r' at absent>"),
        (LeaseInfo("w1", 7, datetime.now(UTC), 12.34), "<LeaseInfo: fence 7, held by 'w1', expires in 12.3 s>"),
        (
            RunInfo(RunId("r"), None, 0, 0, {}, None, None, None, None),
            "<RunInfo of run 'r' at absent: 0 messages, 0 bytes>",
        ),
        (INFO, None),
        (PAGE, "<Page of 1,000 of 2,000 messages, from 5, at 3-917fa2…>"),
        (ConversationSnapshot(), "<ConversationSnapshot of 0 messages>"),
        (ConversationSnapshot(["secret"] * MANY), "<ConversationSnapshot of 1,000 messages>"),
        (histstore.InMemoryHistoryStore(), "<InMemoryHistoryStore at absent>"),
        (histstore.JsonFileHistoryStore("/tmp/a.json"), "<JsonFileHistoryStore at '/tmp/a.json', absent>"),
        (histstore.RedisBackend.from_url("redis://u:secret@h").store(HUGE), None),
        (histstore.sync.RedisBackend.from_url("redis://h").store("r"), "<RedisHistoryStore of run 'r' at absent>"),
    ],
    ids=lambda value: type(value).__name__,
)  # fmt: skip
def test_values_look_short(value: Any, text: str | None) -> None:
    """No message, no meta and no bytes of an etag; the revision as it is spoken of."""
    assert text is None or repr(value) == text
    assert len(repr(value)) < 200
    assert repr(value).isprintable()
    assert "secret" not in repr(value)
