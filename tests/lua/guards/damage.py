"""The guards against damage, which `save.lua` and `compare.lua` have alike."""

from __future__ import annotations

from typing import Final

from .changes import never, swap, without

DAMAGE: Final = (
    never("format", "a_newer_format_is_left_alone"),
    never("no-head", "a_log_without_a_head_takes_no_save"),
    without(
        "entry-count",
        " or newest - oldest + 1 ~= entries",
        "a_head_without_a_log_takes_no_save",
        "a_missing_entry_takes_no_save",
    ),
    swap(
        "entry-count",
        "not newest or not oldest or",
        "newest and oldest and",
        "a_head_whose_numbers_are_none_takes_no_save",
    ),
)
