"""The generator of the sync twin: what it replaces, what it leaves alone and what it refuses."""

from __future__ import annotations

import importlib.util
import sys
from pathlib import Path
from types import ModuleType

import pytest

TOOL = Path(__file__).resolve().parents[2] / "tools" / "unasync.py"


@pytest.fixture(scope="module")
def tool() -> ModuleType:
    spec = importlib.util.spec_from_file_location("unasync_tool", TOOL)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module  # dataclasses look their module up.
    spec.loader.exec_module(module)
    return module


@pytest.mark.parametrize(
    ("source", "expected"),
    [
        ("async def f(): return await g(1)\n", "def f(): return g(1)\n"),
        ("async with a as b, c: pass\n", "with a as b, c: pass\n"),
        ("async for x in y: pass\n", "for x in y: pass\n"),
        ("z = [x async for x in y if await x]\n", "z = [x for x in y if x]\n"),
        ("z = {await k: 1 async for k in aiter(y)}\n", "z = {k: 1 for k in iter(y)}\n"),
        ("x = await anext(i, None)\n", "x = next(i, None)\n"),
        ("async def __aenter__(self): ...\n", "def __enter__(self): ...\n"),
        ("async def __aexit__(self): await self.aclose()\n", "def __exit__(self): self.aclose()\n"),
        ("def __aiter__(self): raise StopAsyncIteration\n", "def __iter__(self): raise StopIteration\n"),
        ("from histstore._async.compat.io import Lock\n", "from histstore._sync.compat.io import Lock\n"),
        ("import redis.asyncio as redis\n", "import redis as redis\n"),
        ("from redis.asyncio.connection import C\n", "from redis.connection import C\n"),
        ("c: redis.asyncio.Redis\n", "c: redis.Redis\n"),
        ("def f() -> AsyncIterator[int]: ...\n", "def f() -> Iterator[int]: ...\n"),
        ("@asynccontextmanager\nasync def f(): yield\n", "@contextmanager\ndef f(): yield\n"),
        ("(\n    await\n    f()\n)\n", "(\n    f()\n)\n"),
    ],
)
def test_code_is_replaced(tool: ModuleType, source: str, expected: str) -> None:
    assert tool.transform(source) == expected


@pytest.mark.parametrize(
    ("source", "expected"),
    [
        ("x: Awaitable[int]\n", "x: int\n"),
        ("x: Coroutine[Any, Any, dict[str, int]]\n", "x: dict[str, int]\n"),
        ("f: Callable[[S | None], S | Awaitable[S]]\n", "f: Callable[[S | None], S]\n"),
        (
            "def f(g: Callable[[S], Awaitable[S | None] | S | None] = h): ...\n",
            "def f(g: Callable[[S], S | None] = h): ...\n",
        ),
        ("def f() -> Awaitable[Awaitable[int]]: ...\n", "def f() -> int: ...\n"),
        ("x: Awaitable[A[int, str]] | A[int, str] | None = None\n", "x: A[int, str] | None = None\n"),
        ("T = (int | Awaitable[int])\n", "T = (int)\n"),
    ],
)
def test_awaitables_become_what_they_give(tool: ModuleType, source: str, expected: str) -> None:
    assert tool.transform(source) == expected


@pytest.mark.parametrize(
    ("source", "expected"),
    [
        ("x = (await f(1)).y\n", "x = f(1).y\n"),
        ("x = (await self.f(a, b=(1, 2)))[0]\n", "x = self.f(a, b=(1, 2))[0]\n"),
        ("return (await f())()\n", "return f()()\n"),
        ("x = (a + await f()).y\n", "x = (a + f()).y\n"),
        ("x = f(await g()).y\n", "x = f(g()).y\n"),
        ("x = (await f() or g).y\n", "x = (f() or g).y\n"),
        ("x = ('a').y\n", "x = ('a').y\n"),
    ],
)
def test_parentheses_that_only_await_needed_go(tool: ModuleType, source: str, expected: str) -> None:
    assert tool.transform(source) == expected


@pytest.mark.parametrize(
    ("source", "expected"),
    [
        (
            '"""Call ``await store.save(x)`` inside ``async with``."""\n',
            '"""Call ``store.save(x)`` inside ``with``."""\n',
        ),
        ("# then `await backend.aclose()`\n", "# then `backend.aclose()`\n"),
        ('__all__ = ["anext", "AsyncIterator"]\n', '__all__ = ["next", "Iterator"]\n'),
        ('x = "a redis.asyncio client"\n', 'x = "a redis client"\n'),
        ('x = f"{await f(1)!r} await it"\n', 'x = f"{f(1)!r} await it"\n'),
        ('x = f"""{a:{b}} {"await f()"}\n{anext}"""\n', 'x = f"""{a:{b}} {"f()"}\n{next}"""\n'),
        ("async def f(timeout): ...  # noqa: ASYNC109\n", "def f(timeout): ...\n"),
        ("x()  # noqa: S603\n", "x()  # noqa: S603\n"),
    ],
)
def test_code_inside_prose_is_replaced(tool: ModuleType, source: str, expected: str) -> None:
    assert tool.transform(source) == expected


@pytest.mark.parametrize(
    "source",
    [
        "awaited = my_aclose = x.async_ = 'asynchronous, awaited; await it'\n",
        "x = 1 + \\\n    2  # kept\n\n\ndef f(\n    a,  # a\n): ...\n",
        "if x:\n\ty = '''a\n\tb'''\n\n# end, no newline",
        "s = 'ä\N{GRINNING FACE}' # \N{GRINNING FACE}\nx = f'{s!r:>{10}}' 'b'\n",
        "class A[T]: pass\n" if sys.version_info >= (3, 12) else "",
        "",
    ],
)
def test_other_source_stays_as_it_is(tool: ModuleType, source: str) -> None:
    assert tool.transform(source) == source


def test_marked_lines_are_dropped(tool: ModuleType) -> None:
    source = (
        "a = 1\n# unasync: off\nimport asyncio\n# unasync: on\nb = 2\n"
        "if b:\n    # unasync: off\n    c\n    # unasync: on\n    d\n"
    )
    assert tool.transform(source) == "a = 1\nb = 2\nif b:\n    d\n"


@pytest.mark.parametrize(
    "source",
    [
        "# unasync: off\n",
        "# unasync: on\n",
        "x = 1  # unasync: off\n",
        "# unasync: of\n",
        "# unasync: off\n# unasync: off\n",
    ],
)
def test_a_marker_that_is_not_understood_is_an_error(tool: ModuleType, source: str) -> None:
    with pytest.raises(tool.UnasyncError, match=r"line [12]"):
        tool.transform(source)


@pytest.mark.parametrize("source", ["import asyncio\n\nasyncio.run(f())\n", "x: Awaitable\n", "async = 1\n"])
def test_async_words_that_are_left_over_are_an_error(tool: ModuleType, source: str) -> None:
    with pytest.raises(tool.UnasyncError):
        tool.generate(source, "x.py")


def test_the_result_is_formatted_and_its_imports_are_clean(tool: ModuleType) -> None:
    source = (
        '"""Doc."""\n\nfrom collections.abc import AsyncIterator, Awaitable, Callable, Iterator\n\n\n'
        "async def f(\n    g: Callable[[], Awaitable[int]], h: Iterator[int]\n) -> AsyncIterator[int]:\n"
        "    yield await g(\n        1\n    )\n"
    )
    assert tool.generate(source, "x.py") == (
        "# Generated from histstore/_async/x.py by tools/unasync.py; do not edit.\n"
        '"""Doc."""\n\nfrom collections.abc import Callable, Iterator\n\n\n'
        "def f(g: Callable[[], int], h: Iterator[int]) -> Iterator[int]:\n    yield g(1)\n"
    )


class TestCheck:
    """`--check` compares whole files and refuses orphans."""

    @pytest.fixture
    def root(self, tool: ModuleType, tmp_path: Path) -> Path:
        for folder in (tool.SOURCE, tool.TARGET):
            (tmp_path / folder).mkdir(parents=True)
            for name in tool.HANDWRITTEN:
                (tmp_path / folder / name).parent.mkdir(exist_ok=True)
                (tmp_path / folder / name).write_text("")
        (tmp_path / tool.SOURCE / "a.py").write_text("async def f() -> None: ...\n")
        assert tool.main([], tmp_path) == 0
        assert tool.main(["--check"], tmp_path) == 0
        return tmp_path

    def test_an_edit_of_the_twin_is_found(
        self, tool: ModuleType, root: Path, capsys: pytest.CaptureFixture[str]
    ) -> None:
        path = root / tool.TARGET / "a.py"
        path.write_text(path.read_text() + "\n\nx = 1\n")
        assert tool.main(["--check"], root) == 1
        assert "-x = 1" in capsys.readouterr().out

    def test_an_edit_of_the_source_is_found_and_mended(self, tool: ModuleType, root: Path) -> None:
        (root / tool.SOURCE / "a.py").write_text("async def g() -> None: ...\n")
        assert tool.main(["--check"], root) == 1
        assert tool.main([], root) == 0
        assert tool.main(["--check"], root) == 0
        assert "def g()" in (root / tool.TARGET / "a.py").read_text()

    def test_a_missing_twin_is_found(self, tool: ModuleType, root: Path) -> None:
        (root / tool.TARGET / "a.py").unlink()
        assert tool.main(["--check"], root) == 1

    @pytest.mark.parametrize("name", ["b.py", "sub/b.py"])
    def test_an_orphan_is_refused(self, tool: ModuleType, root: Path, name: str) -> None:
        path = root / tool.TARGET / name
        path.parent.mkdir(exist_ok=True)
        path.write_text("x = 1\n")
        assert tool.main(["--check"], root) == 1
        assert tool.main([], root) == 1

    @pytest.mark.parametrize("folder", ["SOURCE", "TARGET"])
    def test_a_missing_half_of_a_handwritten_pair_is_refused(self, tool: ModuleType, root: Path, folder: str) -> None:
        (root / getattr(tool, folder) / "compat/io.py").unlink()
        assert tool.main(["--check"], root) == 1

    def test_a_handwritten_file_is_not_overwritten(self, tool: ModuleType, root: Path) -> None:
        (root / tool.SOURCE / "compat/io.py").write_text("import asyncio\n")
        assert tool.main([], root) == 0
        assert (root / tool.TARGET / "compat/io.py").read_text() == ""
