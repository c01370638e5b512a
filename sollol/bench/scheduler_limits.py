"""``make limits``: what the default policy must hold against others, on a virtual clock.

Each check replays workloads on virtual nodes; the same seeds give the same page.
"""

import sys
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Annotated

import typer

from sollol.bench.common.verdicts import Verdict, table
from sollol.bench.fleets import HETEROGENEOUS, HOMOGENEOUS, Fleet
from sollol.bench.outcome import Record, Replay, Summary, mean, quantile, summarise
from sollol.bench.virtual.compare import find_load, replay
from sollol.bench.virtual.drive import Slowdown
from sollol.bench.virtual.policies import make_scheduler
from sollol.bench.workload import (
    MODELS,
    Request,
    batch_under_chat,
    mixed_contexts,
    steady_chat,
    synthetic,
)

PAGE = Path("docs/benchmarks/scheduler-limits.md")


@dataclass(frozen=True, slots=True)
class Size:
    """How much is replayed for each figure."""

    requests: int = 2000
    seeds: tuple[int, ...] = (1, 2, 3)
    seconds: float = 400.0
    """How long each part of a check lasts whose parts differ."""


QUICK = Size(requests=220, seeds=(1,), seconds=20.0)

FASTEST, ROUND_ROBIN, LEAST = "fastest", "round_robin", "least_in_flight"

_SATURATING_PER_S = 10.0
"""Batch requests a second, more than the unequal nodes can answer."""

_INTRO = """\
# What the scheduler holds

`make limits ARGS=--write` replays every workload below on [virtual
nodes](../architecture/simulation.md#on-a-virtual-clock) and writes this page; the same commit gives the
same figures. [Scheduling policies](scheduler.md) says what fleets, workloads and policies are. Seconds
are those of the nodes; figures of several seeds are over all their requests.
"""


def check_heterogeneous(size: Size) -> Iterator[Verdict]:
    """Mixed traffic on unequal nodes, at the rate that ``least_in_flight`` just carries."""
    runs = _mixed(HETEROGENEOUS, size)
    ours, turn, least = runs[FASTEST], runs[ROUND_ROBIN], runs[LEAST]
    yield _ratio("Unequal nodes, mean latency to round_robin", ours.mean_s, turn.mean_s, 0.35)
    yield _ratio("Unequal nodes, p95 to round_robin", ours.p95_s, turn.p95_s, 0.35)
    yield _ratio("Unequal nodes, mean latency to least_in_flight", ours.mean_s, least.mean_s, 0.5)
    yield _ratio("Unequal nodes, p95 to least_in_flight", ours.p95_s, least.p95_s, 0.5)
    yield _ratio("Unequal nodes, model loads to round_robin", ours.loads, turn.loads, 0.3)
    served = f"{ours.success:.2%}"
    yield Verdict("Unequal nodes, requests served", "100 %", served, ours.success == 1.0)


def check_homogeneous(size: Size) -> Iterator[Verdict]:
    """The same on equal nodes."""
    runs = _mixed(HOMOGENEOUS, size)
    ours, least = runs[FASTEST], runs[LEAST]
    yield _ratio("Equal nodes, mean latency to least_in_flight", ours.mean_s, least.mean_s, 1.03)
    yield _ratio("Equal nodes, p95 to least_in_flight", ours.p95_s, least.p95_s, 1.0)


def check_contexts(size: Size) -> Iterator[Verdict]:
    """Applications that each want another context length."""

    def reloads(policy: str) -> int:
        requests = (
            mixed_contexts(rate_per_s=1.0, requests=size.requests, seed=s) for s in size.seeds
        )
        return sum(_replay(policy, HETEROGENEOUS, each).reloads for each in requests)

    ratio = reloads(FASTEST), reloads("direct_round_robin")
    yield _ratio("Mixed num_ctx, reloads to a round robin without a gateway", *ratio, 0.2)


def check_priority(size: Size) -> Iterator[Verdict]:
    """Chats at priority 8 while batches at priority 1 keep all nodes busy."""
    latencies: dict[float, list[float]] = {0.0: [], _SATURATING_PER_S: []}
    service_s: list[float] = []
    for seed in size.seeds:
        for batch_per_s, urgent in latencies.items():
            requests = batch_under_chat(
                batch_per_s=batch_per_s, chat_per_s=0.2, seconds=size.seconds, seed=seed
            )
            served = _served(_replay(FASTEST, HETEROGENEOUS, requests))
            urgent += [record.latency_s for record in served if record.priority == 8]
            service_s += [record.service_s for record in served if record.priority == 1]
    idle_s, busy_s = (quantile(urgent, 0.95) for urgent in latencies.values())
    limit_s = 1.15 * idle_s + mean(service_s)
    text = "p95 at priority 8 under batches, to 1.15 x idle + one service time"
    yield Verdict(text, f"<= {limit_s:.2f} s", f"{busy_s:.2f} s", busy_s <= limit_s)


def check_learning(size: Size) -> Iterator[Verdict]:
    """Without history, the 201st and later requests fare as those of a gateway that knows all."""
    known: list[float] = []
    new: list[float] = []
    for seed in size.seeds:
        before = synthetic(rate_per_s=0.5, requests=size.requests, seed=seed + 100)
        after = synthetic(rate_per_s=0.5, requests=size.requests, seed=seed)
        start_s = before[-1].at + 1000.0  # whatever was loaded has left
        later = [replace(request, at=request.at + start_s) for request in after]
        known += _after(size.requests + 200, [*before, *later])
        new += _after(200, after)
    text = "After 200 requests without history, mean latency to a gateway with history"
    yield _ratio(text, mean(new), mean(known), 1.1)


def _after(count: int, requests: Sequence[Request]) -> list[float]:
    """Return the latencies of all requests but the first ``count``."""
    records = _replay(FASTEST, HETEROGENEOUS, requests).records
    return [record.latency_s for record in records[count:]]


def check_slow_node(size: Size) -> Iterator[Verdict]:
    """One of four equal nodes takes five times as long for a while."""
    for rate_per_s in (2.0, 4.0):
        runs = [_slow_node(rate_per_s, size.seconds, seed) for seed in size.seeds]
        what = f"{rate_per_s:g} requests/s, a node of four becomes 5x slower"
        lost = max(lost for lost, _ in runs)
        text = f"{what}: its part of the next 500, the worst seed"
        yield Verdict(text, "<= 20", f"{lost}", lost <= 20)
        share = min(share for _, share in runs)
        text = f"{what}: {size.seconds / 2:g} s after it has recovered, its share to that before, the worst seed"
        yield Verdict(text, ">= 0.5x", f"{share:.2f}x", share >= 0.5)


def _slow_node(rate_per_s: float, seconds: float, seed: int) -> tuple[int, float]:
    """Return what the node got of the 500 requests after it became slow, and its share later."""
    slow_s, recovered_s, settled_s, end_s = (seconds * part for part in (1.0, 2.0, 2.5, 3.5))
    requests = steady_chat(MODELS[0].name, rate_per_s=rate_per_s, seconds=end_s, seed=seed)
    slowdowns = (Slowdown(slow_s, "a", 5.0), Slowdown(recovered_s, "a", 1.0))
    records = _replay(FASTEST, HOMOGENEOUS, requests, slowdowns, seed).records

    def on_it(since_s: float, until_s: float) -> list[bool]:
        return [r.node == "a" for r in records if since_s <= r.arrived_at < until_s]

    lost = sum(on_it(slow_s, recovered_s)[:500])
    return lost, mean(on_it(settled_s, end_s)) / mean(on_it(0.0, slow_s))


CHECKS: Sequence[Callable[[Size], Iterator[Verdict]]] = (
    check_heterogeneous,
    check_homogeneous,
    check_contexts,
    check_priority,
    check_learning,
    check_slow_node,
)


def render(verdicts: Sequence[Verdict]) -> str:
    """Return the page."""
    rows = [(v.text, v.limit, v.measured, "yes" if v.holds else "**no**") for v in verdicts]
    return f"{_INTRO}\n{table(('', 'limit', 'measured', 'holds'), rows)}"


def main(
    write: Annotated[bool, typer.Option("--write", help=f"Write the page {PAGE} as well.")] = False,
    quick: Annotated[
        bool, typer.Option("--quick", help="Small runs, to see that it works; they prove nothing.")
    ] = False,
) -> None:
    """Check everything and print the page; exit 1 when a limit does not hold."""
    if write and quick:
        raise typer.BadParameter("--write is for a whole run")
    verdicts: list[Verdict] = []
    for check in CHECKS:
        print((check.__doc__ or "").partition("\n")[0], file=sys.stderr, flush=True)
        verdicts += check(QUICK if quick else Size())
    page = render(verdicts)
    print(page)
    if write:
        PAGE.write_text(page, "utf-8")
    if not quick and not all(verdict.holds for verdict in verdicts):
        raise typer.Exit(1)


def _mixed(fleet: Fleet, size: Size) -> dict[str, Summary]:
    """Return the figures of three policies on the synthetic mix."""

    def make(rate_per_s: float, seed: int) -> list[Request]:
        return synthetic(rate_per_s=rate_per_s, requests=size.requests, seed=seed)

    rate_per_s = find_load(LEAST, fleet, make, make_scheduler, size.seeds)
    return {
        policy: summarise(
            policy,
            [_replay(policy, fleet, make(rate_per_s, seed), seed=seed) for seed in size.seeds],
        )
        for policy in (FASTEST, LEAST, ROUND_ROBIN)
    }


def _replay(
    policy: str,
    fleet: Fleet,
    requests: Sequence[Request],
    slowdowns: Sequence[Slowdown] = (),
    seed: int = 1,
) -> Replay:
    return replay(
        policy, fleet, requests, seed=seed, make_scheduler=make_scheduler, slowdowns=slowdowns
    )


def _served(result: Replay) -> list[Record]:
    return [record for record in result.records if record.outcome == "served"]


def _ratio(text: str, value: float, base: float, limit: float) -> Verdict:
    ratio = value / base if base else float(value > 0)
    return Verdict(text, f"<= {limit:g}x", f"{ratio:.2f}x", ratio <= limit)


if __name__ == "__main__":
    typer.run(main)
