"""Snapshots: frozen values that share what is old."""

from __future__ import annotations

import copy
import pickle
import random
import sys
from types import FrameType
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from histstore import ConversationSnapshot, Revision, SnapshotError, UserMessage
from histstore.lineage import Origin
from histstore.snapshot import add_origin, find_origin

from ..support.samples import PLAIN, TYPED, faithful, plain, user

Snapshot = ConversationSnapshot[Any]
INDEX = st.none() | st.integers(-8, 8)


def test_the_constructor() -> None:
    """Messages, pins and meta as given; nothing pinned and no meta by default."""
    snapshot = Snapshot(iter([user(0), {"a": 1}]), iter([True, False]), {"n": 1})
    assert (snapshot.messages, snapshot.pinned, snapshot.meta) == ((user(0), {"a": 1}), (True, False), {"n": 1})
    assert (snapshot.version, ConversationSnapshot.VERSION, snapshot.revision) == (1, 1, None)
    empty = Snapshot()
    assert (empty.messages, empty.pinned, empty.meta, len(empty)) == ((), (), {}, 0)
    assert empty, "an empty conversation is not nothing: only a missing run is None"
    assert Snapshot([user(0)]).pinned == (False,)
    assert [faithful(m) for m in Snapshot(TYPED + PLAIN).messages] == [faithful(m) for m in TYPED + PLAIN]


@pytest.mark.parametrize(
    ("args", "text"),
    [
        (([user(0)], []), "length mismatch: 1 messages, 0 pins"),
        (([user(0)], [True, False]), "length mismatch: 1 messages, 2 pins"),
        (([user(0)], [1]), "pinned is made of True and False, not of int"),
        (([[user(0)]],), r"messages\[0\] is a list.*\*"),
        (("text",), r"put the one message into \[\.\.\.\]"),
        (({"role": "user"},), r"put the one message into \[\.\.\.\]"),
        (([user(0), {"a": (1,)}],), r"messages\[1\]\['a'\] is a tuple"),
        (([], None, ["a"]), "meta is a mapping"),
        (([], None, {"a": float("inf")}), r"meta\['a'\] is inf"),
        (([], None, {1: "a"}), "meta has a key of type int"),
    ],
)
def test_a_wrong_snapshot_cannot_be_made(args: tuple[Any, ...], text: str) -> None:
    """The error names the path and the mend."""
    with pytest.raises(SnapshotError, match=text):
        Snapshot(*args)


@given(st.lists(st.booleans(), max_size=6), INDEX, INDEX, st.integers(0, 3), st.booleans())
def test_splice_is_a_list_slice(pins: list[bool], start: int | None, stop: int | None, new: int, pinned: bool) -> None:
    """Indices mean what they mean in list slices; pins stay in step; the old snapshot stays as it was."""
    messages = [user(n) for n in range(len(pins))]
    snapshot = Snapshot(messages, pins, {"n": 1})
    added = [plain(n) for n in range(new)]
    found = snapshot.splice(start, stop, *added, pinned=pinned)
    low, high, _ = slice(start, stop).indices(len(pins))
    high = max(low, high)
    assert found.messages == (*messages[:low], *added, *messages[high:])
    assert found.pinned == (*pins[:low], *[pinned] * new, *pins[high:])
    assert found.meta == {"n": 1}
    assert (snapshot.messages, snapshot.pinned) == (tuple(messages), tuple(pins))


@pytest.mark.parametrize("seed", range(5))
def test_snapshots_that_share_a_past_do_not_disturb_each_other(seed: int) -> None:
    """A tree of appends, splices and metas: each value stays what it was, also where lists are shared."""
    rng = random.Random(seed)
    made: list[tuple[Any, tuple[Any, ...], tuple[bool, ...]]] = [(Snapshot(), (), ())]
    for number in range(400):
        snapshot, messages, pins = rng.choice(made[-10:])
        pinned = rng.random() < 0.5
        if rng.random() < 0.7:
            new = (snapshot.append(user(number), pinned=pinned), (*messages, user(number)), (*pins, pinned))
        elif rng.random() < 0.5:
            new = (snapshot.with_meta({"n": number}), messages, pins)
        else:
            at = rng.randrange(len(messages) + 1)
            new = (
                snapshot.splice(at, at + 2, user(number), pinned=pinned),
                (*messages[:at], user(number), *messages[at + 2 :]),
                (*pins[:at], pinned, *pins[at + 2 :]),
            )
        made.append(new)
    for snapshot, messages, pins in made:
        assert (snapshot.messages, snapshot.pinned) == (messages, pins), f"seed {seed}"


def test_an_append_copies_nothing_old() -> None:
    """Growing a conversation message by message shares its list: 50,000 appends are not quadratic."""
    snapshot = Snapshot()
    for number in range(50_000):
        snapshot = snapshot.append(number)
    assert snapshot.messages == tuple(range(50_000))
    grown = snapshot.append("x")
    assert grown._message_list is snapshot._message_list
    assert snapshot.append("y")._message_list is not snapshot._message_list
    assert len(snapshot.messages) == 50_000


def test_a_change_that_changes_nothing_is_the_same_value() -> None:
    """append() and splice() without messages and without a cut."""
    snapshot = Snapshot([user(0)])
    assert snapshot.append() is snapshot
    assert snapshot.splice(1, 1) is snapshot
    assert snapshot.splice(5, 2) is snapshot


@pytest.mark.parametrize("change", ["append", "splice"])
def test_wrong_messages_are_refused_wherever_they_come_in(change: str) -> None:
    """The path counts from the snapshot's start."""
    snapshot = Snapshot([user(0), user(1)])
    add: Any = snapshot.append if change == "append" else lambda *new, **kw: snapshot.splice(2, 2, *new, **kw)
    for wrong, text in [
        ((user(2), {1}), r"messages\[3\] is a set"),
        (([user(2)],), r"messages\[2\] is a list.*\*"),
    ]:
        with pytest.raises(SnapshotError, match=text):
            add(*wrong)
    with pytest.raises(SnapshotError, match="pinned is made of True and False"):
        add(user(2), pinned=None)
    with pytest.raises(SnapshotError, match="whole numbers"):
        snapshot.splice("0", 1)  # type: ignore[arg-type]
    assert len(snapshot.append(user(2))) == 3


def test_snapshots_are_frozen() -> None:
    """No attribute can be set or removed, and meta is read-only to the bottom."""
    meta: dict[str, Any] = {"list": [1]}
    snapshot = Snapshot([user(0)], meta=meta)
    meta["list"].append(2)
    assert snapshot.meta == {"list": [1]}
    for name in ("messages", "pinned", "meta", "revision", "version", "_length", "new"):
        with pytest.raises(AttributeError):
            setattr(snapshot, name, ())
        with pytest.raises(AttributeError):
            delattr(snapshot, name)
    with pytest.raises(TypeError, match="do not change"):
        snapshot.meta["a"] = 1  # type: ignore[index]
    with pytest.raises(TypeError, match="do not change"):
        snapshot.meta["list"].append(2)  # type: ignore[union-attr]
    with pytest.raises(TypeError):
        hash(snapshot)


def test_equality() -> None:
    """By messages, pins and meta; the revision is not compared."""
    one = Snapshot([user(0), {"a": 1}], [True, False], {"n": 1})
    two = Snapshot([user(0), {"a": 1}], [True, False], {"n": 1})
    add_origin(two, ("ns", "run"), Origin(Revision(1, bytes(16))))
    assert one == two
    assert one != one.append(user(1))
    assert one != Snapshot(one.messages, [False, False], {"n": 1})
    assert one != one.with_meta({})
    assert one != (user(0), {"a": 1})
    assert Snapshot() == Snapshot([])


def test_the_revision_is_what_it_grew_from() -> None:
    """A snapshot's revision is looked up along its growth, also when an ancestor is saved afterwards."""
    root = Snapshot([user(0)])
    child = root.append(user(1)).with_meta({"n": 1}).splice(0, 1)
    assert child.revision is None
    one, two = Revision(1, bytes(16)), Revision(2, bytes(16))
    add_origin(root, ("ns", "run"), Origin(one))
    assert root.revision == child.revision == one
    add_origin(child, ("ns", "run"), Origin(two))
    assert (root.revision, child.revision) == (one, two)
    assert child.append(user(2)).revision == two
    assert "revision 2-" in repr(child)


def test_a_revision_counts_for_its_run() -> None:
    """Saved to two runs, a snapshot descends from a revision of each; what is shared is the common prefix."""
    here, there = ("ns", "here"), ("ns", "there")
    root = Snapshot([user(0), user(1), user(2)])
    one, two = Revision(1, bytes(16)), Revision(1, bytes(15) + b"x")
    add_origin(root, here, Origin(one))
    grown = root.append(user(3))
    cut = grown.splice(1, 2)
    add_origin(grown, there, Origin(two))
    found = find_origin(grown, here)
    assert found is not None
    assert (found[0].revision, found[1]) == (one, 3)
    found = find_origin(cut, here)
    assert found is not None
    assert (found[0].revision, found[1]) == (one, 1)
    found = find_origin(cut, there)
    assert found is not None
    assert (found[0].revision, found[1]) == (two, 1)
    assert find_origin(cut, ("ns", "elsewhere")) is None
    assert find_origin(Snapshot(root.messages), here) is None


@pytest.mark.parametrize("twin_of", [lambda s: pickle.loads(pickle.dumps(s)), copy.deepcopy, copy.copy])
def test_copies_know_where_they_come_from(twin_of: Any) -> None:
    """Pickled or copied: equal, with the revisions of every run that it descends from."""
    root = Snapshot(TYPED + PLAIN, [True] * len(TYPED + PLAIN), {"b": b"\x00", "l": [1]})
    add_origin(root, ("ns", "a"), Origin(Revision(3, bytes(16)), base=object()))
    grown = root.append(user(1))
    add_origin(grown, ("ns", "b"), Origin(Revision(1, bytes(16))))
    twin = twin_of(grown)
    assert twin == grown
    assert twin.revision == grown.revision == Revision(1, bytes(16))
    for key, version in ((("ns", "a"), 3), (("ns", "b"), 1)):
        found = find_origin(twin, key)
        assert found is not None
        assert found[0].revision.version == version
    assert twin.append(user(2)).messages == (*grown.messages, user(2))
    assert twin.meta == {"b": b"\x00", "l": [1]}
    with pytest.raises(TypeError, match="do not change"):
        twin.meta["a"] = 1


def test_a_long_history_is_not_kept_alive() -> None:
    """Ten thousand saved turns leave one origin behind, and pickling does not recurse into the past."""
    snapshot = Snapshot()
    for number in range(1, 10_000):
        snapshot = snapshot.append(number)
        add_origin(snapshot, ("ns", "run"), Origin(Revision(number, bytes(16))))
    assert snapshot._lineage.back is None
    for _ in range(10_000):
        snapshot = snapshot.append(UserMessage("x"))
    assert pickle.loads(pickle.dumps(snapshot)).revision.version == 9999


def test_a_copy_of_another_run_is_not_asked_for_its_whole_way_back() -> None:
    """However often it is saved since, the run that it was copied from is one step away, with what they share."""
    there, here = ("ns", "original"), ("ns", "copy")
    snapshot = Snapshot([user(0), user(1)])
    add_origin(snapshot, there, Origin(Revision(9, bytes(16))))
    for number in range(1, 100):
        snapshot = snapshot.append(user(number))
        add_origin(snapshot, here, Origin(Revision(number, bytes(16))))
        assert snapshot._lineage.back is not None
        ancestor, shared = snapshot._lineage.back
        assert (there in ancestor.origins, shared) == (True, 2)
    found = find_origin(snapshot, there)
    assert found is not None
    assert (found[0].revision.version, found[1]) == (9, 2)


def test_a_conversation_that_is_kept_in_two_runs_leaves_no_trail() -> None:
    """Saved to both each turn, it remembers the last of each."""
    snapshot = Snapshot()
    for number in range(1, 100):
        snapshot = snapshot.append(user(number))
        for run in ("a", "b"):
            add_origin(snapshot, ("ns", run), Origin(Revision(number, bytes(16))))
        assert snapshot._lineage.back is None


def test_the_way_back_is_right_wherever_another_thread_shortens_it() -> None:
    """An edit on the way is never skipped: what is shared would be taken for more than it is."""
    at, steps = 0, 0

    def shorten(frame: FrameType, event: str, _argument: object) -> Any:
        nonlocal steps
        if frame.f_code is not type(snapshot._lineage).find.__code__:
            return None
        frame.f_trace_opcodes = True
        if event in ("line", "opcode"):  # Python 3.12 tells of lines only here
            if steps == at:
                add_origin(snapshot, ("ns", "a"), Origin(Revision(1, bytes(16))))
            steps += 1
        return shorten

    while steps >= at:  # until it is over before its turn has come
        root = Snapshot([user(number) for number in range(10)])
        add_origin(root, ("ns", "b"), Origin(Revision(1, bytes(16))))
        snapshot = root.splice(3, 4, user(99)).append(user(100))
        steps, before = 0, sys.gettrace()
        sys.settrace(shorten)
        try:
            found = find_origin(snapshot, ("ns", "b"))
        finally:
            sys.settrace(before)
        assert found is not None
        assert found[1] == 3, f"it was shortened at step {at}"
        at += 1
    assert at > 5


@pytest.mark.parametrize("pinned", [3, True, object()], ids=["int", "bool", "object"])
def test_pins_of_no_list_are_refused(pinned: Any) -> None:
    """And an indent that no text has, too: with an error of ours."""
    with pytest.raises(SnapshotError, match=r"pinned is one bool a message, not a .*: give a list, or None"):
        ConversationSnapshot([UserMessage("a")], pinned)
    with pytest.raises(SnapshotError, match="has no JSON form"):
        ConversationSnapshot([UserMessage("a")]).to_json(10**30)
