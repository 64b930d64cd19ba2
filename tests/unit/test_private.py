"""No line of histstore reads a private attribute of another library's objects."""

from __future__ import annotations

import ast
from pathlib import Path

PACKAGE = Path(__file__).resolve().parents[2] / "histstore"

OTHERS = {
    "_is_owned": "of threading.RLock: the one way to ask whether this thread holds it",
    "_exit": "os._exit is public in spite of its name",
}


def test_private_attributes_are_the_librarys_own() -> None:
    """Each one that is read somewhere is made somewhere in the package. redis-py's are nowhere."""
    trees = {path: ast.parse(path.read_text(encoding="utf-8")) for path in PACKAGE.rglob("*.py")}
    made, read = set(OTHERS), {}
    for path, tree in trees.items():
        for node in ast.walk(tree):
            match node:
                case ast.FunctionDef(name=name) | ast.AsyncFunctionDef(name=name) | ast.ClassDef(name=name):
                    made.add(name)
                case ast.Name(id=name, ctx=ast.Store()) | ast.alias(name=name):
                    made.add(name)
                case ast.Attribute(value=ast.Name(id="self" | "error" | "found" | "cls"), attr=name, ctx=ast.Store()):
                    made.add(name)
                case ast.Assign(targets=[ast.Name(id="__slots__")], value=ast.Tuple(elts=elements)):
                    made |= {element.value for element in elements if isinstance(element, ast.Constant)}
                case _:
                    pass
            if isinstance(node, ast.Attribute) and node.attr.startswith("_") and not node.attr.startswith("__"):
                read.setdefault(node.attr, f"{path.name}:{node.lineno}")
    assert {name: place for name, place in read.items() if name not in made} == {}
    theirs = {"_reader", "_writer", "_buffer", "_sock"}
    sockets = [path for path in trees if path.parent.name in ("transport", "wire")]
    assert len(sockets) > 20
    for path in sockets:
        assert not theirs & {node.attr for node in ast.walk(trees[path]) if isinstance(node, ast.Attribute)}, path
