"""CLIENT: the connections of this node, for those who ask about their own or look after all.

Nothing of a connection is made up: what Redis tells of its buffers, and a node of this kind has none of, is 0.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Sequence
from typing import Final

from raftkv.kv.arguments import SYNTAX_ERROR, integer, parse_integer, printable
from raftkv.kv.commands import find_spec, find_subcommand
from raftkv.kv.replies import OK, Reply, Verbatim, fail
from raftkv.router.connection import Connection, Handler
from raftkv.router.surroundings import Surroundings

USER: Final = b"default"
"""The one user that there is."""

_NAME: Final = re.compile(rb"[!-~]*")
_NAME_BYTES: Final = 4096
"""The longest name of a connection or a library: each connection may keep three, which nothing else bounds."""
_TYPES: Final = (b"normal", b"master", b"replica", b"slave", b"pubsub")
_NO_TRACKING: Final = "keys are not tracked for clients here"


def set_name(connection: Connection, name: bytes) -> None:
    """Name the connection.

    Raises:
        CommandError: it is no name.
    """
    if not _NAME.fullmatch(name):
        fail("Client names cannot contain spaces, newlines or special characters.")
    if len(name) > _NAME_BYTES:
        fail(f"the name has {len(name)} bytes; a client's has at most {_NAME_BYTES}")
    connection.name = name


class ClientCommands:
    """Executes CLIENT.

    Args:
        around: whose connections they are, and who ends them or their waiting.
    """

    def __init__(self, around: Surroundings) -> None:
        self._connections = around.connections
        self._sockets = around.sockets
        self._disconnect = around.disconnect
        self._unblock = around.unblock
        self._postponed = around.postponed
        self._channels = around.channels
        self.handlers: dict[str, Handler] = {
            "client|caching": self._caching,
            "client|getname": lambda connection, args: connection.name or None,
            "client|getredir": lambda connection, args: -1,
            "client|id": lambda connection, args: connection.id,
            "client|info": lambda connection, args: Verbatim(self._line(connection)),
            "client|kill": self._kill,
            "client|list": self._list,
            "client|no-evict": self._on_or_off,
            "client|no-touch": self._on_or_off,
            "client|reply": self._reply,
            "client|setinfo": self._set_library,
            "client|setname": self._set_name,
            "client|tracking": self._tracking,
            "client|trackinginfo": lambda connection, args: {b"flags": [b"off"], b"redirect": -1, b"prefixes": []},
            "client|unblock": self._end_waiting,
        }

    # One's own connection.

    def _set_name(self, connection: Connection, args: Sequence[bytes]) -> Reply:
        set_name(connection, args[0])
        return OK

    def _set_library(self, connection: Connection, args: Sequence[bytes]) -> Reply:
        """CLIENT SETINFO, which Redis has since 7.2; client libraries send it on every connection."""
        shown = args[0].decode("utf-8", "surrogateescape")
        attribute = args[0].lower()
        if attribute not in (b"lib-name", b"lib-ver"):
            fail(f"Unrecognized option '{shown}'")
        if not _NAME.fullmatch(args[1]):
            fail(f"{shown} cannot contain spaces, newlines or special characters.")
        if len(args[1]) > _NAME_BYTES:
            fail(f"{shown} has {len(args[1])} bytes; it has at most {_NAME_BYTES}")
        if attribute == b"lib-name":
            connection.library = args[1]
        else:
            connection.library_version = args[1]
        return OK

    def _on_or_off(self, connection: Connection, args: Sequence[bytes]) -> Reply:
        """NO-EVICT, NO-TOUCH: what they ask for holds for every connection."""
        if args[0].lower() not in (b"on", b"off"):
            fail(SYNTAX_ERROR)
        return OK

    def _reply(self, connection: Connection, args: Sequence[bytes]) -> Reply:
        """CLIENT REPLY. The reply to it is among those that it says something of."""
        match args[0].lower():
            case b"on":
                connection.muted = 0
            case b"off":
                connection.muted = -1
            case b"skip":
                connection.muted = connection.muted if connection.muted < 0 else 2
            case _:
                fail(SYNTAX_ERROR)
        return OK

    def _caching(self, connection: Connection, args: Sequence[bytes]) -> Reply:
        fail("CLIENT CACHING can be called only when the client is in tracking mode with OPTIN or OPTOUT mode enabled")

    def _tracking(self, connection: Connection, args: Sequence[bytes]) -> Reply:
        match args[0].lower():
            case b"off":
                return OK
            case b"on":
                return fail(_NO_TRACKING)
            case _:
                return fail(SYNTAX_ERROR)

    # All connections.

    def _list(self, connection: Connection, args: Sequence[bytes]) -> Reply:
        found: Iterator[Connection] = iter(self._connections.values())
        if len(args) == 2 and args[0].lower() == b"type":
            kind = _type(args[1])
            found = iter([one for one in found if _type_of(one) == kind])
        elif len(args) > 1 and args[0].lower() == b"id":
            numbers = [parse_integer(arg) for arg in args[1:]]
            if None in numbers:
                fail("Invalid client ID")
            found = iter([self._connections[number] for number in numbers if number is not None and number in self._connections])
        elif args:
            fail(SYNTAX_ERROR)
        return Verbatim(b"".join(map(self._line, found)))

    def _kill(self, connection: Connection, args: Sequence[bytes]) -> Reply:
        if len(args) == 1:
            if not self._kill_all(connection, [one for one in self._connections.values() if one.address.encode() == args[0]]):
                fail("No such client")
            return OK
        skip_me = True
        filters: dict[bytes, Callable[[Connection], bool]] = {}  # the last of each kind counts, as in Redis
        for position in range(0, len(args), 2):
            if position + 1 == len(args):
                fail(SYNTAX_ERROR)
            name, value = args[position].lower(), args[position + 1]
            if name == b"skipme":
                skip_me = _yes(value)
            else:
                filters[name] = self._filter(name, value)
        found = [one for one in self._connections.values() if all(accepts(one) for accepts in filters.values())]
        return self._kill_all(connection, [one for one in found if not (skip_me and one is connection)])

    def _kill_all(self, own: Connection, found: Sequence[Connection]) -> int:
        for connection in found:
            if connection is own:
                own.closing = True
            else:
                self._disconnect(connection)
        return len(found)

    def _end_waiting(self, connection: Connection, args: Sequence[bytes]) -> Reply:
        """CLIENT UNBLOCK."""
        if len(args) > 2:
            shown = printable(connection.command.partition(b"|")[2])
            fail(f"unknown subcommand or wrong number of arguments for '{shown}'. Try CLIENT HELP.")
        reason = args[1].lower() if len(args) == 2 else b"timeout"
        if reason not in (b"timeout", b"error"):
            fail("CLIENT UNBLOCK reason should be TIMEOUT or ERROR")
        return int(self._unblock(integer(args[0]), reason == b"error"))

    def _filter(self, name: bytes, value: bytes) -> Callable[[Connection], bool]:
        match name:
            case b"id":
                number = parse_integer(value)
                if number is None or number < 1:
                    fail("client-id should be greater than 0")
                return lambda one: one.id == number
            case b"type":
                kind = _type(value)
                return lambda one: _type_of(one) == kind
            case b"addr":
                return lambda one: one.address.encode() == value
            case b"laddr":
                return lambda one: self._sockets(one.id).local_address.encode() == value
            case b"user":
                if value != USER:
                    fail(f"No such user '{printable(value)}'")
                return lambda one: True
            case _:
                return fail(SYNTAX_ERROR)

    def _line(self, connection: Connection) -> bytes:
        """A connection in one line, as Redis writes it. There may be thousands of them, so it is made in one go."""
        socket = self._sockets(connection.id)
        _, asked = connection.held
        arriving, unsent = socket.arriving_bytes, socket.unsent_bytes
        transaction = connection.transaction
        blocked = self._postponed.holds(connection.id) or (connection.waiter is not None and connection.waiter.parked)
        flags = "P" * connection.subscribed + "x" * (transaction.queued >= 0) + "b" * blocked + "c" * connection.closing
        flags += "r" * connection.readonly
        channels, patterns, shards = self._channels.counts(connection)
        memory = arriving + asked + transaction.size + unsent
        return (
            f"id={connection.id} addr={connection.address} laddr={socket.local_address} fd={socket.descriptor} "
            f"name={connection.name.decode('ascii')} age={socket.age_seconds} idle={socket.idle_seconds} flags={flags or 'N'} "
            f"db=0 sub={channels} psub={patterns} ssub={shards} multi={transaction.queued} qbuf={arriving} qbuf-free=0 argv-mem={asked} "
            f"multi-mem={transaction.size} rbs=0 rbp=0 obl=0 "
            f"oll={1 if unsent else 0} omem={unsent} tot-mem={memory} events={'rw' if unsent else 'r'} "
            f"cmd={_known_name(connection.command)} user={USER.decode()} redir=-1 "
            f"resp={connection.protocol} lib-name={connection.library.decode('ascii')} "
            f"lib-ver={connection.library_version.decode('ascii')}\n"
        ).encode()


def _known_name(command: bytes) -> str:
    """What the table calls a command that a client spelled so, which may be anything."""
    name, bar, inside = command.partition(b"|")
    spec = find_spec(name)
    if spec is None or not bar:
        return "NULL" if spec is None else spec.name
    found = find_subcommand(spec, inside)
    return "NULL" if found is None else f"{spec.name}|{found.name}"


def _yes(value: bytes) -> bool:
    if value.lower() not in (b"yes", b"no"):
        fail(SYNTAX_ERROR)
    return value.lower() == b"yes"


def _type_of(connection: Connection) -> bytes:
    return b"pubsub" if connection.subscribed else b"normal"


def _type(value: bytes) -> bytes:
    if value.lower() not in _TYPES:
        fail(f"Unknown client type '{printable(value)}'")
    return value.lower()
