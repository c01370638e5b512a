"""The side channel of a simulated node: look at it and set faults from outside its process.

``GET /sim/state``, ``GET|POST|DELETE /sim/faults``, ``POST /sim/listener {"listening": bool}``
and ``DELETE /sim/connections``.
"""

import asyncio
from typing import Any, Protocol, get_args

import msgspec

from sollol.bench.sim.exchange import Exchange
from sollol.bench.sim.faults import Fault, FaultKind
from sollol.bench.sim.http import Connection, Request
from sollol.bench.sim.state import NodeState

_TEXT = b"text/plain"


class Controlled(Protocol):
    """The part of a node that the side channel moves."""

    state: NodeState

    @property
    def open_connections(self) -> int:
        """Return how many connections are open."""
        ...

    def set_fault(self, fault: Fault) -> None:
        """Switch a fault on."""
        ...

    def clear_faults(self) -> None:
        """Switch all faults off."""
        ...

    async def stop_listening(self) -> None:
        """Refuse new connections."""
        ...

    async def start_listening(self) -> None:
        """Take new connections."""
        ...

    def reset_connections(self) -> None:
        """Reset every open connection."""
        ...


class ControlApp:
    """Serves the side channel."""

    def __init__(self, node: Controlled) -> None:
        self.connections: set[Connection] = set()
        self.tasks: set[asyncio.Task[None]] = set()
        self._node = node

    def accepts(self, connection: Connection) -> bool:
        """Take every connection."""
        return True

    def begin(self, connection: Connection, request: Request) -> None:
        """Do nothing before the body is there."""

    def answer_at_once(self, connection: Connection, request: Request) -> bool:
        """Leave every request to :meth:`handle`."""
        return False

    def connection_closed(self, connection: Connection) -> None:
        """Do nothing."""

    async def handle(self, connection: Connection, request: Request) -> None:
        """Answer one request."""
        exchange = Exchange(connection, request)
        try:
            answer = await self._answer(request.method, request.path, request.body)
        except (msgspec.DecodeError, msgspec.ValidationError, ValueError) as error:
            exchange.respond(400, msgspec.json.encode({"error": str(error)}))
            return
        if answer is None:
            exchange.respond(404, b"404 page not found", _TEXT)
            return
        exchange.respond(200, msgspec.json.encode(answer))

    async def _answer(self, method: str, path: str, body: bytes) -> object:
        node = self._node
        match method, path:
            case "GET", "/sim/state":
                return describe(node)
            case "POST", "/sim/faults":
                node.set_fault(_fault(body))
            case "DELETE", "/sim/faults":
                node.clear_faults()
            case "POST", "/sim/listener":
                wanted = msgspec.json.decode(body, type=dict[str, bool])
                await (node.start_listening() if wanted.get("listening") else node.stop_listening())
            case "DELETE", "/sim/connections":
                node.reset_connections()
            case "GET", "/sim/faults":
                pass
            case _:
                return None
        return {"faults": node.state.faults.active}


def _fault(body: bytes) -> Fault:
    try:
        return msgspec.json.decode(body, type=Fault)
    except msgspec.ValidationError as error:
        if "kind`" not in str(error):
            raise
        raise ValueError(f"{error}: kind is one of {', '.join(get_args(FaultKind))}") from None


def describe(node: Controlled) -> dict[str, Any]:
    """Return what a node is doing and has seen, in numbers."""
    state = node.state
    return {
        "in_flight": state.recorder.in_flight,
        "max_in_flight_per_model": state.recorder.max_in_flight_per_model,
        "open_connections": node.open_connections,
        "requests": state.recorder.total,
        "outcomes": state.recorder.outcomes,
        "loaded": [runner.name for runner in state.engine.loaded.values()],
        "loads": state.engine.loads,
        "unloads": state.engine.unloads,
        "blob_bytes_received": state.blob_bytes_received,
        "faults": state.faults.active,
    }
