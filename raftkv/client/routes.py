"""Which node to ask: the leader when it is known, else one of the list after the other; none that failed just now while there are others.

Every node serves every request, so nothing here can make an answer wrong; it only makes answers come sooner.
"""

from __future__ import annotations

from typing import Final

from raftkv.client.url import Address

AVOID_S: Final = 1.0
"""How long a node that failed is left alone while there are others."""
FIRST_PAUSE_S: Final = 0.01
LONGEST_PAUSE_S: Final = 0.32


class Routes:
    """The nodes of a cluster, as one client knows them. Times are of a monotonic clock, in seconds.

    Args:
        addresses: the nodes that the client was told; at least one.
        start: which of them to begin with, so that many clients do not all begin with the same.
    """

    def __init__(self, addresses: tuple[Address, ...], start: int = 0) -> None:
        self._addresses = addresses
        self._turn = start % len(addresses)
        self._leader: Address | None = None
        self._failed_s: dict[Address, float] = {}

    @property
    def leader(self) -> Address | None:
        """The node that was said to lead, unless it has failed since."""
        return self._leader

    def pick(self, now_s: float) -> Address:
        """The node to connect to."""
        if self._leader is not None:
            return self._leader
        count = len(self._addresses)
        inorder = [self._addresses[(self._turn + step) % count] for step in range(count)]
        for address in inorder:
            if not self._avoided(address, now_s):
                return address
        return min(inorder, key=lambda address: self._failed_s[address])

    def worth_following(self, leader: Address, now_s: float) -> bool:
        """A node that does not lead has named `leader`: whether to go there."""
        return not self._avoided(leader, now_s)

    def leads(self, address: Address) -> None:
        """`address` has said that it leads."""
        self._leader = address
        self._failed_s.pop(address, None)

    def serves(self, address: Address) -> None:
        """`address` has answered, and does not lead."""
        self._failed_s.pop(address, None)
        if self._leader == address:
            self._leader = None

    def failed(self, address: Address, now_s: float) -> None:
        """`address` cannot be reached, or does not serve."""
        self._failed_s[address] = now_s
        if self._leader == address:
            self._leader = None
        if self._addresses[self._turn] == address:
            self._turn = (self._turn + 1) % len(self._addresses)

    def pause_s(self, failures: int, share: float) -> float:
        """How long to wait after that many failures in a row: not at all before every node had its turn, then longer each time.

        Args:
            failures: how many attempts of one call have failed so far.
            share: a random number from 0 to 1, so that clients that failed together do not come back together.
        """
        rounds = failures - len(self._addresses)
        if rounds < 0:
            return 0.0
        return min(LONGEST_PAUSE_S, FIRST_PAUSE_S * 2.0 ** min(rounds, 16)) * (0.5 + share / 2)

    def _avoided(self, address: Address, now_s: float) -> bool:
        failed_s = self._failed_s.get(address)
        return failed_s is not None and now_s - failed_s < AVOID_S
