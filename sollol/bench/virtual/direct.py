"""A balancer without a queue, as nginx would do it: for comparison."""

from collections.abc import Sequence
from random import Random

from sollol.bench.virtual.drive import Drive
from sollol.bench.virtual.node import VirtualNode, Visit
from sollol.bench.workload import Request

DIRECT_POLICIES = ("direct_round_robin", "direct_least_connections")


class DirectBalancer:
    """Sends each request on at once to a node that has the model; they queue there."""

    def __init__(self, drive: Drive, policy: str, rng: Random) -> None:
        self._drive = drive
        self._rng = rng
        self._in_flight = dict.fromkeys(drive.nodes, 0)
        self._turns: dict[str, int] = {}
        self._choose = self._in_turn if policy == "direct_round_robin" else self._least_connections

    def start(self) -> None:
        """Nothing goes on by itself."""

    def submit(self, index: int, request: Request) -> None:
        """Take a request in."""
        holders = [node for node in self._drive.nodes.values() if node.has(request.model)]
        if not holders:
            self._drive.finish(index, "model_not_found")
            return
        node = self._choose(holders, request.model)
        self._in_flight[node.name] += 1
        self._drive.send(index, node, self, 0.0)

    def ended(self, index: int, visit: Visit) -> None:
        """Note that a node has one request less."""
        self._in_flight[self._drive.records[index].node] -= 1

    def _in_turn(self, holders: Sequence[VirtualNode], model: str) -> VirtualNode:
        turn = self._turns[model] = self._turns.get(model, -1) + 1
        return holders[turn % len(holders)]

    def _least_connections(self, holders: Sequence[VirtualNode], model: str) -> VirtualNode:
        least = min(self._in_flight[node.name] for node in holders)
        return self._rng.choice([n for n in holders if self._in_flight[n.name] == least])
