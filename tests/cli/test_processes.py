"""Nodes as processes: the documented ports, the command line, and that none outlives its owner."""

from __future__ import annotations

import os
import shlex
import sys
from pathlib import Path

import pytest

from raftkv_cli.processes import Nodes, NodeSpec, Ports, plan


class Sleeper(NodeSpec, frozen=True, kw_only=True):
    """A process that does nothing but wait, in the place of a node. `code` is what it runs."""

    code: str

    def command(self, cluster: object) -> list[str]:
        """Python with `code`."""
        return [sys.executable, "-c", self.code]


UP = (
    "import signal, sys, threading; from raftkv.server.stop_signals import let_through; "
    "signal.signal(15, {}); let_through(); print('up', flush=True); threading.Event().wait()"
)
STUBBORN = UP.format("signal.SIG_IGN")
POLITE = UP.format("lambda *_: sys.exit(0)")


def sleepers(tmp_path: Path, *codes: str) -> Nodes:
    """Nodes n1, n2, … that run `codes`."""
    return Nodes(
        [
            Sleeper(name=f"n{i}", data_dir=str(tmp_path / f"n{i}"), client="c", peer="p", admin="a", code=code)
            for i, code in enumerate(codes, 1)
        ]
    )


def test_the_ports_of_a_development_cluster_are_the_documented_ones(tmp_path: Path) -> None:
    """Node i has client port base + i, peers 100 above and administration 200 above."""
    specs = plan(tmp_path, Ports.from_base(7001, 3))
    assert [(spec.client, spec.peer, spec.admin) for spec in specs] == [
        (f"127.0.0.1:{7001 + i}", f"127.0.0.1:{7101 + i}", f"127.0.0.1:{7201 + i}") for i in range(3)
    ]


def test_every_node_is_told_the_same_cluster(tmp_path: Path) -> None:
    """The command line of each node names all initial members with their peer addresses."""
    specs = plan(tmp_path, Ports.from_base(7001, 2), ("--log-level", "debug"))
    for spec in specs:
        line = shlex.join(spec.command(specs))
        assert "--cluster n1=127.0.0.1:7101,n2=127.0.0.1:7102 --log-level debug" in line
        assert f"--name {spec.name} --data-dir {tmp_path / spec.name} " in line


def test_free_ports_are_distinct() -> None:
    """No two of the ports that a cluster is given are equal."""
    ports = Ports.free(5)
    assert len({*ports.client, *ports.peer, *ports.admin}) == 15


def test_no_process_outlives_its_owner(tmp_path: Path) -> None:
    """Leaving the context ends every process, also when the reason is an error."""
    nodes = sleepers(tmp_path, STUBBORN, STUBBORN)

    def fail() -> None:
        with nodes:
            nodes.start("n1")
            nodes.start("n2")
            raise KeyError

    with pytest.raises(KeyError):
        fail()
    for process in nodes.running.values():
        with pytest.raises(ProcessLookupError):
            os.kill(process.pid, 0)


def test_nodes_are_asked_before_they_are_killed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A stop asks all nodes at once, and kills only one that does not end by itself."""
    monkeypatch.setattr("raftkv_cli.processes.STOP_SECONDS", 0.5)
    with sleepers(tmp_path, POLITE, STUBBORN) as nodes:
        for name in ("n1", "n2"):
            assert nodes.start_piped(name).lines.readline() == b"up\n"
        codes = nodes.stop()
    assert codes["n1"] == 0
    assert codes["n2"] < 0


def test_the_output_of_a_node_is_kept_beside_its_data(tmp_path: Path) -> None:
    """What a node prints is appended to a file, run after run."""
    with sleepers(tmp_path, "print('hello')") as nodes:
        for _ in range(2):
            nodes.start("n1").wait(20)
    assert nodes.log_path("n1").read_text() == "hello\nhello\n"
