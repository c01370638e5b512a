"""What one decision of the scheduler costs: ``make bench-decisions``.

In one process and without a gateway: a fleet in which every model is on a fifth of the nodes, half
of what each node has is in memory, a third of the runners that are have requests running.
"""

import argparse
import gc
import statistics
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from random import Random
from time import perf_counter_ns, thread_time_ns

from sollol.scheduling.decision import Effect, Grant
from sollol.scheduling.limits import SchedulerLimits
from sollol.scheduling.scheduler import Scheduler
from sollol.types import (
    Ask,
    Engine,
    Lease,
    Measured,
    Model,
    NodeState,
    NodeView,
    Resident,
    RouteRequest,
    Task,
)

MODELS = 200
ON_NODES = 0.2
SLOTS = 4
LEARNED = 4
"""Answers of each node that have ended, on average."""

BUSY = 4
"""Requests that run on a node, on average; more where others must wait."""

BYTES = 4 * 10**9
HORIZON_S = 1e6


Taken = tuple[int, int]
"""Nanoseconds by the clock, and of the thread."""


@dataclass(frozen=True)
class Figures:
    """Microseconds of one kind of event in one fleet."""

    nodes: int
    queued: int
    event: str
    median_us: float
    p99_us: float
    cpu_us: float
    """The median of what the thread itself ran, which other processes do not lengthen."""


def fleet(nodes: int, rng: Random) -> Iterator[NodeView]:
    """Return nodes with a fifth of the models each, half of those in memory."""
    names = [f"model-{number}" for number in range(MODELS)]
    for number in range(nodes):
        held = rng.sample(names, int(MODELS * ON_NODES))
        yield NodeView(
            id=f"node-{number}:11434",
            url=f"http://node-{number}:11434",
            engine=Engine.OLLAMA,
            state=NodeState.HEALTHY,
            slots=SLOTS,
            models={name: Model(name, name, f"d-{name}", BYTES) for name in held},
            resident={
                name: Resident(name, name, f"d-{name}", BYTES, BYTES)
                for name in held[: len(held) // 2]
            },
        )


class Bench:
    """A scheduler in a steady state, and a clock of its own."""

    def __init__(self, nodes: int, queued: int, seed: int = 1) -> None:
        self._rng = Random(seed)
        self._now = 1000.0
        self._count = 0
        self._queued = queued
        self._held: list[Lease] = []
        self._waiting: dict[str, None] = {}
        self.scheduler = Scheduler(SchedulerLimits(100_000), Random(seed))
        for view in fleet(nodes, self._rng):
            self.scheduler.node_changed(view, self._now)
        for _ in range(nodes * LEARNED):
            self._learn()
        self._busy = nodes * BUSY
        self._settle()

    def pair(self) -> tuple[Taken, Taken]:
        """Submit a request and end another one; return what each took."""
        self._now += 0.001
        submit = self._submit()
        lease = self._pop()
        measured = _measured(lease)
        release = self._time(lambda: self.scheduler.release(lease, self._now, measured))
        self._settle()
        return submit, release

    def _submit(self) -> Taken:
        request = self._request()
        self._waiting[request.id] = None
        return self._time(lambda: self.scheduler.submit(request, self._now))

    def _time(self, event: Callable[[], list[Effect]]) -> Taken:
        cpu_begin, begin = thread_time_ns(), perf_counter_ns()
        effects = event()
        taken = perf_counter_ns() - begin, thread_time_ns() - cpu_begin
        self._take(effects)
        return taken

    def _take(self, effects: list[Effect]) -> None:
        for effect in effects:
            assert isinstance(effect, Grant)
            del self._waiting[effect.lease.request_id]
            self._held.append(effect.lease)

    def _pop(self) -> Lease:
        at = self._rng.randrange(len(self._held))
        self._held[at], self._held[-1] = self._held[-1], self._held[at]
        return self._held.pop()

    def _learn(self) -> None:
        """Let an answer end, so that speeds are known that differ from node to node."""
        self._now += 0.01
        self._submit()
        if self._held:
            lease = self._pop()
            self._take(self.scheduler.release(lease, self._now, _measured(lease)))

    def _settle(self) -> None:
        """Have as many requests run and wait as there are to be."""
        while len(self._held) < self._busy or len(self._waiting) < self._queued:
            self._submit()
            if not self._queued:
                self._give_up()
        while len(self._waiting) > self._queued:
            self._give_up()

    def _give_up(self) -> None:
        if self._waiting:
            self.scheduler.cancel(self._waiting.popitem()[0])

    def _request(self) -> RouteRequest:
        rng = self._rng
        self._count += 1
        ask = Ask(
            task=Task.CHAT,
            prompt_bytes=rng.randint(100, 8000),
            conversation=rng.randint(1, 1000),
        )
        return RouteRequest(
            id=f"request-{self._count}",
            model=f"model-{rng.randrange(MODELS)}",
            arrived_at=self._now,
            expires_at=self._now + HORIZON_S,
            priority=rng.choice((3, 5, 8)),
            caller=f"caller-{rng.randrange(50)}",
            ask=ask,
        )


def _measured(lease: Lease) -> Measured:
    """Return what an answer took: nodes differ by a factor of four."""
    factor = 1.0 + int(lease.node_id.split("-")[1].split(":")[0]) % 7 / 2
    return Measured(
        prompt_tokens=250,
        prompt_s=0.1 * factor,
        output_tokens=200,
        output_s=4.0 * factor,
        first_byte_s=0.2 * factor,
        total_s=4.2 * factor,
    )


def measure(nodes: int, queued: int, count: int, passes: int) -> list[Figures]:
    """Return the figures of one fleet."""
    taken = [_pass(nodes, queued, count) for _ in range(passes)]
    submits = [[submit for submit, _ in each] for each in taken]
    pairs = [[(s[0] + r[0], s[1] + r[1]) for s, r in each] for each in taken]
    return [
        _figures(nodes, queued, "submit", submits),
        _figures(nodes, queued, "submit and release", pairs),
    ]


def _pass(nodes: int, queued: int, count: int) -> list[tuple[Taken, Taken]]:
    bench = Bench(nodes, queued)
    for _ in range(count // 10):
        bench.pair()
    gc.collect()
    gc.freeze()
    taken = [bench.pair() for _ in range(count)]
    gc.unfreeze()
    return taken


def _figures(nodes: int, queued: int, event: str, passes: list[list[Taken]]) -> Figures:
    same = list(zip(*passes, strict=True))
    wall_ns = [min(wall for wall, _ in each) for each in same]
    cpu_ns = [min(cpu for _, cpu in each) for each in same]
    return Figures(
        nodes,
        queued,
        event,
        statistics.median(wall_ns) / 1000,
        statistics.quantiles(wall_ns, n=100)[98] / 1000,
        statistics.median(cpu_ns) / 1000,
    )


def report(figures: list[Figures]) -> str:
    """Return the figures as a Markdown table."""
    lines = [
        "| nodes | waiting | event | median, us | p99, us | CPU median, us |",
        "|---:|---:|---|---:|---:|---:|",
    ]
    lines += [
        f"| {f.nodes} | {f.queued} | {f.event} "
        f"| {f.median_us:.0f} | {f.p99_us:.0f} | {f.cpu_us:.0f} |"
        for f in figures
    ]
    return "\n".join(lines)


def main() -> None:
    """Measure all fleets and print the table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--count", type=int, default=2000, help="decisions for each figure")
    parser.add_argument(
        "--passes", type=int, default=3, help="the shortest of so many times counts"
    )
    parser.add_argument("--nodes", type=int, nargs="+", default=[64, 1000])
    parser.add_argument("--queued", type=int, nargs="+", default=[0, 500])
    arguments = parser.parse_args()
    figures = []
    for nodes in arguments.nodes:
        for queued in arguments.queued:
            figures += measure(nodes, queued, arguments.count, arguments.passes)
    print(report(figures))


if __name__ == "__main__":
    main()
