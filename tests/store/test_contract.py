"""What all three stores promise, in both shells."""

from __future__ import annotations

import asyncio
import copy
import inspect
import pickle
from typing import Any

import pytest

import histstore
import histstore.sync
from histstore import ANY, ConflictError, ConversationSnapshot, HistoryStoreError, Revision, SnapshotError, ToolCall
from histstore import AssistantMessage as Assistant

from ..support.samples import PLAIN, TYPED, faithful, plain, user
from .conftest import History

Snapshot = ConversationSnapshot[Any]


async def test_what_goes_in_comes_out(history: History) -> None:
    """Messages, pins and meta come back with the same types and values, in any store object."""
    messages = TYPED + PLAIN
    pinned = [index % 3 == 0 for index in range(len(messages))]
    meta = {"title": "ä", "n": 2**70, "f": -0.0, "b": b"\x00", "l": [True, 1, {"$x": 1}], "none": None}
    await history.open().save(Snapshot(messages, pinned, meta))
    found = await history.open().load()
    assert [faithful(message) for message in found.messages] == [faithful(message) for message in messages]
    assert found.pinned == tuple(pinned)
    assert faithful(dict(found.meta)) == faithful(meta)
    assert found == Snapshot(messages, pinned, meta)


async def test_each_kind_of_message_comes_back_alone(history: History) -> None:
    """No kind of message leans on its neighbours to be read."""
    store = history.open()
    for message in TYPED + PLAIN:
        await store.save(Snapshot([message]))
        (found,) = (await history.open().load()).messages
        assert faithful(found) == faithful(message)


async def test_a_run_that_was_never_written_to_loads_as_none(history: History) -> None:
    """None means "no conversation", and only that."""
    store = history.open()
    assert await store.load() is None
    assert store.revision is None


async def test_an_empty_conversation_is_a_conversation(history: History) -> None:
    """A saved snapshot without messages loads as a snapshot, not as None."""
    revision = await history.open().save(Snapshot())
    found = await history.open().load()
    assert found is not None
    assert len(found) == 0
    assert found.revision == revision
    assert revision.version == 1


async def test_a_snapshot_knows_its_revision(history: History) -> None:
    """What save returned, what load returns and what the store says are one revision."""
    store = history.open()
    snapshot = Snapshot([user(1)])
    assert snapshot.revision is None
    revision = await store.save(snapshot)
    assert snapshot.revision == revision == store.revision
    loaded = await store.load()
    assert loaded.revision == revision
    assert loaded.append(user(2)).revision == revision


async def test_the_seen_revision_follows_the_snapshot(history: History) -> None:
    """Of two tasks that share a store, load and save, one saves and the other is told of the conflict."""
    store = history.open()
    await store.save(Snapshot([user(0)]))
    mine, theirs = await store.load(), await store.load()
    revision = await store.save(mine.append(user(1)))
    with pytest.raises(ConflictError) as caught:
        await store.save(theirs.append(user(2)))
    assert caught.value.actual == revision
    assert caught.value.expected == theirs.revision
    assert (await history.open().load()).messages == (user(0), user(1))


async def test_two_tasks_at_once(history: History) -> None:
    """However two saves from one state interleave: one revision, one ConflictError."""
    store = history.open()
    await store.save(Snapshot([user(0)]))
    loaded = [await store.load(), await store.load()]
    results = await asyncio.gather(
        *(store.save(snapshot.append(user(number))) for number, snapshot in enumerate(loaded, 1)),
        return_exceptions=True,
    )
    assert sorted(type(result).__name__ for result in results) == ["ConflictError", "Revision"]
    winner = next(number for number, result in enumerate(results, 1) if isinstance(result, Revision))
    assert (await history.open().load()).messages == (user(0), user(winner))


async def test_an_older_snapshot_of_the_same_writer_conflicts(history: History) -> None:
    """Going back to an old snapshot does not silently undo what came after it."""
    store = history.open()
    first = Snapshot([user(0)])
    await store.save(first)
    second = first.append(user(1))
    await store.save(second)
    with pytest.raises(ConflictError):
        await store.save(first.append(user(2)))
    assert (await store.load()).messages == (user(0), user(1))


async def test_growing_from_a_snapshot_before_it_is_saved(history: History) -> None:
    """A snapshot grown from one that is saved later descends from that save."""
    store = history.open()
    first = Snapshot([user(0)])
    second = first.append(user(1))
    await store.save(first)
    await store.save(second)
    assert (await store.load()).messages == (user(0), user(1))
    assert second.revision == store.revision


async def test_an_unchanged_save_returns_the_same_revision(history: History) -> None:
    """Saving what is there already writes nothing."""
    store = history.open()
    snapshot = Snapshot([user(0), plain(1)], [True, False], {"a": 1})
    revision = await store.save(snapshot)
    assert await store.save(snapshot) == revision
    loaded = await store.load()
    assert await store.save(loaded) == revision
    assert await store.save(loaded.append(user(1)).splice(-1, None)) == revision
    assert (await history.open().load()).revision.etag == revision.etag


async def test_a_change_and_back_is_two_saves(history: History) -> None:
    """Equal content at another time is another revision of the conversation's chain."""
    store = history.open()
    first = await store.save(Snapshot([user(0)]))
    loaded = await store.load()
    second = await store.save(loaded.append(user(1)))
    third = await store.save((await store.load()).splice(1, 2))
    assert [first.version, second.version, third.version] == [1, 2, 3]
    assert (await store.load()).messages == (user(0),)


@pytest.mark.parametrize(
    ("before", "after"),
    [({"n": 1}, {"n": True}), ({"n": 0.0}, {"n": -0.0}), ({"n": 1}, {"n": 1.0}), ({"n": "a"}, {"n": b"a"})],
)
async def test_an_equal_value_of_another_type_is_a_change(history: History, before: Any, after: Any) -> None:
    """1, 1.0 and True are equal in Python and not in a conversation; so are 0.0 and -0.0."""
    store = history.open()
    await store.save(Snapshot([before, Assistant([ToolCall("1", "f", before)])]))
    changed = (await store.load()).splice(0, 2, after, Assistant([ToolCall("1", "f", after)]))
    revision = await store.save(changed)
    assert revision.version == 2
    found = await history.open().load()
    assert faithful(found.messages[0]) == faithful(after)
    assert faithful(found.messages[1].blocks[0].args) == faithful(after)


async def test_a_list_that_its_owner_changes_is_saved_as_it_is_now(history: History) -> None:
    """Whoever keeps a list of dicts and makes a snapshot of it for each save: what changed in place is saved."""
    store = history.open()
    message: dict[str, Any] = {"role": "user", "content": {"text": "a", "tags": [1]}}
    messages = [user(0), message, user(1)]
    first = await store.save(Snapshot(messages))
    message["content"]["tags"].append(True)
    second = await store.save(Snapshot(messages))
    assert second.version == first.version + 1
    assert (await history.open().load()).messages[1] == {"role": "user", "content": {"text": "a", "tags": [1, True]}}
    assert (await store.save(Snapshot(messages))).version == second.version
    for one, other in ((1, True), (True, 1.0), (0.0, -0.0), (-0.0, False)):
        message["content"] = [one]
        before = await store.save(Snapshot(messages))
        message["content"] = [other]
        assert (await store.save(Snapshot(messages))).version == before.version + 1
        assert faithful((await history.open().load()).messages[1]["content"]) == faithful([other])


async def test_a_snapshot_stays_what_it_was_made_of(history: History) -> None:
    """What the owner of a dict does to it after `append`, `splice` or the constructor is in no snapshot and no save."""
    store = history.open()
    message: dict[str, Any] = {"content": ["a"]}
    made = Snapshot([user(0), message])
    appended, spliced = made.append(message), made.splice(0, 1, message)
    await store.save(made)
    message["content"].append({1, 2})
    message["more"] = True
    for snapshot in (made, appended, spliced, appended.append(user(1))):
        await store.save(snapshot, expected=ANY)
        assert (await history.open().load()).messages == snapshot.messages
        assert {"content": ["a"]} in snapshot.messages
    with pytest.raises(SnapshotError, match=r"messages\[1\]\['content'\]\[1\] is a set"):
        Snapshot([user(0), message])


async def test_what_load_returned_cannot_be_changed(history: History) -> None:
    """The attempt is a TypeError that says what to do. It changes neither what loads return nor what is stored."""
    store = history.open()
    await store.save(Snapshot([{"list": [1, {"a": 1}]}, user(1)], meta={"m": [1]}))
    loaded = await store.load()
    for change in (
        lambda message: message["list"][1].update(a=2),
        lambda message: message["list"].append(2),
        lambda message: message.__setitem__("more", True),
        lambda message: message.__init__(more=True),
    ):
        with pytest.raises(
            TypeError, match=r"do not change: copy.deepcopy\(\) gives one that does, splice\(\) puts it"
        ):
            change(loaded.messages[0])
    await store.save(loaded.append(user(2)))
    for again in (await store.load(), await history.open().load()):
        assert again.messages == ({"list": [1, {"a": 1}]}, user(1), user(2))


async def test_the_advice_of_the_error_is_followed(history: History) -> None:
    """A deep copy can be changed, and `splice` puts it back."""
    store = history.open()
    await store.save(Snapshot([user(0), {"content": ["a"]}, user(1)], [False, True, False]))
    loaded = await store.load()
    changed = copy.deepcopy(loaded.messages[1])
    changed["content"].append("b")
    await store.save(loaded.splice(1, 2, changed, pinned=True))
    found = await history.open().load()
    assert (found.messages, found.pinned) == ((user(0), {"content": ["a", "b"]}, user(1)), (False, True, False))


async def test_copies_may_be_changed(history: History) -> None:
    """Code that edits in place takes copies and makes a snapshot of them."""
    store = history.open()
    await store.save(Snapshot([{"list": [1, {"a": 1}]}, user(1), 7]))
    loaded = await store.load()
    copies = loaded.copies()
    copies[0]["list"][1]["a"] = 2
    copies[0]["list"].append(b"x")
    copies.append({"more": True})
    for again in (loaded, await store.load(), await history.open().load()):
        assert again.messages == ({"list": [1, {"a": 1}]}, user(1), 7)
    assert loaded.copies()[1] is loaded.messages[1]
    await store.save(Snapshot(copies), expected=loaded.revision)
    found = await history.open().load()
    assert found.messages == ({"list": [1, {"a": 2}, b"x"]}, user(1), 7, {"more": True})


async def test_an_unchanged_load_returns_the_same_messages(history: History) -> None:
    """Typed or plain: identity proves that nothing has changed."""
    if history.kind == "file":
        return  # each load reads the file
    store = history.open()
    await store.save(Snapshot([user(0), {"a": [1]}, {"b": {}}]))
    before = await store.load()
    after = await store.load()
    assert [new is old for new, old in zip(after.messages, before.messages, strict=True)] == [True] * 3
    await store.save(before.append({"c": 1}))
    grown = await store.load()
    assert [new is old for new, old in zip(grown.messages, before.messages, strict=False)] == [True] * 3


async def test_what_save_was_given_may_be_changed(history: History) -> None:
    """A dict changed after its save does not change what was saved."""
    store = history.open()
    message = {"list": [1]}
    await store.save(Snapshot([message]))
    message["list"].append(2)
    assert (await store.load()).messages == ({"list": [1]},)


async def test_a_turn_that_edits_copies_saves_the_edit(history: History) -> None:
    """Old messages are edited in a list of copies; the messages that were not edited are not sent again."""
    store = history.open()
    await store.save(Snapshot([{"content": "a"}, {"content": "b"}]))
    loaded = await store.load()
    messages = loaded.copies()
    messages[0]["content"] = "A"
    await store.save(Snapshot([*messages, {"content": "c"}]))
    assert (await history.open().load()).messages == ({"content": "A"}, {"content": "b"}, {"content": "c"})


async def test_pins_and_meta_change_without_messages(history: History) -> None:
    """Pins and meta are saved for themselves, and taken back."""
    store = history.open()
    await store.save(Snapshot([user(0), user(1)]))
    loaded = await store.load()
    pinned = Snapshot(loaded.messages, [True, False], {"n": 1})
    revision = await store.save(pinned, expected=loaded.revision)
    assert revision.version == 2
    found = await history.open().load()
    assert found.pinned == (True, False)
    assert found.meta == {"n": 1}
    await store.save((await store.load()).with_meta({}))
    assert (await history.open().load()).meta == {}
    assert (await history.open().load()).pinned == (True, False)


async def test_splices_and_windows(history: History) -> None:
    """Whatever is cut out or put in, the next load is the snapshot that was saved, with its pins."""
    store = history.open()
    snapshot = Snapshot([user(0)], [True])
    for number in range(1, 40):
        snapshot = snapshot.append(user(number), plain(number), pinned=number % 5 == 0)
        if len(snapshot) > 12:
            snapshot = snapshot.splice(1, 3)
        if number % 7 == 0:
            snapshot = snapshot.splice(2, 4, {"summary": number}, pinned=True)
        await store.save(snapshot)
        if number % 4 == 0:
            assert await history.open().load() == snapshot
    assert await history.open().load() == snapshot


async def test_a_snapshot_saved_to_another_run_is_as_if_built_from_scratch(history: History) -> None:
    """A revision counts for the run that it belongs to; a copy starts a history of its own."""
    store, copy_ = history.open("run"), history.open("copy")
    snapshot = Snapshot([user(0), user(1)])
    original = await store.save(snapshot)
    there = await copy_.save(snapshot)
    assert there.version == 1
    assert snapshot.revision == there
    # It still descends from where it was first, for that run.
    grown = snapshot.append(user(2))
    assert (await store.save(grown)).version == original.version + 1
    assert (await copy_.save(grown)).version == 2
    assert (await history.open("run").load()) == (await history.open("copy").load()) == grown


async def test_a_loaded_snapshot_is_not_confused_by_another_run(history: History) -> None:
    """What load returns is at that run's revision, whatever was done with an earlier result of it."""
    store, other = history.open("run"), history.open("other")
    revision = await store.save(Snapshot([user(0)]))
    await other.save(await store.load())
    again = await store.load()
    assert again.revision == revision == store.revision
    assert (await store.save(again.append(user(1)), expected=again.revision)).version == 2


async def test_expected_none_means_absent(history: History) -> None:
    """A first save that must not meet an existing conversation says so."""
    store = history.open()
    first = await store.save(Snapshot([user(0)]), expected=None)
    with pytest.raises(ConflictError) as caught:
        await history.open().save(Snapshot([user(1)]), expected=None)
    assert caught.value.expected is None
    assert caught.value.actual.etag == first.etag
    assert (await store.load()).messages == (user(0),)


async def test_expected_revision(history: History) -> None:
    """A save that names a revision goes through only at that revision."""
    store = history.open()
    first = await store.save(Snapshot([user(0)]))
    second = await store.save(Snapshot([user(1)]), expected=first)
    with pytest.raises(ConflictError) as caught:
        await store.save(Snapshot([user(2)]), expected=first)
    assert (caught.value.expected, caught.value.actual) == (first, second)
    parsed = Revision.parse(str(second))
    assert (await store.save(Snapshot([user(3)]), expected=parsed)).version == 3
    assert (await store.load()).messages == (user(3),)


async def test_expected_revision_of_an_absent_run(history: History) -> None:
    """A run that is not there is at no revision."""
    store = history.open()
    with pytest.raises(ConflictError) as caught:
        await store.save(Snapshot([user(0)]), expected=Revision(1, bytes(15) + b"x"))
    assert caught.value.actual is None
    assert await store.load() is None


async def test_any_overwrites(history: History) -> None:
    """ANY is the seed's plain overwrite, also of what the snapshot has never seen."""
    store = history.open()
    await store.save(Snapshot([user(0)]))
    stale = await store.load()
    await store.save(stale.append(user(1)))
    revision = await store.save(stale.append(user(2)), expected=ANY)
    assert revision.version == 3
    assert (await history.open().load()).messages == (user(0), user(2))
    assert (await store.save(Snapshot([user(9)]), expected=ANY)).version == 4
    assert (await history.open("fresh").save(Snapshot(), expected=ANY)).version == 1


async def test_a_pickled_snapshot_remembers_where_it_came_from(history: History) -> None:
    """A snapshot that went through pickle saves onto what it was loaded as, and conflicts past it."""
    store = history.open()
    await store.save(Snapshot([user(0), plain(1)], [True, False], {"n": 1}))
    loaded = await store.load()
    thawed = pickle.loads(pickle.dumps(loaded))
    assert thawed == loaded
    assert thawed.revision == loaded.revision
    twin = copy.deepcopy(thawed)
    await store.save(thawed.append(user(2)))
    with pytest.raises(ConflictError):
        await store.save(twin.append(user(3)))
    assert (await history.open().load()).messages == (user(0), plain(1), user(2))


@pytest.mark.parametrize("wrong", [None, [], {"messages": []}, "text"])
async def test_only_snapshots_are_saved(history: History, wrong: Any) -> None:
    """Anything else is a SnapshotError, before anything is sent."""
    with pytest.raises(SnapshotError, match="ConversationSnapshot"):
        await history.open().save(wrong)
    assert await history.open().load() is None


@pytest.mark.parametrize("wrong", ["seen", 3, True, b"x" * 16, (1, b"")])
async def test_expected_is_a_revision_none_or_an_expect(history: History, wrong: Any) -> None:
    """A mistaken expected= never becomes an overwrite."""
    await history.open().save(Snapshot([user(0)]))
    with pytest.raises(SnapshotError, match="expected="):
        await history.open().save(Snapshot(), expected=wrong)
    assert (await history.open().load()).messages == (user(0),)


async def test_a_store_is_a_history_store(history: History) -> None:
    """All three are what the seed's trait asks for."""
    store = history.open()
    assert isinstance(getattr(store, "inner", store), history.shell.module.HistoryStore)


SHELLS_OWN = (
    "HistoryStore",
    "InMemoryHistoryStore",
    "JsonFileHistoryStore",
    "Lease",
    "RedisBackend",
    "RedisHistoryStore",
    "Turn",
)


def test_both_shells_have_the_same_names() -> None:
    """A program changes shells by its imports, `await` and `async`; values and errors are the same classes."""
    assert histstore.__all__ == histstore.sync.__all__
    for name in histstore.__all__:
        same = getattr(histstore, name) is getattr(histstore.sync, name)
        assert same == (name not in SHELLS_OWN), name


@pytest.mark.parametrize("name", SHELLS_OWN)
def test_both_shells_have_the_same_signatures(name: str) -> None:
    """Parameters have the same names, kinds and defaults in both shells."""

    def signatures(cls: type) -> dict[str, list[tuple[str, Any, Any]]]:
        found = {}
        for method, value in inspect.getmembers(cls, inspect.isroutine):
            if not method.startswith("_") or method == "__init__":
                parameters = inspect.signature(value).parameters.values()
                method = {"aclose": "close"}.get(method, method)
                found[method] = [(each.name, each.kind, each.default) for each in parameters]
        return found

    assert signatures(getattr(histstore, name)) == signatures(getattr(histstore.sync, name))


async def test_errors_are_history_store_errors(history: History) -> None:
    """One except clause catches all that the library raises on purpose."""
    with pytest.raises(HistoryStoreError):
        await history.open().save(Snapshot(), expected=Revision(1, bytes(16)))
