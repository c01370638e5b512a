"""A request on its way through a simulated node."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from sollol.bench.sim.bodies import ApiError
from sollol.bench.sim.engine import NodeBusy
from sollol.bench.sim.exchange import Exchange
from sollol.bench.sim.faults import FaultyExchange
from sollol.bench.sim.memory import Runner
from sollol.bench.sim.models import StoredModel
from sollol.bench.sim.recorder import RequestRecord
from sollol.bench.sim.state import NodeState

_BUSY = "server busy, please try again.  maximum pending requests exceeded"


@dataclass(frozen=True, slots=True)
class Call:
    """One request on its way through the node."""

    state: NodeState
    exchange: Exchange
    record: RequestRecord

    @property
    def body(self) -> bytes:
        """Return the body as it came."""
        return self.exchange.request.body

    def name_model(self, name: str) -> None:
        """Note which model the request is for."""
        self.state.recorder.name_model(self.record, name)


async def take_runner(
    call: Call, stored: StoredModel, options: Mapping[str, Any], keep_alive_s: float | None
) -> tuple[Runner, float]:
    """Return the model's runner, loaded if need be, and the seconds that took.

    Whoever takes it gives it back with ``Engine.release``.

    Raises:
        ApiError: too many requests wait for loads (503).
    """
    engine = call.state.engine
    if isinstance(call.exchange, FaultyExchange) and call.exchange.fault.kind == "hang_in_load":
        await engine.hang_in_load(call.exchange.connection.wait_closed())
    try:
        runner, load_s = await engine.runner_for(stored.model, stored.name, options)
    except NodeBusy as error:
        raise ApiError(503, _BUSY) from error
    if keep_alive_s is not None:
        runner.keep_alive_s = keep_alive_s
    return runner, load_s
