"""The code of the README and the documentation type-checks."""

from __future__ import annotations

import re
import subprocess
import sys
import textwrap
from collections.abc import Callable
from pathlib import Path

from .pages import PAGES, ROOT, blocking, blocks

# Examples show an expression, and give a result a name, to say what it is.
UNUSED = ("Expression", "Variable", "Import", "Function", "Class")
HEADER = f"# pyright: strict, {', '.join(f'reportUnused{kind}=false' for kind in UNUSED)}\n"
IMPORT = re.compile(r"^(?:from [^\n(]+ import (?:\(.*?^\)|[^\n(]+)|import [^\n]+)\n", re.MULTILINE | re.DOTALL)


def program(page: Path, *, sync: bool) -> str:
    """Return the blocks of a page as one program: the imports, then one function with the rest."""
    imports, body = [], []
    for block in blocks(page):
        if block.whole or (sync and block.asyncio_only):
            continue
        imports += IMPORT.findall(block.code)
        body.append(IMPORT.sub("", block.code))
    return "".join(imports) + "async def page() -> None:\n    pass\n" + textwrap.indent("\n".join(body), "    ")


def sources(*, sync: bool) -> dict[str, str]:
    """Return the programs of all pages, by file name."""
    found = {}
    for page in PAGES:
        stem = str(page.relative_to(ROOT)).replace("/", "_").removesuffix(".md").lower()
        if any(not block.whole and not (sync and block.asyncio_only) for block in blocks(page)):
            found[f"page_{stem}.py"] = program(page, sync=sync)
        for number, block in enumerate(block for block in blocks(page) if block.whole):
            found[f"whole_{stem}_{number}.py"] = block.code
    return found


def test_the_code_type_checks(tmp_path: Path) -> None:
    """mypy --strict and pyright's strict mode pass every block, in both shells."""
    for sync in (False, True):
        rewrite: Callable[[str], str] = blocking if sync else str
        for name, source in sources(sync=sync).items():
            file = tmp_path / f"{'sync' if sync else 'asyncio'}_{name}"
            file.write_text(HEADER + rewrite(source), encoding="utf-8")
    tools = Path(sys.executable).parent
    for command in (
        [
            tools / "mypy",
            "--strict",
            "--no-error-summary",
            "--config-file",
            ROOT / "pyproject.toml",
            *tmp_path.iterdir(),
        ],
        [tools / "pyright", "--pythonpath", sys.executable, tmp_path],
    ):
        done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=400)
        assert done.returncode == 0, f"{done.stdout}{done.stderr}"
