"""What a worker is told when it starts, and what it tells: one JSON object a line."""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass
from typing import Any, Self


@dataclass(frozen=True, slots=True)
class Hold:
    """Where a worker stands still, to be killed or frozen there.

    Attributes:
        at: In the how-manieth turn that it starts, from 1.
        sent: Whether its save has been sent, but its answer not been read; else, before the save is sent.
        leased: Whether it holds the run's lease there. Until it stands there, it takes turns of that kind alone.
    """

    at: int
    sent: bool
    leased: bool


@dataclass(frozen=True, slots=True)
class Job:
    """What a worker is told.

    Attributes:
        url: The server.
        namespace: The namespace of the demonstration.
        worker: The worker's name: a number.
        seed: What its choices follow from.
        pace: Seconds that its model thinks about a turn, on average.
        leased: The indexes of the runs whose turns are taken under their lease.
        hold: Where it stands still; None: nowhere.
    """

    url: str
    namespace: str
    worker: int
    seed: int
    pace: float
    leased: tuple[int, ...]
    hold: Hold | None

    def dump(self) -> bytes:
        """Returns it as a line."""
        return json.dumps(asdict(self)).encode() + b"\n"

    @classmethod
    def parse(cls, line: bytes) -> Self:
        """Reads what `dump` wrote."""
        values: dict[str, Any] = json.loads(line)
        hold, leased = values.pop("hold"), values.pop("leased")
        return cls(**values, leased=tuple(leased), hold=None if hold is None else Hold(**hold))


@dataclass(frozen=True, slots=True)
class Event:
    """What a worker tells.

    Attributes:
        kind: ready, granted, saved, conflict, lost, retry, applied, never, unavailable, holding, finished or failed.
        run: The index of the run.
        turn: The index of the turn in the run.
        version: The version of the run that it goes onto; 0: the run is absent.
        waited: Seconds that it waited for the run's lease.
        text: What went wrong.
    """

    kind: str
    run: int = -1
    turn: int = -1
    version: int = 0
    waited: float = 0.0
    text: str = ""

    def same_turn(self, other: Event) -> bool:
        """Whether it tells of the turn that another tells of."""
        return (self.run, self.turn) == (other.run, other.turn)

    def dump(self) -> bytes:
        """Returns it as a line."""
        return json.dumps(asdict(self)).encode() + b"\n"

    @classmethod
    def parse(cls, line: bytes) -> Self:
        """Reads what `dump` wrote."""
        return cls(**json.loads(line))
