"""Logs of a node process: readable on a terminal, one JSON object a line for machines. Only `run` configures them: a program that embeds
raftkv keeps its own configuration.

A line that cannot be written is lost: that nobody reads a node's log any more, or that its disk is full, is no reason to stop serving.
"""

from __future__ import annotations

import contextlib
import logging
import sys

import structlog

from raftkv.server.settings import NodeSettings


class _Lines(structlog.WriteLogger):
    """Standard error. It may break under the node at any time."""

    def msg(self, message: str) -> None:
        with contextlib.suppress(OSError):
            super().msg(message)

    debug = info = warning = error = critical = msg


def configure_logging(settings: NodeSettings) -> None:
    """Send events to standard error in the format and from the level that the settings name."""
    processors: list[structlog.typing.Processor] = [
        structlog.processors.add_log_level,
        structlog.processors.TimeStamper(fmt="iso", utc=True),
    ]
    if settings.log_format == "json":
        processors += [structlog.processors.format_exc_info, structlog.processors.JSONRenderer()]
    else:
        processors.append(structlog.dev.ConsoleRenderer(colors=sys.stderr.isatty()))
    lines = _Lines(sys.stderr)
    structlog.configure(
        processors=processors,
        wrapper_class=structlog.make_filtering_bound_logger(getattr(logging, settings.log_level.upper())),
        logger_factory=lambda *_: lines,
        cache_logger_on_first_use=False,
    )
