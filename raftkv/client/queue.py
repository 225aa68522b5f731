"""Commands that wait to be sent together: what a pipeline and a transaction have in common, for threads and for asyncio."""

from __future__ import annotations

from typing import Any

from raftkv.client.command import AnyCommand, Command, Kind, Queue, Value, encode
from raftkv.client.keys import KeyCommands
from raftkv.client.replies import Answer, as_is, decoded
from raftkv.client.server import ServerCommands
from raftkv.client.strings import StringCommands
from raftkv.errors import InvalidRequest, RaftkvError

_STATEFUL = {
    "AUTH", "DISCARD", "EXEC", "HELLO", "MONITOR", "MULTI", "PSUBSCRIBE", "PSYNC", "PUNSUBSCRIBE", "QUIT", "READONLY", "READWRITE",
    "RESET", "SELECT", "SSUBSCRIBE", "SUBSCRIBE", "SUNSUBSCRIBE", "SYNC", "UNSUBSCRIBE", "UNWATCH", "WATCH",
}  # fmt: skip
"""Commands that change what a connection is. Connections are shared, so a client has other ways for what these are for, or none."""


def any_command(args: tuple[Value, ...]) -> Command[Answer, Answer]:
    """The command that `execute` was given.

    Raises:
        InvalidRequest: there is none, or it changes the state of a connection.
    """
    if not args:
        raise InvalidRequest("execute needs the name of a command")
    command: Command[Answer, Answer] = Command(tuple(map(encode, args)), Kind.UNKNOWN, as_is)
    if command.name in _STATEFUL:
        raise InvalidRequest(f"{command.name} changes the state of a connection, and connections are shared; use the methods of the client")
    return command


def delivered(outcome: object, decode: bool) -> Any:
    """An outcome as a method returns it: raised if it is an error."""
    if isinstance(outcome, RaftkvError):
        raise outcome
    return decoded(outcome) if decode else outcome


def all_delivered(outcomes: list[Any], decode: bool, raise_on_error: bool) -> list[Any]:
    """The outcomes of a queue. The first error is raised, or errors are among the values."""
    values = [decoded(outcome) if decode and not isinstance(outcome, RaftkvError) else outcome for outcome in outcomes]
    if raise_on_error:
        for value in values:
            if isinstance(value, RaftkvError):
                raise value
    return values


def whole(outcomes: list[Any] | RaftkvError) -> list[Any]:
    """The outcomes of a transaction's commands, unless it failed as a whole: then that is raised."""
    if isinstance(outcomes, RaftkvError):
        raise outcomes
    return outcomes


class CommandQueue(Queue, StringCommands, KeyCommands, ServerCommands):
    """Keeps commands; every method returns the object itself, so that calls can be chained. `len()` says how many there are."""

    def __init__(self) -> None:
        self._commands: list[AnyCommand] = []

    def __len__(self) -> int:
        return len(self._commands)

    def run(self, command: AnyCommand) -> Any:
        """Keep `command`."""
        self._commands.append(command)
        return self

    def add(self, *args: Value) -> Any:
        """Keep any command, by its name and arguments; its result is the plain answer."""
        return self.run(any_command(args))

    def take(self) -> list[AnyCommand]:
        """Take out everything that was kept."""
        commands, self._commands = self._commands, []
        return commands
