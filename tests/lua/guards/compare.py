"""The guards of `compare.lua`, in the order of its lines."""

from __future__ import annotations

from typing import Final

from .changes import Guard, always, cut, move, never, of_file, swap, without
from .damage import DAMAGE

GUARDS: Final[tuple[Guard, ...]] = of_file(
    "compare",
    *DAMAGE,
    never("live-lease", "a_live_lease_locks_out_who_does_not_carry_it", "a_live_lease_fences_another_holder"),
    without("live-lease", "lease[1] == holder and ", "a_live_lease_fences_another_holder"),
    without("live-lease", " and lease[2] == fence", "a_live_lease_fences_its_holders_older_one"),
    swap("live-lease", "carries", "false", "the_holder_saves_and_deletes"),
    cut("live-lease-lost", "a_live_lease_fences_another_holder"),
    never("head-fence-checked", "a_fence_below_the_heads_has_lost", "an_equal_fence_of_another_holder_has_lost"),
    without("head-fence", "own_fence < head_fence or ", "a_fence_below_the_heads_has_lost"),
    without("head-fence", " and head_holder ~= holder", "a_lapsed_lease_that_the_head_still_names_is_accepted"),
    without("head-fence", "head_holder and ", "a_head_that_names_no_holder_accepts_an_equal_fence"),
    swap("head-fence", "own_fence == head_fence", "false", "an_equal_fence_of_another_holder_has_lost"),
    swap("head-fence", "head_holder and", "(head_holder or '') ~= '' and", "a_released_lease_has_lost"),
    cut(
        "compare",
        "of_two_writers_at_one_revision_the_later_conflicts",
        "the_same_version_of_another_incarnation_conflicts",
    ),
    move("compare", "lease_before_conflict", before="live-lease"),
    never("lifetimes-set", "one_deadline_for_all_keys"),
    cut("outlive-lease", "a_save_does_not_cut_a_run_below_its_lease"),
    without(
        "outlive-lease",
        "lasts, ",
        "a_save_does_not_cut_a_run_below_its_lease",
        "a_lapsed_lease_does_not_lengthen_a_lifetime",
    ),
    cut("head-lifetime", "one_deadline_for_all_keys"),
    cut("log-lifetime", "one_deadline_for_all_keys"),
    never("etags-lifetime", "one_deadline_for_all_keys"),
    always("etags-lifetime", "a_compare_does_not_shorten_the_memory_of_a_delete"),
    without("etags-lifetime", "left <= lasts or ", "one_deadline_for_all_keys"),
    without("etags-lifetime", " or left > MEMORY_MS", "a_compare_can_shorten_a_lifetime"),
)
