"""`raftkv status`: what one node knows of the whole cluster, and the asking of nodes that other commands share."""

from __future__ import annotations

import click
import msgspec
from msgspec import Struct

from raftkv_cli.output import json_option, print_json, print_table
from raftkv_cli.resp import Answer, Connection, ErrorReply, Unreachable

DEFAULT_SERVER = "127.0.0.1:7001"

server_option = click.option(
    "--server",
    default=DEFAULT_SERVER,
    show_default=True,
    show_envvar=True,
    envvar="RAFTKV_SERVER",
    metavar="HOST:PORT,…",
    help="Client addresses of nodes; the first that answers is asked.",
)


class NodeStatus(Struct, frozen=True):
    """One node. What is not known of a node that cannot be reached is None. `lag` is in entries behind the leader's commit."""

    name: str
    role: str
    pid: int | None
    client: str | None
    peer: str | None
    last: int | None
    committed: int | None
    applied: int | None
    digest: str | None
    lag: int | None


class ClusterStatus(Struct, frozen=True):
    """The cluster, as the node that was asked sees it."""

    cluster: str
    leader: str | None
    term: int
    nodes: list[NodeStatus]

    def node(self, name: str) -> NodeStatus:
        """The node called `name`."""
        return next(node for node in self.nodes if node.name == name)


def ask(servers: str, *arguments: str, timeout_s: float = 10.0) -> Answer:
    """The answer to a command from the first of `servers` (``host:port,…``) that gives one.

    Raises:
        ErrorReply: a node refused.
        Unreachable: none could be reached; the message names each and why.
    """
    reasons = []
    for address in servers.split(","):
        try:
            with Connection(address.strip(), timeout_s=timeout_s) as connection:
                return connection.call(*arguments)
        except Unreachable as error:
            reasons.append(str(error))
    raise Unreachable(f"no node answers ({'; '.join(reasons)}); is one running there? --server and RAFTKV_SERVER say where to ask")


def cluster_status(servers: str, *, timeout_s: float = 10.0) -> ClusterStatus:
    """What the first of `servers` that answers knows of the cluster.

    Raises:
        ErrorReply: the node refused, or what answers there is not a raftkv node.
        Unreachable: none could be reached.
    """
    answer = ask(servers, "RAFTKV.STATUS", timeout_s=timeout_s)
    try:
        return msgspec.json.decode(answer if isinstance(answer, bytes) else b"", type=ClusterStatus)
    except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError) as error:
        raise ErrorReply(f"the node's answer is not a status: {error}") from error


@click.command()
@server_option
@json_option
def status(server: str, as_json: bool) -> None:
    """Show the cluster: who leads, and how far each node is.

    A node that the one asked does not hear from has the role unreachable.
    """
    known = cluster_status(server)
    if as_json:
        print_json(known)
        return
    click.echo(f"cluster {known.cluster}  leader {known.leader or 'none'}  term {known.term}")
    print_table(NodeStatus.__struct_fields__, [msgspec.structs.astuple(node) for node in known.nodes])
