"""One schedule played: a real gateway between simulated callers and simulated nodes."""

import asyncio
import contextlib
import hashlib
from collections.abc import Callable
from random import Random
from types import SimpleNamespace
from typing import Any

from uvicorn.server import ServerState

from sollol.api.answer import Answer
from sollol.api.door import Door
from sollol.api.inference import Inference
from sollol.api.protocol import GatewayProtocol, ProtocolLimits, Shared
from sollol.api.request import Request
from sollol.gateway.gateway import Gateway
from sollol.settings import Settings
from sollol.upstream.outbox import Outbox
from sollol.wire.kinds import BODY_KINDS
from tests.deterministic.checks import Checks
from tests.deterministic.client import Client, Leave, RequestPlan
from tests.deterministic.generation import Generation
from tests.deterministic.loop import GRID_S, TICKS_A_SECOND, Deadlock, OutOfTime, VirtualLoop
from tests.deterministic.network import SimulatedNetwork, Wire
from tests.deterministic.node import SimulatedNode
from tests.deterministic.schedule import FIRST_AT, Schedule

EJECT_S, MAX_EJECT_S = 0.5, 2.0
MAX_S = 600.0
"""Virtual seconds after which a run is stuck."""


class World:
    """Everything of one run. ``trace`` tells what happened, one line for each event."""

    def __init__(self, schedule: Schedule) -> None:
        self.schedule = schedule
        self.trace: list[str] = []
        self.loop = VirtualLoop()
        self.loop.end = MAX_S
        self.nodes = {
            plan.id: SimulatedNode(plan, self.loop, Random(f"{schedule.seed} {plan.id}"), self.note)
            for plan in schedule.nodes
        }
        network = SimulatedNetwork(self.loop)
        network.servers = dict(self.nodes)
        self.loop.network = network
        self.clients: dict[str, Client] = {}
        self.gateway: Gateway
        self._accept: Callable[[], GatewayProtocol]
        self._news = asyncio.Event()
        self._errors: list[BaseException] = []
        self._checks: Checks
        self._turns = 0
        """Turns of the loop since a request has ended on a node."""
        leaves = [request.leave for request in schedule.requests]
        self._has_bad_timing = Leave.GRANT in leaves or Leave.EVE in leaves
        for node in self.nodes.values():
            node.on_end = self._request_ended

    def note(self, text: str) -> None:
        """Take down an event."""
        self.trace.append(f"{self.loop.now / TICKS_A_SECOND:.2f} {text}")
        self._news.set()

    def attempts_of(self, request: str) -> list[Generation]:
        """Return what has reached nodes of a request."""
        return self._checks.watch.attempts[request]

    def run(self) -> str:
        """Play the schedule, check it, and return what stands for all that happened.

        Raises:
            AssertionError: something did not hold.
        """
        self.loop.set_exception_handler(self._unhandled)
        asyncio.set_event_loop(self.loop)
        try:
            self.loop.run_until_complete(self._play())
        finally:
            self._clear_away()
        assert not self._errors, self._errors
        return hashlib.sha256("\n".join(self.trace).encode()).hexdigest()

    def _unhandled(self, _: object, context: dict[str, Any]) -> None:
        self._errors.append(context.get("exception") or RuntimeError(context["message"]))

    def _pause(self) -> None:
        """Check everything, and whether something went wrong outside of any task."""
        if self._errors:
            raise self._errors[0]
        self._checks.at_pause()

    def _clear_away(self) -> None:
        """End what a run that failed has left behind."""
        self.loop.on_turn = self.loop.on_pause = None
        left = asyncio.all_tasks(self.loop)
        for task in left:
            task.cancel()
        with contextlib.suppress(Deadlock, OutOfTime):
            self.loop.run_until_complete(asyncio.gather(*left, return_exceptions=True))
        asyncio.set_event_loop(None)
        self.loop.close()

    async def _play(self) -> None:
        self.gateway = gateway = Gateway(
            make_settings(self.schedule), _look_up, self.loop.time, Random(self.schedule.seed)
        )
        self._accept = _acceptor(gateway)
        self._checks = checks = Checks(self)
        async with gateway.running():
            self.loop.on_turn = self._leave_at_worst if self._has_bad_timing else None
            self.loop.on_pause = self._pause
            for request in self.schedule.requests:
                self.loop.call_at(request.at * GRID_S, self.come, request)
            for window in self.schedule.windows:
                node = self.nodes[window.node]
                self.loop.call_at(window.start * GRID_S, node.fail, window)
                self.loop.call_at(window.end * GRID_S, node.recover, window)
            await self.wait_until(max(request.at for request in self.schedule.requests))
            await self.wait_answers()
            await checks.after_requests()
            await self.wait_until(self.schedule.over_at)
            await checks.after_faults()
        self.loop.on_turn = self.loop.on_pause = None
        checks.at_end()

    def told_of(self, model: str) -> list[str]:
        """Return how all requests for a model have ended on nodes: one may be told what others were."""
        found = self._checks.watch.attempts.values()
        return [attempt.how for each in found for attempt in each if attempt.model == model]

    def is_unknown(self, model: str) -> bool:
        """Whether the gateway may not know of a model: nodes with it were never reached, or none is."""
        unreached = {window.node for window in self.schedule.windows if window.start <= FIRST_AT}
        return not any(
            model in node.models for node in self.nodes.values() if node.id not in unreached
        )

    async def wait_until(self, tick: int) -> None:
        """Wait until a moment has passed."""
        await asyncio.sleep((tick + 1 - self.loop.now) * GRID_S)

    async def wait_answers(self) -> None:
        """Wait until every caller who has come has had an end."""
        while any(client.told.end is None for client in self.clients.values()):
            self._news.clear()
            await self._news.wait()

    def come(self, plan: RequestPlan) -> Client:
        """Let a caller come."""
        client = self.clients[plan.name] = Client(plan, self.loop, self.note)
        client.on_end = self._checks.ended
        protocol = self._accept()
        client.come(Wire(self.loop, protocol, "127.0.0.1"), protocol)
        return client

    def _request_ended(self) -> None:
        self._turns = 0

    def _leave_at_worst(self) -> None:
        """Let callers leave who are granted a slot in this turn of the loop, or in the next."""
        self._turns += 1
        waiters = self.gateway.admission._waiters
        if not waiters:
            return
        for request_id, waiter in list(waiters.items()):
            entry = self.gateway.journal._open.get(request_id)
            if entry is None:
                continue
            client = self.clients[entry.shown_id]
            is_granted = waiter.done() and not waiter.cancelled() and waiter.exception() is None
            is_eve = not waiter.done() and self._turns == client.plan.leave_turns
            if client.plan.leave is (Leave.GRANT if is_granted else Leave.EVE if is_eve else None):
                client.leave()


async def _look_up(host: str, port: int) -> frozenset[str]:
    """Return the address of a node; as nobody connects to it, any will do."""
    return frozenset({f"10.0.0.{host[1:]}"})


def _acceptor(gateway: Gateway) -> Callable[[], Any]:
    """Return what makes the near end of a caller's connection: the gateway's own protocol."""
    inference = Inference(gateway)

    def app(request: Request, answer: Answer) -> Any:
        return inference.serve(BODY_KINDS[request.path], request, answer)

    shared = Shared(ProtocolLimits(), Door(10_000), Outbox())
    config: Any = SimpleNamespace(loaded_app=app)
    state = ServerState()
    return lambda: GatewayProtocol(shared, config, state, {})


def make_settings(schedule: Schedule) -> Settings:
    """Return settings with short times, so that hours of faults are minutes."""
    return Settings.model_validate(
        {
            "nodes": [
                {
                    "url": f"http://{plan.id}:1",
                    "name": plan.id,
                    "engine": "ollama",
                    "slots": plan.slots,
                }
                for plan in schedule.nodes
            ],
            "discovery": {"local": False},
            "embedded": {"enabled": False},
            "probe": {"interval_s": 2.0, "timeout_s": 0.3},
            "queue": {"timeout_s": 30.0, "ageing_s": 1.0, "max_length": 100},
            "scheduling": {
                "state_file": "",
                "policy": schedule.policy,
                "journal_length": 200,
                "prewarm": False,
            },
            "failover": {
                "eject_s": EJECT_S,
                "max_eject_s": MAX_EJECT_S,
                "retry_reserve": schedule.retry_reserve,
            },
            "upstream": {
                "connect_timeout_s": 0.5,
                "first_byte_timeout_s": 4.0,
                "stall_timeout_s": 1.0,
            },
        }
    )
