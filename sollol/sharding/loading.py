"""How a coordinator takes up the files of a model, and how far that is.

llama-server itself says nothing while it loads. It reads each tensor just before it sends it, so
the bytes it has read are the progress, also where workers have the weights in their caches. Of a
mapped file it is the pages that it has touched.
"""

import os
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

STEP = 0.01
"""What is told is at least this much more than what was told before."""
_UNSURE = 0.02
"""Until so much is loaded, nobody knows how long the rest takes."""
_MOST = 0.99
"""After the last byte the caches are still to be made, and a first batch is computed."""
_MAPPED_SHARE = 0.25
_SHARED = 2
"""Where ``statm`` has the pages of files, of which there are many to a process that maps."""
_PAGE_BYTES = os.sysconf("SC_PAGE_SIZE")
PROC = Path("/proc")


def is_mapped(file_bytes: int, cpu_layers: int, available_bytes: int) -> bool:
    """Say whether a coordinator should map a file rather than read it.

    That saves a copy of every byte, a tenth of a load from the workers' caches. But a mapped file
    that finds no room is read twice, and its pages count as memory of the process while it loads:
    only one that is small beside what is free. And layers that stay here are faster when read,
    because the CPU has its own order for them.
    """
    return cpu_layers == 0 and file_bytes <= available_bytes * _MAPPED_SHARE


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


def mapped_bytes_of(pid: int | None, proc: Path = PROC) -> int | None:
    """Return how much of files a process has in its memory; None where the system does not tell."""
    try:
        sizes = (proc / str(pid) / "statm").read_text().split()
    except OSError:
        return None
    return int(sizes[_SHARED]) * _PAGE_BYTES if len(sizes) > _SHARED else None
