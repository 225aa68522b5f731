"""Nodes die, hang and leave while clients work: nothing acknowledged is lost, and what cannot be done is refused in time."""

from __future__ import annotations

import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest

from raftkv_cli.demo_writers import Writers
from raftkv_cli.processes import Ports, plan
from raftkv_cli.resp import Connection, ErrorReply, Unreachable
from raftkv_cli.waiting import wait_until
from tests.e2e.cluster import DEADLINE_SECONDS, Cluster
from tests.e2e.conftest import MakeCluster

REFUSAL_SECONDS = 12.0
"""A request that cannot be served is answered within its deadline of 5 s, plus what a loaded machine takes."""

needs_signals = pytest.mark.skipif(sys.platform == "win32", reason="Windows has no SIGSTOP and no polite SIGTERM")


def check_all(cluster: Cluster, expected: dict[str, str]) -> None:
    """Read every key of `expected` back, through each node a part."""
    pairs = sorted(expected.items())
    for offset, name in enumerate(cluster.running()):
        part = pairs[offset :: len(cluster.running())]
        with cluster.connect(name) as connection:
            answers = connection.pipeline([("GET", key) for key, _ in part])
        assert list(answers) == [value.encode() for _, value in part]


def write_more(cluster: Cluster, writers: Writers, count: int) -> None:
    """Wait until `count` more writes have been acknowledged."""
    target = writers.count() + count
    cluster.wait(f"{count} more writes to be acknowledged", lambda: writers.count() >= target or writers.failures())
    assert writers.failures() == []


def test_a_killed_leader_loses_nothing_acknowledged(cluster: Cluster) -> None:
    """SIGKILL of the leader under load, three times: every acknowledged write is there, on a cluster that goes on."""
    with Writers([cluster.address(name) for name in cluster.names], 4) as writers:
        for _ in range(3):
            write_more(cluster, writers, 100)
            leader = cluster.wait_for_leader()
            cluster.kill(leader)
            assert cluster.wait_for_leader(but_not=leader) != leader
            write_more(cluster, writers, 100)
            cluster.start(leader)
    cluster.wait_until_equal()
    check_all(cluster, writers.acknowledged())


def test_a_failover_counts_nothing_twice(cluster: Cluster) -> None:
    """Increments sent through a follower while the leader is killed are applied once each, though the follower sent them again."""
    leader = cluster.wait_for_leader()
    [follower, *_] = cluster.followers()
    answers: list[object] = []

    def increment() -> None:
        with cluster.connect(follower) as connection:
            while len(answers) < 300:
                answers.append(connection.call("INCR", "counter"))

    thread = threading.Thread(target=increment)
    thread.start()
    cluster.wait("increments to be under way", lambda: len(answers) > 50)
    cluster.kill(leader)
    thread.join(60)
    assert answers == list(range(1, 301))


@needs_signals
def test_a_leader_asked_to_stop_hands_over_and_ends_well(cluster: Cluster) -> None:
    """SIGTERM of the leader under load: another leads in a new term, the process ends with exit code 0, nothing is lost."""
    leader = cluster.wait_for_leader()
    with Writers([cluster.address(name) for name in cluster.names], 4) as writers:
        write_more(cluster, writers, 50)
        cluster.process(leader).signal(signal.SIGTERM)
        assert cluster.process(leader).wait(30) == 0
        cluster.wait_for_leader(but_not=leader)
        write_more(cluster, writers, 50)
    check_all(cluster, writers.acknowledged())


@needs_signals
def test_a_whole_cluster_asked_to_stop_ends_well(cluster: Cluster) -> None:
    """SIGTERM to all nodes at once: each ends by itself with exit code 0, also the last, which has nobody to hand over to."""
    assert cluster.nodes.stop() == dict.fromkeys(cluster.names, 0)


@needs_signals
def test_a_node_asked_to_stop_while_it_starts_ends_well(make_cluster: MakeCluster) -> None:
    """SIGTERM to a process that has only just been started: it ends in order as soon as it can, with exit code 0 and the log line of
    any stop, whether or not it had begun to load its code."""
    cluster = make_cluster(count=1)
    for delay in (0.0, 0.05, 0.2):
        cluster.kill("n1")
        before = cluster.log("n1").count("node_stopped")
        process = cluster.start("n1")
        with pytest.raises(subprocess.TimeoutExpired):
            process.wait(delay)
        process.signal(signal.SIGTERM)
        assert process.wait(30) == 0
        assert cluster.log("n1").count("node_stopped") == before + 1


@pytest.mark.skipif(sys.platform != "linux", reason="only Linux tells which signals a process holds back")
def test_a_node_holds_signals_back_until_it_can_take_them(tmp_path: Path) -> None:
    """Also a node that nobody has held them back for is not ended by SIGTERM while it loads its code: it stops in order."""
    [spec] = plan(tmp_path, Ports.free(1))
    with subprocess.Popen(spec.command([spec]), stdout=subprocess.PIPE, stderr=subprocess.STDOUT) as process:
        try:
            wait_until("the signals to be held back", lambda: holds_back(process.pid, signal.SIGTERM), DEADLINE_SECONDS)
            process.send_signal(signal.SIGTERM)
            output, _ = process.communicate(timeout=30)
        finally:
            process.kill()
    assert process.returncode == 0
    assert b"node_stopped" in output


def holds_back(pid: int, number: int) -> bool:
    """Whether a signal to the process would wait."""
    [mask] = [line for line in Path(f"/proc/{pid}/status").read_text().splitlines() if line.startswith("SigBlk:")]
    return bool(int(mask.split()[1], 16) >> (number - 1) & 1)


def test_without_a_quorum_requests_are_refused_in_time(cluster: Cluster) -> None:
    """One node of three left: writes and reads are refused within their deadline, and served again when a second node is back."""
    leader = cluster.wait_for_leader()
    cluster.redis(leader).set("k", "before")
    followers = cluster.followers()
    cluster.kill(*followers)
    codes = set()
    for _ in range(2):
        began = time.monotonic()
        with cluster.connect(leader) as connection:
            answers = connection.pipeline([("SET", "k", "after"), ("GET", "k")])
        assert time.monotonic() - began < REFUSAL_SECONDS
        codes |= {answer.code if isinstance(answer, ErrorReply) else answer for answer in answers}
    assert "CLUSTERDOWN" in codes
    assert codes <= {"CLUSTERDOWN", "UNCERTAIN"}
    assert cluster.read_locally(leader, "k") == b"before"
    cluster.start(followers[0])
    cluster.wait_for_leader()
    assert cluster.redis(leader).get("k") in ("before", "after")


@needs_signals
def test_a_follower_that_hung_catches_up(cluster: Cluster) -> None:
    """A follower stopped with SIGSTOP does not hold up writes, and holds them all after SIGCONT."""
    [follower, *_] = cluster.followers()
    others = [cluster.address(name) for name in cluster.names if name != follower]
    cluster.process(follower).signal(signal.SIGSTOP)
    with Writers(others, 3) as writers:
        write_more(cluster, writers, 300)
    cluster.process(follower).signal(signal.SIGCONT)
    cluster.wait_until_equal()
    key, value = next(reversed(writers.acknowledged().items()))
    assert cluster.read_locally(follower, key) == value.encode()


@needs_signals
def test_a_leader_that_hung_serves_nothing_stale(cluster: Cluster) -> None:
    """A leader stopped with SIGSTOP is replaced, and after SIGCONT a read through it gives the value that was written meanwhile."""
    leader = cluster.wait_for_leader()
    with cluster.connect(leader) as old:
        assert old.call("SET", "k", "old") == b"OK"
        cluster.process(leader).signal(signal.SIGSTOP)
        others = [name for name in cluster.names if name != leader]
        cluster.wait("a value written under a new leader", lambda: try_set(cluster, others[0], "k", "new"))
        cluster.process(leader).signal(signal.SIGCONT)
        assert old.call("GET", "k") == b"new"
    cluster.wait_until_equal()


def try_set(cluster: Cluster, name: str, key: str, value: str) -> bool:
    """Whether the node `name` acknowledges a SET now."""
    try:
        with cluster.connect(name) as connection:
            return connection.call("SET", key, value) == b"OK"
    except (ErrorReply, Unreachable):
        return False


def test_a_transfer_moves_the_leadership_where_it_was_asked(cluster: Cluster) -> None:
    """RAFTKV.TRANSFER names the next leader, through any node, and the cluster goes on under it."""
    target = cluster.followers()[-1]
    asked = cluster.followers()[0]
    with cluster.connect(asked) as connection:
        connection.call("RAFTKV.TRANSFER", target)
    cluster.wait(f"{target} to lead", lambda: (status := cluster.status()) is not None and status.leader == target)
    assert cluster.redis(asked).set("k", "v") is True


def test_a_cluster_of_five_survives_two(make_cluster: MakeCluster) -> None:
    """Five nodes: with two killed at once, one of them the leader, every acknowledged write is there and writes go on."""
    five = make_cluster(5)
    with Writers([five.address(name) for name in five.names], 4) as writers:
        write_more(five, writers, 100)
        leader = five.wait_for_leader()
        five.kill(leader, five.followers()[0])
        five.wait_for_leader()
        write_more(five, writers, 100)
    check_all(five, writers.acknowledged())


def test_a_node_alone_is_a_cluster(make_cluster: MakeCluster) -> None:
    """One node serves alone, and has everything acknowledged after a SIGKILL."""
    alone = make_cluster(1)
    with Writers([alone.address("n1")], 4) as writers:
        write_more(alone, writers, 200)
        alone.kill("n1")
        alone.start("n1")
        write_more(alone, writers, 50)
    check_all(alone, writers.acknowledged())


def test_a_bad_address_does_not_hang_a_client(cluster: Cluster) -> None:
    """A connection to a node that was killed fails at once, and does not wait."""
    [follower, *_] = cluster.followers()
    cluster.kill(follower)
    began = time.monotonic()
    with pytest.raises(Unreachable):
        Connection(cluster.address(follower))
    assert time.monotonic() - began < 2.0
