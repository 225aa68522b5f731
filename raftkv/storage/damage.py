"""A state store that cannot be trusted is set aside, never repaired in place.

The state can be had again: it is the log applied, and every other node has it. So a node whose state is damaged starts with an empty
one, and replays its log or asks for a snapshot. What was damaged stays beside it, in `state.damaged`, for whoever wants to know what
happened: until the next time, and for as long as nothing that the node needs is refused for want of space. Where it cannot be removed
then (a hand has changed its owner, say), it stays, and the next one gets a number: nothing that is only kept ever stops a node.

Damage may be noticed long after the start, when a block is read for the first time. The node then stops, and leaves a note, so that the
next start does not trust the same files again.
"""

from __future__ import annotations

import re

from raftkv.errors import StorageError
from raftkv.storage.disk import Disk, read_file, replace_file

STATE_PATH = "state"
NOTE_PATH = "state/DAMAGED"
ASIDE_PATH = "state.damaged"
_ASIDE = re.compile(re.escape(ASIDE_PATH) + r"(-[0-9]+)?")
_MAX_NOTE_BYTES = 4096


def note_damage(disk: Disk, reason: str) -> None:
    """Let the next start know that the state is damaged, and how.

    Raises:
        StorageError: the note could not be written.
    """
    replace_file(disk, NOTE_PATH, reason.encode()[:_MAX_NOTE_BYTES])


def damage(disk: Disk) -> str | None:
    """What the note says, if there is one."""
    return read_file(disk, NOTE_PATH, _MAX_NOTE_BYTES).decode("utf-8", "replace") if disk.exists(NOTE_PATH) else None


def set_aside(disk: Disk) -> str:
    """Move the state out of the way, durably. Returns where it is: at `ASIDE_PATH`, or beside it where something is left there.

    Raises:
        StorageError: it could not be moved; after a restart it is there or aside.
    """
    taken = aside(disk)
    path, number = ASIDE_PATH, 1
    while path in taken:
        number += 1
        path = f"{ASIDE_PATH}-{number}"
    disk.rename(STATE_PATH, path)
    disk.sync_directory("")
    return path


def aside(disk: Disk) -> list[str]:
    """Where states are that were set aside. One that somebody has given another name is theirs."""
    return [name for name in disk.list("") if _ASIDE.fullmatch(name)]


def give_up_aside(disk: Disk) -> bool:
    """Remove what was set aside, for its space. Returns whether there was anything.

    Raises:
        StorageError: not all of it could be removed; what could be is.
    """
    failure: StorageError | None = None
    paths = aside(disk)
    for path in paths:
        try:
            disk.remove_tree(path)
        except StorageError as error:
            failure = failure or error
    if failure is not None:
        raise failure
    return bool(paths)
