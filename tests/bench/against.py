"""Cold loads and saves of dicts, by this checkout and by another one: `python -m tests.bench.against PATH`.

Both run in processes of their own, on one server, in turns. It prints the ratio of the medians: this one ÷ the other.
"""

from __future__ import annotations

import argparse
import asyncio
import sys
import tempfile
import uuid
from pathlib import Path

from . import environment
from .child import ROOT, child
from .measure import ratio, spread
from .single import SIZE
from .tables import table

OPERATIONS = ("loads", "turns")


async def measure(url: str, other: Path, length: int, rounds: int) -> dict[str, tuple[list[float], list[float]]]:
    """Returns the seconds of each operation, of this checkout and of the other one."""
    mark = f"bench-{uuid.uuid4()}"
    found: dict[str, tuple[list[float], list[float]]] = {do: ([], []) for do in OPERATIONS}
    try:
        with tempfile.TemporaryDirectory() as folder:
            for name, checkout in (("histstore", other), ("lua", other), ("tests", ROOT)):
                (Path(folder) / name).symlink_to(checkout / name)
            async with (
                child(sys.executable, "histstore_dicts", url) as here,
                child(sys.executable, "histstore_dicts", url, Path(folder)) as there,
            ):
                sides = (here, there)
                for place, side in enumerate(sides):
                    await side.ask("prepare", run=f"{mark}-{place}", count=length, size=SIZE)
                for number in range(rounds):
                    for do in OPERATIONS:
                        for place in (0, 1) if number % 2 else (1, 0):
                            found[do][place].extend(await sides[place].ask(do, run=f"{mark}-{place}", count=1))
    finally:
        environment.forget(url, mark)
    return found


def main() -> None:
    """Measures and prints."""
    parser = argparse.ArgumentParser(prog="python -m tests.bench.against", description=(__doc__ or "").splitlines()[0])
    parser.add_argument("other", type=Path, help="another checkout of this repository")
    parser.add_argument("--length", type=int, default=1000, help="messages in the conversation")
    parser.add_argument("--rounds", type=int, default=200, help="samples of each")
    asked = parser.parse_args()
    with environment.bench_server() as (url, _):
        found = asyncio.run(measure(url, asked.other.resolve(), asked.length, asked.rounds))
    rows = []
    for do, (ours, theirs) in found.items():
        it = ratio(ours, theirs)
        times = [f"{spread(side).median * 1e3:.3g}" for side in (ours, theirs)]
        rows.append((do, f"{it.value:.3g} [{it.low:.3g}, {it.high:.3g}]", *times))
    print(table(f"Dicts at {asked.length:,}, this ÷ other", ("", "ratio [quartiles]", "this, ms", "other, ms"), rows))


if __name__ == "__main__":
    main()
