"""What the clients of a simulated cluster do in transactions: money goes from one account to another, and is counted.

A transfer reads two accounts that it watches, and in a later pipeline writes both, in a transaction. Half of them watch a key besides that
others set, delete and let expire. All accounts together hold nothing, at any moment; a look at all of them in a transaction shows it.

Each transaction ends with a DEL of a *tag*, a key that never exists, by which the model knows it.
"""

from __future__ import annotations

import random
from collections.abc import Sequence
from typing import Final

from raftkv.kv.replies import Reply

ACCOUNTS: Final = (b"account:0", b"account:1", b"account:2")

Arguments = list[bytes]


class Transfer:
    """One transfer, from its first read to its EXEC. `ready` says that both balances are known."""

    __slots__ = ("_amount", "_balances", "_giver", "_taker", "_watched")

    def __init__(self, rng: random.Random, keys: int) -> None:
        self._giver, self._taker = rng.sample(ACCOUNTS, 2)
        self._amount = rng.randint(1, 99)
        self._watched = [self._giver, self._taker]
        if rng.random() < 0.5:
            self._watched.append(b"key:%d" % rng.randrange(keys))
        self._balances: dict[bytes, int] = {}

    def preparations(self) -> list[Arguments]:
        """What to ask first: nothing watched before counts, and the last two are reads."""
        return [[b"UNWATCH"], [b"WATCH", *self._watched], [b"GET", self._giver], [b"GET", self._taker]]

    def read(self, account: bytes, balance: Reply) -> None:
        """An account holds this."""
        self._balances[account] = int(balance) if isinstance(balance, bytes) else 0

    @property
    def ready(self) -> bool:
        """Whether it can be made."""
        return len(self._balances) == 2

    def changes(self) -> list[Arguments]:
        """What to do in the transaction."""
        return [
            [b"SET", self._giver, b"%d" % (self._balances[self._giver] - self._amount)],
            [b"SET", self._taker, b"%d" % (self._balances[self._taker] + self._amount)],
        ]


def look() -> list[Arguments]:
    """What to do in a transaction that looks at all accounts."""
    return [[b"GET", account] for account in ACCOUNTS]


def together(balances: Sequence[Reply]) -> int:
    """What these accounts hold."""
    return sum(int(balance) for balance in balances if isinstance(balance, bytes))
