"""The guards of `resolve.lua`, in the order of its lines."""

from __future__ import annotations

from typing import Final

from .changes import Guard, cut, never, of_file, swap, without

GUARDS: Final[tuple[Guard, ...]] = of_file(
    "resolve",
    without("empty-parent", " ~= '' and expected", "a_late_copy_of_a_first_save_after_never_is_not_applied"),
    never(
        "applied",
        "a_resend_finds_its_save_after_its_entry_was_trimmed",
        "a_resent_delete_is_done",
        "full_memory_denies_no_applied_save",
    ),
    without("saved-time", "head_etag == ticket and ", "a_resend_finds_its_save_after_its_entry_was_trimmed"),
    cut(
        "marked",
        "a_late_copy_after_never_is_not_applied",
        "a_late_copy_of_a_first_save_after_never_is_not_applied",
        "a_late_copy_after_resolve_said_gone_is_not_applied",
        "a_late_delete_after_never_is_not_applied",
        "full_memory_makes_no_unmarked_refusal",
    ),
    swap(
        "unknown-is-gone",
        "known(parent) and",
        "true and",
        "a_resend_older_than_the_list_is_gone",
        "a_resend_after_the_run_vanished_is_gone",
    ),
)
