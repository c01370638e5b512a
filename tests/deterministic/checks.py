"""What must hold, whatever happens: looked at whenever the clock is about to move, and at the end."""

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from tests.deterministic.world import World


class Checks:
    """The checks of one run."""

    def __init__(self, world: "World") -> None:
        self.world = world

    def at_pause(self) -> None:
        """Check what holds at every moment."""

    async def after_requests(self) -> None:
        """Check what holds once all have had their answers."""

    async def after_faults(self) -> None:
        """Check that the gateway is as good as new once nothing fails any more."""

    def at_end(self) -> None:
        """Check that nothing is left."""
