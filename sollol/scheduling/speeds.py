"""What speed to expect where nothing was measured: by the bytes of the model, the node, the model.

``log(seconds) = log(bytes) + node + model``: generating reads every weight once for a token, and a
load reads them once from disk, so seconds go with bytes; what a node adds to that is its speed, what
a model adds is its kind (a mixture of experts reads few of its bytes).
"""

from math import exp, log

from sollol.scheduling.kept import REFUSED, number, rows, text

UNKNOWN_BYTES = 4 * 1024**3
"""What a model whose size nobody tells is taken for."""

MOST_LOG_S = 14.0
"""No expectation is longer than about two weeks, whatever was measured."""

NODE_SHARE = 0.7
"""Of what a measurement differs from the expectation, how much is put down to the node."""

MAX_COUNT = 8
"""Measurements that what was kept from an earlier run is worth at most."""


class Speeds:
    """Seconds for one kind of work, for pairs of node and model that were never seen together."""

    def __init__(self, bytes_per_s: float) -> None:
        self._default = -log(bytes_per_s)
        self._nodes: dict[str, tuple[float, int]] = {}
        self._sum = 0.0
        """Of what the known nodes add."""
        self._models: dict[str, tuple[float, int]] = {}

    def expected_s(self, node_id: str, model: str, size_bytes: int) -> float:
        """Return the seconds to expect."""
        return exp(min(MOST_LOG_S, self._log_expected(node_id, model, size_bytes)))

    def learn(self, node_id: str, model: str, size_bytes: int, seconds: float) -> None:
        """Take a measurement of more than zero seconds."""
        node, node_count = self._nodes.get(node_id, (self._typical(), 0))
        kind, kind_count = self._models.get(model, (0.0, 0))
        off = log(seconds) - self._log_expected(node_id, model, size_bytes)
        # What the first measurement on a node tells is the node's; of a model, as far as it is known.
        node_share = 1.0 if not node_count else NODE_SHARE * max(0.15, 1 / (node_count + 1))
        kind_share = 0.0 if not node_count else (1 - NODE_SHARE) * max(0.15, 1 / (kind_count + 1))
        self._sum += node_share * off if node_count else node + off
        self._nodes[node_id] = (node + node_share * off, node_count + 1)
        self._models[model] = (kind + kind_share * off, kind_count + 1)

    def forget_node(self, node_id: str) -> None:
        """Drop what is known of a node."""
        self._sum -= self._nodes.pop(node_id, (0.0, 0))[0]

    def as_lists(self) -> dict[str, list[list[object]]]:
        """Return what is worth keeping between runs."""
        return {
            "nodes": _kept(self._nodes),
            "models": _kept(self._models),
        }

    def take(self, kept: object) -> int:
        """Take over what :meth:`as_lists` gave; return how much of it did not fit."""
        dropped = 0
        for name, known in (("nodes", self._nodes), ("models", self._models)):
            for row in rows(kept, name):
                try:
                    key, value, count = (
                        text(row[0]),
                        number(row[1], -60, 60),
                        number(row[2], 1, 1e9),
                    )
                except REFUSED:
                    dropped += 1
                else:
                    known[key] = (value, min(int(count), MAX_COUNT))
        self._sum = sum(value for value, _ in self._nodes.values())
        return dropped

    def _typical(self) -> float:
        """Return the average of the nodes that are known, which a new one is taken for."""
        if not self._nodes:
            return self._default
        return self._sum / len(self._nodes)

    def _log_expected(self, node_id: str, model: str, size_bytes: int) -> float:
        known = self._nodes.get(node_id)
        node = self._typical() if known is None else known[0]
        kind = self._models.get(model, (0.0, 0))[0]
        return log(size_bytes or UNKNOWN_BYTES) + node + kind


def _kept(known: dict[str, tuple[float, int]]) -> list[list[object]]:
    return [[name, value, min(count, MAX_COUNT)] for name, (value, count) in known.items()]
