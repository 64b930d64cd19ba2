"""Checks the protocol's models: the full design holds, and each guard taken out breaks the promise that it is for.

    python tests/model/run.py             every world; some minutes, and up to 3 GB of memory for each of two jobs
    python tests/model/run.py --quick     the small worlds, and every guard
    python tests/model/run.py --only no_ghost_lease    the checks whose row holds that (a regular expression)

Exit status: 0 all as expected, 1 a deviation, 2 spin or a C compiler is missing.

`--keep FOLDER` leaves the counterexamples, one folder a check; there, with the flags of its row,
`spin -p -k lease_protocol.pml.trail -DTIMER=0 …/tests/model/lease_protocol.pml` tells one step by step.

Standard library only.
"""

from __future__ import annotations

import argparse
import concurrent.futures
import re
import shutil
import subprocess
import sys
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Final

HERE: Final = Path(__file__).resolve().parent
COMPILER: Final = "gcc"  # by this name spin calls the preprocessor
INSTALL: Final = "apt-get install spin gcc libc6-dev"
HOLDS: Final = "holds"

DEPTH: Final = 10_000  # steps; a search that gets deeper is truncated, and does not count
MEMORY_MB: Final = 3_000
SECONDS: Final = 900
JOBS: Final = 2

ROW: Final = "{:5}  {:27}  {:62}  {:>10}  {:>5}  {:>5}  {}"


@dataclass(frozen=True)
class Check:
    """One run of spin.

    Attributes:
        model: The model's name.
        guards: The guards that are taken out; empty: the full design.
        world: How large the world is, and what happens in it.
        expected: The promise that must break, or `HOLDS`.
        quick: Whether it is part of the quick form.
    """

    model: str
    guards: str
    world: str
    expected: str
    quick: bool = True

    @property
    def flags(self) -> list[str]:
        return [f"-D{flag}" for flag in f"{self.guards} {self.world}".split()]

    @property
    def label(self) -> str:
        return f"{self.model} {self.guards or 'full design'} {self.world} {self.expected}"


def full(model: str, world: str, quick: bool = True) -> Check:
    return Check(model, "", world, HOLDS, quick)


SAVE_WORLDS: Final = [
    full("save", "SAVES_EACH=2"),
    full("save", "SAVES_EACH=2 UNLEASED=1"),
    full("save", "SAVES_EACH=1 SENDS=3 UNLEASED=2"),
    full("save", "SAVES_EACH=1 WORKERS=3 UNLEASED=3"),
    full("save", "SAVES_EACH=1 DELETES=1"),
    full("save", "SAVES_EACH=1 DELETES=1 UNLEASED=1 FORGET=1"),
    full("save", "SAVES_EACH=1 DELETES=2"),
    full("save", "SAVES_EACH=1 DELETES=2 UNLEASED=2 FORGET=1"),
    full("save", "SAVES_EACH=1 RAW_DELETE=1 SENDS=3 UNLEASED=1"),
    full("save", "SAVES_EACH=1 RAW_DELETE=1 SENDS=3"),
    full("save", "SAVES_EACH=1 FAILOVER=1 SENDS=3 UNLEASED=1"),
    full("save", "SAVES_EACH=1 FAILOVER=1"),
    full("save", "SAVES_EACH=1 COPIES=1 UNLEASED=1"),
    full("save", "SAVES_EACH=1 COPIES=1 UNLEASED=1 DELETES=1 SENDS=1"),
    full("save", "SAVES_EACH=1 COPIES=2 UNLEASED=1 DELETES=2 SENDS=1"),
    full("save", "SAVES_EACH=2 COPIES=1 FORGET=1 SENDS=1"),
    full("save", "SAVES_EACH=1 WORKERS=3", False),
    full("save", "SAVES_EACH=2 FORGET=1 UNLEASED=2", False),
    full("save", "SAVES_EACH=1 DELETES=1 SENDS=3", False),
    full("save", "SAVES_EACH=1 DELETES=2 SENDS=3 UNLEASED=1", False),
    full("save", "SAVES_EACH=1 FAILOVER=1 DELETES=1 UNLEASED=1", False),
    full("save", "SAVES_EACH=2 RAW_DELETE=1 UNLEASED=1", False),
    full("save", "SAVES_EACH=1 WORKERS=3 FAILOVER=1 UNLEASED=1 SENDS=1", False),
]

TWO: Final = "DEATHS=0 CUTS=0 EARLY=0"  # workers, who have no more trouble than their own slowness
THREE: Final = "WORKERS=3 LATE=0 EARLY=0 SAVES=0 RENEWALS=0"
MOVING: Final = f"{TWO} SAVES=0 RENEWALS=0 MOVES=1"  # and the run goes to another server
BELL: Final = "DEATHS=0 EARLY=0 SAVES=0 RENEWALS=0 LAPSES=0 DOORBELL_ONLY=1"  # nobody may need a timer

LEASE_WORLDS: Final = [
    full("lease", TWO),
    full("lease", f"{TWO} LAPSES=2 SAVES=0"),
    full("lease", f"{TWO} BREAKS=1 RENEWALS=0"),
    full("lease", f"{TWO} BREAKS=1 SAVES=0"),
    full("lease", "SAVES=0 RENEWALS=0"),
    full("lease", "DEATHS=0 EARLY=0 SAVES=0 TRIES_ONCE=2"),
    full("lease", f"{THREE} LAPSES=0 PATIENT=3"),
    full("lease", f"{THREE} DEATHS=0 CUTS=0"),
    full("lease", f"{TWO} WORKERS=3 LATE=1 LAPSES=0 SAVES=0 RENEWALS=0"),
    full("lease", f"{TWO} UNCOUNTED=2"),
    full("lease", f"{TWO} REPLAYS=2 LATE=0"),
    full("lease", f"{TWO} FORGETS=1"),
    full("lease", f"{THREE} DEATHS=0 CUTS=0 LAPSES=0 UNCOUNTED=2"),
    full("lease", f"{THREE} DEATHS=0 CUTS=0 LAPSES=0 REPLAYS=1"),
    full("lease", f"{MOVING} LAPSES=0 MISSES=1"),
    full("lease", f"{BELL} MOVES=1 MISSES=1"),
    full("lease", "SAVES=0", False),
    full("lease", "RENEWALS=0", False),
    full("lease", "", False),
    full("lease", f"{TWO} MOVES=1", False),
    full("lease", f"{BELL} MOVES=2 MISSES=1", False),
    full("lease", "DEATHS=0 EARLY=0 SAVES=0 RENEWALS=0 MOVES=1 MISSES=1", False),
    full("lease", f"{THREE} DEATHS=0 CUTS=0 LAPSES=0 MOVES=1", False),
    full("lease", f"{TWO} LATE=2 LAPSES=2", False),
    full("lease", f"{TWO} BREAKS=1", False),
    full("lease", f"{THREE} CUTS=0", False),
    full("lease", f"{THREE} DEATHS=0", False),
    full("lease", f"{THREE} DEATHS=0 CUTS=0 TRIES_ONCE=2", False),
    full("lease", "WORKERS=3 LATE=0 CUTS=0 EARLY=0 SAVES=0 LAPSES=0", False),
    full("lease", f"{TWO} WORKERS=3 LATE=1 SAVES=0 RENEWALS=0", False),
]

SAVE_GUARDS: Final = [
    Check("save", "COMPARE=0", "", "no_lost_update"),
    Check("save", "COMPARE=1", "SENDS=1 FAILOVER=1", "no_lost_update"),
    Check("save", "COMPARE=1", "SENDS=1 RAW_DELETE=1", "no_lost_update"),
    Check("save", "REMEMBER=0", "", "refused_was_not_applied"),
    Check("save", "REMEMBER=1", "", "acknowledged_is_applied"),
    Check("save", "REMEMBER=2", "", "refused_was_not_applied"),
    Check("save", "REMEMBER_OUTLIVES_TRIM=0 ORIGIN=0", "TRIM=1", "refused_was_not_applied"),
    Check("save", "LOOKS=0", "", "refused_was_not_applied"),
    Check("save", "LOOKS=1", "SAVES_EACH=1 COPIES=1", "refused_was_not_applied"),
    Check("save", "LOOKS=1", "SAVES_EACH=1 COPIES=1 DELETES=1", "refused_was_not_applied"),
    Check("save", "ABSENT_LOOKS=0", "SAVES_EACH=1 DELETES=1", "at_most_once"),
    Check("save", "ORIGIN=0", "SAVES_EACH=1 FORGET=1 UNLEASED=1", "first_save_is_known"),
    Check("save", "DELETE_MARKS_ORIGIN=0", "SAVES_EACH=1 FORGET=1 DELETES=1", "refused_was_not_applied"),
    Check("save", "GONE_IS_TOLD=0", "FORGET=1", "refused_was_not_applied"),
    Check("save", "GONE_FIRST=0", "FORGET=1", "refused_was_not_applied"),
    Check("save", "MARK_LEASE=0", "SAVES_EACH=1 SENDS=3 FAILOVER=1", "refused_stays_refused"),
    Check("save", "MARK_CONFLICT=0", "SAVES_EACH=1 UNLEASED=2 SENDS=3 FAILOVER=1", "refused_stays_refused"),
    Check("save", "MARK_LOCKED=0", "SAVES_EACH=1 COPIES=1 UNLEASED=1", "refused_stays_refused"),
    Check("save", "MARK_FIRST=0", "SAVES_EACH=1 COPIES=1 UNLEASED=1 DELETES=1", "refused_stays_refused"),
    Check("save", "RESOLVE_MARKS=0", "SAVES_EACH=1 UNLEASED=1", "refused_stays_refused"),
    Check("save", "SAVE_KEEPS_MARKS=0", "SAVES_EACH=1 UNLEASED=1 DELETES=1", "refused_stays_refused"),
    Check("save", "GRANT_WRITES_HEAD=0", "", "fenced"),
    Check("save", "SAVE_COMPARES_FENCE=0", "", "fenced"),
    Check("save", "SAVE_COMPARES_HOLDER=0", "SAVES_EACH=1 RAW_DELETE=1", "fenced"),
    Check("save", "LEASE_LOCKS=0", "UNLEASED=1", "lease_shuts_out"),
    Check("save", "LEASE_LOCKS=0", "UNLEASED=1 IGNORE=lease_shuts_out=1", "holder_is_never_refused"),
    Check("save", "DELETE_COMPARES=0", "SAVES_EACH=1 DELETES=1", "delete_takes_what_it_read"),
    Check("save", "DELETE_KEEPS_ETAGS=0", "SAVES_EACH=1 DELETES=1", "at_most_once"),
    Check("save", "DELETE_KEEPS_FENCE=0", "SAVES_EACH=1 DELETES=1", "fences_rise"),
    Check("save", "DELETE_MARKS=0", "SAVES_EACH=1 DELETES=1", "delete_is_done_once"),
    Check("save", "FORCE_FENCES=0", "SAVES_EACH=1 DELETES=2", "fences_rise"),
    Check("save", "FORCE_ONCE=0", "SAVES_EACH=1 DELETES=2", "delete_is_done_once"),
    Check("save", "REQUESTS_DIE_WITH_SERVER=0", "SAVES_EACH=1 FAILOVER=1", "refused_stays_refused"),
]

LEASE_GUARDS: Final = [
    Check("lease", "ACQUIRE_KNOWS_ITS_HOLDER=0", "", "queued_once"),
    Check("lease", "ENQUEUE_ONCE=0", "", "queued_once"),
    Check("lease", "NOBODY_BARGES=0", "", "nobody_barges"),
    Check("lease", "GRANT_WHEN_NOBODY_LISTENS=0", "", "free_lease_is_granted"),
    Check("lease", "HAND_OFF_IS_A_CLAIM=0", "", "dead_waiter_costs_a_claim"),
    Check("lease", "GRANT_WRITES_HEAD=0", "RENEWALS=0 IGNORE=released_is_final=1", "fenced"),
    Check("lease", "RENEW_COMPARES_HOLDER=0", "", "only_its_own_lease"),
    Check("lease", "RENEW_COMPARES_HOLDER=0", "SAVES=0 IGNORE=only_its_own_lease=1", "one_holder_at_a_time"),
    Check("lease", "RENEW_COMPARES_FENCE=0", "", "holder_is_never_refused"),
    Check("lease", "RENEW_ASKS_HEAD=0", "", "no_ghost_lease"),
    Check("lease", "RENEW_YIELDS_TO_QUEUE=0", "", "nobody_barges"),
    Check("lease", "RELEASE_COMPARES_HOLDER=0", "", "only_its_own_lease"),
    Check("lease", "RELEASE_CLEARS_HEAD=0", "RENEWALS=0", "released_is_final"),
    Check("lease", "RELEASE_CLEARS_HEAD=0", "SAVES=0", "no_ghost_lease"),
    Check("lease", "RELEASE_CLEARS_HEAD=1", "SAVES=0", "no_ghost_lease"),
    Check("lease", "LEAVE_DEQUEUES=0", "", "no_ghost_lease"),
    Check("lease", "RELEASE_DEQUEUES=0", "", "no_ghost_lease"),
    Check("lease", "LEAVE_MARKS=0", "FORGETS=1", "no_ghost_lease"),
    Check("lease", "HEAD_REMEMBERS_LEAVERS=0", f"{TWO} REPLAYS=1", "no_ghost_lease"),
    Check("lease", "RELEASE_KNOWS_ITS_COPY=0", TWO, "released_is_told"),
    Check("lease", "HELD_LEAVES=0", "TRIES_ONCE=2 DEATHS=0 CUTS=0 EARLY=0 SAVES=0", "no_ghost_lease"),
    Check("lease", "LOST_LEAVES=0", "", "no_ghost_lease"),
    Check("lease", "BREAK_COMPARES_HOLDER=0", "BREAKS=1", "holder_is_never_refused"),
    Check("lease", "BREAK_FENCES=0", "BREAKS=1", "fenced"),
    Check("lease", "SAVE_COMPARES_FENCE=0", "RENEWALS=0 IGNORE=released_is_final=1", "fenced"),
    Check("lease", "SAVE_COMPARES_FENCE=0", "", "released_is_final"),
    Check("lease", "SUBSCRIBE_FIRST=0", "", "listener_keeps_its_place"),
    Check("lease", "TIMER=0", "DEATHS=0 EARLY=0 SAVES=0", "no_stuck_queue"),
    Check("lease", "VALID_FROM_SEND=0", "SAVES=0", "entered_only_while_granted"),
    Check("lease", "VALID_FROM_SEND=0", "SAVES=0 IGNORE=entered_only_while_granted=1", "one_holder_at_a_time"),
    Check("lease", "ENTER_WHEN_GRANTED=0", f"{TWO} UNCOUNTED=1", "entered_only_while_granted"),
    Check("lease", "ENTER_WHEN_GRANTED=0", TWO, "entered_only_while_granted"),
    Check(
        "lease",
        "ENTER_WHEN_GRANTED=0",
        f"{THREE} DEATHS=0 CUTS=0 LAPSES=0 UNCOUNTED=1 IGNORE=entered_only_while_granted=1",
        "one_holder_at_a_time",
    ),
    Check(
        "lease", "PLACE_SAYS_UNCOUNTED=0", f"{THREE} DEATHS=0 CUTS=0 LAPSES=2 UNCOUNTED=1", "passed_over_twice_at_most"
    ),
    Check("lease", "LISTEN_AT_EVERY_PRIMARY=0", TWO, "listener_keeps_its_place"),
    Check("lease", "FOLLOW_THE_RUN=0", MOVING, "listener_keeps_its_place"),
    Check("lease", "LOOK_AGAIN=0", f"{MOVING} MISSES=1", "listener_keeps_its_place"),
    Check("lease", "ASK_ONCE_SUBSCRIBED=0", f"{BELL} CUTS=0 MOVES=1", "no_stuck_queue"),
    Check("lease", "HEAR_FROM_ELSEWHERE=0", f"{BELL} CUTS=0 MOVES=1", "no_stuck_queue"),
    Check("lease", "ENTER_WHEN_GRANTED=0", f"{BELL} CUTS=0 MOVES=1", "entered_only_while_granted"),
    Check(
        "lease",
        "ENTER_WHEN_GRANTED=0",
        f"{THREE} DEATHS=0 CUTS=0 LAPSES=0 MOVES=1 IGNORE=entered_only_while_granted=1",
        "one_holder_at_a_time",
    ),
    Check("lease", "HAND_OFF_ENDS_AT_ASKER=0", f"{THREE} DEATHS=0 CUTS=0 UNCOUNTED=1", "listener_keeps_its_place"),
]

CHECKS: Final = [*LEASE_WORLDS, *SAVE_WORLDS, *LEASE_GUARDS, *SAVE_GUARDS]


def incomplete() -> list[str]:
    """Returns the guards and promises of the models that no check is for, and flags that no model knows."""
    problems = []
    for model in ("save", "lease"):
        source = (HERE / f"{model}_protocol.pml").read_text(encoding="utf-8")
        before, guards = source.split("/* ---- the guards")
        guards, promises = guards.split("/* ---- what must hold")
        known = set(re.findall(r"^#ifndef (\w+)", guards, re.M))
        world = set(re.findall(r"^#ifndef (\w+)", before, re.M))
        promised = set(re.findall(r"^  (\w+)[,;]", promises[: promises.index("inline")], re.M))
        mine = [check for check in CHECKS if check.model == model]
        out = {flag.split("=")[0] for check in mine for flag in check.guards.split()}
        used = {flag.split("=")[0] for check in mine for flag in check.world.split()}
        broken = {check.expected for check in mine} - {HOLDS}
        problems += [f"{model}: no check takes out {name}" for name in sorted(known - out)]
        problems += [f"{model}: no check breaks {name}" for name in sorted(promised - broken)]
        problems += [f"{model}: the model does not know {name}" for name in sorted((out - known) | (used - world))]
        problems += [f"{model}: the model does not promise {name}" for name in sorted(broken - promised)]
    return problems


@dataclass(frozen=True)
class Result:
    """What came of a check.

    Attributes:
        check: The check.
        verdict: The promise that broke, `HOLDS`, or what went wrong.
        states: How many were stored.
        depth: The deepest.
        seconds: Spin, compiler and search together.
    """

    check: Check
    verdict: str
    states: int
    depth: int
    seconds: float

    @property
    def good(self) -> bool:
        return self.verdict == self.check.expected

    @property
    def row(self) -> str:
        told = self.verdict if self.good else f"{self.verdict}  <-- expected: {self.check.expected}"
        return ROW.format(
            self.check.model, self.check.guards or "-", self.check.world, f"{self.states:,}", self.depth,
            f"{self.seconds:.1f}", told,
        )  # fmt: skip


def verdict(output: str, status: int) -> str:
    """Reads what the verifier said. Whatever is not understood is a deviation."""
    if broken := re.search(r"^pan:\d+: assertion violated (\w+) \(at depth", output, re.M):
        return broken[1]
    if other := re.search(r"^pan:\d+: .*", output, re.M):
        return other[0]
    for trouble in ("max search depth too small", "out of memory", "MEMLIM", "Search not completed", "VECTORSZ"):
        if trouble in output:
            return f"truncated: {trouble}"
    if status == 0 and re.search(r"\berrors: 0$", output, re.M) and "Full statespace search" in output:
        return HOLDS
    return f"the verifier ended with status {status}: {output.strip().splitlines()[-1:]}"


def missing() -> list[str]:
    """Returns what this machine lacks."""
    lacking = [name for name in ("spin", COMPILER) if not shutil.which(name)]
    if COMPILER not in lacking:
        probe = subprocess.run(
            (COMPILER, "-fsyntax-only", "-x", "c", "-"),
            input="#include <stdio.h>\n",
            text=True,
            capture_output=True,
            check=False,
        )
        lacking += ["the C library's headers"] if probe.returncode else []
    return lacking


def number(pattern: str, output: str) -> int:
    found = re.search(pattern, output)
    return int(float(found[1])) if found else 0


def run(check: Check, folder: Path) -> Result:
    start = time.monotonic()
    folder.mkdir(parents=True, exist_ok=True)
    model = HERE / f"{check.model}_protocol.pml"

    def command(*words: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            words, cwd=folder, text=True, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, timeout=SECONDS, check=False
        )

    def result(said: str, output: str = "") -> Result:
        states = number(r"([\d.e+]+) states, stored", output)
        return Result(check, said, states, number(r"depth reached (\d+)", output), time.monotonic() - start)

    try:
        made = command("spin", "-a", *check.flags, str(model))
        if made.returncode or "Error" in made.stdout or not (folder / "pan.c").exists():
            return result(f"spin: {made.stdout.strip()}")
        # The compiler takes longer than a small search: it is told to hurry where that is what takes time.
        effort = "-O0" if check.expected != HOLDS else "-O1" if check.quick else "-O2"
        built = command(COMPILER, "-w", effort, "-DSAFETY", f"-DMEMLIM={MEMORY_MB}", "-o", "pan", "pan.c")
        if built.returncode:
            return result(f"{COMPILER}: {built.stdout.strip()}")
        # A counterexample comes early: a small table of states saves the time to clear a large one.
        searched = command("./pan", f"-m{DEPTH}", *(["-w20"] if check.expected != HOLDS else []))
    except subprocess.TimeoutExpired as expired:
        return result(f"no end after {expired.timeout:.0f} s")
    return result(verdict(searched.stdout, searched.returncode), searched.stdout)


def main() -> int:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--quick", action="store_true", help="leave out the large configurations")
    parser.add_argument("--only", metavar="PATTERN", help='run the checks whose "model flags promise" it is found in')
    parser.add_argument("--jobs", type=int, default=JOBS, help=f"checks at a time (default: {JOBS})")
    parser.add_argument("--keep", type=Path, metavar="FOLDER", help="leave sources, verifiers and trails there")
    args = parser.parse_args()

    if lacking := missing():
        print(f"error: {' and '.join(lacking)} not found. To install all that is needed: {INSTALL}", file=sys.stderr)
        return 2
    if problems := incomplete():
        print(*problems, sep="\n", file=sys.stderr)
        return 1
    checks = [
        check
        for check in CHECKS
        if (check.quick or not args.quick) and (args.only is None or re.search(args.only, check.label))
    ]

    start = time.monotonic()
    print(ROW.format("model", "guard taken out", "world", "states", "depth", "s", "verdict"))
    results = []
    with tempfile.TemporaryDirectory() as temporary, concurrent.futures.ThreadPoolExecutor(args.jobs) as pool:
        folder = args.keep or Path(temporary)
        jobs = [pool.submit(run, check, folder / f"{n:02}") for n, check in enumerate(checks)]
        try:
            for job in jobs:
                results.append(job.result())
                print(results[-1].row, flush=True)
        except BaseException:
            pool.shutdown(wait=False, cancel_futures=True)  # Ctrl-C ends what runs, and starts nothing more.
            raise
    bad = [result for result in results if not result.good]
    print(
        f"{len(results) - len(bad)} of {len(results)} as expected, "
        f"{sum(result.states for result in results):,} states, {time.monotonic() - start:.0f} s"
    )
    return 1 if bad or not results else 0


if __name__ == "__main__":
    sys.exit(main())
