"""The envelope of small files that are written whole: a magic, a format version, a length and a CRC around a payload.

::

    offset  size
    0       8     magic: which kind of file this is
    8       2     format version, little-endian like all numbers
    10      2     zero
    12      4     length of the payload
    16      4     CRC32C of bytes 0 to 16 and of the payload
    20      …     payload

The envelope itself is the same in every version, so a file of a newer version is told apart from a damaged one. Pure.
"""

from __future__ import annotations

import struct

import google_crc32c

_HEADER = struct.Struct("<8sHHI")
_CRC = struct.Struct("<I")
ENVELOPE_BYTES = _HEADER.size + _CRC.size


class Damaged(Exception):
    """The bytes are not an envelope of this kind, or not as they were written. The message says how that is known."""


class UnknownVersion(Exception):
    """The bytes are as they were written, by a program that knows a format which this one does not."""


def wrap(magic: bytes, version: int, payload: bytes) -> bytes:
    """`payload` in an envelope. `magic` has 8 bytes."""
    header = _HEADER.pack(magic, version, 0, len(payload))
    return header + _CRC.pack(google_crc32c.extend(google_crc32c.value(header), payload)) + payload


def unwrap(magic: bytes, version: int, data: bytes) -> bytes:
    """The payload of the envelope at the start of `data`; what follows it is not looked at.

    Raises:
        Damaged: short, of another kind, or the checksum does not match.
        UnknownVersion: sound, but not of `version`.
    """
    if len(data) < ENVELOPE_BYTES:
        raise Damaged(f"it has {len(data)} bytes, fewer than the {ENVELOPE_BYTES} of a header")
    found_magic, found_version, _, length = _HEADER.unpack_from(data)
    if found_magic != magic:
        raise Damaged(f"it does not begin with {magic!r}")
    if length > len(data) - ENVELOPE_BYTES:
        raise Damaged(f"it says that {length} bytes follow and {len(data) - ENVELOPE_BYTES} do")
    payload = data[ENVELOPE_BYTES : ENVELOPE_BYTES + length]
    (crc,) = _CRC.unpack_from(data, _HEADER.size)
    if google_crc32c.extend(google_crc32c.value(data[: _HEADER.size]), payload) != crc:
        raise Damaged("its checksum does not match")
    if found_version != version:
        raise UnknownVersion(f"it has format version {found_version}; this program knows version {version}")
    return payload
