"""How much a node's memory holds.

Ollama tells what is in memory but not how much room there is, so that is learned: what was there
together fits; what left as another came in did not.
"""

from collections.abc import Sequence

from sollol.scheduling.kept import number

MAX_BYTES = 2**60
MAX_MODELS = 10_000


class Capacity:
    """Bounds of what fits into a node's memory together; both grow more exact with time."""

    __slots__ = ("fits_bytes", "fits_models", "full_bytes", "full_models", "told_bytes")

    def __init__(self, told_bytes: int | None) -> None:
        self.told_bytes = told_bytes
        self.fits_bytes = 0
        self.fits_models = 0
        self.full_bytes: int | None = None
        """So much did not fit, if that was ever seen."""
        self.full_models: int | None = None

    def has_room(self, used_bytes: int, models: int) -> bool:
        """Whether so much in so many models fits; unknown counts as yes, and is then known."""
        if self.full_models is not None and models >= self.full_models:
            return False
        if self.told_bytes is not None:
            return used_bytes <= self.told_bytes
        return (
            used_bytes <= self.fits_bytes or self.full_bytes is None or used_bytes < self.full_bytes
        )

    def is_sure_of(self, used_bytes: int, models: int) -> bool:
        """Whether so much in so many models is known to fit."""
        if self.told_bytes is not None:
            return self.has_room(used_bytes, models)
        return used_bytes <= self.fits_bytes and models <= self.fits_models

    def as_list(self) -> list[object]:
        """Return what is worth keeping between runs."""
        return [self.fits_bytes, self.fits_models, self.full_bytes, self.full_models]

    def take(self, kept: Sequence[object]) -> None:
        """Take over what :meth:`as_list` gave, unless more is known by now.

        Raises:
            ValueError, TypeError, IndexError: it is something else.
        """
        fits_bytes, fits_models = number(kept[0], 0, MAX_BYTES), number(kept[1], 0, MAX_MODELS)
        full_bytes = None if kept[2] is None else int(number(kept[2], 1, MAX_BYTES))
        full_models = None if kept[3] is None else int(number(kept[3], 1, MAX_MODELS))
        self.full_bytes = full_bytes if self.full_bytes is None else self.full_bytes
        self.full_models = full_models if self.full_models is None else self.full_models
        self.seen_together(int(fits_bytes), int(fits_models))

    def seen_together(self, used_bytes: int, models: int) -> None:
        """Note what was in memory at one time."""
        self.fits_bytes = max(self.fits_bytes, used_bytes)
        self.fits_models = max(self.fits_models, models)
        if self.full_bytes is not None and self.full_bytes <= self.fits_bytes:
            self.full_bytes = None
        if self.full_models is not None and self.full_models <= self.fits_models:
            self.full_models = None

    def seen_too_much(self, used_bytes: int, models: int) -> None:
        """Note that a model had to leave for so much to come together."""
        if used_bytes > self.fits_bytes:
            self.full_bytes = min(self.full_bytes or used_bytes, used_bytes)
        elif models > self.fits_models:
            self.full_models = min(self.full_models or models, models)
