"""The rules of the house: small modules, small functions, no circles, nothing written twice.

`make layers` checks the layers.
"""

from __future__ import annotations

import ast
import io
import tokenize
from collections import defaultdict
from collections.abc import Iterator
from functools import cache
from pathlib import Path

from tools import unasync

ROOT = Path(__file__).resolve().parents[2]
PACKAGE = ROOT / "histstore"

MODULE_LINES = 450
FUNCTION_LINES = 60
POSITIONAL = 6
EQUAL_LINES = 8
ON_EVERY_CALL = {"Call", "Plan", "RawHead", "Write", "_Change"}
"""Values that each load or save makes. Keywords would cost 3 % of a save's instructions, and 2 % of a load's."""


@cache
def modules() -> dict[str, tuple[Path, ast.Module]]:
    """Return the package's modules by dotted name."""
    found = {}
    for path in sorted(PACKAGE.rglob("*.py")):
        parts = path.relative_to(ROOT).with_suffix("").parts
        name = ".".join(parts[:-1] if parts[-1] == "__init__" else parts)
        found[name] = (path, ast.parse(path.read_text(encoding="utf-8")))
    return found


def place(path: Path) -> str:
    return path.relative_to(PACKAGE).as_posix()


@cache
def generated() -> set[str]:
    """Return the places of the generated twins."""
    sources = unasync.files(PACKAGE / "_async") - unasync.HANDWRITTEN - unasync.ASYNC_ONLY
    return {f"_sync/{name}" for name in sources}


def check(rule: str, broken: set[str]) -> None:
    """Fail if something breaks a rule."""
    assert not broken, f"{rule}: mend {sorted(broken)}"


def functions() -> Iterator[tuple[str, ast.FunctionDef | ast.AsyncFunctionDef]]:
    """Yield each function with its name: the file, then the dotted name."""

    def walk(node: ast.AST, prefix: str) -> Iterator[tuple[str, ast.FunctionDef | ast.AsyncFunctionDef]]:
        for child in ast.iter_child_nodes(node):
            if isinstance(child, ast.FunctionDef | ast.AsyncFunctionDef):
                yield f"{prefix}{child.name}", child
                yield from walk(child, f"{prefix}{child.name}.")
            elif isinstance(child, ast.ClassDef):
                yield from walk(child, f"{prefix}{child.name}.")
            else:
                yield from walk(child, prefix)

    for path, tree in modules().values():
        yield from walk(tree, f"{place(path)}: ")


def test_no_module_is_longer_than_some_screens() -> None:
    """At most 450 lines a module."""
    lines = {place(path): len(path.read_text(encoding="utf-8").splitlines()) for path, _ in modules().values()}
    check("long module", {name for name, count in lines.items() if count > MODULE_LINES})


def test_no_function_needs_a_second_screen() -> None:
    """At most 60 lines a function, docstring included."""
    long = {name for name, node in functions() if (node.end_lineno or 0) - node.lineno + 1 > FUNCTION_LINES}
    check("long function", long)


def test_no_call_passes_more_than_six_arguments_by_position() -> None:
    """At most 6 positional parameters a function; `self` and keyword-only ones do not count."""
    many = set()
    for name, node in functions():
        parameters = [argument.arg for argument in (*node.args.posonlyargs, *node.args.args)]
        if len(parameters) - (parameters[:1] in (["self"], ["cls"])) > POSITIONAL:
            many.add(name)
    check("many parameters", many)


def test_no_value_is_made_of_more_than_six_arguments_by_position() -> None:
    """A dataclass of many fields is called with keywords: its generated `__init__` is written nowhere."""
    values = {
        node.name
        for _, tree in modules().values()
        for node in ast.walk(tree)
        if isinstance(node, ast.ClassDef) and any(isinstance(each, ast.AnnAssign) for each in node.body)
    }
    many = {
        f"{place(path)}:{node.lineno}"
        for path, tree in modules().values()
        for node in ast.walk(tree)
        if isinstance(node, ast.Call)
        and isinstance(node.func, ast.Name)
        and node.func.id in {*values, "cls"} - ON_EVERY_CALL
        if len(node.args) > POSITIONAL
    }
    check("many arguments", many)


# ----------------------------------------------------------------------------------------- circles


def imports() -> dict[str, set[str]]:
    """Return which modules each module imports, also under TYPE_CHECKING and inside functions."""
    known = modules()
    graph: dict[str, set[str]] = {}
    for name, (path, tree) in known.items():
        package = name if path.stem == "__init__" else name.rpartition(".")[0]
        targets = set()
        for node in ast.walk(tree):
            if isinstance(node, ast.Import):
                targets |= {alias.name for alias in node.names}
            elif isinstance(node, ast.ImportFrom):
                base = node.module or ""
                if node.level:
                    above = package.split(".")[: len(package.split(".")) - node.level + 1]
                    base = ".".join([*above, base] if base else above)
                # `from . import keys` imports the module keys, not the package that holds it.
                names = {f"{base}.{alias.name}" for alias in node.names}
                targets |= (names & known.keys()) | ({base} if names - known.keys() else set())
        graph[name] = (targets & known.keys()) - {name}
    return graph


def circles(graph: dict[str, set[str]]) -> set[frozenset[str]]:
    """Return the groups of modules that import one another: the strongly connected components (Tarjan)."""
    index: dict[str, int] = {}
    low: dict[str, int] = {}
    stack: list[str] = []
    found: set[frozenset[str]] = set()

    def visit(name: str) -> None:
        index[name] = low[name] = len(index)
        stack.append(name)
        for target in graph[name]:
            if target not in index:
                visit(target)
                low[name] = min(low[name], low[target])
            elif target in stack:
                low[name] = min(low[name], index[target])
        if low[name] == index[name]:
            group = set()
            while name not in group:
                group.add(stack.pop())
            if len(group) > 1:
                found.add(frozenset(group))

    for name in graph:
        if name not in index:
            visit(name)
    return found


def test_no_modules_import_each_other_in_a_circle() -> None:
    """Neither at run time nor for types only."""
    check("circle", {" + ".join(sorted(place(modules()[name][0]) for name in group)) for group in circles(imports())})


def test_the_search_for_circles_finds_one() -> None:
    """A circle of three with a tail into it and one out of it."""
    graph = {"a": {"b"}, "b": {"c"}, "c": {"d"}, "d": {"b", "e"}, "e": set()}
    assert circles(graph) == {frozenset("bcd")}


# ----------------------------------------------------------------------------------- written twice


def written_lines(source: str, tree: ast.Module) -> list[str]:
    """Return the lines that count: no blank ones, comments, imports, or lists of public names."""
    left_out: set[int] = set()
    for node in ast.walk(tree):
        match node:
            case ast.Import() | ast.ImportFrom() | ast.Assign(targets=[ast.Name(id="__all__")]):
                left_out |= set(range(node.lineno, (node.end_lineno or 0) + 1))
    lines = source.splitlines()
    for token in tokenize.generate_tokens(io.StringIO(source).readline):
        if token.type == tokenize.COMMENT:
            row, column = token.start
            lines[row - 1] = lines[row - 1][:column]
    return [line.strip() for row, line in enumerate(lines, 1) if row not in left_out and line.strip()]


def doubles(sources: dict[str, list[str]]) -> set[frozenset[str]]:
    """Return the groups of files that hold one run of lines, or the file that holds it twice."""
    places: dict[tuple[str, ...], list[tuple[str, int]]] = defaultdict(list)
    for name, lines in sources.items():
        for start in range(len(lines) - EQUAL_LINES + 1):
            places[tuple(lines[start : start + EQUAL_LINES])].append((name, start))
    return {frozenset(name for name, _ in runs) for runs in places.values() if len(runs) > 1}


def test_nothing_is_written_twice() -> None:
    """No run of 8 lines stands twice, but for the generated twins."""
    sources = {
        place(path): written_lines(path.read_text(encoding="utf-8"), tree)
        for path, tree in modules().values()
        if place(path) not in generated()
    }
    check("double", {" + ".join(sorted(names)) for names in doubles(sources)})


def test_the_search_for_doubles_finds_one() -> None:
    """Eight equal lines are a double, seven are not; a run that overlaps itself is one."""
    lines = [f"line {number}" for number in range(EQUAL_LINES)]
    assert doubles({"a": ["x", *lines], "b": [*lines, "y"]}) == {frozenset("ab")}
    assert doubles({"a": lines[:-1], "b": lines[:-1]}) == set()
    assert doubles({"a": ["x"] * (EQUAL_LINES + 1)}) == {frozenset("a")}
