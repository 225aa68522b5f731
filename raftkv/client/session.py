"""The session of one connection: the numbers that make a write that is asked for again happen once.

The session belongs to a place in the client's pool, not to a socket: it outlives the connection, and goes on at another node. What
always holds: a number means one command. It is given to another only when every node that was asked for it has said that the command had
no effect; a command whose outcome stays open takes its session with it, and the next write begins another. A name is asked to be opened
once, so nothing brings back a session that the nodes have forgotten.
"""

from __future__ import annotations

from collections.abc import Callable

from raftkv.client.replies import encode_request

SESSION_BYTES = 16


class Session:
    """Numbers for writes. `opened` says whether a node has confirmed that the session is there.

    Args:
        draw: returns that many random bytes.
    """

    def __init__(self, draw: Callable[[int], bytes]) -> None:
        self._draw = draw
        self.opened = False
        self._name = b""
        self._next = 1
        self.renew()

    @property
    def name(self) -> bytes:
        """What nodes know it by: 32 hexadecimal digits."""
        return self._name

    def renew(self) -> None:
        """Leave the session behind, with everything that may still happen in it; the next one has not been opened."""
        self._name = self._draw(SESSION_BYTES).hex().encode()
        self.opened = False
        self._next = 1

    def number(self) -> int:
        """The number for the next command."""
        number = self._next
        self._next += 1
        return number

    def give_back(self, number: int) -> None:
        """`number` and those above it surely did not happen, and never will."""
        self._next = min(self._next, number)

    def opening(self) -> bytes:
        """The request that opens the session."""
        return encode_request((b"RAFTKV.SESSION", self._name))

    def once(self, number: int, floor: int, args: tuple[bytes, ...]) -> bytes:
        """The request for a command.

        Args:
            number: its number.
            floor: the replies to the numbers up to this one have arrived.
            args: its name and arguments.
        """
        return encode_request((b"RAFTKV.ONCE", self._name, b"%d" % number, b"%d" % floor, *args))
