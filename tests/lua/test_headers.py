"""A script's header, its body and the Python that calls it name the same KEYS and ARGV."""

from __future__ import annotations

import re
from typing import Final

import pytest

from histstore.attempt import Attempt
from histstore.log.base import Base
from histstore.protocol import deletes, leases, saves
from histstore.protocol.call import Call
from histstore.protocol.keys import run_keys
from histstore.protocol.leases import Ticket
from histstore.protocol.run import NO_LEASE, LeaseToken, RunRef
from histstore.protocol.scripts import (
    ACQUIRE,
    ALL,
    COMPARE,
    DELETE,
    PROBE,
    RELEASE,
    RENEW,
    RESOLVE,
    SAVE,
    Script,
    strip,
)
from histstore.revision import RunId

from .world import World

LEASE: Final = LeaseToken(77, "the holder")


def declared(script: Script, table: str) -> dict[int, str]:
    """Return the header's names of KEYS or ARGV by number."""
    header = [line for line in script.source.split("\n") if line.startswith("--")]
    return {int(n): name for n, name in re.findall(rf"{table}\[(\d)\] (\w+)", "\n".join(header))}


def used(script: Script, table: str) -> dict[int, str]:
    """Return the variables that the body reads KEYS or ARGV into, by number."""
    body = strip(script.source)
    found: dict[int, str] = {}
    for names, values in re.findall(r"^local ([\w, ]+) =\s+((?:[^\n]*(?:KEYS|ARGV)\[[^\n]*))$", body, re.MULTILINE):
        for name, value in zip(names.split(", "), values.split(", "), strict=True):
            ((of, number),) = re.findall(r"(KEYS|ARGV)\[(\d)\]", value)
            if of == table:
                found[int(number)] = name
    assert len(found) == len(re.findall(rf"{table}\[", body)), f"{script.name}: {table} is read in a way not seen here"
    return found


def derived(script: Script) -> dict[str, bytes]:
    """Return the suffixes that the body appends to the run's part of the head's key, by variable."""
    body = strip(script.source)
    found: dict[str, bytes] = {}
    for names, values in re.findall(r"^local ([\w, ]+) = (run \.\. .*)$", body, re.MULTILINE):
        for name, value in zip(names.split(", "), values.split(", "), strict=True):
            found[name] = re.fullmatch(r"run \.\. '(\w+)'", value)[1].encode()  # type: ignore[index]
    assert len(found) == len(re.findall(r"\brun \.\.", body)), f"{script.name}: a key is derived in a way not seen here"
    return found


@pytest.mark.parametrize("script", ALL, ids=lambda script: script.name)
def test_a_key_that_is_not_declared_is_derived_as_python_names_it(script: Script) -> None:
    """The scripts and `run_keys` agree on every name, whatever namespace and run; the header lists what is derived."""
    names = derived(script)
    body = strip(script.source)
    if not names:
        assert "string.sub(head_key" not in body
        return
    assert script is SAVE, "one more script derives keys: see that a slot on the move does not mislead it"
    ((start, end),) = re.findall(r"^local run = string\.sub\(head_key, (\d+), -(\d+)\)$", body, re.MULTILINE)
    for namespace, run_id in (("histstore", "order-4711"), ("name{space}", "}{ %"), ("n", "ein ü")):
        keys = run_keys(namespace, RunId(run_id))
        run = keys.head[int(start) - 1 : len(keys.head) - int(end) + 1]
        for variable, name in names.items():
            assert run + name == getattr(keys, variable.removesuffix("_key")), variable
    listed = re.findall(r"^--   (\w+) +(?:stream|list|hash|string) ", script.source, re.MULTILINE)
    assert [f"{name}_key" for name in listed] == list(names)
    sent = set(re.findall(r"\b(\w+)_key\b", body))
    assert sent == {*listed, *declared(script, "KEYS").values()}, "a key that the header does not list"


@pytest.mark.parametrize("script", ALL, ids=lambda script: script.name)
def test_the_header_declares_what_the_body_uses(script: Script) -> None:
    """KEYS and ARGV are numbered from 1 without a gap, named once, and named alike in header and body."""
    for table, ending in (("KEYS", "_key"), ("ARGV", "")):
        names = declared(script, table)
        assert list(names) == list(range(1, len(names) + 1)), names
        if script is not PROBE:
            assert used(script, table) == {n: name + ending for n, name in names.items()}
    assert script is not PROBE or (used(script, "KEYS"), used(script, "ARGV")) == ({1: "scratch"}, {})


def _where(world: World) -> RunRef:
    return world.where


def _base(world: World) -> Base:
    return world.plan(None, "a", "b").after


def _calls(world: World) -> dict[Script, tuple[Call, dict[str, object]]]:
    """Return a call of each script with values that all differ, and the value of each name."""
    base = _base(world)
    save = world.plan(base, "c", lease=LEASE, ttl=1234, keep=56, meta={"job": 1})
    revision = base.head.revision
    attempt = Attempt("save", world.namespace, world.where.run_id, revision, revision, b"t" * 16)
    entry = save.plan.entry
    ticket = Ticket(LEASE.holder, 1234, "the channel")
    return {
        SAVE: (
            save.call,
            {
                "version": b"%d" % entry.version, "header": entry.header.pack(), "body": entry.body,
                "check": save.plan.head.check(), "meta": save.plan.head.meta, "resend": "0",
                "holder": LEASE.holder, "ttl": b"1234", "keep": b"56",
            },
        ),
        COMPARE: (
            saves.compare(world.where, revision, LEASE, 1234),
            {"etag": revision.etag, "fence": "77", "holder": LEASE.holder, "ttl": b"1234"},
        ),
        RESOLVE: (saves.resolve(world.where, attempt), {"ticket": b"t" * 16, "expected": revision.etag}),
        DELETE: (
            deletes.delete(world.where, attempt, revision.etag, LEASE, True),
            {
                "expected": revision.etag, "ticket": b"t" * 16, "resend": "0", "fence": "77",
                "holder": LEASE.holder, "force": "1",
            },
        ),
        ACQUIRE: (
            leases.acquire(world.where, ticket, queue=True),
            {"holder": LEASE.holder, "ttl": "1234", "channel": "the channel"},
        ),
        RENEW: (
            leases.renew(world.where, LEASE, 1234),
            {"holder": LEASE.holder, "fence": "77", "ttl": "1234"},
        ),
        RELEASE: (
            leases.release(world.where, LEASE.holder, ticket.place, late=True, force=False),
            {"holder": LEASE.holder, "place": ticket.place, "late": "1", "force": "0"},
        ),
    }  # fmt: skip


def test_python_sends_what_the_header_declares(make_world: object) -> None:
    """Each value that a call carries stands where the header names it, and each key is the one of that name."""
    world: World = make_world("")  # type: ignore[operator]
    calls = _calls(world)
    assert set(calls) == {script for script in ALL if script is not PROBE}
    for script, (call, values) in calls.items():
        ((verb, sha, count, *rest),) = call.commands(False, False)
        assert (verb, sha) == ("EVALSHA", script.sha)
        keys, args = rest[: int(count)], rest[int(count) :]
        names = declared(script, "KEYS")
        assert keys == [getattr(world.keys, name) for name in names.values()], script.name
        assert dict(zip(declared(script, "ARGV").values(), args, strict=True)) == values, script.name
        ((verb, source, *same),) = call.commands(False, True)
        assert (verb, source, same) == ("EVAL", script.source, [count, *rest])


def test_a_resend_differs_in_the_one_argument_that_says_so(make_world: object) -> None:
    """The copies of a request are the same but for `resend`; what may be repeated as it is has none."""
    world: World = make_world("")  # type: ignore[operator]
    for script, (call, _) in _calls(world).items():
        first, again = call.commands(False, False)[0], call.commands(True, False)[0]
        differing = [n for n, (a, b) in enumerate(zip(first, again, strict=True)) if a != b]
        names = {name: n + 2 + int(first[2]) for n, name in declared(script, "ARGV").items()}
        assert differing == ([names["resend"]] if "resend" in names else [])
        assert all((first[n], again[n]) == ("0", "1") for n in differing)
        assert (call.attempt is not None) == ("resend" in names)


def test_what_was_not_asked_for_is_not_sent(make_world: object) -> None:
    """No place in the queue without a channel to be rung on; nothing is broken or marked by default."""
    world: World = make_world("")  # type: ignore[operator]
    ticket = Ticket(LEASE.holder, 1234, "the channel")
    calls = {
        ACQUIRE: (leases.acquire(world.where, ticket, queue=False, uncounted=True), {"channel": ""}),
        RELEASE: (leases.release(world.where, LEASE.holder), {"place": "", "late": "0", "force": "0"}),
    }
    broken = leases.release(world.where, LEASE.holder, force=True)
    for script, call, values in [(RELEASE, broken, {"late": "0", "force": "1"}), *((s, *c) for s, c in calls.items())]:
        (command,) = call.commands(False, False)
        args = dict(zip(declared(script, "ARGV").values(), command[3 + int(command[2]) :], strict=True))
        assert {name: args[name] for name in values} == values, script.name


def test_a_place_in_the_queue_is_what_the_scripts_take_apart() -> None:
    """`release` names the item that `acquire` made of its arguments: lifetime, channel, holder, a space between."""
    assert Ticket("host:1:abc", 1234, "ns:doorbell:x").place == "1234 ns:doorbell:x host:1:abc"


def test_without_a_lease_a_call_carries_no_holder(make_world: object) -> None:
    """An empty holder is how the scripts know that no lease is carried; an empty ttl, that there is none."""
    world: World = make_world("")  # type: ignore[operator]
    base = _base(world)
    revision = base.head.revision
    attempt = Attempt("delete", world.namespace, world.where.run_id, revision, revision, b"t" * 16)
    calls = {
        SAVE: world.plan(base, "c").call,
        COMPARE: saves.compare(world.where, revision, NO_LEASE, None),
        DELETE: deletes.delete(world.where, attempt, revision.etag, NO_LEASE, False),
    }
    for script, call in calls.items():
        (command,) = call.commands(False, False)
        args = dict(zip(declared(script, "ARGV").values(), command[3 + int(command[2]) :], strict=True))
        assert args["holder"] == ""
        assert args.get("fence", "") == ""
        assert args.get("ttl", "") == ""


def test_the_keys_of_a_call_share_one_hash_tag() -> None:
    """A cluster runs a script only if all of its keys lie in one slot, whatever the run is called."""
    for run_id in ("plain", "with {braces}", "}{", "{}"):
        keys = run_keys("name{space}", RunId(run_id))
        tags = set()
        for key in (keys.head, keys.log, keys.etags, keys.marks, keys.lease, keys.queue):
            start = key.index(b"{") + 1
            tags.add(key[start : key.index(b"}", start)])
        assert len(tags) == 1, tags
        assert tags != {b""}
