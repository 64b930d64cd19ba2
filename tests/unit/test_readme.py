"""The README works on the package index, and agrees with pyproject. tests/docs/ runs its code and checks its links."""

from __future__ import annotations

import re
import subprocess
import sys
import tomllib
from html.parser import HTMLParser
from pathlib import Path

from readme_renderer import markdown

ROOT = Path(__file__).resolve().parents[2]
README = (ROOT / "README.md").read_text(encoding="utf-8")
PYPROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))
PROJECT = PYPROJECT["project"]


def on_the_index() -> str:
    """Return the README as a build writes it into the package's metadata."""
    command = [sys.executable, "-m", "hatch_fancy_pypi_readme"]
    return subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True, timeout=60).stdout


class Targets(HTMLParser):
    """Collects the targets of a page's links and pictures."""

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
    """The uploaded text has no relative link, and each absolute one leads to a file of the repository."""
    text = on_the_index()
    html = markdown.render(text)
    assert html is not None
    page = Targets()
    page.feed(html)
    pages = f"{PROJECT['urls']['Repository']}/blob/main/"
    pictures = pages.replace("//github.com/", "//raw.githubusercontent.com/").replace("/blob/main/", "/main/")
    # The source is checked too: in a table or a list, the renderer may not take every spelling for a link.
    assert not re.findall(r"\]\((?!https://|#)[^)]*\)", text)
    assert not re.findall(r"^\[[^\]]+\]: *(?!https://)", text, re.MULTILINE)
    assert len(page.pictures) == README.count("![")
    assert len(page.links) == README.count("](") - len(page.pictures)
    for target, start in [*((link, pages) for link in page.links), *((picture, pictures) for picture in page.pictures)]:
        assert target.startswith("https://"), target
        if "/histstore/" in target:
            assert target.startswith(start), target
            assert (ROOT / target.removeprefix(start).partition("#")[0]).is_file(), target
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
