"""Every guard of the scripts is needed: a scenario that holds with it fails when it is changed.

The Lua names its guards by markers (see `guards/markers.py`), and `guards/` names each change and what fails then.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import Final

import pytest

from histstore.protocol.scripts import ALL, strip

from .guards import GUARDS, Guard
from .guards.markers import FILES, composed, find_excuses, find_markers
from .scenarios import SCENARIOS
from .world import World

# Lines that decide something, by what stands in them. In `touch` each line that tries a command decides, too; at the
# start of a line `try(` is the probe's, for test_probe.py.
DECISION: Final = re.compile(
    r"\b(if|elseif|while)\b|\b(refuse|touch|leave_fence|expire)\(|(?<=\s)try\(|\b(exists|must_fence|ELSEWHERE) = "
)
# In the lease scripts and what they include, each write decides as well, and each number that is chosen from several.
LEASE_DECISION: Final = re.compile(
    DECISION.pattern + r"|\b(grant|hand_off|outlive|ring|notify)\(|\bmath\.(max|min)\(|\b(held|named|processes|row) = "
    r"|\('(DEL|HSET|LPOP|LREM|PEXPIRE|PEXPIREAT|PUBLISH|RPUSH)',"
)
LEASE_FILES: Final = {"acquire", "renew", "release", "granting", "lasting"}

CASES: Final = [(guard, name) for guard in GUARDS for name in guard.fails]


@pytest.mark.parametrize(("guard", "name"), CASES, ids=[f"{guard}: {name}" for guard, name in CASES])
def test_without_the_guard_the_scenario_fails(guard: Guard, name: str, make_world: Callable[..., World]) -> None:
    """A scenario that holds on the real scripts (test_scenarios.py) fails on a script with the guard changed."""
    world = make_world(name, guard.sources())
    with pytest.raises(AssertionError):
        SCENARIOS[name](world)


@pytest.mark.parametrize("file", FILES)
def test_every_marker_has_a_guard_that_is_tested(file: str) -> None:
    """Each marker of a file has a change that makes a scenario fail, and each change has its marker."""
    tested = {guard.marker for guard in GUARDS if guard.file == file}
    markers = set(find_markers(FILES[file]))
    assert not markers - tested, f"no test fails without these guards of {file}.lua: {sorted(markers - tested)}"
    assert not tested - markers, f"{file}.lua does not mark these guards: {sorted(tested - markers)}"


@pytest.mark.parametrize("file", FILES)
def test_every_decision_is_marked(file: str) -> None:
    """Each line that decides something is marked as a guard, or says why it is none."""
    source = FILES[file]
    decision = LEASE_DECISION if file in LEASE_FILES else DECISION
    lines = {number: line.strip() for number, line in enumerate(strip(source).split("\n"))}
    decisions = {n for n, line in lines.items() if decision.search(line) and not line.startswith("local function")}
    marked = {number for marker in find_markers(source).values() for number in marker.proven()}
    excused = set(find_excuses(source))
    unproven = {n + 1: lines[n] for n in decisions - marked - excused}
    assert not unproven, f"{file}.lua decides without a guard: {unproven}"
    assert excused <= decisions - marked, f"{file}.lua excuses what decides nothing, or is a guard"


def test_guards_have_names_of_their_own_and_scenarios_that_exist() -> None:
    """No guard is changed twice in the same way, and each change names its scenarios."""
    names = [str(guard) for guard in GUARDS]
    assert len(names) == len(set(names)), [name for name in names if names.count(name) > 1]
    assert all(guard.fails for guard in GUARDS)
    assert {name for guard in GUARDS for name in guard.fails} <= set(SCENARIOS)


def test_the_files_are_what_the_scripts_are_made_of() -> None:
    """The guards' files are put together as the library puts them together."""
    assert {script.name: script.source for script in ALL} == {script.name: composed(script.name) for script in ALL}


@pytest.mark.parametrize(
    ("source", "problem"),
    [
        ("f() -- guard: a\ng() -- guard: a\n", "two guards are named a"),
        ("f() -- guard: Not a name\n", "not a marker"),
        ("-- guard: a\nif f() then\n  g()\n", "does not end"),
    ],
    ids=["twice", "misspelt", "open"],
)
def test_a_wrong_marker_is_an_error(source: str, problem: str) -> None:
    """A marker that would cut nothing, or not what it seems to, fails loudly."""
    with pytest.raises(AssertionError, match=problem):
        find_markers(source)


def test_a_marker_that_is_missing_is_an_error() -> None:
    """A guard of the table that the Lua does not mark fails loudly."""
    guard = GUARDS[0]
    gone = Guard("no-such-guard", guard.how, guard.change, guard.fails, guard.file)
    with pytest.raises(AssertionError, match=r"save\.lua has no guard no-such-guard"):
        gone.sources()
