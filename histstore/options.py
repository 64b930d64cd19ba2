"""The options of a backend besides its connection: names, defaults and checks."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Final

from .errors import BackendError, SnapshotError
from .observe import Observer
from .policy import Durability, RetryPolicy
from .revision import check_name


@dataclass(frozen=True, slots=True)
class Options:
    """The checked options of a backend. They can be pickled if the observer can.

    Attributes:
        namespace: Prefix of all keys.
        run_ttl: Lifetime of a run after its last save, in seconds; None: unlimited.
        keep_revisions: Number of past revisions to keep.
        retry: The policy of a call that names none.
        durability: The confirmations that a save waits for.
        max_snapshot_bytes: Size limit of a snapshot, in bytes of its encoded messages.
        observer: Receives an event for each call to the server and each of its tries; None: nothing does.

    Raises:
        SnapshotError: A value is out of range, or of the wrong type.
    """

    namespace: str = "histstore"
    run_ttl: float | None = None
    keep_revisions: int = 0
    retry: RetryPolicy = field(default_factory=RetryPolicy)
    durability: Durability = field(default_factory=Durability)
    max_snapshot_bytes: int = 64 << 20
    observer: Observer | None = None

    def __post_init__(self) -> None:
        check_name(self.namespace, "namespace")
        # The bound keeps the expiry in milliseconds below 2**53, where Lua's numbers stop being exact.
        if self.run_ttl is not None and (
            type(self.run_ttl) not in (int, float) or not 0.001 <= self.run_ttl <= 1e11  # NaN is not between them
        ):
            raise SnapshotError("run_ttl is a number of seconds, more than 0, or None")
        if type(self.keep_revisions) is not int or self.keep_revisions < 0:
            raise SnapshotError("keep_revisions is a whole number from 0")
        if type(self.max_snapshot_bytes) is not int or self.max_snapshot_bytes < 1:
            raise SnapshotError("max_snapshot_bytes is a whole number from 1")
        if not isinstance(self.retry, RetryPolicy):
            raise SnapshotError("retry= is a RetryPolicy")
        if not isinstance(self.durability, Durability):
            raise SnapshotError("durability= is a Durability")
        if self.observer is not None and not isinstance(self.observer, Observer):
            raise SnapshotError("observer= is a histstore.Observer, an object of a subclass, or None")

    @property
    def ttl_ms(self) -> int | None:
        """The lifetime of a run in milliseconds; None: unlimited."""
        return None if self.run_ttl is None else max(1, round(self.run_ttl * 1000))


DEFAULTS: Final = Options()
"""The defaults in the signatures of all constructors."""


def check_picklable(name: str, value: object) -> None:
    """Refuse to pickle a backend with an option that cannot be pickled.

    Args:
        name: The option.
        value: Its value.

    Raises:
        BackendError: It cannot be pickled.
    """
    if value is None:
        return
    import pickle  # loaded by whoever pickles a backend, and by no one else

    try:
        pickle.dumps(value)
    except Exception as error:
        raise BackendError(
            f"the {name} of this backend cannot be pickled ({type(error).__name__}): give its class a __reduce__, or "
            f"make a backend with one of its own in each process"
        ) from error
