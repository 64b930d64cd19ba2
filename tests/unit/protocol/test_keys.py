"""Key names: any text in, the same text out, one hash tag a run."""

from __future__ import annotations

import re
from dataclasses import astuple
from fnmatch import fnmatchcase

from hypothesis import given
from hypothesis import strategies as st

from histstore.protocol.keys import escape, head_pattern, run_keys, run_of_head, unescape

TEXT = st.text(st.characters(exclude_categories=["Cs"]), min_size=1)
ODD = st.text(st.sampled_from("{}%:*?[]\\^ab\x00 \n\x7f\x80\x9fü👋7B"), min_size=1)
NAMES = TEXT | ODD


@given(NAMES)
def test_escaping_is_undone(text: str) -> None:
    """Any text comes back, and what stands in a key has nothing special left in it."""
    assert unescape(escape(text)) == text
    assert not re.search(r"[{}:*?\[\]\\\x00-\x20\x7f-\x9f]", escape(text))


@given(NAMES, NAMES)
def test_the_escape_of_a_prefix_is_a_prefix_of_the_escape(first: str, second: str) -> None:
    """So that prefixes of raw ids can be matched in the server."""
    assert escape(first + second) == escape(first) + escape(second)


@given(NAMES, NAMES)
def test_different_text_is_a_different_key(first: str, second: str) -> None:
    """No two runs share a key, whatever they are called."""
    assert (escape(first) == escape(second)) == (first == second)


@given(NAMES, NAMES)
def test_a_run_s_keys_share_one_hash_tag(namespace: str, run: str) -> None:
    """Redis Cluster hashes what stands between the first brace and the next: it is the same for all keys."""
    keys = astuple(run_keys(namespace, run))
    assert len(set(keys)) == len(keys) == 6
    tags = {key[key.index(b"{") + 1 : key.index(b"}")] for key in keys}
    assert tags == {escape(run).encode()}


@given(NAMES, NAMES)
def test_a_head_tells_its_run(namespace: str, run: str) -> None:
    """What SCAN finds is turned back into the run's id; other keys are nobody's run."""
    keys = run_keys(namespace, run)
    assert run_of_head(namespace, keys.head) == run
    for other in (keys.log, keys.etags, keys.marks, keys.lease, keys.queue, b"", b"x", keys.head + b"x"):
        assert run_of_head(namespace, other) is None
    assert run_of_head(namespace + "x", keys.head) is None


@given(NAMES, NAMES, NAMES)
def test_a_pattern_matches_exactly_the_prefix(namespace: str, run: str, prefix: str) -> None:
    """SCAN's glob has one star, at the end of the prefix; everything else in it stands for itself."""
    pattern = head_pattern(namespace, prefix).decode()
    assert pattern.count("*") == 1
    head = run_keys(namespace, run).head.decode()
    assert fnmatchcase(head, pattern) == run.startswith(prefix)


def test_a_damaged_key_is_nobody_s_run() -> None:
    """An escape that is no UTF-8 is a foreign key, not a crash."""
    assert run_of_head("n", b"n:{%ff}:head") is None
    assert run_of_head("n", b"n:{\xff}:head") is None
    assert run_of_head("n", b"n:{}:head") is None
