"""A short way for the request that a load generator sends over and over.

A node at ``time_scale`` 0 answers the same body in the same way, the time of day aside, as long
as the model stays loaded, remembers the prompt and is idle. Then the rendered answer is used
again. What tests and metrics see of such a request is what they see of any other.
"""

from dataclasses import dataclass

from sollol.bench.sim.engine import Engine
from sollol.bench.sim.exchange import Exchange
from sollol.bench.sim.faults import FaultBox
from sollol.bench.sim.http import Connection, Header, Request
from sollol.bench.sim.lease import Lease
from sollol.bench.sim.memory import Runner
from sollol.bench.sim.models import ModelStore
from sollol.bench.sim.recorder import Recorder, RequestRecord
from sollol.bench.sim.records import now_rfc3339
from sollol.bench.sim.work import Work

_KEPT = 512
_MAX_BODY_BYTES = 65_536
_MOMENT = b'"created_at":"'


@dataclass(slots=True)
class _Rendered:
    """An answer, cut at its moment, and what it depends on."""

    headers: list[Header]
    model: str
    generation: int
    keep_alive_s: float | None
    runner: Runner
    forgotten: int
    before: bytes
    after: bytes


class FastLane:
    """Keeps rendered answers by target and body."""

    def __init__(
        self, engine: Engine, models: ModelStore, faults: FaultBox, recorder: Recorder
    ) -> None:
        self._engine = engine
        self._models = models
        self._faults = faults
        self._recorder = recorder
        self._rendered: dict[tuple[str, bytes], _Rendered] = {}

    def offer(self, exchange: Exchange, work: Work, lease: Lease, body: bytes) -> None:
        """Keep an answer for later, if the next one to the same request will be the same."""
        request = exchange.request
        before, moment, rest = body.partition(_MOMENT)
        is_lasting = lease.was_hot and lease.knew_all and not lease.timings.queue_s
        if not is_lasting or not moment or exchange.headers or len(request.body) > _MAX_BODY_BYTES:
            return
        if len(self._rendered) >= _KEPT:
            self._rendered.clear()
        self._rendered[request.target, request.body] = _Rendered(
            headers=request.headers,
            model=work.name,
            generation=self._models.generation,
            keep_alive_s=work.keep_alive_s,
            runner=lease.runner,
            forgotten=lease.runner.prefixes.forgotten,
            before=before + moment,
            after=rest[rest.index(b'"') :],
        )

    def answer(self, connection: Connection, request: Request) -> bool:
        """Answer the request if that can be done at once; return whether it was."""
        found = self._rendered.get((request.target, request.body))
        if found is None or not self._still_holds(found, request):
            return False
        now = connection.now
        record = RequestRecord(request.method, request.path, request.body, request.headers, now)
        self._recorder.start(record)
        self._recorder.name_model(record, found.model)
        exchange = Exchange(connection, request)
        exchange.respond(200, found.before + now_rfc3339() + found.after)
        if found.keep_alive_s is not None:
            found.runner.keep_alive_s = found.keep_alive_s
        found.runner.refs += 1
        self._engine.release(found.runner)
        record.status = 200
        self._recorder.finish(record, "completed", now)
        return True

    def _still_holds(self, found: _Rendered, request: Request) -> bool:
        runner = found.runner
        return (
            found.headers == request.headers
            and request.method == "POST"
            and self._faults.is_quiet
            and self._engine.loaded.get(runner.model.digest) is runner
            and not runner.refs
            and not self._engine.decoding
            and found.forgotten == runner.prefixes.forgotten
            and found.generation == self._models.generation
        )
