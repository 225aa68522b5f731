"""Nodes come back: with their data, without a part of it, without all of it, and twice at once."""

from __future__ import annotations

import shutil
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


def test_rot_in_the_log_stops_the_node_and_names_the_place(cluster: Cluster) -> None:
    """A bit that flipped in the middle of a node's log: the node refuses to start and names the file; the others serve on."""
    [follower, *_] = cluster.followers()
    written = fill(cluster, 200)
    cluster.wait_until_equal()
    cluster.kill(follower)
    [segment] = sorted((cluster.data_dir(follower) / "wal").glob("*.log"))
    flip_a_bit(segment, segment.read_bytes().index(list(written.values())[100].encode()))
    problem = inspect_log(cluster.data_dir(follower)).problem
    assert problem is not None
    assert problem.file.endswith(segment.name)
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
