"""The commands that concern a connection or the node that holds it: who executes which, and those that are a few lines.

They answer as Redis 7.0 does, in replies and in errors, byte for byte. None touches the state machine. The router calls this at the
command's turn, when everything before it on the connection has been answered. CLIENT, CONFIG, CLUSTER and others have modules of their own.
"""

from __future__ import annotations

import re
from collections.abc import Sequence

from raftkv.errors import InvalidRequest, Refused
from raftkv.kv.arguments import database
from raftkv.kv.command import ConnectionCommand
from raftkv.kv.commands import SPECS, wrong_arity
from raftkv.kv.replies import OK, Reply, Simple, Verbatim, fail
from raftkv.raft.ready import Role
from raftkv.router.catalogue import CATALOGUE, help_lines
from raftkv.router.clients import USER, ClientCommands, set_name
from raftkv.router.cluster_view import ClusterView
from raftkv.router.configuration import Configuration
from raftkv.router.connection import Connection, Handler
from raftkv.router.diagnostics import diagnostics
from raftkv.router.info import REDIS_VERSION, Since, info_text, role_reply
from raftkv.router.postponed import wait_arguments
from raftkv.router.scripts import describe_scripts, refuse_functions
from raftkv.router.surroundings import Surroundings

_INTEGER = re.compile(rb"0|-?[1-9][0-9]{0,18}")


class Desk:
    """Attends to these commands."""

    def __init__(self, around: Surroundings) -> None:
        self._replica = around.replica
        self._facts = around.facts
        self._counts = around.counts
        self._operations = around.operations
        self._postponed = around.postponed
        self._channels = around.channels
        self._since = Since()
        self._commands: dict[str, Handler] = {
            **ClientCommands(around).handlers,
            **Configuration(around.facts, around.replica, self._begin_anew).handlers,
            **ClusterView(around.replica, around.facts).handlers,
            **CATALOGUE,
            **diagnostics(around.facts),
            "auth": self._auth,
            "echo": lambda connection, args: args[0],
            "function": lambda connection, args: refuse_functions(args),
            "hello": self._hello,
            "info": self._info,
            "ping": self._ping,
            "quit": self._quit,
            "raftkv.status": lambda connection, args: self._operations.status(),
            "raftkv.transfer": self._transfer,
            "readonly": self._readonly,
            "readwrite": self._readwrite,
            "reset": self._reset,
            "role": self._role,
            "script": lambda connection, args: describe_scripts(args),
            "select": self._select,
            "wait": self._wait,
        }

    @property
    def names(self) -> frozenset[str]:
        """The commands that are known here, without what is in containers."""
        return frozenset(name.partition("|")[0] for name in self._commands)

    @property
    def full_names(self) -> frozenset[str]:
        """The same, and of containers what is in them, but for HELP."""
        return frozenset(self._commands)

    def attend(self, connection: Connection, command: ConnectionCommand) -> Reply:
        """Execute `command` for `connection`.

        Raises:
            CommandError: the answer is an error.
        """
        spec = SPECS[command.name]
        args = command.args
        if not (spec.subcommands and args):
            return self._commands[command.name](connection, args)
        connection.command = b"%b|%b" % (command.name.encode(), args[0])
        name = connection.command.lower().decode()  # it is in the table: the request has been parsed
        return help_lines(spec) if name.endswith("|help") else self._commands[name](connection, args[1:])

    def _ping(self, connection: Connection, args: Sequence[bytes]) -> Reply:
        if len(args) > 1:
            wrong_arity("ping")
        if connection.subscribed and connection.protocol == 2:
            return [b"pong", args[0] if args else b""]
        return args[0] if args else Simple("PONG")

    def _quit(self, connection: Connection, args: Sequence[bytes]) -> Reply:
        connection.closing = True
        return OK

    def _reset(self, connection: Connection, args: Sequence[bytes]) -> Reply:
        connection.reset()
        self._channels.forget(connection)
        return Simple("RESET")

    def _readonly(self, connection: Connection, args: Sequence[bytes]) -> Reply:
        connection.readonly = True
        return OK

    def _readwrite(self, connection: Connection, args: Sequence[bytes]) -> Reply:
        connection.readonly = False
        return OK

    def _select(self, connection: Connection, args: Sequence[bytes]) -> Reply:
        database(args[0])
        return OK

    def _wait(self, connection: Connection, args: Sequence[bytes]) -> Reply:
        """WAIT, when its time is over or enough nodes have what it waits for; or where nothing may wait."""
        wait_arguments(args)
        return self._postponed.nodes_with(connection.written)

    def _info(self, connection: Connection, args: Sequence[bytes]) -> Reply:
        return Verbatim(info_text(args, self._replica, self._facts(), self._counts(), self._since).encode())

    def _begin_anew(self) -> None:
        self._since = Since.now(self._facts(), self._counts())

    def _role(self, connection: Connection, args: Sequence[bytes]) -> Reply:
        return role_reply(self._replica, self._facts())

    def _transfer(self, connection: Connection, args: Sequence[bytes]) -> Reply:
        if len(args) > 1:
            wrong_arity("raftkv.transfer")
        try:
            self._operations.transfer(args[0].decode("utf-8", "replace") if args else None)
        except InvalidRequest as error:
            fail(str(error))
        except Refused as error:
            fail(str(error), code="CLUSTERDOWN")
        return OK

    # AUTH [name] password, HELLO [protocol [AUTH name password] [SETNAME name]]

    def _auth(self, connection: Connection, args: Sequence[bytes]) -> Reply:
        if len(args) > 2:
            fail("syntax error")
        if len(args) == 1:
            fail(
                "AUTH <password> called without any password configured for the default user. Are you sure your configuration is correct?"
            )
        _check_user(args[0])
        return OK

    def _hello(self, connection: Connection, args: Sequence[bytes]) -> Reply:
        protocol = connection.protocol
        if args:
            if not _INTEGER.fullmatch(args[0]) or not -(2**63) <= int(args[0]) < 2**63:
                fail("Protocol version is not an integer or out of range")
            protocol = int(args[0])
            if protocol not in (2, 3):
                fail("unsupported protocol version", code="NOPROTO")
            self._hello_options(connection, args)
        connection.protocol = protocol
        return {
            b"server": b"redis",
            b"version": REDIS_VERSION.encode(),
            b"proto": protocol,
            b"id": connection.id,
            b"mode": b"standalone",
            b"role": b"master" if self._replica.role is Role.LEADER else b"replica",
            b"modules": [],
        }

    def _hello_options(self, connection: Connection, args: Sequence[bytes]) -> None:
        position = 1
        while position < len(args):
            option = args[position].upper()
            left = len(args) - position - 1
            if option == b"AUTH" and left >= 2:
                _check_user(args[position + 1])
                position += 3
            elif option == b"SETNAME" and left >= 1:
                set_name(connection, args[position + 1])
                position += 2
            else:
                shown = args[position][:128].partition(b"\0")[0].decode("utf-8", "surrogateescape")
                fail(f"Syntax error in HELLO option '{shown}'")


def _check_user(name: bytes) -> None:
    if name != USER:
        fail("invalid username-password pair or user is disabled.", code="WRONGPASS")
