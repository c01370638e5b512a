"""Policies side by side on one workload, and the load that a policy can just carry."""

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from random import Random

from sollol.bench.fleets import Fleet
from sollol.bench.virtual.direct import DIRECT_POLICIES, DirectBalancer
from sollol.bench.virtual.drive import Drive, Front, Record, Replay, Slowdown
from sollol.bench.virtual.gateway import Gateway
from sollol.bench.workload import Request
from sollol.scheduling.scheduler import Scheduler

MakeScheduler = Callable[[str, Random], Scheduler]
MakeWorkload = Callable[[float, int], Sequence[Request]]
"""A workload by its load factor and its seed."""

GRACE_S = 60.0
MAX_P95_WAIT_S = 15.0
MIN_SERVED = 0.99


def replay(
    policy: str,
    fleet: Fleet,
    requests: Sequence[Request],
    *,
    seed: int,
    make_scheduler: MakeScheduler,
    slowdowns: Sequence[Slowdown] = (),
) -> Replay:
    """Run one policy over a workload; the same arguments give the same records."""
    drive = Drive(fleet.nodes, requests)
    rng = Random(seed)
    front: Front
    if policy in DIRECT_POLICIES:
        front = DirectBalancer(drive, policy, rng)
    else:
        front = Gateway(drive, make_scheduler(policy, rng))
    return drive.run(front, slowdowns)


def quantile(values: Iterable[float], share: float) -> float:
    """Return the value that ``share`` of them do not exceed; 0 of none."""
    ordered = sorted(values)
    return ordered[min(len(ordered) - 1, int(share * len(ordered)))] if ordered else 0.0


def mean(values: Iterable[float]) -> float:
    """Return the mean; 0 of none."""
    listed = list(values)
    return sum(listed) / len(listed) if listed else 0.0


def is_carried(result: Replay) -> bool:
    """Whether a policy kept up with a load.

    1. At least 99 % of the requests were served. 2. The last answer came within 60 s of the last
    arrival. 3. 95 % waited at most 15 s for a slot, in the gateway and on the node together.
    """
    records = result.records
    served = sum(record.outcome == "served" for record in records)
    waits = (record.queue_wait_s + record.node_wait_s for record in records)
    return (
        served >= MIN_SERVED * len(records)
        and result.ended_at <= records[-1].arrived_at + GRACE_S
        and quantile(waits, 0.95) <= MAX_P95_WAIT_S
    )


def find_load(
    policy: str,
    fleet: Fleet,
    make_workload: MakeWorkload,
    make_scheduler: MakeScheduler,
    seeds: Sequence[int] = (1, 2, 3),
) -> float:
    """Return the highest load factor that a policy carries with most of the seeds, within 3 %."""

    def carries(factor: float) -> bool:
        kept = (
            is_carried(
                replay(
                    policy,
                    fleet,
                    make_workload(factor, seed),
                    seed=seed,
                    make_scheduler=make_scheduler,
                )
            )
            for seed in seeds
        )
        return sum(kept) * 2 > len(seeds)

    low, high = _bracket(carries)
    while high / low > 1.03:
        middle = (low * high) ** 0.5
        low, high = (middle, high) if carries(middle) else (low, middle)
    return low


def _bracket(carries: Callable[[float], bool]) -> tuple[float, float]:
    low = 1.0
    while not carries(low):
        low /= 2
        if low < 0.01:
            raise ValueError("no load is small enough for this policy")
    high = low * 2
    while carries(high):
        low, high = high, high * 2
    return low, high


@dataclass(frozen=True, slots=True)
class Summary:
    """One policy's figures over all seeds; latencies in seconds, counts for one seed on average."""

    policy: str
    mean_s: float
    p50_s: float
    p95_s: float
    p99_s: float
    first_byte_p95_s: float
    loads: float
    reloads: float
    evictions: float
    success: float
    """Share of the requests that were served."""
    by_priority: dict[int, tuple[float, float]]
    """Mean and p95 latency."""
    by_node: dict[str, float]
    prediction_error: float
    """The median of how far, as a share of the truth, the predicted seconds were off."""


def summarise(policy: str, replays: Sequence[Replay]) -> Summary:
    """Return the figures of several runs of a policy."""
    records = [record for one in replays for record in one.records]
    served = [record for record in records if record.outcome == "served"]
    latencies = sorted(record.latency_s for record in served)
    runs = len(replays)
    return Summary(
        policy=policy,
        mean_s=mean(latencies),
        p50_s=quantile(latencies, 0.5),
        p95_s=quantile(latencies, 0.95),
        p99_s=quantile(latencies, 0.99),
        first_byte_p95_s=quantile((record.first_byte_s for record in served), 0.95),
        loads=sum(one.loads for one in replays) / runs,
        reloads=sum(one.reloads for one in replays) / runs,
        evictions=sum(one.evictions for one in replays) / runs,
        success=len(served) / max(1, len(records)),
        by_priority=_by_priority(served),
        by_node=_by_node(served, runs),
        prediction_error=_prediction_error(served),
    )


def _by_priority(served: Sequence[Record]) -> dict[int, tuple[float, float]]:
    grouped: dict[int, list[float]] = {}
    for record in served:
        grouped.setdefault(record.priority, []).append(record.latency_s)
    return {
        priority: (mean(grouped[priority]), quantile(grouped[priority], 0.95))
        for priority in sorted(grouped)
    }


def _by_node(served: Sequence[Record], runs: int) -> dict[str, float]:
    counts: dict[str, float] = {}
    for record in served:
        counts[record.node] = counts.get(record.node, 0.0) + 1 / runs
    return dict(sorted(counts.items()))


def _prediction_error(served: Sequence[Record]) -> float:
    predicted = [record for record in served if record.predicted_s > 0]
    errors = (abs(r.predicted_s - r.service_s) / max(r.service_s, 1e-3) for r in predicted)
    return quantile(errors, 0.5)
