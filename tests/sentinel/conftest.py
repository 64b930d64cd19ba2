"""Fixtures of the Sentinel tests: servers with sentinels that the tests of a module share, and backends."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from ..support import backends as fixtures
from ..support.sentinels import Watched, watched

Make = fixtures.Make


@pytest.fixture(scope="module")
def pair() -> Iterator[Watched]:
    """A primary with one replica, and three sentinels. A test leaves all of them up; who is primary may change."""
    with watched(replicas=1) as made:
        yield made


shell = fixtures.shell
backends = fixtures.backends
