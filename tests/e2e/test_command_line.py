"""The commands on real clusters: the one that starts them, and those that ask them."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import pytest

from raftkv_cli.processes import STOP_SECONDS, Ports
from raftkv_cli.resp import Connection, ErrorReply, Unreachable
from raftkv_cli.status import cluster_status
from raftkv_cli.waiting import wait_until
from tests.e2e.cluster import DEADLINE_SECONDS, Cluster

pytestmark = pytest.mark.skipif(sys.platform == "win32", reason="the commands are stopped with SIGTERM, which Windows does not have")


def raftkv(*arguments: str) -> subprocess.CompletedProcess[str]:
    """What `raftkv` with `arguments` does, in a process of its own."""
    command = [sys.executable, "-m", "raftkv_cli", *arguments]
    return subprocess.run(command, capture_output=True, text=True, timeout=DEADLINE_SECONDS, check=False)


class DevelopmentCluster:
    """A running `raftkv cluster start`, its output in a file."""

    def __init__(self, directory: Path, base_port: int) -> None:
        self.directory = directory
        self.base_port = base_port
        self.output = directory.with_suffix(".out")
        self._process: subprocess.Popen[bytes] | None = None

    def start(self) -> None:
        """Start it and wait until it takes writes."""
        command = ["cluster", "start", "--nodes", "3", "--data-dir", str(self.directory), "--base-port", str(self.base_port)]
        with self.output.open("ab") as output:
            self._process = subprocess.Popen([sys.executable, "-m", "raftkv_cli", *command], stdout=output, stderr=output)
        wait_until(f"a write to {self.address}; the cluster's output is\n{self.output.read_text()}", self._takes_writes, DEADLINE_SECONDS)

    @property
    def address(self) -> str:
        """Where clients reach n1."""
        return f"127.0.0.1:{self.base_port}"

    def _takes_writes(self) -> bool:
        try:
            with Connection(self.address) as connection:
                return connection.call("SET", "probe", "1") == b"OK"
        except (Unreachable, ErrorReply):
            return False

    def kill(self) -> None:
        """SIGKILL to `raftkv cluster start` itself, which can do nothing about its nodes any more."""
        if self._process is not None:
            self._process.kill()
            self._process.wait()
            self._process = None

    def stop(self, number: int = signal.SIGTERM) -> int | None:
        """Signal it and wait; its exit code, None if it was not running."""
        if self._process is None:
            return None
        self._process.send_signal(number)
        code = self._process.wait(STOP_SECONDS + 20)
        self._process = None
        return code


@pytest.fixture
def development(tmp_path: Path) -> Iterator[DevelopmentCluster]:
    """A development cluster that has not been started."""
    first = 11_000 + os.getpid() % 500 * 8
    base = next(base for base in range(first, 32_000, 307) if not Ports.from_base(base, 3).taken())
    cluster = DevelopmentCluster(tmp_path / "data", base)
    yield cluster
    cluster.stop()


def test_a_development_cluster_starts_stops_and_goes_on(development: DevelopmentCluster) -> None:
    """`raftkv cluster start` runs three nodes that `ps` and `status` see, ends with exit code 0 on Ctrl-C, and has its data next time."""
    development.start()
    with Connection(development.address) as connection:
        connection.call("SET", "k", "v")
    rows = json.loads(raftkv("cluster", "ps", "--data-dir", str(development.directory), "--json").stdout)
    assert [(row["name"], row["alive"]) for row in rows] == [("n1", True), ("n2", True), ("n3", True)]
    known = json.loads(raftkv("status", "--server", development.address, "--json").stdout)
    assert {node["name"]: node["pid"] for node in known["nodes"]} == {row["name"]: row["pid"] for row in rows}
    assert development.stop(signal.SIGINT) == 0
    for row in rows:
        with pytest.raises(ProcessLookupError):
            os.kill(row["pid"], 0)
    development.start()
    with Connection(development.address) as connection:
        assert connection.call("GET", "k") == b"v"
    assert development.stop() == 0
    assert "n2 | " in development.output.read_text()


def test_a_node_that_dies_is_reported_and_the_others_go_on(development: DevelopmentCluster) -> None:
    """`raftkv cluster start` says which node ended, how, and how to start it again, and the cluster serves on."""
    development.start()
    rows = json.loads(raftkv("cluster", "ps", "--data-dir", str(development.directory), "--json").stdout)
    os.kill(rows[2]["pid"], signal.SIGKILL)
    wait_until("the report", lambda: "n3 (pid" in development.output.read_text(), DEADLINE_SECONDS)
    assert "was ended by signal 9" in development.output.read_text()
    wait_until("writes to go on", development._takes_writes, DEADLINE_SECONDS)
    assert development.stop() == 0


def test_nodes_do_not_outlive_the_command_that_started_them(development: DevelopmentCluster) -> None:
    """When `raftkv cluster start` is killed with SIGKILL its nodes end by themselves, and started again the cluster has its data."""
    development.start()
    with Connection(development.address) as connection:
        connection.call("SET", "k", "v")
    rows = json.loads(raftkv("cluster", "ps", "--data-dir", str(development.directory), "--json").stdout)
    development.kill()
    ports = Ports.from_base(development.base_port, 3)
    with killed_on_failure([row["pid"] for row in rows]):
        wait_until("the ports of the nodes to be free", lambda: not ports.taken(), DEADLINE_SECONDS)
    development.start()  # each node has its data directory for itself
    with Connection(development.address) as connection:
        assert connection.call("GET", "k") == b"v"
    assert development.stop() == 0


def test_nodes_of_a_demonstration_that_was_killed_stop_in_order(tmp_path: Path) -> None:
    """When `raftkv demo` is killed with SIGKILL its nodes log that they stopped, as their last words."""
    environment = {**os.environ, "TMPDIR": str(tmp_path)}
    command = [sys.executable, "-m", "raftkv_cli", "demo"]
    demonstration = subprocess.Popen(command, env=environment, stdout=subprocess.PIPE)
    try:
        assert demonstration.stdout is not None
        while b"leads" not in (line := demonstration.stdout.readline()):
            assert line, "the demonstration ended before a node led"
        logs = {log.stem: log for log in tmp_path.glob("raftkv-demo-*/*.log")}
        pids = [own_pid(name, log) for name, log in logs.items()]
    finally:
        demonstration.kill()
        demonstration.communicate()

    def last_words() -> list[str]:
        return [events(log)[-1]["event"] for log in logs.values()]

    with killed_on_failure(pids):
        wait_until("all nodes to stop", lambda: last_words() == ["node_stopped"] * 3, DEADLINE_SECONDS)


def events(log: Path) -> list[dict[str, str]]:
    """What a node has logged, in whole lines."""
    return [json.loads(line) for line in log.read_text().splitlines(keepends=True) if line.endswith("\n")]


def own_pid(name: str, log: Path) -> int:
    """The process of the node `name`, as it says itself."""
    [client] = wait_until(
        f"{name} to listen", lambda: [event["client"] for event in events(log) if event["event"] == "node_listening"], DEADLINE_SECONDS
    )
    pid = cluster_status(client).node(name).pid
    assert pid is not None
    return pid


@contextmanager
def killed_on_failure(pids: list[int]) -> Iterator[None]:
    """If what is inside fails, the processes do not outlive the test."""
    try:
        yield
    except BaseException:
        for pid in pids:
            with suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
        raise


def test_status_is_the_same_wherever_it_is_asked(cluster: Cluster) -> None:
    """Each node names the same leader and members, and a node that was killed is unreachable."""
    cluster.wait_until_equal()
    asked = [json.loads(raftkv("status", "--server", cluster.address(name), "--json").stdout) for name in cluster.names]
    assert [[node["name"] for node in known["nodes"]] for known in asked] == [cluster.names] * 3
    assert len({(known["cluster"], known["leader"], known["term"]) for known in asked}) == 1
    assert {node["name"]: node["pid"] for node in asked[0]["nodes"]} == {name: cluster.process(name).pid for name in cluster.names}
    [follower, *_] = cluster.followers()
    cluster.kill(follower)
    leader = cluster.wait_for_leader()

    def unreachable() -> bool:
        status = cluster.status(leader)
        return status is not None and status.node(follower).role == "unreachable"

    cluster.wait(f"{follower} to be unreachable", unreachable)


def test_leader_transfer_changes_the_leader(cluster: Cluster) -> None:
    """`raftkv leader transfer --to` makes the named node lead; a name that is no member's is refused."""
    target = cluster.followers()[0]
    server = ",".join(map(cluster.address, cluster.names))
    assert raftkv("leader", "transfer", "--to", target, "--server", server).returncode == 0
    cluster.wait(f"{target} to lead", lambda: (status := cluster.status()) is not None and status.leader == target)
    refused = raftkv("leader", "transfer", "--to", "nobody", "--server", server)
    assert refused.returncode == 1
    assert "nobody" in refused.stderr


def test_the_log_of_a_stopped_node_can_be_inspected(cluster: Cluster) -> None:
    """`raftkv wal inspect` finds no problem in the log of a node that was stopped, and counts its entries."""
    for number in range(20):
        cluster.redis("n1").set(f"k{number}", number)
    assert cluster.nodes.stop() == dict.fromkeys(cluster.names, 0)
    done = raftkv("wal", "inspect", str(cluster.data_dir("n1")), "--json")
    assert done.returncode == 0, done.stdout
    report = json.loads(done.stdout)
    assert report["problem"] is None
    assert sum(segment["entries"] for segment in report["segments"]) >= 20
    assert raftkv("wal", "inspect", str(cluster.data_dir("n1").parent)).returncode == 2
