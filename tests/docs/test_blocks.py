"""Every Python block of the README and the documentation runs on a real server, and prints what the page shows."""

from __future__ import annotations

import ast
import asyncio
import contextlib
import inspect
import io
import os
import re
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from types import CodeType
from typing import Any

import pytest

from ..support.servers import Server, server
from .pages import PAGES, ROOT, SERVER, Block, blocking, blocks, name

PROGRAMS = [page for page in PAGES if any(not block.whole for block in blocks(page))]
WHOLE = [block for page in PAGES for block in blocks(page) if block.whole]


@pytest.fixture(scope="module")
def private() -> Iterator[Server]:
    """A server of the module's own: the examples use the default namespace."""
    with server() as running:
        yield running


@pytest.fixture
def url(private: Server) -> str:
    """The URL of an empty server."""
    with private.client() as client:
        client.flushall()
    return private.url


def compiled(block: Block, url: str, rewrite: Callable[[str], str]) -> CodeType:
    """Return a block's code for `url`. Tracebacks name the page and the line."""
    source = "\n" * (block.line - 1) + rewrite(block.code.replace(SERVER, url))
    return compile(source, str(block.page), "exec", ast.PyCF_ALLOW_TOP_LEVEL_AWAIT, dont_inherit=True)


def check_output(block: Block, printed: str) -> None:
    """Compare with the text block of the page. "…" in it stands for any text within a line."""
    if block.output is None:
        return
    pattern = "[^\n]*".join(re.escape(part) for part in block.output.split("…"))
    assert re.fullmatch(pattern, printed), f"{name(block.page)}:{block.line} prints\n{printed}\nnot\n{block.output}"


@pytest.mark.parametrize("page", PROGRAMS, ids=name)
async def test_the_blocks_of_a_page_run(page: Path, url: str) -> None:
    """A page is one program: its blocks run in order, in one event loop, and share their names."""
    names: dict[str, Any] = {"__name__": "page"}
    for block in blocks(page):
        if block.whole:
            continue
        printed = io.StringIO()
        with contextlib.redirect_stdout(printed):
            done = eval(compiled(block, url, str), names)
            if inspect.iscoroutine(done):
                await done
        check_output(block, printed.getvalue())
    if "backend" in names:
        await names["backend"].aclose()


@pytest.mark.parametrize("page", PROGRAMS, ids=name)
async def test_the_blocks_of_a_page_run_without_async_and_await(page: Path, url: str) -> None:
    """`histstore.sync` runs the same blocks, as docs/README.md says, and prints the same."""
    names: dict[str, Any] = {"__name__": "page"}

    def run() -> None:
        for block in blocks(page):
            if block.whole or block.asyncio_only:
                continue
            printed = io.StringIO()
            with contextlib.redirect_stdout(printed):
                exec(compiled(block, url, blocking), names)
            check_output(block, printed.getvalue())
        if "backend" in names:
            names["backend"].close()

    await asyncio.to_thread(run)


@pytest.mark.parametrize("rewrite", [str, blocking], ids=["asyncio", "sync"])
@pytest.mark.parametrize("block", WHOLE, ids=lambda block: f"{name(block.page)}:{block.line}")
def test_a_whole_program_runs_as_it_stands(block: Block, rewrite: Callable[[str], str], tmp_path: Path) -> None:
    """A program with a `main` can be copied into a file and run, without a server or any preparation."""
    path = tmp_path / "example.py"
    path.write_text(rewrite(block.code), encoding="utf-8")
    command = [sys.executable, "-W", "error", str(path)]
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    done = subprocess.run(command, cwd=tmp_path, env=environment, capture_output=True, text=True, timeout=60)
    assert done.returncode == 0, done.stderr
    check_output(block, done.stdout)


def test_blocks_are_found_where_they_are() -> None:
    """No Python block escapes the tests by its spelling, and the pages that should have some do."""
    for page in PAGES:
        text = page.read_text(encoding="utf-8")
        assert len(re.findall(r"^ *[`~]{3,} *(?:python|py)", text, re.MULTILINE)) == len(blocks(page)), name(page)
    assert {name(block.page) for block in WHOLE} == {"README.md"}
    with_code = {"store", "leases", "messages", "backends", "concurrency", "web", "files", "errors"}
    assert with_code == {page.stem for page in PROGRAMS}
