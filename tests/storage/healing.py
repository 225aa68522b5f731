"""Repairing a log with the entries of a model of it, as if another node had sent them."""

from __future__ import annotations

from raftkv.raft.types import Entry, EntryId
from raftkv.sim.disk import SimDisk
from raftkv.storage.rotten import RottenEntry, RottenLog
from raftkv.storage.wal import WalSettings
from tests.storage.log_model import SMALL, LogModel


def answers(log: RottenLog, model: LogModel) -> dict[RottenEntry, Entry]:
    """What a node whose log is `model` has for the rotten entries of `log`: those of their terms, or whose anchors it holds."""
    found: dict[RottenEntry, Entry] = {}
    for rotten in log.needed:
        known = rotten.anchor if rotten.term is None else EntryId(rotten.index, rotten.term)
        if rotten.index > model.begin.index and model.term_at(known.index) == known.term:
            found[rotten] = model.entries[rotten.index - model.begin.index - 1]
    return found


def heal(disk: SimDisk, model: LogModel, settings: WalSettings = SMALL) -> None:
    """Make the rotten log on `disk` whole."""
    log = RottenLog.open(disk, settings)
    found = answers(log, model)
    assert all(log.accepts(rotten, entry) for rotten, entry in found.items())
    assert log.mend(found) == []
    assert log.needed == ()
    log.close()
