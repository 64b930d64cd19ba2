"""A call: its commands, the key that routes it, and the run that it is about."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

from histstore import Attempt, RunId
from histstore.protocol import backend, deletes, info, leases, reads, saves
from histstore.protocol.call import Call, script_call
from histstore.protocol.keys import run_keys
from histstore.protocol.run import NO_LEASE, RunRef
from histstore.protocol.scripts import COMPARE, PROBE

WHERE = RunRef("ns", RunId("run"), run_keys("ns", "run"))
ATTEMPT = Attempt("delete", "ns", RunId("run"), None, None, b"t" * 16)
TICKET = leases.Ticket("me", 1000, "channel")

BUILDERS: dict[str, Callable[[], Call]] = {
    "compare": lambda: saves.compare(WHERE, None, NO_LEASE, None),
    "resolve": lambda: saves.resolve(WHERE, ATTEMPT),
    "peek": lambda: deletes.peek(WHERE),
    "last entry": lambda: deletes.last_entry(WHERE),
    "delete": lambda: deletes.delete(WHERE, ATTEMPT, b"", NO_LEASE, False),
    "all entries": lambda: reads.all_entries(WHERE),
    "entries after": lambda: reads.entries_after(WHERE, 3),
    "entries from": lambda: reads.entries_from(WHERE, 3),
    "entries up to": lambda: reads.entries_up_to(WHERE, 3),
    "entries between": lambda: reads.entries_between(WHERE, 3, 5),
    "newest entries": lambda: reads.newest_entries(WHERE, None, 5),
    "head": lambda: reads.head_only(WHERE),
    "info": lambda: info.info(WHERE),
    "acquire": lambda: leases.acquire(WHERE, TICKET, queue=True),
    "renew": lambda: leases.renew(WHERE, NO_LEASE, 1000),
    "release": lambda: leases.release(WHERE, "me"),
    "occupancy": lambda: leases.occupancy(WHERE),
    "drop queue": lambda: leases.drop_queue(WHERE),
}


@pytest.mark.parametrize("build", BUILDERS.values(), ids=BUILDERS)
def test_a_call_names_its_run_and_one_of_its_keys(build: Callable[[], Call]) -> None:
    """The key routes it: all keys of a run lie in one slot."""
    call = build()
    assert call.run == ("ns", "run")
    assert call.key in vars_of(WHERE.keys)


def vars_of(keys: Any) -> list[bytes]:
    return [keys.head, keys.log, keys.etags, keys.marks, keys.lease, keys.queue]


def test_calls_about_no_single_run() -> None:
    """A walk over all runs goes to every server; a self-test has a scratch key."""
    scan = backend.scan("ns", "", 0, ("host", 1))
    assert (scan.key, scan.run) == (("host", 1), None)
    keys = run_keys("ns", "probe-1")
    assert (backend.probe(keys).key, backend.probe(keys).run) == (keys.head, None)


@pytest.mark.parametrize("build", [reads.all_entries, reads.head_only], ids=["all entries", "head"])
def test_a_read_names_the_call_that_it_serves(build: Callable[..., Call]) -> None:
    """By default the load; error texts show it."""
    assert build(WHERE).name == "load"
    assert build(WHERE, name="revisions").name == "revisions"


def test_what_is_read_is_of_one_moment() -> None:
    """A transaction; and the same commands without one, for a server whose memory is full."""
    call = reads.head_only(WHERE)
    first, *commands, last = call.batch
    assert (first, last) == (("MULTI",), ("EXEC",))
    assert call.relaxed is not None
    assert commands == list(call.relaxed)
    assert call.commands(True, True) is call.batch


def test_only_scripts_that_may_be_sent_twice_are_called() -> None:
    """The runner sends a request again when its answer is lost."""
    with pytest.raises(ValueError, match="probe must not be sent twice"):
        script_call(WHERE, PROBE, (WHERE.keys.head,), ())


def test_the_forms_of_a_script_s_call() -> None:
    """Digest or source; a copy differs in the argument that says so, if there is one."""
    call = deletes.delete(WHERE, ATTEMPT, b"etag", NO_LEASE, False)
    keys = tuple(vars_of(WHERE.keys)[:5])
    for again, in_full in ((False, False), (True, False), (False, True), (True, True)):
        ((verb, script, count, *rest),) = call.commands(again, in_full)
        assert (verb, script) == (("EVAL", call.script.source) if in_full else ("EVALSHA", call.script.sha))  # type: ignore[union-attr]
        assert count == b"5"
        assert rest == [*keys, b"etag", b"t" * 16, "1" if again else "0", "", "", "0"]
    plain = saves.compare(WHERE, None, NO_LEASE, None)
    assert plain.commands(True, False) is plain.commands(False, False) is plain.batch
    assert plain.script is COMPARE
    assert plain.attempt is None
    assert call.attempt is ATTEMPT
