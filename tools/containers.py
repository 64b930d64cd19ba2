"""Runs the store tests on a server in a container, which testcontainers starts.

    python -m tools.containers [PYTEST ARGUMENTS]

Uses the Docker engine that answers. Where none does, starts one of its own in a temporary folder, which needs root and
Debian's docker.io, and ends it afterwards. It touches no firewall rule. The image holds this machine's server program
and its libraries: nothing is pulled.

Exit status: 0 the tests passed, 1 a test failed, 77 no container can run on this machine; the last line says why.
"""

from __future__ import annotations

import contextlib
import io
import json
import os
import re
import shutil
import signal
import subprocess
import sys
import tarfile
import tempfile
import time
from collections.abc import Iterator, Sequence
from pathlib import Path

from tests.support.servers import server_binary

ROOT = Path(__file__).resolve().parent.parent
IMAGE = "histstore-test-server:latest"
PROGRAM = "/usr/local/bin/server"
READY = 30.0
"""Seconds in which an engine has to answer."""
SKIPPED = 77
BRIDGE = Path("/sys/class/net/docker0")
"""The network interface that an engine makes and leaves behind."""

# The engine publishes ports by its own proxy, so it needs no rule of the firewall.
COMMON = ("--iptables=false", "--ip6tables=false", "--ip-forward=false", "--ip=127.0.0.1")
DRIVERS = ("overlay2", "vfs")
"""Storage drivers to try. overlay2 needs a kernel and a file system that support it; vfs copies files."""


class UnavailableError(Exception):
    """No container can run on this machine; the text says why."""


# ------------------------------------------------------------------------------------------------- the engine


def docker(*arguments: str, given: bytes | None = None, seconds: float = 60.0) -> str:
    """Run a command of the engine that DOCKER_HOST names, and return its output.

    Raises:
        UnavailableError: It failed.
    """
    command = ["docker", *arguments]
    try:
        done = subprocess.run(command, input=given, capture_output=True, timeout=seconds, check=False)
    except (OSError, subprocess.TimeoutExpired) as error:
        raise UnavailableError(f"docker {arguments[0]}: {error}") from error
    if done.returncode:
        raise UnavailableError(f"docker {arguments[0]}: {_last(done.stderr)}")
    return done.stdout.decode(errors="replace").strip()


def _last(text: bytes) -> str:
    """Return the last line of an output or a log."""
    lines = text.decode(errors="replace").strip().splitlines() or ["no output"]
    return lines[-1][-300:]


def version() -> str | None:
    """Return the version of the engine that answers; None: none does."""
    try:
        return docker("version", "--format", "{{.Server.Version}}", seconds=5.0)
    except UnavailableError:
        return None


@contextlib.contextmanager
def started(driver: str) -> Iterator[None]:
    """Run an engine with a storage driver. DOCKER_HOST names it in this context.

    Raises:
        UnavailableError: It does not start.
    """
    program = shutil.which("dockerd", path=f"{os.environ.get('PATH', '')}:/usr/sbin")
    if program is None:
        raise UnavailableError("no engine answers, and dockerd is missing: apt-get install docker.io")
    if os.geteuid() != 0:
        raise UnavailableError("no engine answers, and only root can start one")
    before, bridged = os.environ.get("DOCKER_HOST"), BRIDGE.exists()
    folder = Path(tempfile.mkdtemp(prefix="histstore-docker-"))
    host = f"unix://{folder}/docker.sock"
    command = [program, "--data-root", folder / "data", "--exec-root", folder / "exec", "--pidfile", folder / "pid"]
    log = folder / "log"
    with log.open("wb") as out:
        process = subprocess.Popen(
            [*command, "-H", host, f"--storage-driver={driver}", *COMMON], stdout=out, stderr=out
        )
    try:
        os.environ["DOCKER_HOST"] = host
        end = time.monotonic() + READY
        while version() is None:
            if process.poll() is not None or time.monotonic() > end:
                raise UnavailableError(f"dockerd with {driver}: {_last(log.read_bytes())}")
            time.sleep(0.2)
        yield
    finally:
        if before is None:
            os.environ.pop("DOCKER_HOST", None)
        else:
            os.environ["DOCKER_HOST"] = before
        process.send_signal(signal.SIGTERM)
        try:
            process.wait(READY)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()
        shutil.rmtree(folder, ignore_errors=True)
        if BRIDGE.exists() and not bridged:
            subprocess.run(["ip", "link", "delete", BRIDGE.name], capture_output=True, check=False)


# -------------------------------------------------------------------------------------------------- the image


def image_of(program: Path) -> bytes:
    """Return an archive of a file system: a server program, the libraries that it needs, and a folder for its data."""
    said = subprocess.run(["ldd", program], capture_output=True, text=True, check=False).stdout
    # "libm.so.6 => /lib/x86_64-linux-gnu/libm.so.6 (0x…)", and the loader without an arrow.
    libraries = re.findall(r"(?:=> |^\s*)(/\S+) \(0x", said, re.MULTILINE)
    archive = io.BytesIO()
    with tarfile.open(fileobj=archive, mode="w") as tar:
        for name in ("data", "tmp"):
            folder = tarfile.TarInfo(name)
            folder.type, folder.mode = tarfile.DIRTYPE, 0o777
            tar.addfile(folder)
        for source, name in ((program, PROGRAM), *((Path(each), each) for each in libraries)):
            tar.add(source.resolve(), name)
    return archive.getvalue()


def make_image(program: Path) -> None:
    """Make the image, and run the program in it once.

    Raises:
        UnavailableError: The engine cannot run it.
    """
    start = [PROGRAM, "--port", "6379", "--bind", "0.0.0.0", "--protected-mode", "no", "--save", ""]
    changes = ("--change", f"CMD {json.dumps(start)}", "--change", "WORKDIR /data", "--change", "EXPOSE 6379")
    docker("import", *changes, "-", IMAGE, given=image_of(program))
    print(docker("run", "--rm", IMAGE, PROGRAM, "--version"), flush=True)


# -------------------------------------------------------------------------------------------------- the tests


def run_tests(arguments: Sequence[str]) -> bool:
    """Run the store tests on a container of the image, and return whether they passed."""
    ours = ("HISTSTORE_TEST_REDIS_URL", "HISTSTORE_TEST_SERVER", "HISTSTORE_TEST_ACL")
    env = {name: value for name, value in os.environ.items() if name not in ours}
    env["HISTSTORE_TEST_IMAGE"] = IMAGE
    command = [sys.executable, "-m", "pytest", "-q", "-n", "auto", "--dist", "worksteal"]
    tests = ["-m", "not alone and not long", "tests/store", *arguments]
    return subprocess.run([*command, *tests], cwd=ROOT, env=env, check=False).returncode == 0


def check(program: Path, arguments: Sequence[str]) -> bool:
    """Make the image and run the tests, on the engine that answers now."""
    print(f"engine: Docker {version()}", flush=True)
    make_image(program)
    try:
        return run_tests(arguments)
    finally:
        with contextlib.suppress(UnavailableError):
            docker("image", "rm", "--force", IMAGE)


def main(arguments: Sequence[str]) -> int:
    """Run the tool and return its exit status."""
    found = server_binary()
    try:
        if found is None or Path(found).read_bytes()[:4] != b"\x7fELF":
            raise UnavailableError("an image needs a server program of Linux: install redis-server")
        if shutil.which("docker") is None:
            raise UnavailableError("there is no docker command: apt-get install docker.io")
        if version() is not None:
            return 0 if check(Path(found), arguments) else 1
        failures = []
        for driver in DRIVERS:
            try:
                with started(driver):
                    return 0 if check(Path(found), arguments) else 1
            except UnavailableError as error:
                failures.append(str(error))
        raise UnavailableError("; ".join(dict.fromkeys(failures)))
    except UnavailableError as error:
        print(f"skipped, no container runs here: {error}", flush=True)
        return SKIPPED


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
