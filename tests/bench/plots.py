"""Draws the results: `python -m tests.bench.plots RESULTS.json DIR`, in the environment that has matplotlib.

The same results give the same bytes. Text stays text; there is no background, and the colours can be read on light and
on dark pages.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

import matplotlib as mpl

mpl.use("svg")

from matplotlib import pyplot as plt
from matplotlib.ticker import FuncFormatter, NullLocator

GREY = "#848d97"
STYLES: dict[str, dict[str, Any]] = {
    "histstore": {"color": "#2f81f7", "linewidth": 3.0, "marker": "o", "zorder": 5},
    "histstore, dicts": {"color": "#2f81f7", "linewidth": 1.5, "linestyle": ":", "marker": "o", "zorder": 4},
    "histstore.sync": {"color": "#2f81f7", "linewidth": 1.5, "linestyle": "--", "marker": "o", "zorder": 4},
    "raw redis-py": {"color": GREY, "linewidth": 2.0, "linestyle": ":", "marker": "."},
    "whole snapshot": {"color": "#d4751a", "marker": "s"},
    "OpenAI Agents RedisSession": {"color": "#2da44e", "marker": "^"},
    "langgraph-checkpoint-plainredis": {"color": "#c64aa6", "marker": "v"},
    "langgraph-checkpoint-redis": {"color": "#c64aa6", "marker": "<", "linestyle": "--"},
    "google-adk-community": {"color": "#cf4a4a", "marker": "X"},
    "langchain-redis": {"color": "#9a6ee0", "marker": "D"},
    "agent-framework-redis": {"color": "#c29a00", "marker": "P"},
    "redis-py asyncio Lock": {"color": GREY},
    "python-redis-lock": {"color": "#2da44e"},
}
SETTINGS = {
    "svg.fonttype": "none",
    "svg.hashsalt": "histstore",
    "font.size": 10,
    "font.family": "sans-serif",
    "font.sans-serif": ["DejaVu Sans"],
    "text.color": GREY,
    "axes.labelcolor": GREY,
    "axes.edgecolor": GREY,
    "axes.titlesize": 11,
    "axes.titleweight": "bold",
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.grid": True,
    "axes.facecolor": "none",
    "grid.color": GREY,
    "grid.alpha": 0.25,
    "xtick.color": GREY,
    "ytick.color": GREY,
    "lines.markersize": 5,
    "lines.linewidth": 1.5,
    "legend.frameon": False,
    "figure.figsize": (8.0, 4.2),
    "savefig.transparent": True,
}


def curve(told: dict[str, Any], title: str, across: str, up: str, file: Path) -> None:
    """Draws medians as lines and quartiles as bands, both axes logarithmic."""
    figure, axes = plt.subplots()
    points: set[int] = set()
    for name, each in told.items():
        where = sorted(map(int, each))
        points.update(where)
        at = [each[str(x)] for x in where]
        style = {"label": name, **STYLES.get(name, {})}
        axes.plot(where, [spread["median"] for spread in at], **style)
        low, high = [spread["low"] for spread in at], [spread["high"] for spread in at]
        axes.fill_between(where, low, high, color=style.get("color"), alpha=0.15, linewidth=0)
    axes.set_xscale("log")
    axes.set_yscale("log")
    axes.set_xticks(sorted(points))
    for axis in (axes.xaxis, axes.yaxis):
        axis.set_minor_locator(NullLocator())
        axis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:,.0f}" if value >= 1 else f"{value:g}"))
    axes.set_xlabel(across)
    axes.set_ylabel(up)
    axes.set_title(title, loc="left")
    axes.legend(loc="center left", bbox_to_anchor=(1.0, 0.5))
    _save(figure, file)


def dots(told: dict[str, Any], title: str, across: str, group: str, file: Path) -> None:
    """Draws medians as dots and quartiles as lines through them, a group for each number."""
    figure, axes = plt.subplots(figsize=(8.0, 3.0))
    groups = sorted({key for each in told.values() for key in each}, key=int)
    for place, (name, each) in enumerate(told.items()):
        rows = [number + 0.7 * ((place + 0.5) / len(told) - 0.5) for number, key in enumerate(groups) if key in each]
        at = [each[key] for key in groups if key in each]
        middle = [spread["median"] for spread in at]
        below = [spread["median"] - spread["low"] for spread in at]
        above = [spread["high"] - spread["median"] for spread in at]
        style = {"color": STYLES.get(name, {}).get("color"), "markerfacecolor": "none" if "." in name else None}
        axes.errorbar(middle, rows, xerr=[below, above], fmt="o", markersize=8, linewidth=2, label=name, **style)
    axes.set_xscale("log")
    axes.xaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
    axes.set_yticks(range(len(groups)), [f"{key} {group}" for key in groups])
    axes.set_ylim(len(groups) - 0.5, -0.5)
    axes.grid(visible=False, axis="y")
    axes.set_xlabel(across)
    axes.set_title(title, loc="left")
    axes.legend(loc="center left", bbox_to_anchor=(1.0, 0.5))
    _save(figure, file)


def _save(figure: Any, file: Path) -> None:
    figure.savefig(file, bbox_inches="tight", metadata={"Date": None, "Creator": None})
    plt.close(figure)


def main() -> None:
    """Draws what the results hold."""
    results = json.loads(Path(sys.argv[1]).read_text())
    out = Path(sys.argv[2])
    with mpl.rc_context(SETTINGS):
        if told := results.get("save"):
            curve(told, "Saving a turn of two messages", "messages in the conversation", "ms", out / "save.svg")
        if told := results.get("load"):
            curve(told, "Loading the conversation", "messages in the conversation", "ms", out / "load.svg")
        if told := results.get("throughput"):
            title = "Saves a second of one process, conversations of up to 34 messages"
            curve(told, title, "conversations at the same time", "saves a second", out / "throughput.svg")
        if told := results.get("handoff"):
            dots(told, "Handing a lock over to another process", "ms", "waiting", out / "handoff.svg")


if __name__ == "__main__":
    main()
