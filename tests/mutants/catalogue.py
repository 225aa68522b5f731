"""All planted faults, in one list; `python -m tests.mutants` runs them."""

from __future__ import annotations

from tests.mutants import cluster, core, parts, transactions
from tests.mutants.mutant import Mutant
from tests.mutants.rules import RULES

_ORDER = {row: place for place, row in enumerate(RULES)}

MUTANTS: list[Mutant] = sorted(
    [*core.MUTANTS, *cluster.SHELF.mutants, *parts.MUTANTS, *transactions.SHELF.mutants], key=lambda mutant: _ORDER[mutant.rows[0]]
)


def named(name: str) -> Mutant:
    """The mutant of that name."""
    return next(mutant for mutant in MUTANTS if mutant.name == name)
