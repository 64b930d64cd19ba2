"""The storm's own parts: the proxy does what it says, and each kind of planted violation is caught."""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import random
import signal
import subprocess
import sys
import time
from collections import Counter
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest
import redis
import redis.asyncio

import histstore.sync
from histstore import ConversationSnapshot, Durability
from histstore.protocol.keys import run_keys
from histstore.protocol.scripts import ALL, RENEW, RESOLVE, SAVE

from ..support.history import message
from ..support.proxy import Proxy
from ..support.servers import Server
from ..support.storm import verdict
from ..support.storm.clients import HASTY, Client, Said, World, _LeaveError
from ..support.storm.erasures import Delete, Erasures, Look, Write
from ..support.storm.journal import Call, Journal, read
from ..support.storm.proxy import RoughProxy, Weather, rough_proxy
from ..support.storm.resp import Replies, Requests, first_word, script_of, words
from ..support.storm.truth import Chain, read_chain
from .shells import carries, contents

ROOT = Path(__file__).resolve().parents[2]

# ------------------------------------------------------------------------------------ the wire


def _packed(*parts: str | bytes) -> bytes:
    found = [part.encode() if isinstance(part, str) else part for part in parts]
    return b"*%d\r\n" % len(found) + b"".join(b"$%d\r\n%s\r\n" % (len(part), part) for part in found)


REQUESTS = [_packed("PING"), _packed("SET", "k", b"\r\n$3\r\n*1\r\n"), _packed("EVALSHA", RENEW.sha, "0", "")]
REPLIES = [
    b"+OK\r\n", b"-ERR no\r\n", b":-7\r\n", b"$-1\r\n", b"$0\r\n\r\n", b"$5\r\n\r\n*1\r\r\n", b"*-1\r\n", b"*0\r\n",
    b"*2\r\n*2\r\n:1\r\n$1\r\na\r\n*1\r\n+x\r\n", b"*1\r\n$5\r\nsaved\r\n",
]  # fmt: skip


@pytest.mark.parametrize("size", [1, 2, 3, 7, 10_000])
def test_a_stream_is_cut_into_what_was_sent_wherever_its_packets_end(size: int) -> None:
    for cutter, parts in ((Requests(), REQUESTS * 3), (Replies(), REPLIES * 3)):
        stream = b"".join(parts)
        found = [part for at in range(0, len(stream), size) for part in cutter.feed(stream[at : at + size])]
        assert found == parts


def test_requests_of_scripts_are_recognised_by_name_and_in_full() -> None:
    assert [script_of(request) for request in REQUESTS] == [None, None, "renew"]
    for script in ALL:
        assert script_of(_packed("EVAL", script.source, "1", "k")) == script.name
    assert script_of(_packed("EVAL", "return 1", "0")) is None
    assert script_of(_packed("SET", "EVAL", RENEW.sha)) is None
    assert words(REQUESTS[1], 2) == [b"SET", b"k"]
    assert [first_word(reply) for reply in (REPLIES[-1], REPLIES[1], REPLIES[0])] == ["saved", "ERR", "OK"]


# ------------------------------------------------------------------------------------ the proxy


class Way:
    """A client behind a rough proxy, before a server of its own."""

    def __init__(self, server: Server, proxy: RoughProxy) -> None:
        self.server, self.proxy = server, proxy
        self.client = redis.asyncio.Redis(port=proxy.port, protocol=2)
        self.direct = server.client()

    def ran(self, command: str) -> int:
        """Returns how often the server ran a command."""
        return int(self.direct.info("commandstats").get(f"cmdstat_{command}", {}).get("calls", 0))  # type: ignore[union-attr]


@pytest.fixture
def way(private_server: Callable[..., Server]) -> Callable[..., Any]:
    """Makes clients behind proxies of some weather."""
    server = private_server()

    @asynccontextmanager
    async def make(**weather: Any) -> AsyncIterator[Way]:
        with server.client() as client:
            for script in ALL:
                client.script_load(script.source)
        async with rough_proxy(server.port, Weather("1", **weather)) as proxy:
            found = Way(server, proxy)
            try:
                yield found
            finally:
                await found.client.aclose()
                found.direct.close()

    return make


def _resolve(client: Any, number: int) -> Any:
    """Calls a script that answers "never" of a run that is absent, however often."""
    return client.evalsha(RESOLVE.sha, 3, "{r}:head", "{r}:etags", "{r}:marks", b"%016d" % number, "")


async def _rest(reader: asyncio.StreamReader) -> bytes:
    """Returns what comes before the connection ends."""
    try:
        return await asyncio.wait_for(reader.read(), 10)
    except ConnectionResetError:
        return b""


async def test_each_call_of_a_script_is_delivered_three_times_and_answered_once(way: Any) -> None:
    """In order, among requests that are not copied; also those that come late have come when the proxy ends."""
    async with way(twice=1.0, thrice=1.0, late=5.0) as found:
        calls = 0
        for batch in range(10):
            pipe = found.client.pipeline(transaction=False)
            for number in range(5):
                pipe.echo(f"{batch} {number}")
                _resolve(pipe, number)
                calls += 1
            expected = [reply for n in range(5) for reply in (f"{batch} {n}".encode(), [b"never", b"", b""])]
            assert await pipe.execute() == expected
        await found.proxy.drain()
        assert found.ran("evalsha") == 3 * calls
        assert found.ran("echo") == calls
        counts = found.proxy.counts
        assert counts["calls of resolve"] == calls
        assert sum(counts[f"copies of resolve, {when}"] for when in ("before", "beside", "late")) == 2 * calls
        assert counts["copies of resolve answered never"] == 2 * calls
        assert all(counts[f"copies of resolve, {when}"] for when in ("before", "beside", "late"))
        assert counts["replies of copies given to clients"]


async def test_transactions_and_listeners_are_carried_as_they_are(way: Any) -> None:
    """A script inside MULTI is not copied, WAIT neither, and messages arrive once."""
    async with way(twice=1.0, thrice=1.0) as found:
        pipe = found.client.pipeline(transaction=True)
        _resolve(pipe, 1)
        pipe.echo("x")
        assert await pipe.execute() == [[b"never", b"", b""], b"x"]
        assert found.ran("evalsha") == 1
        assert await found.client.wait(0, 1) == 0
        assert found.ran("wait") == 1
        client = redis.asyncio.Redis(port=found.proxy.port, protocol=2)
        async with client, client.pubsub() as listener:
            await listener.subscribe("a", "b")
            kinds = [(await listener.get_message(timeout=5))["type"] for _ in range(2)]
            assert found.direct.publish("b", "once") == 1
            heard = await listener.get_message(timeout=5)
            assert (kinds, heard["data"]) == (["subscribe"] * 2, b"once")
        assert found.proxy.counts["connections that listen"] == 1


@pytest.mark.parametrize(
    ("fault", "arrives"),
    [("lose_request", None), ("lose_reply", 1), ("tear_request", 0), ("tear_reply", 1)],
)
async def test_what_is_lost_or_torn_breaks_the_connection(fault: str, arrives: int, way: Any) -> None:
    """The script ran where the reply was hit, and did not where the request was, or later, as the proxy says."""
    async with way(**{fault: 1.0}) as found:
        found.client.connection_pool.connection_kwargs["retry"] = None
        reader, writer = await asyncio.open_connection("127.0.0.1", found.proxy.port)
        writer.write(_packed("EVALSHA", RESOLVE.sha, "3", "h", "e", "m", b"t" * 16, ""))
        said = await _rest(reader)
        writer.close()
        reply = b"*3\r\n$5\r\nnever\r\n$0\r\n\r\n$0\r\n\r\n"
        assert reply.startswith(said)
        assert len(said) < len(reply)
        assert (said != b"") is (fault == "tear_reply")
        await found.proxy.drain()
        late = found.proxy.counts["requests that come late"]
        assert found.ran("evalsha") == (late if arrives is None else arrives)
        assert found.proxy.counts[fault.replace("_", " ")] == 1
        found.proxy.rough = False
        assert await _resolve(found.client, 1) == [b"never", b"", b""]


async def test_what_hangs_says_nothing_more_and_what_is_held_up_comes(way: Any) -> None:
    async with way(hang=1.0) as found:
        reader, writer = await asyncio.open_connection("127.0.0.1", found.proxy.port)
        writer.write(_packed("PING") * 3)
        assert await _rest(reader) == b""
        writer.close()
    async with way(hold=1.0, held=0.01) as found:
        assert await found.client.ping()
        assert found.proxy.counts["hold"]


# ---------------------------------------------------------------------------------- the journal


def test_what_a_killed_worker_had_begun_is_in_its_journal(tmp_path: Path) -> None:
    """A call without an answer is there as that, and half a line is not read."""
    path = tmp_path / "a1.jsonl"
    journal = Journal(path)
    first, second = journal.call("a1.0", "append", "r", tokens=["x"]), journal.call("a1.0", "load", "r")
    journal.end(first, "OutcomeUnknownError", text="t")
    journal.settled(first, "applied", version=3)
    journal.close()
    with path.open("a") as file:
        file.write(json.dumps([second, "end", 1, {"outcome": "ok"}])[:-4])
    (append, load) = read([path])
    assert (append.outcome, append.said, append.tokens, append.facts["version"]) == (
        "OutcomeUnknownError", "applied", ("x",), 3,
    )  # fmt: skip
    assert append.started <= append.ended <= append.facts["settled"]
    assert (verdict.fate(append), load.outcome, verdict.known_at(load)) == ("done", "", float("inf"))
    assert list(verdict.hangs([load], killed=["a1"])) == []
    assert len(list(verdict.hangs([load], killed=[]))) == 1
    load.outcome, load.ended = "ok", load.started + 1000
    assert "took 1000" in next(verdict.hangs([load], killed=["a1"]))


@pytest.mark.parametrize("copies", [0, 1], ids=["", "durable"])
async def test_a_save_that_is_repeated_in_a_turn_is_told_by_its_last_attempt(
    copies: int, between: Proxy, backends: Callable[..., Any], namespace: str, tmp_path: Path
) -> None:
    """The first attempt never arrives. The second is applied, and its caller learns that only when it asks."""
    durability = Durability(replicas=copies, timeout=0.05)
    backend = backends("async", between.url, namespace=namespace, durability=durability)
    journal, rng = Journal(tmp_path / "a1.jsonl"), random.Random(7)
    rng.random = lambda: 0.5  # type: ignore[method-assign]
    client = Client("a1.0", False, backend, backend, journal, World(time.monotonic()), rng, lambda: True)
    store, doings = backend.store("window-1"), list[Said]()
    async with store.turn(retry=HASTY) as turn:
        between.keep_back(1, carries(SAVE))
        between.lose_replies(0 if copies else 1, carries(SAVE))
        with contextlib.suppress(_LeaveError):
            await client._turn_save("window-1", store, turn, doings)
        (said,) = doings
        await client.settle("window-1", store, said)
    journal.close()
    assert (len(between.kept), between.lost) == (1, 0 if copies else 1)
    save, *_ = read([tmp_path / "a1.jsonl"])
    assert (save.kind, verdict.fate(save)) == ("turn.save", "done"), save
    assert await contents(backend.store("window-1")) == list(save.tokens)


def _call(kind: str, started: float, ended: float, outcome: str = "ok", **facts: Any) -> Call:
    run, said = facts.pop("run", "chain-0"), facts.pop("said", "")
    return Call("a1.jsonl", "a1.0", kind, run, started, facts, ended, outcome, said)


@pytest.mark.parametrize(
    ("outcome", "said", "expected"),
    [
        ("ok", "", "done"),
        ("NotReplicatedError", "", "done"),
        ("ConflictError", "", "refused"),
        ("BackendUnavailableError", "", "refused"),
        ("OutcomeUnknownError", "", "open"),
        ("OutcomeUnknownError", "never", "refused"),
        ("interrupted", "applied", "done"),
        ("RevisionGoneError", "", "open"),
        ("OutcomeUnknownError", "gone", "open"),
        ("", "", "open"),
        ("RuntimeError", "", "open"),
        ("KeyError", "", "open"),
    ],
)
def test_what_a_caller_knows(outcome: str, said: str, expected: str) -> None:
    assert verdict.fate(_call("append", 0, 1, outcome, said=said)) == expected


# ----------------------------------------------------------------------------------- the errors


def test_the_table_of_outcomes_is_read_from_the_readme() -> None:
    promised = verdict.promised_errors()
    assert {"ConflictError", "OutcomeUnknownError", "LockTimeoutError", "SnapshotError"} <= promised
    assert all(issubclass(getattr(histstore, name), histstore.HistoryStoreError) for name in promised)
    assert not promised & {"HistoryStoreError", "BackendError", "LockError"}


@pytest.mark.parametrize(
    ("outcome", "complaint"),
    [
        ("BrokenChainError", "not in docs/errors.md"),
        ("RuntimeError", "not in docs/errors.md"),
        ("BackendError", "not in docs/errors.md"),
        ("CorruptSnapshotError", "not what happened"),
        ("SnapshotError", "not what happened"),
    ],
)
def test_an_error_that_is_not_promised_is_caught(outcome: str, complaint: str) -> None:
    fine = [_call("append", 0, 1, each) for each in ("ok", "", "interrupted", "cancelled", "ConflictError")]
    assert list(verdict.errors(fine, verdict.promised_errors())) == []
    (problem,) = verdict.errors([*fine, _call("lock", 0, 1, outcome)], verdict.promised_errors())
    assert complaint in problem


def test_a_revision_that_is_gone_though_the_run_remembers_is_caught() -> None:
    """Not where more writes came since than a run remembers; of a first save only if the run was deleted as well."""
    first = _call("append", 500, 501, "RevisionGoneError", requested=1, newest=300)
    late = _call("append", 500, 501, "RevisionGoneError", requested=40, newest=300)
    soon = _call("append", 500, 501, "RevisionGoneError", requested=100, newest=300)
    writes = [_call("append", number, number + 1, tokens=["t"]) for number in range(300)]
    for told, caught in ((first, True), (late, False), (soon, True)):
        kept, deleted = verdict.gone([*writes, told])
        assert (len(kept), len(deleted)) == (caught, 0)
    delete = _call("delete", 400, 401, returned=True)
    assert verdict.gone([*writes, delete, first]) == ([], [])
    kept, deleted = verdict.gone([*writes[:200], delete, first])
    assert (len(kept), len(deleted)) == (0, 1)


def test_what_was_told_of_writes_that_stand_is_counted() -> None:
    calls = [
        _call("append", 0, 1, "ConflictError", tokens=["a"]),
        _call("append", 0, 1, "LockedError", tokens=["b"]),
        _call("append", 0, 1, "interrupted", tokens=["c"], said="never"),
        _call("append", 0, 1, tokens=["d"]),
    ]
    assert verdict.lies(calls, ["a", "c", "d"]) == Counter({"ConflictError": 1, "never": 1})


# --------------------------------------------------------------------------- runs that keep all


class Kept:
    """A real run of which all versions are kept, and the calls that made it."""

    def __init__(self, store: Any, raw: redis.Redis, key: bytes) -> None:
        self.raw, self.key = raw, key
        self.calls: list[Call] = []
        for number in range(6):
            revision = store.append(message(f"t{number}"))
            known = {"version": revision.version, "etag": revision.etag.hex()}
            self.calls.append(_call("append", 10.0 * number, 10.0 * number + 5, tokens=[f"t{number}"], **known))
            truth = self.truth()
            seen = known | {"digest": truth.versions[-1].digest}
            self.calls.append(_call("load", 10.0 * number + 6, 10.0 * number + 7, **seen))
        revision = store.splice(0, 2, message("t6"))
        known = {"version": revision.version, "etag": revision.etag.hex()}
        self.calls.append(_call("splice", 60.0, 65.0, tokens=["t6"], **known))

    def truth(self) -> Chain:
        items: Any = self.raw.xrange(self.key)
        return read_chain(items)

    def problems(self) -> str:
        truth = self.truth()
        return "\n".join(verdict.chain(self.calls, truth, truth.versions[-1].content))


@pytest.fixture
def kept(server_url: str, namespace: str, raw: redis.Redis) -> Iterator[Kept]:
    with histstore.sync.RedisBackend.from_url(server_url, namespace=namespace, keep_revisions=1000) as backend:
        yield Kept(backend.store("run"), raw, run_keys(namespace, "run").log)


def test_the_log_is_read_without_the_librarys_replay(kept: Kept) -> None:
    truth = kept.truth()
    assert [version.added for version in truth.versions] == [(f"t{number}",) for number in range(7)]
    assert truth.versions[-1].content == ("t6", "t2", "t3", "t4", "t5")
    assert truth.problems == []
    assert kept.problems() == ""


def test_the_content_that_is_read_is_what_the_library_loads(server_url: str, namespace: str, raw: redis.Redis) -> None:
    """Over appends, splices, overwrites and checkpoints."""
    with histstore.sync.RedisBackend.from_url(server_url, namespace=namespace, keep_revisions=1000) as backend:
        store = backend.store("run")
        for number in range(120):
            snapshot = store.load() or ConversationSnapshot[Any]()
            cut = (0, 9) if number % 10 == 9 else (-1, None) if number % 3 == 2 else (0, 0)
            store.save(snapshot.splice(*cut).append(message(f"t{number}")))
        truth = read_chain(raw.xrange(run_keys(namespace, "run").log))  # type: ignore[arg-type]
        assert truth.problems == []
        assert truth.added == [f"t{number}" for number in range(120)]
        for version in truth.versions:
            loaded = store.load(at=version.version)
            assert tuple(each["content"] for each in loaded.messages) == version.content  # type: ignore[union-attr]


def _doubled(kept: Kept, store: Any) -> None:
    store.append(message("t3"))


def _lost(kept: Kept, store: Any) -> None:
    kept.calls.append(_call("append", 70, 75, tokens=["nowhere"]))


def _reordered(kept: Kept, store: Any) -> None:
    kept.calls[0].started, kept.calls[0].ended = 80.0, 85.0
    kept.calls[1].started, kept.calls[1].ended = 86.0, 87.0


def _refused(kept: Kept, store: Any) -> None:
    kept.calls[4].outcome = "LockedError"


def _never(kept: Kept, store: Any) -> None:
    kept.calls[4].outcome, kept.calls[4].said = "OutcomeUnknownError", "never"


def _foreign(kept: Kept, store: Any) -> None:
    store.append(message("nobody's"))


def _wrong_version(kept: Kept, store: Any) -> None:
    kept.calls[2].facts["version"] = 3


def _wrong_etag(kept: Kept, store: Any) -> None:
    kept.calls[2].facts["etag"] = "00" * 16


def _wrong_content(kept: Kept, store: Any) -> None:
    kept.calls[3].facts["digest"] = "00"


def _stale(kept: Kept, store: Any) -> None:
    kept.calls[3].started, kept.calls[3].ended = 70.0, 71.0


def _early(kept: Kept, store: Any) -> None:
    kept.calls[9].started, kept.calls[9].ended = 30.0, 31.0


def _back_again(kept: Kept, store: Any) -> None:
    store.append(message("t0"))


def _fences_fall(kept: Kept, store: Any) -> None:
    for number in (7, 8):
        store.append(message(f"t{number}"))
    entries: Any = kept.raw.xrange(kept.key)
    kept.raw.delete(kept.key)
    fences = dict(zip([key for key, _ in entries[-2:]], (2**40, 2**39), strict=True))
    for key, fields in entries:
        fence = fences.get(key, 0)
        kept.raw.xadd(kept.key, fields | {b"h": fields[b"h"][:-8] + fence.to_bytes(8, "big")}, id=key)


@pytest.mark.parametrize(
    ("plant", "complaint"),
    [
        (_doubled, "holds 't3' 2 times"),
        (_lost, "is lost"),
        (_reordered, "stands after it"),
        (_refused, "refused append of ('t2',) (append: LockedError) is stored"),
        (_never, "resolved as never) is stored"),
        (_foreign, "appended by nobody"),
        (_wrong_version, "which the log does not hold"),
        (_wrong_etag, "which the log does not hold"),
        (_wrong_content, "what the run did not hold then"),
        (_stale, "was known before it began"),
        (_early, "before it was written"),
        (_back_again, "brings back ['t0']"),
        (_fences_fall, "a save with fence"),
    ],
)
def test_a_planted_violation_is_caught(
    plant: Callable[[Kept, Any], None], complaint: str, kept: Kept, server_url: str, namespace: str
) -> None:
    """Of runs whose every version is known."""
    with histstore.sync.RedisBackend.from_url(server_url, namespace=namespace, keep_revisions=1000) as backend:
        store = backend.store("run")
        store.load()
        plant(kept, store)
    assert complaint in kept.problems()


def test_an_entry_that_is_missing_from_the_log_is_caught(kept: Kept) -> None:
    kept.raw.xdel(kept.key, "0-3")
    assert "entry 3 of the log is" in kept.problems()


def test_a_last_load_that_is_not_the_logs_end_is_caught(kept: Kept) -> None:
    assert "the last load returned" in next(verdict.chain([], kept.truth(), ["t0"]))


# ------------------------------------------------------------------------------ runs that forget


def _write(token: str, started: float, ended: float, fate: Any = "done", removes: tuple[str, ...] = ()) -> Write:
    return Write(f"write {token}", fate, started, ended, (token,), removes)


NEVER = float("inf")


def _look(started: float, *found: str) -> Look:
    return Look(f"look {started}", started, started + 1, found or None)


def _history(**more: Any) -> Erasures:
    """Writes a, b and c, removes a, deletes it all, and writes d."""
    return Erasures(
        [
            _write("a", 0, 5),
            _write("b", 10, 15),
            _write("c", 20, 25, removes=("a",)),
            _write("r", 20, 25, "refused"),
            _write("u", 20, NEVER, "open"),
            _write("d", 50, 55),
            *more.get("writes", ()),
        ],
        [Delete("delete", "done", 40, 45), *more.get("deletes", ())],
        [_look(6, "a"), _look(16, "a", "b"), _look(22, "b", "c"), _look(22, "a", "b", "u"), _look(30, "b", "c"),
         _look(46), _look(56, "d"), *more.get("looks", ())],
    )  # fmt: skip


def test_a_right_history_of_erasures_passes() -> None:
    """Removed, deleted, written again; what overlaps may be seen or not, and what is unknown may be there later."""
    assert _history().problems() == []
    assert (
        _history(looks=[_look(60, "u", "d"), _look(42, "b", "c"), _look(42), _look(52), _look(52, "d")]).problems()
        == []
    )
    unknown = [Delete("another", "open", 57, NEVER)]
    assert _history(deletes=unknown, looks=[_look(60), _look(70, "d")]).problems() == []
    refused = [Delete("another", "refused", 57, 58)]
    assert _history(deletes=refused, looks=[_look(60, "d")]).problems() == []


@pytest.mark.parametrize(
    ("more", "complaint"),
    [
        ({"looks": [_look(17, "a")]}, "missed 'b'"),
        ({"looks": [_look(57)]}, "missed 'd'"),
        ({"looks": [_look(30, "a", "b", "c")]}, "saw 'a' which write c had removed"),
        ({"looks": [_look(47, "b")]}, "the run was deleted in between"),
        ({"looks": [_look(30, "b", "c", "r")]}, "saw 'r' which was refused"),
        ({"looks": [_look(30, "b", "c", "c")]}, "saw 'c' 2 times"),
        ({"looks": [_look(30, "b", "c", "u", "u")]}, "saw 'u' 2 times"),
        ({"looks": [_look(17, "a", "b", "d")]}, "saw 'd' before it was written"),
        ({"looks": [_look(17, "a", "b", "x")]}, "saw 'x' which nobody wrote"),
        ({"deletes": [Delete("another", "refused", 57, 58)], "looks": [_look(60)]}, "missed 'd'"),
        ({"deletes": [Delete("blind", "done", 57, 58, frozenset({"b"}))]}, "which it had not seen"),
    ],
)
def test_a_planted_violation_of_a_run_that_forgets_is_caught(more: dict[str, Any], complaint: str) -> None:
    """Lost, brought back, refused, doubled, early, foreign, and deleted unseen."""
    problems = _history(**more).problems()
    assert len(problems) == 1, problems
    assert complaint in problems[0]


def test_calls_become_writes_deletes_and_looks() -> None:
    """A delete that found nothing says that the run was absent; one that was resolved counts as what it came to."""
    calls = [
        _call("append", 0, 1, tokens=["a"]),
        _call("delete", 2, 3, returned=False),
        _call("load", 4, 5, found=["a"]),
    ]
    (problem,) = verdict.erasures(calls, 6.0, ["a"])
    assert "missed 'a'" in problem
    calls[1].facts["returned"] = True
    (problem,) = verdict.erasures(calls, 6.0, ["a"])
    assert "deleted in between" in problem
    calls[1].outcome, calls[1].said = "OutcomeUnknownError", "never"
    assert verdict.erasures(calls, 6.0, ["a"]) == []
    calls[1].said, calls[1].facts["settled"] = "applied", 3.5
    (problem,) = verdict.erasures(calls, 6.0, ["a"])
    assert "deleted in between" in problem


# ------------------------------------------------------------------------------------- leases


def test_a_lease_that_is_said_to_be_lost_while_it_is_held_is_caught() -> None:
    """And two that are held at once, by what both holders surely knew."""
    held = [
        _call("lock", 0.8, 1, holder="h", ttl=2.0),
        _call("unlock", 5, 6, holder="h", left=2.0, lost=False, fence=7),
    ]
    assert list(verdict.leases(held)) == []
    held[1].outcome = "LeaseLostError"
    assert "surely held" in next(verdict.leases(held))
    held[1].facts["left"] = 0.5
    assert list(verdict.leases(held)) == []
    held[1].outcome, held[1].facts["left"] = "ok", 2.0
    other = [
        _call("turn", 2, 3, holder="i", ttl=2.0),
        _call("end of turn", 4, 5, holder="i", left=1.0, lost=False, fence=8),
    ]
    assert "two were inside at once" in next(verdict.leases(held + other))
    other[1].facts["lost"] = True
    assert list(verdict.leases(held + other)) == []
    calls = [*held, _call("append", 1.1, 1.2, tokens=["a"], fence=7), _call("append", 1.5, 2.5, tokens=["b"])]
    assert list(verdict.leases(calls)) == []
    calls.append(_call("append", 1.2, 1.3, tokens=["c"]))
    assert "while another held the lease" in next(verdict.leases(calls))


def test_a_lease_that_stands_after_it_was_given_up_is_counted_and_not_for_long() -> None:
    calls = [
        _call("unlock", 5, 6, holder="h", left=2.0, lost=False),
        _call("append", 5, 7, "LockedError", holder="h"),
        _call("append", 7, 8, "LockedError", holder="h"),
        _call("append", 7, 8, "LockedError", holder="i"),
    ]
    assert verdict.haunted(calls) == (1, [])
    calls.append(_call("lock", 30, 31, "LockTimeoutError", holder="h"))
    ghosts, late = verdict.haunted(calls)
    assert (ghosts, len(late)) == (2, 1)


def test_leases_and_queues_that_are_left_behind_are_found(
    raw: redis.Redis, server_url: str, namespace: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A lease that does not end, and a queue in which somebody stands whom nobody knows."""
    monkeypatch.setattr(verdict, "LONGEST_TTL", 0.0)
    monkeypatch.setattr(verdict, "run_keys", lambda _namespace, run: run_keys(namespace, run))
    keys = run_keys(namespace, "run")
    with histstore.sync.RedisBackend.from_url(server_url, namespace=namespace) as backend:
        assert verdict.leftovers(lambda _: raw, backend, ["run"]) == []
        raw.hset(keys.lease, mapping={"holder": "h", "fence": "1", "since": "1"})
        (problem,) = verdict.leftovers(lambda _: raw, backend, ["run"])
        assert "is held by" in problem
        raw.delete(keys.lease)


# -------------------------------------------------------------------------------- the processes


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP])
def test_an_interrupted_storm_leaves_nothing_behind(number: int, tmp_path: Path) -> None:
    """No process, no server, no file."""
    command = [sys.executable, "-m", "tests.faults.storm", "--seconds", "60", "--seed", "1"]
    storm = subprocess.Popen(
        command, cwd=ROOT, env=os.environ | {"TMPDIR": str(tmp_path)}, stdout=subprocess.PIPE, start_new_session=True
    )
    try:
        assert storm.stdout is not None
        assert storm.stdout.readline().startswith(b"seed 1: ")
        end = time.monotonic() + 30
        while not any(path.stat().st_size > 10_000 for path in tmp_path.glob("histstore-storm-*/*.jsonl")):
            assert time.monotonic() < end, "nobody works"
            assert storm.poll() is None
            time.sleep(0.05)
        storm.send_signal(number)
        assert storm.wait(60) == 130
        while left := _session(storm.pid):
            assert time.monotonic() < end + 60, f"left behind: {left}"
            time.sleep(0.05)
        assert list(tmp_path.glob("histstore-*")) == []
    finally:
        storm.kill()
        storm.wait()
        assert storm.stdout is not None
        storm.stdout.close()


def _session(number: int) -> list[str]:
    """Returns the processes of a session."""
    said = subprocess.run(["ps", "-eo", "sess=,args="], capture_output=True, text=True, check=True).stdout
    return [line for line in said.splitlines() if line.split(None, 1)[0] == str(number)]
