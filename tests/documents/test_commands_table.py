"""The page of commands is what the table of commands says."""

from __future__ import annotations

from raftkv.kv.commands import SPECS
from tests.documents import commands_table


def test_the_page_of_commands_is_up_to_date() -> None:
    """Whoever changes the table makes the page anew: `python -m tests.documents.commands_table`."""
    assert commands_table.PATH.read_text(encoding="utf-8") == commands_table.render()


def test_every_command_is_on_the_page() -> None:
    """No command hides in a group that the page does not know."""
    page = commands_table.render()
    for spec in SPECS.values():
        assert f"| `{spec.name.upper()}` |" in page
