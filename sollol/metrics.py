"""Every metric there is, declared once; ``docs/reference/metrics.md`` is made from this file.

Labels come from closed sets (task, node, outcome, priority, rule), never from what a caller writes.
"""

from bisect import bisect_left
from collections.abc import Callable, Iterable, Mapping
from itertools import accumulate
from typing import Literal, NamedTuple

from prometheus_client import CollectorRegistry
from prometheus_client.metrics_core import (
    CounterMetricFamily,
    GaugeMetricFamily,
    HistogramMetricFamily,
    Metric,
)
from prometheus_client.registry import Collector
from prometheus_client.utils import floatToGoString

from sollol.types import HIGHEST_PRIORITY

Bounds = tuple[float, ...]

SECONDS: Bounds = (0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60, 120, 300, 600)
RATIOS: Bounds = (0.1, 0.25, 0.5, 0.67, 0.8, 0.9, 1, 1.1, 1.25, 1.5, 2, 4, 10)

PRIORITIES = tuple(map(str, range(HIGHEST_PRIORITY + 1)))
"""The label of each priority."""

Gauges = Callable[[], dict[str, dict[tuple[str, ...], float]]]
"""Returns gauge name -> labels -> value."""


class Spec(NamedTuple):
    """A metric as it is declared. A counter's exposed name ends in ``_total``."""

    name: str
    kind: Literal["counter", "histogram", "gauge"]
    labels: tuple[str, ...]
    text: str


REQUESTS = Spec(
    "sollol_requests_total",
    "counter",
    ("task", "node", "outcome"),
    "Requests by what became of them; outcome is ok, or an error code.",
)
DURATION = Spec(
    "sollol_request_duration_seconds", "histogram", ("task",), "From arrival to the last byte."
)
FIRST_BYTE = Spec(
    "sollol_first_byte_seconds",
    "histogram",
    ("task",),
    "From arrival to the first byte of the answer; queue and model load included.",
)
QUEUE_WAIT = Spec(
    "sollol_queue_wait_seconds",
    "histogram",
    ("task", "priority"),
    "Time a request waited for a slot; priority is 1 to 10.",
)
PREDICTION = Spec(
    "sollol_prediction_ratio",
    "histogram",
    ("task",),
    "Predicted over real seconds from the grant of a slot to the end of a whole answer.",
)
DECISIONS = Spec(
    "sollol_decisions_total",
    "counter",
    ("rule",),
    "Slots granted, by what decided: cost, policy, explore (a try), trial, patience.",
)
LOADS = Spec(
    "sollol_model_loads_total",
    "counter",
    ("node",),
    "Requests sent to a node that had to load the model first, as far as was known.",
)
PREWARMS = Spec(
    "sollol_prewarms_total",
    "counter",
    ("node", "outcome"),
    "Models loaded before they were asked for; outcome is ok, or an error code.",
)
CANARIES = Spec(
    "sollol_canaries_total",
    "counter",
    ("node", "outcome"),
    "Tokens that idle nodes were asked for to see whether they answer; outcome is ok, or how that failed.",
)
RETRIES = Spec(
    "sollol_retries_total",
    "counter",
    ("reason",),
    "Attempts that followed a failed one, by how that failed.",
)
CONTINUATIONS = Spec(
    "sollol_continuations_total",
    "counter",
    ("outcome",),
    "Streams that broke off and were to be gone on with; outcome is continued, failed, refused or cancelled.",
)
HEDGES = Spec(
    "sollol_hedges_total",
    "counter",
    ("outcome",),
    "Requests sent to a second node as the first was late; outcome, the copy's, is won, lost, failed or cancelled.",
)
SHARD_LOADS = Spec(
    "sollol_shard_load_seconds",
    "histogram",
    (),
    "Loads of models over several machines, from the start of the coordinator until it answers.",
)
SHARD_LOSSES = Spec(
    "sollol_shard_losses_total",
    "counter",
    (),
    "Times that a model over several machines was lost and planned anew.",
)
GAUGES = (
    Spec("sollol_node_up", "gauge", ("node",), "Whether it may be given work (1) or not (0)."),
    Spec("sollol_node_state", "gauge", ("node", "state"), "1 for the state that it is in."),
    Spec(
        "sollol_node_ejections", "gauge", ("node",), "Ejections of it and of models on it so far."
    ),
    Spec("sollol_node_in_flight", "gauge", ("node",), "Requests on the node."),
    Spec("sollol_node_slots", "gauge", ("node",), "Requests it runs at once for one model."),
    Spec(
        "sollol_node_slow",
        "gauge",
        ("node",),
        "Models on it that generate at less than a quarter of their best speed.",
    ),
    Spec("sollol_node_connections", "gauge", ("node",), "Connections to it, idle ones included."),
    Spec("sollol_shards", "gauge", ("state",), "Models over several machines, by their state."),
    Spec("sollol_queue_length", "gauge", (), "Requests that wait for a slot."),
    Spec("sollol_bodies_memory_bytes", "gauge", (), "Request bodies held in memory."),
    Spec("sollol_bodies_file_bytes", "gauge", (), "Request bodies held in files."),
)
ALL = (
    REQUESTS,
    DURATION,
    FIRST_BYTE,
    QUEUE_WAIT,
    PREDICTION,
    DECISIONS,
    LOADS,
    PREWARMS,
    CANARIES,
    RETRIES,
    CONTINUATIONS,
    HEDGES,
    SHARD_LOADS,
    SHARD_LOSSES,
    *GAUGES,
)


class Histogram:
    """A histogram by labels, without the lock that an event loop does not need."""

    __slots__ = ("_bounds", "_rows", "_spec")

    def __init__(self, spec: Spec, bounds: Bounds = SECONDS) -> None:
        self._spec = spec
        self._bounds = bounds
        self._rows: dict[tuple[str, ...], list[float]] = {}

    def observe(self, value: float, *labels: str) -> None:
        """Count one value."""
        row = self._rows.get(labels)
        if row is None:  # a count for each bound, one for what is beyond, and the sum
            row = self._rows[labels] = [0.0] * (len(self._bounds) + 2)
        row[bisect_left(self._bounds, value)] += 1
        row[-1] += value

    def family(self) -> HistogramMetricFamily:
        """Return what was counted, as Prometheus reads it: each bound counts what is below it."""
        family = HistogramMetricFamily(self._spec.name, self._spec.text, labels=self._spec.labels)
        bounds = [*map(floatToGoString, self._bounds), "+Inf"]
        for labels, (*counts, total) in self._rows.items():
            buckets = list(zip(bounds, accumulate(counts), strict=True))
            family.add_metric(list(labels), buckets, total)
        return family


class Metrics:
    """The counters and histograms of one gateway, on a registry of its own."""

    def __init__(self, gauges: Gauges) -> None:
        self.registry = CollectorRegistry()
        self._requests: dict[tuple[str, ...], int] = {}
        self._decisions: dict[str, int] = {}
        self._loads: dict[str, int] = {}
        self._prewarms: dict[tuple[str, ...], int] = {}
        self._canaries: dict[tuple[str, ...], int] = {}
        self._retries: dict[str, int] = {}
        self._continuations: dict[str, int] = {}
        self._hedges: dict[str, int] = {}
        self._shard_losses = 0
        self._shard_loads = Histogram(SHARD_LOADS)
        self._duration = Histogram(DURATION)
        self._first_byte = Histogram(FIRST_BYTE)
        self._queue_wait = Histogram(QUEUE_WAIT)
        self._prediction = Histogram(PREDICTION, RATIOS)
        self.registry.register(_RequestCollector(self._families))
        self.registry.register(_GaugeCollector(gauges))

    def request_done(
        self,
        task: str,
        node: str,
        outcome: str,
        duration_s: float,
        first_byte_s: float | None,
    ) -> None:
        """Count a request that has ended.

        Args:
            node: empty when none was chosen.
            first_byte_s: None when no node sent any.
        """
        labels = (task, node, outcome)
        self._requests[labels] = self._requests.get(labels, 0) + 1
        self._duration.observe(duration_s, task)
        if first_byte_s is not None:
            self._first_byte.observe(first_byte_s, task)

    def waited(self, task: str, priority: int, seconds: float) -> None:
        """Count how long a request waited for slots, all attempts together."""
        self._queue_wait.observe(seconds, task, PRIORITIES[priority])

    def decided(self, rule: str, node: str, loads: bool) -> None:
        """Count a slot that was granted.

        Args:
            rule: a value of ``scheduling.decision.Rule``.
            loads: the node has to load the model first.
        """
        self._decisions[rule] = self._decisions.get(rule, 0) + 1
        if loads:
            self._loads[node] = self._loads.get(node, 0) + 1

    def predicted(self, task: str, predicted_s: float, real_s: float) -> None:
        """Count how a prediction compares with what came; ``real_s`` is above 0."""
        self._prediction.observe(predicted_s / real_s, task)

    def prewarm_done(self, node: str, outcome: str) -> None:
        """Count a model that was loaded before it was asked for, or was not."""
        self._prewarms[(node, outcome)] = self._prewarms.get((node, outcome), 0) + 1

    def canary_done(self, node: str, outcome: str) -> None:
        """Count a token that a node was asked for."""
        self._canaries[(node, outcome)] = self._canaries.get((node, outcome), 0) + 1

    def retried(self, reason: str) -> None:
        """Count an attempt that follows a failed one."""
        self._retries[reason] = self._retries.get(reason, 0) + 1

    def continued(self, outcome: str) -> None:
        """Count a stream that broke off and was to be gone on with."""
        self._continuations[outcome] = self._continuations.get(outcome, 0) + 1

    def hedged(self, outcome: str) -> None:
        """Count a request that was sent to a second node, by what became of that copy."""
        self._hedges[outcome] = self._hedges.get(outcome, 0) + 1

    def shard_loaded(self, seconds: float) -> None:
        """Count a load of a model over several machines."""
        self._shard_loads.observe(seconds)

    def shard_lost(self) -> None:
        """Count a model over several machines that was lost."""
        self._shard_losses += 1

    def forget_node(self, node: str) -> None:
        """Drop the counters of a node that is gone: names of found ones may come without end."""
        self._loads.pop(node, None)
        for labels in [labels for labels in self._requests if labels[1] == node]:
            del self._requests[labels]
        for counts in (self._prewarms, self._canaries):
            for pair in [pair for pair in counts if pair[0] == node]:
                del counts[pair]

    def _families(self) -> Iterable[Metric]:
        yield _counted(REQUESTS, self._requests)
        yield _counted(DECISIONS, {(rule,): count for rule, count in self._decisions.items()})
        yield _counted(LOADS, {(node,): count for node, count in self._loads.items()})
        yield _counted(PREWARMS, self._prewarms)
        yield _counted(CANARIES, self._canaries)
        yield _counted(RETRIES, {(reason,): count for reason, count in self._retries.items()})
        yield _counted(CONTINUATIONS, {(name,): n for name, n in self._continuations.items()})
        yield _counted(HEDGES, {(name,): n for name, n in self._hedges.items()})
        yield _counted(SHARD_LOSSES, {(): self._shard_losses})
        for histogram in (
            self._duration,
            self._first_byte,
            self._queue_wait,
            self._prediction,
            self._shard_loads,
        ):
            yield histogram.family()


def _counted(spec: Spec, counts: Mapping[tuple[str, ...], int]) -> CounterMetricFamily:
    family = CounterMetricFamily(spec.name, spec.text, labels=spec.labels)
    for labels, count in counts.items():
        family.add_metric(list(labels), count)
    return family


class _RequestCollector(Collector):
    """Reads what was counted of requests when Prometheus asks."""

    def __init__(self, families: Callable[[], Iterable[Metric]]) -> None:
        self._families = families

    def collect(self) -> Iterable[Metric]:
        """Yield the counter and the histograms."""
        return self._families()


class _GaugeCollector(Collector):
    """Reads the owners' state when Prometheus asks, so that nothing has to keep gauges in step."""

    def __init__(self, gauges: Gauges) -> None:
        self._gauges = gauges

    def describe(self) -> Iterable[Metric]:
        """Name the gauges without reading them, for the check against duplicates."""
        return [GaugeMetricFamily(spec.name, spec.text) for spec in GAUGES]

    def collect(self) -> Iterable[Metric]:
        """Yield every gauge with its value for each node."""
        values = self._gauges()
        for spec in GAUGES:
            family = GaugeMetricFamily(spec.name, spec.text, labels=spec.labels)
            for labels, value in values.get(spec.name, {}).items():
                family.add_metric(labels, value)
            yield family
