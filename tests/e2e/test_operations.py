"""What operators rely on: the secret between nodes, the pages over HTTP, logs for machines."""

from __future__ import annotations

import json
import urllib.error
import urllib.request
from pathlib import Path

import msgspec

from raftkv_cli.processes import NodeSpec
from tests.e2e.cluster import Cluster
from tests.e2e.conftest import MakeCluster


def get(spec: NodeSpec, page: str) -> tuple[int, str]:
    """Status and body of a page of the node's administration port."""
    try:
        with urllib.request.urlopen(f"http://{spec.admin}{page}", timeout=20) as answer:
            return answer.status, answer.read().decode()
    except urllib.error.HTTPError as error:
        with error:
            return error.code, error.read().decode()


def test_the_pages_for_operators_tell_the_truth(cluster: Cluster) -> None:
    """/livez and /readyz say 200 on a healthy node, /metrics names one leader among all, and /status is what RAFTKV.STATUS answers."""
    leader = cluster.wait_for_leader()
    specs = cluster.nodes.specs
    for spec in specs:
        assert (get(spec, "/livez")[0], get(spec, "/readyz")[0], get(spec, "/nothing")[0]) == (200, 200, 404)
    leads = {spec.name: "\nraftkv_is_leader 1.0" in get(spec, "/metrics")[1] for spec in specs}
    assert leads == {name: name == leader for name in cluster.names}
    assert json.loads(get(specs[0], "/status")[1])["leader"] == leader


def test_a_node_without_a_leader_is_alive_and_not_ready(cluster: Cluster) -> None:
    """A node that is left alone stays alive and says 503 to /readyz, so that clients are sent elsewhere."""
    [alone, *others] = cluster.names
    cluster.kill(*others)
    spec = cluster.nodes.spec(alone)
    cluster.wait(f"{alone} to see that nobody leads", lambda: get(spec, "/readyz")[0] == 503)
    assert get(spec, "/livez")[0] == 200


def test_nodes_with_the_secret_form_a_cluster_and_others_do_not_join(make_cluster: MakeCluster, tmp_path: Path) -> None:
    """Nodes prove the shared secret to each other; one that restarts with another secret gets nothing, and is let in with the right one."""
    right, wrong = tmp_path / "right", tmp_path / "wrong"
    right.write_text("a secret of more than 16 bytes\n")
    wrong.write_text("another secret of enough bytes\n")
    cluster = make_cluster(extra=("--secret-file", str(right)))
    [outsider, *_] = cluster.followers()
    cluster.kill(outsider)
    specs = cluster.nodes.specs
    cluster.nodes.specs = [
        msgspec.structs.replace(spec, extra=("--secret-file", str(wrong))) if spec.name == outsider else spec for spec in specs
    ]
    cluster.start(outsider)
    cluster.wait("the refusal to be logged", lambda: "peer_refused" in cluster.log(outsider))
    leader = cluster.wait_for_leader()
    assert cluster.redis(leader).set("k", "secret") is True
    status = cluster.status(leader)
    assert status is not None
    assert status.node(outsider).role == "unreachable"
    assert cluster.read_locally(outsider, "k") is None
    cluster.kill(outsider)
    cluster.nodes.specs = specs
    cluster.start(outsider)
    cluster.wait_until_equal()
    assert cluster.read_locally(outsider, "k") == b"secret"


def test_logs_for_machines_are_one_object_a_line(make_cluster: MakeCluster) -> None:
    """With --log-format json every line of a node's output is a JSON object with an event, a level and a time."""
    cluster = make_cluster(1, ("--log-format", "json"))
    cluster.nodes.stop()
    lines = [json.loads(line) for line in cluster.log("n1").splitlines()]
    assert all({"event", "level", "timestamp"} <= line.keys() for line in lines)
    assert [line["event"] for line in lines][-1] == "node_stopped"
