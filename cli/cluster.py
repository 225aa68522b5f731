"""`raftkv cluster`: a cluster for development, on one machine and in the foreground, and the list of its nodes."""

from __future__ import annotations

import queue
import shlex
import signal
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from types import FrameType

import click
import msgspec
from msgspec import Struct

from raftkv.errors import InvalidSettings
from raftkv_cli.output import json_option, print_json, print_table
from raftkv_cli.processes import NodeProcess, Nodes, Ports, plan
from raftkv_cli.resp import Connection, ErrorReply, Unreachable

STATE_FILE = "cluster.json"
MAX_NODES = 7


class RunningNode(Struct, frozen=True):
    """A row of the state file: a node and its process when the cluster was started."""

    name: str
    pid: int
    client: str
    peer: str
    admin: str


class NodeRow(Struct, frozen=True):
    """A row of `raftkv cluster ps`. `alive`: it answers PING at its client port."""

    name: str
    pid: int
    alive: bool
    client: str
    peer: str
    admin: str


data_dir_option = click.option(
    "--data-dir",
    type=click.Path(file_okay=False, path_type=Path),
    default=Path("raftkv-data"),
    show_default=True,
    help="Holds one directory a node, and the list of running nodes.",
)


@click.group()
def cluster() -> None:
    """Run a cluster on this machine, for development."""


@cluster.command()
@click.option("--nodes", "count", type=click.IntRange(1, MAX_NODES), default=3, show_default=True)
@data_dir_option
@click.option(
    "--base-port",
    type=click.IntRange(1024, 65535 - 200 - MAX_NODES),
    default=7001,
    show_default=True,
    help="Client port of n1; n2 has the next. Peers listen 100 above, administration 200 above.",
)
@click.option("--log-format", type=click.Choice(["console", "json"]), default="console", show_default=True)
@click.option("--log-level", type=click.Choice(["debug", "info", "warning", "error"]), default="info", show_default=True)
def start(count: int, data_dir: Path, base_port: int, log_format: str, log_level: str) -> None:
    """Start a cluster and show its log until Ctrl-C, which stops it in order.

    Started again with the same --data-dir and --nodes, it goes on with its data.
    """
    ports = Ports.from_base(base_port, count)
    if taken := ports.taken():
        listed = ", ".join(map(str, taken))
        raise InvalidSettings(f"something listens on port {listed} already; is the cluster running? --base-port takes other ports")
    data_dir.mkdir(parents=True, exist_ok=True)
    specs = plan(data_dir, ports, ("--log-format", log_format, "--log-level", log_level))
    with stop_requested() as events, Nodes(specs) as nodes:
        for spec in specs:
            threading.Thread(target=_relay, args=(nodes.start_piped(spec.name), events), daemon=True).start()
        _write_state(data_dir, nodes)
        click.echo(f"{count} nodes; clients connect to {', '.join(spec.client for spec in specs)}. Ctrl-C stops them.")
        code = _supervise(nodes, events)
    sys.exit(code)


@cluster.command()
@data_dir_option
@json_option
def ps(data_dir: Path, as_json: bool) -> None:
    """List the nodes that `raftkv cluster start` started, and whether they answer."""
    rows = [
        NodeRow(node.name, node.pid, _answers(node.client), node.client, node.peer, node.admin) for node in read_state(data_dir)
    ]
    if as_json:
        print_json(rows)
    else:
        print_table(NodeRow.__struct_fields__, [msgspec.structs.astuple(row) for row in rows])


Event = tuple[str, bytes | None]
"""A line of a node's log, or None when it has ended; the name "" asks to stop."""


@contextmanager
def stop_requested() -> Iterator[queue.SimpleQueue[Event]]:
    """A queue of events that gets the request to stop when SIGINT or SIGTERM arrives, instead of the process being interrupted."""
    events: queue.SimpleQueue[Event] = queue.SimpleQueue()

    def request(number: int, frame: FrameType | None) -> None:
        events.put(("", None))

    before = {number: signal.signal(number, request) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield events
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def _relay(process: NodeProcess, events: queue.SimpleQueue[Event]) -> None:
    """Put each line that `process` writes on `events`, and its end."""
    for line in process.lines:
        events.put((process.spec.name, line))
    events.put((process.spec.name, None))


def _supervise(nodes: Nodes, events: queue.SimpleQueue[Event]) -> int:
    """Print the logs and report nodes that end, until asked to stop or until none is left; then stop the rest. The exit code."""
    ended = 0
    while ended < len(nodes.specs):
        name, line = events.get()
        if line is not None:
            _print_line(name, line)
        elif name:
            ended += 1
            _report_end(nodes, name)
        else:
            click.echo("stopping")
            return _stop(nodes, events)
    click.echo("no node is left")
    return 1


def _stop(nodes: Nodes, events: queue.SimpleQueue[Event]) -> int:
    """Stop the nodes while their last lines are printed. 0 if each ended by itself."""
    threading.Thread(target=_print_rest, args=(events,), daemon=True).start()
    codes = nodes.stop()
    for name, code in codes.items():
        if code:
            click.echo(f"{name} had to be killed" if code < 0 else f"{name} ended with exit code {code}", err=True)
    return 1 if any(codes.values()) else 0


def _print_rest(events: queue.SimpleQueue[Event]) -> None:
    while True:
        name, line = events.get()
        if line is not None:
            _print_line(name, line)


def _print_line(name: str, line: bytes) -> None:
    click.echo(f"{name} | {line.decode(errors='replace').rstrip()}")


def _report_end(nodes: Nodes, name: str) -> None:
    process = nodes.running[name]
    code = process.wait(5.0)
    how = f"was ended by signal {-code}" if code < 0 else f"ended with exit code {code}"
    again = shlex.join(process.spec.command(nodes.specs))
    click.echo(f"{name} (pid {process.pid}) {how}; the others go on. To start it again: {again}", err=True)


def _write_state(data_dir: Path, nodes: Nodes) -> None:
    rows = [
        RunningNode(spec.name, nodes.running[spec.name].pid, spec.client, spec.peer, spec.admin)
        for spec in nodes.specs
    ]  # fmt: skip
    fresh = data_dir / f"{STATE_FILE}.new"
    fresh.write_bytes(msgspec.json.encode(rows))
    fresh.replace(data_dir / STATE_FILE)


def read_state(data_dir: Path) -> list[RunningNode]:
    path = data_dir / STATE_FILE
    try:
        return msgspec.json.decode(path.read_bytes(), type=list[RunningNode])
    except FileNotFoundError as error:
        raise InvalidSettings(f"{path} does not exist: no cluster was started there; --data-dir says where to look") from error
    except (OSError, msgspec.MsgspecError, UnicodeDecodeError, RecursionError) as error:
        raise InvalidSettings(f"{path} cannot be read as the list of a cluster's nodes: {error}") from error


def _answers(address: str) -> bool:
    try:
        with Connection(address, timeout_s=1.0) as connection:
            return connection.call("PING") == b"PONG"
    except (Unreachable, ErrorReply):
        return False
