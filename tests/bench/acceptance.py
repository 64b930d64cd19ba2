"""The figures that this library is held to. A miss is told, and stays a miss."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from . import cluster, single, wire
from .measure import Ratio, ratio, spread
from .plan import Plan
from .single import Samples


@dataclass(frozen=True, slots=True)
class Target:
    """One figure.

    Attributes:
        key: Its name in the results.
        what: What it is.
        limit: The bound.
        at_least: Whether the bound is a lower one.
        value: What was measured.
        above: What stands above the line of the ratio, and its median.
        below: What stands below it.
    """

    key: str
    what: str
    limit: float
    value: Ratio
    above: str = ""
    below: str = ""
    at_least: bool = False

    @property
    def met(self) -> bool:
        """Whether the bound is kept."""
        return self.value.value >= self.limit if self.at_least else self.value.value <= self.limit

    def json(self) -> dict[str, Any]:
        """Returns what the results keep."""
        return {
            "key": self.key,
            "what": self.what,
            "limit": self.limit,
            "at_least": self.at_least,
            "value": float(f"{self.value.value:.4g}"),
            "low": float(f"{self.value.low:.4g}"),
            "high": float(f"{self.value.high:.4g}"),
            "above": self.above,
            "below": self.below,
            "met": self.met,
        }


async def measure(plan: Plan) -> tuple[list[Target], Samples]:
    """Measures all but throughput; returns the figures and the samples that they come from."""
    small, middle, large = (10, 1000, 10000) if plan.scale.lengths[-1] >= 10000 else (10, 50, 100)
    at = await single.saves(plan, (small, middle, large))
    at |= {f"{name}, for the whole": values for name, values in (await single.against_whole(plan, large)).items()}
    at |= await single.loads(plan, middle)
    at |= await single.sync_saves(plan)
    turns = plan.scale.turns if plan.scale.turns < 10 else 1000
    return [
        _of(at, "save_small", f"save at {small} ÷ raw SET of the turn", 1.6, f"save {small}", "SET"),
        _of(at, "save_middle", f"save at {middle:,} ÷ raw SET of the turn", 1.6, f"save {middle}", "SET"),
        _of(at, "save_flat", f"save at {large:,} ÷ save at {small}", 1.2, f"save {large}", f"save {small}"),
        _of(
            at,
            "save_whole",
            f"save at {large:,} ÷ SET of the whole, already encoded",
            0.04,
            f"save {large}, for the whole",
            "whole SET, for the whole",
        ),
        _of(
            at,
            "dicts_save_flat",
            f"dicts: save at {large:,} ÷ save at {small}",
            1.2,
            f"dicts: save {large}",
            f"dicts: save {small}",
        ),
        _of(at, "load_cold", f"cold load at {middle:,} ÷ GET + cbor2.loads to dicts", 1.5, "load", "GET and decode"),
        _of(
            at,
            "dicts_load_cold",
            f"dicts: cold load at {middle:,} ÷ GET + cbor2.loads to dicts",
            1.5,
            "dicts: load",
            "GET and decode",
        ),
        _of(at, "load_unchanged", "unchanged load ÷ PING", 1.6, "unchanged", "PING"),
        *(
            _of(
                at,
                f"{key}load_flat",
                f"{kind}unchanged load at {large:,} ÷ at {small}",
                1.2,
                f"{kind}unchanged {large}",
                f"{kind}unchanged {small}",
            )
            for key, kind in (("", ""), ("dicts_", "dicts: "))
        ),
        _of(at, "sync_save", "sync: save ÷ raw SET of the turn", 1.5, "sync save", "sync SET"),
        _count("bytes_up", "bytes up for a turn of 2,000 bytes", 2400, await wire.bytes_up(plan)),
        _count(
            "memory", f"memory ÷ bytes of text, {turns:,} one-turn saves", 1.25, await wire.memory_ratio(plan, turns)
        ),
    ], at


def throughput(rates: dict[str, dict[int, list[float]]]) -> Target | None:
    """Returns the figure for many runs at a time; None where it was not measured."""
    ours, raw = rates.get("histstore", {}), rates.get("raw redis-py", {})
    at = 256 if 256 in ours and 256 in raw else max(ours.keys() & raw.keys(), default=None)
    if at is None:
        return None
    return Target(
        "throughput",
        f"saves a second, {at} runs in a process ÷ raw SET, pool",
        2.5,
        ratio(ours[at], raw[at]),
        _rate(ours[at]),
        _rate(raw[at]),
        at_least=True,
    )


def in_cluster(rates: dict[str, list[float]], lone: Samples, callers: int) -> list[Target]:
    """Returns the figures for a cluster of three servers; a client that was not measured has none."""
    targets = [
        Target(
            key,
            f"cluster: script calls a second, {callers} tasks ÷ {name}",
            limit,
            ratio(rates[cluster.OURS], rates[name]),
            _rate(rates[cluster.OURS]),
            _rate(rates[name]),
            at_least=True,
        )
        for key, name, limit in (("cluster_redis_py", cluster.REDIS_PY, 5.0), ("cluster_glide", cluster.GLIDE, 1.5))
        if {cluster.OURS, name} <= rates.keys()
    ]
    if lone:
        targets.append(
            _of(lone, "cluster_save", "save in the cluster ÷ on one server", 1.1, "in the cluster", "on one server")
        )
    return targets


def _of(samples: Samples, key: str, what: str, limit: float, above: str, below: str) -> Target:
    return Target(key, what, limit, ratio(samples[above], samples[below]), _time(samples[above]), _time(samples[below]))


def _time(seconds: list[float]) -> str:
    median = spread(seconds).median
    return f"{median * 1e6:.0f} µs" if median < 0.001 else f"{median * 1e3:.3g} ms"


def _rate(rates: list[float]) -> str:
    return f"{spread(rates).median:,.0f}/s"


def _count(key: str, what: str, limit: float, value: float) -> Target:
    return Target(key, what, limit, Ratio(value, value, value))
