"""Reads what llama-server says of the memory it took, and where: the proof that workers hold layers.

Needs ``--log-verbosity 4``. The first number in ``RPC0[127.0.0.1:50052]`` counts the devices of that
worker; ``offloaded 9/9 layers to GPU`` is written even when no worker was reached. Pure.
"""

import re
from collections.abc import Iterable
from dataclasses import dataclass, replace

from sollol.sharding.memory import MIB

_LINE = re.compile(
    r"\b\w+: +(?:RPC\d+\[(?P<worker>[^\]]+)\]|(?P<other>\S+)) "
    r"(?P<what>model|KV|RS|compute) buffer size = +(?P<mib>[\d.]+) MiB"
)
_FIELDS = {"model": "weight_mib", "KV": "cache_mib", "RS": "state_mib", "compute": "compute_mib"}


@dataclass(frozen=True, slots=True)
class Allocation:
    """What one device holds, in MiB as the log says it."""

    weight_mib: float = 0.0
    cache_mib: float = 0.0
    state_mib: float = 0.0
    compute_mib: float = 0.0

    @property
    def total_bytes(self) -> int:
        """All of it."""
        mib = self.weight_mib + self.cache_mib + self.state_mib + self.compute_mib
        return int(mib * MIB)


def allocations(lines: Iterable[str]) -> dict[str, Allocation]:
    """Return what each worker holds, by its ``host:port``; other devices by their names.

    A model may have several caches on one device: they are added up.
    """
    found: dict[str, Allocation] = {}
    for line in lines:
        match = _LINE.search(line)
        if match is None:
            continue
        device = match["worker"] or match["other"]
        field = _FIELDS[match["what"]]
        known = found.get(device, Allocation())
        found[device] = replace(known, **{field: getattr(known, field) + float(match["mib"])})
    return found
