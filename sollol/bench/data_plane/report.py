"""Makes the page of a benchmark run: limits first, ratios before absolute numbers. Pure."""

from collections.abc import Callable, Iterable, Sequence
from typing import TypeVar

from sollol.bench.common.numbers import Spread
from sollol.bench.common.verdicts import MIB, Row, table
from sollol.bench.data_plane.latency import RATE_PER_S
from sollol.bench.data_plane.limits import MANY_STREAMS, judge
from sollol.bench.data_plane.results import DIRECT, NGINX, SOLLOL, Results, StreamLoad, StreamRun
from sollol.bench.data_plane.short import CONNECTIONS
from sollol.bench.data_plane.streams import STARTS_PER_S

QUIET_RATIO = 0.1
"""The share of the machine that others may use before a reader is warned."""

Run = TypeVar("Run")

_INTRO = """\
# Data plane

What SOLLOL costs between a client and a node, next to no proxy, nginx, and the proxy one would
write first (FastAPI, a pydantic body, httpx, `StreamingResponse`). `make bench ARGS=--write`
measures it and writes this page for the hot path in C (`make compiled`), `make bench-plain ARGS=--write`
for plain Python, which takes about 1.6 times the CPU; the last table says which of them this is.
"""
_METHOD = """\
All on loopback: the proxy alone on one core, the node and the load generator on the rest. SOLLOL
runs as `sollol serve` with everything on: scheduling, metrics, one JSON log line a request into a
file. nginx (one worker, kept-alive connections to the node, `proxy_buffering off`) and the httpx
proxy (uvicorn with uvloop, an unbounded pool) write no log. Proxies take turns within a round;
ratios and differences are taken within a round, and every figure is the median over the rounds
(range in brackets). CPU time is what the kernel counted for the proxy's process.
"""


def render(results: Results) -> str:
    """Return the page as Markdown."""
    parts = [
        _INTRO,
        _targets(results),
        _short(results),
        _latency(results),
        _streams(results),
        _blob(results),
        _others(results),
        _machine(results),
    ]
    return "\n".join(part for part in parts if part)


def _targets(results: Results) -> str:
    rows = [
        (verdict.text, verdict.limit, verdict.measured, "yes" if verdict.holds else "**no**")
        for verdict in judge(results)
    ]
    notes = list(results.missing)
    if results.foreign_ratio > QUIET_RATIO:
        notes.insert(
            0,
            f"**Others used {results.foreign_ratio:.0%} of the machine meanwhile: the figures are "
            "worse than they should be, by amounts that differ from line to line.**",
        )
    text = "".join(f"\n{note}\n" for note in notes)
    return "## Limits\n\n" + table(("", "limit", "measured", "holds"), rows) + text


def _short(results: Results) -> str:
    if not results.short:
        return ""
    rates = {name: [run.requests_per_s for run in runs] for name, runs in results.short.items()}
    rows = [
        (
            name,
            _times(Spread.of_ratios(rates[name], rates[NGINX])),
            f"{Spread.of(rates[name]).median:,.0f}",
            "-" if name == DIRECT else _us(_median(runs, lambda run: run.cpu_s)),
            _ms(_median(runs, lambda run: run.p50_s)),
            _ms(_median(runs, lambda run: run.p99_s)),
        )
        for name, runs in results.short.items()
    ]
    head = ("", "vs nginx", "requests/s", "CPU us/request", "p50 ms", "p99 ms")
    return (
        "## Short requests, as many as fit\n\n"
        f"`POST /api/chat`, about 1 KB in and 0.5 KB out, over {CONNECTIONS} connections (wrk); "
        f"the node is an nginx with a fixed answer. {_rounds(results.short.values())}\n\n"
        + table(head, rows)
    )


def _latency(results: Results) -> str:
    if not results.latency:
        return ""
    bases = results.latency[DIRECT]
    rows = []
    for name, runs in results.latency.items():
        p50 = Spread.of_differences([run.p50_s for run in runs], [run.p50_s for run in bases])
        p99 = Spread.of_differences([run.p99_s for run in runs], [run.p99_s for run in bases])
        added = ("-", "-") if name == DIRECT else (_ms(p50.median), _ms(p99.median))
        absolute = (
            _ms(_median(runs, lambda run: run.p50_s)),
            _ms(_median(runs, lambda run: run.p99_s)),
        )
        rows.append((name, *added, *absolute, _ms(_median(runs, lambda run: run.lateness_p99_s))))
    head = ("", "added p50 ms", "added p99 ms", "p50 ms", "p99 ms", "sent late p99 ms")
    return (
        f"## Short requests, {RATE_PER_S} a second\n\n"
        "The same request at fixed times over 32 kept-alive connections, measured from the time it "
        "was due, so that a wait for a connection counts. The last column is the generator's own "
        f"lateness, which is in all figures. {_rounds(results.latency.values())}\n\n"
        + table(head, rows)
    )


def _streams(results: Results) -> str:
    if not results.streams:
        return ""
    rows = [
        _stream_row(name, load, runs, results.streams.get((NGINX, load)))
        for (name, load), runs in results.streams.items()
    ]
    head = (
        "", "streams x chunks/s", "CPU vs nginx", "CPU us/chunk", "finished",
        "first p50 ms", "first p99 ms", "delay p50 ms", "delay p99 ms", "node + client",
    )  # fmt: skip
    return (
        "## Streams\n\n"
        "Each chunk is one NDJSON record of about 135 bytes with the time it was sent; delay is "
        "the time until the client has it. The first chunk is measured from before the client's "
        f"connection is opened; {STARTS_PER_S} streams are opened a second. CPU includes opening "
        "the streams. The last column is the CPU of node and client together: near 100 % of a core, "
        "delays are theirs, as the direct rows show. "
        f"{_rounds(results.streams.values())}\n\n" + table(head, rows)
    )


def _stream_row(
    name: str, load: StreamLoad, runs: Sequence[StreamRun], bases: Sequence[StreamRun] | None
) -> Row:
    cpu = [run.cpu_s for run in runs]
    has_cost = name != DIRECT
    versus = "-"
    if has_cost and bases:
        versus = _times(Spread.of_ratios(cpu, [run.cpu_s for run in bases]))
    return (
        name,
        f"{load.streams:,} x {load.chunks_per_s}",
        versus,
        _us(Spread.of(cpu).median) if has_cost else "-",
        f"{min(run.finished_ratio for run in runs):.0%}",
        _ms(_median(runs, lambda run: run.first_p50_s)),
        _ms(_median(runs, lambda run: run.first_p99_s)),
        _ms(_median(runs, lambda run: run.delay_p50_s)),
        _ms(_median(runs, lambda run: run.delay_p99_s)),
        f"{_median(runs, lambda run: run.load_ratio):.0%}",
    )


def _blob(results: Results) -> str:
    if not results.blob:
        return ""
    bases = [run.duration_s for run in results.blob[DIRECT]]
    rows = [
        (
            name,
            _times(Spread.of_ratios(bases, [run.duration_s for run in runs])),
            f"{_median(runs, lambda run: run.size_bytes / run.duration_s) / 1e6:,.0f}",
            "-" if name == DIRECT else f"{_median(runs, lambda run: run.cpu_s):.1f}",
            "-" if name == DIRECT else f"{max(run.grown_bytes for run in runs) / MIB:.1f}",
        )
        for name, runs in results.blob.items()
    ]
    size_gib = results.blob[DIRECT][0].size_bytes / 1024 / MIB
    return (
        "## A large blob\n\n"
        f"`POST /api/blobs/sha256:...` of {size_gib:g} GiB from a client that sends as fast as it can, "
        "to a simulated node that hashes and drops it. Memory is the most that the proxy's grew by "
        f"while a blob went through. {_rounds(results.blob.values())}\n\n"
        + table(("", "vs direct", "MB/s", "CPU s", "memory MiB"), rows)
    )


def _others(results: Results) -> str:
    lines = []
    if results.idle_rss_bytes is not None:
        lines.append(f"- Memory of SOLLOL when idle: {results.idle_rss_bytes / MIB:.0f} MiB.\n")
        runs = results.streams.get((SOLLOL, MANY_STREAMS))
        if runs:
            grown_bytes = max(run.peak_rss_bytes for run in runs) - results.idle_rss_bytes
            each_kib = grown_bytes / MANY_STREAMS.streams / 1024
            lines.append(f"- Memory of each of 1,000 streams: {each_kib:.0f} KiB.\n")
    left = results.leaving
    if left is not None:
        lines.append(
            f"- All {left.streams} clients killed in the middle of their streams: no request in "
            f"flight after {left.in_flight_zero_s * 1e3:.0f} ms, no stream left on the node after "
            f"{left.node_zero_s * 1e3:.0f} ms.\n"
        )
    return "## Memory, and clients that leave\n\n" + "".join(lines) if lines else ""


def _machine(results: Results) -> str:
    busy = f"{results.foreign_ratio:.0%} of all CPU time in the meantime"
    rows = [*results.machine, ("Cores", results.layout), ("Other work on the machine", busy)]
    note = "\nThis was a quick run: short rounds, less to trust.\n" if results.is_quick else ""
    return "## How it was measured\n\n" + _METHOD + note + "\n" + table(("", ""), rows)


def _median(runs: Sequence[Run], read: Callable[[Run], float]) -> float:
    return Spread.of([read(run) for run in runs]).median


def _rounds(runs: Iterable[Sequence[object]]) -> str:
    count = max(len(each) for each in runs)
    return f"{count} round{'s' if count > 1 else ''}."


def _times(spread: Spread) -> str:
    return f"{spread.median:.2f} ({spread.low:.2f} to {spread.high:.2f})"


def _ms(seconds: float) -> str:
    return f"{seconds * 1e3:.2f}"


def _us(seconds: float) -> str:
    return f"{seconds * 1e6:.0f}"
