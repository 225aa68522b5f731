"""Every target by its name."""

from __future__ import annotations

from tests.fuzz import batches, frames, handshake, log, patterns, records, requests, state, texts, values
from tests.fuzz.target import Target

TARGETS: dict[str, Target] = {
    module.TARGET.name: module.TARGET
    for module in (requests, frames, handshake, values, batches, records, log, state, texts, patterns)
}
