"""The tables of a comparison whose nodes failed: how many requests were answered all the same."""

from collections import Counter
from collections.abc import Mapping

from sollol.bench.comparison import Comparison
from sollol.bench.live.processes import NO_RETRIES
from sollol.bench.report.table import Table

Cells = tuple[str, ...]


def outage_tables(comparison: Comparison) -> list[Table]:
    """Return what was answered, and what failed when; nothing where no node failed."""
    return [_answered(comparison), _script(comparison)] if comparison.plan.with_faults else []


def answered_lines(comparison: Comparison) -> list[str]:
    """Return the share of requests that were answered under each policy, as text."""
    table = _answered(comparison)
    widths = [max(map(len, column)) for column in zip(table.head, *table.rows, strict=True)]
    lines = []
    for row in (table.head, *table.rows):
        cells = [f"{cell:>{width}}" for cell, width in zip(row[1:], widths[1:], strict=True)]
        lines.append("  ".join([f"{row[0]:{widths[0]}}", *cells]))
    return lines


def _answered(comparison: Comparison) -> Table:
    outcomes = _outcomes(comparison)
    failures = sorted({name for each in outcomes.values() for name in each} - {"served"})
    base = next((name for name in outcomes if name.endswith(NO_RETRIES)), None)
    points = () if base is None else (f"against {base}",)
    rows: list[Cells] = []
    for policy, each in outcomes.items():
        share = comparison.summaries[policy].success
        gained = () if base is None else (share - comparison.summaries[base].success,)
        rows.append(
            (
                policy,
                f"{each.total()}",
                f"{share:.2%}",
                *("-" if policy == base else f"{more * 100:+.2f} points" for more in gained),
                *(f"{each[name]}" for name in failures),
            )
        )
    return Table(
        "Answered while nodes failed",
        "Requests of all rounds, and what became of those that were not answered in full.",
        ("policy", "requests", "answered", *points, *failures),
        rows,
    )


def _outcomes(comparison: Comparison) -> Mapping[str, Counter[str]]:
    return {
        policy: Counter(record.outcome for run in runs for record in run.records)
        for policy, runs in comparison.replays.items()
    }


def _script(comparison: Comparison) -> Table:
    rows: list[Cells] = []
    for place, run in enumerate(next(iter(comparison.replays.values()))):
        script = comparison.plan.script(comparison.plan.seed + place, run.records[-1].arrived_at)
        rows += [
            (f"{place + 1}", o.node, o.kind, f"{o.begins_s:.0f}", f"{o.ends_s:.0f}") for o in script
        ]
    about = "The script, in seconds of the nodes' time; one node fails at a time."
    return Table("What failed", about, ("round", "node", "how", "from", "to"), rows)
