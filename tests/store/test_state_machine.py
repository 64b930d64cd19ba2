"""Random programs against a plain model: several stores on one run, on the real server."""

from __future__ import annotations

import contextlib
import itertools
from collections.abc import Iterator
from typing import Any

import hypothesis.strategies as st
import pytest
from hypothesis import HealthCheck, Phase, settings
from hypothesis.stateful import (
    RuleBasedStateMachine,
    initialize,
    invariant,
    rule,
    run_state_machine_as_test,
)

from histstore import ANY, SEEN, AssistantMessage, ConflictError, ConversationSnapshot, Revision, RevisionGoneError
from histstore.sync import RedisBackend, RedisHistoryStore

from ..support.samples import faithful

Snapshot = ConversationSnapshot[Any]

STORES = st.integers(0, 2)
KEEP = 3
# Few different messages, so that repeats and equal neighbours are common; sizes that make checkpoints and anchors.
MESSAGES = st.one_of(
    st.integers(0, 3).map(lambda n: AssistantMessage(f"typed {n} " + "x" * (n * 400))),
    st.integers(0, 3).map(lambda n: {"plain": n, "pad": "y" * (n * 400)}),
    st.sampled_from([{"n": 1}, {"n": True}, {"n": 1.0}, {"n": 0.0}, {"n": -0.0}, 1, True, "", b"", None]),
)
METAS = st.sampled_from([{}, {"a": 1}, {"a": True}, {"b": "x" * 50}])
INDICES = st.one_of(st.none(), st.integers(-8, 8))


def content(snapshot: Any) -> Any:
    """What must come back: messages, pins and meta, with their types."""
    if snapshot is None:
        return None
    return faithful(snapshot.messages), snapshot.pinned, faithful(dict(snapshot.meta))


class Run(RuleBasedStateMachine):
    """Three stores, one of a backend that keeps revisions, change one run; `history` is what it must hold."""

    url: str
    namespace: str
    numbers: Iterator[int]

    @initialize()
    def start(self) -> None:
        self.run = f"run-{next(self.numbers)}"
        self.backends = [
            RedisBackend.from_url(self.url, namespace=self.namespace, keep_revisions=keep)
            for keep in (KEEP, KEEP, KEEP)
        ]
        self.stores: list[RedisHistoryStore[Any]] = [backend.store(self.run) for backend in self.backends]
        self.history: dict[Revision, Any] = {}
        self.now: Revision | None = None
        self.held: list[tuple[Any, Revision | None]] = [(None, None)] * 3
        self.retained: list[Revision] = []

    def teardown(self) -> None:
        for backend in getattr(self, "backends", ()):
            backend.close()

    # ------------------------------------------------------------------------------- the model's side

    @property
    def current(self) -> Any:
        return self.history[self.now] if self.now is not None else None

    def saved(
        self, which: int, revision: Revision | None, snapshot: Any, *, sees: bool = True, blind: bool = False
    ) -> None:
        """Notes what a save that went through made of the run. A blind one cannot tell that nothing changed."""
        if revision is None:
            assert self.now is self.stores[which].revision is None
            assert content(snapshot) == content(Snapshot()), "what was to be written was not"
            return
        if content(snapshot) == content(self.current) and not (blind and revision != self.now):
            assert revision == self.now, "unchanged content made a new revision"
        else:
            assert revision.version == (self.now.version if self.now is not None else 0) + 1
            assert revision not in self.history
            self.history[revision] = frozen(snapshot)
            self.retained = [*self.retained, revision][-KEEP - 1 :]
            self.now = revision
        assert revision.length == len(snapshot)
        if sees:
            assert self.stores[which].revision == revision

    def conflicts(self, expected: Revision | None) -> Any:
        """Says whether a write that expects `expected` must be refused."""
        if expected == self.now:
            return contextlib.nullcontext()
        return pytest.raises(ConflictError)

    # ------------------------------------------------------------------------------------------ rules

    @rule(which=STORES)
    def load(self, which: int) -> None:
        found = self.stores[which].load()
        assert content(found) == content(self.current)
        assert (found.revision if found is not None else None) == self.now == self.stores[which].revision
        self.held[which] = (found, self.now)

    @rule(which=STORES, messages=st.lists(MESSAGES, max_size=3), pinned=st.booleans())
    def save_grown(self, which: int, messages: list[Any], pinned: bool) -> None:
        held, revision = self.held[which]
        if held is None:
            held, revision = Snapshot(), self.stores[which].revision
        self.save(which, held.append(*messages, pinned=pinned), revision)

    @rule(which=STORES, start=INDICES, stop=INDICES, messages=st.lists(MESSAGES, max_size=2))
    def save_spliced(self, which: int, start: int | None, stop: int | None, messages: list[Any]) -> None:
        held, revision = self.held[which]
        if held is not None:
            self.save(which, held.splice(start, stop, *messages), revision)

    @rule(which=STORES, flips=st.sets(st.integers(0, 12)), meta=METAS)
    def save_flipped(self, which: int, flips: set[int], meta: Any) -> None:
        held, revision = self.held[which]
        if held is not None:
            pins = [pin ^ (index in flips) for index, pin in enumerate(held.pinned)]
            self.save(which, Snapshot(held.messages, pins, meta), revision, named=True, blind=True)

    @rule(which=STORES, meta=METAS)
    def save_meta(self, which: int, meta: Any) -> None:
        held, revision = self.held[which]
        if held is not None:
            self.save(which, held.with_meta(meta), revision)

    @rule(which=STORES, index=st.integers(0, 12), value=st.sampled_from([1, True, 1.0, "x"]))
    def save_changed_in_place(self, which: int, index: int, value: Any) -> None:
        held, revision = self.held[which]
        if held is not None and index < len(held) and isinstance(held.messages[index], dict):
            messages = held.copies()
            messages[index]["n"] = value
            self.save(which, Snapshot(messages, held.pinned, held.meta), revision, named=True, blind=True)

    def save(
        self, which: int, snapshot: Any, revision: Revision | None, *, named: bool = False, blind: bool = False
    ) -> None:
        with self.conflicts(revision):
            made = self.stores[which].save(snapshot, expected=revision if named else SEEN)
            self.saved(which, made, snapshot, blind=blind)
            self.held[which] = (snapshot, made)

    @rule(which=STORES, messages=st.lists(MESSAGES, max_size=3))
    def save_from_scratch(self, which: int, messages: list[Any]) -> None:
        self.save(which, Snapshot(messages), self.stores[which].revision, blind=True)

    @rule(which=STORES)
    def overwrite(self, which: int) -> None:
        held, _ = self.held[which]
        snapshot = held if held is not None else Snapshot(["over"])
        made = self.stores[which].save(snapshot, expected=ANY)
        self.saved(which, made, snapshot, blind=True)
        self.held[which] = (snapshot, made)

    @rule(which=STORES, messages=st.lists(MESSAGES, max_size=3), pinned=st.booleans(), any_=st.booleans())
    def append(self, which: int, messages: list[Any], pinned: bool, any_: bool) -> None:
        store = self.stores[which]
        seen = store.revision
        after = (self.current or Snapshot()).append(*messages, pinned=pinned)
        if any_:
            knows = seen == self.now or self.now is None
            made = store.append(*messages, pinned=pinned, expected=ANY)
            self.saved(which, made, after, sees=knows)
            if not knows:
                assert store.revision == seen
        else:
            with self.conflicts(seen):
                self.saved(which, store.append(*messages, pinned=pinned), after)

    @rule(which=STORES, start=INDICES, stop=INDICES, messages=st.lists(MESSAGES, max_size=2), meta=METAS)
    def splice(self, which: int, start: int | None, stop: int | None, messages: list[Any], meta: Any) -> None:
        after = (self.current or Snapshot()).splice(start, stop, *messages, pinned=True).with_meta(meta)
        with self.conflicts(self.stores[which].revision):
            self.saved(which, self.stores[which].splice(start, stop, *messages, pinned=True, meta=meta), after)

    @rule(which=STORES, message=MESSAGES, window=st.integers(1, 8))
    def update(self, which: int, message: Any, window: int) -> None:
        def change(snapshot: Any) -> Any:
            after = (snapshot or Snapshot()).append(message)
            return after.splice(0, len(after) - window) if len(after) > window else after

        expected = change(self.current)
        revision = self.stores[which].update(change)
        assert revision is not None
        self.saved(which, revision, expected)

    @rule(which=STORES, start=INDICES, stop=INDICES)
    def read(self, which: int, start: int | None, stop: int | None) -> None:
        page = self.stores[which].read(start, stop)
        if self.current is None:
            assert page is None
            return
        assert page is not None
        assert faithful(page.messages) == faithful(self.current.messages[start:stop])
        assert page.pinned == self.current.pinned[start:stop]
        assert faithful(dict(page.meta)) == faithful(dict(self.current.meta))
        assert (page.revision, page.length) == (self.now, len(self.current))

    @rule(which=STORES, back=st.integers(0, KEEP), named=st.booleans())
    def load_at(self, which: int, back: int, named: bool) -> None:
        """Each of the last KEEP past revisions is surely there."""
        if back < len(self.retained):
            revision = self.retained[-1 - back]
            before = self.stores[which].revision
            found = self.stores[which].load(at=revision if named else revision.version)
            assert content(found) == content(self.history[revision])
            assert found is not None
            assert found.revision == revision
            assert self.stores[which].revision == before

    @rule(which=STORES, version=st.integers(1, 60))
    def load_at_any(self, which: int, version: int) -> None:
        """Any other version is what it was, or gone."""
        live = {r.version: r for r in self.live()}
        try:
            found = self.stores[which].load(at=version)
        except RevisionGoneError:
            assert version not in {revision.version for revision in self.retained}
        else:
            assert content(found) == content(self.history[live[version]])

    def live(self) -> list[Revision]:
        """The revisions of this incarnation of the run."""
        return [revision for revision in self.history if revision in self.incarnation]

    @property
    def incarnation(self) -> set[Revision]:
        found: set[Revision] = set()
        for revision in reversed(self.history):
            if self.now is None or revision in found:
                break
            found.add(revision)
            if revision.version == 1:
                break
        return found

    @rule(which=STORES)
    def revisions(self, which: int) -> None:
        listed = list(self.stores[which].revisions())
        assert listed == sorted(self.incarnation, key=lambda r: -r.version)[: len(listed)]
        assert listed[: len(self.retained)] == self.retained[::-1]

    @rule(which=STORES)
    def info(self, which: int) -> None:
        info = self.stores[which].info()
        if info is None:
            assert self.now is None
        else:
            assert (info.revision, info.length) == (self.now, len(self.current))
            assert faithful(dict(info.meta)) == faithful(dict(self.current.meta))

    @rule(which=STORES)
    def trim(self, which: int) -> None:
        revision = self.stores[which].trim()
        if self.now is None:
            assert revision is None
            return
        assert revision is not None
        if revision != self.now:
            assert revision.version == self.now.version + 1
            self.history[revision] = self.current
            self.now = revision
        self.retained = [revision]
        assert list(self.stores[which].revisions()) == [revision]

    @rule(which=STORES, any_=st.booleans())
    def delete(self, which: int, any_: bool) -> None:
        with contextlib.nullcontext() if any_ else self.conflicts(self.stores[which].revision):
            assert self.stores[which].delete(expected=ANY if any_ else SEEN) == (self.now is not None)
            assert self.stores[which].revision is None
            self.now, self.retained = None, []

    @rule(which=STORES)
    def new_store(self, which: int) -> None:
        self.stores[which] = self.backends[which].store(self.run)
        self.held[which] = (None, None)

    @invariant()
    def nothing_is_open(self) -> None:
        assert all(store.unsettled is None for store in getattr(self, "stores", ()))


def frozen(snapshot: Any) -> Any:
    """A copy that shares nothing with what the library holds."""
    return Snapshot.from_json(snapshot.to_json())


def test_a_run_is_what_the_model_says(server_url: str, namespace: str) -> None:
    """Whatever is saved, cut, pinned, deleted, trimmed and read back, store and model agree; each step."""

    class Machine(Run):
        url = server_url
        numbers = itertools.count()

    Machine.namespace = namespace
    run_state_machine_as_test(  # type: ignore[no-untyped-call]
        Machine,
        settings=settings(
            max_examples=100,
            stateful_step_count=50,
            deadline=None,
            derandomize=True,
            # A failure is told as it was found: shrinking it takes minutes. Add Phase.shrink to look closer.
            phases=(Phase.generate,),
            database=None,
            suppress_health_check=list(HealthCheck),
        ),
    )
