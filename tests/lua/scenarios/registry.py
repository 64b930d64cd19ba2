"""Register the scenarios. A scenario acts on a `World`; if its promise does not hold, it raises an AssertionError.

`test_scenarios.py` runs each on the real scripts, `test_guards.py` on scripts with a guard changed.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Final

from ..world import World

Scenario = Callable[[World], None]

SCENARIOS: Final[dict[str, Scenario]] = {}
OWN_SERVER: Final[dict[str, Scenario]] = {}
IN_CLUSTER: Final[dict[str, Scenario]] = {}


def scenario(story: Scenario) -> Scenario:
    """Register a scenario under its function's name. Its docstring is the promise."""
    assert story.__doc__, story
    assert story.__name__ not in SCENARIOS, f"two scenarios are named {story.__name__}"
    SCENARIOS[story.__name__] = story
    return story


def own_server(story: Scenario) -> Scenario:
    """Register a scenario that needs a server of its own, to fill it up or to demote it."""
    OWN_SERVER[story.__name__] = scenario(story)
    return story


def in_cluster(story: Scenario) -> Scenario:
    """Register a scenario that needs a cluster of two nodes. `client` reaches the node that owns all slots."""
    IN_CLUSTER[story.__name__] = scenario(story)
    return story
