"""The benchmark: its arithmetic, and that every section of it still runs."""

from __future__ import annotations

import itertools
import json
import os
import subprocess
import sys
import uuid
from collections import Counter
from pathlib import Path
from typing import Any

import pytest
import redis

from ..bench import readme, tables
from ..bench.acceptance import Target
from ..bench.driver import Driver
from ..bench.environment import forget
from ..bench.measure import Ratio, interleave, orders, ratio, spread
from ..bench.texts import Texts

pytestmark = pytest.mark.slow

ROOT = Path(__file__).resolve().parents[2]


def test_a_spread_is_the_median_with_the_quartiles() -> None:
    """Quartiles are those of the samples, whatever their order; of one sample, that sample."""
    told = spread([5.0, 1.0, 3.0, 2.0, 4.0])
    assert (told.count, told.low, told.median, told.high) == (5, 2.0, 3.0, 4.0)
    assert spread([7.0]).json() == {"count": 1, "low": 7.0, "median": 7.0, "high": 7.0}


def test_a_spread_is_kept_in_four_digits() -> None:
    """Results are scaled and rounded, so that a second run of the same does not change every line."""
    assert spread([0.000123456]).json(1e6)["median"] == 123.5


def test_a_ratio_is_of_the_medians_of_all_samples() -> None:
    """One slow sample in a hundred moves neither the ratio nor its quartiles."""
    slow = [2.0] * 99 + [1000.0]
    assert ratio(slow, [1.0] * 100) == Ratio(2.0, 2.0, 2.0)


def test_a_ratios_quartiles_are_between_blocks() -> None:
    """A machine that gets slower for both sides shows in neither; one that does for one side shows."""
    both = ratio([2.0] * 50 + [20.0] * 50, [1.0] * 50 + [10.0] * 50)
    assert (both.low, both.high) == (2.0, 2.0)
    one = ratio([2.0] * 50 + [20.0] * 50, [1.0] * 100)
    assert (one.low, one.high) == (2.0, 20.0)


def test_a_ratio_of_sides_with_different_counts() -> None:
    """Four saves to one SET are compared by the parts of the run that they were made in."""
    four = ratio([1.0] * 40 + [3.0] * 40, [1.0] * 10 + [3.0] * 10)
    assert (four.low, four.high) == (1.0, 1.0)


def test_an_order_has_everybody_once_and_nobody_has_one_neighbour() -> None:
    """Each round does each operation once, and over the rounds each follows each other one."""
    names = ["a", "b", "c"]
    rounds = list(orders(names, 60))
    assert all(sorted(order) == names for order in rounds)
    follows = Counter((one, other) for order in rounds for one, other in itertools.pairwise(order))
    assert len(follows) == 6
    assert min(follows.values()) >= 10


def test_orders_are_the_same_in_every_run() -> None:
    """What a run does depends on no chance but the machine's."""
    assert list(orders(["a", "b", "c", "d"], 5)) == list(orders(["a", "b", "c", "d"], 5))


async def test_interleaving_takes_one_sample_a_round_and_forgets_the_warm_up() -> None:
    """Operations alternate one by one, and the first rounds count for nothing."""
    done: list[str] = []

    def operation(name: str) -> Any:
        async def once() -> float:
            done.append(name)
            return float(len(done))

        return once

    samples = await interleave({"a": operation("a"), "b": operation("b")}, rounds=4, warmup=2)
    assert {name: len(values) for name, values in samples.items()} == {"a": 4, "b": 4}
    assert min(samples["a"] + samples["b"]) == 5.0  # four were the warm-up's
    assert all(sorted(done[at : at + 2]) == ["a", "b"] for at in range(0, 12, 2))


def test_texts_are_fresh_ascii_of_their_size() -> None:
    """No text comes twice, and a character is a byte."""
    texts = Texts(1).some(50, 801)
    assert len(set(texts)) == 50
    assert all(len(text.encode()) == 801 for text in texts)
    assert texts == Texts(1).some(50, 801)


async def test_a_measured_conversation_keeps_about_its_length(server_url: str) -> None:
    """Forty turns at ten messages are not a turn at ninety: the conversation is begun anew after a few."""
    run = f"bench-{uuid.uuid4()}"
    driver = Driver("histstore_async", server_url)
    lengths: list[int] = []
    try:
        await driver.prepare(run, 10, 20)
        for _ in range(40):
            assert len(await driver.turns(run, 1)) == 1
            lengths.append(len(await driver.latest(run)))
    finally:
        await driver.close()
        forget(server_url, run)
    assert set(lengths) == {12, 14, 16, 18}


@pytest.mark.parametrize(("at_least", "met"), [(False, [True, True, False]), (True, [False, True, True])])
def test_a_missed_target_is_shown_as_missed(at_least: bool, met: list[bool]) -> None:
    """A bound holds on its own side and on the line; what does not hold stands in the table as MISSED."""
    targets = [
        Target("key", "what", 1.6, Ratio(value, value, value), "a", "b", at_least=at_least) for value in (1.5, 1.6, 1.7)
    ]
    assert [target.met for target in targets] == met
    shown = tables.acceptance([target.json() for target in targets]).splitlines()[-3:]
    assert ["MISSED" not in line for line in shown] == met


@pytest.mark.parametrize("page", [readme.README, readme.PERFORMANCE], ids=lambda page: page.name)
def test_the_pages_say_what_was_measured(page: Path) -> None:
    """The tables of a page are those of the results beside the bench: a figure is not edited by hand."""
    text = page.read_text()
    assert readme.written(page, text, json.loads(readme.RESULTS.read_text())) == text


SECTIONS = {
    *("acceptance", "save", "load", "throughput", "per_save", "races", "lost_reply"),
    *("handoff", "leases", "cluster", "input"),
}
TARGETS = {
    "save_small",
    "save_middle",
    "save_flat",
    "dicts_save_flat",
    "save_whole",
    "load_cold",
    "dicts_load_cold",
    "load_unchanged",
    "load_flat",
    "dicts_load_flat",
    "sync_save",
    "bytes_up",
    "memory",
    "throughput",
    "cluster_redis_py",
    "cluster_save",
}


def test_every_section_runs_and_leaves_nothing_behind(server_url: str, tmp_path: Path) -> None:
    """The smallest run measures everything once, names who is absent, exits with 0 although targets are missed.

    And the server that it was given has the keys that it had.
    """
    conversation = [{"role": "user", "content": "hello"}, {"role": "assistant", "content": "good morning"}]
    given = tmp_path / "real.jsonl"
    given.write_text(json.dumps({"run": "one", "messages": conversation * 2}) + "\n")
    with redis.Redis.from_url(server_url) as client:
        before = set(client.scan_iter(count=1000))
        done = subprocess.run(
            [sys.executable, "-m", "tests.bench", "--smoke", "--input", str(given), "--out", str(tmp_path)],
            cwd=ROOT,
            env={**os.environ, "HISTSTORE_BENCH_REDIS_URL": server_url},
            capture_output=True,
            text=True,
            timeout=180,
            check=False,
        )
        assert done.returncode == 0, done.stderr
        assert set(client.scan_iter(count=1000)) - before == set()
    results = json.loads((tmp_path / "results.json").read_text())
    assert results.keys() >= SECTIONS
    assert all(results[section] for section in SECTIONS)
    assert {target["key"] for target in results["acceptance"]} == TARGETS
    assert set(results["races"]) == {"histstore", "histstore, dicts", "histstore.sync", "whole snapshot"}
    assert [results["races"][name]["lost"] for name in results["races"] if "histstore" in name] == [0, 0, 0]
    assert results["lost_reply"]["histstore"] == {"raises": None, "copies": 1, "copies_again": 1}
    assert set(results["cluster"]) == {"histstore", "histstore, whole saves", "redis-py RedisCluster"}
    assert set(results["cluster_cpu_us"]) == {"histstore", "redis-py RedisCluster"}
    assert {"langchain-redis", "valkey-glide"} <= results["not_measured"].keys()
    assert "Targets" in done.stdout
