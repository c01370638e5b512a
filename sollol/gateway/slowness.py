"""Tells of models that became far slower than they were: their node has lost its GPU, probably."""

from collections.abc import Callable, Sequence

import structlog

from sollol.scheduling.overview import SlowModel
from sollol.types import NodeView, Resident

log = structlog.get_logger()

Pair = tuple[str, str]
"""A node's id and a runner of it."""


class Slowness:
    """Remembers what was told, so that each change is told once.

    Args:
        slow: returns the models that are slow, and those that were.
    """

    def __init__(self, slow: Callable[[], Sequence[SlowModel]]) -> None:
        self._slow = slow
        self._told: dict[Pair, None] = {}
        self._on_gpu: dict[Pair, bool] = {}
        """Whether a model is wholly there; in it once it was."""

    def of(self, node_id: str) -> list[SlowModel]:
        """Return the models that are slow on a node."""
        return [each for each in self._slow() if each.is_slow and each.node_id == node_id]

    def look(self) -> None:
        """Log what has become slow, and what is so no more."""
        for each in self._slow():
            pair = (each.node_id, each.runner)
            if each.is_slow is (pair in self._told):
                continue
            if each.is_slow:
                self._told[pair] = None
                log.warning("node_slow", **_figures(each))
            else:
                del self._told[pair]
                log.info("node_fast", **_figures(each))

    def node_changed(self, view: NodeView) -> None:
        """Log which models are on the CPU that were wholly on the GPU when they were loaded before."""
        for key, loaded in view.resident.items():
            if key not in view.models or not loaded.size_bytes:
                continue
            pair = (view.id, view.runner(key))
            share = loaded.cpu_share
            if share and self._on_gpu.get(pair):
                _log_on_cpu(view, loaded, share)
            if not share or pair in self._on_gpu:
                self._on_gpu[pair] = not share

    def node_removed(self, node_id: str) -> None:
        """Forget a node."""
        for pair in [pair for pair in self._told if pair[0] == node_id]:
            del self._told[pair]
        for pair in [pair for pair in self._on_gpu if pair[0] == node_id]:
            del self._on_gpu[pair]


def _figures(slow: SlowModel) -> dict[str, object]:
    return {
        "node": slow.node_id,
        "models": list(slow.models),
        "tokens_per_s": round(slow.tokens_per_s, 2),
        "best_tokens_per_s": round(slow.best_tokens_per_s, 2),
    }


def _log_on_cpu(view: NodeView, loaded: Resident, share: float) -> None:
    log.warning("model_on_cpu", node=view.id, model=loaded.name, cpu_share=round(share, 2))
