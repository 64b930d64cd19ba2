"""The guards of the lease scripts and of what they include, for `test_guards.py`."""

from __future__ import annotations

from typing import Final

from .guards import Guard, cut, moved

ABSENT_HEAD: Final = (
    "    if left < math.max(lasts, MEMORY_MS) then redis.call('PEXPIRE', head_key, math.max(lasts, MEMORY_MS)) end\n"
)
FENCED: Final = "  local fence = text(math.max(head_fence + 1, time))\n  --"
PROOF: Final = "  redis.call('PEXPIRE', lease_key, lasts)\n  redis.call('HSET', head_key"
ENDS: Final = "text(time))\n  redis.call('PEXPIRE', lease_key, lasts)\n"
REVIVED: Final = (
    "  redis.call('PEXPIRE', lease_key, ttl)\n"
    "  redis.call('HSET', lease_key, 'holder', holder, 'fence', fence, 'since', text(now()))\n"
    "  redis.call('PEXPIRE', lease_key, ttl)\n"
)
REVIVES, NAMES, LASTS = REVIVED.splitlines(keepends=True)
LOST_LIVE: Final = "  if lease[1] ~= holder or lease[2] ~= fence then return {'lost', lease[2]} end\n"
LOST_LAPSED: Final = "if head[2] ~= fence or head[3] ~= holder or waiting > 0 then\n"
BARGES: Final = "if redis.call('LINDEX', queue_key, 0) and not lease[1] then\n"
REMEMBERED: Final = (
    "if has_left(left, '+', holder) or has_left(left, '!', holder)"
    " or redis.call('HEXISTS', marks_key, holder) == 1 then\n"
)
TWICE: Final = (
    "local rank = redis.call('LPOS', queue_key, ttl .. ' ' .. bare .. ' ' .. holder)\n"
    "  or redis.call('LPOS', queue_key, ttl .. ' ?' .. bare .. ' ' .. holder)\n"
    "  or redis.call('RPUSH', queue_key, ttl .. ' ' .. channel .. ' ' .. holder) - 1\n"
)
MINE: Final = "  redis.call('PEXPIRE', lease_key, lasts)\n  outlive(lasts)\n"
HELD: Final = "local held, named = lease[1] == holder, holder ~= '' and head[3] == holder\n"
ENDED: Final = "  redis.call('DEL', lease_key)\n"
LEAVES: Final = "  redis.call('LREM', queue_key, 1, place)\n"
LEAVES_AS_UNCOUNTED: Final = "  redis.call('LREM', queue_key, 1, (string.gsub(place, ' ', ' ?', 1)))\n"
GAVE_UP: Final = "redis.call('HSET', head_key, 'holder', '', 'left', with(left, '+', holder))\n"
WAS_HERE: Final = (
    "elseif holder ~= '' and head[2] and not gave_up and not has_left(left, '!', holder) then\n"
    "  redis.call('HSET', head_key, 'left', with(left, '!', holder))\n"
)
BREAKS: Final = "if force and (held or named) then\n"
RAISED: Final = "  head_fence = math.max(head_fence + 1, (tonumber(held and lease[2] or '0')) + 1, now())\n"
NEXT: Final = "if held or not lease[1] then hand_off() end\n"
DONE: Final = "if held or named or (gave_up and not force) then return {'released'} end\n"

LEASE_GUARDS: Final[tuple[Guard, ...]] = (
    # -------------------------------------------------------------------------------------- lasting
    cut(
        "numbers leave Lua as digits", "common",
        "string.format('%d', number)", "tostring(number)",
        "breaking_raises_the_fence_above_all",
    ),
    cut(
        "the head of an absent run expires", "lasting",
        "  if not present then\n", "  if false then\n",
        "the_head_of_an_absent_run_expires", "breaking_the_lease_of_an_absent_run_leaves_a_fence_that_expires",
    ),
    cut(
        "the head of an absent run lives as long as the lease", "lasting",
        ABSENT_HEAD, ABSENT_HEAD.replace("math.max(lasts, MEMORY_MS)", "MEMORY_MS"),
        "the_head_of_an_absent_run_expires",
    ),
    cut(
        "the head of an absent run lives no shorter than a memory", "lasting",
        ABSENT_HEAD, ABSENT_HEAD.replace("math.max(lasts, MEMORY_MS)", "lasts"),
        "the_head_of_an_absent_run_expires",
    ),
    cut(
        "a longer memory is not shortened", "lasting",
        ABSENT_HEAD, "    redis.call('PEXPIRE', head_key, math.max(lasts, MEMORY_MS))\n",
        "the_head_of_an_absent_run_expires",
    ),
    cut(
        "a run that lasts for ever does so", "lasting",
        "if left < 0 or left >= lasts then return end", "if left >= lasts then return end",
        "a_lease_leaves_longer_lifetimes_alone",
    ),
    cut(
        "a run that lasts longer than its lease does so", "lasting",
        "if left < 0 or left >= lasts then return end", "if left < 0 then return end",
        "a_lease_leaves_longer_lifetimes_alone",
    ),
    *(
        cut(
            f"the {name} lasts as long as the lease", "lasting",
            f"  redis.call('PEXPIREAT', {name}_key, deadline)\n", "",
            "a_run_does_not_expire_under_its_holder",
        )
        for name in ("head", "log")
    ),
    cut(
        "the etags last as long as the lease", "lasting",
        "if redis.call('PTTL', etags_key) < lasts then", "if false then",
        "a_run_does_not_expire_under_its_holder",
    ),
    cut(
        "the memory of a delete is not shortened", "lasting",
        "if redis.call('PTTL', etags_key) < lasts then", "if true then",
        "a_lease_does_not_shorten_the_memory_of_a_delete",
    ),
    cut(
        "publishing may be forbidden", "lasting",
        "return redis.pcall('PUBLISH'", "return redis.call('PUBLISH'",
        "the_run_is_handed_over_though_nobody_may_be_told",
    ),
    cut(
        "a hand-off tells two processes", "lasting",
        "local processes, row = all and ROW or NEAR,", "local processes, row = ROW,",
        "a_hand_off_tells_who_has_the_run_and_who_is_near", "a_claim_tells_who_is_near_how_long_the_run_is_taken",
    ),
    cut(
        "a renewal tells all", "lasting",
        "local processes, row = all and ROW or NEAR,", "local processes, row = NEAR,",
        "a_renewal_tells_all_who_wait",
    ),
    cut(
        "a hand-off looks nearby", "lasting",
        "all and ROW or NEAR_ROW\n", "ROW\n",
        "neighbours_are_looked_for_nearby",
    ),
    cut(
        "a renewal looks far", "lasting",
        "all and ROW or NEAR_ROW\n", "NEAR_ROW\n",
        "neighbours_are_looked_for_nearby",
    ),
    cut(
        "no further than that", "lasting",
        "0, row - 1)", "0, row)",
        "neighbours_are_looked_for_nearby",
    ),
    cut(
        "an item that is none is passed over", "lasting",
        "if channel and count", "if count",
        "an_item_of_the_queue_that_is_none_is_passed_over",
    ),
    cut(
        "not more processes are told", "lasting",
        "count < processes and ", "",
        "a_hand_off_tells_who_has_the_run_and_who_is_near", "a_claim_tells_who_is_near_how_long_the_run_is_taken",
    ),
    cut(
        "each process is told once", "lasting",
        " and not told[channel] then", " then",
        "a_claim_tells_who_is_near_how_long_the_run_is_taken", "a_renewal_tells_all_who_wait",
    ),
    cut(
        "a process that hears nothing does not count", "lasting",
        "if tell(channel, lasts, rank - 1, '-') ~= 0 then count = count + 1 end",
        "tell(channel, lasts, rank - 1, '-')\n      count = count + 1",
        "a_neighbour_that_nobody_listens_to_does_not_count",
    ),
    cut(
        "processes that hear are counted", "lasting",
        "~= 0 then count = count + 1 end", "~= 0 then count = count end",
        "a_hand_off_tells_who_has_the_run_and_who_is_near",
    ),
    cut(
        "ranks begin at 0", "lasting",
        "tell(channel, lasts, rank - 1,", "tell(channel, lasts, rank,",
        "a_hand_off_tells_who_has_the_run_and_who_is_near", "a_renewal_tells_all_who_wait",
    ),
    cut(
        "a queue lives as long as the lease, and a minute", "lasting",
        "  if next(told) then redis.call('PEXPIRE', queue_key, lasts + QUEUE_MS) end\n", "",
        "a_queue_ends_a_minute_after_the_lease",
    ),
    # ------------------------------------------------------------------------------------- granting
    cut(
        "a fence above the head's", "granting", FENCED, FENCED.replace("math.max(head_fence + 1, time)", "time"),
        "fences_rise", "a_hand_off_tells_who_has_the_run_and_who_is_near",
    ),
    cut(
        "a fence above the head's, and not the same", "granting",
        FENCED, FENCED.replace("head_fence + 1", "head_fence"),
        "fences_rise",
    ),
    cut(
        "a fence by the clock", "granting", FENCED, FENCED.replace("math.max(head_fence + 1, time)", "head_fence + 1"),
        "fences_rise", "fences_rise_over_flushall", "a_free_run_is_granted",
    ),
    cut(
        "a lease can be given an end", "granting", PROOF, PROOF.split("\n")[1],
        "no_forbidden_command_locks_a_run_for_ever",
    ),
    cut(
        "full memory does not keep the run from the next", "granting", PROOF, PROOF.split("\n")[1],
        "full_memory_keeps_nobody_from_going_on",
    ),
    cut(
        "the head knows the lease", "granting",
        "  redis.call('HSET', head_key, 'fence', fence, 'holder', holder)\n", "",
        "a_grant_fences_the_holder_before_at_once", "a_free_run_is_granted",
    ),
    cut(
        "the head knows the holder", "granting",
        "'fence', fence, 'holder', holder)\n", "'fence', fence)\n",
        "two_grants_in_one_millisecond_differ_by_their_holder",
        "a_lapsed_lease_is_renewed_while_nobody_was_granted_the_run",
    ),
    cut(
        "a lease is made", "granting",
        "  redis.call('HSET', lease_key, 'holder', holder, 'fence', fence, 'since', text(time))\n", "",
        "a_free_run_is_granted", "a_release_hands_the_run_to_the_first_waiter",
    ),
    cut("a lease has an end", "granting", ENDS, ENDS.split("\n")[0] + "\n", "a_free_run_is_granted"),
    cut(
        "a run does not expire under its holder", "granting",
        "  outlive(lasts)\n", "",
        "a_run_does_not_expire_under_its_holder", "the_head_of_an_absent_run_expires",
    ),
    cut(
        "first come, first served", "granting",
        "redis.call('LPOP', queue_key)", "redis.call('RPOP', queue_key)",
        "a_release_hands_the_run_to_the_first_waiter", "nobody_barges",
    ),
    cut(
        "nobody waits any more", "granting",
        "    if not place then return end\n", "",
        "a_release_that_comes_twice_is_done_once", "a_place_that_nobody_listens_to_is_dropped_at_once",
    ),
    cut(
        "a claim is short", "granting",
        "math.min(tonumber(ttl or 0), CLAIM_MS)", "tonumber(ttl or 0)",
        "a_waiter_that_does_not_claim_costs_its_claim",
    ),
    cut(
        "a claim is no longer than what was asked for", "granting",
        "math.min(tonumber(ttl or 0), CLAIM_MS)", "CLAIM_MS",
        "a_waiter_that_does_not_claim_costs_its_claim",
    ),
    cut(
        "an item that is none has no time", "granting",
        "tonumber(ttl or 0)", "tonumber(ttl)",
        "an_item_of_the_queue_that_is_none_is_passed_over",
    ),
    cut(
        "the neighbours are told", "granting",
        "    ring(claim, false)\n", "",
        "a_hand_off_tells_who_has_the_run_and_who_is_near", "a_waiter_that_does_not_claim_costs_its_claim",
    ),
    cut(
        "only the neighbours are told", "granting",
        "    ring(claim, false)\n", "    ring(claim, true)\n",
        "a_hand_off_tells_who_has_the_run_and_who_is_near",
    ),
    moved(
        "the next one is told last", "granting",
        "    ring(claim, false)\n", "      return\n    end\n",
        "a_hand_off_tells_who_has_the_run_and_who_is_near",
    ),
    cut(
        "an item that is none is nobody's", "granting",
        "if ttl and (tell(", "if (tell(",
        "an_item_of_the_queue_that_is_none_is_passed_over",
    ),
    cut(
        "who does not listen is passed over", "granting",
        "passed, waiter) ~= 0 or", "passed, waiter) or",
        "a_place_that_nobody_listens_to_is_dropped_at_once", "whose_turn_it_is_after_the_dead_has_its_full_time",
    ),
    cut(
        "who may not be told is not passed over", "granting",
        "if ttl and (tell(channel, claim, passed, waiter) ~= 0 or",
        "if ttl and ((tonumber(tell(channel, claim, passed, waiter)) or 0) ~= 0 or",
        "the_run_is_handed_over_though_nobody_may_be_told",
    ),
    cut(
        "who is told has the run", "granting",
        "      grant(waiter, claim, time)\n", "",
        "a_release_hands_the_run_to_the_first_waiter", "nobody_barges",
    ),
    cut(
        "one at a time", "granting",
        "      if passed > 0 then tell(channel, claim, 0, waiter) end\n      return\n", "",
        "a_release_hands_the_run_to_the_first_waiter",
    ),
    cut(
        "who asks is out of the queue", "granting",
        "    if me and waiter == me then return end\n", "",
        "who_is_first_takes_a_lapsed_run_itself", "whoever_asks_leaves_those_behind_it_in_their_places",
    ),
    cut(
        "an item that is none is not who asks", "granting",
        "if me and waiter == me then", "if waiter == me then",
        "an_item_of_the_queue_that_is_none_is_passed_over",
    ),
    cut(
        "who hears without being counted is not passed over", "granting",
        " or unheard ~= '') then", ") then",
        "who_hears_without_being_counted_keeps_its_place",
    ),
    cut(
        "that it is not counted is no part of a channel", "granting",
        "'^(%d+) (%??)(%S+) (.+)$'", "'^(%d+) ()(%S+) (.+)$'",
        "who_hears_without_being_counted_keeps_its_place",
    ),
    cut(
        "those who cannot be counted do not come at once", "granting",
        "tell(channel, claim, passed, waiter)", "tell(channel, claim, 0, waiter)",
        "those_who_cannot_be_counted_are_called_one_after_the_other",
    ),
    cut(
        "those who cannot be counted are counted", "granting",
        "    passed = passed + 1\n", "",
        "those_who_cannot_be_counted_are_called_one_after_the_other",
    ),
    cut(
        "who has the run comes at once", "granting",
        "      if passed > 0 then tell(channel, claim, 0, waiter) end\n", "",
        "those_who_cannot_be_counted_are_called_one_after_the_other",
    ),
    cut(
        "who has the run is told once", "granting",
        "if passed > 0 then tell", "if true then tell",
        "a_hand_off_tells_who_has_the_run_and_who_is_near",
    ),
    cut(
        "the last who left are remembered", "granting",
        "string.sub((left or '') .. trace(sign, name), -LEFT_BYTES)", "trace(sign, name)",
        "who_has_left_is_remembered_by_the_head",
    ),
    cut(
        "not all who left are remembered", "granting",
        "string.sub((left or '') .. trace(sign, name), -LEFT_BYTES)", "(left or '') .. trace(sign, name)",
        "who_has_left_is_remembered_by_the_head",
    ),
    cut(
        "the end of a name is remembered", "granting",
        "string.sub(name, -8)", "string.sub(name, 1, 8)",
        "who_has_left_is_remembered_by_the_head",
    ),
    cut(
        "a name ends", "granting",
        "string.sub(name, -8) .. ' '", "string.sub(name, -8)",
        "who_has_left_is_remembered_by_the_head",
    ),
    # -------------------------------------------------------------------------------------- acquire
    cut(
        "format", "acquire",
        "if present and head[1] ~= '1' then return", "if false then return",
        "a_newer_format_is_not_leased",
    ),
    cut(
        "an absent run has no format", "acquire",
        "if present and head[1]", "if head[1]",
        "a_free_run_is_granted",
    ),
    cut(
        "marks are obeyed", "acquire",
        REMEMBERED, REMEMBERED.replace(" or redis.call('HEXISTS', marks_key, holder) == 1", ""),
        "a_late_acquire_after_its_release_is_no_ghost",
    ),
    cut(
        "who has left is not granted", "acquire",
        REMEMBERED, "if redis.call('HEXISTS', marks_key, holder) == 1 then\n",
        "who_has_left_is_remembered_by_the_head",
    ),
    cut(
        "who gave up is not granted", "acquire",
        REMEMBERED, REMEMBERED.replace("has_left(left, '+', holder) or ", ""),
        "who_has_left_is_remembered_by_the_head",
    ),
    cut(
        "who left the queue is not granted", "acquire",
        REMEMBERED, REMEMBERED.replace("has_left(left, '!', holder) or ", ""),
        "who_has_left_is_remembered_by_the_head",
    ),
    cut("nobody barges", "acquire", BARGES, "if false then\n", "nobody_barges"),
    cut(
        "the first is served", "acquire",
        "  hand_off(holder)\n", "",
        "nobody_barges", "whoever_asks_leaves_those_behind_it_in_their_places",
    ),
    cut(
        "the first needs no hand-off", "acquire",
        "  hand_off(holder)\n", "  hand_off()\n",
        "who_is_first_takes_a_lapsed_run_itself", "whoever_asks_leaves_those_behind_it_in_their_places",
    ),
    cut(
        "a run that is taken is not handed over", "acquire",
        BARGES, BARGES.replace(" and not lease[1]", ""),
        "who_queues_is_told_its_place", "a_queue_ends_a_minute_after_the_lease",
    ),
    cut(
        "who was served has the run", "acquire",
        "  lease = redis.call('HMGET', lease_key, 'holder', 'fence')\nend\n", "end\n",
        "nobody_barges",
    ),
    cut(
        "a free run is granted", "acquire", "if not lease[1] then return", "if false then return",
        "a_free_run_is_granted",
    ),
    cut(
        "a taken run is not granted", "acquire", "if not lease[1] then return", "if true then return",
        "who_does_not_queue_is_told_who_holds_it", "late_copies_do_nothing_to_the_successor",
    ),
    cut(
        "a grant", "acquire",
        "grant(holder, lasts, now())", "text(now())",
        "a_free_run_is_granted",
    ),
    cut(
        "a resend finds its lease", "acquire",
        "if lease[1] == holder then\n", "if false then\n",
        "a_resent_acquire_is_the_same_lease", "a_release_hands_the_run_to_the_first_waiter",
    ),
    cut(
        "a lease is found by its holder", "acquire",
        "if lease[1] == holder then\n", "if true then\n",
        "who_does_not_queue_is_told_who_holds_it", "late_copies_do_nothing_to_the_successor",
    ),
    cut(
        "a claim is for the full time", "acquire", MINE, "  outlive(lasts)\n",
        "a_resent_acquire_is_the_same_lease", "a_release_hands_the_run_to_the_first_waiter",
    ),
    cut(
        "a run does not expire under who claims it", "acquire", MINE, MINE.split("\n")[0] + "\n",
        "a_run_does_not_expire_under_its_holder",
    ),
    cut(
        "a claim is told", "acquire",
        "  ring(lasts, false)\n", "",
        "a_claim_tells_who_is_near_how_long_the_run_is_taken",
    ),
    cut(
        "a claim is told to the neighbours only", "acquire",
        "  ring(lasts, false)\n", "  ring(lasts, true)\n",
        "a_claim_tells_who_is_near_how_long_the_run_is_taken",
    ),
    cut(
        "nobody queues without a channel", "acquire",
        "if channel == '' then", "if false then",
        "who_does_not_queue_is_told_who_holds_it",
    ),
    cut(
        "no copy of one place is another", "acquire",
        TWICE, "local rank = " + TWICE.split("\n  or ")[2],
        "who_queues_is_told_its_place",
    ),
    cut(
        "who is counted by now stands there as not counted", "acquire",
        TWICE, TWICE.replace("  or redis.call('LPOS', queue_key, ttl .. ' ?' .. bare .. ' ' .. holder)\n", ""),
        "a_place_that_says_so_is_one_and_the_same",
    ),
    cut(
        "who is not counted stands there as counted", "acquire",
        TWICE, TWICE.replace("redis.call('LPOS', queue_key, ttl .. ' ' .. bare .. ' ' .. holder)\n  or ", ""),
        "a_place_that_says_so_is_one_and_the_same",
    ),
    cut(
        "one place, whether it is counted or not", "acquire",
        "string.match(channel, '^%??(.+)$')", "channel",
        "a_place_that_says_so_is_one_and_the_same",
    ),
    cut(
        "a place at the end", "acquire",
        "redis.call('RPUSH', queue_key, ttl", "redis.call('LPUSH', queue_key, ttl",
        "who_queues_is_told_its_place", "a_release_hands_the_run_to_the_first_waiter",
    ),
    cut(
        "ranks begin at 0", "acquire",
        "channel .. ' ' .. holder) - 1\n", "channel .. ' ' .. holder)\n",
        "who_queues_is_told_its_place",
    ),
    cut(
        "a queue has an end", "acquire",
        "redis.call('PEXPIRE', queue_key, math.max(ends, 0) + QUEUE_MS)\n", "",
        "who_queues_is_told_its_place", "a_queue_ends_a_minute_after_the_lease",
    ),
    cut(
        "a queue outlives the lease", "acquire",
        "math.max(ends, 0) + QUEUE_MS", "QUEUE_MS",
        "a_queue_ends_a_minute_after_the_lease",
    ),
    # ---------------------------------------------------------------------------------------- renew
    cut(
        "the queue's type is checked", "renew",
        "local waiting = redis.call('LLEN', queue_key)\n", "local waiting = 0\n",
        "a_key_of_a_foreign_type_is_met_before_the_first_write",
        "a_lapsed_lease_is_not_renewed_once_the_run_may_be_anothers",
    ),
    cut(
        "a live lease", "renew",
        "if lease[1] then\n", "if false then\n",
        "a_renewal_tells_all_who_wait", "a_release_hands_the_run_to_the_first_waiter",
    ),
    cut(
        "another's lease", "renew", LOST_LIVE, "", "late_copies_do_nothing_to_the_successor",
    ),
    cut(
        "another holder's lease", "renew", LOST_LIVE, LOST_LIVE.replace("lease[1] ~= holder or ", ""),
        "late_copies_do_nothing_to_the_successor",
    ),
    cut(
        "a holder's other lease", "renew", LOST_LIVE, LOST_LIVE.replace(" or lease[2] ~= fence", ""),
        "late_copies_do_nothing_to_the_successor",
    ),
    cut(
        "a renewal prolongs", "renew",
        "  redis.call('PEXPIRE', lease_key, ttl)\nelse\n", "else\n",
        "a_renewal_prolongs",
    ),
    cut(
        "a lapsed lease that is not in force", "renew", LOST_LAPSED, "if false then\n",
        "a_lapsed_lease_is_not_renewed_once_the_run_may_be_anothers",
        "a_late_renewal_or_save_after_the_release_has_lost",
    ),
    cut(
        "the head's fence is another", "renew", LOST_LAPSED, LOST_LAPSED.replace("head[2] ~= fence or ", ""),
        "a_lapsed_lease_is_not_renewed_once_the_run_may_be_anothers",
    ),
    cut(
        "the head's holder is another", "renew", LOST_LAPSED, LOST_LAPSED.replace("head[3] ~= holder or ", ""),
        "a_lapsed_lease_is_not_renewed_once_the_run_may_be_anothers",
        "a_late_renewal_or_save_after_the_release_has_lost",
        "two_grants_in_one_millisecond_differ_by_their_holder",
    ),
    cut(
        "somebody waits", "renew", LOST_LAPSED, LOST_LAPSED.replace(" or waiting > 0", ""),
        "a_lapsed_lease_is_not_renewed_once_the_run_may_be_anothers",
    ),
    cut(
        "a lapsed lease can be given an end", "renew", REVIVED, NAMES + LASTS,
        "no_forbidden_command_locks_a_run_for_ever", "full_memory_keeps_nobody_from_going_on",
    ),
    cut(
        "a lapsed lease is made anew", "renew", REVIVED, REVIVES + LASTS,
        "a_lapsed_lease_is_renewed_while_nobody_was_granted_the_run",
    ),
    cut(
        "a lapsed lease has an end again", "renew", REVIVED, REVIVES + NAMES,
        "a_lapsed_lease_is_renewed_while_nobody_was_granted_the_run",
    ),
    cut(
        "a run does not expire under its holder", "renew",
        "outlive(ttl)\n", "",
        "a_run_does_not_expire_under_its_holder",
    ),
    cut(
        "a renewal is told", "renew",
        "ring(ttl, true)\n", "",
        "a_renewal_tells_all_who_wait",
    ),
    # -------------------------------------------------------------------------------------- release
    cut(
        "the queue's type is checked", "release",
        "redis.call('LLEN', queue_key)\n", "",
        "a_key_of_a_foreign_type_is_met_before_the_first_write",
    ),
    cut(
        "the marks' type is checked", "release",
        "if late then redis.call('HEXISTS', marks_key, holder) end\n", "",
        "a_key_of_a_foreign_type_is_met_before_the_first_write",
    ),
    cut(
        "only its holder's lease ends", "release",
        HELD, HELD.replace("lease[1] == holder,", "lease[1],"),
        "late_copies_do_nothing_to_the_successor", "who_leaves_the_queue_is_handed_nothing",
    ),
    cut(
        "a lease that lapsed and the head still names", "release",
        HELD, HELD.replace("holder ~= '' and head[3] == holder", "false"),
        "breaking_a_lease_fences_its_holder", "a_late_renewal_or_save_after_the_release_has_lost",
    ),
    cut(
        "nobody's lease is not broken", "release",
        HELD, HELD.replace("holder ~= '' and ", ""),
        "breaking_nobodys_lease_fences_nobody",
    ),
    cut(
        "the lease ends", "release", ENDED, "",
        "a_release_hands_the_run_to_the_first_waiter", "breaking_a_lease_fences_its_holder",
    ),
    cut(
        "a place in the queue is given up", "release", LEAVES, "",
        "who_leaves_the_queue_is_handed_nothing",
        "a_place_that_a_late_acquire_took_is_given_up_with_the_lease",
    ),
    cut(
        "a place of one that is not counted is given up", "release", LEAVES_AS_UNCOUNTED, "",
        "a_place_that_says_so_is_one_and_the_same",
    ),
    cut(
        "who holds the run does not look for its place", "release", "if held then\n", "if true then\n",
        "who_leaves_the_queue_is_handed_nothing",
    ),
    cut(
        "who gave up is remembered", "release", GAVE_UP, GAVE_UP.replace(", 'left', with(left, '+', holder)", ""),
        "who_has_left_is_remembered_by_the_head",
    ),
    cut(
        "who lost or left is remembered", "release", WAS_HERE, "",
        "who_has_left_is_remembered_by_the_head",
    ),
    cut(
        "nobody does not leave", "release", WAS_HERE, WAS_HERE.replace("holder ~= '' and ", ""),
        "who_leaves_the_queue_of_a_free_run_serves_the_next",
    ),
    cut(
        "a head is not made for who left", "release", WAS_HERE, WAS_HERE.replace("head[2] and ", ""),
        "who_left_an_unknown_run_leaves_no_head",
    ),
    cut(
        "who gave up is remembered once", "release", WAS_HERE, WAS_HERE.replace("not gave_up and ", ""),
        "who_has_left_is_remembered_by_the_head", "a_release_that_comes_twice_is_done_once",
    ),
    cut(
        "who left is remembered once", "release",
        WAS_HERE, WAS_HERE.replace(" and not has_left(left, '!', holder)", ""),
        "who_has_left_is_remembered_by_the_head",
    ),
    cut(
        "only force fences", "release", BREAKS, BREAKS.replace("force and ", ""),
        "a_release_that_comes_twice_is_done_once",
    ),
    cut(
        "force fences", "release", BREAKS, "if false then\n",
        "breaking_a_lease_fences_its_holder", "breaking_raises_the_fence_above_all",
    ),
    cut(
        "force fences its holder only", "release", BREAKS, "if force then\n",
        "breaking_nobodys_lease_fences_nobody", "late_copies_do_nothing_to_the_successor",
    ),
    cut(
        "force fences whom only the head names", "release", BREAKS, "if force and held then\n",
        "breaking_a_lease_fences_its_holder",
    ),
    cut(
        "force fences whom only the lease names", "release", BREAKS, "if force and named then\n",
        "breaking_the_lease_of_an_absent_run_leaves_a_fence_that_expires",
    ),
    *(
        cut(
            f"above the {what}", "release", RAISED, RAISED.replace(part, ""), "breaking_raises_the_fence_above_all",
        )
        for what, part in (
            ("head's fence", "head_fence + 1, "),
            ("lease's fence", "(tonumber(held and lease[2] or '0')) + 1, "),
            ("clock", ", now()"),
        )
    ),
    cut(
        "the fence is raised", "release",
        "  redis.call('HSET', head_key, 'fence', text(head_fence), 'holder', '', 'left', with(left, '!', holder))\n",
        "",
        "breaking_a_lease_fences_its_holder",
    ),
    cut(
        "who was broken is named no more", "release",
        "text(head_fence), 'holder', '', 'left'", "text(head_fence), 'left'",
        "breaking_a_lease_fences_its_holder",
    ),
    cut(
        "the fence expires", "release",
        "  outlive(0)\n", "",
        "breaking_the_lease_of_an_absent_run_leaves_a_fence_that_expires",
    ),
    cut(
        "the head forgets who has released", "release",
        "elseif named then\n", "elseif false then\n",
        "a_late_renewal_or_save_after_the_release_has_lost",
    ),
    cut(
        "the head does not forget another", "release",
        "elseif named then\n", "elseif true then\n",
        "late_copies_do_nothing_to_the_successor",
    ),
    cut(
        "forgetting is a write", "release",
        GAVE_UP, GAVE_UP.replace("'holder', '', ", ""),
        "a_late_renewal_or_save_after_the_release_has_lost",
    ),
    cut(
        "who has no late copies leaves no mark", "release",
        "if late then\n", "if true then\n",
        "what_has_no_late_copy_leaves_no_mark",
    ),
    cut(
        "late copies find a mark", "release",
        "  remember(holder, NEVER)\n", "",
        "a_late_acquire_after_its_release_is_no_ghost",
    ),
    Guard(
        "marks expire (release)", "marking",
        (("  redis.call('PEXPIRE', marks_key, MEMORY_MS)\n", ""),), ("a_late_acquire_after_its_release_is_no_ghost",),
        "release",
    ),
    cut(
        "whoever is broken is remembered", "release",
        "'holder', '', 'left', with(left, '!', holder))\n  outlive", "'holder', '')\n  outlive",
        "a_late_acquire_after_a_break_or_a_delete_is_no_ghost",
    ),
    cut(
        "whoever is broken has lost it", "release",
        "'holder', '', 'left', with(left, '!', holder))\n  outlive",
        "'holder', '', 'left', with(left, '+', holder))\n  outlive",
        "a_late_acquire_after_a_break_or_a_delete_is_no_ghost",
    ),
    cut(
        "a delete forgets nobody who has left", "delete",
        ", 'left', head[6] or '')", ")",
        "a_late_acquire_after_a_break_or_a_delete_is_no_ghost",
    ),
    cut("the next is served", "release", NEXT, "", "a_release_hands_the_run_to_the_first_waiter"),
    cut(
        "the next is served after a release", "release", NEXT, NEXT.replace("held or ", ""),
        "a_release_hands_the_run_to_the_first_waiter", "breaking_hands_the_run_over_and_its_copy_does_not_break_again",
    ),
    cut(
        "the next is served where the lease has lapsed", "release", NEXT, NEXT.replace(" or not lease[1]", ""),
        "who_leaves_the_queue_of_a_free_run_serves_the_next",
    ),
    cut(
        "a run that is taken is not handed over", "release", NEXT, "hand_off()\n",
        "who_leaves_the_queue_is_handed_nothing",
    ),
    cut("done", "release", DONE, "", "a_release_that_comes_twice_is_done_once"),
    cut(
        "done, of whom only the lease names", "release", DONE, DONE.replace("held or ", ""),
        "breaking_the_lease_of_an_absent_run_leaves_a_fence_that_expires",
    ),
    cut(
        "done, of whom only the head names", "release", DONE, DONE.replace(" or named", ""),
        "breaking_a_lease_fences_its_holder",
    ),
    cut(
        "done, by an earlier copy", "release", DONE, DONE.replace(" or (gave_up and not force)", ""),
        "a_release_that_comes_twice_is_done_once", "who_has_left_is_remembered_by_the_head",
    ),
    cut(
        "who gave up is not broken", "release", DONE, DONE.replace(" and not force", ""),
        "who_has_left_is_remembered_by_the_head",
    ),
)  # fmt: skip

LEASE_NO_GUARDS: Final[dict[str, dict[str, str]]] = {
    "lasting": {},
    "granting": {
        "while true do": "ends by one of the returns in it, each of which is a guard above",
    },
    "acquire": {},
    "renew": {},
    "release": {},
}
