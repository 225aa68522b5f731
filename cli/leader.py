"""`raftkv leader`: who leads is decided by an election; this asks for a planned one."""

from __future__ import annotations

import click

from raftkv_cli.output import json_option, print_json
from raftkv_cli.status import ask, server_option


@click.group()
def leader() -> None:
    """Hand the leadership over."""


@leader.command()
@click.option("--to", metavar="NODE", help="Who shall lead; without it the node that is furthest along.")
@server_option
@json_option
def transfer(to: str | None, server: str, as_json: bool) -> None:
    """Let another node lead, for example before the leader's machine is worked on.

    Returns when the leader has agreed to it; `raftkv status` shows who leads.
    """
    answer = ask(server, "RAFTKV.TRANSFER", *([to] if to else []))
    text = answer.decode() if isinstance(answer, bytes) else str(answer)
    if as_json:
        print_json({"answer": text, "to": to})
    else:
        click.echo(text)
