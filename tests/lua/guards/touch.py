"""The guards of `touch.lua`, as each script includes it."""

from __future__ import annotations

from typing import Final

from .changes import Guard, cut, never, of_file, raising, swap, without
from .confirmed import DELETED, SAVED, Confirmed


def _touch(script: str, by: Confirmed) -> tuple[Guard, ...]:
    return of_file(
        "touch",
        without("demoted-errors", "READONLY ", by.read_only),
        without("demoted-errors", "NOREPLICAS ", by.lacking),
        raising("tried", by.permitted),
        without("error-word", "type(reply) == 'table' and reply.err and ", by.writes),
        never("demoted", by.read_only, by.lacking),
        without("demoted", " and string.find(ELSEWHERE, ' ' .. word .. ' ', 1, true)", by.permitted),
        without("demoted", " .. word .. ' '", by.permitted),
        raising("lifetime-read", by.permitted),
        cut("lifetime-unreadable", by.permitted),
        never("lifetime-renewed", by.same),
        swap("lifetime-renewed", ">= 0", ">= -1", by.same),
        raising("same-lifetime", by.permitted),
        swap("same-lifetime", "math.max(left, 1)", "60000", by.same),
        never("persist-first", by.writes),
        raising("persist-first", by.permitted),
        without("persist-first", "try('PERSIST', key) == 0 and ", by.permitted),
        cut("lifetime-given", by.writes),
        raising("lifetime-given", by.permitted),
        cut("lifetime-removed", by.same, by.full),
        cut("refusal-returned", by.read_only, by.lacking),
        script=script,
    )


GUARDS: Final = (*_touch("save", SAVED), *_touch("resolve", SAVED), *_touch("delete", DELETED))
