"""The page on managed services has every cell, and a source for each service."""

from __future__ import annotations

import re

from .conftest import DEPLOY

PAGE = (DEPLOY / "managed.md").read_text(encoding="utf-8")
SERVICES = (
    "ElastiCache, node-based", "ElastiCache Serverless", "MemoryDB", "Azure Cache for Redis", "Azure Managed Redis",
    "Redis Cloud", "Upstash", "Alibaba Tair, cluster", "OCI Cache", "Dragonfly",
)  # fmt: skip


def test_each_service_has_a_row_in_both_tables() -> None:
    """Each row has six cells, and none is empty. The number behind a service names its sources."""
    lines = re.findall(r"^\|[^|]*\] \|.*$", PAGE, re.MULTILINE)
    rows = [[cell.strip() for cell in line.split("|")[1:-1]] for line in lines]
    expected = [f"{name} [{number}]" for number, name in enumerate(SERVICES, 1)]
    assert [row[0] for row in rows] == expected * 2
    assert all(len(row) == 6 and all(row) for row in rows)


def test_each_service_has_sources() -> None:
    """The list of sources names the service's vendor, and at least one page."""
    sources = re.findall(r"^(\d+)\. (.*(?:\n   .*)*)", PAGE.split("## Sources", 1)[1], re.MULTILINE)
    assert [int(number) for number, _ in sources] == list(range(1, len(SERVICES) + 1))
    for (_, text), service in zip(sources, SERVICES, strict=True):
        vendor = {"Azure": "Microsoft", "OCI": "Oracle"}.get(service.split()[0], service.split()[0].rstrip(","))
        assert vendor in text
        assert re.search(r'"[^"]{4,}"', text)
