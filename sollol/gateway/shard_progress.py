"""How far a model over workers is while it is loaded, and what the log tells of it."""

import math

import structlog

from sollol.sharding.loading import LoadProgress

log = structlog.get_logger()

TOLD_STEP = 0.25
"""How much more of a model must be loaded before it is told again."""


class ShardProgress:
    """What is known of the latest load of one model; ``latest`` is how far it is."""

    def __init__(self, model: str) -> None:
        self.latest = LoadProgress(0.0, None)
        self._model = model
        self._told = TOLD_STEP

    def begin(self, expected_s: float) -> None:
        """Take note that a load begins, which takes so long by its plan."""
        self.latest = LoadProgress(0.0, expected_s)
        self._told = TOLD_STEP

    def take(self, progress: LoadProgress) -> None:
        """Take note of how far it is."""
        self.latest = progress
        if progress.share >= self._told:
            self._told = TOLD_STEP * (math.floor(progress.share / TOLD_STEP) + 1)
            log.info(
                "shard_loads",
                model=self._model,
                percent=round(progress.share * 100),
                eta_s=None if progress.eta_s is None else round(progress.eta_s, 1),
            )

    def end(self) -> None:
        """Take note that all of it is loaded."""
        self.latest = LoadProgress(1.0, 0.0)
