"""The examples of CONTRIBUTING.md work as printed: a script and an observer are added to a copy of the repository."""

from __future__ import annotations

import ast
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Final

import pytest

from histstore import RedisBackend

from .pages import ROOT, SERVER, blocks

PAGE: Final = ROOT / "CONTRIBUTING.md"
TEXT: Final = PAGE.read_text(encoding="utf-8")
STEP: Final = re.compile(
    r"^`(?P<path>[\w/.]+)`, (?P<how>new|add)\b[^`]*(?:`[^`\n]+`[^`]*)*?\n\n```(?:lua|python)\n(?P<code>.*?)^```$",
    re.MULTILINE | re.DOTALL,
)
TOOLS: Final = Path(sys.executable).parent


def add(path: Path, code: str) -> None:
    """Add imports and methods to a module, as the page asks for: methods go to the end of their class."""
    lines = path.read_text(encoding="utf-8").split("\n")
    module = ast.parse("\n".join(lines))
    imports = [node.end_lineno or 0 for node in module.body if isinstance(node, ast.Import | ast.ImportFrom)]
    classes = {node.name: node.end_lineno or 0 for node in module.body if isinstance(node, ast.ClassDef)}
    # From the end of the file to its beginning, so that line numbers stay right.
    for node in reversed(ast.parse(code).body):
        source = code.split("\n")[node.lineno - 1 : node.end_lineno]
        if isinstance(node, ast.ClassDef):
            lines[classes[node.name] : classes[node.name]] = ["", *source[1:]]
        else:
            assert isinstance(node, ast.ImportFrom), source
            lines[imports[-1] : imports[-1]] = source
    path.write_text("\n".join(lines), encoding="utf-8")


def insert(path: Path, before: str, *added: str) -> None:
    """Insert lines before the only line that begins with `before`."""
    text = path.read_text(encoding="utf-8")
    (found,) = re.finditer(rf"^{re.escape(before)}", text, re.MULTILINE)
    path.write_text(text[: found.start()] + "\n".join([*added, ""]) + text[found.start() :], encoding="utf-8")


def follow(copy: Path) -> None:
    """Do what the page says, in a copy of the repository."""
    steps = list(STEP.finditer(TEXT))
    shown = len(re.findall(r"^```(?:lua|python)$", TEXT, re.MULTILINE))
    assert len(steps) == shown - 1, "a block does not name its file; only the program of an observer's user has none"
    for step in steps:
        path = copy / step["path"]
        if step["how"] == "new":
            assert not path.exists(), path
            path.parent.mkdir(exist_ok=True)
            path.write_text(step["code"], encoding="utf-8")
        elif path.name == "scripts.py":
            insert(path, "ALL: Final = (", *step["code"].rstrip().split("\n"), "")
        else:
            add(path, step["code"])
    scripts = copy / "histstore/protocol/scripts.py"
    scripts.write_text(re.sub(r"^(ALL: Final = \(.*)\)$", r"\1, COUNT)", scripts.read_text(), flags=re.MULTILINE))
    insert(copy / "tests/lua/guards/__init__.py", "from .changes import", "from . import count")
    insert(copy / "tests/lua/guards/__init__.py", "    *compare.GUARDS", "    *count.GUARDS,")
    (call,) = re.findall(r"`(COUNT: .*,)`", TEXT)
    headers = copy / "tests/lua/test_headers.py"
    insert(headers, "        RESOLVE: (", f"        {call}")
    add(headers, "from histstore.protocol.count import count\nfrom histstore.protocol.scripts import COUNT\n")
    (copy / "histstore/telemetry/__init__.py").write_text('"""Observers for metrics and traces."""\n')
    (copy / "tests/unit/telemetry/__init__.py").touch()


@pytest.mark.slow
@pytest.mark.long
def test_the_script_and_the_observer_can_be_added(tmp_path: Path) -> None:
    """Their tests pass in both shells, and so do style, layers, and the tests that look for what was forgotten."""
    for folder in ("histstore", "lua", "tests", "tools"):
        shutil.copytree(ROOT / folder, tmp_path / folder, ignore=shutil.ignore_patterns("__pycache__"))
    shutil.copy(ROOT / "pyproject.toml", tmp_path)
    follow(tmp_path)
    environment = {name: value for name, value in os.environ.items() if not name.startswith(("PYTEST_", "COV_"))}

    def run(*command: object) -> None:
        done = subprocess.run(
            [str(word) for word in command],
            cwd=tmp_path,
            env={**environment, "PYTHONPATH": str(tmp_path)},
            capture_output=True,
            text=True,
            timeout=300,
        )
        assert done.returncode == 0, f"{command}\n{done.stdout}\n{done.stderr}"

    changed = ["histstore", "tests/lua", "tests/store", "tests/unit/telemetry"]
    run(TOOLS / "ruff", "check", "--fix-only", *changed)
    run(TOOLS / "ruff", "format", *changed)
    run(TOOLS / "ruff", "check", *changed)
    run(sys.executable, "tools/unasync.py")
    run(TOOLS / "lint-imports", "--no-cache")
    tests = ["tests/lua/test_headers.py", "tests/lua/test_scenarios.py", "tests/lua/test_guards.py"]
    tests += ["tests/store/test_count.py", "tests/unit/telemetry", "tests/store/test_slow_calls.py"]
    picked = "count or header or decision or marker or guards_have or slow or logged"
    run(sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", *tests, "-k", picked)
    source = f"import histstore, sys; sys.exit(not histstore.__file__.startswith({str(tmp_path)!r}))"
    run(sys.executable, "-c", source)


def test_the_program_of_an_observers_user_runs() -> None:
    """The block that names no file is a program by itself; making a backend sends nothing."""
    (block,) = [block for block in blocks(PAGE) if SERVER in block.code]
    names: dict[str, object] = {"__name__": "page"}
    exec(compile(block.code, str(PAGE), "exec", dont_inherit=True), names)
    backend = names["backend"]
    assert isinstance(backend, RedisBackend)
    assert type(backend.observer) is names["SlowCalls"]
