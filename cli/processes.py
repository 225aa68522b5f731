"""Nodes as processes of this machine: what they are told, how they are started, and that each is ended.

A node is the child `python -m raftkv_cli node …` of the process that uses this; it is signalled through its own process object and
never by name. Its output goes to a file or to a pipe. Its input is a pipe that nobody writes to: when this process is gone, however it
ended, the node reads the end of it and stops in order. Nothing here knows the protocol.
"""

from __future__ import annotations

import random
import signal
import socket
import subprocess
import sys
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import IO

from msgspec import Struct

from raftkv.server.stop_signals import held_back_here

if sys.platform == "win32":
    _CREATION_FLAGS, _NEW_SESSION = subprocess.CREATE_NEW_PROCESS_GROUP, False
else:
    _CREATION_FLAGS, _NEW_SESSION = 0, True

HOST = "127.0.0.1"
STOP_WITH_PARENT = "--stop-at-end-of-input"
"""Makes a node stop when its input ends. No part of a command line that a person is told to type."""
STOP_SECONDS = 15.0
"""How long nodes may take to stop by themselves before they are killed."""


class NodeSpec(Struct, frozen=True, kw_only=True):
    """One node of a cluster on this machine. `advertised_peer` is where the others dial it, if that is not `peer`. `extra` are more
    options of `raftkv node`."""

    name: str
    data_dir: str
    client: str
    peer: str
    admin: str
    extra: tuple[str, ...] = ()
    advertised_peer: str | None = None

    def command(self, cluster: Iterable[NodeSpec]) -> list[str]:
        """The command line that runs this node as one of `cluster`."""
        members = ",".join(f"{spec.name}={spec.advertised_peer or spec.peer}" for spec in cluster)
        options = {
            "--name": self.name,
            "--data-dir": self.data_dir,
            "--client": self.client,
            "--peer": self.peer,
            "--admin": self.admin,
            "--cluster": members,
        }
        if self.advertised_peer is not None:
            options["--advertise-peer"] = self.advertised_peer
        flat = [part for option in options.items() for part in option]
        return [sys.executable, "-m", "raftkv_cli", "node", *flat, *self.extra]


@dataclass(frozen=True)
class Ports:
    """Where the nodes of a cluster on this machine listen."""

    client: list[int]
    peer: list[int]
    admin: list[int]

    @classmethod
    def from_base(cls, base: int, count: int) -> Ports:
        """The documented layout: clients from `base`, peers from `base` + 100, administration from `base` + 200."""
        return cls(*(list(range(base + offset, base + offset + count)) for offset in (0, 100, 200)))

    @classmethod
    def free(cls, count: int) -> Ports:
        """Ports that nobody listens on, below the range that the system gives to outgoing connections, so that a node that is
        restarted finds its port again."""
        found: list[int] = []
        generator = random.SystemRandom()
        while len(found) < 3 * count:
            port = generator.randrange(12_000, 32_000)
            if port not in found and is_free(port):
                found.append(port)
        return cls(found[:count], found[count : 2 * count], found[2 * count :])

    def taken(self) -> list[int]:
        """Those that somebody listens on."""
        return [port for port in [*self.client, *self.peer, *self.admin] if not is_free(port)]


def is_free(port: int) -> bool:
    """Whether a server could listen on `port` of this machine now."""
    with socket.socket() as probe:
        if sys.platform != "win32":
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((HOST, port))
        except OSError:
            return False
    return True


def plan(directory: Path, ports: Ports, extra: tuple[str, ...] = ()) -> list[NodeSpec]:
    """The nodes n1, n2, … with their data below `directory`."""
    return [
        NodeSpec(
            name=f"n{number}",
            data_dir=str(directory / f"n{number}"),
            client=f"{HOST}:{client}",
            peer=f"{HOST}:{peer}",
            admin=f"{HOST}:{admin}",
            extra=extra,
        )
        for number, (client, peer, admin) in enumerate(zip(ports.client, ports.peer, ports.admin, strict=True), 1)
    ]


class NodeProcess:
    """A running node.

    Args:
        spec: what it is told.
        cluster: all nodes of its cluster.
        output: where its log goes; ``subprocess.PIPE`` to read it from `lines`.
    """

    def __init__(self, spec: NodeSpec, cluster: list[NodeSpec], output: IO[bytes] | int) -> None:
        self.spec = spec
        with held_back_here():  # a node that is asked to stop before it can understand that does so when it can
            self._process = subprocess.Popen(
                [*spec.command(cluster), STOP_WITH_PARENT],
                stdin=subprocess.PIPE,
                stdout=output,
                stderr=subprocess.STDOUT,
                # Its own session: Ctrl-C at a terminal reaches the parent, which then stops the nodes in order.
                start_new_session=_NEW_SESSION,
                creationflags=_CREATION_FLAGS,
            )

    @property
    def pid(self) -> int:
        """Its process id."""
        return self._process.pid

    @property
    def lines(self) -> IO[bytes]:
        """Its output, when it goes to a pipe."""
        if self._process.stdout is None:
            raise ValueError("the output of this node does not go to a pipe")
        return self._process.stdout

    @property
    def exit_code(self) -> int | None:
        """The exit code, minus the signal's number if a signal ended it, or None while it runs."""
        return self._process.poll()

    def wait(self, timeout_s: float) -> int:
        """The exit code, once it has ended.

        Raises:
            subprocess.TimeoutExpired: it did not end in time.
        """
        return self._process.wait(timeout_s)

    def ask_to_stop(self) -> None:
        """SIGTERM, or the end of its input on Windows, which has no such signal: the node ends in order."""
        if sys.platform != "win32":
            self._process.terminate()
        elif self._process.stdin is not None:
            self._process.stdin.close()

    def signal(self, number: int) -> None:
        """Any other signal."""
        self._process.send_signal(number)

    def kill(self) -> None:
        """End it at once, as a crash would, and wait until it is gone. Does nothing to a node that has ended."""
        self._process.kill()
        self._process.wait(STOP_SECONDS)


class Nodes:
    """The nodes of one cluster, running or not; a context manager that leaves none behind."""

    def __init__(self, specs: list[NodeSpec]) -> None:
        self.specs = specs
        self.running: dict[str, NodeProcess] = {}

    def __enter__(self) -> Nodes:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        for process in self.running.values():
            process.kill()

    def spec(self, name: str) -> NodeSpec:
        """The node called `name`."""
        return next(spec for spec in self.specs if spec.name == name)

    def log_path(self, name: str) -> Path:
        """The file that `start` writes the node's output to."""
        return Path(self.spec(name).data_dir).with_suffix(".log")

    def start(self, name: str) -> NodeProcess:
        """Start the node called `name`; its output is appended to `log_path`."""
        path = self.log_path(name)
        path.parent.mkdir(parents=True, exist_ok=True)
        with path.open("ab") as output:
            return self._started(NodeProcess(self.spec(name), self.specs, output))

    def start_piped(self, name: str) -> NodeProcess:
        """Start the node called `name`; its output is read from its `lines`."""
        return self._started(NodeProcess(self.spec(name), self.specs, subprocess.PIPE))

    def _started(self, process: NodeProcess) -> NodeProcess:
        self.running[process.spec.name] = process
        return process

    def stop(self) -> dict[str, int]:
        """Ask all running nodes to stop, wait, and kill those that do not; the exit codes by name."""
        alive = [process for process in self.running.values() if process.exit_code is None]
        for process in alive:
            process.ask_to_stop()
        codes = {}
        for process in alive:
            try:
                codes[process.spec.name] = process.wait(STOP_SECONDS)
            except subprocess.TimeoutExpired:
                process.kill()
                codes[process.spec.name] = -signal.SIGTERM
        return codes
