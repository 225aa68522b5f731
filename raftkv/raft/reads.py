"""Linearizable reads without the log: ReadIndex rounds, and leases.

A *round* is a broadcast of heartbeats with a number. When a quorum has answered round r, this node led at the time when r began: no
other leader had committed anything by then (thesis, section 6.4). Every read that was asked for before r began is therefore
linearizable at the commit index that r began with, once that is applied; all such reads share the round. Numbers only grow within a
term, and a new term begins with a new object, so an answer can never be taken for that to another round.

The lease: until `lease_ticks` after the *beginning* of the newest confirmed round no other leader can exist, because a quorum promised
then not to vote for an election timeout. It holds only while clocks drift less than the bound, so it is used only when the replicated
configuration says so, and it is given up for the rest of the term when leadership is handed over.
"""

from __future__ import annotations

from collections import deque

from raftkv.raft.types import Index


class Round:
    """One broadcast: when it began, the commit index then, and the reads that it serves."""

    __slots__ = ("began", "contexts", "index", "number")

    def __init__(self, number: int, began: int, index: Index, contexts: list[int]) -> None:
        self.number = number
        self.began = began
        self.index = index
        self.contexts = contexts


class Reads:
    """The reads of one leader in one term.

    Args:
        lease_ticks: how long a confirmed round lets this node read without another.
    """

    def __init__(self, lease_ticks: int) -> None:
        self.newest = 0
        """The number of the newest round."""
        self._lease_ticks = lease_ticks
        self._lease_until = -1
        self._lease_given_up = False
        self._waiting: list[int] = []
        self._rounds: deque[Round] = deque()

    @property
    def waiting(self) -> bool:
        """Whether reads wait for a round to begin."""
        return bool(self._waiting)

    @property
    def serving(self) -> bool:
        """Whether a round that serves reads is not confirmed yet."""
        return any(round_.contexts for round_ in self._rounds)

    def ask(self, context: int) -> None:
        """A read wants to be served by the next round."""
        self._waiting.append(context)

    def begin(self, tick: int, committed: Index, may_serve: bool) -> int:
        """A new round begins. It serves every read that waits, if the leader has committed in its own term.

        Returns:
            The number of the round.
        """
        self.newest += 1
        contexts: list[int] = []
        if may_serve:
            contexts, self._waiting = self._waiting, contexts
        self._rounds.append(Round(self.newest, tick, committed, contexts))
        return self.newest

    def confirmed(self, number: int) -> list[Round]:
        """A quorum has answered round `number`: the rounds up to it, with their reads."""
        done: list[Round] = []
        while self._rounds and self._rounds[0].number <= number:
            done.append(self._rounds.popleft())
        if done:
            self._lease_until = done[-1].began + self._lease_ticks
        return done

    def has_lease(self, tick: int) -> bool:
        """Whether no other leader can exist at `tick`."""
        return not self._lease_given_up and tick < self._lease_until

    def give_up_lease(self) -> None:
        """Leadership may pass to another node with this node's consent: the promise of the others is void."""
        self._lease_given_up = True
