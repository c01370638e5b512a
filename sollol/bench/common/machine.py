"""What the numbers were taken on: cores, versions, and how busy the machine was otherwise."""

import importlib.metadata
import os
import platform
import resource
import subprocess
from dataclasses import dataclass
from pathlib import Path

from sollol import __version__
from sollol.compiled import is_compiled

_TICKS_PER_S = os.sysconf("SC_CLK_TCK")
_PACKAGES = ("uvicorn", "uvloop", "httptools", "fastapi", "httpx")


class TooFewCores(Exception):
    """A proxy cannot be measured on the core that its load comes from."""


@dataclass(frozen=True, slots=True)
class Layout:
    """Which cores do what."""

    proxy: frozenset[int]
    load: frozenset[int]

    @classmethod
    def of_machine(cls) -> "Layout":
        """Give the proxy the last core that this process may use, and everything else the rest.

        Raises:
            TooFewCores: there is only one.
        """
        cores = sorted(os.sched_getaffinity(0))
        if len(cores) < 2:
            raise TooFewCores("this benchmark needs two CPU cores; this process may use one")
        return cls(frozenset(cores[-1:]), frozenset(cores[:-1]))


class ForeignLoad:
    """Measures how much of the machine others use, from its creation on."""

    def __init__(self) -> None:
        self._busy_s, self._total_s = _machine_cpu_s()
        self._own_s = _own_cpu_s()

    def ratio(self) -> float:
        """Return the share of all CPU time that went to others; children must have ended."""
        busy_s, total_s = _machine_cpu_s()
        foreign_s = (busy_s - self._busy_s) - (_own_cpu_s() - self._own_s)
        return max(0.0, foreign_s / (total_s - self._total_s))


def describe_machine(nginx: str | None, wrk: str | None) -> list[tuple[str, str]]:
    """Return what a reader needs to repeat the measurement, as names and values."""
    packages = ", ".join(f"{name} {importlib.metadata.version(name)}" for name in _PACKAGES)
    return [
        ("CPU", f"{_cpu_model()}, {os.cpu_count()} cores"),
        ("Kernel", platform.release()),
        ("Python", platform.python_version()),
        ("SOLLOL", f"{__version__}, hot path {'compiled' if is_compiled() else 'in plain Python'}"),
        ("Packages", packages),
        ("nginx", _first_line([nginx, "-v"]) if nginx else "not installed"),
        ("wrk", _first_line([wrk, "-v"]).partition(" Copyright")[0] if wrk else "not installed"),
    ]


def raise_file_limit() -> None:
    """Let this process and its children open as many files as they may: streams are sockets."""
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))


def _machine_cpu_s() -> tuple[float, float]:
    """Return busy and total seconds of all cores; time stolen by a hypervisor counts as busy."""
    line = Path("/proc/stat").read_text("ascii").partition("\n")[0]
    ticks = [int(field) for field in line.split()[1:9]]
    idle = ticks[3] + ticks[4]
    return (sum(ticks) - idle) / _TICKS_PER_S, sum(ticks) / _TICKS_PER_S


def _own_cpu_s() -> float:
    usages = [resource.getrusage(who) for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN)]
    return sum(usage.ru_utime + usage.ru_stime for usage in usages)


def _cpu_model() -> str:
    path = Path("/proc/cpuinfo")
    lines = path.read_text("utf-8").splitlines() if path.exists() else []
    names = (line.partition(":")[2].strip() for line in lines if line.startswith("model name"))
    return next(names, platform.machine())


def _first_line(command: list[str]) -> str:
    done = subprocess.run(command, capture_output=True, text=True, timeout=10, check=False)
    return (done.stdout + done.stderr).strip().splitlines()[0]
