"""A comparison as Markdown."""

from sollol.bench.common.verdicts import table
from sollol.bench.comparison import Comparison
from sollol.bench.report.tables import SIMPLIFIED, all_tables, facts

TITLE = "Scheduling policies compared"


def markdown(comparison: Comparison) -> str:
    """Return the page."""
    parts = [f"# {TITLE}"]
    for each in all_tables(comparison):
        parts += [f"## {each.title}", each.about, table(each.head, each.rows)]
    parts += ["## How it was measured", table(("", ""), facts(comparison))]
    parts += ["## What is simplified", "\n".join(f"- {text}" for text in SIMPLIFIED)]
    return "\n\n".join(part.rstrip() for part in parts) + "\n"
