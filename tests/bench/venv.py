"""Environments for the peers and for what draws the plots, made at first need.

Each peer has one of its own, with what pip gives its users: in a common one, the oldest redis-py that one of them bears
would be everybody's.
"""

from __future__ import annotations

import hashlib
import json
import subprocess
import sys
import venv
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from .child import ROOT

REQUIREMENTS = Path(__file__).with_name("requirements")


@dataclass(frozen=True, slots=True)
class Environment:
    """One environment, named as its file of requirements."""

    name: str

    @property
    def folder(self) -> Path:
        """Where it is."""
        return ROOT / ".venv-bench" / self.name

    @property
    def python(self) -> Path:
        """Its interpreter."""
        return self.folder / "bin" / "python"

    @property
    def _file(self) -> Path:
        return REQUIREMENTS / f"{self.name}.txt"

    def _made(self) -> dict[str, Any] | None:
        stamp = self.folder / "made.json"
        made = json.loads(stamp.read_text()) if stamp.exists() else None
        return made if made and made["of"] == self._digest() else None

    def _digest(self) -> str:
        return hashlib.sha256(self._file.read_bytes() + sys.version.encode()).hexdigest()

    def make(self) -> str | None:
        """Makes it unless it is there; returns None, or why it cannot be had."""
        if (made := self._made()) is None:
            print(f"installing {self.name} into {self.folder.relative_to(ROOT)}", file=sys.stderr, flush=True)
            venv.create(self.folder, with_pip=True, clear=True)
            made = {"of": self._digest(), "failed": self._install()}
            (self.folder / "made.json").write_text(json.dumps(made))
        return None if made["failed"] is None else str(made["failed"])

    def there(self) -> bool:
        """Tells whether it has been made from the requirements as they are."""
        made = self._made()
        return made is not None and made["failed"] is None

    def versions(self) -> dict[str, str]:
        """Returns the versions of what was asked for, and of redis-py."""
        command = [str(self.python), "-m", "pip", "list", "--format=json", "--disable-pip-version-check"]
        said = subprocess.run(command, capture_output=True, text=True, check=True).stdout
        wanted = {line.partition("==")[0].partition("[")[0] for line in self._file.read_text().splitlines()} | {"redis"}
        return {each["name"]: each["version"] for each in json.loads(said) if each["name"] in wanted}

    def _install(self) -> str | None:
        pip = [str(self.python), "-m", "pip", "install", "--quiet", "--disable-pip-version-check"]
        command = [*pip, "-r", str(self._file)]
        done = subprocess.run(command, capture_output=True, text=True, check=False)
        if done.returncode == 0:
            return None
        errors = [line for line in done.stderr.splitlines() if line.startswith("ERROR")]
        return (errors or done.stderr.splitlines() or ["pip failed"])[-1][:200]


PLOTS = Environment("plots")
