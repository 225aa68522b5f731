"""What to do about what is found on the disk: decision tables, pure, from facts to actions.

`raftkv.storage.replay` gathers the facts and carries the actions out; nothing is decided there. Each table is a total function: the
tests go through every combination of facts.

The rules behind the tables:

1. *One group at a time.* A group is written only after the fsync of the group before it has returned, and a file that is listed in
   the manifest, or an end of a segment that is recorded there, was durable before that. So whatever is bad and has something after
   it is rot. It is never cut off. If it is known which entries are rotten, other nodes are asked for them, and the node takes part
   in nothing until it has them (`raftkv.repair`); else it stops and says what is lost and what to do.
2. *The last group is ambiguous.* It may be torn (its fsync never returned, nobody was told) or rotten (it was acknowledged). It is
   taken for torn only on proof: a sector that was written holds zeroes, which is what it held before, so it never reached the disk.
   The proof rests on one assumption, that a sector of zeroes was never written; every preallocated log rests on it to find its end
   at all. Without proof the group is dropped and the node is *suspect*: it may have promised what it no longer knows.
3. *A seal ends the ambiguity.* An idle or closing writer puts one after the last group, once that is durable. A bad group before a
   seal is rot by rule 1. A bad seal takes nothing with it.
4. *What is seen is not trusted to be on the disk.* After a failed fsync the page cache may show a group that the disk does not
   hold, and no fsync will tell. So the last group, sound but unsealed, is written again in a new segment, and the old segment ends
   before it. A seal is written again in place, as is the last group when the disk is full.
5. *Nothing is made up.* What is missing in a directory that belongs to a node is lost, not new.
6. *What no longer counts may rot.* Records up to the beginning of the log, or overwritten later, are of no use to anybody, as long as
   all that counts is sound and in its place. That a group is in its place is told by its own record and by what follows it.
"""

from __future__ import annotations

import enum

from msgspec import Struct

WAY_BACK = (
    "The way back: do not delete or edit single files. Restore the whole data directory from a copy taken while the node was "
    "stopped and that has missed no write since, or else move the directory away and start the node with an empty one: it then "
    "gets all data from the other nodes, and counts again once it has been replaced as a member"
)
"""What an operator can do about a `Corrupt` that the node cannot repair."""


class Copy(enum.Enum):
    """A small file that is written whole."""

    MISSING = "missing"
    BAD = "bad"
    GOOD = "good"


class CopiesAction(enum.Enum):
    """What to do about the two copies of the identity."""

    NONE = "there is no identity yet"
    USE = "use it"
    REPAIR = "use the sound copy and write the other again"
    CORRUPT = "stop"


def decide_copies(first: Copy, second: Copy, *, differ: bool) -> CopiesAction:
    """Two copies of something that never changes. `differ` says that both are sound and not equal.

    The first is durable before the second is begun, and each appears complete or not at all.
    """
    found = (first, second)
    if found == (Copy.MISSING, Copy.MISSING):
        return CopiesAction.NONE
    if Copy.GOOD not in found:
        return CopiesAction.CORRUPT
    if found != (Copy.GOOD, Copy.GOOD):
        return CopiesAction.REPAIR
    return CopiesAction.CORRUPT if differ else CopiesAction.USE


class SlotsAction(enum.Enum):
    """What to do about the two slots of the hard state."""

    REWRITE = "take the sound slot with the larger sequence number, and write it to both under a new number"
    CORRUPT = "stop"


def decide_slots(first_sound: bool, second_sound: bool, *, contradict: bool) -> SlotsAction:
    """Two slots that are written one after the other. `contradict`: both are sound, with one sequence number and two states.

    Also two equal slots are written again, because rule 4 is true of them too.
    """
    if not first_sound and not second_sound:
        return SlotsAction.CORRUPT
    return SlotsAction.CORRUPT if contradict else SlotsAction.REWRITE


class DirectoryAction(enum.Enum):
    """What to do with a data directory."""

    CREATE = "create the log; what an unfinished creation left is removed"
    OPEN_NEW = "open the log of a node that has not got its identity yet"
    OPEN = "open the log"
    IDENTITY_LOST = "stop: the log has been used and there is no identity"
    MANIFEST_LOST = "stop: there is an identity and no manifest"
    MANIFEST_BAD = "stop: the manifest is damaged"
    HARD_STATE_LOST = "stop: there is an identity or manifest and no hard state"
    HARD_STATE_BAD = "stop: no slot of the hard state is sound"


def decide_directory(*, identity: bool, manifest: Copy, hard_state: Copy, used: bool) -> DirectoryAction:
    """A data directory is created in the order hard state, first segment, manifest, identity, each durable before the next.

    `identity` says that a copy of one exists. `used` says that something was promised here: a term or vote, or anything in a
    segment. Nothing is promised before the identity is durable.
    """
    if not identity and used:
        return DirectoryAction.IDENTITY_LOST
    if not identity and manifest is Copy.MISSING:
        return DirectoryAction.CREATE
    if manifest is Copy.MISSING:
        return DirectoryAction.MANIFEST_LOST
    if manifest is Copy.BAD:
        return DirectoryAction.MANIFEST_BAD
    if hard_state is Copy.MISSING:
        return DirectoryAction.HARD_STATE_LOST
    if hard_state is Copy.BAD:
        return DirectoryAction.HARD_STATE_BAD
    return DirectoryAction.OPEN if identity else DirectoryAction.OPEN_NEW


class HeaderFound(enum.Enum):
    """The header of a segment that the manifest lists."""

    SOUND = "sound, and what the manifest and the segment before it say"
    ILLEGIBLE = "does not match its checksum"
    OTHER_VERSION = "sound, of a format version that this program does not know"
    MISMATCH = "sound, of another segment, group or place in the log"


class SegmentAction(enum.Enum):
    """What to do with a segment that the manifest lists."""

    READ = "read it"
    MISSING = "stop: the file is not there"
    SHORT = "stop: the file is shorter than what was written to it"
    ILLEGIBLE = "stop: its header is damaged"
    OTHER_VERSION = "stop: a newer program wrote it"
    MISMATCH = "stop: it is another file than the one that was listed"


def decide_segment(*, exists: bool, long_enough: bool, header: HeaderFound) -> SegmentAction:
    """A listed segment was durable, with its full length and its header, before the manifest listed it."""
    if not exists:
        return SegmentAction.MISSING
    match header:
        case HeaderFound.ILLEGIBLE:
            return SegmentAction.ILLEGIBLE if long_enough else SegmentAction.SHORT
        case HeaderFound.OTHER_VERSION:
            return SegmentAction.OTHER_VERSION
        case HeaderFound.MISMATCH:
            return SegmentAction.MISMATCH
        case HeaderFound.SOUND:
            return SegmentAction.READ if long_enough else SegmentAction.SHORT


class UnlistedFacts(Struct, frozen=True):
    """A segment file that the manifest does not list.

    `older` than the newest listed one; `blank`: nothing but zeroes after its header; `copy`: a sound header says that the segment
    was begun with a copy of a group in an older segment; `beyond`: it holds another group than that, or has no sound header.
    """

    older: bool
    blank: bool
    copy: bool
    beyond: bool


class UnlistedAction(enum.Enum):
    """What to do with such a file."""

    REMOVE = "remove it: it holds nothing that is not elsewhere or given up"
    CORRUPT = "stop: the manifest is older than the file"


def decide_unlisted(facts: UnlistedFacts) -> UnlistedAction:
    """An older file was forgotten by a compaction that did not come to removing it. A newer one was created and not yet listed:
    then it is blank, or it holds a copy of the last group (rule 4), because groups go only into listed segments. (The group itself
    may be gone: it was seen, and not durable.) Anything else shows that the manifest went back in time."""
    if facts.older or facts.blank:
        return UnlistedAction.REMOVE
    if facts.copy and not facts.beyond:
        return UnlistedAction.REMOVE
    return UnlistedAction.CORRUPT


class RotFacts(Struct, frozen=True):
    """A group whose record is sound, belongs where it is, and has a bad body.

    `checksum_known`: what stands right after it tells its checksum: the record of the next group, its seal, or the recorded end of
    the segment. `accounted`: it is known which entry each of its records is. `reset`: a rotten record is a reset, which other nodes
    do not have. `counts`: a rotten record is of an entry that is part of the log: after its beginning, and not overwritten later.
    """

    checksum_known: bool
    accounted: bool
    reset: bool
    counts: bool


class RotAction(enum.Enum):
    """What to do about such a group."""

    NOTE = "go on behind it: nothing that counts is rotten"
    REPAIR = "ask the other nodes for the entries, and write the group again at its place"
    CORRUPT = "judge it as the end of what can be read"


def decide_rot(facts: RotFacts) -> RotAction:
    """Whether a bad group can be passed over. Whether it counts matters last: that is known only when all of the log has been read.

    Without the checksum nobody could tell whether the group that is written again is the one that was written, nor that this one was
    ever durable.
    """
    if not facts.checksum_known or not facts.accounted or facts.reset:
        return RotAction.CORRUPT
    return RotAction.REPAIR if facts.counts else RotAction.NOTE


class Next(enum.Enum):
    """What stands in the open segment where the group after the last sound group or seal would begin."""

    ZERO = "64 zero bytes, or the end of the segment"
    ILLEGIBLE = "bytes that are no group record"
    GROUP = "a sound group record of the next group, and a bad body"
    FOREIGN = "a sound group record that does not belong here: another number, or it chains to another group"


class Beyond(enum.Enum):
    """What comes after that: after the group's end if its record is sound, else after the 64 bytes."""

    ZERO = "zeroes to the end of the segment"
    BYTES = "bytes, but no sound record of a later group"
    GROUP = "a sound record of a later group, or a seal"


class TailFacts(Struct, frozen=True):
    """How the open segment ends.

    `missing_piece`: a sector's share of the bad group that was not written as zeroes holds zeroes; if its record is zeroes or
    illegible, that from there to the end of the sector there are only zeroes. `sealed`: the last sound thing is a seal, or the
    segment holds no group. `vouched`: the manifest vouches for an entry after the last sound one (the log was compacted up to
    there, so it was durable).
    """

    next: Next
    beyond: Beyond
    missing_piece: bool
    sealed: bool
    vouched: bool


class TailAction(enum.Enum):
    """What to do about the end of the open segment."""

    APPEND = "all is sound and sealed: write the seal again, go on after it"
    REWRITE = "all is sound and not sealed: write the last group again in a new segment, end this one before it"
    DROP = "what follows was never acknowledged: end this segment before it, go on in a new one"
    SUSPECT = "what follows may have been acknowledged: end this segment before it, go on in a new one, as suspect"
    CORRUPT = "stop: what is bad was acknowledged"


def decide_tail(facts: TailFacts) -> TailAction:
    """The end of the log. See the rules at the top."""
    if facts.vouched or facts.next is Next.FOREIGN or facts.beyond is Beyond.GROUP:
        return TailAction.CORRUPT
    match facts.next, facts.beyond:
        case Next.ZERO, Beyond.ZERO:
            return TailAction.APPEND if facts.sealed else TailAction.REWRITE
        case Next.ILLEGIBLE, Beyond.ZERO:
            # A group would have left bytes after its record, so this was a seal, or a group most of which never reached the disk.
            return TailAction.DROP
        case Next.GROUP, Beyond.BYTES:
            return TailAction.CORRUPT  # something was begun after it, so its fsync had returned
        case Next.ILLEGIBLE, _:
            return TailAction.SUSPECT
        case _:
            return TailAction.DROP if facts.missing_piece else TailAction.SUSPECT
