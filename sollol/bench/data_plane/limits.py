"""The limits that SOLLOL promises to keep, held against what was measured. Pure."""

from collections.abc import Iterator

from sollol.bench.common.numbers import Spread
from sollol.bench.common.verdicts import MIB, Verdict, factor, milliseconds
from sollol.bench.data_plane.results import DIRECT, HTTPX, NGINX, SOLLOL, Results, StreamLoad

MANY_STREAMS = StreamLoad(1000, 30)
SLOW_STREAMS = StreamLoad(500, 5)


def judge(results: Results) -> list[Verdict]:
    """Return a verdict on every limit that was measured."""
    return [
        *_short(results),
        *_latency(results),
        *_many_streams(results),
        *_slow_streams(results),
        *_blob(results),
        *_memory(results),
    ]


def _short(results: Results) -> Iterator[Verdict]:
    limits = {NGINX: 0.15, HTTPX: 10.0}
    for name, limit in limits.items():
        if name not in results.short or SOLLOL not in results.short:
            continue
        rates = [run.requests_per_s for run in results.short[SOLLOL]]
        ratio = Spread.of_ratios(rates, [run.requests_per_s for run in results.short[name]])
        yield Verdict(
            f"Requests/s against {name}", f">= {limit:g}x", factor(ratio), ratio.median >= limit
        )


def _latency(results: Results) -> Iterator[Verdict]:
    if SOLLOL not in results.latency:
        return
    runs, bases = results.latency[SOLLOL], results.latency[DIRECT]
    p50 = Spread.of_differences([run.p50_s for run in runs], [run.p50_s for run in bases])
    p99 = Spread.of_differences([run.p99_s for run in runs], [run.p99_s for run in bases])
    for name, spread, limit_s in (("p50", p50, 0.0005), ("p99", p99, 0.003)):
        text = f"Added to the {name} at a fixed rate"
        yield Verdict(
            text, f"<= {limit_s * 1e3:g} ms", milliseconds(spread), spread.median <= limit_s
        )


def _many_streams(results: Results) -> Iterator[Verdict]:
    runs = results.streams.get((SOLLOL, MANY_STREAMS))
    if not runs:
        return
    finished = Spread.of([run.finished_ratio for run in runs])
    yield Verdict(
        "1,000 streams on one core, finished", "100 %", f"{finished.low:.0%}", finished.low == 1
    )
    first = Spread.of([run.first_p99_s for run in runs])
    yield Verdict(
        "1,000 streams, first chunk p99", "<= 150 ms", milliseconds(first), first.median <= 0.15
    )
    bases = results.streams.get((NGINX, MANY_STREAMS))
    if bases:
        ratio = Spread.of_ratios([run.cpu_s for run in runs], [run.cpu_s for run in bases])
        yield Verdict("CPU per chunk against nginx", "<= 2x", factor(ratio), ratio.median <= 2)


def _slow_streams(results: Results) -> Iterator[Verdict]:
    runs = results.streams.get((SOLLOL, SLOW_STREAMS))
    if runs:
        delay = Spread.of([run.delay_p99_s for run in runs])
        yield Verdict(
            "500 slow streams, chunk delay p99", "<= 5 ms", milliseconds(delay),
            delay.median <= 0.005,
        )  # fmt: skip


def _blob(results: Results) -> Iterator[Verdict]:
    runs, bases = results.blob.get(SOLLOL), results.blob.get(DIRECT)
    if not runs or not bases:
        return
    size = f"{runs[0].size_bytes / 1024 / MIB:g} GiB blob"
    ratio = Spread.of_ratios([run.duration_s for run in bases], [run.duration_s for run in runs])
    yield Verdict(f"{size}, speed against direct", ">= 0.5x", factor(ratio), ratio.median >= 0.5)
    grown_mib = max(run.grown_bytes for run in runs) / MIB
    yield Verdict(f"{size}, memory grows by", "< 32 MiB", f"{grown_mib:.1f} MiB", grown_mib < 32)


def _memory(results: Results) -> Iterator[Verdict]:
    if results.idle_rss_bytes is not None:
        size_mib = results.idle_rss_bytes / MIB
        yield Verdict("Memory when idle", "<= 120 MiB", f"{size_mib:.0f} MiB", size_mib <= 120)
