# Generated from histstore/_async/terms.py by tools/unasync.py; do not edit.
"""What a write carries besides its change: its lease and its retry policy."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, TypeVar

from ..errors import LeaseLostError, SnapshotError
from ..policy import RetryPolicy
from ..protocol.run import NO_LEASE, LeaseToken
from ..values.text import quoted
from .leases.lease import Lease, current_lease, token_of
from .run import Run

T = TypeVar("T")


@dataclass(slots=True)
class Terms:
    """What a write carries besides its change.

    Attributes:
        policy: When its requests are tried again.
        lease: The lease that it carries, if any.
        token: What requests carry of that lease.
    """

    policy: RetryPolicy
    lease: Lease | None = None
    token: LeaseToken = NO_LEASE


def terms_of(run: Run, given: object, policy: RetryPolicy) -> Terms:
    """Return the terms of a write: the lease that it carries, and its policy.

    Args:
        run: The run.
        given: The lease that the caller names; None: the one of the `lock` or `turn` that the caller is in.
        policy: When its requests are tried again.

    Raises:
        LeaseLostError: The lease is known to be lost.
        LockError: The lease was entered in another process or event loop.
        SnapshotError: `given` is no lease of this run.
    """
    if given is None:
        lease = current_lease(run.here().leases, run.where)
    elif not isinstance(given, Lease):
        raise SnapshotError(f"lease= is what `store.lock()` gives when it is entered, not a {type(given).__name__}")
    elif given._record.where.key != run.where.key:
        raise SnapshotError(f"the lease is of run {quoted(given.run_id)}, and the store of {quoted(run.where.run_id)}")
    else:
        lease = given
    if lease is not None:
        lease._refuse_if_over()
        if lease is given and lease._table is not run.here().leases:
            lease._refuse_elsewhere()
    return Terms(policy, lease, token_of(lease)) if lease is not None else Terms(policy)


def read_reply(terms: Terms, read: Callable[..., T], *args: Any) -> T:
    """Return what `read` makes of a reply. Mark the lease as lost if the server says so."""
    try:
        return read(*args)
    except LeaseLostError as error:
        if terms.lease is not None:
            terms.lease._lose(error.current)
        raise
