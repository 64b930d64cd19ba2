"""Servers and clients are killed, frozen and cut off, in each topology (rows 56 and 57)."""

from __future__ import annotations

import os

import pytest

from ..support.storm.replicated import TOPOLOGIES
from ..support.storm.run import run
from . import soak

SECONDS = float(os.environ.get("HISTSTORE_SOAK_SECONDS", "20"))
SEED = int(os.environ.get("HISTSTORE_STORM_SEED", "7"))


@pytest.mark.long
@pytest.mark.parametrize("topology", sorted(TOPOLOGIES))
def test_what_was_acknowledged_survives_or_its_loss_is_noticed(topology: str) -> None:
    """It lasts until each fault of the servers has happened once."""
    result = run(soak.plan(topology, SECONDS, SEED))
    print(result.text)
    assert not result.verdict.count, result.text
    assert result.verdict.acknowledged > 500, result.text
