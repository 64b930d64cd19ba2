"""Scenarios of `save.lua`: trimming, and the fields of the head."""

from __future__ import annotations

from ..world import World
from .registry import scenario


@scenario
def trimming_keeps_what_keep_asks_for(world: World) -> None:
    """After every save the newest `keep` past revisions can be read, whatever checkpoints came between."""
    for keep, checkpoints in ((0, (3, 4)), (2, (3, 4, 6, 9)), (3, (2, 8)), (5, tuple(range(2, 20)))):
        base = world.save(None, "message 1")
        for version in range(2, 20):
            base = world.save(base, f"message {version}", keep=keep, full=version in checkpoints)
            for past in range(max(1, version - keep), version + 1):
                assert world.load(past) == [f"message {n}" for n in range(1, past + 1)], f"keep={keep}, {version}"
        first = int(world.head("first") or 0)
        assert first > 1, f"keep={keep}: nothing was trimmed"
        assert world.load() == [f"message {n}" for n in range(1, 20)]
        world.delete(base)


@scenario
def a_checkpoint_trims_the_log(world: World) -> None:
    """Entries before a checkpoint are trimmed at once, and the head counts right."""
    base = world.saves(None, 5)
    assert world.client.xlen(world.keys.log) == 5
    base = world.save(base, "all of it", full=True)
    assert (world.client.xlen(world.keys.log), world.head("first"), world.head("spans")) == (1, b"6", b"6:6")
    base = world.saves(base, 2)
    assert (world.client.xlen(world.keys.log), world.head("first")) == (3, b"6")


@scenario
def what_was_kept_goes_when_its_time_has_come(world: World) -> None:
    """Entries before a checkpoint stay while `keep` wants them. A save that moves no checkpoint can trim them."""
    base = world.saves(None, 3, keep=2)
    base = world.save(base, "all of it", full=True, keep=2)
    base = world.save(base, "5", keep=2)
    held = world.head("first"), world.head("checkpoint"), world.head("spans"), world.client.xlen(world.keys.log)
    assert held == (b"1", b"4", b"1:1 4:4", 5), held
    for version in (6, 7):
        base = world.save(base, str(version), keep=2)
        held = world.head("first"), world.head("checkpoint"), world.head("spans"), world.client.xlen(world.keys.log)
        assert held == (b"4", b"4", b"4:4", version - 3), held


@scenario
def a_span_that_was_lost_costs_what_it_kept_and_no_more(world: World) -> None:
    """`first` stays equal to what the log holds, even if the spans list less. The run stays whole."""
    base = world.saves(None, 3)
    base = world.save(base, "all of it", full=True, keep=9)
    world.client.hset(world.keys.head, "spans", "4:4")
    for _ in range(2):
        base = world.save(base, "b", keep=9)
    assert (world.head("first"), world.client.xlen(world.keys.log)) == (b"4", 3)


@scenario
def spans_are_bounded(world: World) -> None:
    """The head does not grow with the checkpoints, however many past revisions are kept."""
    base = world.save(None, "a")
    for _ in range(40):
        base = world.save(base, "b", full=True, keep=10_000)
    assert len((world.head("spans") or b"").split()) <= 32
    for past in (1, 2, 20, 41):
        assert len(world.load(past) or ()) == past


@scenario
def the_log_is_bounded_also_when_spans_are_forgotten(world: World) -> None:
    """With more checkpoints than spans, the log still stays near what `keep` asks for."""
    base = world.save(None, "x")
    for version in range(2, 202):
        base = world.save(base, "y", full=True, keep=40)
        if version % 20 == 0:
            for past in (version - 40, version - 20, version):
                assert past < 1 or len(world.load(past) or ()) == past
    assert world.client.xlen(world.keys.log) <= 100, world.client.xlen(world.keys.log)


@scenario
def a_span_that_names_trimmed_entries_is_not_believed(world: World) -> None:
    """`first` never falls: the head would count entries that the log does not hold."""
    base = world.saves(None, 3)
    base = world.save(base, "all of it", full=True)
    world.client.hset(world.keys.head, "spans", "4:2")
    world.saves(base, 2)
    assert world.head("first") == b"4"


@scenario
def etags_are_capped(world: World) -> None:
    """The list remembers 256 etags and tickets, across deletes too."""
    base = world.saves(None, 260, full=True)
    assert world.client.llen(world.keys.etags) == 256
    world.delete(base)
    assert world.client.llen(world.keys.etags) == 256


@scenario
def meta_and_birth_stay(world: World) -> None:
    """A save without new meta leaves the meta alone, and only the first save writes when the run began."""
    base = world.save(None, "a", meta={"job": "4711"})
    created, meta = world.head("created"), world.head("meta")
    world.client.hset(world.keys.head, "created", "1")
    base = world.save(base, "b")
    assert (world.head("created"), world.head("meta")) == (b"1", meta)
    assert created is not None
    world.save(base, meta={"job": "4712"})
    assert world.head("meta") not in (meta, b"", None)
