"""How results are printed: a table for people, JSON for programs. Both say the same."""

from __future__ import annotations

from collections.abc import Iterable

import click
import msgspec

json_option = click.option("--json", "as_json", is_flag=True, help="Print JSON.")


def print_json(value: object) -> None:
    """Print `value`, which msgspec can encode, as indented JSON."""
    click.echo(msgspec.json.format(msgspec.json.encode(value), indent=2).decode())


def print_table(columns: Iterable[str], rows: Iterable[Iterable[object]]) -> None:
    """Print `rows` under `columns`, never cut to the width of a terminal; None is shown as a dash."""
    lines = [[column.upper() for column in columns], *(["-" if cell is None else str(cell) for cell in row] for row in rows)]
    widths = [max(map(len, column)) for column in zip(*lines, strict=True)]
    for line in lines:
        click.echo("  ".join(cell.ljust(width) for cell, width in zip(line, widths, strict=True)).rstrip())
