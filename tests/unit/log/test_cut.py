"""The cut that turns one list of messages into another."""

from __future__ import annotations

import copy
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from histstore import AssistantMessage, SnapshotError, ToolCall, UserMessage
from histstore.log.cut import find_cut
from histstore.log.message_codec import encode

ALPHABET = st.lists(st.sampled_from([b"a", b"b", b"c"]), max_size=9)


def brute_force(old: list[bytes], new: list[bytes]) -> int:
    """The most messages that any single cut keeps."""
    n = len(old)
    return max(i + n - j for i in range(n + 1) for j in range(i, n + 1) if new[: i + n - j] == old[:i] + old[j:])


@given(ALPHABET, ALPHABET)
def test_the_cut_keeps_as_much_as_one_cut_can(old: list[bytes], new: list[bytes]) -> None:
    """`new` starts with what the cut keeps of `old`, and no other cut keeps more."""
    i, j = find_cut(old, new)
    assert 0 <= i <= j <= len(old)
    kept = old[:i] + old[j:]
    assert new[: len(kept)] == kept
    assert len(kept) == brute_force(old, new)


@given(ALPHABET, st.integers(0, 9), st.integers(0, 9), ALPHABET)
def test_a_window_that_slides_is_one_cut(old: list[bytes], start: int, stop: int, added: list[bytes]) -> None:
    """Whatever is cut out of the middle while something is added at the end, nothing kept is sent again."""
    start, stop = sorted((min(start, len(old)), min(stop, len(old))))
    new = old[:start] + old[stop:] + added
    i, j = find_cut(old, new)
    assert i + len(old) - j >= start + len(old) - stop
    assert new[: i + len(old) - j] == old[:i] + old[j:]


TYPED = [UserMessage("a"), UserMessage("b"), AssistantMessage([ToolCall("1", "f", {"n": 1})])]


TWINS = [UserMessage("a"), UserMessage("b"), AssistantMessage([ToolCall("1", "f", {"n": True})])]


@given(st.lists(st.sampled_from(TYPED), max_size=7), st.lists(st.sampled_from(TYPED + TWINS), max_size=7))
def test_typed_messages_are_compared_by_what_they_encode_to(old: list[Any], new: list[Any]) -> None:
    """Identity only shortens the way; 1 and True in a tool call's arguments are not the same."""
    i, j = find_cut(old, new)
    kept = old[:i] + old[j:]
    assert [encode(item) for item in new[: len(kept)]] == [encode(item) for item in kept]
    if all(any(item is other for other in old) for item in new):
        assert len(kept) == brute_force([encode(m) for m in old], [encode(m) for m in new])


def test_what_both_sides_share_is_not_encoded() -> None:
    """Identity proves that it has not changed: what cannot be encoded stands for what must not be."""
    old: list[Any] = [object() for _ in range(50)]
    old[10], old[20] = {"at": 10}, {"at": 20}  # beside a cut the two that are not the same are looked at
    assert find_cut(old, old[:]) == (50, 50)
    assert find_cut(old, [*old, {"a": 1}]) == (50, 50)
    assert find_cut(old, [*old[:10], *old[20:]]) == (10, 20)
    assert find_cut([*old[:10], {"a": 1}, *old[10:]], [*old, {"b": 1}]) == (10, 11)
    with pytest.raises(SnapshotError, match="no JSON value"):
        find_cut(old, [{"a": 1}])


@pytest.mark.parametrize(("one", "other"), [(1, True), (1, 1.0), (0, False), (0.0, -0.0), ("1", b"1"), ([], {})])
@pytest.mark.parametrize("wrap", [lambda value: {"a": value}, lambda value: {"a": [{"b": value}]}, lambda value: value])
def test_plain_messages_are_compared_by_what_they_encode_to(one: Any, other: Any, wrap: Any) -> None:
    """Python calls some values equal that are not the same JSON."""
    same, different = wrap(one), wrap(other)
    assert find_cut([same, "x"], [copy.deepcopy(same), "x"]) == (2, 2)
    assert find_cut([same, "x"], [different, "x"]) == (0, 2)
    assert find_cut(["x", same], ["x", different]) == (1, 2)


def test_repeats_do_not_cost_quadratic_time() -> None:
    """100,000 equal messages and one that differs are compared in one pass; quadratic work would take hours."""
    n = 100_000
    assert find_cut([b"x", *[b"a"] * n], [*[b"a"] * n, b"y"]) == (0, 1)
    assert find_cut([*[b"a"] * n, b"b"], [*[b"a"] * (n // 2), b"c"]) == (n // 2, n + 1)
