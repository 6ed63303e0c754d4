# SPDX-License-Identifier: Apache-2.0
"""What commands print: results on the standard output, everything else on the standard error."""

import json
from pathlib import Path
from typing import Any

from rich import box
from rich.console import Console
from rich.table import Table
from rich.text import Text

from ..atomic_write import atomic_write


UNBROKEN = 100_000  # columns: whatever reads the output can break lines itself


def print_table(columns: list[str], rows: list[list[str]], title: str | None = None) -> None:
    """Prints a table, as wide as needed where no person is reading."""
    console = Console()
    if not console.is_terminal:
        console = Console(width=UNBROKEN)
    if title is not None:
        console.print(Text(title))
    table = Table(box=box.SIMPLE_HEAD, pad_edge=False)
    for column in columns:
        table.add_column(column, overflow="fold")
    for row in rows:
        table.add_row(*map(Text, row))  # no markup: file names may hold brackets
    console.print(table)


def print_rows(rows: list[dict[str, Any]], title: str | None = None) -> None:
    """Prints rows as a table with a column per key; nothing without rows."""
    columns = list(dict.fromkeys(name for row in rows for name in row))
    if rows:
        print_table(columns, [[cell(row.get(column, "")) for column in columns] for row in rows], title)


def cell(value: Any) -> str:
    """A value as a table shows it."""
    if isinstance(value, list):
        return " ".join(f"{each:.0f}" for each in value)
    return f"{value:.3f}" if isinstance(value, float) else str(value)


def print_json(value: Any) -> None:
    """Prints JSON."""
    print(json.dumps(value, ensure_ascii=False, indent=2))


def report(message: str) -> None:
    """Prints what went wrong."""
    Console(stderr=True).print(message, style="red", markup=False, highlight=False, soft_wrap=True)


def write_lines(file: Path, values: list[dict[str, Any]]) -> None:
    """Writes JSON Lines."""
    with atomic_write(file) as unfinished, open(unfinished, "w", encoding="utf-8") as lines:
        lines.writelines(json.dumps(value, ensure_ascii=False) + "\n" for value in values)
