"""The cut that turns one list of messages into another."""

from __future__ import annotations

import operator
from collections.abc import Sequence
from itertools import compress, count, islice, repeat
from typing import Any

from .message_codec import encode


def find_cut(old: Sequence[Any], new: Sequence[Any]) -> tuple[int, int]:
    """Return (i, j) so that `new` starts with `old[:i] + old[j:]`. No other single cut keeps more.

    It takes the longest common prefix, then the longest end of `old` that `new` continues with. The failure function of
    Knuth, Morris and Pratt keeps that linear, also for repeated messages. A message that is the same object on both
    sides is not encoded: it is frozen, so it has not changed.
    """
    i = _common(old, new)
    old, new = old[i:], new[i:]
    if not old or not new:
        return i, i + len(old)
    at = next(compress(count(), map(operator.is_, old, repeat(new[0]))), len(old))
    if at < len(old) <= at + len(new) and all(map(operator.is_, islice(old, at, None), new)):
        return i, i + at  # a sliding window: identity finds the cut without running Python code for each message
    old_keys, new_keys = _keys(old, new)
    failure = [0] * len(new_keys)
    matched = 0
    for k in range(1, len(new_keys)):
        while matched and new_keys[k] != new_keys[matched]:
            matched = failure[matched - 1]
        matched += new_keys[k] == new_keys[matched]
        failure[k] = matched
    matched = 0
    for key in old_keys:
        if matched == len(new_keys):
            matched = failure[matched - 1]
        while matched and key != new_keys[matched]:
            matched = failure[matched - 1]
        matched += key == new_keys[matched]
    return i, i + len(old) - matched


def _common(old: Sequence[Any], new: Sequence[Any]) -> int:
    """Return the length of the common prefix. Identical objects are skipped at C speed."""
    others = compress(count(), map(operator.is_not, old, new))
    # Compare encodings, not values: in Python 1, 1.0 and True are equal, and so are 0.0 and -0.0.
    return next((k for k in others if encode(old[k]) != encode(new[k])), min(len(old), len(new)))


def _keys(old: Sequence[Any], new: Sequence[Any]) -> tuple[list[Any], list[Any]]:
    """Return keys that are equal exactly where the messages are. An object on both sides is known by its identity."""
    shared = set(map(id, old)).intersection(map(id, new))
    if shared.issuperset(map(id, new)):
        return list(map(id, old)), list(map(id, new))
    old_keys, new_keys = (
        [id(message) if id(message) in shared else encode(message) for message in side] for side in (old, new)
    )
    return old_keys, new_keys
