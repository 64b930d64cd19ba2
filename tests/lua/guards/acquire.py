"""The guards of `acquire.lua`, in the order of its lines."""

from __future__ import annotations

from typing import Final

from .changes import Guard, always, cut, never, of_file, swap, together, without

GUARDS: Final[tuple[Guard, ...]] = of_file(
    "acquire",
    never("format", "a_newer_format_is_not_leased"),
    without("format", "present and ", "a_free_run_is_granted"),
    never("released", "who_has_left_is_remembered_by_the_head"),
    cut("left", "who_has_left_is_remembered_by_the_head"),
    together(cut("left"), never("released", "who_has_left_is_remembered_by_the_head")),
    cut("marked", "a_late_acquire_after_its_release_is_no_ghost"),
    never("nobody-barges", "nobody_barges"),
    without("nobody-barges", " and not lease[1]", "a_waiter_learns_its_place", "a_queue_ends_a_minute_after_the_lease"),
    cut("queue-served", "nobody_barges", "whoever_asks_leaves_those_behind_it_in_their_places"),
    without(
        "queue-served",
        "holder",
        "who_is_first_takes_a_lapsed_run_itself",
        "whoever_asks_leaves_those_behind_it_in_their_places",
    ),
    cut("lease-read-again", "nobody_barges"),
    never("free-run", "a_free_run_is_granted"),
    always("free-run", "without_a_channel_a_taken_run_is_held", "late_copies_do_nothing_to_the_successor"),
    swap("free-run", "grant(holder, lasts, now())", "text(now())", "a_free_run_is_granted"),
    never("own-lease", "a_resent_acquire_is_the_same_lease", "a_release_hands_the_run_to_the_first_waiter"),
    always("own-lease", "without_a_channel_a_taken_run_is_held", "late_copies_do_nothing_to_the_successor"),
    cut("claim-prolongs", "a_resent_acquire_is_the_same_lease", "a_release_hands_the_run_to_the_first_waiter"),
    cut("claim-outlived", "a_run_does_not_expire_under_its_holder"),
    cut("claim-announced", "a_claim_notifies_the_neighbours"),
    swap("claim-announced", "false", "true", "a_claim_notifies_the_neighbours"),
    never("no-channel", "without_a_channel_a_taken_run_is_held"),
    swap("channel-name", "string.match(channel, '^%??(.+)$')", "channel", "a_place_is_the_same_whether_counted_or_not"),
    cut("queued-counted", "a_place_is_the_same_whether_counted_or_not"),
    together(cut("queued-counted"), cut("queued-uncounted", "a_waiter_learns_its_place")),
    cut("queued-uncounted", "a_place_is_the_same_whether_counted_or_not"),
    without("queue-place", " - 1", "a_waiter_learns_its_place"),
    swap("queue-place", "RPUSH", "LPUSH", "a_waiter_learns_its_place", "a_release_hands_the_run_to_the_first_waiter"),
    cut("queue-expires", "a_waiter_learns_its_place", "a_queue_ends_a_minute_after_the_lease"),
    without("queue-expires", "math.max(ends, 0) + ", "a_queue_ends_a_minute_after_the_lease"),
)
