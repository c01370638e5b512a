"""A workload by its kind, made or read, at a rate."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from enum import StrEnum
from pathlib import Path

from sollol.bench.traces import read_azure, read_mooncake, window
from sollol.bench.workload import Request, mixed_contexts, synthetic


class Kind(StrEnum):
    """Where requests come from."""

    SYNTHETIC = "synthetic"
    """Chats, code, embeddings and batches, in bursts."""
    CONTEXTS = "contexts"
    """Applications that each want another context length of the same models."""
    AZURE = "azure"
    MOONCAKE = "mooncake"


_MADE = {Kind.SYNTHETIC: synthetic, Kind.CONTEXTS: mixed_contexts}
_READERS = {Kind.AZURE: read_azure, Kind.MOONCAKE: read_mooncake}
PUBLISHED = {
    Kind.AZURE: "https://github.com/Azure/AzurePublicDataset",
    Kind.MOONCAKE: "https://github.com/kvcache-ai/Mooncake",
}
"""Where to get the traces."""


@dataclass(frozen=True)
class Source:
    """A kind of workload, and for a trace its file and the second to begin at.

    Raises:
        ValueError: a trace without its file, or a file for what is made.
    """

    kind: Kind
    trace: Path | None = None
    start_s: float = 0.0
    _read: dict[int, list[Request]] = field(default_factory=dict, compare=False, repr=False)

    def __post_init__(self) -> None:
        if (self.kind in _READERS) is not (self.trace is not None):
            where = ", ".join(f"{kind} ({url})" for kind, url in PUBLISHED.items())
            raise ValueError(f"--trace FILE goes with the workloads that are published: {where}")

    def make(self, rate_per_s: float, requests: int, seed: int) -> Sequence[Request]:
        """Return so many requests that arrive at about ``rate_per_s``.

        Raises:
            OSError, ValueError: the trace cannot be read, or has no such part.
        """
        if self.trace is None:
            return _MADE[self.kind](rate_per_s=rate_per_s, requests=requests, seed=seed)
        if seed not in self._read:
            self._read[seed] = self._load(self.trace, seed)
        part = window(self._read[seed], start_s=self.start_s, count=requests)
        if len(part) < 2 or part[-1].at <= part[0].at:
            raise ValueError(f"{self.trace}: no requests from second {self.start_s:g} on")
        own_rate = (len(part) - 1) / (part[-1].at - part[0].at)
        return window(part, count=requests, factor=rate_per_s / own_rate)

    def _load(self, trace: Path, seed: int) -> list[Request]:
        try:
            return _READERS[self.kind](trace, seed=seed)
        except FileNotFoundError:
            where = PUBLISHED[self.kind]
            raise ValueError(f"{trace}: no such file; the trace is at {where}") from None
