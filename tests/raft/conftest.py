"""Nothing but the markers of this folder; `--rewrite` is declared in tests/conftest.py, where pytest always looks."""

from __future__ import annotations

import pytest


@pytest.fixture
def rewrite(request: pytest.FixtureRequest) -> bool:
    """Whether golden traces are to be written instead of compared. False also where the option was never declared."""
    return bool(request.config.getoption("--rewrite", default=False))
