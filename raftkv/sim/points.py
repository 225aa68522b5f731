"""The failure points: every place on the disk in the middle of which a node can die, by name.

A point is a kind of operation on a class of files ("rename of manifest"). The table holds all that the product has, so one that no
storm has reached is seen as such. Each point says under which circumstances it is reached at all (`Needs`): a storm that aims at it
sees to them.

Not in the table, because the model of the state store has one file where RocksDB has many: a file of an older snapshot that is taken
over for a newer one.
"""

from __future__ import annotations

import enum
import functools
import re
from typing import Final

from msgspec import Struct

from raftkv.storage.hard_state import SLOT_BYTES


class Needs(enum.Enum):
    """What must happen for a point to be reached."""

    NOTHING = "any write of a client"
    CREATION = "a directory that is new"
    AGAIN = "a directory that is new, and what a crash has left in it"
    ELECTIONS = "elections, or restarts"
    COMPACTION = "a log that is cut"
    ROTATION = "a segment that is full"
    SNAPSHOT = "a snapshot that is sent"
    LAGGING = "a snapshot that takes the place of a state"
    ROT_STATE = "a state store that has rotted"
    ROT_STAGED = "a snapshot that has rotted on its way"


class Point(Struct, frozen=True):
    """One point of the table. `before` is where the process has to die for its next life to come to this point at all."""

    name: str
    needs: Needs
    before: str = ""


_REPLACED: Final = ("create", "preallocate", "write", "sync", "rename")
"""The steps of `replace_file`, but for the sync of the directory."""

_TABLE: Final[dict[str, tuple[tuple[str, ...], Needs]]] = {
    "hard state": (("create", "preallocate"), Needs.CREATION),
    "hard state slot 1": (("write", "sync"), Needs.ELECTIONS),
    "hard state slot 2": (("write", "sync"), Needs.ELECTIONS),
    "unfinished hard state": (("unlink",), Needs.AGAIN),
    "log directory": (("mkdir",), Needs.CREATION),
    "unfinished log directory": (("rmdir",), Needs.AGAIN),
    "data directory": (("sync_directory",), Needs.CREATION),
    "identity": (_REPLACED, Needs.CREATION),
    "identity left over": (("unlink",), Needs.AGAIN),
    "segment": (("create", "preallocate", "sync", "unlink"), Needs.COMPACTION),
    "full segment": (("truncate",), Needs.ROTATION),
    "spare segment, begun": (("write", "rename"), Needs.ROTATION),
    "segment header": (("write",), Needs.COMPACTION),
    "segment group": (("write",), Needs.NOTHING),
    "spare segment": (("create", "preallocate", "sync", "unlink"), Needs.COMPACTION),
    "log names": (("sync_directory",), Needs.COMPACTION),
    "manifest": (_REPLACED, Needs.COMPACTION),
    "manifest left over": (("unlink",), Needs.AGAIN),
    "state directory": (("mkdir", "sync_directory"), Needs.CREATION),
    "state switch": (_REPLACED, Needs.SNAPSHOT),
    "state switch left over": (("unlink",), Needs.AGAIN),
    "generation": (("mkdir",), Needs.SNAPSHOT),
    "installed generation": (("rename", "rmdir"), Needs.SNAPSHOT),
    "rows": (_REPLACED, Needs.COMPACTION),
    "rows of old generation": (("unlink",), Needs.LAGGING),
    "generation names": (("sync_directory",), Needs.COMPACTION),
    "damaged state": (("rename", "rmdir"), Needs.ROT_STATE),
    "files of damaged state": (("unlink",), Needs.ROT_STATE),
    "checkpoint": (("mkdir", "sync_directory", "rmdir"), Needs.SNAPSHOT),
    "checkpoint rows": ((*_REPLACED, "unlink"), Needs.SNAPSHOT),
    "staging": (("mkdir", "sync_directory", "rmdir"), Needs.SNAPSHOT),
    "offer": ((*_REPLACED, "unlink"), Needs.SNAPSHOT),
    "progress": (("create", "write", "unlink"), Needs.SNAPSHOT),
    "staged data": (("mkdir", "sync_directory"), Needs.SNAPSHOT),
    "staged data left over": (("rmdir",), Needs.ROT_STAGED),
    "staged file": (("create", "write", "sync"), Needs.SNAPSHOT),
    "rotten staged file": (("truncate",), Needs.ROT_STAGED),
    "staged file left over": (("unlink",), Needs.ROT_STAGED),
}

_BEFORE: Final = {
    "unfinished hard state": "sync of hard state slot 1",
    "unfinished log directory": "sync of hard state slot 1",
    "identity left over": "sync of identity",
    "manifest left over": "sync of manifest",
    "state switch left over": "sync of state switch",
}

POINTS: Final[dict[str, Point]] = {
    f"{kind} of {what}": Point(f"{kind} of {what}", needs, _BEFORE.get(what, ""))
    for what, (kinds, needs) in _TABLE.items()
    for kind in kinds
}
"""All points by name."""

_PLACES: Final[tuple[tuple[re.Pattern[str], str], ...]] = tuple(
    (re.compile(pattern), what)
    for pattern, what in (
        (r"wal/\d+\.log", "segment"),
        (r"hard_state", "hard state"),
        (r"state/gen-\d+/ROWS(\.new)?", "rows"),
        (r"wal/manifest(\.new)?", "manifest"),
        (r"wal/spare", "spare segment"),
        (r"wal", "log names"),
        (r"identity\.[12](\.new)?", "identity"),
        (r"", "data directory"),
        (r"state", "state directory"),
        (r"state/CURRENT(\.new)?", "state switch"),
        (r"state/gen-\d+", "generation"),
        (r"state/snap-[^/]+/ROWS(\.new)?", "checkpoint rows"),
        (r"state/snap-[^/]+", "checkpoint"),
        (r"state/part-[^/]+/OFFER(\.new)?", "offer"),
        (r"state/part-[^/]+/PROGRESS", "progress"),
        (r"state/part-[^/]+/data/[^/]+", "staged file"),
        (r"state/part-[^/]+/data", "staged data"),
        (r"state/part-[^/]+", "staging"),
        (r"state\.damaged(-\d+)?", "damaged state"),
        (r"state\.damaged(-\d+)?/[^/]+", "directories of damaged state"),
        (r"state\.damaged(-\d+)?/.*", "files of damaged state"),
    )
)

_SPECIAL: Final[dict[tuple[str, str], str]] = {
    ("unlink", "hard state"): "unfinished hard state",
    ("truncate", "segment"): "full segment",
    ("rename", "segment"): "spare segment, begun",
    ("write", "spare segment"): "spare segment, begun",
    ("mkdir", "log names"): "log directory",
    ("rmdir", "log names"): "unfinished log directory",
    ("unlink", "identity"): "identity left over",
    ("unlink", "manifest"): "manifest left over",
    ("unlink", "state switch"): "state switch left over",
    ("unlink", "rows"): "rows of old generation",
    ("rename", "generation"): "installed generation",
    ("rmdir", "generation"): "installed generation",
    ("sync_directory", "generation"): "generation names",
    ("rmdir", "staged data"): "staged data left over",
    ("truncate", "staged file"): "rotten staged file",
    ("unlink", "staged file"): "staged file left over",
    ("rmdir", "directories of damaged state"): "damaged state",
    ("unlink", "directories of damaged state"): "files of damaged state",
}
"""Where the same place means something else for a kind of operation."""


@functools.lru_cache(4_096)
def _place(path: str) -> str:
    return next((what for pattern, what in _PLACES if pattern.fullmatch(path)), path)


def point_of(kind: str, path: str, offset: int) -> str:
    """The point that an operation is."""
    what = _place(path)
    if what == "hard state" and kind in ("write", "sync"):
        what = "hard state slot 1" if offset < SLOT_BYTES else "hard state slot 2"
    elif what == "segment" and kind == "write":
        what = "segment group" if offset else "segment header"
    else:
        what = _SPECIAL.get((kind, what), what)
    return f"{kind} of {what}"
