"""What a soak shows: growth by request, files and requests left over. Pure."""

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field

from sollol.bench.common.verdicts import MIB, Verdict, table
from sollol.bench.endurance.soak_load import cuts

WARM_UP = 0.2
GROWTH_BYTES = 8 * MIB
FILES = 4


@dataclass(frozen=True, slots=True)
class Moment:
    """The gateway after so many requests. ``files`` are those beside connections to nodes."""

    requests: int
    rss_bytes: int
    files: int
    connections: int
    in_flight: int
    waiting: int


@dataclass
class Figures:
    """What was measured."""

    before: Moment
    """At idle, after some requests."""
    after: Moment
    """At idle, at the end."""
    moments: Sequence[Moment] = ()
    outcomes: Counter[str] = field(default_factory=Counter)
    faults: Counter[str] = field(default_factory=Counter)
    cpu_s: float = 0.0
    duration_s: float = 0.0


def warmed_up(moments: Sequence[Moment], share: float = WARM_UP) -> list[Moment]:
    """Return the moments after the first share of the requests."""
    begin = moments[-1].requests * share if moments else 0.0
    return [moment for moment in moments if moment.requests >= begin]


def slope(points: Sequence[tuple[float, float]]) -> float:
    """Return the slope of the line with the least squares; 0 where there is none."""
    if not points:
        return 0.0
    mean_x = sum(x for x, _ in points) / len(points)
    mean_y = sum(y for _, y in points) / len(points)
    spread = sum((x - mean_x) ** 2 for x, _ in points)
    if not spread:
        return 0.0
    return sum((x - mean_x) * (y - mean_y) for x, y in points) / spread


def bytes_per_request(moments: Sequence[Moment], share: float = WARM_UP) -> float:
    """Return by how much memory grows with each request after the first share of them."""
    return slope([(moment.requests, moment.rss_bytes) for moment in warmed_up(moments, share)])


def growth_bytes(moments: Sequence[Moment]) -> float:
    """Return by how much the fitted line rises from the end of the warm-up to the end."""
    warm = warmed_up(moments)
    return bytes_per_request(moments) * (warm[-1].requests - warm[0].requests) if warm else 0.0


def judge(figures: Figures) -> list[Verdict]:
    """Return a verdict on every limit."""
    grown = growth_bytes(figures.moments)
    files = figures.after.files - figures.before.files
    outcomes = figures.outcomes
    answered = ("right", "aborted", "cut")
    wrong = {name: count for name, count in outcomes.items() if name not in answered}
    most_cut = cuts(figures.faults)
    left = figures.after.in_flight + figures.after.waiting
    return [
        Verdict(
            "Memory after warm-up grows by",
            f"<= {GROWTH_BYTES / MIB:g} MiB",
            f"{grown / MIB:.1f} MiB",
            grown <= GROWTH_BYTES,
        ),
        Verdict(
            "Open files at idle, beside connections to nodes, change by",
            f"+-{FILES}",
            f"{files:+d}",
            abs(files) <= FILES,
        ),
        Verdict("In flight or in the queue at the end", "0", f"{left}", left == 0),
        Verdict("Hung requests", "0", f"{outcomes['hung']}", outcomes["hung"] == 0),
        Verdict("Failed before the first byte", "0", _counts(wrong), not wrong),
        Verdict(
            "Cut after the first byte",
            f"<= {most_cut:,} (such faults)",
            f"{outcomes['cut']:,}",
            outcomes["cut"] <= most_cut,
        ),
    ]


def describe(figures: Figures) -> str:
    """Return the figures behind the verdicts."""
    total = sum(figures.outcomes.values())
    kept = total - figures.outcomes["aborted"]
    return (
        "## Figures\n\n"
        + table(
            ("after requests", "resident memory", "files", "connections to nodes"), _rows(figures)
        )
        + f"\n- Memory grows by {bytes_per_request(figures.moments):.1f} bytes a request after warm-up, by "
        f"{bytes_per_request(figures.moments, 0.5):.1f} in the last half.\n"
        f"- {total:,} requests in {figures.duration_s:.0f} s, {total / figures.duration_s:.0f} a second; "
        f"CPU of the gateway {figures.cpu_s / total * 1e6:.0f} us a request.\n"
        f"- Answered right: {figures.outcomes['right'] / max(1, kept):.3%} of those that the caller waited for.\n"
        f"- Outcomes: {_counts(figures.outcomes)}.\n"
        f"- Faults: {_counts(figures.faults)}.\n"
    )


def _rows(figures: Figures) -> list[tuple[str, ...]]:
    """Return the moments nearest to each tenth of the run, and the two at idle."""
    moments = figures.moments
    last = moments[-1].requests if moments else 0
    tenths = [_nearest(moments, last * n / 10) for n in range(1, 11) if moments]
    named = [("idle, before", figures.before)]
    named += [(f"{moment.requests:,}", moment) for moment in dict.fromkeys(tenths)]
    named.append(("idle, after", figures.after))
    return [
        (name, f"{m.rss_bytes / MIB:.2f} MiB", f"{m.files}", f"{m.connections}")
        for name, m in named
    ]


def _nearest(moments: Sequence[Moment], requests: float) -> Moment:
    return min(moments, key=lambda moment: abs(moment.requests - requests))


def _counts(counts: Counter[str] | dict[str, int]) -> str:
    listed = sorted(counts.items(), key=lambda item: (-item[1], item[0]))
    return ", ".join(f"{name} {count:,}" for name, count in listed) or "none"
