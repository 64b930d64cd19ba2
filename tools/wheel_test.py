"""Tries the package as people install it, away from the checkout.

    python tools/wheel_test.py [--all-pythons]

Builds the sdist, a wheel from the sdist and a wheel from the tree, and compares what is in them. Then a conversation is
saved and loaded on an embedded server, async and sync, by: the wheel with its newest and with its oldest allowed
dependencies, an editable install, and a bare checkout on PYTHONPATH. With `--all-pythons`, the wheel is tried on every
Python 3.11+ of this machine.

Standard library only, besides `build` of the same environment.
"""

from __future__ import annotations

import argparse
import os
import re
import shutil
import subprocess
import sys
import tarfile
import tempfile
import time
import tomllib
import zipfile
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
OLDEST_PYTHON = (3, 11)

# What the sdist must hold for a stranger to build, test and run from it.
SDIST = [
    "pyproject.toml",
    "README.md",
    "CONTRIBUTING.md",
    "LICENSE",
    "Makefile",
    "histstore/",
    "lua/",
    "tests/",
    "deploy/",
    "docs/",
    "tools/",
    ".ci/",
]

SMOKE = """
import asyncio, pathlib, sys
import histstore, histstore.sync
from histstore import ConversationSnapshot, RedisBackend, UserMessage
from histstore.protocol import scripts

where = pathlib.Path(histstore.__file__).resolve()
assert where.is_relative_to(pathlib.Path(sys.argv[1]).resolve()), f"imported {where}, wanted it from {sys.argv[1]}"
assert (where.parent / "py.typed").exists(), "py.typed is missing"
for script in scripts.ALL:
    assert script.source and len(script.sha) == 40
assert histstore.__version__ == histstore.sync.__version__ == sys.argv[3], histstore.__version__
inside = (where.parent / "lua").is_dir()
assert inside == (sys.argv[2] == "inside"), f"lua inside the package: {inside}"

def turn():
    return ConversationSnapshot([UserMessage("hi"), {"role": "assistant", "content": "hello"}])

async def main():
    async with RedisBackend.embedded() as backend:
        revision = await backend.store("smoke").save(turn())
        loaded = await backend.store("smoke").load()
        assert loaded == turn() and loaded.revision == revision, loaded

asyncio.run(main())

with histstore.sync.RedisBackend.embedded() as backend:
    revision = backend.store("smoke").save(turn())
    loaded = backend.store("smoke").load()
    assert loaded == turn() and loaded.revision == revision, loaded
"""


class Failure(Exception):
    """Something is not as it must be."""


def run(*command: str | Path, cwd: Path, env: dict[str, str] | None = None) -> str:
    """Runs a command and returns what it printed; its output is shown when it fails."""
    clean = {key: value for key, value in os.environ.items() if not key.startswith(("PYTHON", "VIRTUAL_ENV"))}
    clean |= {"PIP_DISABLE_PIP_VERSION_CHECK": "1", "PYTHONDONTWRITEBYTECODE": "1"} | (env or {})
    done = subprocess.run(
        [str(part) for part in command],
        cwd=cwd,
        env=clean,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        timeout=900,
    )
    if done.returncode:
        shown = " ".join(str(part) for part in command if "\n" not in str(part))
        raise Failure(f"{shown}: exit status {done.returncode}\n{done.stdout}")
    return done.stdout


class Bench:
    """A temporary folder with what was built, and ways to try it."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.away = folder / "away"
        self.away.mkdir()
        self.version = ""

    def build(self) -> Path:
        """Builds everything, checks what is in it, and returns the wheel that was made from the sdist."""
        run(sys.executable, "-m", "build", "--outdir", self.folder / "dist", ROOT, cwd=self.away)
        run(sys.executable, "-m", "build", "--wheel", "--outdir", self.folder / "direct", ROOT, cwd=self.away)
        [sdist] = (self.folder / "dist").glob("*.tar.gz")
        [wheel] = (self.folder / "dist").glob("*.whl")
        [direct] = (self.folder / "direct").glob("*.whl")

        with tarfile.open(sdist) as archive:
            names = {name.partition("/")[2] for name in archive.getnames()}
        missing = [part for part in SDIST if not any(name.startswith(part) for name in names)]
        if missing:
            raise Failure(f"{sdist.name} lacks {', '.join(missing)}")

        contents = [zipfile.ZipFile(path).namelist() for path in (wheel, direct)]
        if sorted(contents[0]) != sorted(contents[1]):
            raise Failure(f"sdist and tree make different wheels: {sorted(set(contents[0]) ^ set(contents[1]))}")
        files = {name for name in contents[0] if ".dist-info/" not in name}
        scripts = {f"histstore/lua/{path.name}" for path in (ROOT / "lua").glob("*.lua")}
        package = (path for path in (ROOT / "histstore").rglob("*") if path.is_file() and path.suffix != ".pyc")
        wanted = scripts | {path.relative_to(ROOT).as_posix() for path in package}
        if not scripts or not wanted <= files:
            raise Failure(f"{wheel.name} lacks {', '.join(sorted(wanted - files)) or 'every script'}")
        stray = [name for name in files if not name.startswith("histstore/")]
        if stray:
            raise Failure(f"{wheel.name} would install files outside histstore/: {', '.join(stray)}")
        self.check_metadata(wheel)
        return wheel

    def check_metadata(self, wheel: Path) -> None:
        """Checks that the wheel asks for what pyproject.toml says, and shows on the package index what it should."""
        with zipfile.ZipFile(wheel) as archive:
            [name] = [name for name in archive.namelist() if name.endswith(".dist-info/METADATA")]
            metadata = archive.read(name).decode()
        required = re.findall(r"^Requires-Dist: ([^;\n]+)$", metadata, re.MULTILINE)
        if sorted(map(requirement, required)) != sorted(map(requirement, PROJECT["dependencies"])):
            raise Failure(f"{wheel.name} requires {required}")
        header, _, text = metadata.partition("\n\n")
        self.version = wheel.name.split("-")[1]
        wanted = [
            f"Version: {self.version}",
            f"Requires-Python: {PROJECT['requires-python']}",
            "Description-Content-Type: text/markdown",
            *(f"Project-URL: {name}, {url}" for name, url in PROJECT["urls"].items()),
            *(f"Classifier: {classifier}" for classifier in PROJECT["classifiers"]),
        ]
        missing = [line for line in wanted if line not in header.splitlines()]
        if missing:
            raise Failure(f"{wheel.name} lacks in its metadata: {', '.join(missing)}")
        links = re.findall(r"\]\(([^)\s]+)\)", text)
        relative = [link for link in links if not link.startswith(("https://", "#"))]
        if relative or not links:
            raise Failure(f"{wheel.name} has a README with links that lead nowhere: {', '.join(relative) or 'none'}")

    def venv(self, name: str, python: str | Path, *packages: str | Path) -> Path:
        """Makes a virtual environment with these packages and returns its Python."""
        folder = self.folder / name
        run(python, "-m", "venv", folder, cwd=self.away)
        interpreter = folder / "bin" / "python"
        run(interpreter, "-m", "pip", "install", "--quiet", *packages, cwd=self.away)
        run(interpreter, "-m", "pip", "check", cwd=self.away)
        return interpreter

    def smoke(self, python: Path, origin: Path, lua: str, env: dict[str, str] | None = None) -> None:
        """Saves and loads a conversation, and asks the demo for its help."""
        script = self.folder / "smoke.py"
        script.write_text(SMOKE, encoding="utf-8")
        warnings = ["-W", "error"]
        run(python, *warnings, script, origin, lua, self.version, cwd=self.away, env=env)
        usage = run(python, "-m", "histstore.demo", "--help", cwd=self.away, env=env)
        if "--input" not in usage:
            raise Failure(f"python -m histstore.demo --help does not tell of --input:\n{usage}")


def requirement(text: str) -> tuple[str, ...]:
    """A requirement in one spelling: its name, and its bounds in order."""
    name, bounds = re.fullmatch(r"([\w.-]+(?:\[[\w,]+\])?)\s*(.*)", text.strip()).groups()  # type: ignore[union-attr]
    return (name, *sorted(bounds.strip("()").replace(" ", "").split(",")))


def oldest(requirements: list[str]) -> list[str]:
    """The oldest releases that the lower bounds allow."""
    return [re.sub(r"([\w-]+)>=([\d.]+).*", r"\1==\2", text) for text in requirements]


def pythons() -> dict[tuple[int, int], str]:
    """The Pythons of this machine that work and are new enough, one of each minor version."""
    found: dict[tuple[int, int], str] = {sys.version_info[:2]: sys.executable}
    names = [f"python3.{minor}" for minor in range(11, 16)]
    candidates = [shutil.which(name) for name in names]
    candidates += [str(path) for path in sorted(Path.home().glob(".pyenv/versions/3.*/bin/python"))]
    for candidate in candidates:
        if candidate is None:
            continue
        question = "import sys, venv, ensurepip; print(*sys.version_info[:2])"
        # Asked, not trusted: a pyenv shim exists but fails.
        done = subprocess.run([candidate, "-c", question], capture_output=True, text=True, cwd="/")
        if done.returncode == 0:
            major, minor = map(int, done.stdout.split())
            if (major, minor) >= OLDEST_PYTHON:
                found.setdefault((major, minor), candidate)
    return dict(sorted(found.items()))


def main() -> int:
    """Runs everything and returns the exit status."""
    parser = argparse.ArgumentParser(description="Try the built package away from the checkout.")
    parser.add_argument("--all-pythons", action="store_true", help="try the wheel on every Python 3.11+ found here")
    arguments = parser.parse_args()

    with tempfile.TemporaryDirectory(prefix="histstore-wheel-") as temporary:
        bench = Bench(Path(temporary).resolve())
        start = time.monotonic()

        def step(text: str) -> None:
            nonlocal start
            print(f"ok  {text} ({time.monotonic() - start:.0f} s)", flush=True)
            start = time.monotonic()

        wheel = bench.build()
        step(f"{wheel.name}: the same from sdist and tree, with the scripts inside")

        found = pythons() if arguments.all_pythons else {sys.version_info[:2]: sys.executable}
        for (major, minor), executable in found.items():
            python = bench.venv(f"wheel-{major}.{minor}", executable, f"{wheel}[embedded]")
            bench.smoke(python, python.parent.parent, "inside")
            step(f"the wheel on Python {major}.{minor}")

        floor = oldest(PROJECT["dependencies"])
        python = bench.venv("oldest", sys.executable, f"{wheel}[embedded]", *floor)
        bench.smoke(python, python.parent.parent, "inside")
        step(f"the wheel with {' '.join(floor)}")

        python = bench.venv("editable", sys.executable, "--editable", f"{ROOT}[embedded]")
        bench.smoke(python, ROOT, "beside")
        step("an editable install")

        run(python, "-m", "pip", "uninstall", "--quiet", "--yes", "histstore", cwd=bench.away)
        bench.smoke(python, ROOT, "beside", env={"PYTHONPATH": str(ROOT)})
        step("a bare checkout on PYTHONPATH")
    return 0


if __name__ == "__main__":
    try:
        sys.exit(main())
    except Failure as failure:
        print(f"FAILED: {failure}", file=sys.stderr)
        sys.exit(1)
