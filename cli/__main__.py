"""`python -m raftkv_cli` is `raftkv`."""

from __future__ import annotations

from raftkv_cli.main import main

main()
