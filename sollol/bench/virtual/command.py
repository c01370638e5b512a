"""``python -m sollol.bench.virtual``: policies compared on a virtual fleet, in seconds.

Example:
    python -m sollol.bench.virtual --policies fastest,round_robin --fleet heterogeneous --rate auto
"""

import argparse
import time
from collections.abc import Sequence
from pathlib import Path

from sollol.bench.balance import DIRECT_POLICIES
from sollol.bench.fleets import FLEETS
from sollol.bench.outcome import summarise
from sollol.bench.text import tables
from sollol.bench.virtual.compare import find_load, replay
from sollol.bench.virtual.policies import make_scheduler
from sollol.bench.workload import Request
from sollol.bench.workloads import Kind, Source
from sollol.scheduling.policies import POLICIES


def parse_arguments(arguments: Sequence[str] | None = None) -> argparse.Namespace:
    """Return what the command line asks for."""
    parser = argparse.ArgumentParser(prog="python -m sollol.bench.virtual", description=__doc__)
    known = (*POLICIES, *DIRECT_POLICIES)
    parser.add_argument(
        "--policies", default=",".join(known), help=f"comma-separated, of: {', '.join(known)}"
    )
    parser.add_argument("--fleet", choices=sorted(FLEETS), default="heterogeneous")
    parser.add_argument("--workload", type=Kind, choices=list(Kind), default=Kind.SYNTHETIC)
    parser.add_argument("--trace", type=Path, help="the file of the azure or mooncake trace")
    parser.add_argument("--start-s", type=float, default=0.0, help="where in the trace to begin")
    parser.add_argument("--requests", type=int, default=2000)
    parser.add_argument("--seeds", type=int, default=3, help="how many runs of each policy")
    parser.add_argument(
        "--rate", default="auto", help="requests a second, or auto: what --carry carries"
    )
    parser.add_argument(
        "--carry",
        default="least_in_flight",
        help="the policy whose highest load is used with --rate auto",
    )
    chosen = parser.parse_args(arguments)
    try:
        chosen.source = Source(chosen.workload, chosen.trace, chosen.start_s)
    except ValueError as error:
        parser.error(str(error))
    return chosen


def main(arguments: Sequence[str] | None = None) -> None:
    """Run the command."""
    chosen = parse_arguments(arguments)
    fleet, seeds = FLEETS[chosen.fleet], list(range(1, chosen.seeds + 1))
    source: Source = chosen.source

    def make(rate_per_s: float, seed: int) -> Sequence[Request]:
        return source.make(rate_per_s, chosen.requests, seed)

    if chosen.rate == "auto":
        rate_per_s = find_load(chosen.carry, fleet, make, make_scheduler, seeds)
        print(f"{chosen.carry} just carries {rate_per_s:.3f} requests a second", flush=True)
    else:
        rate_per_s = float(chosen.rate)
    summaries = []
    for policy in chosen.policies.split(","):
        started = time.perf_counter()
        replays = [
            replay(policy, fleet, make(rate_per_s, seed), seed=seed, make_scheduler=make_scheduler)
            for seed in seeds
        ]
        summaries.append(summarise(policy, replays))
        took_s = time.perf_counter() - started
        speed = sum(len(one.records) for one in replays) / took_s
        print(f"{policy}: {took_s:.1f} s, {speed:.0f} requests a second of real time", flush=True)
    what = f"{chosen.fleet}, {chosen.workload}, {rate_per_s:.3f} requests a second"
    print(f"\n{what}, {chosen.seeds} seeds\n\n{tables(summaries)}")
