"""The scenarios that fail if a script confirms an earlier copy wrongly."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final


@dataclass(frozen=True)
class Confirmed:
    """The scenarios that watch how a script confirms an earlier copy.

    Attributes:
        writes: It writes something, for WAIT.
        same: It changes nothing.
        permitted: It needs no permission for that write.
        read_only: A read-only server confirms nothing.
        lacking: A server that lacks replicas confirms nothing.
        full: Full memory hides nothing.
    """

    writes: str
    same: str
    permitted: str
    read_only: str
    lacking: str
    full: str


SAVED: Final = Confirmed(
    writes="already_saved_writes_something_for_wait",
    same="already_saved_leaves_run_and_lifetimes_as_they_were",
    permitted="already_saved_needs_no_permission_for_its_write",
    read_only="a_read_only_server_denies_no_open_outcome_and_confirms_none",
    lacking="a_server_that_lacks_replicas_confirms_no_open_outcome",
    full="full_memory_denies_no_applied_save",
)
DELETED: Final = Confirmed(
    writes="already_deleted_writes_something_for_wait",
    same="already_deleted_leaves_all_as_it_was",
    permitted="already_deleted_needs_no_permission_for_its_write",
    read_only="a_read_only_server_confirms_no_delete",
    lacking="a_server_that_lacks_replicas_confirms_no_delete",
    full="full_memory_denies_no_applied_delete",
)
