"""Nodes come back: with their data, without a part of it, without all of it, and twice at once."""

from __future__ import annotations

import shutil
import signal
from pathlib import Path

from raftkv_cli.demo_writers import Writers
from raftkv_cli.resp import ErrorReply, Unreachable
from raftkv_cli.wal import inspect_log
from tests.e2e.cluster import Cluster
from tests.e2e.conftest import MakeCluster
from tests.e2e.test_failover import check_all, write_more

COMPACT_OFTEN = ("--compact-entries", "100", "--log-format", "json")


def fill(cluster: Cluster, count: int) -> dict[str, str]:
    """Write `count` keys and more, each acknowledged."""
    with Writers([cluster.address(name) for name in cluster.running()], 4) as writers:
        write_more(cluster, writers, count)
    return writers.acknowledged()


def test_a_follower_that_was_killed_catches_up(cluster: Cluster) -> None:
    """A follower killed and started again holds what was written before, meanwhile and after."""
    [follower, *_] = cluster.followers()
    written = fill(cluster, 100)
    cluster.kill(follower)
    written |= {f"meanwhile {key}": value for key, value in written.items()}
    leader = cluster.wait_for_leader()
    with cluster.connect(leader) as connection:
        connection.pipeline([("SET", key, value) for key, value in written.items()])
    cluster.start(follower)
    cluster.wait_until_equal()
    key, value = next(reversed(written.items()))
    assert cluster.read_locally(follower, key) == value.encode()
    check_all(cluster, written)


def test_a_cluster_that_lost_power_has_everything(cluster: Cluster) -> None:
    """SIGKILL of all nodes at once under load, three times: after each restart every acknowledged write is there."""
    written: dict[str, str] = {}
    for round_ in range(3):
        with Writers([cluster.address(name) for name in cluster.names], 4) as writers:
            write_more(cluster, writers, 150)
            cluster.kill(*cluster.names)
            for name in cluster.names:
                cluster.start(name)
            write_more(cluster, writers, 20)
        written |= writers.acknowledged()
        cluster.wait_until_equal()
        check_all(cluster, written)
        with cluster.connect("n1") as connection:
            connection.pipeline([("SET", f"round {round_} {key}", value) for key, value in writers.acknowledged().items()])
        written = {f"round {round_} {key}": value for key, value in writers.acknowledged().items()}


def test_a_data_directory_has_one_owner(cluster: Cluster) -> None:
    """A second process on a data directory that is in use ends with exit code 1 and says why; the first does not notice."""
    owner = cluster.process("n1")
    second = cluster.nodes.start("n1")
    assert second.wait(30) == 1
    assert "another process" in cluster.log("n1")
    cluster.nodes.running["n1"] = owner
    assert owner.exit_code is None
    assert cluster.redis("n1").set("k", "v") is True


def test_a_wiped_node_does_not_count(cluster: Cluster) -> None:
    """A node that comes back under its name with an empty directory gets the data, and its acknowledgement makes no quorum."""
    leader = cluster.wait_for_leader()
    wiped, other = cluster.followers()
    written = fill(cluster, 50)
    cluster.kill(wiped)
    shutil.rmtree(cluster.data_dir(wiped))
    cluster.start(wiped)
    key, value = next(iter(written.items()))
    cluster.wait(f"{wiped} to get the data back", lambda: holds(cluster, wiped, key, value))
    cluster.kill(other)
    cluster.wait("writes to be refused without a quorum that counts", lambda: refusal(cluster, leader) == "CLUSTERDOWN")
    cluster.start(other)
    cluster.wait_for_leader()
    check_all(cluster, written)


def holds(cluster: Cluster, name: str, key: str, value: str) -> bool:
    """Whether the node `name` serves, from its own state, `value` for `key`."""
    try:
        return cluster.read_locally(name, key) == value.encode()
    except (ErrorReply, Unreachable):
        return False


def refusal(cluster: Cluster, name: str) -> str | None:
    """The code with which the node `name` refuses a write now; None if it takes it."""
    try:
        with cluster.connect(name) as connection:
            connection.call("SET", "refusal", "1")
    except ErrorReply as error:
        return error.code
    return None


def wait_for_compaction(cluster: Cluster, name: str) -> None:
    """Write until the log of the node `name` no longer begins at its beginning."""

    def cut() -> bool:
        fill(cluster, 50)
        return inspect_log(cluster.data_dir(name)).begin.index > 0

    cluster.wait(f"the log of {name} to be cut", cut)


def test_a_lost_state_store_is_restored_from_a_snapshot(make_cluster: MakeCluster) -> None:
    """A node whose state directory was deleted, and whose log no longer begins at the beginning, gets a snapshot and is whole again."""
    cluster = make_cluster(extra=COMPACT_OFTEN)
    [follower, *_] = cluster.followers()
    written = fill(cluster, 300)
    wait_for_compaction(cluster, follower)
    cluster.kill(follower)
    shutil.rmtree(cluster.data_dir(follower) / "state")
    cluster.start(follower)
    cluster.wait_until_equal()
    assert '"snapshot_installed"' in cluster.log(follower)
    assert all(cluster.read_locally(follower, key) == value.encode() for key, value in list(written.items())[-20:])
    check_all(cluster, written)


def test_a_follower_behind_the_log_gets_a_snapshot(make_cluster: MakeCluster) -> None:
    """A follower that was away until the others had cut their logs behind it catches up by a snapshot."""
    cluster = make_cluster(extra=COMPACT_OFTEN)
    leader = cluster.wait_for_leader()
    [follower, *_] = cluster.followers()
    cluster.kill(follower)
    written = fill(cluster, 300)
    wait_for_compaction(cluster, leader)
    cluster.start(follower)
    cluster.wait_until_equal()
    assert '"snapshot_installed"' in cluster.log(follower)
    cluster.kill(leader)
    cluster.wait_for_leader(but_not=leader)
    check_all(cluster, written)


def rotten(cluster: Cluster, name: str, value: str, before: int = 0) -> None:
    """Let the killed node `name` find a bit of its log flipped where `value` was written, or so many bytes before that."""
    [segment] = sorted((cluster.data_dir(name) / "wal").glob("*.log"))
    flip_a_bit(segment, segment.read_bytes().index(value.encode()) - before)
    problem = inspect_log(cluster.data_dir(name)).problem
    assert problem is not None
    assert problem.file.endswith(segment.name)


def wait_for_repair(cluster: Cluster, name: str) -> None:
    """Wait until the node `name`, whose log is rotten, can ask another."""

    def asks() -> bool:
        _, found, after = cluster.log(name).rpartition("log_rotten")
        return bool(found) and "peer_connected" in after

    cluster.wait(f"{name} to be in repair", asks)


def test_rot_in_the_log_is_repaired_with_the_other_nodes(cluster: Cluster) -> None:
    """A bit that flipped in the middle of a node's log: the node gets the entry from the others, and its log is what it was."""
    [follower, *_] = cluster.followers()
    written = fill(cluster, 200)
    cluster.wait_until_equal()
    cluster.kill(follower)
    rotten(cluster, follower, list(written.values())[100])
    cluster.start(follower)
    cluster.wait_until_equal()
    assert "log_rotten" in cluster.log(follower)
    assert "log_repaired" in cluster.log(follower)
    assert "suspect" not in cluster.log(follower)
    cluster.kill(follower)
    assert inspect_log(cluster.data_dir(follower)).problem is None
    cluster.start(follower)
    leader = cluster.wait_for_leader()
    cluster.wait_until_equal()
    cluster.kill(leader)
    cluster.wait_for_leader(but_not=leader)
    check_all(cluster, written)


def test_rot_that_the_state_holds_needs_no_other_node(make_cluster: MakeCluster) -> None:
    """A node that stopped in order has everything in its state, so its log begins after that; also when it is all alone; it says
    that it found rot."""
    cluster = make_cluster(count=1)
    written = fill(cluster, 200)
    cluster.process("n1").signal(signal.SIGTERM)
    assert cluster.process("n1").wait(30) == 0
    rotten(cluster, "n1", list(written.values())[100])
    cluster.start("n1")
    cluster.wait_for_leader()
    assert cluster.log("n1").count("rot_found") == cluster.log("n1").count("rot_forgotten") == 1
    check_all(cluster, written)


def test_rot_in_all_copies_is_waited_out(cluster: Cluster) -> None:
    """An entry that is rotten on every node: nobody serves, nobody forgets, and all go on once one of them has it back."""
    written = fill(cluster, 200)
    cluster.wait_until_equal()
    cluster.kill(*cluster.names)
    value = list(written.values())[100]
    for name in cluster.names:
        rotten(cluster, name, value)
        cluster.start(name)
    for name in cluster.names:
        wait_for_repair(cluster, name)
    assert cluster.status() is None
    assert cluster.running() == cluster.names
    cluster.process("n1").signal(signal.SIGTERM)
    assert cluster.process("n1").wait(30) == 0
    [segment] = sorted((cluster.data_dir("n1") / "wal").glob("*.log"))
    payload = bytes([value.encode()[0] ^ 1]) + value.encode()[1:]
    flip_a_bit(segment, segment.read_bytes().index(payload))
    cluster.start("n1")
    cluster.wait_for_leader()
    cluster.wait_until_equal()
    check_all(cluster, written)


def test_a_majority_in_repair_waits_for_the_node_that_has_the_entry(cluster: Cluster) -> None:
    """Two nodes miss an entry that only the third has, which stands still: they wait for it, and serve again with it."""
    [one, other] = cluster.followers()
    leader = cluster.wait_for_leader()
    written = fill(cluster, 200)
    cluster.wait_until_equal()
    cluster.kill(one, other)
    value = list(written.values())[100]
    rotten(cluster, one, value)
    rotten(cluster, other, value)
    cluster.process(leader).signal(signal.SIGSTOP)
    cluster.start(one)
    cluster.start(other)
    wait_for_repair(cluster, one)
    wait_for_repair(cluster, other)
    assert "log_repaired" not in cluster.log(one)
    cluster.process(leader).signal(signal.SIGCONT)
    cluster.wait_until_equal()
    check_all(cluster, written)


def test_rot_in_what_holds_the_log_together_stops_the_node(cluster: Cluster) -> None:
    """Where not even what is lost can be told, the node refuses to start and names the file; the others serve on."""
    [follower, *_] = cluster.followers()
    written = fill(cluster, 200)
    cluster.wait_until_equal()
    cluster.kill(follower)
    [segment] = sorted((cluster.data_dir(follower) / "wal").glob("*.log"))
    flip_a_bit(segment, 4096 + 20)  # the record of the first group
    assert cluster.start(follower).wait(30) == 1
    assert segment.name in cluster.log(follower)
    check_all(cluster, written)


def flip_a_bit(path: Path, offset: int) -> None:
    """Change one bit of the byte at `offset`, as a disk might."""
    with path.open("r+b") as file:
        file.seek(offset)
        [byte] = file.read(1)
        file.seek(offset)
        file.write(bytes([byte ^ 1]))


def test_a_directory_of_another_node_is_refused(cluster: Cluster) -> None:
    """A node started on the data directory of another ends with exit code 1 and does not take its place."""
    mine, other = cluster.followers()
    cluster.kill(mine, other)
    shutil.rmtree(cluster.data_dir(mine))
    shutil.copytree(cluster.data_dir(other), cluster.data_dir(mine))
    assert cluster.start(mine).wait(30) == 1
    assert mine in cluster.log(mine)
