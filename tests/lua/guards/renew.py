"""The guards of `renew.lua`, in the order of its lines."""

from __future__ import annotations

from typing import Final

from .changes import Guard, cut, never, of_file, swap, without

GUARDS: Final[tuple[Guard, ...]] = of_file(
    "renew",
    swap(
        "queue-type",
        "redis.call('LLEN', queue_key)",
        "0",
        "a_key_of_a_foreign_type_is_met_before_the_first_write",
        "a_lapsed_lease_is_not_renewed_once_the_run_may_be_anothers",
    ),
    never("live-lease", "a_renewal_notifies_all_waiters", "a_release_hands_the_run_to_the_first_waiter"),
    cut("own-lease", "late_copies_do_nothing_to_the_successor"),
    without("own-lease", "lease[1] ~= holder or ", "late_copies_do_nothing_to_the_successor"),
    without("own-lease", " or lease[2] ~= fence", "late_copies_do_nothing_to_the_successor"),
    cut("prolonged", "a_renewal_prolongs"),
    never(
        "lapsed-lease",
        "a_lapsed_lease_is_not_renewed_once_the_run_may_be_anothers",
        "a_late_renewal_or_save_after_the_release_has_lost",
    ),
    without("lapsed-lease", "head[2] ~= fence or ", "a_lapsed_lease_is_not_renewed_once_the_run_may_be_anothers"),
    without(
        "lapsed-lease",
        "head[3] ~= holder or ",
        "a_lapsed_lease_is_not_renewed_once_the_run_may_be_anothers",
        "a_late_renewal_or_save_after_the_release_has_lost",
        "two_grants_in_one_millisecond_differ_by_their_holder",
    ),
    without("lapsed-lease", " or waiting > 0", "a_lapsed_lease_is_not_renewed_once_the_run_may_be_anothers"),
    cut(
        "revival-expiry-first",
        "no_forbidden_command_locks_a_run_for_ever",
        "full_memory_stops_no_holder_and_no_hand_off",
    ),
    cut("revived", "a_lapsed_lease_is_renewed_while_nobody_was_granted_the_run"),
    cut("revival-expires", "a_lapsed_lease_is_renewed_while_nobody_was_granted_the_run"),
    cut("outlived", "a_run_does_not_expire_under_its_holder"),
    cut("announced", "a_renewal_notifies_all_waiters"),
)
