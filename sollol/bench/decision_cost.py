"""What one decision of the scheduler costs: ``make bench-decisions``.

In one process and without a gateway: a fleet in which every model is on a fifth of the nodes, half
of what each node has is in memory, a third of the runners that are have requests running.
"""

import argparse
import gc
import statistics
from collections.abc import Iterator
from dataclasses import dataclass
from random import Random
from time import perf_counter_ns

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


@dataclass(frozen=True)
class Figures:
    """Microseconds of one kind of event in one fleet."""

    nodes: int
    queued: int
    event: str
    median_us: float
    p99_us: float


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

    def pair(self) -> tuple[int, int]:
        """Submit a request and end another one; return the nanoseconds of both."""
        self._now += 0.001
        submit_ns = self._submit()
        lease = self._pop()
        begin = perf_counter_ns()
        effects = self.scheduler.release(lease, self._now, _measured(lease))
        release_ns = perf_counter_ns() - begin
        self._take(effects)
        self._settle()
        return submit_ns, release_ns

    def _submit(self) -> int:
        request = self._request()
        self._waiting[request.id] = None
        begin = perf_counter_ns()
        effects = self.scheduler.submit(request, self._now)
        taken = perf_counter_ns() - begin
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
    submits = [min(s for s, _ in same) for same in zip(*taken, strict=True)]
    pairs = [min(s + r for s, r in same) for same in zip(*taken, strict=True)]
    return [
        _figures(nodes, queued, "submit", submits),
        _figures(nodes, queued, "submit and release", pairs),
    ]


def _pass(nodes: int, queued: int, count: int) -> list[tuple[int, int]]:
    bench = Bench(nodes, queued)
    for _ in range(count // 10):
        bench.pair()
    gc.collect()
    gc.freeze()
    taken = [bench.pair() for _ in range(count)]
    gc.unfreeze()
    return taken


def _figures(nodes: int, queued: int, event: str, taken_ns: list[int]) -> Figures:
    return Figures(
        nodes,
        queued,
        event,
        statistics.median(taken_ns) / 1000,
        statistics.quantiles(taken_ns, n=100)[98] / 1000,
    )


def report(figures: list[Figures]) -> str:
    """Return the figures as a Markdown table."""
    lines = ["| nodes | waiting | event | median, us | p99, us |", "|---:|---:|---|---:|---:|"]
    lines += [
        f"| {f.nodes} | {f.queued} | {f.event} | {f.median_us:.0f} | {f.p99_us:.0f} |"
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
