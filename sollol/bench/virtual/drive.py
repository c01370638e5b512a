"""Replays a workload over virtual nodes, through the real scheduler or straight to the nodes."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Protocol

from sollol.bench.outcome import Record, Replay
from sollol.bench.sim.config import SimConfig
from sollol.bench.virtual.loop import EventLoop
from sollol.bench.virtual.node import VirtualNode, Visit
from sollol.bench.workload import Request

NETWORK_S = 0.001
"""Each way between gateway and node."""


@dataclass(frozen=True, slots=True)
class Slowdown:
    """From ``at`` on, a node takes ``factor`` times as long for everything."""

    at: float
    node: str
    factor: float


class Front(Protocol):
    """What stands between callers and nodes."""

    def submit(self, index: int, request: Request) -> None:
        """Take a request in."""
        ...

    def began(self, index: int, visit: Visit) -> None:
        """See the first byte of a streamed answer for which a model was loaded."""
        ...

    def ended(self, index: int, visit: Visit) -> None:
        """Hear that the answer is there, or that the node refused."""
        ...

    def start(self) -> None:
        """Begin whatever goes on by itself."""
        ...


class Drive:
    """One run: the clock, the nodes, and what became of each request."""

    def __init__(self, configs: Mapping[str, SimConfig], requests: Sequence[Request]) -> None:
        self.loop = EventLoop()
        self.nodes = {
            name: VirtualNode(self.loop, name, config) for name, config in configs.items()
        }
        self.records = [Record(r.at, r.model, r.priority, r.ask.task) for r in requests]
        self._requests = requests
        self._left = len(requests)

    def run(self, front: Front, slowdowns: Sequence[Slowdown] = ()) -> Replay:
        """Replay everything; ends when the last request has been answered or refused."""
        front.start()
        for change in slowdowns:
            self._schedule_slowdown(change)
        self._submit_from(0, front)
        self.loop.run(lambda: not self._left)
        return self._replay()

    def send(self, index: int, node: VirtualNode, front: Front, queue_wait_s: float) -> None:
        """Carry a request to a node, and the news of its end back."""
        request, record = self._requests[index], self.records[index]
        record.node, record.queue_wait_s = node.name, queue_wait_s
        visit = Visit(
            model=request.model,
            prompt_tokens=request.prompt_tokens,
            output_tokens=request.output_tokens,
            known_tokens=request.known_tokens,
            conversation=request.conversation,
            options=dict(request.ask.options),
            began=lambda visit: self._begin(index, visit, front),
            ended=lambda visit: self._return(index, visit, front),
        )
        self.loop.after(NETWORK_S, lambda: node.serve(visit))

    def finish(self, index: int, outcome: str) -> None:
        """Note the end of a request."""
        self.records[index].outcome = outcome
        self.records[index].latency_s = self.loop.now - self.records[index].arrived_at
        self._left -= 1

    def _schedule_slowdown(self, change: Slowdown) -> None:
        node = self.nodes[change.node]
        self.loop.at(change.at, lambda: node.set_slowdown(change.factor))

    def _submit_from(self, index: int, front: Front) -> None:
        if index < len(self._requests):
            request = self._requests[index]

            def arrive() -> None:
                self._submit_from(index + 1, front)
                front.submit(index, request)

            self.loop.at(request.at, arrive)

    def _begin(self, index: int, visit: Visit, front: Front) -> None:
        if visit.was_loaded:
            self.loop.after(NETWORK_S, lambda: front.began(index, visit))

    def _return(self, index: int, visit: Visit, front: Front) -> None:
        def arrive() -> None:
            self._note(index, visit)
            self.finish(index, "node_busy" if visit.is_refused else "served")
            front.ended(index, visit)

        self.loop.after(NETWORK_S, arrive)

    def _note(self, index: int, visit: Visit) -> None:
        record = self.records[index]
        record.node_wait_s = visit.queue_s
        record.load_s, record.was_loaded = visit.load_s, visit.was_loaded
        record.cached_tokens = visit.cached_tokens
        record.first_byte_s = visit.first_byte_at + NETWORK_S - record.arrived_at

    def _replay(self) -> Replay:
        memories = [node.memory for node in self.nodes.values()]
        reloads = sum(memory.loads["reload"] for memory in memories)
        return Replay(
            records=self.records,
            loads=reloads + sum(memory.loads["cold"] for memory in memories),
            reloads=reloads,
            evictions=sum(memory.unloads["room"] for memory in memories),
            ended_at=self.loop.now,
            max_running={name: node.max_running for name, node in self.nodes.items()},
        )
