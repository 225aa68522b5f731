"""A connection to one node, for the commands that ask one something: blocking, small, every wait bounded.

It speaks RESP2, sends what it is told and returns what it is answered. It knows no cluster, retries nothing and hides no error: a
program that stores data uses a client library.
"""

from __future__ import annotations

import socket
from types import TracebackType

import hiredis

Argument = str | bytes | int
Answer = None | int | bytes | str | list["Answer"]
"""What a node answers; an error reply is raised by `call` and returned by `pipeline`."""


class ErrorReply(Exception):
    """The node answered with an error. `code` is its first word, such as CLUSTERDOWN."""

    @property
    def code(self) -> str:
        """The first word of the reply."""
        return str(self).partition(" ")[0]


class Unreachable(Exception):
    """No answer came: the node does not listen, closed the connection, took too long or did not speak RESP. What was asked for may
    have happened all the same, if it had been sent."""


class Connection:
    """One connection; a context manager.

    Args:
        address: ``host:port`` of a node's client port.
        timeout_s: how long one step (to connect, one receive) may take.

    Raises:
        Unreachable: the connection could not be opened.
    """

    def __init__(self, address: str, *, timeout_s: float = 5.0) -> None:
        self.address = address
        host, _, port = address.rpartition(":")
        try:
            self._socket = socket.create_connection((host.strip("[]"), int(port)), timeout=timeout_s)
            self._socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        except (OSError, ValueError, OverflowError) as error:
            raise Unreachable(f"{address}: {error}") from error
        self._reader = hiredis.Reader(replyError=ErrorReply)

    def __enter__(self) -> Connection:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self.close()

    def close(self) -> None:
        """Close the connection; it may be closed already."""
        self._socket.close()

    def call(self, *arguments: Argument) -> Answer:
        """Send one command and wait for its answer.

        Raises:
            ErrorReply: the node refused it.
            Unreachable: no answer came, and whether the command happened is not known.
        """
        [answer] = self.pipeline([arguments])
        if isinstance(answer, ErrorReply):
            raise answer
        return answer

    def pipeline(self, commands: list[tuple[Argument, ...]]) -> list[Answer | ErrorReply]:
        """Send all of `commands` at once and wait for all answers, in order; error replies are among them as values.

        Raises:
            Unreachable: not all answers came.
        """
        try:
            self._socket.sendall(b"".join(map(_encode, commands)))
            return [self._receive() for _ in commands]
        except (OSError, hiredis.ProtocolError, TypeError, MemoryError) as error:  # the last two: maps of no value, impossible lengths
            self.close()
            raise Unreachable(f"{self.address}: {error or type(error).__name__}") from error

    def _receive(self) -> Answer | ErrorReply:
        while True:
            answer: Answer | ErrorReply | bool = self._reader.gets()
            if not isinstance(answer, bool):
                return answer
            data = self._socket.recv(1 << 16)
            if not data:
                raise ConnectionResetError("the node closed the connection")
            self._reader.feed(data)


def _encode(command: tuple[Argument, ...]) -> bytes:
    """A request: an array of bulk strings."""
    parts = [part if isinstance(part, bytes) else str(part).encode() for part in command]
    return b"*%d\r\n" % len(parts) + b"".join(b"$%d\r\n%b\r\n" % (len(part), part) for part in parts)
