"""`raftkv node`: the command line and the secret's file become settings, and the server runs with them."""

from __future__ import annotations

import sys
from pathlib import Path

import click

from raftkv.errors import InvalidSettings
from raftkv.server.settings import Address, NodeSettings, Tuning, parse_cluster

MAX_SECRET_BYTES = 4096


def _address(text: str | None, what: str) -> Address | None:
    return None if text is None else Address.parse(text, what=what)


def read_secret(path: Path | None) -> bytes | None:
    """The secret in `path`, without the newline that an editor leaves at its end.

    Raises:
        InvalidSettings: the file cannot be read or is no secret.
    """
    if path is None:
        return None
    try:
        with path.open("rb") as file:
            secret = file.read(MAX_SECRET_BYTES + 1).strip()
    except OSError as error:
        raise InvalidSettings(f"--secret-file {path} cannot be read: {error.strerror}") from error
    if len(secret) > MAX_SECRET_BYTES:
        raise InvalidSettings(f"--secret-file {path} holds more than {MAX_SECRET_BYTES} bytes; a secret is one line")
    return secret


@click.command()
@click.option("--name", required=True, help="The node's name, unique in its cluster, for example n1.")
@click.option(
    "--data-dir",
    required=True,
    type=click.Path(file_okay=False, path_type=Path),
    help="Where the node keeps its log and its state.",
)
@click.option("--client", required=True, metavar="HOST:PORT", help="Listen here for clients.")
@click.option("--peer", required=True, metavar="HOST:PORT", help="Listen here for the other nodes.")
@click.option("--admin", metavar="HOST:PORT", help="Listen here for health checks and metrics (HTTP).")
@click.option("--advertise-client", metavar="HOST:PORT", help="Where clients reach this node, if not at --client.")
@click.option("--advertise-peer", metavar="HOST:PORT", help="Where the other nodes reach this one, if not at --peer.")
@click.option("--cluster-name", default="raftkv", show_default=True, help="The cluster's name, the same on every node.")
@click.option(
    "--cluster",
    "members",
    metavar="NAME=HOST:PORT,…",
    help="The initial members and their peer addresses, the same on every node; read when the data directory is empty.",
)
@click.option("--secret-file", type=click.Path(path_type=Path), help="A file with the secret that the nodes prove to each other.")
@click.option("--insecure", is_flag=True, help="Listen on addresses that other machines reach, without a secret.")
@click.option("--stop-at-end-of-input", is_flag=True, hidden=True)  # for a process that starts nodes: see raftkv.server.input
@click.option("--compact-entries", type=click.IntRange(min=1), default=Tuning.compact_entries, show_default=True)
@click.option("--compact-bytes", type=click.IntRange(min=1), default=Tuning.compact_bytes, show_default=True)
@click.option("--log-format", type=click.Choice(["console", "json"]), default="console", show_default=True)
@click.option("--log-level", type=click.Choice(["debug", "info", "warning", "error"]), default="info", show_default=True)
def node(
    name: str,
    data_dir: Path,
    client: str,
    peer: str,
    admin: str | None,
    advertise_client: str | None,
    advertise_peer: str | None,
    cluster_name: str,
    members: str | None,
    secret_file: Path | None,
    insecure: bool,
    stop_at_end_of_input: bool,
    compact_entries: int,
    compact_bytes: int,
    log_format: str,
    log_level: str,
) -> None:
    """Run one node until SIGTERM or Ctrl-C.

    On a polite stop a leader hands over first. The log is cut, and a checkpoint taken, once it holds more than --compact-entries
    entries or --compact-bytes bytes.
    """
    settings = NodeSettings(
        name=name,
        data_dir=data_dir,
        client=Address.parse(client, what="--client"),
        peer=Address.parse(peer, what="--peer"),
        admin=_address(admin, "--admin"),
        advertise_client=_address(advertise_client, "--advertise-client"),
        advertise_peer=_address(advertise_peer, "--advertise-peer"),
        cluster_name=cluster_name,
        cluster=None if members is None else parse_cluster(members),
        secret=read_secret(secret_file),
        insecure=insecure,
        stop_at_end_of_input=stop_at_end_of_input,
        log_format=log_format,
        log_level=log_level,
        tuning=Tuning(compact_entries=compact_entries, compact_bytes=compact_bytes),
    )
    # Here, so that the other commands start without loading a database.
    from raftkv.server.node import run

    sys.exit(run(settings))
