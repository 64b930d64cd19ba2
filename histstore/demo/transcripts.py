"""The conversations that are replayed: read, checked, and cut into turns."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import dataclass
from importlib import resources
from itertools import accumulate
from pathlib import Path
from typing import Any, NoReturn

from histstore import ConversationSnapshot, RunId, SnapshotError

from .errors import UsageError

TURN = 2
"""Messages a turn; the last turn of a conversation may have fewer."""


@dataclass(frozen=True, slots=True)
class Transcript:
    """One recorded conversation.

    Attributes:
        run: Its name.
        messages: Its messages, in order, in OpenAI's chat format.
    """

    run: str
    messages: list[dict[str, Any]]

    @property
    def turns(self) -> int:
        """How many turns it has."""
        return -(-len(self.messages) // TURN)

    def rewriting(self) -> int:
        """Returns the bytes of all its messages so far, as compact JSON, summed over its turns.

        That is what a store sends that writes the whole conversation at each save.
        """
        so_far = list(accumulate(len(encode(message)) for message in self.messages))
        return sum(so_far[TURN - 1 :: TURN]) + (so_far[-1] if len(so_far) % TURN else 0)


def encode(message: Any) -> bytes:
    """Returns a message as compact JSON; messages are the same exactly if this is."""
    return json.dumps(message, ensure_ascii=False, separators=(",", ":"), sort_keys=True).encode()


def bundled() -> list[Transcript]:
    """Returns the transcripts that the package carries."""
    file = resources.files(__package__) / "transcripts.jsonl"
    return parse(file.read_text(encoding="utf-8"), "transcripts.jsonl")


def load(path: Path) -> list[Transcript]:
    """Returns the transcripts in a file: one `{"run": name, "messages": [...]}` a line.

    Raises:
        UsageError: The file cannot be read, or a line is something else.
    """
    try:
        text = path.read_text(encoding="utf-8")
    except UnicodeDecodeError:
        raise UsageError(f"{path} is not UTF-8 text") from None
    except (OSError, ValueError) as error:  # ValueError: a NUL in the path
        raise UsageError(f"cannot read {path}: {getattr(error, 'strerror', None) or error}") from None
    return parse(text, str(path))


def parse(text: str, name: str) -> list[Transcript]:
    """Returns the transcripts in JSON lines.

    Raises:
        UsageError: There are none, or a line is something else; the text names the line.
    """
    found: dict[str, Transcript] = {}
    # Not splitlines(): a JSON string may hold a line separator of Unicode's.
    for number, line in enumerate(text.split("\n"), 1):
        if not line.strip():
            continue
        try:
            transcript = _transcript(json.loads(line, parse_constant=_refuse))
            if transcript.run in found:
                raise ValueError(f"run {transcript.run!r} stands on an earlier line too")
        except RecursionError:
            raise UsageError(f"{name}, line {number}: nested too deeply") from None
        except ValueError as error:  # SnapshotError and JSONDecodeError are ValueErrors
            raise UsageError(f"{name}, line {number}: {error}") from None
        found[transcript.run] = transcript
    if not found:
        raise UsageError(f'{name} holds no conversations: each line is {{"run": name, "messages": [...]}}')
    return list(found.values())


def _transcript(value: Any) -> Transcript:
    match value:
        case {"run": str(run), "messages": [_, *_] as messages}:
            if not all(isinstance(message, dict) for message in messages):
                raise ValueError("each message must be an object")
            RunId(run)
            try:
                ConversationSnapshot(messages)
            except SnapshotError as error:
                raise ValueError(f"run {run!r}: {error}") from None
            return Transcript(run, messages)
    raise ValueError('not {"run": name, "messages": [message, ...]}')


def _refuse(constant: str) -> NoReturn:
    raise ValueError(f"{constant} is no JSON")


def dump(transcripts: list[Transcript]) -> Iterator[bytes]:
    """Yields what `parse` reads, line by line."""
    for each in transcripts:
        yield json.dumps({"run": each.run, "messages": each.messages}).encode() + b"\n"
