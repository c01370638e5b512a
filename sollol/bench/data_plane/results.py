"""What was measured, as plain values; ``report.py`` makes a page of it."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

DIRECT, NGINX, HTTPX, SOLLOL = "direct", "nginx", "httpx proxy", "SOLLOL"


@dataclass(frozen=True, slots=True)
class ShortRun:
    """Short requests through one proxy in one round. ``cpu_s`` is the proxy's, per request."""

    requests_per_s: float
    p50_s: float
    p99_s: float
    cpu_s: float


@dataclass(frozen=True, slots=True)
class LatencyRun:
    """Requests at a fixed rate; ``lateness_p99_s`` is how late the generator itself sent them."""

    p50_s: float
    p99_s: float
    lateness_p99_s: float


@dataclass(frozen=True, slots=True)
class StreamLoad:
    """How many streams at once, and how fast each of them is."""

    streams: int
    chunks_per_s: int


@dataclass(frozen=True, slots=True)
class StreamRun:
    """Streams through one proxy in one round.

    ``cpu_s`` is the proxy's per chunk, opening the streams included; ``load_ratio`` is how busy
    the node and the client kept their core; ``peak_rss_bytes`` is the proxy's.
    """

    finished_ratio: float
    first_p50_s: float
    first_p99_s: float
    delay_p50_s: float
    delay_p99_s: float
    cpu_s: float
    load_ratio: float
    peak_rss_bytes: int


@dataclass(frozen=True, slots=True)
class Leaving:
    """All clients were killed while ``streams`` streams ran; how long until nothing was left."""

    streams: int
    in_flight_zero_s: float
    node_zero_s: float


@dataclass(frozen=True, slots=True)
class BlobRun:
    """One blob through one proxy. ``grown_bytes`` is how much memory the proxy took for it."""

    size_bytes: int
    duration_s: float
    cpu_s: float
    grown_bytes: int


ShortRounds = Mapping[str, Sequence[ShortRun]]
LatencyRounds = Mapping[str, Sequence[LatencyRun]]
BlobRounds = Mapping[str, Sequence[BlobRun]]
StreamRounds = Mapping[tuple[str, StreamLoad], Sequence[StreamRun]]


@dataclass(slots=True)
class Results:
    """All of it, by proxy; one run for each round. What could not be measured is empty."""

    machine: Sequence[tuple[str, str]] = ()
    layout: str = ""
    foreign_ratio: float = 0.0
    is_quick: bool = False
    short: ShortRounds = field(default_factory=dict)
    latency: LatencyRounds = field(default_factory=dict)
    streams: StreamRounds = field(default_factory=dict)
    blob: BlobRounds = field(default_factory=dict)
    idle_rss_bytes: int | None = None
    leaving: Leaving | None = None
    missing: Sequence[str] = ()
    """Why a part was not measured, as sentences."""
