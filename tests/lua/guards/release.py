"""The guards of `release.lua`, in the order of its lines."""

from __future__ import annotations

from typing import Final

from .changes import Guard, always, cut, never, of_file, swap, without

GUARDS: Final[tuple[Guard, ...]] = of_file(
    "release",
    cut("queue-type", "a_key_of_a_foreign_type_is_met_before_the_first_write"),
    cut("marks-type", "a_key_of_a_foreign_type_is_met_before_the_first_write"),
    without("held", " == holder", "late_copies_do_nothing_to_the_successor", "who_leaves_the_queue_is_handed_nothing"),
    never("named", "breaking_a_lease_fences_its_holder", "a_late_renewal_or_save_after_the_release_has_lost"),
    without("named", "holder ~= '' and ", "breaking_nobodys_lease_fences_nobody"),
    always("lease-held", "who_leaves_the_queue_is_handed_nothing"),
    cut("lease-ended", "a_release_hands_the_run_to_the_first_waiter", "breaking_a_lease_fences_its_holder"),
    cut(
        "place-left",
        "who_leaves_the_queue_is_handed_nothing",
        "a_place_that_a_late_acquire_took_is_given_up_with_the_lease",
    ),
    cut("uncounted-place-left", "a_place_is_the_same_whether_counted_or_not"),
    never("broken", "breaking_a_lease_fences_its_holder", "breaking_raises_the_fence_above_all"),
    without("broken", "force and ", "a_release_that_comes_twice_is_done_once"),
    without(
        "broken",
        " and (held or named)",
        "breaking_nobodys_lease_fences_nobody",
        "late_copies_do_nothing_to_the_successor",
    ),
    without("broken", " or named", "breaking_a_lease_fences_its_holder"),
    without("broken", "held or ", "breaking_the_lease_of_an_absent_run_leaves_a_fence_that_expires"),
    without("fence-above-all", "head_fence + 1, ", "breaking_raises_the_fence_above_all"),
    without("fence-above-all", "(tonumber(held and lease[2] or '0')) + 1, ", "breaking_raises_the_fence_above_all"),
    without("fence-above-all", ", now()", "breaking_raises_the_fence_above_all"),
    cut("fence-written", "breaking_a_lease_fences_its_holder"),
    without("fence-written", "'holder', '', ", "breaking_a_lease_fences_its_holder"),
    without(
        "fence-written", ", 'left', add_left(left, '!', holder)", "a_late_acquire_after_a_break_or_a_delete_is_no_ghost"
    ),
    swap("fence-written", "'!'", "'+'", "a_late_acquire_after_a_break_or_a_delete_is_no_ghost"),
    cut("fence-expires", "breaking_the_lease_of_an_absent_run_leaves_a_fence_that_expires"),
    never("release-clears-head", "a_late_renewal_or_save_after_the_release_has_lost"),
    always("release-clears-head", "late_copies_do_nothing_to_the_successor"),
    without("released", ", 'left', add_left(left, '+', holder)", "who_has_left_is_remembered_by_the_head"),
    without("released", "'holder', '', ", "a_late_renewal_or_save_after_the_release_has_lost"),
    never("left", "who_has_left_is_remembered_by_the_head"),
    without("left", "holder ~= '' and ", "who_leaves_the_queue_of_a_free_run_serves_the_next"),
    without("left", "head[2] and ", "who_left_an_unknown_run_leaves_no_head"),
    without(
        "left", "not gave_up and ", "who_has_left_is_remembered_by_the_head", "a_release_that_comes_twice_is_done_once"
    ),
    without("left", " and not has_left(left, '!', holder)", "who_has_left_is_remembered_by_the_head"),
    always("late-copies", "what_has_no_late_copy_leaves_no_mark"),
    cut("left-written", "who_has_left_is_remembered_by_the_head"),
    cut("marked", "a_late_acquire_after_its_release_is_no_ghost"),
    cut("next-served", "a_release_hands_the_run_to_the_first_waiter"),
    always("next-served", "who_leaves_the_queue_is_handed_nothing"),
    without(
        "next-served",
        "held or ",
        "a_release_hands_the_run_to_the_first_waiter",
        "breaking_hands_the_run_over_and_its_copy_does_not_break_again",
    ),
    without("next-served", " or not lease[1]", "who_leaves_the_queue_of_a_free_run_serves_the_next"),
    cut("done", "a_release_that_comes_twice_is_done_once"),
    without("done", "held or ", "breaking_the_lease_of_an_absent_run_leaves_a_fence_that_expires"),
    without("done", "named or ", "breaking_a_lease_fences_its_holder"),
    without(
        "done",
        " or (gave_up and not force)",
        "a_release_that_comes_twice_is_done_once",
        "who_has_left_is_remembered_by_the_head",
    ),
    without("done", " and not force", "who_has_left_is_remembered_by_the_head"),
)
