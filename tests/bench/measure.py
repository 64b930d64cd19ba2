"""Samples: how they are taken in turns, and what they are boiled down to."""

from __future__ import annotations

import itertools
import random
import statistics
from collections.abc import Awaitable, Callable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

Operation = Callable[[], Awaitable[float]]
"""Does one thing and returns the seconds that it took; what it prepares is not among them."""


@dataclass(frozen=True, slots=True)
class Spread:
    """A median with its quartiles.

    Attributes:
        count: Samples.
        low: The first quartile.
        median: The median.
        high: The third quartile.
    """

    count: int
    low: float
    median: float
    high: float

    def json(self, scale: float = 1.0) -> dict[str, Any]:
        """Returns the fields, times `scale`, in four significant digits."""
        return {
            name: value if name == "count" else float(f"{value * scale:.4g}") for name, value in asdict(self).items()
        }


def spread(values: Sequence[float]) -> Spread:
    """Returns the median and the quartiles; of one value, that value."""
    if len(values) == 1:
        return Spread(1, values[0], values[0], values[0])
    low, median, high = statistics.quantiles(values, n=4, method="inclusive")
    return Spread(len(values), low, median, high)


@dataclass(frozen=True, slots=True)
class Ratio:
    """A ratio of two medians, and how far it strays.

    Attributes:
        value: The ratio over all samples.
        low: The first quartile of the same ratio, taken block by block.
        high: The third quartile of it.
    """

    value: float
    low: float
    high: float


def ratio(above: Sequence[float], below: Sequence[float], blocks: int = 10) -> Ratio:
    """Returns median over median. Block i is the i-th part of either side: what was measured at about one time."""
    blocks = max(1, min(blocks, len(above), len(below)))
    each = [
        statistics.median(one) / statistics.median(other)
        for one, other in zip(_cut(above, blocks), _cut(below, blocks), strict=True)
    ]
    between = spread(each)
    return Ratio(statistics.median(above) / statistics.median(below), between.low, between.high)


def _cut(values: Sequence[float], parts: int) -> list[Sequence[float]]:
    ends = [len(values) * part // parts for part in range(parts + 1)]
    return [values[start:stop] for start, stop in itertools.pairwise(ends)]


def orders(names: Sequence[str], rounds: int, seed: int = 1) -> Iterator[list[str]]:
    """Yields one order of all names a round.

    Shuffled, because what runs after a large neighbour finds cold caches: nobody has the same neighbour always.
    """
    shuffled = random.Random(seed)
    for _ in range(rounds):
        order = list(names)
        shuffled.shuffle(order)
        yield order


async def interleave(operations: Mapping[str, Operation], rounds: int, warmup: int = 5) -> dict[str, list[float]]:
    """Does every operation once a round, in changing order; returns the seconds of each, without the first rounds'."""
    samples: dict[str, list[float]] = {name: [] for name in operations}
    for number, order in enumerate(orders(list(operations), warmup + rounds)):
        for name in order:
            seconds = await operations[name]()
            if number >= warmup:
                samples[name].append(seconds)
    return samples
