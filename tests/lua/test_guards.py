"""Every guard of the scripts is needed: taken out, a scenario that holds with it fails.

A guard is cut out of the source by its exact text, so a change of a script shows here at once. What is
no guard though it is an `if` stands in `NO_GUARDS`, with the reason.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import Final

import pytest

from histstore.protocol.scripts import ALL, strip

from .guards import FILES, Guard, composed, cut, moved
from .lease_guards import LEASE_GUARDS, LEASE_NO_GUARDS
from .lease_scenarios import SCENARIOS
from .world import World

ASKED: Final = """\
if not present then
  local answer = outcome()
  if answer then return answer end
end
"""
LOG_LIVES: Final = "  redis.call('PEXPIREAT', log_key, deadline)\n"
HEAD_LIVES: Final = "  redis.call('PEXPIREAT', head_key, deadline)\n"
SAVE_LEASE: Final = """\
if lease[1] and not (carries and lease[1] == holder and tonumber(lease[2]) == fence) then
  if carries then return refuse({'lost', lease[2]}) end
  return refuse({'locked', lease[1], redis.call('PTTL', lease_key)})
end
if carries and (fence < head_fence or (fence == head_fence and head_holder and head_holder ~= holder)) then
  return refuse({'lost', text(head_fence)})
end
"""
COMPARE_ETAGS: Final = "if head_etag ~= etag then return {'conflict', head_etag and at or '', head_etag or ''} end\n"
DELETE_ETAGS: Final = (
    "if (head_etag or '') ~= expected then return refuse({'conflict', head[1] or '', head_etag or ''}) end\n"
)
MARKED: Final = "if not plain and redis.call('HEXISTS', marks_key, etag) == 1 then return {'cancelled'} end\n"
DELETE_MARKED: Final = "if marked then return refuse({'cancelled'}) end\n"
OTHERS: Final = """\
local others = redis.call('EXISTS',
  log_key, etags_key, marks_key, marks_key, marks_key, lease_key, lease_key, lease_key)
"""
MAKES_ROOM: Final = "write(nil, 'LTRIM', etags_key, 1 - ETAGS, -1)\n"
RENEWED: Final = "    redis.call('PEXPIRE', etags_key, MEMORY_MS)\n"
PROVEN: Final = f"{RENEWED}    -- Before the ticket"
LISTED: Final = f"    redis.call('RPUSH', etags_key, ticket)\n{RENEWED}"


SAVED: Final = (
    "already_saved_writes_something_for_wait",
    "already_saved_leaves_run_and_lifetimes_as_they_were",
    "already_saved_needs_no_permission_for_its_write",
    "full_memory_denies_no_applied_save",
    "a_read_only_server_denies_no_open_outcome_and_confirms_none",
    "a_server_that_lacks_replicas_confirms_no_open_outcome",
)
DELETED: Final = (
    "already_deleted_writes_something_for_wait",
    "already_deleted_leaves_all_as_it_was",
    "already_deleted_needs_no_permission_for_its_write",
    "full_memory_denies_no_applied_delete",
    "a_read_only_server_confirms_no_delete",
    "a_server_that_lacks_replicas_confirms_no_delete",
)


def touches(script: str, told: tuple[str, ...]) -> tuple[Guard, ...]:
    """Returns the guards of `touch` as one of its scripts has it, by the scenarios `told` of its answers."""
    writes, same, allowed, full, read_only, lacking = told
    caught = "    local reply = redis.pcall(...)\n    -- Redis 6 puts"
    found = "    if word and string.find(ELSEWHERE, ' ' .. word .. ' ', 1, true) then\n"
    passed_on = found + "      refused = redis.error_reply(string.match(reply.err, '%u.*'))\n    end\n"
    read = "  local left = try('PTTL', key)\n"
    lasting = "  elseif try('PERSIST', key) == 0 and left == -1 then\n"
    renewed = "    try('PEXPIRE', key, math.max(left, 1))\n"
    given = "    try('PEXPIRE', key, MEMORY_MS)\n"
    back = "    try('PERSIST', key)\n"

    def within(name: str, file: str, old: str, new: str, *fails: str) -> Guard:
        return Guard(f"{name} ({script})", file, ((old, new),), fails, script)

    def raising(line: str) -> str:
        return line.replace("try(", "redis.call(")

    return (
        within("what may be forbidden is tried", "touch", caught, caught.replace("pcall", "call"), allowed),
        within(
            "an answer that is no error", "touch", "type(reply) == 'table' and reply.err and string", "string", writes,
        ),
        within("a server that may not answer is heard", "touch", passed_on, "", read_only, lacking),
        within(
            "a missing permission is passed over", "touch", found, "    if word then\n", allowed,
        ),
        within("the word decides", "touch", "' ' .. word .. ' '", "' '", allowed),
        within("a demoted primary", "touch", "' READONLY ", "' ", read_only),
        within("a primary that lacks replicas", "touch", " NOREPLICAS ", " ", lacking),
        within(
            "a refusal is handed on", "touch", "    try('PERSIST', key)\n  end\n  return refused\n",
            "    try('PERSIST', key)\n  end\n", read_only, lacking,
        ),
        within(
            "a lifetime that must not be read", "touch",
            "  if type(left) ~= 'number' then return refused end\n", "", allowed,
        ),
        within("reading a lifetime may be forbidden", "touch", read, raising(read), allowed),
        within("a lifetime is not taken off", "touch", "  if left >= 0 then\n", "  if false then\n", same),
        within(
            "no lifetime is renewed where there is none", "touch",
            "  if left >= 0 then\n", "  if left >= -1 then\n", same,
        ),
        within("the lifetime that there was", "touch", renewed, renewed.replace("math.max(left, 1)", "60000"), same),
        within("renewing may be forbidden", "touch", renewed, raising(renewed), allowed),
        within("a write for WAIT where there is no lifetime", "touch", lasting, "  elseif false then\n", writes),
        within("taking the lifetime off is proven possible", "touch", lasting, "  elseif left == -1 then\n", allowed),
        within("taking the lifetime off may be forbidden", "touch", lasting, raising(lasting), allowed),
        within("giving a lifetime may be forbidden", "touch", given, raising(given), allowed),
        within("giving a lifetime is the write", "touch", given, "", writes),
        within("the lifetime is taken off again", "touch", back, "", same, full),
    )  # fmt: skip


def answers(script: str, name: str, line: str, told: tuple[str, ...]) -> tuple[Guard, ...]:
    """Returns the guards of a line, up to its `or`, that ends with `touch` before an answer."""
    writes, _, _, _, read_only, lacking = told
    start = line.index("touch(")
    return (
        cut(f"a write for WAIT, {name}", script, f"{line} or {{", line[:start] + "{", writes),
        cut(
            f"an answer that does not count is withheld, {name}", script,
            f"{line} or {{", f"{line} and nil or {{", read_only, lacking,
        ),
    )  # fmt: skip


def outcomes(script: str, told: tuple[str, ...], *rows: tuple[str, str, str, tuple[str, ...]]) -> tuple[Guard, ...]:
    """Returns the guards of `outcome` as one of its scripts has it: what it finds out, and how it says so."""
    writes, _, _, _, read_only, lacking = told
    confirm = "  return touch(full and etags_key or head_etag and head_key or marks_key) or reply\n"
    rows += (
        ("a write for WAIT", confirm, "  return reply\n", (writes,)),
        ("an answer that does not count is withheld", confirm, confirm.replace(" or reply", " and nil or reply"),
         (read_only, lacking)),
        ("a write for WAIT, without a list", confirm, "  return touch(etags_key) or reply\n", (writes,)),
    )  # fmt: skip
    return tuple(Guard(f"{name} ({script})", "outcome", ((old, new),), fails, script) for name, old, new, fails in rows)


BY_HEAD: Final = ("name == head_etag or in_list(name)", "in_list(name)")
BY_LIST: Final = ("name == head_etag or in_list(name)", "name == head_etag")
BY_ORIGIN: Final = ("(name == origin or string", "(string")
BY_MARK: Final = ("(name == origin or string.sub(mark_of(name), 1, 1) == APPLIED)", "name == origin")
OTHER_MARKS: Final = ("string.sub(mark_of(name), 1, 1) == APPLIED", "mark_of(name) ~= ''")
BY_PARENT: Final = (
    "if parent then return parent == head_etag or in_list(parent) end",
    "if parent then return true end",
)
PARENT_IS_HEAD: Final = ("return parent == head_etag or in_list(parent)", "return in_list(parent)")
PARENT_IN_LIST: Final = ("return parent == head_etag or in_list(parent)", "return parent == head_etag")
NO_PARENT: Final = ("  if parent then return parent", "  if true then return parent")
NO_ORIGIN: Final = ("return (origin or not head_etag) and", "return")
ABSENT_RUN: Final = ("return (origin or not head_etag) and", "return origin and")
NOT_LOST: Final = (" and mark_of(LOST) == ''", "")


def marking(script: str, ended: str, *fails: str) -> tuple[Guard, ...]:
    """Returns the guards of `remember` as one of its scripts has it: a mark is left, and has an end (`ended`)."""
    left = "  redis.call('HSET', marks_key, name, what .. ' ' .. now)\n"
    ends = "  redis.call('PEXPIRE', marks_key, MEMORY_MS)\n"
    return (
        Guard(f"a mark is left ({script})", "marking", ((left, ""),), fails, script),
        Guard(f"marks expire ({script})", "marking", ((ends, ""),), (ended,), script),
    )


GUARDS: Final = (
    # ------------------------------------------------------------------------------ save: 0. damage
    cut(
        "format", "save",
        "if present and head[1] ~= '1' then return", "if false then return",
        "a_newer_format_is_left_alone",
    ),
    cut(
        "log without head", "save",
        "if not present and entries > 0 then return", "if false then return",
        "a_log_without_a_head_takes_no_save",
    ),
    cut(
        "a log without a head is marked", "save",
        "return mark({'corrupt', '', 'there is a log, but no head'})",
        "return {'corrupt', '', 'there is a log, but no head'}",
        "a_late_copy_after_corrupt_is_not_applied",
    ),
    cut(
        "a wrong count is marked", "save",
        "    return mark({'corrupt', at or '', 'the log holds ' .. entries .. "
        "' entries, which is not what the head says'})\n",
        "    return {'corrupt', at or '', 'the log holds ' .. entries}\n",
        "a_late_copy_after_corrupt_is_not_applied",
    ),
    cut(
        "a damaged span is marked", "save",
        "return mark({'corrupt', at, 'the spans lead past the checkpoint'})", "return {'corrupt', at, ''}",
        "a_late_copy_after_corrupt_is_not_applied",
    ),
    cut(
        "format is marked", "save",
        "return mark({'format', head[1] or ''})", "return {'format', head[1] or ''}",
        "a_late_copy_after_format_is_not_applied",
    ),
    cut(
        "count of entries", "save",
        "if not newest or not oldest or newest - oldest + 1 ~= entries then", "if not newest or not oldest then",
        "a_head_without_a_log_takes_no_save", "a_missing_entry_takes_no_save",
    ),
    cut(
        "numbers of the head", "save",
        "if not newest or not oldest or newest - oldest + 1 ~= entries then",
        "if newest and oldest and newest - oldest + 1 ~= entries then",
        "a_head_whose_numbers_are_none_takes_no_save",
    ),
    # ----------------------------------------------------------------------- save: 1. already saved
    cut(
        "already saved, before a refusal", "save",
        "local function refuse(reply) return outcome() or mark(reply) end",
        "local function refuse(reply) return mark(reply) end",
        "a_resend_finds_its_own_save",
        "a_resend_finds_its_save_below_a_rivals",
        "a_resend_of_an_applied_save_is_not_told_of_a_lease",
        "a_copy_of_an_applied_save_is_saved_whatever_came_since",
    ),
    cut(
        "already saved, where the run is absent", "save", ASKED, "",
        "a_late_first_save_does_not_bring_a_deleted_run_back",
        "a_head_that_does_not_name_its_first_save_tells_nothing_of_one",
    ),
    cut(
        "only an absent run looks before it is saved", "save",
        "if not present then\n  local answer", "if true then\n  local answer",
        "a_save_that_is_applied_looks_for_nothing",
    ),
    cut(
        "an answer is given", "save",
        "  if answer then return answer end\n", "",
        "a_late_first_save_does_not_bring_a_deleted_run_back",
    ),
    cut(
        "already saved is answered", "save",
        "  if applied(etag, onto) then\n", "  if false then\n",
        "a_resend_finds_its_own_save",
        "a_resend_of_an_applied_save_in_a_deleted_run_is_saved",
        "already_saved_writes_something_for_wait",
        "full_memory_denies_no_applied_save",
    ),
    cut(
        "the time of the save", "save",
        "head_etag == etag and redis.call('HMGET', head_key, 'saved')", "redis.call('HMGET', head_key, 'saved')",
        "a_resend_finds_its_save_below_a_rivals",
    ),
    cut(
        "the run's first save is named", "save",
        ", 'origin', etag) end", ") end",
        "a_first_save_is_known_however_old",
    ),
    *touches("save", SAVED),
    *outcomes(
        "save", SAVED,
        ("the head's deadline stays the log's", "touch(full and etags_key or head_etag", "touch(head_etag", (
            "touching_moves_no_deadline",
        )),
        ("applied, by the head", *BY_HEAD, ("a_resend_of_the_head_is_saved_though_the_list_is_gone",)),
        ("applied, by the list", *BY_LIST, (
            "a_resend_finds_its_save_below_a_rivals", "a_resend_finds_its_save_after_its_entry_was_trimmed",
            "a_copy_of_an_applied_save_is_saved_whatever_came_since",
        )),
        ("a first save, by the head", *BY_ORIGIN, ("a_first_save_is_known_however_old",)),
        ("a first save, by its mark", *BY_MARK, (
            "a_first_save_is_known_however_old", "a_resent_first_save_does_not_bring_a_run_back_that_forgot_it",
        )),
        ("other marks do not say that it was applied", *OTHER_MARKS, (
            "a_late_copy_of_a_first_save_after_never_is_not_applied",
        )),
        ("gone, by the parent", *BY_PARENT, (
            "a_resend_after_the_run_vanished_is_gone", "a_resend_older_than_the_list_is_gone",
        )),
        ("a parent that is the head needs no list", *PARENT_IS_HEAD, (
            "a_save_resent_onto_the_head_is_applied_though_the_list_is_gone",
        )),
        ("a parent that the list reaches", *PARENT_IN_LIST, ("a_resend_that_the_list_reaches_conflicts",)),
        ("a first save has no parent to look for", *NO_PARENT, ("a_resend_that_the_list_reaches_conflicts",)),
        ("gone, where the head names no first save", *NO_ORIGIN, (
            "a_head_that_does_not_name_its_first_save_tells_nothing_of_one",
        )),
        ("an absent run has none to name", *ABSENT_RUN, ("a_first_save_is_resent_onto_an_absent_run",)),
        ("gone, where a run was deleted that named none", *NOT_LOST, (
            "a_head_that_does_not_name_its_first_save_tells_nothing_of_one",
        )),
    ),
    *marking(
        "save", "a_late_copy_after_locked_is_not_applied",
        "a_late_copy_after_locked_is_not_applied", "a_late_copy_after_conflict_is_not_applied",
        "a_copy_of_a_refused_first_send_is_refused_too",
    ),
    # ------------------------------------------------------------------------------- save: 2. marks
    cut(
        "marks are obeyed", "save",
        "if not plain and redis.call('HEXISTS', marks_key, etag) == 1 then", "if false then",
        "a_late_copy_after_never_is_not_applied",
        "a_late_copy_of_a_first_save_after_never_is_not_applied",
        "a_late_copy_after_resolve_said_gone_is_not_applied",
        "a_late_copy_after_locked_is_not_applied",
        "a_late_copy_after_lost_to_a_live_lease_is_not_applied",
        "a_late_copy_after_lost_to_a_fence_is_not_applied",
        "a_late_copy_after_conflict_is_not_applied",
        "a_late_copy_after_gone_is_not_applied",
    ),
    cut(
        "marks are looked for", "save",
        "marks_key, marks_key, marks_key, lease_key", "lease_key",
        "a_late_copy_after_never_is_not_applied", "a_late_copy_of_a_first_save_after_never_is_not_applied",
    ),
    cut(
        "marks count for more than log and etags", "save",
        "marks_key, marks_key, marks_key, lease_key", "marks_key, marks_key, lease_key",
        "a_late_copy_of_a_first_save_after_never_is_not_applied",
    ),
    cut(
        "what is marked is not plain", "save",
        "local plain = others < 3\n", "local plain = others < 4\n",
        "a_late_copy_of_a_first_save_after_never_is_not_applied", "a_live_lease_locks_out_a_first_save",
    ),
    cut(
        "a lease is looked for", "save",
        ", lease_key, lease_key, lease_key)", ")",
        "a_live_lease_locks_out_who_does_not_carry_it", "a_live_lease_locks_out_a_first_save",
    ),
    cut(
        "a lease counts for more than log and etags", "save",
        ", lease_key, lease_key, lease_key)", ", lease_key, lease_key)",
        "a_live_lease_locks_out_a_first_save",
    ),
    *(
        cut(
            f"a slot on the move, by the {name}", "save", old, new,
            "a_save_to_a_slot_on_the_move_is_neither_applied_nor_misled",
        )
        for name, old, new in (
            ("log", "  log_key, etags_key, marks_key", "  etags_key, marks_key"),
            ("etags", "  log_key, etags_key, marks_key", "  log_key, marks_key"),
            ("marks", "marks_key, marks_key, marks_key, lease_key", "log_key, lease_key"),
            ("lease", ", lease_key, lease_key, lease_key)", ", log_key)"),
        )
    ),
    moved(
        "a slot on the move is met before damage", "save", OTHERS, "-- Most saves meet neither",
        "a_save_to_a_slot_on_the_move_is_neither_applied_nor_misled",
    ),
    cut(
        "marks are obeyed by first sends too", "save",
        "if not plain and redis.call('HEXISTS', marks_key, etag) == 1 then",
        "if resend and redis.call('HEXISTS', marks_key, etag) == 1 then",
        "a_late_copy_after_never_is_not_applied",
        "a_late_copy_of_a_first_save_after_never_is_not_applied",
        "a_late_copy_after_locked_is_not_applied",
    ),
    moved(
        "a reason that still holds is told, not the mark", "save", MARKED, "-- 2. The lease.",
        "a_copy_of_a_refused_first_send_is_refused_too",
    ),
    *(
        cut(f"{what} is marked", "save", "if resend or parent == ABSENT or reply[1] == 'locked' then", kept, *fails)
        for what, kept, fails in (
            ("a refused resend", "if parent == ABSENT or reply[1] == 'locked' then",
             ("a_late_copy_after_conflict_is_not_applied", "a_late_copy_after_lost_to_a_fence_is_not_applied")),
            ("a refused first save", "if resend or reply[1] == 'locked' then",
             ("a_copy_of_a_refused_first_send_is_refused_too",)),
            ("what is locked out", "if resend or parent == ABSENT then",
             ("a_copy_of_a_refused_first_send_is_refused_too",)),
        )
    ),
    cut(
        "no more is marked than must be", "save",
        "if resend or parent == ABSENT or reply[1] == 'locked' then", "if true then",
        "a_refusal_that_stays_true_leaves_no_mark",
    ),
    cut(
        "locked is marked", "save",
        "return refuse({'locked', lease[1], redis.call('PTTL', lease_key)})",
        "return outcome() or {'locked', lease[1], redis.call('PTTL', lease_key)}",
        "a_late_copy_after_locked_is_not_applied",
    ),
    cut(
        "lost to a live lease is marked", "save",
        "return refuse({'lost', lease[2]})", "return outcome() or {'lost', lease[2]}",
        "a_late_copy_after_lost_to_a_live_lease_is_not_applied",
    ),
    cut(
        "lost to a fence is marked", "save",
        "return refuse({'lost', text(head_fence)})", "return outcome() or {'lost', text(head_fence)}",
        "a_late_copy_after_lost_to_a_fence_is_not_applied",
    ),
    cut(
        "conflict is marked", "save",
        "return refuse({'conflict', present and at or '', head_etag or ''})",
        "return outcome() or {'conflict', present and at or '', head_etag or ''}",
        "a_late_copy_after_conflict_is_not_applied",
    ),
    cut(
        "gone is marked", "save",
        "return mark({'gone', present and at or '', head_etag or ''})",
        "return {'gone', present and at or '', head_etag or ''}",
        "a_late_copy_after_gone_is_not_applied",
    ),
    # ------------------------------------------------------------------------------- save: 3. lease
    cut(
        "a live lease locks", "save",
        "if lease[1] and not (carries", "if false and not (carries",
        "a_live_lease_locks_out_who_does_not_carry_it", "a_live_lease_fences_another_holder",
    ),
    cut(
        "the holder passes", "save",
        "if lease[1] and not (carries", "if lease[1] and not (false",
        "the_holder_saves_and_deletes",
    ),
    cut(
        "the lease's holder", "save",
        "lease[1] == holder and", "",
        "a_live_lease_fences_another_holder",
    ),
    cut(
        "the lease's fence", "save",
        " and tonumber(lease[2]) == fence", "",
        "a_live_lease_fences_its_holders_older_one",
    ),
    cut(
        "lost, not locked", "save",
        "  if carries then return refuse({'lost', lease[2]}) end\n", "",
        "a_live_lease_fences_another_holder",
    ),
    cut(
        "a lower fence", "save",
        "fence < head_fence or ", "",
        "a_fence_below_the_heads_has_lost", "fences_survive_a_delete", "an_accepted_save_raises_the_fence",
    ),
    cut(
        "an equal fence of another holder", "save",
        "(fence == head_fence and head_holder and head_holder ~= holder)", "false",
        "an_equal_fence_of_another_holder_has_lost", "fences_survive_a_delete",
    ),
    cut(
        "a lapsed lease that the head names", "save",
        " and head_holder ~= holder", "",
        "a_lapsed_lease_that_the_head_still_names_is_accepted",
    ),
    cut(
        "a head that names no holder", "save",
        "fence == head_fence and head_holder and", "fence == head_fence and",
        "a_head_that_names_no_holder_accepts_an_equal_fence",
    ),
    cut(
        "a released lease", "save",
        "fence == head_fence and head_holder and", "fence == head_fence and (head_holder or '') ~= '' and",
        "a_released_lease_has_lost", "a_late_renewal_or_save_after_the_release_has_lost",
    ),
    cut(
        "fences are only for who carries a lease", "save",
        "if carries and (fence <", "if true and (fence <",
        "without_a_lease_a_lapsed_one_is_no_hindrance",
    ),
    cut(
        "a save raises the fence", "save",
        "'fence', text(fence), 'holder', holder)", "'holder', holder)",
        "an_accepted_save_raises_the_fence",
    ),
    cut(
        "a save names its holder", "save",
        "'fence', text(fence), 'holder', holder)", "'fence', text(fence))",
        "an_accepted_save_raises_the_fence",
    ),
    cut(
        "only a lease raises the fence", "save",
        "if carries and (fence ~= head_fence", "if true and (fence ~= head_fence",
        "without_a_lease_a_lapsed_one_is_no_hindrance",
    ),
    cut(
        "a save that raises the fence says so, also by the same holder", "save",
        "(fence ~= head_fence or head_holder ~= holder)", "head_holder ~= holder",
        "a_holders_later_lease_raises_the_fence",
    ),
    cut(
        "a save names its holder, also by the same fence", "save",
        "(fence ~= head_fence or head_holder ~= holder)", "fence ~= head_fence",
        "a_save_names_its_holder_where_the_head_names_none",
    ),
    moved(
        "lease before conflict", "save", SAVE_LEASE, "-- 4. Refused or resolved",
        "lease_before_conflict",
    ),
    # ----------------------------------------------------------------------------- save: 4. compare
    cut(
        "compare", "save",
        "if current ~= parent then return", "if false then return",
        "of_two_writers_at_one_revision_the_later_conflicts",
        "the_same_version_of_another_incarnation_conflicts",
        "a_save_onto_a_deleted_run_conflicts",
    ),
    cut(
        "compare etags, not versions", "save",
        "if current ~= parent then return",
        "if tonumber(present and at or '0') + 1 ~= tonumber(version) then return",
        "the_same_version_of_another_incarnation_conflicts",
    ),
    cut(
        "gone", "save",
        "  if resend and not known(onto) then return", "  if false then return",
        "a_resend_older_than_the_list_is_gone",
        "a_resend_after_the_run_vanished_is_gone",
        "a_resend_older_than_the_list_is_not_told_of_a_lease",
        "a_second_resend_after_gone_is_gone",
    ),
    cut(
        "gone is for resends", "save",
        "  if resend and not known(onto) then return", "  if not known(onto) then return",
        "a_resend_after_the_run_vanished_is_gone",
    ),
    cut(
        "a parent of zeros is none", "save",
        "  local onto = parent ~= ABSENT and parent\n", "  local onto = parent\n",
        "a_resend_that_the_list_reaches_conflicts", "a_first_save_is_known_however_old",
    ),
    # --------------------------------------------------------------------------------- save: 5. set
    cut(
        "errors are caught", "save",
        "  local reply = redis.pcall(...)\n  if", "  local reply = redis.call(...)\n  if",
        "a_save_that_fails_half_way_changes_nothing", "a_first_save_that_fails_half_way_changes_nothing",
    ),
    cut(
        "undo", "save",
        "    for step = #undo, 1, -1 do redis.pcall(unpack(undo[step])) end\n", "",
        "a_save_that_fails_half_way_changes_nothing", "a_first_save_that_fails_half_way_changes_nothing",
    ),
    cut(
        "what was done is undone", "save",
        "  elseif revert then\n", "  elseif false then\n",
        "a_save_that_fails_half_way_changes_nothing", "a_first_save_that_fails_half_way_changes_nothing",
    ),
    cut(
        "nothing after a failure", "save",
        "  if failed then return end\n", "",
        "a_save_that_fails_half_way_changes_nothing", "a_first_save_that_fails_half_way_changes_nothing",
    ),
    cut(
        "a failure is told", "save",
        "if failed then return {'failed', failed} end\n", "",
        "a_save_that_fails_half_way_changes_nothing", "a_first_save_that_fails_half_way_changes_nothing",
    ),
    cut(
        "a failure is noticed", "save",
        "if type(reply) == 'table' and reply.err then\n    failed", "if false then\n    failed",
        "a_save_that_fails_half_way_changes_nothing", "a_first_save_that_fails_half_way_changes_nothing",
    ),
    cut(
        "the first write is one that full memory refuses", "save",
        "write(not present and {'HDEL', head_key, 'format'}, 'HSET', head_key, 'format', '1')\n", "",
        "a_save_into_full_memory_changes_nothing",
    ),
    cut(
        "a failed first save leaves no head", "save",
        "write(not present and {'HDEL', head_key, 'format'},", "write(nil,",
        "a_first_save_that_fails_leaves_no_key_and_no_immortal_one",
    ),
    cut(
        "the undo of the etag is proven possible", "save", MAKES_ROOM, "",
        "a_save_that_fails_half_way_changes_nothing", "a_first_save_that_fails_half_way_changes_nothing",
    ),
    moved(
        "the undo of the etag is proven possible before the etag is there", "save",
        MAKES_ROOM, "local deadline = lasts",
        "a_save_that_fails_half_way_changes_nothing", "a_first_save_that_fails_half_way_changes_nothing",
    ),
    cut(
        "the etag is taken out again", "save",
        "write({'LTRIM', etags_key, 0, -2}, 'RPUSH'", "write(nil, 'RPUSH'",
        "a_save_that_fails_half_way_changes_nothing", "a_full_list_survives_a_failed_save",
    ),
    cut(
        "the newest etag is taken out again", "save",
        "{'LTRIM', etags_key, 0, -2}", "{'LTRIM', etags_key, 1, -1}",
        "a_save_that_fails_half_way_changes_nothing", "a_full_list_survives_a_failed_save",
    ),
    cut(
        "no other etag is taken out", "save",
        "{'LTRIM', etags_key, 0, -2}", "{'LTRIM', etags_key, 0, -3}",
        "a_save_that_fails_half_way_changes_nothing", "a_full_list_survives_a_failed_save",
    ),
    cut(
        "the etag is remembered", "save",
        "write({'LTRIM', etags_key, 0, -2}, 'RPUSH', etags_key, etag)\n", "",
        "a_resend_finds_its_save_below_a_rivals", "a_late_first_save_does_not_bring_a_deleted_run_back",
    ),
    cut(
        "etags are capped", "save", MAKES_ROOM, "",
        "etags_are_capped",
    ),
    cut(
        "room is made for one", "save",
        "1 - ETAGS", "-ETAGS",
        "etags_are_capped",
    ),
    cut(
        "room is made for one only", "save",
        "1 - ETAGS", "2 - ETAGS",
        "etags_are_capped", "a_full_list_survives_a_failed_save",
    ),
    cut(
        "no lifetime where none is asked for", "save",
        "local lasts = tonumber(ttl)\n", "local lasts = tonumber(ttl) or 1000\n",
        "a_save_without_a_lifetime_leaves_one_alone", "without_a_lifetime_a_run_is_for_ever",
    ),
    cut("the lifetime of the log", "save", LOG_LIVES, "", "one_deadline_for_all_keys"),
    Guard(
        "the lifetime of the head", "save",
        (("  expire(head_key, head_left)\n", ""), (HEAD_LIVES, "")),
        ("one_deadline_for_all_keys",),
    ),
    cut(
        "setting a lifetime is proven possible", "save",
        "  expire(head_key, head_left)\n", "",
        "no_forbidden_command_leaves_half_a_save",
    ),
    cut(
        "a log whose lifetime was over is not brought back", "save", LOG_LIVES, "",
        "a_lifetime_that_is_over_at_once_leaves_nothing_immortal",
    ),
    cut(
        "a head whose lifetime was over is not brought back", "save", HEAD_LIVES, "",
        "a_lifetime_that_is_over_at_once_leaves_nothing_immortal",
    ),
    cut(
        "lifetimes only where one is asked for", "save",
        "if deadline then\n  -- The head again", "if true then\n  -- The head again",
        "a_resend_finds_its_own_save",
    ),
    cut(
        "the lifetime of the etags", "save",
        "if etags_left <= lasts or etags_left > MEMORY_MS then expire(", "if false then expire(",
        "one_deadline_for_all_keys",
    ),
    cut(
        "a lifetime that is renewed", "save",
        "etags_left <= lasts or etags_left > MEMORY_MS", "etags_left > MEMORY_MS",
        "one_deadline_for_all_keys",
    ),
    cut(
        "the memory of a delete is not shortened", "save",
        "if etags_left <= lasts or etags_left > MEMORY_MS then expire(", "if true then expire(",
        "a_short_lived_successor_does_not_shorten_the_memory_of_a_delete",
    ),
    cut(
        "a lifetime that is longer than a memory is shortened", "save",
        "etags_left <= lasts or etags_left > MEMORY_MS", "etags_left <= lasts",
        "a_lifetime_can_be_shortened",
    ),
    cut(
        "lifetimes are read", "save",
        "if lasts then\n  head_left", "if false then\n  head_left",
        "one_deadline_for_all_keys",
    ),
    cut(
        "a run does not expire under its holder", "save",
        "  if carries then lasts = math.max(lasts, redis.call('PTTL', lease_key)) end\n", "",
        "a_save_does_not_cut_a_run_below_its_lease",
    ),
    cut(
        "a longer lifetime than the lease's counts", "save",
        "math.max(lasts, redis.call('PTTL', lease_key))", "redis.call('PTTL', lease_key)",
        "a_save_does_not_cut_a_run_below_its_lease", "a_lapsed_lease_does_not_lengthen_a_lifetime",
    ),
    Guard(
        "lifetimes are read before the first write", "save",
        (
            ("redis.call('PTTL', head_key), redis.call('PTTL', etags_key)", "-1, -1"),
            ("expire(key, left)\n", "expire(key)\n    local left = redis.call('PTTL', key)\n"),
        ),
        ("no_forbidden_command_leaves_half_a_save",),
    ),
    Guard(
        "the clock is read before the first write", "save",
        (
            ("local time = redis.call('TIME')\n", "local time = {'1', '1'}\n"),
            ("local deadline = lasts", "redis.call('TIME')\nlocal deadline = lasts"),
        ),
        ("no_forbidden_command_leaves_half_a_save",),
    ),
    cut(
        "lifetimes are put back", "save",
        "    write(left < 0 and {'PERSIST', key} or {'PEXPIREAT', key, text(now + left)}, 'PEXPIREAT'",
        "    write(nil, 'PEXPIREAT'",
        "a_failed_save_leaves_lifetimes_as_they_were",
    ),
    cut(
        "no lifetime is put back where there was none", "save",
        "    write(left < 0 and {'PERSIST', key} or", "    write(",
        "a_failed_save_leaves_lifetimes_as_they_were",
    ),
    cut(
        "the lifetime that there was is put back", "save",
        "{'PEXPIREAT', key, text(now + left)}", "{'PEXPIREAT', key, text(now + MEMORY_MS)}",
        "a_failed_save_leaves_lifetimes_as_they_were",
    ),
    cut(
        "a lifetime is only given where it is proven that it can be taken off", "save",
        "    if left < 0 then write(nil, 'PERSIST', key) end\n", "",
        "a_failed_save_gives_no_lifetime_though_persist_is_forbidden",
    ),
    cut(
        "no lifetime is taken off where there is one", "save",
        "    if left < 0 then write(nil, 'PERSIST', key) end\n", "    write(nil, 'PERSIST', key)\n",
        "a_failed_save_takes_no_lifetime_though_setting_one_is_forbidden",
    ),
    cut(
        "the successor's etags do not expire", "save",
        "  write({'PEXPIRE', etags_key, MEMORY_MS}, 'PERSIST', etags_key)\n", "",
        "without_a_lifetime_a_run_is_for_ever",
    ),
    cut(
        "the successor's head does not expire", "save",
        "  write({'PEXPIRE', head_key, MEMORY_MS}, 'PERSIST', head_key)\n", "",
        "without_a_lifetime_a_run_is_for_ever",
    ),
    cut(
        "only a successor is made to last", "save",
        "elseif not present then\n", "else\n",
        "a_save_without_a_lifetime_leaves_one_alone",
    ),
    cut(
        "what a delete left expires also after a failure", "save",
        "write({'PEXPIRE', etags_key, MEMORY_MS}, 'PERSIST'", "write(nil, 'PERSIST'",
        "a_first_save_that_fails_leaves_no_key_and_no_immortal_one",
    ),
    cut(
        "a fence that a delete left expires also after a failure", "save",
        "write({'PEXPIRE', head_key, MEMORY_MS}, 'PERSIST'", "write(nil, 'PERSIST'",
        "a_first_save_that_fails_leaves_no_key_and_no_immortal_one",
    ),
    cut(
        "trimming is proven possible", "save",
        "if present and oldest ~= first then write(nil, 'XTRIM', log_key, 'MAXLEN', entries) end\n", "",
        "a_save_that_fails_half_way_changes_nothing",
    ),
    cut(
        "trimming", "save",
        "if present and oldest ~= first then redis.call('XTRIM', log_key, 'MINID', '0-' .. oldest) end\n", "",
        "a_checkpoint_trims_the_log", "trimming_keeps_what_keep_asks_for",
    ),
    cut(
        "keep", "save",
        "<= tonumber(version) - keep do", "<= tonumber(version) do",
        "trimming_keeps_what_keep_asks_for",
    ),
    cut(
        "keep exactly", "save",
        "<= tonumber(version) - keep do", "<= tonumber(version) - keep + 1 do",
        "trimming_keeps_what_keep_asks_for",
    ),
    cut(
        "old spans go", "save",
        "while #spans > 1 and tonumber(", "while false and tonumber(",
        "a_checkpoint_trims_the_log",
    ),
    cut(
        "a moved checkpoint is a span", "save",
        "if moves then spans[", "if not present then spans[",
        "a_checkpoint_trims_the_log",
    ),
    cut(
        "only a moved checkpoint is a span", "save",
        "if moves then spans[", "if true then spans[",
        "what_was_kept_goes_when_its_time_has_come",
    ),
    cut(
        "a moved checkpoint is noticed", "save",
        "local moves = not present or checkpoint ~= tonumber(head[8])\n", "local moves = not present\n",
        "a_checkpoint_trims_the_log", "trimming_keeps_what_keep_asks_for",
    ),
    cut(
        "a checkpoint that stays is no new one", "save",
        "local moves = not present or checkpoint ~= tonumber(head[8])\n", "local moves = true\n",
        "what_was_kept_goes_when_its_time_has_come",
    ),
    cut(
        "a moved checkpoint is not passed over", "save",
        "local oldest = not moves and string.match", "local oldest = string.match",
        "a_checkpoint_trims_the_log",
    ),
    cut(
        "only where there is one span is nothing to be done", "save",
        "'^%d+:(%d+)$'", "'^%d+:(%d+)'",
        "what_was_kept_goes_when_its_time_has_come",
    ),
    cut(
        "a first save has a span", "save",
        "if not oldest or oldest ~= first then\n", "if oldest ~= first then\n",
        "a_checkpoint_trims_the_log",
    ),
    cut(
        "what is trimmed and what the head says stay in step", "save",
        "if not oldest or oldest ~= first then\n", "if not oldest then\n",
        "a_span_that_was_lost_costs_what_it_kept_and_no_more",
    ),
    *(
        cut(f"the head says the {name}", "save", f"'{name}', {value}, ", "", *fails)
        for name, value, fails in (
            ("checkpoint", "text(checkpoint)", ("what_was_kept_goes_when_its_time_has_come",)),
            ("first", "oldest", ("a_checkpoint_trims_the_log",)),
        )
    ),
    cut(
        "what changed is written", "save",
        "if spans then\n", "if not present then\n",
        "a_checkpoint_trims_the_log", "trimming_keeps_what_keep_asks_for",
    ),
    cut(
        "spans are bounded", "save",
        "if #spans > SPANS then", "if false then",
        "spans_are_bounded",
    ),
    cut(
        "the span that is forgotten is nearly the newest", "save",
        "table.remove(spans, #spans - 1)", "table.remove(spans, 2)",
        "the_log_is_bounded_also_when_spans_are_forgotten",
    ),
    cut(
        "first never goes back", "save",
        "if present and tonumber(oldest) < tonumber(first) then oldest = first end\n", "",
        "a_span_that_names_trimmed_entries_is_not_believed",
    ),
    cut(
        "no trimming past the checkpoint", "save",
        "if tonumber(oldest) > checkpoint then return", "if false then return",
        "a_span_past_the_checkpoint_trims_nothing",
    ),
    cut(
        "birth", "save",
        "if not present then redis.call('HSET', head_key, 'created', now, 'origin', etag) end",
        "redis.call('HSET', head_key, 'created', now, 'origin', etag)",
        "meta_and_birth_stay",
    ),
    cut(
        "meta", "save",
        "if meta ~= '' then redis.call('HSET', head_key, 'meta', meta) end",
        "redis.call('HSET', head_key, 'meta', meta)",
        "meta_and_birth_stay",
    ),
    # -------------------------------------------------------------------------------------- resolve
    cut(
        "applied", "resolve",
        "if applied(ticket, parent) then return", "if false then return",
        "a_resend_finds_its_save_after_its_entry_was_trimmed", "a_resent_delete_is_done",
        "full_memory_denies_no_applied_save",
    ),
    cut(
        "the time of the save", "resolve",
        "head_etag == ticket and head[3] or ''", "head[3] or ''",
        "a_resend_finds_its_save_after_its_entry_was_trimmed",
    ),
    *touches("resolve", SAVED),
    *outcomes(
        "resolve", SAVED,
        ("the head's deadline stays the log's", "touch(full and etags_key or head_etag", "touch(head_etag", (
            "touching_moves_no_deadline",
        )),
        ("applied, by the head", *BY_HEAD, ("a_resend_of_the_head_is_saved_though_the_list_is_gone",)),
        ("applied, by the list", *BY_LIST, (
            "a_resend_finds_its_save_after_its_entry_was_trimmed", "a_resent_delete_is_done",
        )),
        ("a first save, by the head", *BY_ORIGIN, ("a_first_save_is_known_however_old",)),
        ("a first save, by its mark", *BY_MARK, ("a_first_save_is_known_however_old",)),
        ("other marks do not say that it was applied", *OTHER_MARKS, ("a_first_save_is_never_applied_after_never",)),
        ("gone, by the parent", *BY_PARENT, (
            "a_resend_older_than_the_list_is_gone", "a_resend_after_the_run_vanished_is_gone",
        )),
        ("a parent that is the head needs no list", *PARENT_IS_HEAD, ("never_needs_no_list_where_the_head_tells",)),
        ("a parent that the list reaches", *PARENT_IN_LIST, ("never_needs_no_list_where_the_head_tells",)),
        ("a first save has no parent to look for", *NO_PARENT, ("a_first_save_is_known_however_old",)),
        ("gone, where the head names no first save", *NO_ORIGIN, (
            "a_head_that_does_not_name_its_first_save_tells_nothing_of_one",
        )),
        ("an absent run has none to name", *ABSENT_RUN, ("a_late_copy_of_a_first_save_after_never_is_not_applied",)),
        ("gone, where a run was deleted that named none", *NOT_LOST, (
            "a_head_that_does_not_name_its_first_save_tells_nothing_of_one",
        )),
    ),
    cut(
        "never is marked", "resolve",
        "remember(ticket, NEVER)\n", "",
        "a_late_copy_after_never_is_not_applied",
        "a_late_copy_of_a_first_save_after_never_is_not_applied",
        "a_late_copy_after_resolve_said_gone_is_not_applied",
        "a_late_delete_after_never_is_not_applied",
        "full_memory_makes_no_unmarked_refusal",
    ),
    *marking("resolve", "a_first_save_is_never_applied_after_never", "a_late_copy_after_never_is_not_applied"),
    cut(
        "never only where it can be told", "resolve",
        "known(parent) and 'never' or 'gone'", "'never'",
        "a_resend_older_than_the_list_is_gone", "a_resend_after_the_run_vanished_is_gone",
    ),
    cut(
        "a parent that is empty is none", "resolve",
        "local parent = expected ~= '' and expected\n", "local parent = expected\n",
        "a_late_copy_of_a_first_save_after_never_is_not_applied",
    ),
    # -------------------------------------------------------------------------------------- marking
    cut(
        "looking for old marks may be forbidden", "marking",
        "redis.pcall('HRANDFIELD'", "redis.call('HRANDFIELD'",
        "marks_count_though_old_ones_may_not_go",
    ),
    cut(
        "taking old marks off may be forbidden", "marking",
        "redis.pcall('HDEL'", "redis.call('HDEL'",
        "marks_count_though_old_ones_may_not_go",
    ),
    cut(
        "old marks go", "marking",
        "if marked and marked < now - MEMORY_MS / 1000 then", "if false then",
        "old_marks_go_while_new_ones_come",
    ),
    cut(
        "only old marks go", "marking",
        "if marked and marked < now - MEMORY_MS / 1000 then", "if marked then",
        "old_marks_go_while_new_ones_come",
    ),
    cut(
        "a mark without a date stays", "marking",
        "if marked and marked < now - MEMORY_MS / 1000 then", "if not marked or marked < now - MEMORY_MS / 1000 then",
        "old_marks_go_while_new_ones_come",
    ),
    # -------------------------------------------------------------------------------------- compare
    cut(
        "format", "compare",
        "if head_etag and head[1] ~= '1' then return", "if false then return",
        "a_newer_format_is_left_alone",
    ),
    cut(
        "log without head", "compare",
        "if not head_etag and entries > 0 then return", "if false then return",
        "a_log_without_a_head_takes_no_save",
    ),
    cut(
        "count of entries", "compare",
        "if not newest or not oldest or newest - oldest + 1 ~= entries then", "if not newest or not oldest then",
        "a_head_without_a_log_takes_no_save", "a_missing_entry_takes_no_save",
    ),
    cut(
        "numbers of the head", "compare",
        "if not newest or not oldest or newest - oldest + 1 ~= entries then",
        "if newest and oldest and newest - oldest + 1 ~= entries then",
        "a_head_whose_numbers_are_none_takes_no_save",
    ),
    cut(
        "a live lease locks", "compare",
        "if lease[1] and not (carries", "if false and not (carries",
        "a_live_lease_locks_out_who_does_not_carry_it", "a_live_lease_fences_another_holder",
    ),
    cut(
        "the holder passes", "compare",
        "if lease[1] and not (carries", "if lease[1] and not (false",
        "the_holder_saves_and_deletes",
    ),
    cut(
        "the lease's holder", "compare",
        "lease[1] == holder and ", "",
        "a_live_lease_fences_another_holder",
    ),
    cut(
        "the lease's fence", "compare",
        " and lease[2] == fence", "",
        "a_live_lease_fences_its_holders_older_one",
    ),
    cut(
        "lost, not locked", "compare",
        "  if carries then return {'lost', lease[2]} end\n", "",
        "a_live_lease_fences_another_holder",
    ),
    cut(
        "fences", "compare",
        "if carries then\n  local mine", "if false then\n  local mine",
        "a_fence_below_the_heads_has_lost", "an_equal_fence_of_another_holder_has_lost",
    ),
    cut(
        "a lower fence", "compare",
        "mine < head_fence or ", "",
        "a_fence_below_the_heads_has_lost",
    ),
    cut(
        "an equal fence of another holder", "compare",
        "(mine == head_fence and head_holder and head_holder ~= holder)", "false",
        "an_equal_fence_of_another_holder_has_lost",
    ),
    cut(
        "a lapsed lease that the head names", "compare",
        " and head_holder ~= holder", "",
        "a_lapsed_lease_that_the_head_still_names_is_accepted",
    ),
    cut(
        "a head that names no holder", "compare",
        "mine == head_fence and head_holder and", "mine == head_fence and",
        "a_head_that_names_no_holder_accepts_an_equal_fence",
    ),
    cut(
        "a released lease", "compare",
        "mine == head_fence and head_holder and", "mine == head_fence and (head_holder or '') ~= '' and",
        "a_released_lease_has_lost",
    ),
    cut(
        "a run does not expire under its holder", "compare",
        "  if carries then lasts = math.max(lasts, redis.call('PTTL', lease_key)) end\n", "",
        "a_save_does_not_cut_a_run_below_its_lease",
    ),
    cut(
        "a longer lifetime than the lease's counts", "compare",
        "math.max(lasts, redis.call('PTTL', lease_key))", "redis.call('PTTL', lease_key)",
        "a_save_does_not_cut_a_run_below_its_lease", "a_lapsed_lease_does_not_lengthen_a_lifetime",
    ),
    cut(
        "compare", "compare", COMPARE_ETAGS, "",
        "of_two_writers_at_one_revision_the_later_conflicts", "the_same_version_of_another_incarnation_conflicts",
    ),
    moved(
        "lease before conflict", "compare", COMPARE_ETAGS, "local lease = redis.call('HMGET'",
        "lease_before_conflict",
    ),
    cut(
        "a lifetime is renewed", "compare",
        "if lasts then\n", "if false then\n",
        "one_deadline_for_all_keys",
    ),
    *(
        cut(
            f"the lifetime of the {name}", "compare",
            f"  redis.call('PEXPIREAT', {name}_key, deadline)\n", "",
            "one_deadline_for_all_keys",
        )
        for name in ("head", "log")
    ),
    cut(
        "the lifetime of the etags", "compare",
        "if left <= lasts or left > MEMORY_MS then", "if false then",
        "one_deadline_for_all_keys",
    ),
    cut(
        "a lifetime that is renewed", "compare",
        "left <= lasts or left > MEMORY_MS", "left > MEMORY_MS",
        "one_deadline_for_all_keys",
    ),
    cut(
        "the memory of a delete is not shortened", "compare",
        "if left <= lasts or left > MEMORY_MS then", "if true then",
        "a_compare_does_not_shorten_the_memory_of_a_delete",
    ),
    cut(
        "a lifetime that is longer than a memory is shortened", "compare",
        "left <= lasts or left > MEMORY_MS", "left <= lasts",
        "a_compare_can_shorten_a_lifetime",
    ),
    # --------------------------------------------------------------------------------------- delete
    cut(
        "a delete that was applied is found before a refusal", "delete",
        "  if applied(ticket, parent) then return confirm({'deleted'}) end\n  if resend", "  if resend",
        "a_resent_delete_leaves_the_successor", "a_copy_of_an_applied_delete_is_deleted_whatever_came_since",
    ),
    cut(
        "a late copy finds that the run was deleted while it was absent", "delete",
        "if not there and applied", "if false and applied",
        "a_late_forced_delete_of_an_absent_run_leaves_the_successor",
    ),
    *outcomes(
        "delete", DELETED,
        ("applied, by the list", *BY_LIST, (
            "a_resent_delete_leaves_the_successor", "a_copy_of_an_applied_delete_is_deleted_whatever_came_since",
        )),
        ("a delete of damage, by its mark", *BY_MARK, ("an_applied_delete_of_a_damaged_run_is_known_by_its_mark",)),
        ("other marks do not say that it was applied", *OTHER_MARKS, (
            "a_copy_of_a_refused_first_send_is_refused_too",
        )),
        ("gone, by what was expected", *BY_PARENT, (
            "a_resent_delete_older_than_the_list_is_gone", "a_late_delete_after_gone_is_not_applied",
        )),
        ("a head that is what was expected needs no list", *PARENT_IS_HEAD, (
            "a_save_resent_onto_the_head_is_applied_though_the_list_is_gone",
        )),
        ("what the list reaches", *PARENT_IN_LIST, ("a_resent_delete_that_the_list_reaches_conflicts",)),
        ("a damaged run has no etag to look for", *NO_PARENT, ("a_resent_delete_that_the_list_reaches_conflicts",)),
        ("gone, where the head names no first save", *NO_ORIGIN, (
            "a_head_that_does_not_name_its_first_save_tells_nothing_of_one",
        )),
        ("gone, where a run was deleted that named none", *NOT_LOST, (
            "an_applied_delete_of_a_damaged_run_is_known_by_its_mark",
        )),
        (
            "a list of a foreign type is not searched", "listed and redis.call('LPOS'", "redis.call('LPOS'",
            ("a_resent_delete_bears_a_list_of_a_foreign_type",),
        ),
        (
            "a list of a foreign type is not measured", "local full = listed and", "local full =",
            ("a_copy_of_an_applied_delete_of_damage_reaches_no_other_damage",),
        ),
    ),
    *marking(
        "delete", "a_late_copy_of_a_refused_delete_is_not_applied",
        "a_late_copy_of_a_refused_delete_is_not_applied", "a_copy_of_a_refused_first_send_is_refused_too",
    ),
    cut(
        "a list of a foreign type is not read", "delete",
        "local listed = kind(etags_key) == 'list'", "local listed = true",
        "a_delete_clears_damage",
    ),
    cut(
        "a head of a foreign type is not read", "delete",
        "local healthy = kind(head_key) == 'hash'", "local healthy = true",
        "a_delete_clears_damage",
    ),
    *(
        cut(f"{what} is a run", "delete", old, new, "a_delete_clears_damage")
        for what, old, new in (
            ("a head with only a version", "local there = head[1] or head[2]", "local there = head[2]"),
            ("a head with only an etag", "local there = head[1] or head[2]", "local there = head[1]"),
            ("a log without a head", " or kind(log_key) ~= 'none'", ""),
            ("a head of a foreign type", " or foreign(head_key, 'hash')", ""),
            ("a list of a foreign type", "  or foreign(etags_key, 'list')", " "),
            ("marks of a foreign type", " or foreign(marks_key, 'hash')", ""),
            ("a lease of a foreign type", " or foreign(lease_key, 'hash')", ""),
        )
    ),
    *(
        cut(
            f"a {name} of a foreign type goes", "delete",
            f"if foreign({name}_key, 'hash') then write('DEL', {name}_key) end\n", "",
            "a_delete_clears_marks_and_a_lease_of_a_foreign_type", "a_delete_clears_damage",
        )
        for name in ("marks", "lease")
    ),
    cut(
        "a fence that is no number is damage", "delete",
        "tonumber(head[3] or '0') or 0", "tonumber(head[3] or '0')",
        "a_delete_clears_damage",
    ),
    cut(
        "marks of a foreign type are not read", "delete",
        "kind(marks_key) == 'hash' and ", "",
        "a_delete_clears_marks_and_a_lease_of_a_foreign_type",
    ),
    cut(
        "a lease of a foreign type is not read", "delete",
        "kind(lease_key) == 'hash' and ", "",
        "a_delete_clears_marks_and_a_lease_of_a_foreign_type",
    ),
    cut(
        "marks are obeyed", "delete",
        "redis.call('HEXISTS', marks_key, ticket) == 1\n", "false\n",
        "a_late_copy_of_a_refused_delete_is_not_applied", "a_late_delete_after_never_is_not_applied",
    ),
    cut(
        "absent", "delete",
        "if not there then\n", "if false then\n",
        "a_delete_leaves_only_memory",
    ),
    cut(
        "a forced delete of an absent run fences its holder", "delete",
        "    fence_off()\n", "",
        "a_forced_delete_of_an_absent_run_fences_its_holder",
    ),
    cut(
        "a delete of an absent run leaves all alone", "delete",
        "  if force then\n", "  if true then\n",
        "a_delete_of_an_absent_run_writes_nothing",
    ),
    cut(
        "that what an absent run leaves may expire is proven", "delete",
        PROVEN, PROVEN.replace(RENEWED, ""),
        "a_forced_delete_of_an_absent_run_that_is_acknowledged_has_fenced", "full_memory_takes_deletes",
    ),
    moved(
        "the holder is fenced before the ticket is listed", "delete",
        "    fence_off()\n", "  end\n  -- A resend was sent",
        "a_forced_delete_of_an_absent_run_that_is_acknowledged_has_fenced",
    ),
    cut(
        "a forced delete of an absent run is remembered", "delete",
        LISTED, RENEWED,
        "a_forced_delete_of_an_absent_run_leaves_only_its_ticket",
        "a_late_forced_delete_of_an_absent_run_leaves_the_successor",
    ),
    cut(
        "the ticket of an absent run expires", "delete",
        LISTED, LISTED.replace(RENEWED, ""),
        "a_forced_delete_of_an_absent_run_leaves_only_its_ticket",
    ),
    cut(
        "the tickets of absent runs are capped", "delete",
        "    redis.call('LTRIM', etags_key, -ETAGS, -1)\n", "",
        "a_forced_delete_of_an_absent_run_leaves_only_its_ticket",
    ),
    cut(
        "a resend for a run that is gone is done", "delete",
        "  if resend then return touch(etags_key) or {'deleted'} end\n", "",
        "a_delete_resent_for_a_run_that_another_deleted_is_done",
    ),
    cut(
        "a first send for a run that is gone is told so", "delete",
        "  if resend then return touch(etags_key)", "  if true then return touch(etags_key)",
        "a_delete_of_an_absent_run_writes_nothing",
    ),
    *answers("delete", "absent", "  if resend then return touch(etags_key)", DELETED),
    *touches("delete", DELETED),
    *(
        cut(f"{what} is marked", "delete", "if resend or not parent or reply[1] == 'locked' then", kept, *fails)
        for what, kept, fails in (
            ("a refused resend", "if not parent or reply[1] == 'locked' then", (
                "a_late_copy_of_a_refused_delete_is_not_applied",
            )),
            ("a refused delete of damage", "if resend or reply[1] == 'locked' then", (
                "a_copy_of_a_refused_first_send_is_refused_too",
            )),
            ("what is locked out", "if resend or not parent then", ("a_copy_of_a_refused_first_send_is_refused_too",)),
        )
    ),
    cut(
        "no more is marked than must be", "delete",
        "if resend or not parent or reply[1] == 'locked' then", "if true then",
        "a_refusal_that_stays_true_leaves_no_mark",
    ),
    cut(
        "a mark hides no applied delete", "delete",
        DELETE_MARKED, "if marked then return {'cancelled'} end\n",
        "a_copy_of_an_applied_delete_of_damage_reaches_no_other_damage",
    ),
    cut(
        "marks are obeyed where the run is absent", "delete",
        "  if marked then return {'cancelled'} end\n", "",
        "a_late_forced_delete_that_was_refused_fences_nobody",
    ),
    moved(
        "a reason that still holds is told, not the mark", "delete", DELETE_MARKED, "-- Leaves a head that only",
        "a_copy_of_a_refused_first_send_is_refused_too",
    ),
    cut(
        "lost to a live lease is marked", "delete",
        "return refuse({'lost', lease[2]})", "return {'lost', lease[2]}",
        "a_late_copy_of_a_refused_delete_is_not_applied",
    ),
    cut(
        "locked is marked", "delete",
        "return refuse({'locked', lease[1], redis.call('PTTL', lease_key)})",
        "return {'locked', lease[1], redis.call('PTTL', lease_key)}",
        "a_late_copy_of_a_refused_delete_is_not_applied",
    ),
    cut(
        "lost to a fence is marked", "delete",
        "return refuse({'lost', text(head_fence)})", "return {'lost', text(head_fence)}",
        "a_late_copy_of_a_refused_delete_is_not_applied",
    ),
    cut(
        "conflict is marked", "delete",
        "return refuse({'conflict', head[1] or '', head_etag or ''})",
        "return {'conflict', head[1] or '', head_etag or ''}",
        "a_late_copy_of_a_refused_delete_is_not_applied",
    ),
    cut(
        "gone is marked", "delete",
        "return mark({'gone', head[1] or '', head_etag or ''})", "return {'gone', head[1] or '', head_etag or ''}",
        "a_resent_delete_older_than_the_list_is_gone", "a_late_delete_after_gone_is_not_applied",
    ),
    cut(
        "gone", "delete",
        "  if resend and not known(parent) then return", "  if false then return",
        "a_resent_delete_older_than_the_list_is_gone", "a_resent_delete_older_than_the_list_is_not_told_of_a_lease",
        "an_applied_delete_is_not_a_conflict_after_the_list_was_evicted",
    ),
    cut(
        "gone is for resends", "delete",
        "  if resend and not known(parent) then return", "  if not known(parent) then return",
        "a_resent_delete_older_than_the_list_is_gone",
    ),
    cut(
        "a forced delete obeys no lease", "delete",
        "if not force then\n", "if true then\n",
        "a_forced_delete_fences_the_holder",
    ),
    cut(
        "a live lease locks", "delete",
        "if lease[1] and not (carries", "if false and not (carries",
        "a_live_lease_locks_out_who_does_not_carry_it", "a_live_lease_fences_another_holder",
    ),
    cut(
        "the holder passes", "delete",
        "if lease[1] and not (carries", "if lease[1] and not (false",
        "the_holder_saves_and_deletes",
    ),
    cut(
        "the lease's holder", "delete",
        "lease[1] == holder and ", "",
        "a_live_lease_fences_another_holder",
    ),
    cut(
        "the lease's fence", "delete",
        " and lease[2] == fence", "",
        "a_live_lease_fences_its_holders_older_one",
    ),
    cut(
        "lost, not locked", "delete",
        "    if carries then return refuse({'lost', lease[2]}) end\n", "",
        "a_live_lease_fences_another_holder",
    ),
    cut(
        "fences", "delete",
        "  if carries then\n    local mine", "  if false then\n    local mine",
        "a_fence_below_the_heads_has_lost",
    ),
    cut(
        "a lower fence", "delete",
        "mine < head_fence or ", "",
        "a_fence_below_the_heads_has_lost",
    ),
    cut(
        "an equal fence of another holder", "delete",
        "(mine == head_fence and head[4] and head[4] ~= holder)", "false",
        "an_equal_fence_of_another_holder_has_lost",
    ),
    cut(
        "a lapsed lease that the head names", "delete",
        "head[4] and head[4] ~= holder", "head[4]",
        "a_lapsed_lease_that_the_head_still_names_is_accepted",
    ),
    cut(
        "a head that names no holder", "delete",
        "head[4] and head[4] ~= holder", "head[4] ~= holder",
        "a_head_that_names_no_holder_accepts_an_equal_fence",
    ),
    cut(
        "a released lease", "delete",
        "head[4] and head[4] ~= holder", "head_holder ~= '' and head_holder ~= holder",
        "a_released_lease_has_lost",
    ),
    cut(
        "compare", "delete", DELETE_ETAGS, "",
        "of_two_writers_at_one_revision_the_later_conflicts",
        "the_same_version_of_another_incarnation_conflicts",
        "a_resent_delete_leaves_the_successor",
    ),
    moved(
        "lease before conflict", "delete", DELETE_ETAGS, "if not force then\n",
        "lease_before_conflict",
    ),
    cut(
        "errors are caught", "delete",
        "  local reply = redis.pcall(...)\n  if", "  local reply = redis.call(...)\n  if",
        "a_delete_that_fails_half_way_deletes_nothing",
    ),
    cut(
        "a failure is noticed", "delete",
        "  if type(reply) == 'table' and reply.err then failed = reply.err end\n", "",
        "a_delete_that_fails_half_way_deletes_nothing",
    ),
    cut(
        "nothing after a failure", "delete",
        "  if failed then return end\n", "",
        "a_delete_that_fails_half_way_deletes_nothing",
    ),
    cut(
        "a failure is told", "delete",
        "  return {'failed', failed}\n", "",
        "a_delete_that_fails_half_way_deletes_nothing",
    ),
    cut(
        "the ticket is taken out again", "delete",
        "  if pushed then redis.pcall('LREM', etags_key, -1, ticket) end\n", "",
        "a_delete_that_fails_half_way_deletes_nothing",
    ),
    cut(
        "a list of a foreign type is replaced", "delete",
        "if not listed then write('DEL', etags_key) end\n", "",
        "a_delete_clears_damage",
    ),
    cut(
        "the first write is one that full memory cannot refuse", "delete",
        "write('LREM', etags_key, 1, ticket)\n", "",
        "full_memory_takes_deletes",
    ),
    cut(
        "the ticket is remembered", "delete",
        "local pushed = write('RPUSH', etags_key, ticket)\n", "local pushed\n",
        "a_resent_delete_leaves_the_successor",
    ),
    cut(
        "etags are capped", "delete",
        "write('LTRIM', etags_key, -ETAGS, -1)\n", "",
        "etags_are_capped",
    ),
    Guard(
        "that a fence may be left is proven by the marks", "delete",
        (
            ("write('HSET', marks_key, origin", "redis.pcall('HSET', marks_key, origin"),
            ("not parent and write('HSET'", "not parent and redis.pcall('HSET'"),
        ),
        ("a_delete_that_fails_half_way_deletes_nothing", "a_forced_delete_that_is_acknowledged_has_fenced"),
    ),
    Guard(
        "the clock is read before the first write", "delete",
        (
            ("local time = redis.call('TIME')\n", "local time = {'1', '1'}\n"),
            ("local function fence_off()\n", "local function fence_off()\n  redis.call('TIME')\n"),
        ),
        ("a_forced_delete_that_is_acknowledged_has_fenced",),
    ),
    moved(
        "the fence is written before the lease ends", "delete",
        "  if fences then redis.call('DEL', lease_key) end\n", "  if head_fence > 0 then\n",
        "a_forced_delete_that_cannot_fence_leaves_the_lease",
    ),
    cut(
        "leaving marks and etags to expire is proven possible", "delete",
        "write('PEXPIRE', marks_key, MEMORY_MS)\n-- A run", "-- A run",
        "a_delete_that_fails_half_way_leaves_no_mark_without_an_end",
    ),
    cut(
        "the marks expire", "delete",
        "write('PEXPIRE', marks_key, MEMORY_MS)\nwrite('DEL'", "write('DEL'",
        "a_delete_leaves_only_memory",
    ),
    cut(
        "taking the delete's own mark off is proven possible", "delete",
        "write('HDEL', marks_key, ticket)\n", "",
        "a_delete_of_damage_that_fails_half_way_is_not_told_as_done",
    ),
    cut(
        "the delete's own mark is taken off", "delete",
        "  if own then redis.pcall('HDEL', marks_key, ticket) end\n", "",
        "a_delete_of_damage_that_fails_half_way_is_not_told_as_done",
    ),
    cut(
        "the first save of a run that goes is marked", "delete",
        "write('HSET', marks_key, origin or LOST, APPLIED .. ' ' .. time[1])\n", "",
        "a_first_save_is_known_however_old", "a_resent_first_save_does_not_bring_a_run_back_that_forgot_it",
    ),
    cut(
        "where it is not known, that is marked", "delete",
        "origin or LOST, APPLIED", "origin or ticket, APPLIED",
        "a_head_that_does_not_name_its_first_save_tells_nothing_of_one",
    ),
    cut(
        "a delete of damage marks itself", "delete",
        "not parent and write('HSET', marks_key, ticket, APPLIED .. ' ' .. time[1])\n", "false\n",
        "an_applied_delete_of_a_damaged_run_is_known_by_its_mark",
    ),
    cut(
        "deleting", "delete",
        "write('DEL', head_key, log_key)\n", "",
        "a_delete_leaves_only_memory",
    ),
    cut(
        "the etags expire", "delete",
        "redis.call('PEXPIRE', etags_key, MEMORY_MS)\nif carries", "if carries",
        "a_delete_leaves_only_memory", "without_a_lifetime_a_run_is_for_ever",
    ),
    cut(
        "a forced delete fences the holder", "delete",
        "local fences = force and (lease[1] or head_fence > 0)\n", "local fences = false\n",
        "a_forced_delete_fences_the_holder",
    ),
    cut(
        "only a forced delete fences the holder", "delete",
        "local fences = force and (lease[1] or head_fence > 0)\n", "local fences = lease[1] or head_fence > 0\n",
        "the_holder_saves_and_deletes", "fences_survive_a_delete",
    ),
    cut(
        "a forced delete fences whom only the head names", "delete",
        "local fences = force and (lease[1] or head_fence > 0)\n", "local fences = force and lease[1]\n",
        "a_forced_delete_fences_a_holder_whose_lease_lapsed", "a_forced_delete_of_an_absent_run_fences_its_holder",
    ),
    cut(
        "a forced delete fences whom only the lease names", "delete",
        "local fences = force and (lease[1] or head_fence > 0)\n", "local fences = force and head_fence > 0\n",
        "a_forced_delete_of_an_absent_run_fences_its_holder", "a_forced_delete_raises_the_fence_above_all",
    ),
    cut(
        "a forced delete leaves no fence where nobody held", "delete",
        "local fences = force and (lease[1] or head_fence > 0)\n", "local fences = force\n",
        "a_delete_leaves_only_memory", "a_forced_delete_of_an_absent_run_leaves_only_its_ticket",
    ),
    cut(
        "the fence is raised with what is deleted", "delete",
        "fence_off()\nreturn {'deleted'}", "return {'deleted'}",
        "a_forced_delete_fences_the_holder", "fences_survive_a_delete",
    ),
    cut(
        "above the head's fence", "delete",
        "math.max(head_fence + 1, ", "math.max(",
        "a_forced_delete_raises_the_fence_above_all",
    ),
    cut(
        "above the lease's fence", "delete",
        "(tonumber(lease[2]) or 0) + 1, ", "",
        "a_forced_delete_raises_the_fence_above_all",
    ),
    cut(
        "above the clock", "delete",
        "+ 1, now), ''", "+ 1), ''",
        "a_forced_delete_raises_the_fence_above_all",
    ),
    cut(
        "a forced delete ends the lease", "delete",
        "  if fences then redis.call('DEL', lease_key) end\n", "",
        "a_forced_delete_fences_the_holder", "a_forced_delete_of_an_absent_run_fences_its_holder",
    ),
    cut(
        "only a forced delete ends the lease", "delete",
        "  if fences then redis.call('DEL', lease_key) end\n", "  redis.call('DEL', lease_key)\n",
        "a_delete_by_the_holder_leaves_the_lease",
    ),
    cut(
        "only a forced delete raises the fence", "delete",
        "  if fences then head_fence, head_holder =", "  if true then head_fence, head_holder =",
        "the_holder_saves_and_deletes", "fences_survive_a_delete",
    ),
    cut(
        "a forced delete raises the fence", "delete",
        "  if fences then head_fence, head_holder =", "  if false then head_fence, head_holder =",
        "a_forced_delete_fences_the_holder",
    ),
    cut(
        "a delete leaves the fence of its lease", "delete",
        "if carries and not force then head_fence", "if false then head_fence",
        "a_delete_with_a_lease_leaves_its_fence",
    ),
    cut(
        "a forced delete does not go by the lease that it carries", "delete",
        "if carries and not force then head_fence", "if carries then head_fence",
        "a_forced_delete_with_a_lease_does_not_lower_the_fence",
    ),
    cut(
        "fences survive", "delete",
        "    redis.call('HSET', head_key, 'fence', text(head_fence), 'holder', head_holder, 'left', head[6] or '')\n",
        "",
        "fences_survive_a_delete", "a_forced_delete_fences_the_holder",
    ),
    cut(
        "a head is only left for a fence", "delete",
        "  if head_fence > 0 then\n", "  if true then\n",
        "a_delete_leaves_only_memory",
    ),
    cut(
        "the fence expires", "delete",
        "    redis.call('PEXPIRE', head_key, remembered)\n", "",
        "fences_survive_a_delete", "a_forced_delete_fences_the_holder", "without_a_lifetime_a_run_is_for_ever",
    ),
    cut(
        "the fence does not expire before the lease", "delete",
        "math.max(MEMORY_MS, carries and lease[1] and redis.call('PTTL', lease_key) or 0)", "MEMORY_MS",
        "the_head_that_a_holder_deletes_lives_as_long_as_the_lease",
    ),
    *LEASE_GUARDS,
)  # fmt: skip

NO_GUARDS: Final = {
    "save": {
        "if present then": "opens the check of the count; without it an absent run's count would be checked too",
        "if deadline then": "chooses between the lifetimes, each of which is a guard above",
    },
    "compare": {"if head_etag then": "opens the check of the count"},
    "delete": {
        "if failed then": "opens what is done after a failure, each line of which is a guard above",
    },
    "resolve": {},
    "touch": {},
    "common": {},
    "outcome": {},
    "marking": {},
    "probe": {"if type(reply) == 'table' and reply.err then": "test_probe.py"},
    **LEASE_NO_GUARDS,
}

# Each line of `touch` that tries a command is one, too; at the start of a line it is the probe's, for test_probe.py.
DECISION: Final = re.compile(
    r"\b(if|elseif|while)\b|\b(refuse|touch|fence_off|expire)\(|(?<=\s)try\(|\b(reaches|there|fences|ELSEWHERE) = "
)
# Of what leases are made of, each write is one as well, and each number that is chosen between.
LEASE_DECISION: Final = re.compile(
    DECISION.pattern + r"|\b(grant|hand_off|outlive|ring|tell)\(|\bmath\.(max|min)\(|\b(held, named|processes, row) = "
    r"|\('(DEL|HSET|LPOP|LREM|PEXPIRE|PEXPIREAT|PUBLISH|RPUSH)',"
)

CASES: Final = [(guard, name) for guard in GUARDS for name in guard.fails]


@pytest.mark.parametrize(("guard", "name"), CASES, ids=[f"{guard.file}: {guard.name}: {name}" for guard, name in CASES])
def test_without_the_guard_the_scenario_fails(guard: Guard, name: str, make_world: Callable[..., World]) -> None:
    """A scenario that holds on the real scripts (test_scenarios.py) does not hold without the guard."""
    world = make_world(name, guard.sources())
    with pytest.raises(AssertionError):
        SCENARIOS[name](world)


@pytest.mark.parametrize("name", FILES)
def test_every_decision_of_a_file_is_a_guard_or_said_to_be_none(name: str) -> None:
    """No decision or refusal was added to a script without being proven here, and no excuse outlived its line."""
    source = FILES[name]
    covered: set[int] = set()
    for guard in GUARDS:
        if guard.file == name:
            for old, _ in guard.edits:
                start = source.index(old)
                first = source.count("\n", 0, start)
                covered |= set(range(first, first + old.rstrip("\n").count("\n") + 1))
    decision = LEASE_DECISION if name in LEASE_NO_GUARDS else DECISION
    lines = strip(source).split("\n")
    decisions = {n: line.strip() for n, line in enumerate(lines) if decision.search(line)}
    open_ = {n: line for n, line in decisions.items() if n not in covered and not line.startswith("local function")}
    unproven = {n: line for n, line in open_.items() if line not in NO_GUARDS[name]}
    assert not unproven, f"{name}.lua has decisions that no guard here takes out: {unproven}"
    assert set(NO_GUARDS[name]) == set(open_.values()), "an excuse for a line that is gone, or a guard by now"


def test_guards_have_names_of_their_own_and_scenarios_that_exist() -> None:
    """The table is sound: no name twice in a file, no scenario that nobody tells."""
    names = [(guard.file, guard.name) for guard in GUARDS]
    assert len(names) == len(set(names)), [name for name in names if names.count(name) > 1]
    assert {name for guard in GUARDS for name in guard.fails} <= set(SCENARIOS)


def test_the_files_are_what_the_scripts_are_made_of() -> None:
    """What a guard is cut out of is put together as the library does it."""
    assert {script.name: script.source for script in ALL} == {script.name: composed(script.name) for script in ALL}
