"""What workers on this machine cost: the same model in one process and over two workers, by turns."""

from collections.abc import Sequence
from contextlib import AsyncExitStack
from dataclasses import dataclass, field
from pathlib import Path

from sollol.bench.common.numbers import Spread
from sollol.bench.common.verdicts import Verdict, factor, table
from sollol.bench.sharding.lab import Lab
from sollol.bench.sharding.workers import WorkerSpec, running_workers

WORKERS = 2
TOKENS = 48
ROUNDS = 9
LEAST_SPEED = 0.85


@dataclass
class Speeds:
    """Tokens a second of one model, round by round."""

    model: str
    alone: list[float] = field(default_factory=list)
    sharded: list[float] = field(default_factory=list)

    @property
    def ratio(self) -> Spread:
        """Sharded against alone."""
        return Spread.of_ratios(self.sharded, self.alone)


@dataclass(frozen=True, slots=True)
class Loads:
    """Seconds of loads of one model, round by round."""

    alone: Sequence[float]
    plain: Sequence[float]
    """Over workers without a cache."""
    filling: Sequence[float]
    """The first time with an empty cache, which it fills."""
    cached: Sequence[float]


async def measure_speed(lab: Lab, name: str, rounds: int = ROUNDS) -> Speeds:
    """Ask both by turns; the one that is not asked waits and computes nothing.

    Raises:
        ChildFailed: one does not come up, or does not answer well.
    """
    speeds = Speeds(name)
    async with AsyncExitStack() as stack:
        workers = await stack.enter_async_context(
            running_workers(lab.binaries, [WorkerSpec() for _ in range(WORKERS)])
        )
        plan = await lab.plan([worker.address for worker in workers], lab.memory_for(WORKERS))
        sharded = await stack.enter_async_context(lab.running(plan))
        alone = await stack.enter_async_context(lab.running(lab.plan_alone()))
        for one in (sharded, alone):
            await one.complete(TOKENS)
        for _ in range(rounds):
            speeds.alone.append(await alone.complete(TOKENS))
            speeds.sharded.append(await sharded.complete(TOKENS))
    return speeds


async def measure_loads(lab: Lab, folder: Path, rounds: int) -> Loads:
    """Load a model in four ways, one after the other, so many times.

    Raises:
        ChildFailed: it does not come up.
    """
    alone, plain, filling, cached = [], [], [], []
    for number in range(rounds):
        async with lab.running(lab.plan_alone()) as running:
            alone.append(running.load_s)
        plain.append(await _load_s(lab, None))
        cache = folder / f"cache-{number}"
        filling.append(await _load_s(lab, cache))
        cached.append(await _load_s(lab, cache))
    return Loads(alone, plain, filling, cached)


async def _load_s(lab: Lab, cache: Path | None) -> float:
    specs = [WorkerSpec(cache=cache) for _ in range(WORKERS)]
    async with running_workers(lab.binaries, specs) as workers:
        plan = await lab.plan([worker.address for worker in workers], lab.memory_for(WORKERS))
        async with lab.running(plan) as running:
            return running.load_s


def judge_speeds(speeds: Sequence[Speeds]) -> list[Verdict]:
    """Hold them against the limit."""
    return [
        Verdict(
            f"{one.model}: tokens/s over {WORKERS} workers, against one process",
            f">= {LEAST_SPEED:.2f}x",
            factor(one.ratio),
            one.ratio.median >= LEAST_SPEED,
        )
        for one in speeds
    ]


def describe_speeds(speeds: Sequence[Speeds]) -> str:
    """Return the figures behind the verdicts."""
    rows = [
        (
            one.model,
            factor(one.ratio),
            f"{Spread.of(one.alone).median:.1f}",
            f"{Spread.of(one.sharded).median:.1f}",
        )
        for one in speeds
    ]
    return table(("", "against one process", "one process", f"{WORKERS} workers"), rows)


def describe_loads(loads: Loads) -> str:
    """Return the seconds of each way, against one process."""
    ways = {
        "one process": loads.alone,
        f"{WORKERS} workers without a cache": loads.plain,
        f"{WORKERS} workers, filling their cache": loads.filling,
        f"{WORKERS} workers, from their cache": loads.cached,
    }
    rows = [
        (
            name,
            factor(Spread.of_ratios(seconds, loads.alone)),
            f"{Spread.of(seconds).median:.2f}",
        )
        for name, seconds in ways.items()
    ]
    return table(("", "against one process", "seconds"), rows)
