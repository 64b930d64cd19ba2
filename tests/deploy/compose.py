"""Start what a compose file describes without containers: each container is a process on a loopback address of its own.

The commands, environments, mounted files, health checks and grace periods are those of the file. Names of services and
fixed addresses are replaced by loopback addresses, and paths by folders of the test. So ports stay as they are.
"""

from __future__ import annotations

import contextlib
import os
import random
import re
import shutil
import signal
import stat
import subprocess
import sys
import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import yaml

from ..support.servers import free_port
from .conftest import DEPLOY, available

READY = 60.0
"""Seconds after which a container that is not healthy fails the test."""

WRAPPERS = {
    "valkey-server": 'exec {server} "$@" --bind "$BIND"',
    "valkey-sentinel": 'exec {server} "$@" --sentinel --bind "$BIND"',
    "valkey-cli": 'exec {python} -m tests.deploy.cli "$@"',
    "python": 'exec {python} "$@"',
}
"""The programs of the images. A container listens on its own address only, and so do these."""


def seconds(duration: str) -> float:
    """Return a duration of a compose file, such as "75s"."""
    [(number, unit)] = re.findall(r"^(\d+)(ms|s|m)$", duration)
    return float(number) * {"ms": 0.001, "s": 1.0, "m": 60.0}[unit]


@dataclass
class Container:
    """One container of a service.

    Attributes:
        stack: The stack that it is part of.
        name: The service's name, with a number if the service has replicas.
        spec: The service, as the file has it.
        address: Its loopback address.
        more: Further variables of its environment.
        process: The process; None if it does not run.
    """

    stack: Stack
    name: str
    spec: dict[str, Any]
    address: str
    more: dict[str, str] = field(default_factory=dict)
    process: subprocess.Popen[bytes] | None = None

    @property
    def folder(self) -> Path:
        return self.stack.folder / self.name

    @property
    def log(self) -> str:
        """What it has printed."""
        return (self.folder / "log").read_text(errors="replace")

    def local(self, text: str) -> str:
        """Return a text of the file for this machine."""
        text = self.stack.local(text.replace("$$", "$"))
        for path, place in (
            ("/etc/histstore", self.folder / "etc"),
            ("/data", self.folder / "data"),
            ("/app/worker.py", DEPLOY / "worker/worker.py"),
        ):
            text = re.sub(rf"(?<![\w.]){path}\b", str(place), text)
        return text

    @property
    def environment(self) -> dict[str, str]:
        ours = {name: self.local(str(value)) for name, value in self.spec.get("environment", {}).items()}
        path = f"{self.stack.folder / 'bin'}{os.pathsep}{os.environ['PATH']}"
        return {**os.environ, "PATH": path, "BIND": self.address, **ours, **self.more}

    def create(self) -> None:
        """Make its folders, and mount the files. Volumes start empty."""
        (self.folder / "etc").mkdir(parents=True)
        for mount in self.spec.get("volumes", []):
            source, target, *mode = mount.split(":")
            place = Path(self.local(target))
            if source.startswith("."):
                assert mode == ["ro"], mount
                place.write_text(self.local((DEPLOY / source).read_text(encoding="utf-8")), encoding="utf-8")
            else:
                assert source in self.stack.spec["volumes"], mount
                place.mkdir()

    def start(self) -> None:
        """Start it, or start it again with its volumes."""
        if not self.folder.exists():
            self.create()
        data = self.folder / "data"
        default = ["python", str(DEPLOY / "worker/worker.py")]  # the CMD of the Dockerfile
        command = [self.local(word) for word in self.spec.get("command", default)]
        with (self.folder / "log").open("ab") as log:
            self.process = subprocess.Popen(
                command,
                env=self.environment | {"PYTHONPATH": str(DEPLOY.parent)},
                cwd=data if data.exists() else self.folder,
                stdout=log,
                stderr=log,
                start_new_session=True,
            )

    def healthy(self) -> bool:
        """Run its health check."""
        kind, *words = [self.local(word) for word in self.spec["healthcheck"]["test"]]
        command = ["sh", "-c", *words] if kind == "CMD-SHELL" else words
        environment = self.environment | {"PYTHONPATH": str(DEPLOY.parent)}
        done = subprocess.run(command, env=environment, capture_output=True, timeout=30, check=False)
        return done.returncode == 0

    def wait(self, condition: str) -> None:
        """Return when it is as `depends_on` wants it."""
        assert self.process is not None
        if condition == "service_completed_successfully":
            assert self.process.wait(READY) == 0, self.log
            return
        assert condition == "service_healthy"
        end = time.monotonic() + READY
        while not self.healthy():
            assert self.process.poll() is None, f"{self.name} ended:\n{self.log}"
            assert time.monotonic() < end, f"{self.name} is not healthy:\n{self.log}"
            time.sleep(0.2)

    def kill(self) -> None:
        """kill -9, as if its machine had failed."""
        assert self.process is not None
        with contextlib.suppress(ProcessLookupError):
            os.killpg(self.process.pid, signal.SIGKILL)
        self.process.wait()
        self.process = None

    def stop(self) -> int:
        """Stop it as Docker does: SIGTERM to its first process only. Return its exit code.

        Fails if it has not ended after its grace period, when Docker would kill it.
        """
        assert self.process is not None
        self.process.send_signal(signal.SIGTERM)
        code = self.process.wait(seconds(self.spec.get("stop_grace_period", "10s")))
        self.process = None
        return code


class Stack:
    """What one compose file describes.

    Attributes:
        spec: The file's content.
        folder: Where volumes and mounted files are.
        containers: The containers, by name.
    """

    def __init__(self, file: str, folder: Path, **more: str) -> None:
        self.spec: dict[str, Any] = yaml.safe_load((DEPLOY / file).read_text(encoding="utf-8"))
        self.folder = folder
        self._net = f"127.{random.randrange(16, 250)}.{random.randrange(1, 250)}"
        self._addresses: dict[str, str] = {}
        self.containers: dict[str, Container] = {}
        for name, spec in self.spec["services"].items():
            count = spec.get("deploy", {}).get("replicas", 1)
            for number in range(1, count + 1):
                self._add(name if count == 1 else f"{name}-{number}", spec, more)
        self._make_programs()

    def _add(self, name: str, spec: dict[str, Any], more: dict[str, str]) -> None:
        address = f"{self._net}.{11 + len(self.containers)}"
        ours: dict[str, str] = {}
        if name.startswith("worker"):
            # A container has a network and a /tmp of its own.
            ours = {"WORKER_PORT": str(free_port()), "WORKER_PID_FILE": str(self.folder / f"{name}.pid"), **more}
        self.containers[name] = Container(self, name, spec, address, ours)
        self._addresses[name] = address
        networks = spec.get("networks")
        if isinstance(networks, dict):
            for network in networks.values():
                self._addresses[network["ipv4_address"]] = address

    def _make_programs(self) -> None:
        programs = available()
        # The images are those of Valkey 8.1.
        server = programs.get("valkey-8.1", programs["valkey-9.1"])
        (self.folder / "bin").mkdir()
        for name, text in WRAPPERS.items():
            program = self.folder / "bin" / name
            program.write_text(f"#!/bin/sh\n{text.format(server=server, python=sys.executable)}\n")
            program.chmod(program.stat().st_mode | stat.S_IXUSR)

    def local(self, text: str) -> str:
        """Replace the names and fixed addresses of services in a text."""
        for name, address in self._addresses.items():
            text = re.sub(rf"(?<![\w./-]){re.escape(name)}(?![\w.-])", address, text)
        return text

    def named(self, prefix: str) -> list[Container]:
        """Return the containers whose names begin so."""
        return [each for name, each in self.containers.items() if name.startswith(prefix)]

    def up(self) -> None:
        """Start all containers, each when those that it depends on are ready, and wait until all are healthy."""
        for container in self.containers.values():
            for name, wanted in container.spec.get("depends_on", {}).items():
                self.containers[name].wait(wanted["condition"])
            container.start()
        for container in self.containers.values():
            if "healthcheck" in container.spec:
                container.wait("service_healthy")

    @property
    def url(self) -> str:
        """The URL that the workers use."""
        [worker, *_] = self.named("worker")
        return worker.local(worker.spec["environment"]["HISTSTORE_URL"])

    def down(self) -> None:
        """End everything."""
        for container in self.containers.values():
            if container.process is not None:
                container.kill()
        shutil.rmtree(self.folder, ignore_errors=True)
