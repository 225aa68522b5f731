"""Repairing a log with the entries of a model of it, as if another node had sent them."""

from __future__ import annotations

from raftkv.raft.types import Entry
from raftkv.sim.disk import SimDisk
from raftkv.storage.rotten import RottenEntry, RottenLog
from raftkv.storage.wal import WalSettings
from tests.storage.log_model import SMALL, LogModel


def answers(log: RottenLog, model: LogModel) -> dict[RottenEntry, Entry]:
    """What a node whose log is `model` has for the rotten entries of `log`: those whose anchors it holds."""
    found: dict[RottenEntry, Entry] = {}
    for rotten in log.needed:
        position = rotten.index - model.begin.index - 1
        if position >= 0 and model.term_at(rotten.anchor.index) == rotten.anchor.term:
            found[rotten] = model.entries[position]
    return found


def heal(disk: SimDisk, model: LogModel, settings: WalSettings = SMALL) -> None:
    """Make the rotten log on `disk` whole."""
    log = RottenLog.open(disk, settings)
    found = answers(log, model)
    assert all(log.accepts(rotten, entry) for rotten, entry in found.items())
    assert log.mend(found) == []
    assert log.needed == ()
    log.close()
