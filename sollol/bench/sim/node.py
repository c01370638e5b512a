"""A simulated Ollama node on a real socket; true to what API.md says of the real one.

Example:
    async with SimNode(SimConfig(models=(SimModel("llama3.2:3b"),))) as node:
        node.set_fault(Fault("cut_after_n_records", records=3, times=1))
        ...  # talk to node.url
        assert node.requests[0].outcome == "failed"
"""

import asyncio
import socket
from types import TracebackType
from typing import Self

from sollol.bench.sim.call import Call
from sollol.bench.sim.config import SimConfig, SimModel, guess_model
from sollol.bench.sim.control import ControlApp
from sollol.bench.sim.engine import LoadRecord, UnloadRecord
from sollol.bench.sim.exchange import Exchange
from sollol.bench.sim.faults import Fault, FaultKind, FaultyExchange
from sollol.bench.sim.http import App, Connection, Request
from sollol.bench.sim.recorder import Outcome, RequestRecord
from sollol.bench.sim.routes import peek_model, serve
from sollol.bench.sim.state import NodeState
from sollol.bench.sim.store import begin_upload
from sollol.ports import free_port

__all__ = [
    "Fault",
    "FaultKind",
    "LoadRecord",
    "RequestRecord",
    "SimConfig",
    "SimModel",
    "SimNode",
    "UnloadRecord",
    "guess_model",
]
_BACKLOG = 2048


class SimNode:
    """One node; listens while the ``async with`` block runs, and leaves nothing behind."""

    state: NodeState

    def __init__(self, config: SimConfig) -> None:
        self.config = config
        self.port = config.port
        self.control_port = config.control_port or 0
        self.connections: set[Connection] = set()
        self.tasks: set[asyncio.Task[None]] = set()
        self._server: asyncio.Server | None = None
        self._control_server: asyncio.Server | None = None
        self._reopening: asyncio.Future[None] | None = None
        self._control = ControlApp(self)

    async def __aenter__(self) -> Self:
        self.state = NodeState(self.config)
        await self.start_listening()
        if self.config.control_port is not None:
            sock = _listening_socket(self.config.host, self.control_port)
            self.control_port = sock.getsockname()[1]
            self._control_server = await _serve_on(sock, self._control)
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        await self.stop_listening()
        if self._control_server is not None:
            self._control_server.close()
        await _close_all(self)
        await _close_all(self._control)
        self.state.engine.close()

    # Where it is.

    @property
    def url(self) -> str:
        """Return the base URL, without a slash at its end."""
        return f"http://{self.config.host}:{self.port}"

    @property
    def control_url(self) -> str:
        """Return the base URL of the side channel."""
        return f"http://{self.config.host}:{self.control_port}"

    # What it has seen.

    @property
    def requests(self) -> list[RequestRecord]:
        """Return the newest requests, in the order of their arrival."""
        return list(self.state.recorder.requests)

    @property
    def loads(self) -> list[LoadRecord]:
        """Return every load, aborted ones too."""
        return self.state.engine.loads

    @property
    def unloads(self) -> list[UnloadRecord]:
        """Return every model that left the memory, for whichever reason."""
        return self.state.engine.unloads

    @property
    def evictions(self) -> list[UnloadRecord]:
        """Return the models that had to make room for another."""
        return [record for record in self.unloads if record.reason == "room"]

    @property
    def in_flight(self) -> int:
        """Return how many requests, of any path, have arrived and are not finished."""
        return self.state.recorder.in_flight

    @property
    def max_in_flight_per_model(self) -> dict[str, int]:
        """Return the most requests that were there at once, by model as the requests spell it."""
        return self.state.recorder.max_in_flight_per_model

    @property
    def max_running_per_model(self) -> dict[str, int]:
        """Return the most sequences that ran at once, by loaded model; never above its slots."""
        return self.state.engine.max_running

    @property
    def open_connections(self) -> int:
        """Return how many connections are open, the side channel's not counted."""
        return len(self.connections)

    # What can be done to it.

    def set_fault(self, fault: Fault) -> None:
        """Switch a fault on; it stays until it has struck ``times`` times or all are cleared."""
        self.state.faults.add(fault)
        if fault.kind == "refuse":
            self._close_listener()

    def clear_faults(self) -> None:
        """Switch all faults off; what hangs already goes on hanging.

        A listener closed by ``refuse`` takes connections again at once.
        """
        refused = self.state.faults.refuses
        self.state.faults.clear()
        if refused and self._server is None:
            sock = _listening_socket(self.config.host, self.port)
            self._reopening = asyncio.ensure_future(self._accept_on(sock))

    async def stop_listening(self) -> None:
        """Refuse new connections; open ones go on."""
        await self._reopened()
        self._close_listener()

    async def start_listening(self) -> None:
        """Take new connections, on the same port as before."""
        await self._reopened()
        if self._server is None:
            self.port = self.port or free_port()  # one that can be taken again after a pause
            await self._accept_on(_listening_socket(self.config.host, self.port))

    def reset_connections(self) -> None:
        """Reset every open connection, as the death of the process would."""
        for connection in list(self.connections):
            connection.reset()

    async def _accept_on(self, sock: socket.socket) -> None:
        self._server = await _serve_on(sock, self)
        if self.state.faults.refuses:  # set again in the meantime
            self._close_listener()

    async def _reopened(self) -> None:
        if self._reopening is not None:
            await self._reopening
            self._reopening = None

    def _close_listener(self) -> None:
        if self._server is not None:
            self._server.close()
            self._server = None

    # What its connections ask of it.

    def accepts(self, connection: Connection) -> bool:
        """Say whether a new connection is listened to."""
        fault = self.state.faults.take_on_accept()
        if fault is None:
            return True
        if fault.kind == "reset_on_accept":
            connection.reset()
        return False

    def begin(self, connection: Connection, request: Request) -> None:
        """See the head of a request: blobs are answered, or hashed, before they are complete."""
        if begin_upload(self.state, connection, request):
            record = self._start_record(request)
            record.status = 200
            self.state.recorder.finish(record, "completed", self.state.loop.time())

    def answer_at_once(self, connection: Connection, request: Request) -> bool:
        """Answer a request that is only a repetition."""
        return self.state.fast_lane.answer(connection, request)

    async def handle(self, connection: Connection, request: Request) -> None:
        """Answer a complete request and record how that went."""
        record = self._start_record(request)
        exchange = self._exchange(connection, request)
        outcome: Outcome = "aborted"
        try:
            await serve(Call(self.state, exchange, record))
            await exchange.finish()
            outcome = self._outcome(exchange)
        except asyncio.CancelledError:
            outcome = "failed" if isinstance(exchange, FaultyExchange) else "aborted"
            raise
        finally:
            record.status = exchange.status
            self.state.recorder.finish(record, outcome, self.state.loop.time())

    def connection_closed(self, connection: Connection) -> None:
        """Do nothing: the connection cancels its own work."""

    def _start_record(self, request: Request) -> RequestRecord:
        now = self.state.loop.time()
        record = RequestRecord(request.method, request.path, request.body, request.headers, now)
        self.state.recorder.start(record)
        return record

    def _exchange(self, connection: Connection, request: Request) -> Exchange:
        faults = self.state.faults
        if faults.is_quiet:
            return Exchange(connection, request)
        fault = faults.take_on_request(request.path, peek_model(request.body))
        if fault is None:
            return Exchange(connection, request)
        return FaultyExchange(connection, request, fault)

    def _outcome(self, exchange: Exchange) -> Outcome:
        if isinstance(exchange, FaultyExchange) or exchange.status >= 400:
            return "failed"
        return "completed"


def _listening_socket(host: str, port: int) -> socket.socket:
    """Return a bound socket that queues connections already, before a server takes them."""
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    # With the protocol named, asyncio switches off Nagle's algorithm, as Go does.
    sock = socket.socket(family, socket.SOCK_STREAM, socket.IPPROTO_TCP)
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    try:
        sock.bind((host, port))
        sock.listen(_BACKLOG)
    except OSError:
        sock.close()
        raise
    sock.setblocking(False)
    return sock


async def _serve_on(sock: socket.socket, app: App) -> asyncio.Server:
    loop = asyncio.get_running_loop()
    return await loop.create_server(lambda: Connection(app), sock=sock, backlog=_BACKLOG)


async def _close_all(app: App) -> None:
    """Cancel what runs, close every connection, and wait until both are done."""
    for connection in list(app.connections):
        connection.transport.abort()
    for task in list(app.tasks):
        task.cancel()
    await asyncio.gather(*app.tasks, return_exceptions=True)
    for connection in list(app.connections):
        await connection.wait_closed()
