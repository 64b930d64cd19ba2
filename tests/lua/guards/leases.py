"""The guards of what the lease scripts include: `common.lua`, `lasting.lua` and `granting.lua`."""

from __future__ import annotations

from typing import Final

from .changes import Guard, always, cut, move, never, of_file, raising, swap, without

_COMMON: Final = of_file(
    "common",
    swap("digits", "string.format('%d', ", "tostring(", "breaking_raises_the_fence_above_all"),
)

_LASTING: Final = of_file(
    "lasting",
    never(
        "absent-head",
        "the_head_of_an_absent_run_expires",
        "breaking_the_lease_of_an_absent_run_leaves_a_fence_that_expires",
    ),
    without("absent-head-lifetime", "lasts, ", "the_head_of_an_absent_run_expires"),
    without("absent-head-lifetime", ", MEMORY_MS", "the_head_of_an_absent_run_expires"),
    always("absent-head-renewed", "the_head_of_an_absent_run_expires"),
    without("longer-lifetime", "left < 0 or ", "a_lease_leaves_longer_lifetimes_alone"),
    without("longer-lifetime", " or left >= lasts", "a_lease_leaves_longer_lifetimes_alone"),
    cut("head-outlives", "a_run_does_not_expire_under_its_holder"),
    cut("log-outlives", "a_run_does_not_expire_under_its_holder"),
    never("etags-outlive", "a_run_does_not_expire_under_its_holder"),
    always("etags-outlive", "a_lease_does_not_shorten_the_memory_of_a_delete"),
    raising("publish-errors", "the_run_is_handed_over_though_publishing_is_forbidden"),
    swap(
        "processes-notified",
        "NEAR",
        "ROW",
        "a_hand_off_notifies_the_next_holder_and_its_neighbours",
        "a_claim_notifies_the_neighbours",
    ),
    swap("processes-notified", "ROW", "NEAR", "a_renewal_notifies_all_waiters"),
    swap("row-notified", "NEAR_ROW", "ROW", "neighbours_are_looked_for_nearby"),
    swap("row-notified", "and ROW", "and NEAR_ROW", "neighbours_are_looked_for_nearby"),
    without("row-end", " - 1", "neighbours_are_looked_for_nearby"),
    without("notified-once", "channel and ", "an_item_of_the_queue_that_is_none_is_passed_over"),
    without(
        "notified-once",
        "count < processes and ",
        "a_hand_off_notifies_the_next_holder_and_its_neighbours",
        "a_claim_notifies_the_neighbours",
    ),
    without(
        "notified-once",
        " and not notified[channel]",
        "a_claim_notifies_the_neighbours",
        "a_renewal_notifies_all_waiters",
    ),
    without("listeners-counted", " + 1", "a_hand_off_notifies_the_next_holder_and_its_neighbours"),
    without(
        "listeners-counted",
        " - 1",
        "a_hand_off_notifies_the_next_holder_and_its_neighbours",
        "a_renewal_notifies_all_waiters",
    ),
    swap("listeners-counted", "~= 0", "~= nil", "a_neighbour_that_nobody_listens_to_does_not_count"),
    cut("queue-outlives", "a_queue_ends_a_minute_after_the_lease"),
)

_GRANTING: Final = of_file(
    "granting",
    without("left-name", " .. ' '", "who_has_left_is_remembered_by_the_head"),
    swap("left-name", "-8", "1, 8", "who_has_left_is_remembered_by_the_head"),
    without("left-kept", "(left or '') .. ", "who_has_left_is_remembered_by_the_head"),
    swap("left-kept", "-LEFT_BYTES", "1", "who_has_left_is_remembered_by_the_head"),
    without("fence-rises", "head_fence + 1, ", "fences_rise", "a_hand_off_notifies_the_next_holder_and_its_neighbours"),
    without("fence-rises", " + 1", "fences_rise"),
    without("fence-rises", ", time", "fences_rise", "fences_rise_over_flushall", "a_free_run_is_granted"),
    cut(
        "grant-expiry-first", "no_forbidden_command_locks_a_run_for_ever", "full_memory_stops_no_holder_and_no_hand_off"
    ),
    cut("grant-writes-head", "a_grant_fences_the_holder_before_at_once", "a_free_run_is_granted"),
    without(
        "grant-writes-head",
        ", 'holder', holder",
        "two_grants_in_one_millisecond_differ_by_their_holder",
        "a_lapsed_lease_is_renewed_while_nobody_was_granted_the_run",
    ),
    cut("granted", "a_free_run_is_granted", "a_release_hands_the_run_to_the_first_waiter"),
    cut("grant-expires", "a_free_run_is_granted"),
    cut("grant-outlived", "a_run_does_not_expire_under_its_holder", "the_head_of_an_absent_run_expires"),
    swap("first-come", "LPOP", "RPOP", "a_release_hands_the_run_to_the_first_waiter", "nobody_barges"),
    cut("queue-empty", "a_release_that_comes_twice_is_done_once", "a_place_that_nobody_listens_to_is_dropped_at_once"),
    without("queue-item", "%??", "an_uncounted_listener_keeps_its_place"),
    cut(
        "hand-off-ends-at-asker",
        "who_is_first_takes_a_lapsed_run_itself",
        "whoever_asks_leaves_those_behind_it_in_their_places",
    ),
    without("hand-off-ends-at-asker", "asker and ", "an_item_of_the_queue_that_is_none_is_passed_over"),
    without("hand-off-is-a-claim", ", CLAIM_MS", "a_waiter_that_does_not_claim_costs_its_claim"),
    without("hand-off-is-a-claim", "tonumber(ttl or 0), ", "a_waiter_that_does_not_claim_costs_its_claim"),
    without("hand-off-is-a-claim", " or 0", "an_item_of_the_queue_that_is_none_is_passed_over"),
    cut(
        "neighbours-notified",
        "a_hand_off_notifies_the_next_holder_and_its_neighbours",
        "a_waiter_that_does_not_claim_costs_its_claim",
    ),
    swap("neighbours-notified", "false", "true", "a_hand_off_notifies_the_next_holder_and_its_neighbours"),
    move(
        "neighbours-notified", "a_hand_off_notifies_the_next_holder_and_its_neighbours", after="granted-comes-at-once"
    ),
    without("waiter-listens", "ttl and ", "an_item_of_the_queue_that_is_none_is_passed_over"),
    without(
        "waiter-listens",
        " ~= 0",
        "a_place_that_nobody_listens_to_is_dropped_at_once",
        "the_first_living_waiter_has_its_full_time",
    ),
    without("waiter-listens", " or uncounted ~= ''", "an_uncounted_listener_keeps_its_place"),
    swap(
        "waiter-listens",
        "notify(channel, claim, passed, waiter)",
        "(tonumber(notify(channel, claim, passed, waiter)) or 0)",
        "the_run_is_handed_over_though_publishing_is_forbidden",
    ),
    swap("waiter-listens", "passed", "0", "uncounted_listeners_are_called_one_after_the_other"),
    cut("waiter-granted", "a_release_hands_the_run_to_the_first_waiter", "nobody_barges"),
    cut("granted-comes-at-once", "uncounted_listeners_are_called_one_after_the_other"),
    always("granted-comes-at-once", "a_hand_off_notifies_the_next_holder_and_its_neighbours"),
    cut("handed-over", "a_release_hands_the_run_to_the_first_waiter"),
    cut("passed-counted", "uncounted_listeners_are_called_one_after_the_other"),
)

GUARDS: Final[tuple[Guard, ...]] = (*_COMMON, *_LASTING, *_GRANTING)
