"""What clients of a real cluster saw while its nodes were killed and hung can be explained by one copy of the data."""

from __future__ import annotations

import signal
import sys

import pytest
from msgspec.structs import replace

from raftkv.sim.linearizability import Call, Verdict, overall
from tests.e2e.cluster import DEADLINE_SECONDS, Cluster
from tests.e2e.recording import Keys, RecordingClient, RecordingClients, judge

CLIENTS = 9
MORE = 500
"""Operations that must succeed between two events."""
FEW = 20
"""So few that a leader which hung meanwhile wakes up with requests waiting for it, and may still believe that it leads."""
READ_BATCH = 200

pytestmark = pytest.mark.skipif(sys.platform == "win32", reason="Windows has no SIGSTOP")


def test_histories_are_linearizable(cluster: Cluster) -> None:
    """Nine clients of all three nodes, while leaders are killed, a follower hangs, leaders hang and the whole cluster is killed: each
    key's history is linearizable, up to a last read of every key through every node; and with one wrong answer in it it is not."""
    with RecordingClients([cluster.address(name) for name in cluster.names], CLIENTS, Keys()) as clients:
        go_on(cluster, clients)
        for _ in range(2):
            kill_the_leader(cluster, clients)
        hang(cluster, clients, cluster.followers()[0], MORE)
        for more in (MORE, FEW, FEW):
            hang(cluster, clients, cluster.wait_for_leader(), more)
        cluster.kill(*cluster.names)
        for name in cluster.names:
            cluster.start(name)
        go_on(cluster, clients)
    history = clients.history() + read_everything(cluster, clients.history())
    findings = judge(history)
    assert [f"{key}: {finding}" for key, finding in findings.items() if finding.verdict is not Verdict.LINEARIZABLE] == []
    assert clients.surprises == []
    counts = clients.counts
    assert min(counts[name] for name in ("GET", "SET", "INCR", "DEL")) > MORE // 2
    assert counts["unknown"] + counts["refused"] < clients.succeeded // 2
    assert overall(judge(with_one_wrong_answer(history)).values()) is Verdict.NOT_LINEARIZABLE


def go_on(cluster: Cluster, clients: RecordingClients, more: int = MORE) -> None:
    """Wait until the clients have got `more` done."""
    target = clients.succeeded + more
    cluster.wait(f"{more} more operations", lambda: clients.succeeded >= target or clients.surprises)


def kill_the_leader(cluster: Cluster, clients: RecordingClients) -> None:
    """SIGKILL to the leader, and its return, each while the clients work."""
    leader = cluster.wait_for_leader()
    cluster.kill(leader)
    go_on(cluster, clients)
    cluster.start(leader)
    go_on(cluster, clients)


def hang(cluster: Cluster, clients: RecordingClients, name: str, more: int) -> None:
    """SIGSTOP to a node while the clients work; SIGCONT when there is a leader that does not hang, and they have got `more` done."""
    others = [other for other in cluster.names if other != name]
    cluster.process(name).signal(signal.SIGSTOP)

    def replaced() -> bool:
        known = [cluster.status(other) for other in others]
        return all(status is not None and status.leader in others for status in known)

    cluster.wait(f"a leader other than {name}", replaced)
    go_on(cluster, clients, more)
    cluster.process(name).signal(signal.SIGCONT)
    go_on(cluster, clients)


def read_everything(cluster: Cluster, history: list[Call]) -> list[Call]:
    """A read of every key of `history` through every node, when nothing happens any more: whatever was lost is missed now."""
    keys = sorted({call.operation[1] for call in history})
    calls: list[Call] = []
    for name in cluster.names:
        reader = RecordingClient(f"reader of {name}", [cluster.address(name)], Keys())
        for start in range(0, len(keys), READ_BATCH):
            assert reader.perform([("GET", key) for key in keys[start : start + READ_BATCH]], DEADLINE_SECONDS)
        reader.close()
        calls += reader.calls
    assert len(calls) == len(keys) * len(cluster.names)
    return calls


def with_one_wrong_answer(history: list[Call]) -> list[Call]:
    """`history` in which one read, in the middle of it, answered what nobody ever wrote."""
    reads = sorted((call for call in history if call.operation[0] == "GET"), key=lambda call: call.begin)
    victim = reads[len(reads) // 2]
    return [replace(call, result=b"-1") if call is victim else call for call in history]
