"""The command `raftkv`: gathers the commands, and turns errors into messages and exit codes (0 done, 1 failed, 2 used wrongly)."""

from __future__ import annotations

from typing import Any

import click

import raftkv
from raftkv.errors import InvalidSettings, RaftkvError
from raftkv_cli.chaos.command import chaos
from raftkv_cli.cluster import cluster
from raftkv_cli.demo import demo
from raftkv_cli.leader import leader
from raftkv_cli.node import node
from raftkv_cli.resp import ErrorReply, Unreachable
from raftkv_cli.status import status
from raftkv_cli.verify import verify
from raftkv_cli.verify_explore import explore
from raftkv_cli.verify_rot import rot
from raftkv_cli.verify_sweep import sweep
from raftkv_cli.wal import wal


class Commands(click.Group):
    """A group whose commands may raise raftkv's errors."""

    def invoke(self, ctx: click.Context) -> Any:
        """Run the command, with every expected error as one line."""
        try:
            return super().invoke(ctx)
        except InvalidSettings as error:
            raise click.UsageError(str(error)) from error
        except (RaftkvError, ErrorReply, Unreachable) as error:
            raise click.ClickException(str(error)) from error


@click.group(cls=Commands, context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 120})
@click.version_option(raftkv.__version__, prog_name="raftkv")
def main() -> None:
    """A replicated, durable key-value store: any Redis client in, no acknowledged write lost.

    Exit codes: 0 done, 1 failed, 2 used wrongly.
    """


for command in (node, cluster, status, leader, wal, verify, demo, chaos):
    main.add_command(command)
for part in (explore, rot, sweep):
    verify.add_command(part)
