"""A cluster of real `raftkv node` processes for tests: real files, sockets and signals, and every wait bounded.

It adds to `raftkv_cli.processes` what a test wants to ask: who leads, whether a node has caught up, what a Redis client is told.
"""

from __future__ import annotations

import signal
import sys
from collections.abc import Callable
from pathlib import Path
from types import TracebackType

import redis
from redis.backoff import NoBackoff
from redis.retry import Retry

from raftkv_cli.processes import NodeProcess, Nodes, Ports, plan
from raftkv_cli.resp import Connection, ErrorReply, Unreachable
from raftkv_cli.status import ClusterStatus, cluster_status
from raftkv_cli.waiting import Found, wait_until

DEADLINE_SECONDS = 45.0
"""How long a test waits for anything before it fails; a healthy cluster needs a small part of it, a loaded machine more."""
LOG_LINES = 60


class Cluster:
    """Nodes n1, n2, … of one cluster, with their data below `directory`; a context manager that leaves no process behind."""

    def __init__(self, directory: Path, count: int = 3, extra: tuple[str, ...] = ()) -> None:
        self.nodes = Nodes(plan(directory, Ports.free(count), extra))
        self.names = [spec.name for spec in self.nodes.specs]

    def __enter__(self) -> Cluster:
        for name in self.names:
            self.start(name)
        self.wait_for_leader()
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        if sys.platform != "win32":
            for name in self.running():
                self.process(name).signal(signal.SIGCONT)
        self.nodes.__exit__(kind, error, trace)

    def start(self, name: str) -> NodeProcess:
        """Start the node `name`; returns at once."""
        return self.nodes.start(name)

    def process(self, name: str) -> NodeProcess:
        """The newest process of the node `name`."""
        return self.nodes.running[name]

    def running(self) -> list[str]:
        """The nodes whose process has not ended."""
        return [name for name, process in self.nodes.running.items() if process.exit_code is None]

    def kill(self, *names: str) -> None:
        """End nodes as a crash would: SIGKILL to all of them, and gone when this returns."""
        for name in names:
            self.process(name).signal(signal.SIGKILL)
        for name in names:
            self.process(name).kill()

    def address(self, name: str) -> str:
        """Where clients reach the node `name`."""
        return self.nodes.spec(name).client

    def data_dir(self, name: str) -> Path:
        """The data directory of the node `name`."""
        return Path(self.nodes.spec(name).data_dir)

    def log(self, name: str) -> str:
        """What the node `name` has logged, over all its starts."""
        path = self.nodes.log_path(name)
        return path.read_text(errors="replace") if path.exists() else ""

    def logs(self) -> str:
        """The newest log lines of every node, for the report of a failed test."""
        parts = []
        for name in self.names:
            process = self.nodes.running.get(name)
            state = "never started" if process is None else f"pid {process.pid}, exit code {process.exit_code}"
            parts += [f"--- {name} ({state})", *self.log(name).splitlines()[-LOG_LINES:]]
        return "\n".join(parts)

    def wait(self, what: str, probe: Callable[[], Found | None], timeout_s: float = DEADLINE_SECONDS) -> Found:
        """What `probe` finds, as soon as it finds something. Fails naming `what`."""
        return wait_until(what, probe, timeout_s)

    def connect(self, name: str, *, timeout_s: float = DEADLINE_SECONDS) -> Connection:
        """A plain connection to the node `name`."""
        return Connection(self.address(name), timeout_s=timeout_s)

    def redis(self, name: str, *, protocol: int = 2) -> redis.Redis:
        """A redis-py client of the node `name` that tries nothing twice."""
        host, _, port = self.address(name).rpartition(":")
        return redis.Redis(
            host=host,
            port=int(port),
            protocol=protocol,
            socket_timeout=DEADLINE_SECONDS,
            retry=Retry(NoBackoff(), 0),
            decode_responses=True,
        )

    def status(self, name: str | None = None) -> ClusterStatus | None:
        """What the node `name`, or the first that answers, knows of the cluster; None while nobody answers."""
        try:
            return cluster_status(self.address(name) if name else ",".join(map(self.address, self.running())), timeout_s=5.0)
        except (Unreachable, ErrorReply):
            return None

    def wait_for_leader(self, *, but_not: str | None = None) -> str:
        """The name of the leader, once a node that runs leads and takes writes."""

        def probe() -> str | None:
            told = [status.leader for status in map(self.status, self.running()) if status is not None]
            return next((leader for leader in told if leader in self.running() and leader != but_not), None)

        leader = self.wait("a leader" + (f" other than {but_not}" if but_not else ""), probe)
        self.wait(f"{leader} to take writes", lambda: self._takes_writes(leader))
        return leader

    def _takes_writes(self, name: str) -> bool:
        try:
            with self.connect(name) as connection:
                return connection.call("SET", "probe", "1") == b"OK"
        except (Unreachable, ErrorReply):
            return False

    def followers(self) -> list[str]:
        """The running nodes that do not lead."""
        leader = self.wait_for_leader()
        return [name for name in self.running() if name != leader]

    def wait_until_equal(self) -> None:
        """Wait until all nodes have applied the same entries, with the same effects. No client may write meanwhile."""

        def equal() -> bool:
            status = self.status()
            if status is None or status.leader is None:
                return False
            held = {(node.applied, node.digest) for node in status.nodes}
            # The processes that run now, not what is remembered of those before them.
            current = all(node.pid == self.process(node.name).pid for node in status.nodes)
            return current and len(held) == 1 and (None, None) not in held

        self.wait("all nodes to hold the same state", equal)

    def read_locally(self, name: str, key: str) -> bytes | None:
        """The value of `key` in the state of the node `name` itself, however old."""
        with self.connect(name) as connection:
            connection.call("READONLY")
            answer = connection.call("GET", key)
        return answer if isinstance(answer, bytes) else None
