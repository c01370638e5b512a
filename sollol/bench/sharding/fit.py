"""A model that is larger than each worker may be: does it run, and is its memory as planned?"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from sollol.bench.common.verdicts import Verdict, table
from sollol.bench.sharding.lab import Lab, Running
from sollol.bench.sharding.workers import RunningWorker, Taken, WorkerSpec, running_workers, taken
from sollol.sharding.host_memory import available_bytes
from sollol.sharding.memory import GIB

TOKENS = 8
TOLERANCE = 0.10
_SPARE_BYTES = 3 * GIB


@dataclass(frozen=True, slots=True)
class Process:
    """A process, what the plan foresees for it, and what it took."""

    name: str
    planned_bytes: int
    taken: Taken

    @property
    def ratio(self) -> float:
        """The most that it took, against the plan."""
        return self.taken.peak_bytes / self.planned_bytes


@dataclass(frozen=True, slots=True)
class Fit:
    """One run of the model over ``count`` workers that may take ``limit_bytes`` each."""

    count: int
    file_bytes: int
    limit_bytes: int
    load_s: float
    tokens_per_s: float
    processes: Sequence[Process]


def missing_memory(lab: Lab) -> str:
    """Say why this machine cannot run the model; empty if it can."""
    needed, left = lab.whole_bytes() + _SPARE_BYTES, available_bytes()
    if needed <= left:
        return ""
    return f"it needs {needed / 1e9:.0f} GB of memory, and {left / 1e9:.0f} are left"


async def measure_fit(lab: Lab, count: int) -> Fit:
    """Run the model over so many workers, none of which could hold it.

    Raises:
        ChildFailed: it does not load or does not answer.
    """
    limit_bytes = lab.memory_for(count)
    specs = [WorkerSpec(limit_bytes=limit_bytes) for _ in range(count)]
    async with running_workers(lab.binaries, specs) as workers:
        plan = await lab.plan([worker.address for worker in workers], limit_bytes)
        async with lab.running(plan) as running:
            tokens_per_s = await running.complete(TOKENS)
            processes = list(_processes(running, workers))
    facts = lab.model.facts
    return Fit(count, facts.file_bytes, limit_bytes, running.load_s, tokens_per_s, processes)


def _processes(running: Running, workers: Sequence[RunningWorker]) -> Iterable[Process]:
    plan, pids = running.plan, {worker.address: worker.pid for worker in workers}
    for number, share in enumerate(plan.shares, 1):
        what = taken(pids[share.worker.name])
        yield Process(f"worker {number}", share.memory.total_bytes, what)
    assert running.coordinator.pid is not None
    yield Process("coordinator", plan.coordinator_bytes, taken(running.coordinator.pid))


def judge_fits(fits: Iterable[Fit]) -> list[Verdict]:
    """Hold them against the limits: each loads and answers, and takes what was planned."""
    verdicts = []
    for fit in fits:
        furthest = max(fit.processes, key=lambda process: abs(process.ratio - 1))
        verdicts += [
            Verdict(
                f"{fit.file_bytes / 1e9:.1f} GB over {fit.count} workers limited to "
                f"{fit.limit_bytes / 1e9:.1f} GB each",
                "loads, generates",
                f"{fit.tokens_per_s:.2f} tokens/s",
                fit.tokens_per_s > 0 and fit.limit_bytes < fit.file_bytes,
            ),
            Verdict(
                f"Most memory of each process over {fit.count} workers, against the plan",
                f"within {TOLERANCE:.0%}",
                f"{furthest.ratio - 1:+.1%} ({furthest.name})",
                abs(furthest.ratio - 1) <= TOLERANCE,
            ),
        ]
    return verdicts


def describe_fits(fits: Iterable[Fit]) -> str:
    """Return the figures behind the verdicts."""
    rows = [
        (
            f"{fit.count} workers: {process.name}",
            _gb(process.planned_bytes),
            _gb(process.taken.peak_bytes),
            f"{process.ratio - 1:+.1%}",
            _gb(process.taken.private_bytes),
            _gb(process.taken.mapped_bytes),
        )
        for fit in fits
        for process in fit.processes
    ]
    head = (
        "GB",
        "planned",
        "most taken",
        "difference",
        "private at the end",
        "of files at the end",
    )
    return table(head, rows)


def _gb(size_bytes: int) -> str:
    return f"{size_bytes / 1e9:.3f}"
