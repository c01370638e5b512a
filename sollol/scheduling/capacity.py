"""How much a node's memory holds.

Ollama tells what is in memory but not how much room there is, so that is learned: what was there
together fits; what left as another came in did not.
"""


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
