"""What an import loads, and that nothing but the embedded server and the JSON file needs a POSIX system."""

from __future__ import annotations

import ast
import re
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest

import histstore
import histstore.sync

ROOT = Path(__file__).resolve().parents[2]

# Modules of Python's own library that Windows does not have.
POSIX = ("fcntl", "grp", "pwd", "resource", "termios")
HEAVY = ("asyncio", "cbor2", "hiredis", "redis", "subprocess", "tempfile", "tenacity", "threading")

BLOCK = """
import sys

def block(*names):
    class Blocked:
        def find_spec(self, name, path=None, target=None):
            if name.partition(".")[0] in names:
                raise ImportError(f"No module named {name!r}", name=name)
    for name in names:
        sys.modules.pop(name, None)
    sys.meta_path.insert(0, Blocked())
"""


def run(code: str) -> str:
    """Runs code in a fresh interpreter, with warnings as errors."""
    command = [sys.executable, "-W", "error", "-c", code]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=60)
    assert done.returncode == 0, done.stderr
    return done.stdout


def loaded_by(before: str, code: str) -> set[str]:
    """Returns the modules that `code` loads after `before` has run."""
    return set(run(f"import sys\n{before}\nknown = set(sys.modules)\n{code}\nprint(*set(sys.modules) - known)").split())


def test_import_works_where_everything_else_is_missing() -> None:
    """`import histstore` needs Python's plain modules only: the values, the errors and the version are there."""
    run(f"""{BLOCK}
block(*{POSIX + HEAVY})
import histstore
from histstore import AssistantMessage, ConflictError, ConversationSnapshot, Revision, RunId, UserMessage
snapshot = ConversationSnapshot([UserMessage("hi")]).append(AssistantMessage("hello"), {{"role": "user"}})
assert ConversationSnapshot.from_json(snapshot.to_json()) == snapshot
assert histstore.__version__
assert "RedisBackend" in dir(histstore)
""")


@pytest.mark.parametrize("shell", ["histstore", "histstore.sync"])
def test_a_backend_of_a_url_works_without_posix_modules(shell: str) -> None:
    """A simulated Windows: `from_url` works. What needs POSIX raises an error that names `from_url`.

    asyncio, and redis-py with it, imports subprocess itself, so it is loaded before subprocess is refused.
    """
    said = run(f"""{BLOCK}
import asyncio
block(*{POSIX}, "subprocess")
import {shell} as shell
backend = shell.RedisBackend.from_url("redis://localhost:1/0", run_ttl=60)
store = backend.store("run")
shell.InMemoryHistoryStore()
for make, argument in (
    (shell.RedisBackend.embedded, None), (shell.RedisBackend.embedded, "data"), (shell.JsonFileHistoryStore, "run.json")
):
    try:
        make(argument)
    except shell.HistoryStoreError as error:
        assert type(error.__cause__) is ImportError
        print(type(error).__name__, error)
    else:
        raise AssertionError("made")
assert not {{"subprocess", "fcntl", "histstore.embedded"}} & sys.modules.keys()
""").splitlines()
    assert len(said) == 3
    for line in said:
        assert "Linux or macOS" in line
        assert "from_url(" in line
        assert len(line) < 300


@pytest.mark.parametrize(
    ("code", "budget"),
    [
        # What Python's own dataclasses, json and uuid load.
        ("import histstore", 64),
        # Beyond what redis, hiredis, tenacity and cbor2 load.
        ("from histstore import RedisBackend; RedisBackend.from_url('redis://localhost')", 6),
        ("from histstore.sync import RedisBackend; RedisBackend.from_url('redis://localhost')", 9),
    ],
)
def test_an_import_stays_within_its_budget(code: str, budget: int) -> None:
    """The number of modules of others that a first import loads is bounded."""
    before = "import redis.asyncio, hiredis, tenacity, cbor2" if "RedisBackend" in code else ""
    found = loaded_by(before, code)
    others = sorted(name for name in found if name.partition(".")[0] != "histstore")
    assert len(others) <= budget, others
    assert not {"histstore.embedded", "histstore.embedded.watcher", "histstore.local.files", *POSIX} & found
    if not before:
        assert not {name for name in found if name.partition(".")[0] in {"redis", "asyncio", "tenacity", "cbor2"}}


def test_a_shell_does_not_load_the_other() -> None:
    """The blocking twin loads nothing of the asyncio half, and the other way round."""
    assert not {name for name in loaded_by("", "import histstore.sync") if name.startswith("histstore._async")}
    both = loaded_by("", "from histstore import *")
    assert "histstore._async.backend" in both
    assert not {name for name in both if name.startswith("histstore._sync")}


def test_the_embedded_server_and_the_json_file_are_loaded_when_they_are_used() -> None:
    """`embedded()` and `JsonFileHistoryStore()` import what they need."""
    found = loaded_by("from histstore.sync import RedisBackend, JsonFileHistoryStore", "RedisBackend.embedded()")
    assert "histstore.embedded" in found
    found = loaded_by("from histstore.sync import JsonFileHistoryStore", "JsonFileHistoryStore('x')")
    assert "histstore.local.files" in found


def test_what_is_imported_lazily_is_what_type_checkers_see() -> None:
    """The table of `histstore.__getattr__` and its imports under TYPE_CHECKING name the same modules."""
    tree = ast.parse((ROOT / "histstore/__init__.py").read_text())
    [branch] = [node for node in tree.body if isinstance(node, ast.If)]
    seen = {alias.name: node.module for node in branch.body if isinstance(node, ast.ImportFrom) for alias in node.names}
    assert seen == histstore._LAZY  # type: ignore[attr-defined]
    for name in histstore.__all__:
        assert getattr(histstore, name) is not None
    assert set(histstore.__all__) <= set(dir(histstore))
    with pytest.raises(AttributeError, match="has no attribute 'nothing'"):
        _ = histstore.nothing  # type: ignore[attr-defined]


def test_the_version_has_one_source() -> None:
    """`histstore.__version__` is what the build reads, in both shells, and the changelog's newest entry."""
    with (ROOT / "pyproject.toml").open("rb") as file:
        pyproject = tomllib.load(file)
    assert "version" in pyproject["project"]["dynamic"]
    assert pyproject["tool"]["hatch"]["version"]["path"] == "histstore/__init__.py"
    assert histstore.sync.__version__ == histstore.__version__
    newest = re.search(r"^## (\S+)", (ROOT / "CHANGELOG.md").read_text(), re.MULTILINE)
    assert newest is not None
    assert newest[1] in (histstore.__version__, "Unreleased")
