"""Every metric there is, declared once; ``docs/reference/metrics.md`` is made from this file.

Labels come from closed sets (task, node, outcome), never from what a caller writes.
"""

from collections.abc import Callable, Iterable
from typing import Literal, NamedTuple

from prometheus_client import CollectorRegistry, Counter, Histogram
from prometheus_client.metrics_core import GaugeMetricFamily, Metric
from prometheus_client.registry import Collector

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
GAUGES = (
    Spec("sollol_node_up", "gauge", ("node",), "Whether it may be given work (1) or not (0)."),
    Spec("sollol_node_in_flight", "gauge", ("node",), "Requests on the node."),
    Spec("sollol_node_slots", "gauge", ("node",), "Requests it runs at once for one model."),
    Spec("sollol_node_connections", "gauge", ("node",), "Connections to it, idle ones included."),
    Spec("sollol_queue_length", "gauge", (), "Requests that wait for a slot."),
)
ALL = (REQUESTS, DURATION, FIRST_BYTE, QUEUE_WAIT, *GAUGES)


class Metrics:
    """The counters and histograms of one gateway, on a registry of its own."""

    def __init__(self, gauges: Gauges) -> None:
        self.registry = CollectorRegistry()
        self._requests = Counter(
            REQUESTS.name.removesuffix("_total"),
            REQUESTS.text,
            REQUESTS.labels,
            registry=self.registry,
        )
        self._duration = self._histogram(DURATION)
        self._first_byte = self._histogram(FIRST_BYTE)
        self._queue_wait = self._histogram(QUEUE_WAIT)
        self.registry.register(_GaugeCollector(gauges))
        # `labels()` costs more than the observation, so its results are kept.
        self._children: dict[tuple[str, str, str], Counter] = {}
        self._timers: dict[str, tuple[Histogram, Histogram, Histogram]] = {}

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
        child = self._children.get((task, node, outcome))
        if child is None:
            child = self._requests.labels(task, node, outcome)
            self._children[task, node, outcome] = child
        child.inc()
        duration, first_byte, queue_wait = self._timers.get(task) or self._add_timers(task)
        duration.observe(duration_s)
        if first_byte_s is not None:
            first_byte.observe(first_byte_s)
        if queue_wait_s is not None:
            queue_wait.observe(queue_wait_s)

    def forget_node(self, node: str) -> None:
        """Drop the counters of a node that is gone: names of found ones may come without end."""
        for labels in [labels for labels in self._children if labels[1] == node]:
            self._requests.remove(*labels)
            del self._children[labels]

    def _histogram(self, spec: Spec) -> Histogram:
        return Histogram(spec.name, spec.text, spec.labels, buckets=SECONDS, registry=self.registry)

    def _add_timers(self, task: str) -> tuple[Histogram, Histogram, Histogram]:
        timers = (
            self._duration.labels(task),
            self._first_byte.labels(task),
            self._queue_wait.labels(task),
        )
        self._timers[task] = timers
        return timers


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
