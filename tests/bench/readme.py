"""Write the results into the README and docs/performance.md, between marks: `python -m tests.bench.readme`.

The figures of both pages are those of `results/results.json`, and a test compares them.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from .child import ROOT
from .tables import number

README = ROOT / "README.md"
PERFORMANCE = ROOT / "docs" / "performance.md"
RESULTS = Path(__file__).with_name("results") / "results.json"


def _markdown(head: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    lines = [head, ["---"] * len(head), *rows]
    return "\n".join("| " + " | ".join(line) + " |" for line in lines)


def targets(results: dict[str, Any]) -> str:
    """Return the acceptance table."""
    rows = []
    for each in results["acceptance"]:
        bound = f"{'≥' if each['at_least'] else '≤'} {number(each['limit'])}"
        value = number(each["value"])
        sides = f"{each['above']} ÷ {each['below']}" if each["above"] else ""
        rows.append((each["what"], bound, f"**{value}**" if each["met"] else f"{value}, missed", sides))
    return _markdown(("", "target", "measured", "medians"), rows)


def peers(results: dict[str, Any]) -> str:
    """Return the table of a turn's cost and of two faults, for each contender."""
    rows = []
    for name, wire in results["per_save"].items():
        if name in ("histstore.sync", "histstore, dicts"):  # the same requests
            continue
        race, reply = results["races"].get(name), results["lost_reply"].get(name)
        rows.append(
            (
                f"**{name}**" if name == "histstore" else name,
                number(wire["trips"]),
                number(wire["sent"] / 1000),
                number(wire["received"] / 1000),
                _lost(name, race) if race else "-",
                _replied(reply) if reply else "-",
            )
        )
    head = ("", "round trips a save", "KB sent", "KB received", "lost, eight workers racing", "after one lost reply")
    return _markdown(head, rows)


def _lost(name: str, race: dict[str, int]) -> str:
    if race["lost"]:
        return f"{race['lost'] / race['acknowledged']:.0%}"
    return "0; the loser gets a ConflictError" if name == "histstore" else "0; interleaved without notice"


def _replied(reply: dict[str, Any]) -> str:
    times = {1: "once", 2: "twice"}
    if reply["raises"] is None:
        return f"saved, stored {times[reply['copies']]}"
    return f"raises {reply['raises']}; after a retry stored {times[reply['copies_again']]}"


def machine(results: dict[str, Any]) -> str:
    """Return the machine, the server and the versions that were measured."""
    here = results["environment"]
    on = here["machine"]
    versions = ", ".join(f"{name} {version}" for name, version in here["versions"].items() if name != "histstore")
    said = f"{on['cpu']}, {on['cores']} cores, {on['os']}; {here['server']['name']}, {versions}."
    if here.get("modules_server"):
        said += f"\nPeers that need search and JSON: {here['modules_server']}."
    return said


PARTS: dict[str, tuple[Path, Callable[[dict[str, Any]], str]]] = {
    "peers": (README, peers),
    "targets": (PERFORMANCE, targets),
    "machine": (PERFORMANCE, machine),
}
"""The page and the text of each part, by the name in its marks."""


def written(page: Path, text: str, results: dict[str, Any]) -> str:
    """Return a page's text with the results in it.

    Args:
        page: The page.
        text: Its text.
        results: The results.
    """
    for name, (place, part) in PARTS.items():
        if place != page:
            continue
        pattern = re.compile(rf"(<!-- bench: {name} -->\n).*?(<!-- /bench -->)", re.DOTALL)
        said = part(results)
        text, times = pattern.subn(lambda found, said=said: f"{found[1]}{said}\n{found[2]}", text)  # type: ignore[misc]
        assert times == 1, f"{page.name} has {times} places for {name}"
    return text


def main() -> None:
    """Rewrite both pages."""
    results = json.loads(RESULTS.read_text())
    for page in (README, PERFORMANCE):
        page.write_text(written(page, page.read_text(), results))


if __name__ == "__main__":
    main()
