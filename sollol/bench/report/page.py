"""A comparison as one HTML page that needs nothing else: no scripts, no fonts, no network."""

from collections.abc import Sequence
from html import escape

from sollol.bench.comparison import Comparison
from sollol.bench.outcome import classes
from sollol.bench.report.figures import bars, cumulative, shares
from sollol.bench.report.markdown import TITLE
from sollol.bench.report.tables import SIMPLIFIED, all_tables, facts

_STYLE = """
:root{color-scheme:light dark;--bg:#fff;--fg:#1d2430;--soft:#5b6675;--rule:#d9dee6;
--c0:#0b62a4;--c1:#c2500a;--c2:#0a7d5a;--c3:#a8467f;--c4:#8a6d00;--c5:#4b5563;--c6:#6f3fa0;--c7:#1f7a8c}
@media(prefers-color-scheme:dark){:root{--bg:#12161c;--fg:#e6eaf0;--soft:#9aa5b4;--rule:#2c3440;
--c0:#5eb0ef;--c1:#ff9a5c;--c2:#3fcf9d;--c3:#f08cc4;--c4:#e3c04a;--c5:#a3adba;--c6:#b794f4;--c7:#5cc8da}}
*{box-sizing:border-box}
body{margin:0 auto;max-width:60rem;padding:2rem 1rem 4rem;background:var(--bg);color:var(--fg);
font:16px/1.5 system-ui,sans-serif}
h1{font-size:1.7rem;margin:0 0 .3rem}h2{font-size:1.15rem;margin:2.2rem 0 .3rem}
p{margin:.2rem 0 .8rem;color:var(--soft)}
.scroll{overflow-x:auto}
table{border-collapse:collapse;width:100%;font-variant-numeric:tabular-nums;font-size:.92rem}
th,td{padding:.32rem .7rem;border-bottom:1px solid var(--rule);text-align:right;white-space:nowrap}
th:first-child,td:first-child{text-align:left}
table.facts td{text-align:left;white-space:normal;vertical-align:top}
figure{margin:1rem 0;overflow-x:auto}
svg{width:100%;min-width:36rem;height:auto;font:12px system-ui,sans-serif}
svg text{fill:var(--fg)}svg .end{text-anchor:end}svg .middle{text-anchor:middle}
svg .group{font-weight:600}svg .grid{stroke:var(--rule)}
svg .line{fill:none;stroke-width:2}
ul{padding-left:1.2rem;color:var(--soft)}
"""


def page(comparison: Comparison) -> str:
    """Return the whole page."""
    plan = comparison.plan
    what = f"{plan.source.kind} workload on the {plan.fleet.name} fleet"
    tables = all_tables(comparison)
    return "\n".join(
        [
            '<!doctype html>\n<html lang="en"><head><meta charset="utf-8">',
            '<meta name="viewport" content="width=device-width,initial-scale=1">',
            f"<title>{TITLE}</title><style>{_STYLE}</style></head><body><main>",
            f"<h1>{TITLE}</h1><p>{escape(what)}, {plan.rate_per_s:.2f} requests a second.</p>",
            *_plots(comparison),
            *(_section(t.title, t.about, _table(t.head, t.rows)) for t in tables),
            _section("How it was measured", "", _facts(comparison)),
            _section("What is simplified", "", _list(SIMPLIFIED)),
            "</main></body></html>\n",
        ]
    )


def _plots(comparison: Comparison) -> list[str]:
    summaries = comparison.summaries
    served = {
        policy: [r.latency_s for run in runs for r in run.records if r.outcome == "served"]
        for policy, runs in comparison.replays.items()
    }
    by_latency = {
        "Mean latency": {name: s.mean_s for name, s in summaries.items()},
        "95th percentile": {name: s.p95_s for name, s in summaries.items()},
    }
    by_priority = {
        f"Priority {level}, {task}": {
            name: s.by_priority[level][task][1]
            for name, s in summaries.items()
            if task in s.by_priority.get(level, {})
        }
        for level, task in classes(summaries.values())
    }
    by_node = {name: s.by_node for name, s in summaries.items()}
    loads = {"": {name: s.loads for name, s in summaries.items()}}
    answered = {"": {name: s.success * 100 for name, s in summaries.items()}}
    with_faults = [
        _figure(
            "Answered while nodes failed", "Of all requests; longer is better.", bars(answered, "%")
        )
    ]
    return [
        *(with_faults if comparison.plan.with_faults else ()),
        _figure("How long answers take", "Shorter is better.", bars(by_latency, "s")),
        _figure(
            "All latencies",
            "Share of the requests that were answered within a time; further left is better.",
            cumulative(served, "seconds"),
        ),
        _figure(
            "95th percentile by priority and task", "10 is most urgent.", bars(by_priority, "s")
        ),
        _figure("Model loads", "In one round, on average.", bars(loads, "loads", digits=0)),
        _figure("Where requests went", "Share of each node.", shares(by_node)),
    ]


def _figure(title: str, about: str, svg: str) -> str:
    return _section(title, about, f"<figure>{svg}</figure>")


def _section(title: str, about: str, content: str) -> str:
    text = f"<p>{escape(about)}</p>" if about else ""
    return f"<section><h2>{escape(title)}</h2>{text}{content}</section>"


def _table(head: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    names = "".join(f"<th>{escape(name)}</th>" for name in head)
    return f'<div class="scroll"><table><tr>{names}</tr>{_rows(rows)}</table></div>'


def _rows(rows: Sequence[Sequence[str]]) -> str:
    return "".join(
        f"<tr>{''.join(f'<td>{escape(cell)}</td>' for cell in row)}</tr>" for row in rows
    )


def _facts(comparison: Comparison) -> str:
    return f'<div class="scroll"><table class="facts">{_rows(facts(comparison))}</table></div>'


def _list(texts: Sequence[str]) -> str:
    return f"<ul>{''.join(f'<li>{escape(text)}</li>' for text in texts)}</ul>"
