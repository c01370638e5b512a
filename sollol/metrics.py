"""Every metric there is, declared once; ``docs/reference/metrics.md`` is made from this file.

Labels come from closed sets (task, node, outcome), never from what a caller writes.
"""

from bisect import bisect_left
from collections.abc import Callable, Iterable
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

SECONDS = (0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60, 120, 300, 600)

Gauges = Callable[[], dict[str, dict[str, float]]]
"""Returns gauge name -> node id -> value; the node id is empty where a gauge has no node."""


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
    "sollol_queue_wait_seconds", "histogram", ("task",), "Time a request waited for a slot."
)
PREWARMS = Spec(
    "sollol_prewarms_total",
    "counter",
    ("node", "outcome"),
    "Models loaded before they were asked for; outcome is ok, or an error code.",
)
GAUGES = (
    Spec("sollol_node_up", "gauge", ("node",), "Whether it may be given work (1) or not (0)."),
    Spec("sollol_node_in_flight", "gauge", ("node",), "Requests on the node."),
    Spec("sollol_node_slots", "gauge", ("node",), "Requests it runs at once for one model."),
    Spec("sollol_node_connections", "gauge", ("node",), "Connections to it, idle ones included."),
    Spec("sollol_queue_length", "gauge", (), "Requests that wait for a slot."),
)
ALL = (REQUESTS, DURATION, FIRST_BYTE, QUEUE_WAIT, PREWARMS, *GAUGES)


class Timings:
    """A histogram of seconds by task, without the lock that an event loop does not need."""

    __slots__ = ("_by_task",)

    def __init__(self) -> None:
        self._by_task: dict[str, list[float]] = {}

    def observe(self, task: str, seconds: float) -> None:
        """Count one duration."""
        row = self._by_task.get(task)
        if row is None:  # a count for each bound, one for what is beyond, and the sum
            row = self._by_task[task] = [0.0] * (len(SECONDS) + 2)
        row[bisect_left(SECONDS, seconds)] += 1
        row[-1] += seconds

    def family(self, spec: Spec) -> HistogramMetricFamily:
        """Return what was counted, as Prometheus reads it: each bound counts what is below it."""
        family = HistogramMetricFamily(spec.name, spec.text, labels=spec.labels)
        bounds = [*map(floatToGoString, SECONDS), "+Inf"]
        for task, (*counts, total_s) in self._by_task.items():
            family.add_metric([task], list(zip(bounds, accumulate(counts), strict=True)), total_s)
        return family


class Metrics:
    """The counters and histograms of one gateway, on a registry of its own."""

    def __init__(self, gauges: Gauges) -> None:
        self.registry = CollectorRegistry()
        self._requests: dict[tuple[str, str, str], int] = {}
        self._prewarms: dict[tuple[str, str], int] = {}
        self._duration = Timings()
        self._first_byte = Timings()
        self._queue_wait = Timings()
        self.registry.register(_RequestCollector(self._families))
        self.registry.register(_GaugeCollector(gauges))

    def request_done(
        self,
        task: str,
        node: str,
        outcome: str,
        *,
        duration_s: float,
        first_byte_s: float | None,
        queue_wait_s: float | None,
    ) -> None:
        """Count a request that has ended.

        Args:
            node: empty when none was chosen.
            first_byte_s: None when no node sent any.
            queue_wait_s: None when the request never came as far as the queue.
        """
        labels = (task, node, outcome)
        self._requests[labels] = self._requests.get(labels, 0) + 1
        self._duration.observe(task, duration_s)
        if first_byte_s is not None:
            self._first_byte.observe(task, first_byte_s)
        if queue_wait_s is not None:
            self._queue_wait.observe(task, queue_wait_s)

    def prewarm_done(self, node: str, outcome: str) -> None:
        """Count a model that was loaded before it was asked for, or was not."""
        self._prewarms[(node, outcome)] = self._prewarms.get((node, outcome), 0) + 1

    def forget_node(self, node: str) -> None:
        """Drop the counters of a node that is gone: names of found ones may come without end."""
        for labels in [labels for labels in self._requests if labels[1] == node]:
            del self._requests[labels]
        for pair in [pair for pair in self._prewarms if pair[0] == node]:
            del self._prewarms[pair]

    def _families(self) -> Iterable[Metric]:
        requests = CounterMetricFamily(REQUESTS.name, REQUESTS.text, labels=REQUESTS.labels)
        for labels, count in self._requests.items():
            requests.add_metric(list(labels), count)
        yield requests
        prewarms = CounterMetricFamily(PREWARMS.name, PREWARMS.text, labels=PREWARMS.labels)
        for pair, count in self._prewarms.items():
            prewarms.add_metric(list(pair), count)
        yield prewarms
        yield self._duration.family(DURATION)
        yield self._first_byte.family(FIRST_BYTE)
        yield self._queue_wait.family(QUEUE_WAIT)


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
            for node, value in values.get(spec.name, {}).items():
                family.add_metric([node] if spec.labels else [], value)
            yield family
