"""Links between the pages lead to files and headings that exist."""

from __future__ import annotations

import re
import tomllib
from pathlib import Path

import pytest

from .pages import DOCUMENTS, ROOT, name


def anchors(page: Path) -> set[str]:
    """Return the anchors that GitHub makes of a page's headings."""
    found: dict[str, int] = {}
    text = re.sub(r"^```.*?^```$", "", page.read_text(encoding="utf-8"), flags=re.MULTILINE | re.DOTALL)
    for heading in re.findall(r"^#+ +(.*?) *$", text, re.MULTILINE):
        plain = re.sub(r"\[([^\]]*)\]\([^)]*\)", r"\1", heading).lower()
        slug = re.sub(r"[^\w\- ]", "", plain).replace(" ", "-")
        found[slug] = found.get(slug, -1) + 1
        if found[slug]:
            found[f"{slug}-{found[slug]}"] = 0
    return set(found)


@pytest.mark.parametrize("page", DOCUMENTS, ids=name)
def test_links_lead_somewhere(page: Path) -> None:
    """A relative link names a file of the repository; an anchor names a heading of it."""
    text = re.sub(r"^```.*?^```$", "", page.read_text(encoding="utf-8"), flags=re.MULTILINE | re.DOTALL)
    for link in re.findall(r"\]\(([^)\s]+)\)", re.sub(r"`[^`\n]*`", "", text)):
        if re.match(r"[a-z]+:", link):
            assert link.startswith("https://"), link
            continue
        place, _, anchor = link.partition("#")
        target = (page.parent / place).resolve() if place else page
        assert target.is_relative_to(ROOT), link
        assert target.exists(), link
        if anchor:
            assert anchor in anchors(target), link


def test_every_page_can_be_reached() -> None:
    """The README and the index of docs/ link to every page of docs/."""
    pages = {page.name for page in (ROOT / "docs").glob("*.md")} - {"README.md"}
    readme = (ROOT / "README.md").read_text(encoding="utf-8")
    index = (ROOT / "docs/README.md").read_text(encoding="utf-8")
    assert set(re.findall(r"\]\(docs/(\w+\.md)\b", readme)) == pages
    assert set(re.findall(r"\]\((\w+\.md)\b", index)) == pages


PLANNED = {
    "histstore/adapters/",
    "histstore/cli/",
    "histstore/telemetry/",
}
"""Folders that pages name before they exist."""
CONTRIBUTING = (ROOT / "CONTRIBUTING.md").read_text(encoding="utf-8")
EXAMPLES = set(re.findall(r"^`([\w/.]+)`, new\b", CONTRIBUTING, re.MULTILINE))
"""Files that CONTRIBUTING.md has its reader make."""


def test_what_is_planned_does_not_exist() -> None:
    """A folder that exists is not planned any more, and the examples are not part of the repository."""
    assert not [path for path in PLANNED | EXAMPLES if (ROOT / path).exists()]


@pytest.mark.parametrize("page", DOCUMENTS, ids=name)
def test_paths_and_commands_exist(page: Path) -> None:
    """A path or a target of the Makefile that a page names is there.

    A path starts at the page's folder or at one above it. `NAME` stands for a name.
    """
    text = page.read_text(encoding="utf-8")
    targets = set(re.findall(r"^([a-z-]+):", (ROOT / "Makefile").read_text(encoding="utf-8"), re.MULTILINE))
    paths = set(re.findall(r"`((?:histstore|lua|tests|deploy|docs|tools)/[\w./]*)`", text))
    commands = re.findall(r"(?:`|^)make ((?:[a-z-]+ ?)+)", text, re.MULTILINE)
    folders = [folder for folder in page.parents if folder.is_relative_to(ROOT)]
    paths = {path for path in paths if Path(path).stem != "NAME"}
    missing = {path for path in paths if not any((folder / path).exists() for folder in folders)}
    missing |= {f"make {target}" for words in commands for target in words.split() if target not in targets}
    allowed = PLANNED | EXAMPLES if page.name in ("ARCHITECTURE.md", "CONTRIBUTING.md") else set()
    assert missing <= allowed


def test_the_readme_is_short() -> None:
    """The README is at most 200 lines; the rest is in docs/."""
    assert len((ROOT / "README.md").read_text(encoding="utf-8").splitlines()) <= 200


def test_the_commands_of_the_acl_are_explained() -> None:
    """The table of deploy/README.md lists the commands of the library's user in users.acl, each once."""
    table = (
        (ROOT / "deploy/README.md").read_text(encoding="utf-8").split("| for | commands |", 1)[1].split("\n\n", 1)[0]
    )
    listed = [word for cell in re.findall(r"`([^`]+)`", table) for word in cell.replace("\\|", "|").split()]
    [rules] = re.findall(r"^user histstore .*", (ROOT / "deploy/users.acl").read_text(encoding="utf-8"), re.MULTILINE)
    allowed = re.findall(r" \+([\w|]+)", rules)
    assert sorted(listed) == sorted(allowed)


def test_the_sdist_has_the_documentation() -> None:
    """Whoever unpacks the sdist has every page that is linked to."""
    included = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["tool"]["hatch"]["build"]["targets"]
    names = included["sdist"]["only-include"]
    for page in DOCUMENTS:
        assert any(page == ROOT / path or page.is_relative_to(ROOT / path) for path in names), name(page)
