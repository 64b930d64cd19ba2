"""Parts of a conversation, found by reading its log backwards."""

from __future__ import annotations

import sys
from typing import Any

from hypothesis import given, settings
from hypothesis import strategies as st

from histstore import UserMessage
from histstore.log.body import Body, encode_body
from histstore.log.columns import Log
from histstore.log.entry import Entry
from histstore.log.head import Head
from histstore.log.header import ABSENT
from histstore.log.message_codec import encode, encode_meta
from histstore.log.plan import Writer, plan_append
from histstore.log.replay import replay
from histstore.log.tail import Tail

from ...support.entries import NO_LIMIT, chain, make_entry
from ...support.samples import faithful
from ...support.tails import followed, tail


def test_a_tail_needs_only_what_added_it() -> None:
    """None when older entries are needed; the slice otherwise."""
    entries, base = chain(6)
    messages = base.messages()
    for low in range(7):
        for high in range(low, 7):
            for known in range(1, 7):
                found = tail(entries[-known:], low, high)
                if low == high or low >= 6 - known:
                    assert found is not None
                    assert found[0] == messages[low:high]
                    assert found[1] == base.pins[low:high]
                else:
                    assert found is None


# Few different messages, so that neighbours are often equal; indices that mostly exist.
MESSAGE = st.tuples(st.integers(0, 3), st.booleans())


INDEX = st.integers(0, 12)


SAVE = st.tuples(
    st.tuples(INDEX, st.integers(0, 4)) | st.none(),  # cut: where, and how many
    st.lists(MESSAGE, max_size=3),  # added
    st.lists(INDEX, max_size=2, unique=True),  # pins turned
    st.lists(st.tuples(INDEX, st.booleans(), MESSAGE), max_size=2, unique_by=lambda fill: fill[0]),  # filled in
    st.none() | st.just(encode_meta({"n": 1})),
)


def made(number: int, typed: bool) -> Any:
    return UserMessage(f"{number}") if typed else {"role": "user", "n": number}


def run_of(saves: list[Any]) -> tuple[list[Entry], list[Any], list[bool]]:
    """Entries that do whatever an entry can do, and what they come to."""
    entries: list[Entry] = []
    messages: list[Any] = []
    pins: list[bool] = []
    for version, (cut, added, turned, filled, meta) in enumerate(saves, 1):
        i = min(cut[0], len(messages)) if cut is not None else len(messages)
        j = min(i + cut[1], len(messages)) if cut is not None else i
        messages[i:j], pins[i:j] = [], []
        new = [made(*each) for each in added]
        messages += new
        pins += [False] * len(new)
        flips = [index for index in turned if index < len(messages)]
        for index in flips:
            pins[index] = not pins[index]
        fills = [(index, pin, encode(made(*each))) for index, pin, each in filled if index < len(messages)]
        for (index, pin, _), message in zip(fills, [made(*f[2]) for f in filled if f[0] < len(messages)], strict=True):
            messages[index], pins[index] = message, pin
        body = encode_body(Body(list(map(encode, new)), flips, meta, fills))
        parent = entries[-1].etag if entries else ABSENT
        size = sum(map(len, map(encode, messages)))
        entries.append(make_entry(version, parent, bytes(16), (i, j), len(messages), size, 1, 0, 0, body))
    return entries, messages, pins


@settings(deadline=None, max_examples=400)
@given(st.lists(SAVE, min_size=1, max_size=30), st.data())
def test_a_tail_is_a_slice_of_the_replay(saves: list[Any], data: st.DataObject) -> None:
    """Whatever the log is made of, and in whatever chunks it is read: the messages and pins of the conversation.

    It ends where following each index by itself ends: no entry sooner, and none later.
    """
    entries, messages, pins = run_of(saves)
    truth = replay(entries)
    assert (faithful(truth.messages()), truth.pins) == (faithful(messages), pins)
    low = data.draw(st.integers(0, len(messages)))
    high = data.draw(st.integers(low, len(messages)))
    chunks = data.draw(st.lists(st.integers(1, 9), max_size=5))
    found = tail(entries, low, high, chunks)
    assert found is not None
    assert (faithful(found[0]), found[1]) == (faithful(messages[low:high]), pins[low:high])
    known = entries[-data.draw(st.integers(1, len(entries))) :]
    part, reference = tail(known, low, high, chunks), followed(known, low, high)
    assert (part is None) == (reference is None)
    if part is not None:
        assert (faithful(part[0]), part[1]) == (faithful(messages[low:high]), pins[low:high])


def test_a_tail_looks_at_no_message_twice() -> None:
    """What a page costs is the entries and the page, not one times the other: ten times as much of both is not 100."""

    def steps(count: int, start: int, stop: int) -> int:
        entries, _ = appended(count)
        log = Log.of(entries)
        seen = 0

        def trace(frame: Any, event: str, arg: Any) -> Any:
            nonlocal seen
            seen += event == "line"
            return trace

        found = Tail(count, start, stop)
        before = sys.gettrace()
        sys.settrace(trace)
        try:
            found.back(log)
        finally:
            sys.settrace(before)
        assert not found.missing
        return seen

    for start, stop in [(0, None), (0, 10), (None, None)]:
        few, many = (steps(n, n // 2 if start is None else start, n if stop is None else stop) for n in (100, 1000))
        assert many < 12 * few, (start, stop)


def appended(count: int) -> tuple[list[Entry], Head]:
    """Entries that add one small message each."""
    entries: list[Entry] = []
    head: Head | None = None
    for number in range(count):
        plan = plan_append(head, (UserMessage(str(number)),), False, None, Writer(bytes(16), 0, NO_LIMIT))
        assert plan is not None
        entries.append(plan.entry)
        head = plan.head
    assert head is not None
    return entries, head
