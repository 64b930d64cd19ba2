"""Stored bytes are flipped, cut short, deleted or evicted (row 17).

What is asserted of each damage, with the truth known:

- `load`, by a store that has never seen the run and by one that had loaded it before the damage, `load(at=)` and
  `read` return the truth, or raise CorruptSnapshotError that names the run and, while a version can be told, a version.
  Never None, never another conversation. Damage to the format field may be told as UnsupportedVersionError, and damage
  to what the head says of retention, for `at=` only, as RevisionGoneError.
- A save afterwards, by the store that had loaded or by a fresh one with ANY, is refused by a documented error, or is
  acknowledged; and then a load returns exactly the truth with that save, or raises CorruptSnapshotError.
- A save never makes things worse: acknowledged while the run could be loaded, it can be loaded afterwards.
- Where head and log contradict each other by themselves (an entry deleted, head or log evicted, the head's version
  damaged) no save but a delete is acknowledged at all.
"""

from __future__ import annotations

import random
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import pytest
import redis

from histstore import (
    ANY,
    AssistantMessage,
    ConflictError,
    ConversationSnapshot,
    CorruptSnapshotError,
    HistoryStoreError,
    RedisBackend,
    RevisionGoneError,
    UnsupportedVersionError,
    UserMessage,
)

from .shells import FAST, keys_of

Make = Callable[..., Any]
ROUNDS = 500
PARTS = ("head", "log", "etags")


@dataclass
class Template:
    """A sound run, as DUMPs to put under other names, and what it holds at each version."""

    dumps: dict[str, bytes]
    past: dict[int, ConversationSnapshot[Any]]
    keep: int

    @property
    def version(self) -> int:
        return max(self.past)

    @property
    def truth(self) -> ConversationSnapshot[Any]:
        return self.past[self.version]

    def put(self, raw: redis.Redis, namespace: str, run: str) -> None:
        keys = keys_of(namespace, run)
        for part in PARTS:
            raw.restore(getattr(keys, part), 0, self.dumps[part], replace=True)  # type: ignore[arg-type]


async def _template(url: str, raw: redis.Redis, namespace: str, kind: str) -> Template:
    """Makes a run of typed and plain messages with pins and meta; kinds differ in how their log looks."""
    keep = 6 if kind == "past" else 0
    past: dict[int, ConversationSnapshot[Any]] = {}
    async with RedisBackend.from_url(url, namespace=namespace, keep_revisions=keep) as backend:
        store = backend.store(f"template {kind}")
        snapshot: ConversationSnapshot[Any] = ConversationSnapshot(
            [UserMessage("be kind"), {"role": "user", "content": "hello"}], [True, False], {"job": kind}
        )
        big = "x" * (1500 if kind == "window" else 10)
        for turn in range(9):
            past[(await store.save(snapshot)).version] = snapshot
            snapshot = snapshot.append({"n": turn, "text": big}, AssistantMessage(f"answer {turn}"), pinned=turn == 3)
            if kind == "window":
                snapshot = snapshot.splice(1, 3)
            elif turn == 5:
                # Everything replaced, in an entry that is no checkpoint; the meta stays.
                snapshot = snapshot.splice(0, None, UserMessage("summary"))
        keys = keys_of(namespace, store.run_id)
        dumps = {part: raw.dump(getattr(keys, part)) for part in PARTS}
    return Template(dumps, past, keep)  # type: ignore[arg-type]


def _mangle(rng: random.Random, data: bytes) -> bytes:
    """Flips a bit, cuts the end off, or empties."""
    match rng.randrange(8):
        case 0:
            return data[: rng.randrange(len(data))] if data else b"\0"
        case 1:
            at = rng.randrange(len(data) + 1)
            return data[:at] + bytes([rng.randrange(256)]) + data[at:]
        case _:
            if not data:
                return b"\0"
            at = rng.randrange(len(data))
            return data[:at] + bytes([data[at] ^ (1 << rng.randrange(8))]) + data[at + 1 :]


def _damage(rng: random.Random, raw: redis.Redis, namespace: str, run: str) -> str:
    """Does one damage to one key of a run; returns which."""
    keys = keys_of(namespace, run)
    kind = rng.choice(("head",) * 6 + ("entry",) * 8 + ("etags",) * 2 + ("drop entry", "drop field", "evict", "type"))
    match kind:
        case "head" | "drop field":
            fields: dict[bytes, bytes] = raw.hgetall(keys.head)  # type: ignore[assignment]
            name = rng.choice(sorted(fields))
            if kind == "drop field":
                raw.hdel(keys.head, name)  # type: ignore[arg-type]
            else:
                raw.hset(keys.head, name, _mangle(rng, fields[name]))  # type: ignore[arg-type]
            return f"{kind} {name.decode()}"
        case "entry":
            items: Any = raw.execute_command("XRANGE", keys.log, "-", "+", **{"NEVER_DECODE": True})
            chosen = rng.randrange(len(items))
            part = rng.choice((1, 1, 1, 3, 5, 5, 5))
            raw.delete(keys.log)
            for index, (stream_id, values) in enumerate(_pairs(items)):
                if index == chosen:
                    values[part] = _mangle(rng, values[part])
                raw.execute_command("XADD", keys.log, stream_id, *values)
            return f"entry {chosen} of {len(items)}, part {part}"
        case "drop entry":
            items = raw.execute_command("XRANGE", keys.log, "-", "+", **{"NEVER_DECODE": True})
            chosen = rng.randrange(len(items))
            raw.xdel(keys.log, _pairs(items)[chosen][0])
            return f"drop entry {chosen} of {len(items)}"
        case "etags":
            length = int(raw.llen(keys.etags))  # type: ignore[arg-type]
            chosen = rng.randrange(length)
            raw.lset(keys.etags, chosen, _mangle(rng, raw.lindex(keys.etags, chosen)))  # type: ignore[arg-type]
            return f"etags {chosen} of {length}"
        case "evict":
            part = rng.choice(PARTS)
            raw.delete(getattr(keys, part))
            return f"evict {part}"
        case _:
            part = rng.choice(PARTS)
            raw.set(getattr(keys, part), b"somebody else's")
            return f"type {part}"


def _pairs(items: Any) -> list[tuple[bytes, list[bytes]]]:
    """Returns id and flat fields of XRANGE's reply, which redis-py may have made a dict of."""
    return [
        (item[0], [part for pair in item[1].items() for part in pair] if isinstance(item[1], dict) else list(item[1]))
        for item in items
    ]


CONTRADICTIONS = (
    "drop entry",
    "evict head",
    "evict log",
    "head version",
    "drop field version",
    "type head",
    "type log",
)


async def _told(load: Any, run: str, what: str, note: str) -> ConversationSnapshot[Any] | None:
    """Returns what a load returned; None when it said that the run is damaged, naming it."""
    try:
        found = await load
    except CorruptSnapshotError as error:
        assert error.run_id == run, note
        headless = what in ("evict head", "type head", "type log", "head version", "drop field version")
        assert type(error.version) is int or headless, f"{note}: no version is named: {error}"
        assert run in str(error), note
        return None
    except UnsupportedVersionError:
        assert what == "head format", note
        return None
    assert found is not None, f"{note}: the run is said to be absent"
    result: ConversationSnapshot[Any] = found
    return result


@pytest.mark.parametrize("kind", ["turns", "window", "past"])
async def test_damage_is_told_and_never_becomes_another_conversation(
    kind: str, server_url: str, namespace: str, raw: redis.Redis
) -> None:
    """500 seeded damages over every key of a run, as the module's docstring says."""
    template = await _template(server_url, raw, namespace, kind)
    truth = template.truth
    outcomes: Counter[str] = Counter()
    problems: list[str] = []
    count = {"turns": 200, "window": 150, "past": 150}[kind]
    assert ROUNDS == 500
    backend = RedisBackend.from_url(server_url, namespace=namespace, keep_revisions=template.keep, retry=FAST)
    async with backend:
        for seed in range(count):
            rng = random.Random(f"{kind} {seed}")
            run = f"{kind} {seed}"
            template.put(raw, namespace, run)
            warm = backend.store(run)
            before = await warm.load()
            assert before == truth
            damage = _damage(rng, raw, namespace, run)
            what = damage if not damage.startswith(("drop entry", "entry", "etags")) else damage.split(" of")[0]
            note = f"kind {kind}, seed {seed}, damage: {damage}"
            try:
                outcomes.update(await _one(backend, warm, before, template, rng, run, what, note))
            except AssertionError as error:
                problems.append(str(error).partition("\n")[0])
            except Exception as error:
                documented = "" if isinstance(error, HistoryStoreError) else "an undocumented "
                problems.append(f"{note}: {documented}{error!r}")
            assert await backend.delete(run), f"{note}: a damaged run can be deleted"
            assert await backend.store(run).load() is None, note
            await backend.store(run).append({"a": "new"})
            assert len(await backend.store(run).load()) == 1, note
    assert not problems, "\n".join([f"{len(problems)} problems", *problems[:20]])
    # Both ends of every promise were met, or this test shows nothing.
    assert min(outcomes[name] for name in ("truth", "corrupt", "saved", "refused")) > 0, outcomes


async def _one(
    backend: Any, warm: Any, before: Any, template: Template, rng: random.Random, run: str, what: str, note: str
) -> list[str]:
    truth = template.truth
    outcomes = []
    cold = await _told(backend.store(run).load(), run, what, note)
    assert cold is None or cold == truth, f"{note}: another conversation"
    outcomes.append("truth" if cold is not None else "corrupt")
    again = await _told(backend.store(run).load(), run, what, note)
    assert (again is None) == (cold is None), f"{note}: told differently the second time"

    # A load of a past version, and a part.
    for version in rng.sample(sorted(template.past), 3):
        try:
            found = await _told(backend.store(run).load(at=version), run, what, note)
        except RevisionGoneError:
            kept = version >= min(template.past) and template.keep
            assert not kept or what in ("head first", "drop field first"), f"{note}: {version} is said to be gone"
            continue
        assert found is None or found == template.past[version], f"{note}: another conversation at {version}"
    for start, stop in ((-3, None), (0, 2), (1, None), (2, 5)):
        try:
            page = await backend.store(run).read(start, stop)
        except CorruptSnapshotError as error:
            assert error.run_id == run, note
        except UnsupportedVersionError:
            assert what == "head format", note
        else:
            assert page is not None, note
            assert page.messages == truth.messages[start:stop], f"{note}: other messages"
            assert page.pinned == truth.pinned[start:stop], f"{note}: other pins"

    if rng.random() < 0.5:
        seen = await _told(warm.load(), run, what, note)
        assert seen is None or seen == truth, f"{note}: another conversation, to who had loaded"

    after = truth.append({"after": "damage"})
    way = rng.choice(("append", "save", "any append", "any save"))
    try:
        match way:
            case "append":
                await warm.append({"after": "damage"})
            case "save":
                await warm.save(before.append({"after": "damage"}))
            case "any append":
                await backend.store(run).append({"after": "damage"}, expected=ANY)
            case _:
                await backend.store(run).save(after, expected=ANY)
    except (CorruptSnapshotError, ConflictError, UnsupportedVersionError):
        outcomes.append("refused")
        return outcomes
    outcomes.append("saved")
    note = f"{note}, then {way}"
    # "9" and " 9" are the same version: then nothing contradicts itself, and the run loads.
    assert cold is not None or not what.startswith(CONTRADICTIONS), f"{note}: acknowledged onto a contradiction"
    found = await _told(backend.store(run).load(), run, what, note)
    assert found is None or found == after, f"{note}: another conversation after a save"
    assert found is not None or cold is None, f"{note}: a save made a sound run unreadable"
    if found is None:
        outcomes.append("saved onto unreadable")
    return outcomes
