"""What the simulated disk keeps when several changes of one name are pending in two directories."""

from __future__ import annotations

import random

from raftkv.sim.disk import SimDisk, Survival


def test_a_rename_is_not_undone_by_an_older_removal_of_its_target() -> None:
    """When a directory is synced, a rename out of it is durable together with what was done to the new name before."""
    disk = SimDisk(random.Random(1))
    disk.mkdir("to")
    disk.mkdir("to/name")
    disk.mkdir("from")
    disk.mkdir("from/name")
    for path in ("", "to", "from"):
        disk.sync_directory(path)
    disk.remove_tree("to/name")
    disk.rename("from/name", "to/name")
    disk.sync_directory("from")
    disk.sync_directory("to")
    disk.crash(Survival.LOST)
    assert disk.list("to") == ["name"]
    assert disk.list("from") == []
