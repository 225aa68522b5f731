"""The node's log: where it goes, and that it cannot stop a node."""

from __future__ import annotations

import errno
import io
import json
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
import structlog

from raftkv.server.logging import configure_logging
from raftkv.server.settings import Address, NodeSettings


class Broken(io.StringIO):
    """A file that fails while `error` is set."""

    error: OSError | None = None

    def write(self, text: str) -> int:
        if self.error is not None:
            raise self.error
        return super().write(text)


@pytest.fixture
def broken(monkeypatch: pytest.MonkeyPatch) -> Iterator[Broken]:
    """Standard error of a node that logs JSON."""
    file = Broken()
    monkeypatch.setattr(sys, "stderr", file)
    anywhere = Address("127.0.0.1", 1)
    configure_logging(NodeSettings(name="n1", data_dir=Path("data"), client=anywhere, peer=anywhere, log_format="json"))
    yield file
    structlog.reset_defaults()


@pytest.mark.parametrize("error", [BrokenPipeError(errno.EPIPE, "Broken pipe"), OSError(errno.ENOSPC, "No space left on device")])
def test_a_log_that_cannot_be_written_stops_nobody(broken: Broken, error: OSError) -> None:
    """Lines that nobody reads, or for which the disk has no space, are lost; the ones after them are written when that is possible."""
    events = structlog.get_logger("raftkv").bind(node="n1")
    broken.error = error
    for level in ("debug", "info", "warning", "error", "critical"):
        getattr(events, level)("lost")
    broken.error = None
    events.info("kept")
    [line] = broken.getvalue().splitlines()
    assert json.loads(line)["event"] == "kept"
