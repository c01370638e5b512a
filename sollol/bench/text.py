"""Summaries of policies as a table in plain text."""

from collections.abc import Sequence

from sollol.bench.outcome import Summary

BASELINES = ("round_robin", "least_in_flight", "direct_round_robin", "direct_least_connections")
_HEAD = (
    f"{'policy':26}{'mean':>8}{'p50':>8}{'p95':>8}{'p99':>8}{'ttft95':>8}"
    f"{'loads':>7}{'reload':>7}{'evict':>7}{'ok %':>7}{'pred.err':>9}"
)


def tables(summaries: Sequence[Summary]) -> str:
    """Return the figures, by priority and by node, and the ratios to the baselines that were run."""
    parts = ["\n".join([_HEAD, *map(_line, summaries)]), _priorities(summaries), _nodes(summaries)]
    return "\n\n".join([*parts, *filter(None, [_ratios(summaries)])])


def _line(s: Summary) -> str:
    error = f"{s.prediction_error * 100:8.0f}%" if s.prediction_error else f"{'-':>9}"
    return (
        f"{s.policy:26}{s.mean_s:8.2f}{s.p50_s:8.2f}{s.p95_s:8.2f}{s.p99_s:8.2f}"
        f"{s.first_byte_p95_s:8.2f}{s.loads:7.0f}{s.reloads:7.0f}{s.evictions:7.0f}"
        f"{s.success * 100:7.1f}{error}"
    )


def _priorities(summaries: Sequence[Summary]) -> str:
    lines = ["by priority and task: mean / p95"]
    for s in summaries:
        cells = (
            f"{priority} {task}: {mean_s:.2f} / {p95_s:.2f}"
            for priority, tasks in s.by_priority.items()
            for task, (mean_s, p95_s) in tasks.items()
        )
        lines.append(f"{s.policy:26}{'   '.join(cells)}")
    return "\n".join(lines)


def _nodes(summaries: Sequence[Summary]) -> str:
    lines = ["requests by node"]
    for s in summaries:
        cells = (f"{name} {count:.0f}" for name, count in s.by_node.items())
        lines.append(f"{s.policy:26}{'   '.join(cells)}")
    return "\n".join(lines)


def _ratios(summaries: Sequence[Summary]) -> str:
    bases = [s for s in summaries if s.policy in BASELINES]
    lines = [_ratio(s, base) for base in bases for s in summaries if s is not base]
    return "\n".join(["ratios", *lines]) if lines else ""


def _ratio(s: Summary, base: Summary) -> str:
    return (
        f"{s.policy:26}to {base.policy:26}mean {_share(s.mean_s, base.mean_s)}"
        f"  p95 {_share(s.p95_s, base.p95_s)}  p99 {_share(s.p99_s, base.p99_s)}"
        f"  loads {_share(s.loads, base.loads)}  reloads {_share(s.reloads, base.reloads)}"
    )


def _share(value: float, base: float) -> str:
    return f"{value / base:5.2f}x" if base else "    - "
