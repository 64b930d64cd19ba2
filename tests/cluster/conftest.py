"""Fixtures of the cluster tests: a cluster that the tests of a module share, and backends of both shells."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from ..support import backends as fixtures
from ..support.cluster import Cluster, cluster

Make = fixtures.Make


@pytest.fixture(scope="module")
def three() -> Iterator[Cluster]:
    """Three primaries without replicas. A test leaves them up; where the slots are, it may change."""
    with cluster(3) as made:
        yield made


@pytest.fixture(scope="module")
def six() -> Iterator[Cluster]:
    """Three primaries, each with a replica."""
    with cluster(3, 1) as made:
        yield made


shell = fixtures.shell
backends = fixtures.backends
