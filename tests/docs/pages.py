"""The pages of the documentation, and the Python blocks in them."""

from __future__ import annotations

import importlib.util
import re
import sys
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from types import ModuleType
from typing import Final

ROOT: Final = Path(__file__).resolve().parents[2]
PAGES: Final = (ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md")), *sorted((ROOT / "deploy").glob("*.md")))
"""The pages whose Python blocks run."""
DOCUMENTS: Final = (*PAGES, *(ROOT / name for name in ("ARCHITECTURE.md", "CHANGELOG.md", "CONTRIBUTING.md")),
                    ROOT / "lua/README.md", ROOT / "tests/README.md", ROOT / "tests/faults/README.md")  # fmt: skip
"""The pages whose links are checked."""
SERVER: Final = "redis://localhost:6379/0"
"""The URL of the server in every block."""

_BLOCK: Final = re.compile(
    r"(?P<marker><!-- asyncio only -->\n)?^```python\n(?P<code>.*?)^```$(?:\n\n```text\n(?P<output>.*?)^```$)?",
    re.MULTILINE | re.DOTALL,
)


@dataclass(frozen=True, slots=True)
class Block:
    """A Python block of a page.

    Attributes:
        page: The page.
        line: The line of its first statement, from 1.
        code: Its source.
        output: The text block that follows it, which shows what it prints; None: there is none.
        asyncio_only: Whether the blocking twin has no such program.
    """

    page: Path
    line: int
    code: str
    output: str | None
    asyncio_only: bool

    @property
    def whole(self) -> bool:
        """Whether the block is a program by itself."""
        return "asyncio.run(main())" in self.code


def blocks(page: Path) -> list[Block]:
    """Return the Python blocks of a page, in order."""
    text = page.read_text(encoding="utf-8")
    return [
        Block(
            page,
            text.count("\n", 0, found.start("code")) + 1,
            found["code"],
            found["output"],
            found["marker"] is not None,
        )
        for found in _BLOCK.finditer(text)
    ]


def name(page: Path) -> str:
    """Return a page's path in the repository."""
    return str(page.relative_to(ROOT))


@cache
def _unasync() -> ModuleType:
    spec = importlib.util.spec_from_file_location("unasync", ROOT / "tools/unasync.py")
    assert spec is not None
    assert spec.loader is not None
    module = sys.modules["unasync"] = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def blocking(source: str) -> str:
    """Return the same program for the blocking twin, by the documentation's own rule."""
    source = str(_unasync().transform(source))
    source = source.replace("from histstore import", "from histstore.sync import").replace(".aclose(", ".close(")
    return source.replace("import asyncio\n", "").replace("asyncio.run(main())", "main()")
