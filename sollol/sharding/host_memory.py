"""How much memory this machine has, and has left."""

import os
from pathlib import Path

MEMINFO = Path("/proc/meminfo")


def available_bytes(meminfo: Path = MEMINFO) -> int:
    """Return what programs could take without swapping; all memory where the kernel tells no more."""
    try:
        lines = meminfo.read_text(encoding="ascii").splitlines()
    except OSError:
        lines = []
    for line in lines:
        if line.startswith("MemAvailable:"):
            return int(line.split()[1]) * 1024
    return total_bytes()


def total_bytes() -> int:
    """Return all memory of this machine, as an RPC server on its CPU reports it."""
    return os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
