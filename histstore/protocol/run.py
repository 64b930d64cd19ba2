"""The run that a call is about, and the lease that a write carries."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Final

from ..errors import CorruptSnapshotError
from ..revision import RunId
from .keys import Keys


@dataclass(slots=True)
class RunRef:
    """The run that a call is about.

    Attributes:
        namespace: The namespace of its keys.
        run_id: Its id.
        keys: Its keys.
        key: Namespace and id together, which name the run on its server.
    """

    namespace: str
    run_id: RunId
    keys: Keys
    key: tuple[str, str] = field(init=False)

    def __post_init__(self) -> None:
        self.key = self.namespace, self.run_id

    def corrupt(self, version: int | None, reason: str) -> CorruptSnapshotError:
        """Return the error for stored bytes of this run that are not what was saved."""
        return CorruptSnapshotError(str(self.run_id), version, reason)


@dataclass(frozen=True, slots=True)
class LeaseToken:
    """The lease that a write carries. The default is none.

    Attributes:
        fence: Its fencing token; 0: no lease.
        holder: Its holder; empty: no lease.
    """

    fence: int = 0
    holder: str = ""


NO_LEASE: Final = LeaseToken()
