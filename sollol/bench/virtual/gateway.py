"""The gateway's part of a virtual run: the real scheduler, its grants carried out."""

from collections.abc import Iterable
from dataclasses import dataclass

from sollol.bench.virtual.drive import NETWORK_S, Drive
from sollol.bench.virtual.node import VirtualNode, Visit
from sollol.bench.workload import Request
from sollol.scheduling.decision import Effect, Prewarm, Refusal
from sollol.scheduling.scheduler import Scheduler
from sollol.types import Lease, Measured, RouteRequest
from sollol.wire.names import model_key


@dataclass(frozen=True, slots=True)
class GatewayTimes:
    """How often the gateway does what it does by itself, and how long it lets requests wait."""

    poll_s: float = 5.0
    look_soon_s: float = 1.0
    """From the end of an answer for which a model was loaded to the look at its node."""
    tick_s: float = 0.25
    queue_timeout_s: float = 300.0


class Gateway:
    """Drives a scheduler as the real gateway does: a view of each node now and then, and events."""

    def __init__(
        self, drive: Drive, scheduler: Scheduler, times: GatewayTimes | None = None
    ) -> None:
        self.scheduler = scheduler
        self._drive = drive
        self._times = times or GatewayTimes()
        self._leases: dict[int, Lease] = {}
        self._soon: set[str] = set()
        self.prewarms = 0

    def start(self) -> None:
        """Look at every node, and go on doing so."""
        self._poll()
        self._tick()

    def submit(self, index: int, request: Request) -> None:
        """Take a request in."""
        now = self._drive.loop.now
        route = RouteRequest(
            id=str(index),
            model=model_key(request.model),
            arrived_at=now,
            expires_at=now + self._times.queue_timeout_s,
            priority=request.priority,
            caller=request.caller,
            ask=request.ask,
        )
        self._carry_out(self.scheduler.submit(route, now))

    def began(self, index: int, visit: Visit) -> None:
        """Say that the model is in memory."""
        now = self._drive.loop.now
        self._carry_out(self.scheduler.loaded(self._leases[index], now))

    def ended(self, index: int, visit: Visit) -> None:
        """Give the slot back with what the answer says, and look at a node that loaded."""
        lease = self._leases.pop(index)
        node = self._drive.nodes[lease.node_id]
        measured = None if visit.is_refused else measure(visit, node)
        if visit.was_loaded:
            self._look_soon(node)
        now = self._drive.loop.now
        has_failed = measured is None
        self._carry_out(self.scheduler.release(lease, now, measured, has_failed=has_failed))

    def _carry_out(self, effects: Iterable[Effect]) -> None:
        for effect in effects:
            if isinstance(effect, Refusal):
                self._drive.finish(int(effect.request_id), effect.error.code)
            elif isinstance(effect, Prewarm):
                self._warm(effect)
            else:
                self._send(effect.lease)

    def _warm(self, effect: Prewarm) -> None:
        """Load a model as the gateway does: the news of its end comes over the network."""
        node = self._drive.nodes[effect.node_id]

        def ended(*, is_loaded: bool) -> None:
            self._look_soon(node)
            now = self._drive.loop.now
            args = (effect.node_id, effect.model, now)
            self._carry_out(self.scheduler.load_ended(*args, has_failed=not is_loaded))

        def reply(is_loaded: bool) -> None:
            self._drive.loop.after(NETWORK_S, lambda: ended(is_loaded=is_loaded))

        self.prewarms += 1
        self._drive.loop.after(NETWORK_S, lambda: node.warm(effect.model, reply))

    def _send(self, lease: Lease) -> None:
        index = int(lease.request_id)
        self._leases[index] = lease
        self._drive.records[index].predicted_s = lease.predicted_s
        self._drive.send(index, self._drive.nodes[lease.node_id], self, lease.queue_wait_s)

    def _poll(self) -> None:
        for node in self._drive.nodes.values():
            self._look(node)
        self._drive.loop.after(self._times.poll_s, self._poll)

    def _look_soon(self, node: VirtualNode) -> None:
        if node.name in self._soon:
            return
        self._soon.add(node.name)

        def look() -> None:
            self._soon.discard(node.name)
            self._look(node)

        self._drive.loop.after(self._times.look_soon_s, look)

    def _look(self, node: VirtualNode) -> None:
        self._carry_out(self.scheduler.node_changed(node.view(), self._drive.loop.now))

    def _tick(self) -> None:
        self._carry_out(self.scheduler.tick(self._drive.loop.now))
        self._drive.loop.after(self._times.tick_s, self._tick)


def measure(visit: Visit, node: VirtualNode) -> Measured:
    """Return what an Ollama's answer and the gateway's clock say of a request.

    An answer to an embedding request says neither the seconds of its prompt nor any of output.
    """
    embeds = visit.output_s == 0.0
    return Measured(
        load_s=visit.load_s,
        prompt_tokens=visit.prompt_tokens,
        cached_tokens=visit.cached_tokens if node.config.reports_cached_count else None,
        prompt_s=None if embeds else visit.prompt_s,
        output_tokens=None if embeds else visit.output_tokens,
        output_s=None if embeds else visit.output_s,
        node_total_s=visit.total_s,
        first_byte_s=visit.first_byte_at - visit.arrived_at + 2 * NETWORK_S,
        total_s=visit.total_s + 2 * NETWORK_S,
        pieces=1 if embeds else visit.output_tokens,
    )
