"""What became of a workload under a policy, and the figures that policies are compared by."""

import hashlib
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import astuple, dataclass, field

from sollol.types import Task


@dataclass(slots=True)
class Record:
    """What became of a request; seconds of the nodes' clock, from its arrival where not said."""

    arrived_at: float
    model: str
    priority: int
    task: Task
    outcome: str = "waiting"
    """``served``, or the code of the error."""
    node: str = ""
    queue_wait_s: float = 0.0
    """In the gateway."""
    node_wait_s: float = 0.0
    """For a slot, on the node."""
    load_s: float = 0.0
    was_loaded: bool = False
    cached_tokens: int = 0
    first_byte_s: float = 0.0
    latency_s: float = 0.0
    predicted_s: float = 0.0
    """From the grant to the end."""

    @property
    def service_s(self) -> float:
        """From the grant to the end, in truth."""
        return self.latency_s - self.queue_wait_s


@dataclass(frozen=True)
class Replay:
    """What a run gave: one record for each request, in the order of the workload."""

    records: Sequence[Record]
    loads: int
    """All of them, reloads too."""
    reloads: int
    """Those only for other options."""
    evictions: int
    ended_at: float
    max_running: Mapping[str, Mapping[str, int]] = field(default_factory=dict)
    """The most sequences at once, by node and model."""
    lateness_s: Sequence[float] = ()
    """How much later than due each request was sent, in real seconds; empty on a virtual clock."""

    @property
    def digest(self) -> str:
        """Return what only an equal run has."""
        text = repr([astuple(record) for record in self.records])
        return hashlib.sha256(text.encode()).hexdigest()


def quantile(values: Iterable[float], share: float) -> float:
    """Return the value that ``share`` of them do not exceed; 0 of none."""
    ordered = sorted(values)
    return ordered[min(len(ordered) - 1, int(share * len(ordered)))] if ordered else 0.0


def mean(values: Iterable[float]) -> float:
    """Return the mean; 0 of none."""
    listed = list(values)
    return sum(listed) / len(listed) if listed else 0.0


@dataclass(frozen=True, slots=True)
class Summary:
    """One policy's figures over all seeds; latencies in seconds, counts for one seed on average."""

    policy: str
    mean_s: float
    p50_s: float
    p95_s: float
    p99_s: float
    first_byte_p95_s: float
    wait_p95_s: float
    """For a slot, in the gateway and on the node."""
    loads: float
    reloads: float
    evictions: float
    success: float
    """Share of the requests that were served."""
    by_priority: dict[int, dict[str, tuple[float, float]]]
    """Mean and p95 latency of each task at each priority: tasks differ in length by far."""
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
        wait_p95_s=quantile((r.queue_wait_s + r.node_wait_s for r in served), 0.95),
        loads=sum(one.loads for one in replays) / runs,
        reloads=sum(one.reloads for one in replays) / runs,
        evictions=sum(one.evictions for one in replays) / runs,
        success=len(served) / max(1, len(records)),
        by_priority=_by_priority(served),
        by_node=_by_node(served, runs),
        prediction_error=_prediction_error(served),
    )


def _by_priority(served: Sequence[Record]) -> dict[int, dict[str, tuple[float, float]]]:
    grouped: dict[tuple[int, str], list[float]] = {}
    for record in served:
        grouped.setdefault((record.priority, record.task), []).append(record.latency_s)
    figures: dict[int, dict[str, tuple[float, float]]] = {}
    for (priority, task), latencies in sorted(grouped.items()):
        figures.setdefault(priority, {})[task] = mean(latencies), quantile(latencies, 0.95)
    return figures


def classes(summaries: Iterable[Summary]) -> list[tuple[int, str]]:
    """Return the priorities that any of the policies served, each with a task, in order."""
    figures = (summary.by_priority for summary in summaries)
    return sorted({(level, task) for each in figures for level in each for task in each[level]})


def _by_node(served: Sequence[Record], runs: int) -> dict[str, float]:
    counts: dict[str, float] = {}
    for record in served:
        counts[record.node] = counts.get(record.node, 0.0) + 1 / runs
    return dict(sorted(counts.items()))


def _prediction_error(served: Sequence[Record]) -> float:
    predicted = [record for record in served if record.predicted_s > 0]
    errors = (abs(r.predicted_s - r.service_s) / max(r.service_s, 1e-3) for r in predicted)
    return quantile(errors, 0.5)
