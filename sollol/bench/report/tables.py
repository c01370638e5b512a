"""The tables of a report."""

from sollol.bench.comparison import Comparison
from sollol.bench.outcome import Summary, classes, quantile
from sollol.bench.report.outages import outage_tables
from sollol.bench.report.table import Table
from sollol.bench.text import BASELINES


def all_tables(comparison: Comparison) -> list[Table]:
    """Return the tables in the order of their importance."""
    tables = [_latencies(comparison), *_ratios(comparison), _work(comparison)]
    tables += [_priorities(comparison), _nodes(comparison)]
    return [*outage_tables(comparison), *tables]


def _latencies(comparison: Comparison) -> Table:
    return Table(
        "Latency",
        "Seconds from when a request was due to the last byte of its answer; TTFT to the first byte.",
        ("policy", "mean", "p50", "p95", "p99", "TTFT p95", "wait p95", "served"),
        [
            (
                s.policy,
                *map(_seconds, (s.mean_s, s.p50_s, s.p95_s, s.p99_s, s.first_byte_p95_s)),
                _seconds(s.wait_p95_s),
                f"{s.success:.1%}",
            )
            for s in comparison.summaries.values()
        ],
    )


def _ratios(comparison: Comparison) -> list[Table]:
    summaries = comparison.summaries
    return [
        Table(
            f"Against {base}",
            "Below 1 is better.",
            ("policy", "mean", "p95", "p99", "TTFT p95", "loads"),
            [(name, *_ratio(s, summaries[base])) for name, s in summaries.items() if name != base],
        )
        for base in BASELINES
        if base in summaries and len(summaries) > 1
    ]


def _ratio(s: Summary, base: Summary) -> list[str]:
    pairs = (
        (s.mean_s, base.mean_s),
        (s.p95_s, base.p95_s),
        (s.p99_s, base.p99_s),
        (s.first_byte_p95_s, base.first_byte_p95_s),
        (s.loads, base.loads),
    )
    return [f"{value / other:.2f}x" if other else "-" for value, other in pairs]


def _work(comparison: Comparison) -> Table:
    return Table(
        "What the nodes had to do",
        "In one round, on average. A reload is a load of what was in memory with other options; an "
        "eviction made room. The prediction's error is its median distance from the truth.",
        ("policy", "loads", "reloads", "evictions", "prediction off by"),
        [
            (
                s.policy,
                f"{s.loads:.0f}",
                f"{s.reloads:.0f}",
                f"{s.evictions:.0f}",
                f"{s.prediction_error:.0%}" if s.prediction_error else "-",
            )
            for s in comparison.summaries.values()
        ],
    )


def _priorities(comparison: Comparison) -> Table:
    summaries = comparison.summaries.values()
    columns = classes(summaries)
    rows = []
    for s in summaries:
        cells = (s.by_priority.get(level, {}).get(task) for level, task in columns)
        rows.append((s.policy, *(f"{c[0]:.2f} / {c[1]:.2f}" if c else "-" for c in cells)))
    head = ("policy", *(f"{level} {task}" for level, task in columns))
    about = "Mean and p95 of the latency in seconds; 10 is most urgent. Compare within a column."
    return Table("By priority and task", about, head, rows)


def _nodes(comparison: Comparison) -> Table:
    summaries = comparison.summaries.values()
    names = sorted({name for s in summaries for name in s.by_node})
    rows = [(s.policy, *(f"{s.by_node.get(name, 0.0):.0f}" for name in names)) for s in summaries]
    about = "Requests served in one round, on average."
    return Table("By node", about, ("policy", *(name or "unknown" for name in names)), rows)


def facts(comparison: Comparison) -> list[tuple[str, str]]:
    """Return what a reader needs to repeat the comparison and to trust it."""
    plan = comparison.plan
    seeds = f"{plan.seed} to {plan.seed + plan.rounds - 1}" if plan.rounds > 1 else f"{plan.seed}"
    rows = [
        ("Command", comparison.command),
        ("Fleet", f"{plan.fleet.name}: {', '.join(plan.fleet.nodes)}"),
        ("Workload", f"{plan.source.kind}, {plan.requests} requests a round"),
        ("Rate", f"{plan.rate_per_s:.3f} requests a second of the nodes' time"),
        ("Rounds", f"{plan.rounds}, seeds {seeds}"),
    ]
    if plan.with_faults:
        rows.append(("Faults", "one node at a time, on a script that all policies have alike"))
    if plan.source.trace is not None:
        rows.append(("Trace", f"{plan.source.trace.name} from second {plan.source.start_s:g} on"))
    if plan.time_scale is None:
        return [*rows, ("Clock", "virtual: one process, no sockets"), *comparison.machine]
    late = comparison.lateness_s
    worst = [("p99", quantile(late, 0.99)), ("at most", max(late, default=0.0))]
    texts = (f"{name} {s * 1e3:.1f} ms = {s / plan.time_scale:.2f} s" for name, s in worst)
    rows += [
        ("Clock", f"real, over HTTP; a second of the nodes takes {plan.time_scale:g} s"),
        ("Sent late by", f"{'; '.join(texts)} of the nodes' time; it is in all latencies"),
    ]
    if comparison.foreign_ratio is not None:
        rows.append(
            ("Other work on the machine", f"{comparison.foreign_ratio:.0%} of all CPU time")
        )
    return [*rows, *comparison.machine]


SIMPLIFIED = (
    "Nodes are simulated: speeds are constants, in proportion to the bytes of a model; prefill does "
    "not slow decoding down; memory is weights plus a constant for each token of context.",
    "Callers do not wait for an answer before they ask on: a conversation's next turn comes when a "
    "usual answer would have been read.",
    "Over HTTP all requests are of one caller; on a virtual clock each has its own.",
    "Published traces have no models, users or priorities: these are drawn with the seed.",
    "On a virtual clock the gateway costs no time. Over HTTP its clock and timers run as much faster "
    "as the nodes do, so that what its own work costs counts for more than in real time.",
)
"""What a reader must know of how far the figures carry over."""


def _seconds(value: float) -> str:
    return f"{value:.2f}"
