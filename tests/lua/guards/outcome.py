"""The guards of `outcome.lua` and `marking.lua`, as each script includes them."""

from __future__ import annotations

from typing import Final

from .changes import Guard, always, cut, never, of_file, raising, swap, without
from .confirmed import DELETED, SAVED, Confirmed


def _confirms(by: Confirmed) -> tuple[Guard, ...]:
    return (
        cut("confirmed", by.writes),
        swap("confirmed", "full and", "true and", by.writes),
        swap("confirmed", ") or", ") and nil or", by.read_only, by.lacking),
    )


_OUTCOME_IN_SAVE: Final = of_file(
    "outcome",
    without("applied-recently", "name == head_etag or ", "a_resend_of_the_head_is_saved_though_the_list_is_gone"),
    without(
        "applied-recently",
        " or in_list(name)",
        "a_resend_finds_its_save_below_a_rivals",
        "a_resend_finds_its_save_after_its_entry_was_trimmed",
        "a_copy_of_an_applied_save_is_saved_whatever_came_since",
    ),
    without("first-save", "name == origin or ", "a_first_save_is_known_however_old"),
    without(
        "first-save",
        " or string.sub(mark_of(name), 1, 1) == APPLIED",
        "a_first_save_is_known_however_old",
        "a_resent_first_save_does_not_bring_a_run_back_that_forgot_it",
    ),
    swap("first-save", "== APPLIED", "~= ''", "a_late_copy_of_a_first_save_after_never_is_not_applied"),
    always("parent-given", "a_resend_that_the_list_reaches_conflicts"),
    always("parent-listed", "a_resend_after_the_run_vanished_is_gone", "a_resend_older_than_the_list_is_gone"),
    without(
        "parent-listed", "parent == head_etag or ", "a_save_resent_onto_the_head_is_applied_though_the_list_is_gone"
    ),
    without("parent-listed", " or in_list(parent)", "a_resend_that_the_list_reaches_conflicts"),
    without("first-save-known", "(origin or not head_etag) and ", "without_an_origin_a_first_save_is_gone"),
    without("first-save-known", " or not head_etag", "a_first_save_is_resent_onto_an_absent_run"),
    without("first-save-known", " and mark_of(LOST) == ''", "without_an_origin_a_first_save_is_gone"),
    without("confirmed", "full and etags_key or ", "touching_moves_no_deadline"),
    *_confirms(SAVED),
    script="save",
)

_OUTCOME_IN_RESOLVE: Final = of_file(
    "outcome",
    without("applied-recently", "name == head_etag or ", "a_resend_of_the_head_is_saved_though_the_list_is_gone"),
    without(
        "applied-recently",
        " or in_list(name)",
        "a_resend_finds_its_save_after_its_entry_was_trimmed",
        "a_resent_delete_is_done",
    ),
    without("first-save", "name == origin or ", "a_first_save_is_known_however_old"),
    without("first-save", " or string.sub(mark_of(name), 1, 1) == APPLIED", "a_first_save_is_known_however_old"),
    swap("first-save", "== APPLIED", "~= ''", "a_first_save_is_never_applied_after_never"),
    always("parent-given", "a_first_save_is_known_however_old"),
    always("parent-listed", "a_resend_older_than_the_list_is_gone", "a_resend_after_the_run_vanished_is_gone"),
    without("parent-listed", "parent == head_etag or ", "never_needs_no_list_where_the_head_decides"),
    without("parent-listed", " or in_list(parent)", "never_needs_no_list_where_the_head_decides"),
    without("first-save-known", "(origin or not head_etag) and ", "without_an_origin_a_first_save_is_gone"),
    without("first-save-known", " or not head_etag", "a_late_copy_of_a_first_save_after_never_is_not_applied"),
    without("first-save-known", " and mark_of(LOST) == ''", "without_an_origin_a_first_save_is_gone"),
    without("confirmed", "full and etags_key or ", "touching_moves_no_deadline"),
    *_confirms(SAVED),
    script="resolve",
)

_OUTCOME_IN_DELETE: Final = of_file(
    "outcome",
    cut("foreign-list", "a_resent_delete_accepts_a_list_of_a_foreign_type"),
    without(
        "applied-recently",
        " or in_list(name)",
        "a_resent_delete_leaves_the_successor",
        "a_copy_of_an_applied_delete_is_deleted_whatever_came_since",
    ),
    without(
        "first-save",
        " or string.sub(mark_of(name), 1, 1) == APPLIED",
        "an_applied_delete_of_a_damaged_run_is_known_by_its_mark",
    ),
    swap("first-save", "== APPLIED", "~= ''", "a_copy_of_a_refused_first_send_is_refused_too"),
    always("parent-given", "a_resent_delete_that_the_list_reaches_conflicts"),
    always("parent-listed", "a_resent_delete_older_than_the_list_is_gone", "a_late_delete_after_gone_is_not_applied"),
    without(
        "parent-listed", "parent == head_etag or ", "a_save_resent_onto_the_head_is_applied_though_the_list_is_gone"
    ),
    without("parent-listed", " or in_list(parent)", "a_resent_delete_that_the_list_reaches_conflicts"),
    without("first-save-known", "(origin or not head_etag) and ", "without_an_origin_a_first_save_is_gone"),
    without("first-save-known", " and mark_of(LOST) == ''", "an_applied_delete_of_a_damaged_run_is_known_by_its_mark"),
    without("list-filled", "listed and ", "a_copy_of_an_applied_delete_of_damage_reaches_no_other_damage"),
    *_confirms(DELETED),
    script="delete",
)

_MARKING: Final = of_file(
    "marking",
    raising("sample-errors", "marks_count_though_old_ones_may_not_go"),
    never("old-mark", "old_marks_go_while_new_ones_come"),
    without("old-mark", " and marked < now - MEMORY_MS / 1000", "old_marks_go_while_new_ones_come"),
    swap("old-mark", "marked and", "not marked or", "old_marks_go_while_new_ones_come"),
    raising("removal-errors", "marks_count_though_old_ones_may_not_go"),
)

_MARKING_IN_SAVE: Final = of_file(
    "marking",
    cut(
        "mark-left",
        "a_late_copy_after_locked_is_not_applied",
        "a_late_copy_after_conflict_is_not_applied",
        "a_copy_of_a_refused_first_send_is_refused_too",
    ),
    cut("marks-expire", "a_late_copy_after_locked_is_not_applied"),
    script="save",
)

_MARKING_IN_RESOLVE: Final = of_file(
    "marking",
    cut("mark-left", "a_late_copy_after_never_is_not_applied"),
    cut("marks-expire", "a_first_save_is_never_applied_after_never"),
    script="resolve",
)

_MARKING_IN_DELETE: Final = of_file(
    "marking",
    cut("mark-left", "a_late_copy_of_a_refused_delete_is_not_applied", "a_copy_of_a_refused_first_send_is_refused_too"),
    cut("marks-expire", "a_late_copy_of_a_refused_delete_is_not_applied"),
    script="delete",
)

_MARKING_IN_RELEASE: Final = of_file(
    "marking",
    cut("marks-expire", "a_late_acquire_after_its_release_is_no_ghost"),
    script="release",
)

GUARDS: Final[tuple[Guard, ...]] = (
    *_OUTCOME_IN_SAVE,
    *_OUTCOME_IN_RESOLVE,
    *_OUTCOME_IN_DELETE,
    *_MARKING,
    *_MARKING_IN_SAVE,
    *_MARKING_IN_RESOLVE,
    *_MARKING_IN_DELETE,
    *_MARKING_IN_RELEASE,
)
