"""How far the load of a model is, from what llama-server has read of its files.

llama-server itself says nothing while it loads. It reads each tensor just before it sends it, so
the bytes it has read are the progress, also where workers have the weights in their caches.
"""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

STEP = 0.01
"""What is told is at least this much more than what was told before."""
_UNSURE = 0.02
"""Until so much is loaded, nobody knows how long the rest takes."""
_MOST = 0.99
"""After the last byte the caches are still to be made, and a first batch is computed."""
PROC = Path("/proc")


@dataclass(frozen=True, slots=True)
class LoadProgress:
    """How far a load is: ``share`` from 0 to 1, and the seconds left, None while unknown."""

    share: float
    eta_s: float | None


class LoadWatch:
    """Tells the progress of one load.

    Args:
        total_bytes: what will be read in all, about.
        tell: called with every step.
        clock: monotonic seconds.
    """

    def __init__(
        self,
        total_bytes: int,
        tell: Callable[[LoadProgress], None],
        clock: Callable[[], float],
    ) -> None:
        self._total_bytes = max(total_bytes, 1)
        self._tell = tell
        self._clock = clock
        self._began_at = clock()
        self._told = LoadProgress(-STEP, None)

    def look(self, read_bytes: int | None) -> None:
        """Take how much was read by now; None where the system does not tell."""
        if read_bytes is None:
            return
        share = min(read_bytes / self._total_bytes, _MOST)
        if share < self._told.share + STEP:
            return
        elapsed_s = self._clock() - self._began_at
        eta_s = elapsed_s * (1 - share) / share if share >= _UNSURE else None
        self._told = LoadProgress(share, eta_s)
        self._tell(self._told)

    def finish(self) -> None:
        """Tell that all is loaded."""
        self._tell(LoadProgress(1.0, 0.0))


def read_bytes_of(pid: int | None, proc: Path = PROC) -> int | None:
    """Return how much a process has read of files; None where the system does not tell."""
    try:
        text = (proc / str(pid) / "io").read_text()
    except OSError:
        return None
    name, _, number = text.partition("\n")[0].partition(":")
    return int(number) if name == "rchar" else None
