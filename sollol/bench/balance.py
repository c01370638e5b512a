"""Balancers without a queue, as nginx would do it: what policies are compared with."""

from collections.abc import Sequence
from random import Random

from sollol.bench.fleets import Fleet

DIRECT_POLICIES = ("direct_round_robin", "direct_least_connections")
"""Each request goes on at once to a node that has the model, and queues there."""


class Balance:
    """Chooses among the nodes that have a model: the next in turn, or one with the fewest requests."""

    def __init__(self, policy: str, fleet: Fleet, rng: Random) -> None:
        self._rng = rng
        self._in_flight = dict.fromkeys(fleet.nodes, 0)
        self._turns: dict[str, int] = {}
        self._pick = self._in_turn if policy == "direct_round_robin" else self._least_connections
        self._holders: dict[str, list[str]] = {}
        for name, config in fleet.nodes.items():
            for model in config.models:
                self._holders.setdefault(model.name, []).append(name)

    def choose(self, model: str) -> str:
        """Return a node for a request, which counts there from then on; empty if none has the model."""
        holders = self._holders.get(model)
        if not holders:
            return ""
        node = self._pick(holders, model)
        self._in_flight[node] += 1
        return node

    def ended(self, node: str) -> None:
        """Note that a node has one request less."""
        self._in_flight[node] -= 1

    def _in_turn(self, holders: Sequence[str], model: str) -> str:
        turn = self._turns[model] = self._turns.get(model, -1) + 1
        return holders[turn % len(holders)]

    def _least_connections(self, holders: Sequence[str], model: str) -> str:
        least = min(self._in_flight[node] for node in holders)
        return self._rng.choice([node for node in holders if self._in_flight[node] == least])
