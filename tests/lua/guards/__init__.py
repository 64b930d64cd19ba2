"""The guards of the scripts, and what fails without each of them. One module for each script or included file."""

from typing import Final

from . import acquire, compare, delete, leases, outcome, release, renew, resolve, save, touch
from .changes import Guard

__all__ = ["GUARDS", "Guard", "find_guard"]

GUARDS: Final[tuple[Guard, ...]] = (
    *save.GUARDS,
    *compare.GUARDS,
    *resolve.GUARDS,
    *delete.GUARDS,
    *outcome.GUARDS,
    *touch.GUARDS,
    *acquire.GUARDS,
    *renew.GUARDS,
    *release.GUARDS,
    *leases.GUARDS,
)


def find_guard(file: str, name: str) -> Guard:
    """Return the guard of a file by its marker and change: `marked: cut`."""
    (found,) = [guard for guard in GUARDS if (guard.file, guard.name) == (file, name)]
    return found
