"""A quick measurement of three nodes on this machine: `python -m raftkv_bench.smoke [--json]`.

Throughput is what redis-benchmark reports, with all three nodes and the load on this one machine; every write counted is on the disks
of a majority. Nothing is left out, averaged over good runs or measured warm where users are cold: what is printed is what happened.
"""

from __future__ import annotations

import argparse
import csv
import json
import os
import platform
import shutil
import socket
import statistics
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable
from itertools import pairwise
from pathlib import Path

from raftkv_bench.cluster import HOST, BenchmarkFailed, Cluster, Node, ask, encode, wait_for

CLIENTS = 64
PIPELINE = 32
VALUE_BYTES = 100
KILLS = 10
IDLE_SECONDS = 10.0
MILLION = 1_000_000
LOAD_BATCH = 5_000


def main() -> None:
    """Measure, print as it goes, exit with 0 if all of it could be measured."""
    parser = argparse.ArgumentParser(prog="raftkv_bench.smoke", description="A quick measurement of three nodes on this machine.")
    parser.add_argument("--json", action="store_true", help="print JSON at the end and nothing before")
    parser.add_argument("--keys", type=int, default=MILLION, help="keys held by the node whose restart is timed")
    arguments = parser.parse_args()
    results: dict[str, object] = {
        "machine": f"{platform.system()} {platform.machine()}, {os.cpu_count()} CPUs, Python {platform.python_version()}"
    }

    def note(name: str, value: object, text: str) -> None:
        results[name] = value
        if not arguments.json:
            print(f"{name:32} {text}", flush=True)

    if not arguments.json:
        print(results["machine"])
    directory = Path(tempfile.mkdtemp(prefix="raftkv-bench-"))
    try:
        measure(directory, arguments.keys, note)
    except BenchmarkFailed as error:
        note("failed", str(error), f"{error}; the nodes' logs are in {directory}")
    else:
        shutil.rmtree(directory)
    if arguments.json:
        print(json.dumps(results, indent=2))
    sys.exit("failed" in results)


Note = Callable[[str, object, str], None]
"""Takes one result: its name, its value for programs, and the same in words."""


def measure(directory: Path, keys: int, note: Note) -> None:
    """All measurements, one after the other, on one cluster with its data in `directory`."""
    with Cluster(directory) as cluster:
        idle_cost(cluster, note)
        throughput(cluster.wait_for_leader(), note)
        gaps = [failover_gap_ms(cluster) for _ in range(KILLS)]
        median = statistics.median(gaps)
        words = f"median {median:.0f} ms, {min(gaps):.0f} to {max(gaps):.0f} ms ({KILLS} times SIGKILL to the leader)"
        note("failover_gap_ms", {"median": median, "all": gaps}, words)
        restart(cluster, keys, note)


def idle_cost(cluster: Cluster, note: Note) -> None:
    """What new nodes cost while nobody asks them for anything: the largest of their shares of a core, and of their memories."""
    cluster.wait_for_leader()
    before = [usage for node in cluster.nodes if (usage := cluster.usage(node)) is not None]
    if not before:
        note("idle_cost", None, "skipped: this system has no /proc that tells what a process uses")
        return
    began = time.perf_counter()
    time.sleep(IDLE_SECONDS)
    seconds = time.perf_counter() - began
    after = [usage for node in cluster.nodes if (usage := cluster.usage(node)) is not None]
    percent = max(used[0] - start[0] for used, start in zip(after, before, strict=True)) / seconds * 100
    megabytes = max(used[1] for used in after) / 1e6
    words = f"{percent:.1f} % of a core, {megabytes:.0f} MB resident (the largest of {len(after)} new nodes, {IDLE_SECONDS:g} s)"
    note("idle_cost", {"percent_of_a_core": percent, "resident_mb": megabytes}, words)


def throughput(leader: Node, note: Note) -> None:
    """SET with redis-benchmark, with and without pipelining."""
    for name, pipeline, requests in (("set_64_clients", 1, 60_000), ("set_64_clients_pipelined_32", PIPELINE, 600_000)):
        if shutil.which("redis-benchmark") is None:
            note(name, None, "skipped: redis-benchmark is not installed")
            continue
        row = redis_benchmark(leader, pipeline, requests)
        words = f"{row['rps']:,.0f} SET/s, latency p50 {row['p50_latency_ms']:.2f} ms, p99 {row['p99_latency_ms']:.2f} ms"
        note(name, row, f"{words} ({VALUE_BYTES}-byte values)")


def redis_benchmark(node: Node, pipeline: int, requests: int) -> dict[str, float]:
    """What redis-benchmark measures at `node`: requests a second, latencies in ms."""
    command = ["redis-benchmark", "-h", HOST, "-p", str(node.client_port), "-t", "set", "-c", str(CLIENTS), "-P", str(pipeline)]
    command += ["-n", str(requests), "-d", str(VALUE_BYTES), "-r", "1000000", "--csv"]
    done = subprocess.run(command, capture_output=True, text=True, timeout=300, check=False)
    rows = list(csv.DictReader(line for line in done.stdout.splitlines() if line.startswith('"')))
    if done.returncode != 0 or not rows:
        raise BenchmarkFailed(f"redis-benchmark failed: {(done.stderr or done.stdout).strip()}")
    return {name: float(value) for name, value in rows[0].items() if name != "test"}


def failover_gap_ms(cluster: Cluster) -> float:
    """Kill the leader while a client writes, one SET at a time, through a node that stays; the longest time between two answers.
    The killed node is started again and has caught up when this returns."""
    leader = cluster.wait_for_leader()
    survivor = next(node for node in cluster.nodes if node != leader)
    answered: list[float] = []
    failed: list[str] = []
    end = threading.Event()

    def write() -> None:
        try:
            with socket.create_connection((HOST, survivor.client_port), timeout=30) as connection, connection.makefile("rb") as stream:
                while not end.is_set():
                    connection.sendall(encode(b"SET", b"gap", b"x" * VALUE_BYTES))
                    line = stream.readline()
                    if line == b"+OK\r\n":
                        answered.append(time.perf_counter())
                    else:
                        failed.append(repr(line))
                        return
        except OSError as error:
            failed.append(str(error))

    thread = threading.Thread(target=write)
    thread.start()
    try:
        wait_for("writes before the kill", lambda: len(answered) > 200 or failed)
        before = len(answered) - 1
        cluster.kill(leader)
        wait_for("writes after the kill", lambda: len(answered) > before + 400 or failed)
    finally:
        end.set()
        thread.join()
    if failed:
        raise BenchmarkFailed(f"a client of {survivor.name}, which was not killed, was answered {failed[0]}")
    cluster.start(leader)
    cluster.wait_until_caught_up(leader)
    return max(later - earlier for earlier, later in pairwise(answered[before:])) * 1000


def restart(cluster: Cluster, keys: int, note: Note) -> None:
    """Load `keys` keys, kill a follower, and time it from start to having caught up."""
    leader = cluster.wait_for_leader()
    seconds = load(leader, keys)
    note("load_keys_per_second", keys / seconds, f"{keys / seconds:,.0f} keys/s, {keys:,} keys over one connection, {LOAD_BATCH} at a time")
    follower = next(node for node in cluster.nodes if node != leader)
    cluster.wait_until_caught_up(follower)
    cluster.kill(follower)
    began = time.perf_counter()
    cluster.start(follower)
    wait_for("the node to answer PING", lambda: ask(follower.client_port, b"PING") == b"+PONG")
    answers = time.perf_counter() - began
    cluster.wait_until_caught_up(follower)
    caught_up = time.perf_counter() - began
    words = f"answers after {answers:.2f} s, caught up after {caught_up:.2f} s (SIGKILL, then start; {keys:,} keys)"
    note("restart_s", {"answers": answers, "caught_up": caught_up, "keys": keys}, words)


def load(node: Node, keys: int) -> float:
    """Set `keys` keys through `node`, pipelined; the seconds it took."""
    began = time.perf_counter()
    with socket.create_connection((HOST, node.client_port), timeout=60) as connection, connection.makefile("rb") as stream:
        for start in range(0, keys, LOAD_BATCH):
            count = min(LOAD_BATCH, keys - start)
            value = b"x" * VALUE_BYTES
            connection.sendall(b"".join(encode(b"SET", b"key:%d" % number, value) for number in range(start, start + count)))
            for _ in range(count):
                if (line := stream.readline()) != b"+OK\r\n":
                    raise BenchmarkFailed(f"a SET was answered {line!r}")
    return time.perf_counter() - began


if __name__ == "__main__":
    main()
