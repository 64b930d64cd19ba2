"""The README: its code type-checks, its links work here and on the package index, and it agrees with pyproject."""

from __future__ import annotations

import importlib.util
import re
import subprocess
import sys
import textwrap
import tomllib
from html.parser import HTMLParser
from pathlib import Path
from types import ModuleType

import pytest
from readme_renderer import markdown

ROOT = Path(__file__).resolve().parents[2]
README = (ROOT / "README.md").read_text(encoding="utf-8")
PYPROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))
PROJECT = PYPROJECT["project"]


def test_links_lead_to_files_of_the_checkout() -> None:
    """Relative links work where the repository is browsed."""
    links = re.findall(r"\]\(([^)\s]+)\)", README)
    assert links
    for link in links:
        if not link.startswith(("https://", "#")):
            assert (ROOT / link).exists(), link


def on_the_index() -> str:
    """Returns the README as a build writes it into the package's metadata."""
    command = [sys.executable, "-m", "hatch_fancy_pypi_readme"]
    return subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True, timeout=60).stdout


class Targets(HTMLParser):
    """Collects what a page links to and shows."""

    def __init__(self) -> None:
        super().__init__()
        self.links: list[str] = []
        self.pictures: list[str] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        found = dict(attrs)
        link = str(found.get("href") or "#")
        if tag == "a" and not link.startswith("#"):  # to a heading of the same page
            self.links.append(link)
        if tag == "img" and found.get("src"):
            self.pictures.append(str(found["src"]))


def test_links_and_pictures_work_on_the_package_index() -> None:
    """What is uploaded has no relative link, and each absolute one leads to a file of the repository."""
    text = on_the_index()
    html = markdown.render(text)
    assert html is not None
    page = Targets()
    page.feed(html)
    pages = f"{PROJECT['urls']['Repository']}/blob/main/"
    pictures = pages.replace("//github.com/", "//raw.githubusercontent.com/").replace("/blob/main/", "/main/")
    # Not only what was rendered: in a table or a list, what is written otherwise may be no link to the renderer.
    assert not re.findall(r"\]\((?!https://|#)[^)]*\)", text)
    assert not re.findall(r"^\[[^\]]+\]: *(?!https://)", text, re.MULTILINE)
    assert len(page.pictures) == README.count("![")
    assert len(page.links) == README.count("](") - len(page.pictures)
    for target, start in [*((link, pages) for link in page.links), *((picture, pictures) for picture in page.pictures)]:
        assert target.startswith("https://"), target
        if "/histstore/" in target:
            assert target.startswith(start), target
            assert (ROOT / target.removeprefix(start)).is_file(), target
    for block in re.findall(r"^```.*?^```$", README, re.MULTILINE | re.DOTALL):
        assert block in text


def test_the_metadata_agrees_with_the_readme() -> None:
    """Python versions and systems are the same in the README, the classifiers and `requires-python`."""
    found = re.search(r"Python 3\.(\d+) or\s+later \(tested with 3\.(\d+) to 3\.(\d+)\) on Linux or macOS", README)
    assert found is not None
    oldest, first, last = map(int, found.groups())
    assert PROJECT["requires-python"] == f">=3.{oldest}"
    minors = re.findall(r"Python :: 3\.(\d+)", "\n".join(PROJECT["classifiers"]))
    assert list(map(int, minors)) == list(range(first, last + 1))
    assert first == oldest
    systems = [text for text in PROJECT["classifiers"] if text.startswith("Operating System")]
    assert systems == ["Operating System :: MacOS", "Operating System :: POSIX :: Linux"]
    assert PYPROJECT["tool"]["mypy"]["python_version"] == PYPROJECT["tool"]["pyright"]["pythonVersion"] == f"3.{oldest}"
    assert PYPROJECT["tool"]["ruff"]["target-version"] == f"py3{oldest}"


def test_the_project_has_its_urls() -> None:
    """The package index shows where the code, the documentation, the changes and the issues are."""
    assert set(PROJECT["urls"]) == {"Homepage", "Documentation", "Repository", "Issues", "Changelog"}
    assert all(url.startswith("https://") for url in PROJECT["urls"].values())


# ------------------------------------------------------------------------------------------------- types


def program() -> str:
    """Returns the README's Python as one program: what is not a program by itself, in one function, in its order."""
    whole, imports, body = [], [], []
    for block in re.findall(r"^```python\n(.*?)^```$", README, re.MULTILINE | re.DOTALL):
        if "asyncio.run(" in block:
            whole.append(block)
            continue
        found = re.findall(r"^from [^\n(]+ import (?:\(.*?^\)|[^\n(]+)\n", block, re.MULTILINE | re.DOTALL)
        imports += found
        for text in found:
            block = block.replace(text, "")
        body.append(block)
    assert len(whole) == 1
    assert len(body) >= 3
    signature = "async def the_rest(message: Message) -> None:\n"
    names = "from histstore import Message\n"
    return "\n".join([*whole, names, *imports, signature, textwrap.indent("\n".join(body), "    ")])


def unasync() -> ModuleType:
    spec = importlib.util.spec_from_file_location("unasync", ROOT / "tools/unasync.py")
    assert spec is not None
    assert spec.loader is not None
    module = sys.modules["unasync"] = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def blocking_program() -> str:
    """Returns the same for the blocking twin, by the README's own rule: without `async` and `await`."""
    source = unasync().transform(program())
    source = source.replace("from histstore import", "from histstore.sync import").replace(".aclose(", ".close(")
    return source.replace("import asyncio\n", "").replace("asyncio.run(main())", "main()")


@pytest.mark.parametrize("write", [program, blocking_program])
def test_the_code_type_checks(tmp_path: Path, write: object) -> None:
    """mypy --strict and pyright's strict mode pass the README's code, in both shells."""
    assert callable(write)
    source = write()
    # Examples show an expression, and give a result a name, to say what it is.
    unused = ("Expression", "Variable", "Import", "Function")
    shown = ", ".join(f"reportUnused{kind}=false" for kind in unused)
    path = tmp_path / "readme_code.py"
    path.write_text(f"# pyright: strict, {shown}\n{source}", encoding="utf-8")
    tools = Path(sys.executable).parent
    for command in (
        [tools / "mypy", "--strict", "--no-error-summary", "--config-file", ROOT / "pyproject.toml", path],
        [tools / "pyright", "--pythonpath", sys.executable, path],
    ):
        done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=400)
        assert done.returncode == 0, f"{done.stdout}{done.stderr}\n{source}"
