"""The cluster that is measured: `raftkv node` processes on this machine with everything at its default, durability included.

It knows the product by its command line and its client port only, as a user does.
"""

from __future__ import annotations

import json
import os
import random
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import TypeVar

Found = TypeVar("Found")
HOST = "127.0.0.1"
WAIT_SECONDS = 120.0


class BenchmarkFailed(Exception):
    """The cluster did not do what a measurement needs; what was measured before still holds."""


@dataclass(frozen=True)
class Node:
    """One node: its name, its ports, its data."""

    name: str
    client_port: int
    peer_port: int
    directory: Path


def _free_ports(count: int) -> list[int]:
    """Ports below the range of outgoing connections, so that a node that is started again finds its own."""
    found: list[int] = []
    while len(found) < count:
        port = random.SystemRandom().randrange(12_000, 32_000)
        with socket.socket() as probe:
            if port not in found and probe.connect_ex((HOST, port)) != 0:
                found.append(port)
    return found


class Cluster:
    """Three nodes; a context manager that leaves no process behind."""

    def __init__(self, directory: Path, count: int = 3) -> None:
        ports = _free_ports(2 * count)
        self.nodes = [Node(f"n{i + 1}", ports[2 * i], ports[2 * i + 1], directory / f"n{i + 1}") for i in range(count)]
        self._processes: dict[str, subprocess.Popen[bytes]] = {}

    def __enter__(self) -> Cluster:
        for node in self.nodes:
            self.start(node)
        self.wait_for_leader()
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        for process in self._processes.values():
            process.kill()
            process.wait()

    def start(self, node: Node) -> None:
        """Start `node`; returns at once."""
        members = ",".join(f"{one.name}={HOST}:{one.peer_port}" for one in self.nodes)
        command = [
            sys.executable, "-m", "raftkv_cli", "node", "--name", node.name, "--data-dir", str(node.directory),
            "--client", f"{HOST}:{node.client_port}", "--peer", f"{HOST}:{node.peer_port}", "--cluster", members,
            "--stop-at-end-of-input",
        ]  # fmt: skip
        with node.directory.with_suffix(".log").open("ab") as output:
            # Nobody writes to its input: that ends when this process does, and the node with it.
            self._processes[node.name] = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=output, stderr=output)

    def kill(self, node: Node) -> None:
        """SIGKILL."""
        self._processes[node.name].kill()
        self._processes[node.name].wait()

    def stop(self, node: Node) -> None:
        """SIGTERM, and wait until the process is gone."""
        self._processes[node.name].send_signal(signal.SIGTERM)
        self._processes[node.name].wait(WAIT_SECONDS)

    def usage(self, node: Node) -> tuple[float, int] | None:
        """Processor seconds that the process of `node` has used, and the bytes of memory that it holds; None where /proc does not tell."""
        process = Path("/proc", str(self._processes[node.name].pid))
        if not (process / "stat").is_file():
            return None
        fields = (process / "stat").read_text().rpartition(")")[2].split()
        seconds = (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")
        return seconds, int(fields[21]) * os.sysconf("SC_PAGE_SIZE")

    def node(self, name: str) -> Node:
        """The node called `name`."""
        return next(node for node in self.nodes if node.name == name)

    def status(self, node: Node) -> dict[str, object] | None:
        """What `node` answers to RAFTKV.STATUS, None if it does not."""
        answer = ask(node.client_port, b"RAFTKV.STATUS")
        return None if answer is None else json.loads(answer)

    def wait_for_leader(self, but_not: Node | None = None) -> Node:
        """The node that leads, once it takes writes."""

        def probe() -> Node | None:
            for node in self.nodes:
                status = None if node == but_not else self.status(node)
                if status is not None and isinstance(status["leader"], str):
                    leader = self.node(status["leader"])
                    if leader != but_not and ask(leader.client_port, b"SET", b"probe", b"1") == b"+OK":
                        return leader
            return None

        return wait_for("a leader that takes writes", probe)

    def wait_until_caught_up(self, node: Node) -> None:
        """Wait until `node` has applied everything that the cluster has committed."""

        def probe() -> bool:
            status = self.status(node)
            rows = status["nodes"] if status is not None else None
            return isinstance(rows, list) and any(
                row["name"] == node.name and row["role"] in ("leader", "follower") and row["lag"] == 0 for row in rows
            )

        wait_for(f"{node.name} to catch up", probe)


def wait_for(what: str, probe: Callable[[], Found | None]) -> Found:
    """The first answer of `probe` that is true."""
    deadline = time.monotonic() + WAIT_SECONDS
    while time.monotonic() < deadline:
        found = probe()
        if found:
            return found
        time.sleep(0.01)
    raise BenchmarkFailed(f"waited {WAIT_SECONDS:g} s in vain for {what}")


def encode(*arguments: bytes) -> bytes:
    """A request."""
    return b"*%d\r\n" % len(arguments) + b"".join(b"$%d\r\n%b\r\n" % (len(part), part) for part in arguments)


def ask(port: int, *arguments: bytes, timeout_s: float = 10.0) -> bytes | None:
    """The answer to one request on a connection of its own: a line as it is, the content of a bulk string, None without an answer."""
    try:
        with socket.create_connection((HOST, port), timeout=timeout_s) as connection, connection.makefile("rb") as stream:
            connection.sendall(encode(*arguments))
            line = stream.readline().rstrip()
            if line.startswith(b"$") and line != b"$-1":
                return stream.read(int(line[1:]))
            return line or None
    except OSError:
        return None
