"""What a simulated node has seen."""

from collections import Counter, deque
from dataclasses import dataclass
from typing import Any, Literal

import msgspec

from sollol.bench.sim.http import Header

Outcome = Literal["running", "completed", "aborted", "failed"]


@dataclass(slots=True)
class RequestRecord:
    """One request as the node saw it; times are seconds of the loop's clock.

    ``completed``: answered in full with a status below 400. ``failed``: answered with an error,
    or hit by a fault. ``aborted``: the client left first.
    """

    method: str
    path: str
    body: bytes
    raw_headers: list[Header]
    started: float
    model: str = ""
    finished: float | None = None
    outcome: Outcome = "running"
    status: int = 0

    @property
    def headers(self) -> dict[str, str]:
        """Return the headers by lower-case name; of a repeated one the last."""
        return {name.decode(): value.decode("latin-1") for name, value in self.raw_headers}

    @property
    def json(self) -> Any:
        """Return the decoded body.

        Raises:
            msgspec.DecodeError: it is not JSON.
        """
        return msgspec.json.decode(self.body)


class Recorder:
    """Keeps the newest requests and counts those in flight."""

    def __init__(self, keep: int) -> None:
        self.requests: deque[RequestRecord] = deque(maxlen=keep)
        self.in_flight = 0
        self.total = 0
        self.outcomes: Counter[str] = Counter()
        self.max_in_flight_per_model: dict[str, int] = {}
        self._in_flight_per_model: Counter[str] = Counter()

    def start(self, record: RequestRecord) -> None:
        """Note a request that has arrived."""
        self.requests.append(record)
        self.in_flight += 1
        self.total += 1

    def name_model(self, record: RequestRecord, model: str) -> None:
        """Note which model a request is for, as the request spells it."""
        if record.model:
            return
        record.model = model
        self._in_flight_per_model[model] += 1
        now = self._in_flight_per_model[model]
        self.max_in_flight_per_model[model] = max(now, self.max_in_flight_per_model.get(model, 0))

    def finish(self, record: RequestRecord, outcome: Outcome, now: float) -> None:
        """Note how a request ended."""
        record.finished = now
        record.outcome = outcome
        self.outcomes[outcome] += 1
        self.in_flight -= 1
        if record.model:
            self._in_flight_per_model[record.model] -= 1
