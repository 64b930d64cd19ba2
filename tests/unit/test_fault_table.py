"""The table of faults names tests that exist."""

from __future__ import annotations

import ast
import re
from pathlib import Path

TESTS = Path(__file__).resolve().parents[1]
TABLE = (TESTS / "faults" / "README.md").read_text(encoding="utf-8")
ROWS = re.findall(r"^\| (\d+) \| (.+) \| (.+) \| (.+) \|$", TABLE, re.MULTILINE)


def _functions(path: Path) -> set[str]:
    tree = ast.parse(path.read_text(encoding="utf-8"))
    return {node.name for node in tree.body if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef)}


def test_each_fault_has_tests_and_they_exist() -> None:
    assert len(ROWS) == len(re.findall(r"^\| \d", TABLE, re.MULTILINE))
    assert [int(number) for number, *_ in ROWS] == sorted({int(number) for number, *_ in ROWS})
    for number, fault, holds, shown in ROWS:
        named = re.findall(r"`([\w/]+\.py)::(\w+)`", shown)
        assert fault, number
        assert holds, number
        assert named, f"row {number} names no test"
        assert len(named) == shown.count("::")
        for path, name in named:
            assert name in _functions(TESTS / path), f"row {number}: {path} has no {name}"


def test_the_rows_that_tests_refer_to_are_there() -> None:
    rows = {number for number, *_ in ROWS}
    for path in (TESTS / "faults").glob("test_*.py"):
        docstring = ast.get_docstring(ast.parse(path.read_text(encoding="utf-8"))) or ""
        for found in re.findall(r"\(rows? ([\d, and]+)\)", docstring):
            assert set(re.findall(r"\d+", found)) <= rows, f"{path.name}: {found}"
