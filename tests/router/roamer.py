"""A client library of the abstract cluster: it asks whichever node it likes, and the same again until it knows.

It increments a counter of its own by commands of its session. What is answered must be the number of the command, whatever nodes were
asked and however often; and the counter must end at what was answered, or one more when an outcome is open.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable

from raftkv.kv.replies import OK, Failure, Reply

_UNKNOWN = ("UNCERTAIN", "CLUSTERDOWN", "OVERLOADED")


class Line:
    """One connection of the client, and the numbers whose answers it waits for."""

    def __init__(self, roamer: Roamer) -> None:
        self._roamer = roamer
        self._waiting: deque[int] = deque()

    def request(self, sequence: int) -> list[list[bytes]]:
        """The request for a number."""
        self._waiting.append(sequence)
        return [self._roamer.request(sequence)]

    def answered(self, replies: list[Reply]) -> None:
        """The next replies have come."""
        for reply in replies:
            self._roamer.heard(self._waiting.popleft(), reply)


class Roamer:
    """The client. `sequence` is the number that it wants to know the outcome of; 0 opens the session."""

    def __init__(self, number: int) -> None:
        self.id = -number
        """The number of its connection, at every node."""
        self.name = f"{number:032x}"
        self.key = f"roam:{number}"
        self.sequence = 0
        self.retried = 0
        self.wrong: list[str] = []
        self._asked: set[int] = set()

    def line(self) -> Line:
        """Another connection."""
        return Line(self)

    def request(self, sequence: int) -> list[bytes]:
        """What asks for the command with a number."""
        if sequence == 0:
            return f"RAFTKV.SESSION {self.name}".encode().split()
        self.retried += sequence in self._asked
        self._asked.add(sequence)
        return f"RAFTKV.ONCE {self.name} {sequence} {sequence - 1} INCR {self.key}".encode().split()

    def heard(self, sequence: int, reply: Reply) -> None:
        """An answer, perhaps to something that has been answered elsewhere long ago."""
        if isinstance(reply, Failure) and reply.code in _UNKNOWN:
            return
        if isinstance(reply, Failure) and reply.code == "FORGOTTEN" and sequence < self.sequence:
            return
        if reply != (sequence or OK):
            self.wrong.append(f"command {sequence} on {self.key} was answered {reply!r}")
        self.sequence = max(self.sequence, sequence + 1)

    def complaints(self, final: Callable[[str], int]) -> list[str]:
        """What is wrong in the end."""
        known = max(self.sequence - 1, 0)
        possible = known + (self.sequence in self._asked)
        found = list(self.wrong)
        if not known <= final(self.key) <= possible:
            found.append(f"{self.key} is {final(self.key)} in the end; {known} commands were answered and {possible} possible")
        return found
