"""What must hold between the nodes of an exploration, and what has to be remembered of the past to say so (Raft paper, figure 3).

`History` is part of an explored state: who led which term, and what is known to be committed. It only grows, and outlives crashes.
"""

from __future__ import annotations

from collections.abc import Sequence

from msgspec import Struct

from raftkv.raft.quorum import majority
from raftkv.raft.types import Entry, NodeId, Term
from raftkv.sim.core_node import Elected, Facts, News
from raftkv.sim.trace import Violation


class Reign(Struct, frozen=True):
    """Who was elected in `term`, and the log that it was elected with."""

    term: Term
    node: NodeId
    log: tuple[Entry, ...]


class Fixed(Struct, frozen=True):
    """A committed entry, and the term in which that was first known."""

    entry: Entry
    seen: Term


class History(Struct, frozen=True):
    """What has happened."""

    reigns: tuple[Reign, ...] = ()
    committed: tuple[Fixed, ...] = ()


def learnt(history: History, node: NodeId, news: News) -> History:
    """The history after `node` has told of `news`.

    Raises:
        Violation: the two contradict each other.
    """
    if isinstance(news, Elected):
        reign = Reign(news.term, node, news.log)
        for other in history.reigns:
            if other.term == reign.term and other.node != node:
                raise Violation("election safety", f"{other.node} and {node} were both elected in term {reign.term}")
        for fixed in history.committed:
            _check_complete(reign, fixed)
        reigns = {other.term: other for other in (*history.reigns, reign)}
        return History(tuple(reigns[term] for term in sorted(reigns)), history.committed)
    committed = list(history.committed)
    for entry in news.entries:
        known = committed[entry.index - 1].entry if entry.index <= len(committed) else None
        if known is None:
            fixed = Fixed(entry, news.term)
            for reign in history.reigns:
                _check_complete(reign, fixed)
            committed.append(fixed)
        elif known != entry:
            raise Violation("state machine safety", f"{node} commits {entry.id}, and {known.id} was committed there")
    return History(history.reigns, tuple(committed))


def _check_complete(reign: Reign, fixed: Fixed) -> None:
    entry = fixed.entry
    if fixed.seen < reign.term and reign.log[entry.index - 1 : entry.index] != (entry,):
        raise Violation(
            "leader completeness", f"{reign.node} was elected in term {reign.term} without {entry.id}, committed in term {fixed.seen}"
        )


def check_together(nodes: Sequence[NodeId], facts: Sequence[Facts]) -> None:
    """Compare the logs of all nodes.

    Raises:
        Violation: they cannot be the logs of one cluster.
    """
    for at, one in enumerate(facts):
        for other_at in range(at + 1, len(facts)):
            _check_matching(nodes[at], one.log, nodes[other_at], facts[other_at].log)
        if one.committed:
            entry = one.log[one.committed - 1]
            copies = sum(other.durable[entry.index - 1 : entry.index] == (entry,) for other in facts)
            if copies < majority(len(facts)):
                raise Violation("commit has a quorum", f"{nodes[at]} takes {entry.id} for committed; it is durable at {copies} nodes")


def _check_matching(one: NodeId, log: tuple[Entry, ...], other: NodeId, other_log: tuple[Entry, ...]) -> None:
    for last in range(min(len(log), len(other_log)), 0, -1):
        if log[last - 1].term == other_log[last - 1].term:
            if log[:last] != other_log[:last]:
                raise Violation("log matching", f"{one} and {other} both hold {log[last - 1].id} and differ before it")
            return
