"""The figures of deploy/README.md on memory and disk are those of a real server."""

from __future__ import annotations

import itertools
import random
import re
from typing import Any

import pytest

from histstore import RedisBackend

from ..support.servers import server
from .conftest import DEPLOY

TOLERANCE = 0.15
RUNS = {10: 600, 100: 60, 1000: 6}
"""Runs to write for each length: so many that a buffer of 16 KiB more or less, which `dataset.bytes` counts now and
then, is far below the tolerance."""


def rows() -> list[tuple[int, ...]]:
    """Return the rows of the README's table: length of a run, characters a message, and bytes a message."""
    text = (DEPLOY / "README.md").read_text(encoding="utf-8")
    found = re.findall(r"^\| ([\d,]+) \| ([\d,]+) \| ([\d,]+) \| ([\d,]+) \| ([\d,]+) \|$", text, re.MULTILINE)
    return [tuple(int(cell.replace(",", "")) for cell in row) for row in found]


async def measure(length: int, characters: int) -> tuple[float, float, float]:
    """Write runs, two messages a save. Return the bytes a message: encoded, in memory, and in the append-only file."""
    draw = random.Random(length)
    texts = ("".join(draw.choices("abcdefghijklmnopqrstuvwxyz ", k=characters)) for _ in itertools.count())
    with server(appendonly="yes", auto_aof_rewrite_percentage="0") as running, running.client() as client:
        async with RedisBackend.from_url(running.url) as backend:
            await backend.store("warm").append({"role": "user", "content": "hi"})
            memory, file = _used(client), _file(client)
            for number in range(RUNS[length]):
                store = backend.store(f"order-{number}")
                for _ in range(length // 2):
                    await store.append(
                        {"role": "user", "content": next(texts)}, {"role": "assistant", "content": next(texts)}
                    )
            info = await backend.store("order-0").info()
            assert info is not None
            assert info.length == length
            count = length * RUNS[length]
            return info.size / length, (_used(client) - memory) / count, (_file(client) - file) / count


def _used(client: Any) -> int:
    stats = client.memory_stats()
    return int(stats["dataset.bytes"] + stats["db.0"]["overhead.hashtable.main"])


def _file(client: Any) -> int:
    return int(client.info("persistence")["aof_current_size"])


def test_the_table_is_found() -> None:
    assert [row[:2] for row in rows()] == [(length, size) for size in (100, 1000) for length in RUNS]


@pytest.mark.long
@pytest.mark.parametrize("row", rows(), ids=lambda row: f"{row[0]}-of-{row[1]}")
async def test_the_table_of_the_readme_holds(row: tuple[int, ...]) -> None:
    """Bytes a message, in runs of this length with messages of this size."""
    length, characters, *stated = row
    assert stated == pytest.approx(await measure(length, characters), rel=TOLERANCE)
