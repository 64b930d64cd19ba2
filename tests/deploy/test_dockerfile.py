"""The image of the workers: hadolint accepts its Dockerfile, and it runs as it should."""

from __future__ import annotations

import json
import re
import shutil
import subprocess
import sys
from fnmatch import fnmatch
from pathlib import Path

import pytest

from .conftest import DEPLOY

ROOT = DEPLOY.parent
FILE = DEPLOY / "worker/Dockerfile"
HADOLINT = shutil.which("hadolint", path=str(Path(sys.executable).parent))


def instructions(name: str) -> list[str]:
    """Return the arguments of each instruction of a kind."""
    return re.findall(rf"^{name} (.*)$", FILE.read_text(encoding="utf-8"), re.MULTILINE)


def copied() -> list[str]:
    """Return the paths of the repository that go into the image."""
    return [path for line in instructions("COPY") if "--from" not in line for path in line.split()[:-1]]


@pytest.mark.skipif(HADOLINT is None, reason="there is no hadolint for this platform on PyPI")
def test_hadolint_accepts_the_dockerfile() -> None:
    done = subprocess.run([str(HADOLINT), FILE], capture_output=True, text=True)
    assert (done.returncode, done.stdout) == (0, "")


def test_the_image_runs_as_it_should() -> None:
    """A pinned base, no root, no cache, a health check; SIGTERM reaches the worker, because no shell stands between."""
    assert all(re.match(r"python:\d+\.\d+\.\d+-[\w-]+( AS \w+)?$", base) for base in instructions("FROM"))
    [user] = instructions("USER")
    assert int(user.split(":")[0]) >= 1000
    assert all("--no-cache-dir" in line for line in instructions("RUN") if "pip install" in line)
    [command] = instructions("CMD")
    assert json.loads(command) == ["python", "/app/worker.py"]
    [check] = re.findall(r"^HEALTHCHECK .* CMD (\[.*\])$", FILE.read_text(encoding="utf-8"), re.MULTILINE)
    assert json.loads(check) == [*json.loads(command), "--check"]


def test_the_build_context_holds_what_is_copied_and_no_more() -> None:
    """Everything else stays out, such as .git, .venv, and files with passwords."""
    lines = (DEPLOY / "worker/Dockerfile.dockerignore").read_text(encoding="utf-8").splitlines()
    rules = [line for line in lines if line and not line.startswith("#")]
    assert rules[0] == "*"
    assert sorted(rule[1:] for rule in rules if rule.startswith("!")) == sorted(copied())
    for path in copied():
        assert (ROOT / path).exists(), path
        assert not any(fnmatch(path, rule) for rule in rules[1:] if not rule.startswith("!")), path


@pytest.mark.long
def test_the_package_can_be_built_from_what_is_copied(tmp_path: Path) -> None:
    """The wheel that the image installs holds the scripts, and imports."""
    for path in copied():
        if (ROOT / path).is_dir():
            shutil.copytree(ROOT / path, tmp_path / path, ignore=shutil.ignore_patterns("__pycache__"))
        else:
            (tmp_path / path).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy(ROOT / path, tmp_path / path)
    pip = [sys.executable, "-m", "pip", "--disable-pip-version-check", "install", "--quiet", "--no-deps"]
    subprocess.run([*pip, "--no-build-isolation", "--target", tmp_path / "site", tmp_path], check=True, timeout=300)
    test = "import histstore.sync; from histstore.protocol import scripts; print(len(scripts.ALL), histstore.__file__)"
    done = subprocess.run([sys.executable, "-c", test], cwd=tmp_path / "site", capture_output=True, text=True)
    assert str(tmp_path / "site") in done.stdout, done.stderr
