"""Logs of a node process: readable on a terminal, one JSON object a line for machines. Only `run` configures them: a program that embeds
raftkv keeps its own configuration."""

from __future__ import annotations

import logging
import sys

import structlog

from raftkv.server.settings import NodeSettings


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
    structlog.configure(
        processors=processors,
        wrapper_class=structlog.make_filtering_bound_logger(getattr(logging, settings.log_level.upper())),
        logger_factory=structlog.WriteLoggerFactory(file=sys.stderr),
        cache_logger_on_first_use=False,
    )
