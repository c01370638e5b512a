"""Policies side by side on one workload, and the load that a policy can just carry."""

from collections.abc import Callable, Sequence
from random import Random

from sollol.bench.balance import DIRECT_POLICIES, Balance
from sollol.bench.fleets import Fleet
from sollol.bench.outcome import Replay, quantile
from sollol.bench.virtual.direct import DirectBalancer
from sollol.bench.virtual.drive import Drive, Front, Slowdown
from sollol.bench.virtual.gateway import Gateway
from sollol.bench.workload import Request
from sollol.scheduling.scheduler import Scheduler

MakeScheduler = Callable[[str, Random], Scheduler]
MakeWorkload = Callable[[float, int], Sequence[Request]]
"""A workload by its rate in requests a second, and its seed."""

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
        front = DirectBalancer(drive, Balance(policy, fleet, rng))
    else:
        front = Gateway(drive, make_scheduler(policy, rng))
    return drive.run(front, slowdowns)


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
    """Return the highest rate that a policy carries with most of the seeds, within 3 %."""

    def carries(factor: float) -> bool:
        kept = lost = 0
        for seed in seeds:
            workload = make_workload(factor, seed)
            run = replay(policy, fleet, workload, seed=seed, make_scheduler=make_scheduler)
            is_kept = is_carried(run)
            kept, lost = kept + is_kept, lost + (not is_kept)
            if max(kept, lost) * 2 > len(seeds):
                break  # the other seeds cannot change it, and each is a whole run
        return kept > lost

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
