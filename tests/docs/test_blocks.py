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

import httpx
import pytest

from histstore import Attempt, RunId, UserMessage

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


async def run_page(page: Path, url: str) -> dict[str, Any]:
    """Run the blocks of a page, compare what they print, and return the names that they define."""
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
    return names


@pytest.mark.parametrize("page", PROGRAMS, ids=name)
async def test_the_blocks_of_a_page_run(page: Path, url: str) -> None:
    """A page is one program: its blocks run in order, in one event loop, and share their names."""
    names = await run_page(page, url)
    if "backend" in names:
        await names["backend"].aclose()


async def test_the_service_of_the_page_about_the_web_answers(url: str) -> None:
    """Its blocks only define the service. A request runs them: the answer is streamed, and the turn is saved."""
    names = await run_page(ROOT / "docs/web.md", url)
    transport = httpx.ASGITransport(names["app"])
    async with names["backend"] as backend, httpx.AsyncClient(transport=transport, base_url="http://page") as client:
        answer = await client.post("/chats/run/messages", json=vars(UserMessage("Where is my parcel?")))
        assert answer.status_code == 200, answer.text
        assert answer.text == "data: It\n\ndata: left\n\ndata: Oslo.\n\nevent: saved\ndata:\n\n"
        snapshot = await backend.store("run").load()
        assert snapshot is not None
        assert len(snapshot.messages) == 2


async def test_the_page_about_errors_settles_a_write_of_another_process(url: str) -> None:
    """Its `settle` reads a line, and says what became of the write."""
    names = await run_page(ROOT / "docs/errors.md", url)
    backend = names["backend"]
    async with backend:
        parent = names["store"].revision
        never = Attempt("save", backend.namespace, RunId("order-4711"), parent, None, b"never sent, 16 b")
        assert await names["settle"](str(never)) == "never applied"


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


def test_every_output_is_compared() -> None:
    """No text block stands apart from the Python block that prints it: it would not be compared."""
    for page in PAGES:
        shown = len(re.findall(r"^```text$", page.read_text(encoding="utf-8"), re.MULTILINE))
        assert shown == sum(block.output is not None for block in blocks(page)), name(page)


def test_the_pages_with_code_are_known() -> None:
    """A page that loses its code, or a new one, is noticed."""
    with_code = {
        "store",
        "leases",
        "messages",
        "backends",
        "concurrency",
        "web",
        "files",
        "errors",
        "cluster",
        "sentinel",
    }
    assert with_code == {page.stem for page in PROGRAMS}
