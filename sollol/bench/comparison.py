"""Policies side by side: rounds over the same workloads, over HTTP or on a virtual clock."""

import tempfile
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Protocol

from sollol.bench.balance import DIRECT_POLICIES
from sollol.bench.common.machine import ForeignLoad, describe_machine
from sollol.bench.faults.script import Outage, make_script
from sollol.bench.fleets import Fleet
from sollol.bench.live.processes import NO_RETRIES
from sollol.bench.live.run import Setup, run_policy
from sollol.bench.outcome import Replay, Summary, summarise
from sollol.bench.virtual.compare import find_load, replay
from sollol.bench.virtual.policies import make_scheduler
from sollol.bench.workload import Request
from sollol.bench.workloads import Source
from sollol.scheduling.policies import POLICIES


class Progress(Protocol):
    """Shows how far a comparison is."""

    def __call__(self, name: str, ended: int, *, count: int) -> None:
        """Hear a run's name, how many of its requests have ended, and how many there are."""


@dataclass(frozen=True)
class Plan:
    """What to compare; rates and times are those of the simulated nodes.

    Raises:
        ValueError: a policy is not known or named twice, or a virtual clock is to do what it cannot.
    """

    policies: Sequence[str]
    """Names of policies; behind one, ``:no_retries`` is its gateway without retries."""
    fleet: Fleet
    source: Source
    requests: int
    rounds: int
    seed: int
    rate_per_s: float
    time_scale: float | None
    """Real seconds of a simulated one; None for a virtual clock instead of HTTP."""
    with_faults: bool = False
    """Whether nodes fail, on a script that each round has its own of."""

    def __post_init__(self) -> None:
        known = (*POLICIES, *DIRECT_POLICIES)
        served = [f"{policy}{NO_RETRIES}" for policy in POLICIES]
        unknown = [policy for policy in self.policies if policy not in (*known, *served)]
        if unknown:
            raise ValueError(
                f"no such policy: {unknown[0]}; there are {', '.join(known)}, "
                f"the first {len(POLICIES)} also with {NO_RETRIES} behind them"
            )
        if len(set(self.policies)) < len(self.policies):
            raise ValueError("a policy is named twice")
        if self.time_scale is None and (self.with_faults or set(served) & set(self.policies)):
            raise ValueError("nodes that fail, and gateways without retries, are not virtual")

    def script(self, seed: int, span_s: float) -> list[Outage]:
        """Return the faults of a round whose last request comes after ``span_s``."""
        return make_script(list(self.fleet.nodes), span_s, seed) if self.with_faults else []

    def workload(self, seed: int) -> Sequence[Request]:
        """Return the requests of a round."""
        return self.source.make(self.rate_per_s, self.requests, seed)


@dataclass(frozen=True)
class Comparison:
    """What came of a plan: for each policy one run a round."""

    plan: Plan
    replays: Mapping[str, Sequence[Replay]]
    machine: Sequence[tuple[str, str]] = ()
    foreign_ratio: float | None = None
    """Share of the machine's CPU time that went to others, where that was measured."""
    command: str = ""
    summaries: Mapping[str, Summary] = field(init=False)

    def __post_init__(self) -> None:
        summaries = {name: summarise(name, runs) for name, runs in self.replays.items()}
        object.__setattr__(self, "summaries", summaries)

    @property
    def lateness_s(self) -> list[float]:
        """How late requests were sent, in all runs; empty on a virtual clock."""
        runs = (run for each in self.replays.values() for run in each)
        return [late_s for run in runs for late_s in run.lateness_s]


def carried_rate(policy: str, fleet: Fleet, source: Source, requests: int, seed: int) -> float:
    """Return the rate that a policy just carries on a virtual clock.

    Raises:
        OSError: a trace cannot be read.
        ValueError: there is no such policy, or the trace is none.
    """

    def make(rate_per_s: float, seed: int) -> Sequence[Request]:
        return source.make(rate_per_s, requests, seed)

    seeds = range(seed, seed + 3)
    return find_load(policy, fleet, make, make_scheduler, seeds)


def compare(plan: Plan, command: str, progress: Progress) -> Comparison:
    """Run every policy in every round, each round in another order.

    Raises:
        ChildFailed: a process of a run over HTTP did not do its part.
        OSError, ValueError: a trace cannot be read.
    """
    is_measured = plan.time_scale is not None and Path("/proc/stat").exists()
    foreign = ForeignLoad() if is_measured else None
    replays: dict[str, list[Replay]] = {policy: [] for policy in plan.policies}
    for place in range(plan.rounds):
        seed, turn = plan.seed + place, place % len(plan.policies)
        requests = plan.workload(seed)
        for policy in (*plan.policies[turn:], *plan.policies[:turn]):
            name = f"round {place + 1} of {plan.rounds}, {policy}"
            tell = partial(progress, name, count=len(requests))
            tell(0)
            replays[policy].append(_run(plan, policy, seed, requests, tell))
    machine = [row for row in describe_machine(None, None) if row[1] != "not installed"]
    return Comparison(plan, replays, machine, foreign.ratio() if foreign else None, command)


def _run(
    plan: Plan,
    policy: str,
    seed: int,
    requests: Sequence[Request],
    tell: Callable[[int], None],
) -> Replay:
    if plan.time_scale is None:
        done = replay(policy, plan.fleet, requests, seed=seed, make_scheduler=make_scheduler)
        tell(len(requests))
        return done
    with tempfile.TemporaryDirectory(prefix="sollol-bench-") as folder:
        script = plan.script(seed, requests[-1].at)
        setup = Setup(plan.fleet, Path(folder), plan.time_scale, script)
        return run_policy(setup, policy, requests, seed=seed, progress=tell)
