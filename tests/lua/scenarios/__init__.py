"""What must hold, one small story each. One module for each script or subject."""

from importlib import import_module
from pkgutil import iter_modules

from .registry import IN_CLUSTER, OWN_SERVER, SCENARIOS, Scenario

__all__ = ["IN_CLUSTER", "OWN_SERVER", "SCENARIOS", "Scenario"]

# Importing a module registers its scenarios.
for _module in iter_modules(__path__):
    import_module(f"{__name__}.{_module.name}")
