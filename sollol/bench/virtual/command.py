"""``python -m sollol.bench.virtual``: policies compared on a virtual fleet, in seconds.

Example:
    python -m sollol.bench.virtual --policies fastest,round_robin --fleet heterogeneous --factor auto
"""

import argparse
import time
from collections.abc import Sequence
from pathlib import Path

from sollol.bench.balance import DIRECT_POLICIES
from sollol.bench.fleets import FLEETS
from sollol.bench.outcome import summarise
from sollol.bench.traces import read_azure, read_mooncake, window
from sollol.bench.virtual.compare import MakeWorkload, find_load, replay
from sollol.bench.virtual.policies import make_scheduler
from sollol.bench.virtual.text import tables
from sollol.bench.workload import Request, mixed_contexts, synthetic
from sollol.scheduling.policies import POLICIES

BASE_RATE_PER_S = 1.0
"""Requests a second of the synthetic mix at factor 1."""


MADE = {"synthetic": synthetic, "contexts": mixed_contexts}
"""Workloads that are made, not read."""


def parse_arguments(arguments: Sequence[str] | None = None) -> argparse.Namespace:
    """Return what the command line asks for."""
    parser = argparse.ArgumentParser(prog="python -m sollol.bench.virtual", description=__doc__)
    known = ", ".join((*POLICIES, *DIRECT_POLICIES))
    default = ",".join((*POLICIES, *DIRECT_POLICIES))
    parser.add_argument("--policies", default=default, help=f"comma-separated, of: {known}")
    parser.add_argument("--fleet", choices=sorted(FLEETS), default="heterogeneous")
    parser.add_argument(
        "--workload", choices=("synthetic", "contexts", "azure", "mooncake"), default="synthetic"
    )
    parser.add_argument("--trace", type=Path, help="the file of the azure or mooncake trace")
    parser.add_argument("--start-s", type=float, default=0.0, help="where in the trace to begin")
    parser.add_argument("--requests", type=int, default=2000)
    parser.add_argument("--seeds", type=int, default=3, help="how many runs of each policy")
    parser.add_argument(
        "--factor", default="auto", help="load factor, or auto: what --carry carries"
    )
    parser.add_argument(
        "--carry",
        default="least_in_flight",
        help="the policy whose highest load is used with --factor auto",
    )
    chosen = parser.parse_args(arguments)
    if (chosen.workload in MADE) is not (chosen.trace is None):
        parser.error("--trace goes with --workload azure or mooncake")
    return chosen


def workload_maker(chosen: argparse.Namespace) -> MakeWorkload:
    """Return how to make the chosen workload at a load factor with a seed."""
    read: dict[int, list[Request]] = {}

    def make(factor: float, seed: int) -> Sequence[Request]:
        if chosen.workload in MADE:
            rate_per_s = BASE_RATE_PER_S * factor
            generate = MADE[chosen.workload]
            return generate(rate_per_s=rate_per_s, requests=chosen.requests, seed=seed)
        if seed not in read:
            reader = read_azure if chosen.workload == "azure" else read_mooncake
            read[seed] = reader(chosen.trace, seed=seed)
        return window(read[seed], start_s=chosen.start_s, count=chosen.requests, factor=factor)

    return make


def main(arguments: Sequence[str] | None = None) -> None:
    """Run the command."""
    chosen = parse_arguments(arguments)
    fleet, make_workload = FLEETS[chosen.fleet], workload_maker(chosen)
    seeds = range(1, chosen.seeds + 1)
    if chosen.factor == "auto":
        factor = find_load(chosen.carry, fleet, make_workload, make_scheduler, list(seeds))
        print(f"{chosen.carry} just carries a load factor of {factor:.3f}", flush=True)
    else:
        factor = float(chosen.factor)
    summaries = []
    for policy in chosen.policies.split(","):
        started = time.perf_counter()
        replays = [
            replay(
                policy,
                fleet,
                make_workload(factor, seed),
                seed=seed,
                make_scheduler=make_scheduler,
            )
            for seed in seeds
        ]
        summaries.append(summarise(policy, replays))
        took_s = time.perf_counter() - started
        rate = sum(len(one.records) for one in replays) / took_s
        print(f"{policy}: {took_s:.1f} s, {rate:.0f} requests a second of real time", flush=True)
    print(f"\n{chosen.fleet}, {chosen.workload}, factor {factor:.3f}, {chosen.seeds} seeds\n")
    print(tables(summaries))
