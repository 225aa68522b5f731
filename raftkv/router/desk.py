"""The commands that concern a connection or the node that holds it: PING, HELLO, CLIENT, SELECT, QUIT and the like.

They answer as Redis 7.0 does, in replies and in errors, byte for byte. None touches the state machine. The router calls this at the
command's turn, when everything before it on the connection has been answered.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence

from raftkv.errors import InvalidRequest, Refused
from raftkv.kv.arguments import database, integer
from raftkv.kv.command import ConnectionCommand
from raftkv.kv.replies import OK, Reply, Simple, fail
from raftkv.raft.ready import Role
from raftkv.router.catalogue import describe_commands
from raftkv.router.connection import Connection
from raftkv.router.info import REDIS_VERSION, Counts, info_text, role_reply
from raftkv.router.ports import NodeFacts, OperationsPort, ReplicaPort
from raftkv.router.scripts import describe_scripts, refuse_functions

_INTEGER = re.compile(rb"0|-?[1-9][0-9]{0,18}")
_NAME = re.compile(rb"[!-~]*")


def unknown_subcommand(name: str, subcommand: bytes) -> Reply:
    """Refuse a subcommand in Redis's words."""
    shown = subcommand[:128].partition(b"\0")[0].replace(b"\r", b" ").replace(b"\n", b" ").decode("utf-8", "surrogateescape")
    fail(f"unknown subcommand '{shown}'. Try {name.upper()} HELP.")


def wrong_arity(name: str) -> Reply:
    """Refuse a number of arguments in Redis's words."""
    fail(f"wrong number of arguments for '{name}' command")


class Desk:
    """Attends to these commands.

    Args:
        replica: tells role and leader.
        facts: tells what the server knows.
        counts: tells what the router counts.
        operations: does what an operator asks.
        unblock: ends the waiting of a connection, with an error or as if its time were over; False when it does not wait.
    """

    def __init__(
        self,
        replica: ReplicaPort,
        facts: Callable[[], NodeFacts],
        counts: Callable[[], Counts],
        operations: OperationsPort,
        unblock: Callable[[int, bool], bool],
    ) -> None:
        self._unblock = unblock
        self._operations = operations
        self._replica = replica
        self._facts = facts
        self._counts = counts
        self._commands: dict[str, Callable[[Connection, Sequence[bytes]], Reply]] = {
            "client": self._client,
            "command": lambda connection, args: describe_commands(args),
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
            "role": self._role,
            "script": lambda connection, args: describe_scripts(args),
            "select": self._select,
        }

    @property
    def names(self) -> frozenset[str]:
        """The commands that are known here."""
        return frozenset(self._commands)

    def attend(self, connection: Connection, command: ConnectionCommand) -> Reply:
        """Execute `command` for `connection`.

        Raises:
            CommandError: the answer is an error.
        """
        return self._commands[command.name](connection, command.args)

    def _ping(self, connection: Connection, args: Sequence[bytes]) -> Reply:
        if len(args) > 1:
            return wrong_arity("ping")
        if connection.subscribed and connection.protocol == 2:
            return [b"pong", args[0] if args else b""]
        return args[0] if args else Simple("PONG")

    def _quit(self, connection: Connection, args: Sequence[bytes]) -> Reply:
        connection.closing = True
        return OK

    def _readonly(self, connection: Connection, args: Sequence[bytes]) -> Reply:
        connection.readonly = True
        return OK

    def _readwrite(self, connection: Connection, args: Sequence[bytes]) -> Reply:
        connection.readonly = False
        return OK

    def _select(self, connection: Connection, args: Sequence[bytes]) -> Reply:
        database(args[0])
        return OK

    def _info(self, connection: Connection, args: Sequence[bytes]) -> Reply:
        return info_text(args, self._replica, self._facts(), self._counts()).encode()

    def _role(self, connection: Connection, args: Sequence[bytes]) -> Reply:
        return role_reply(self._replica, self._facts())

    def _transfer(self, connection: Connection, args: Sequence[bytes]) -> Reply:
        if len(args) > 1:
            return wrong_arity("raftkv.transfer")
        try:
            self._operations.transfer(args[0].decode("utf-8", "replace") if args else None)
        except InvalidRequest as error:
            fail(str(error))
        except Refused as error:
            fail(str(error), code="CLUSTERDOWN")
        return OK

    # HELLO [protocol [AUTH name password] [SETNAME name]]

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
                if args[position + 1] != b"default":
                    fail("invalid username-password pair or user is disabled.", code="WRONGPASS")
                position += 3
            elif option == b"SETNAME" and left >= 1:
                self._set_name(connection, args[position + 1])
                position += 2
            else:
                shown = args[position][:128].partition(b"\0")[0].decode("utf-8", "surrogateescape")
                fail(f"Syntax error in HELLO option '{shown}'")

    # CLIENT

    def _client(self, connection: Connection, args: Sequence[bytes]) -> Reply:
        subcommand = args[0].lower()
        if subcommand == b"unblock":
            return self._client_unblock(args)
        expected = {b"id": 1, b"getname": 1, b"setname": 2, b"setinfo": 3}.get(subcommand)
        if expected is None:
            return unknown_subcommand("client", args[0])
        if len(args) != expected:
            return wrong_arity(f"client|{subcommand.decode()}")
        match subcommand:
            case b"id":
                return connection.id
            case b"getname":
                return connection.name or None
            case b"setname":
                self._set_name(connection, args[1])
            case _:
                self._set_library(args[1], args[2])
        return OK

    def _client_unblock(self, args: Sequence[bytes]) -> Reply:
        if len(args) < 2:
            return wrong_arity("client|unblock")
        if len(args) > 3:
            shown = args[0][:128].decode("utf-8", "surrogateescape")
            fail(f"unknown subcommand or wrong number of arguments for '{shown}'. Try CLIENT HELP.")
        reason = args[2].lower() if len(args) == 3 else b"timeout"
        if reason not in (b"timeout", b"error"):
            fail("CLIENT UNBLOCK reason should be TIMEOUT or ERROR")
        return int(self._unblock(integer(args[1]), reason == b"error"))

    def _set_name(self, connection: Connection, name: bytes) -> None:
        if not _NAME.fullmatch(name):
            fail("Client names cannot contain spaces, newlines or special characters.")
        connection.name = name

    def _set_library(self, attribute: bytes, value: bytes) -> None:
        """CLIENT SETINFO, which Redis has since 7.2; client libraries send it on every connection."""
        shown = attribute.decode("utf-8", "surrogateescape")
        if attribute.lower() not in (b"lib-name", b"lib-ver"):
            fail(f"Unrecognized option '{shown}'")
        if not _NAME.fullmatch(value):
            fail(f"{shown} cannot contain spaces, newlines or special characters.")
