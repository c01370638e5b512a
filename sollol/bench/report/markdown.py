"""A comparison as Markdown."""

from collections.abc import Sequence

from sollol.bench.comparison import Comparison
from sollol.bench.report.tables import SIMPLIFIED, all_tables, facts

TITLE = "Scheduling policies compared"


def markdown(comparison: Comparison) -> str:
    """Return the page."""
    parts = [f"# {TITLE}"]
    for table in all_tables(comparison):
        parts += [f"## {table.title}", table.about, _grid(table.head, table.rows)]
    parts += ["## How it was measured", _grid(("", ""), facts(comparison), align_right=False)]
    parts += ["## What is simplified", "\n".join(f"- {text}" for text in SIMPLIFIED)]
    return "\n\n".join(parts) + "\n"


def _grid(head: Sequence[str], rows: Sequence[Sequence[str]], *, align_right: bool = True) -> str:
    rule = ["---", *(("---:" if align_right else "---") for _ in head[1:])]
    lines = (head, rule, *rows)
    return "\n".join(f"| {' | '.join(cell.replace('|', '/') for cell in line)} |" for line in lines)
