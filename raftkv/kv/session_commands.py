"""Commands by which a client library has a write applied once, at whatever nodes it asks for it: RAFTKV.SESSION, RAFTKV.ONCE.

::

    RAFTKV.SESSION id                                open the session, 16 bytes in hexadecimal that the client has drawn
    RAFTKV.ONCE id sequence floor command [arg …]    apply a write as command number `sequence` of the session

A node that takes a command of a client sends it again under its own session when a leader dies. What it cannot help with is its own
death: the client does not know then whether the command happened. With a session of its own the client asks another node the same, with
the same number, and is answered what it would have been the first time. What always holds:

- The commands of a session are applied in the order of their numbers, from 1, each once. A number that was applied is answered from the
  reply that is kept; one that leaves a gap is refused, and so is a session that is not known. A refused command had no effect.
- `floor` says that the replies up to it have arrived, so they are forgotten.
- What is wrong with the arguments of the command is found where it arrives, but takes its number like any command and is answered from
  the log: every reply but a refusal means that the number is used up.

RAFTKV.SESSION is answered before the first command leaves: then no retry of a command can open a session that was forgotten in between.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from typing import Final

from raftkv.errors import InvariantBroken
from raftkv.kv.batch import Group
from raftkv.kv.command import Command, Kind, Spec, Write
from raftkv.kv.keyspace import Changes
from raftkv.kv.replies import OK, CommandError, Failure, Reply, fail
from raftkv.kv.sessions import FORGOTTEN, SESSION_BYTES, SessionChanges

NO_SESSION: Final = Failure("NOSESSION", "this session is not known, or no more; the command had no effect")
GAP: Final = Failure("GAP", "the command before this one has not been applied in its session; this one had no effect")
REPLY_LOST: Final = Failure("FORGOTTEN", FORGOTTEN.message)

_NAME: Final = re.compile(rb"[0-9A-Fa-f]{%d}" % (2 * SESSION_BYTES))
_NUMBER: Final = re.compile(rb"0|[1-9][0-9]{0,17}")


class OfSession(Write, frozen=True, array_like=True, gc=False):
    """A command that reads or changes the table of clients' sessions."""

    def apply(self, changes: Changes) -> Reply:
        """Refuse to be part of a transaction, or of another command of a session."""
        fail("commands of sessions cannot be part of another command")

    def apply_in(self, sessions: SessionChanges, execute: Callable[[bytes], Reply]) -> Reply:
        """Change `sessions` and answer; `execute` applies an encoded write, which leaves nothing behind when it fails."""
        raise InvariantBroken(f"{type(self).__name__} has no way to be applied")


class OpenSession(OfSession, frozen=True, array_like=True, gc=False, tag=190):
    """RAFTKV.SESSION. Does nothing to a session that is open."""

    session: bytes

    def apply_in(self, sessions: SessionChanges, execute: Callable[[bytes], Reply]) -> Reply:
        if len(self.session) != SESSION_BYTES:
            return NO_SESSION
        sessions.open(self.session)
        return OK


class Once(OfSession, frozen=True, array_like=True, gc=False, tag=191):
    """RAFTKV.ONCE: apply the command if it is the next of its session, and answer what is kept if it was applied before.

    `command` is an encoded list of one write; or it is empty, and `refusal` is what the write is answered.
    """

    session: bytes
    sequence: int
    floor: int
    command: bytes
    refusal: Failure | None = None

    def apply_in(self, sessions: SessionChanges, execute: Callable[[bytes], Reply]) -> Reply:
        if not sessions.known(self.session):
            return NO_SESSION
        place = Group(0, self.session, self.sequence, self.floor, 1, b"")
        missing = sessions.missing(place)
        if missing == 0:
            reply = execute(self.command) if self.refusal is None else self.refusal
            sessions.applied(place, self.sequence, [reply])
            return reply
        if missing != 1:
            return GAP
        [reply] = sessions.kept(self.session, self.sequence, 1)
        return REPLY_LOST if reply == FORGOTTEN else reply


def _session(arg: bytes) -> bytes:
    if _NAME.fullmatch(arg) is None:
        fail(f"a session is named by {2 * SESSION_BYTES} hexadecimal digits")
    return bytes.fromhex(arg.decode("ascii"))


def _as_text(failure: Failure) -> Failure:
    """`failure` without what is no text, which an error may show of a request, and the log cannot hold."""
    message = failure.message.encode("utf-8", "surrogateescape").decode("utf-8", "replace")
    return Failure(failure.code, message)


def _number(arg: bytes, least: int) -> int:
    if _NUMBER.fullmatch(arg) is None or int(arg) < least:
        fail(f"the number of a command is {least} or more, below 10^18")
    return int(arg)


def specs(parse: Callable[[Sequence[bytes]], Command], encode: Callable[[Sequence[Command]], bytes]) -> tuple[Spec, ...]:
    """What the table says of these commands.

    Args:
        parse: makes a command of a request, as for any client.
        encode: the bytes of commands.
    """

    def parse_once(args: Sequence[bytes]) -> Command:
        session, sequence, floor = _session(args[1]), _number(args[2], 1), _number(args[3], 0)
        try:
            command = parse(args[4:])
            if command.kind is not Kind.WRITE or isinstance(command, OfSession):
                fail("RAFTKV.ONCE is for commands that write")
        except CommandError as error:
            return Once(session, sequence, floor, b"", _as_text(error.failure))
        return Once(session, sequence, floor, encode([command]))

    return (
        Spec(
            name="raftkv.once",
            arity=-5,
            kind=Kind.WRITE,
            parse=parse_once,
            summary="Execute a write once in a session, however often it is asked for",
            group="transactions",
            flags=("write", "denyoom", "noscript"),
        ),
        Spec(
            name="raftkv.session",
            arity=2,
            kind=Kind.WRITE,
            parse=lambda args: OpenSession(_session(args[1])),
            summary="Open a session, in which commands are numbered",
            group="transactions",
            flags=("write", "noscript", "fast"),
        ),
    )


COMMANDS: Final = (OpenSession, Once)
