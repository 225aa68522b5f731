"""Options of the whole suite. pytest reads this file before it parses the command line only when tests/ or a path in it is named,
or when `testpaths` leads here."""

from __future__ import annotations

import pytest


def pytest_addoption(parser: pytest.Parser) -> None:
    """Declare `--rewrite`."""
    parser.addoption("--rewrite", action="store_true", help="write the output of today into the golden traces instead of comparing")
