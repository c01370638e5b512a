"""What was learned of nodes' memory in an earlier run, until the nodes are there to have it."""

from collections.abc import Iterable

from sollol.scheduling.affinity import FIRST_TRUST
from sollol.scheduling.capacity import Capacity
from sollol.scheduling.kept import REFUSED, number, rows, text
from sollol.scheduling.state import Node


class Memories:
    """Sole owner of the capacity and the trust of nodes and models that have not come yet."""

    def __init__(self) -> None:
        self._capacities: dict[str, list[object]] = {}
        self._trust: dict[tuple[str, str], float] = {}

    def give(self, node: Node) -> None:
        """Hand a node and its runners what is kept of them."""
        capacity = self._capacities.pop(node.id, None)
        if capacity is not None:
            node.capacity.take(capacity)
        for key, runner in node.runners.items() if self._trust else ():
            trust = self._trust.pop((node.id, key), None)
            if trust is not None:
                runner.conversations.trust = trust

    def forget_node(self, node_id: str) -> None:
        """Drop what is kept of a node that is gone."""
        self._capacities.pop(node_id, None)
        for pair in [pair for pair in self._trust if pair[0] == node_id]:
            del self._trust[pair]

    def as_lists(self, nodes: Iterable[Node]) -> dict[str, list[list[object]]]:
        """Return what is worth keeping, of the nodes that are there and of those that are not yet."""
        capacity = [[name, *kept] for name, kept in self._capacities.items()]
        trust: list[list[object]] = [[*pair, value] for pair, value in self._trust.items()]
        for node in nodes:
            capacity.append([node.id, *node.capacity.as_list()])
            trust += [
                [node.id, key, runner.conversations.trust]
                for key, runner in node.runners.items()
                if runner.conversations.trust != FIRST_TRUST
            ]
        return {"capacity": capacity, "trust": trust}

    def take(self, kept: object) -> int:
        """Take over what :meth:`as_lists` gave; return how much of it did not fit."""
        dropped = 0
        for row in rows(kept, "capacity"):
            try:
                Capacity(None).take(row[1:])
                self._capacities[text(row[0])] = row[1:]
            except REFUSED:
                dropped += 1
        for row in rows(kept, "trust"):
            try:
                self._trust[(text(row[0]), text(row[1]))] = number(row[2], 0.0, 1.0)
            except REFUSED:
                dropped += 1
        return dropped
