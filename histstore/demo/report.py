"""What people see: progress while it runs, and the table at the end."""

from __future__ import annotations

import shutil
import sys
import time

from .supervisor import Story, Supervisor

EVERY = 2.0
"""Seconds between two lines of progress where there is no terminal."""


class Progress:
    """Progress on standard error: one line that changes on a terminal, a line now and then elsewhere.

    Args:
        turns: Turns that there are to take.
    """

    def __init__(self, turns: int) -> None:
        self._turns = turns
        self._tty = sys.stderr.isatty()
        self._begun = time.monotonic()
        self._last = 0.0 if self._tty else self._begun

    def tell(self, text: str) -> None:
        """Shows a line that stays."""
        self._write(f"{self._clock()}  {text}\n")

    def tick(self, taken: int, story: Story) -> None:
        """Shows how far it is, if it is time to."""
        now = time.monotonic()
        if now - self._last < (0.1 if self._tty else EVERY):
            return
        self._last = now
        done = f"{taken:,} of {self._turns:,} turns" if taken else "the workers are starting"
        line = f"{self._clock()}  {done}, conflicts: {story.count['conflict']:,}"
        self._write(line[: shutil.get_terminal_size().columns - 1] if self._tty else line + "\n")

    def close(self) -> None:
        """Clears the line that changes."""
        self._write("")

    def _clock(self) -> str:
        return f"{time.monotonic() - self._begun:5.1f} s"

    def _write(self, text: str) -> None:
        sys.stderr.write(("\r\x1b[K" if self._tty else "") + text)
        sys.stderr.flush()


def problems(demo: Supervisor) -> list[str]:
    """Returns what is not as it must be."""
    story, account = demo.story, demo.story.account
    found: list[str] = []
    if not account.perfect:
        found.append("what is stored is not what was said")
    if story.kills != 1 or story.freezes != 1:
        found.append("not one worker killed and one frozen")
    if story.stale not in ("conflict", "never"):
        found.append(f"the frozen worker's stale save was not refused: {story.stale or 'it was never sent'}")
    if demo.script.zombie:
        if story.undead != "lost":
            met = story.undead or "it was never sent"
            found.append(f"the zombie's save was not refused for the lease that it had lost: {met}")
        if not story.stands:
            found.append("the turn of the zombie's new holder is not what is stored")
    if story.leased["conflict"]:
        found.append(f"{story.leased['conflict']:,} conflicts under a lease, which one worker at a time holds")
    known = story.count["saved"] + story.count["applied"]
    if story.arrived is not None:
        known += story.arrived
        if story.versions != known:
            found.append(f"{known:,} saves were acknowledged, and {story.versions:,} are stored")
    return found


def table(demo: Supervisor) -> str:
    """Returns the table that says what happened."""
    story, account, script = demo.story, demo.story.account, demo.script
    order = "each once, in order" if account.perfect else "NOT each once, in order"
    open_ = story.count["applied"] + story.count["never"]
    foreign = [("foreign", f"{account.foreign:,}", "messages that no conversation has")]
    answers = [("answers lost", f"{open_:,}", f"{story.count['applied']:,} had been stored, resolve() said")]
    leased = [("leased turns", f"{story.leased['saved'] + story.leased['applied']:,}", _waited(story))]
    again = story.count["lost"] - (story.undead == "lost")
    lost = [("leases lost", f"{again:,}", "beside the zombie's: by workers that stood still, too; refused")]
    zombie = [("zombie", f"{story.zombies}", _zombie(demo)), ("new holder", f"{int(bool(story.heir))}", _heir(story))]
    rows = [
        ("conversations", f"{len(demo.transcripts):,}", f"by {script.workers} worker processes, seed {script.seed}"),
        ("messages", f"{account.right:,} of {account.expected:,}", order),
        ("lost", f"{account.lost:,}", ""),
        ("doubled", f"{account.doubled:,}", ""),
        ("out of order", f"{account.misplaced:,}", ""),
        *(foreign if account.foreign else []),
        ("saves", f"{story.versions:,}", "stored, one a turn" if account.perfect else "stored"),
        ("conflicts", f"{story.count['conflict']:,}", "a rival was faster: refused, nothing written"),
        ("retries", f"{story.count['retry']:,}", "loaded again, then took the turn that was next"),
        *(leased if script.zombie else []),
        *(lost if again else []),
        *(answers if open_ else []),
        ("killed", f"{story.kills}", _killed(demo)),
        ("frozen", f"{story.freezes}", _frozen(demo)),
        *(zombie if script.zombie else []),
    ]
    rows += _bytes(demo)
    rows.append(("time", f"{story.seconds:.1f} s", ""))
    width = max(len(value) for _, value, _ in rows)
    return "\n".join(f"  {name:<14}{value:>{width}}   {note}".rstrip() for name, value, note in rows)


def _bytes(demo: Supervisor) -> list[tuple[str, str, str]]:
    """Returns the rows about bytes on the wire: two measured at the server, one computed."""
    sent, alone = demo.story.sent, demo.story.saves_alone
    whole = sum(each.rewriting() for each in demo.transcripts)
    if sent is None or alone is None:
        return [("bytes sent", "?", "the server does not tell")]
    return [
        ("bytes sent", _size(sent), "measured: with loads, refused saves and all"),
        ("saves alone", _size(alone), "measured: sent once more, by one writer"),
        ("rewriting", _size(whole), f"computed: all as JSON at each save, {whole / alone:.1f} times that"),
    ]


def _killed(demo: Supervisor) -> str:
    where = f"worker {demo.script.killed}, kill -9 "
    if not demo.script.kill.sent:
        return where + "before its save: a rival took the turn"
    became = {
        True: "stored, and not repeated",
        False: "not stored, a rival took the turn",
        None: "stored or not, the turn stands once",
    }
    return where + f"with its save sent: {became[demo.story.arrived]}"


def _frozen(demo: Supervisor) -> str:
    outcome = {"conflict": "refused", "never": "never applied"}.get(demo.story.stale, "NOT refused")
    return f"worker {demo.script.frozen}, for {demo.story.frozen_for:.1f} s: its stale save {outcome}"


def _waited(story: Story) -> str:
    if story.leased["conflict"]:
        return f"NOT one worker at a time: {story.leased['conflict']:,} conflicts"
    return f"in line, one worker at a time: no conflict, and {story.waited:.1f} s to wait at most"


def _zombie(demo: Supervisor) -> str:
    refused = "refused, lease lost" if demo.story.undead == "lost" else "NOT refused, lease lost or not"
    return f"worker {demo.script.zombie}, frozen in its leased turn: its save {refused}"


def _heir(story: Story) -> str:
    if story.heir is None:
        return "NOBODY took the zombie's lease over"
    stands = "stands" if story.stands else "does NOT stand"
    return f"worker {story.heir}, granted the zombie's run after {story.inherited:.1f} s: its turn {stands}"


def _size(count: int) -> str:
    return f"{count / 1e6:,.1f} MB" if count >= 1e6 else f"{count / 1e3:,.1f} KB"
