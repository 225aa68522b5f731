"""Faults for the targets to find: each takes one check out of a parser."""

from __future__ import annotations

import contextlib
import re
from collections.abc import Callable
from dataclasses import dataclass

import pytest

from raftkv.codec import peer, record, resp
from raftkv.codec.frames import FrameDecoder
from raftkv.kv import commands, glob, machine
from raftkv.server import settings
from raftkv.storage.log_index import Hole, LogIndex
from raftkv.storage.staging import Staging


@dataclass(frozen=True)
class Fault:
    """`plant` puts the fault into the product, until the test is over."""

    target: str
    name: str
    plant: Callable[[pytest.MonkeyPatch], None]


def _unchecked_lengths(patch: pytest.MonkeyPatch) -> None:
    """The short way takes an argument for what it is, whatever length was announced."""

    class AnyLine:
        def __ne__(self, other: object) -> bool:
            return False

        __hash__ = None  # type: ignore[assignment]

        def __eq__(self, other: object) -> bool:
            return True

    patch.setattr(resp, "_BULK_LINES", [AnyLine()] * 4097)


def _holes_are_taken(patch: pytest.MonkeyPatch) -> None:
    """An entry that does not follow the log is taken for the next one."""
    right = LogIndex._cut

    def cut(self: LogIndex, index: int) -> None:
        with contextlib.suppress(Hole):
            right(self, index)

    patch.setattr(LogIndex, "_cut", cut)


FAULTS = (
    Fault("requests", "lengths not compared", _unchecked_lengths),
    Fault("frames", "no bound on a payload", lambda patch: patch.setattr(FrameDecoder, "_check_size", lambda self, stream, length: None)),
    Fault("handshake", "proofs not compared", lambda patch: patch.setattr("hmac.compare_digest", lambda one, other: True)),
    Fault("values", "errors not translated", lambda patch: patch.setattr("tests.fuzz.values.decode_value", peer._decoder.decode)),
    Fault("batches", "errors not translated", lambda patch: patch.setattr(machine, "decode_writes", commands._write_decoder.decode)),
    Fault(
        "records",
        "a snapshot not compared with its record",
        lambda patch: patch.setattr("tests.fuzz.records.record_snapshot", lambda found: record._snapshot_decoder.decode(found.payload)),
    ),
    Fault("log", "holes are taken", _holes_are_taken),
    Fault("state", "files not verified", lambda patch: patch.setattr(Staging, "_verify", lambda self, number, info, handle: None)),
    Fault("texts", "a host not checked", lambda patch: patch.setattr(settings, "_HOST", re.compile(".+", re.DOTALL))),
    Fault(
        "patterns",
        "a set written out",
        lambda patch: patch.setattr(glob, "_one_of", lambda members: b"".join(b"\\x%02x" % member for member in sorted(members))),
    ),
)
