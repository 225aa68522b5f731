"""Term and vote: two slots in one file, each with a sequence number and a CRC.

A change is written to one slot, synced, written to the other, synced; only then may anybody be told. So whatever happens to one
slot, the other holds every state that was ever revealed:

- a crash during the first write leaves the state before in the other slot, and the new one was not revealed;
- a crash during the second write leaves the new state in the first;
- rot in one slot at any later time leaves the same state in the other. (Were the slots written in turn, one for each change, a
  rotten newest slot would be indistinguishable from a torn one, and the vote in it would be forgotten: two leaders of one term.)

When the file is opened, the newest state is written to both slots again before anything else happens: what is seen then may be a
page that a failed fsync never brought to the disk.

The file has its full length from the beginning, so that a change needs no space.
"""

from __future__ import annotations

from typing import Annotated

import msgspec
from msgspec import Meta, Struct

from raftkv.codec.envelope import ENVELOPE_BYTES, Damaged, UnknownVersion, unwrap, wrap
from raftkv.errors import Corrupt, InvalidRequest, StorageError
from raftkv.raft.types import HardState
from raftkv.storage.disk import Disk, File
from raftkv.storage.recovery import WAY_BACK, Copy, SlotsAction, decide_slots

HARD_STATE_PATH = "hard_state"
HARD_STATE_MAGIC = b"raftkvHS"
HARD_STATE_VERSION = 1
SLOT_BYTES = 4096
FILE_BYTES = 2 * SLOT_BYTES


class HardStateSlot(Struct, frozen=True, array_like=True):
    """What a slot holds."""

    sequence: Annotated[int, Meta(ge=0, le=(1 << 63) - 1)]
    state: HardState


_encoder = msgspec.msgpack.Encoder()
_decoder = msgspec.msgpack.Decoder(HardStateSlot)


class HardStateFile:
    """The open file. `current` is what both slots hold."""

    def __init__(self, file: File, current: HardStateSlot) -> None:
        self._file = file
        self._current = current

    @property
    def current(self) -> HardState:
        """The newest durable state."""
        return self._current.state

    @property
    def sequence(self) -> int:
        """How many states were written, the first empty one included."""
        return self._current.sequence

    def write(self, state: HardState) -> None:
        """Make `state` durable; it is when this returns.

        Raises:
            InvalidRequest: the name in the vote does not fit in a slot.
            StorageError: it may or may not be durable; the file must not be used again.
        """
        slot = HardStateSlot(self._current.sequence + 1, state)
        data = encode_slot(slot)
        for number in (0, 1):
            self._file.write_at(number * SLOT_BYTES, data)
            self._file.sync()
        self._current = slot

    def close(self) -> None:
        """Close the file."""
        self._file.close()


def encode_slot(slot: HardStateSlot) -> bytes:
    """The bytes of a slot.

    Raises:
        InvalidRequest: they do not fit.
    """
    payload = _encoder.encode(slot)
    if len(payload) > SLOT_BYTES - ENVELOPE_BYTES:
        raise InvalidRequest(f"the id of the node voted for is too long: the vote takes {len(payload)} bytes of {SLOT_BYTES}")
    return wrap(HARD_STATE_MAGIC, HARD_STATE_VERSION, payload)


def create_hard_state(disk: Disk) -> HardStateFile:
    """A new file with term 0 and no vote, durable. An unfinished one that is in the way is replaced."""
    if disk.exists(HARD_STATE_PATH):
        disk.unlink(HARD_STATE_PATH)
    file = disk.create(HARD_STATE_PATH)
    file.preallocate(FILE_BYTES)
    created = HardStateFile(file, HardStateSlot(0, HardState()))
    created.write(HardState())
    disk.sync_directory("")
    return created


def inspect_hard_state(disk: Disk) -> HardStateSlot | Copy:
    """The newest sound slot, or that the file is missing, or that no slot in it is sound. Writes nothing."""
    if not disk.exists(HARD_STATE_PATH):
        return Copy.MISSING
    file = disk.open(HARD_STATE_PATH)
    try:
        slots = [slot for slot in (_read_slot(file, 0), _read_slot(file, 1)) if isinstance(slot, HardStateSlot)]
    finally:
        file.close()
    return max(slots, key=lambda slot: slot.sequence, default=Copy.BAD)


def open_hard_state(disk: Disk) -> HardStateFile:
    """The existing file, with both slots holding the newest state.

    Raises:
        Corrupt: no slot is sound, or two states claim to be the same one.
        StorageError: a newer program wrote it, or the disk failed.
    """
    file = disk.open(HARD_STATE_PATH)
    first, second = _read_slot(file, 0), _read_slot(file, 1)
    newest, action = _choose(first, second)
    if newest is None or action is SlotsAction.CORRUPT:
        file.close()
        reasons = "; ".join(
            f"offset {number * SLOT_BYTES}: {slot if isinstance(slot, str) else f'sequence {slot.sequence}'}"
            for number, slot in enumerate((first, second))
        )
        raise Corrupt(f"{HARD_STATE_PATH}: the node's term and vote cannot be known ({reasons}). {WAY_BACK}")
    # The state gets a new number: the two slots never hold different states under the same one. A sound slot is written last, so
    # that one slot is sound at every moment.
    slot = HardStateSlot(newest.sequence + 1, newest.state)
    if file.size() < FILE_BYTES:
        file.preallocate(FILE_BYTES)
    for number in (1, 0) if first == newest else (0, 1):
        file.write_at(number * SLOT_BYTES, encode_slot(slot))
        file.sync()
    return HardStateFile(file, slot)


def _choose(first: HardStateSlot | str, second: HardStateSlot | str) -> tuple[HardStateSlot | None, SlotsAction]:
    sound = [slot for slot in (first, second) if isinstance(slot, HardStateSlot)]
    newest = max(sound, key=lambda slot: slot.sequence, default=None)
    contradict = len(sound) == 2 and sound[0].sequence == sound[1].sequence and sound[0].state != sound[1].state
    return newest, decide_slots(isinstance(first, HardStateSlot), isinstance(second, HardStateSlot), contradict=contradict)


def _read_slot(file: File, number: int) -> HardStateSlot | str:
    """The slot, or why there is none."""
    try:
        payload = unwrap(HARD_STATE_MAGIC, HARD_STATE_VERSION, file.read_at(number * SLOT_BYTES, SLOT_BYTES))
        return _decoder.decode(payload)
    except (Damaged, ValueError, RecursionError) as error:
        return str(error)
    except UnknownVersion as error:
        raise StorageError(
            f"{HARD_STATE_PATH} at offset {number * SLOT_BYTES}: {error}. Start the version of raftkv that wrote it, or a newer one"
        ) from error
