"""Workers to measure: each a process of its own, which may be limited in its memory."""

import asyncio
import re
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path

from sollol.bench.common.children import ChildFailed
from sollol.errors import WorkerFailed
from sollol.llamacpp.binaries import LlamaBinaries
from sollol.llamacpp.process import ChildProcess
from sollol.ports import HOST, free_port
from sollol.sharding.rpc import probe

START_TIMEOUT_S = 20.0
THREADS = 1
"""Of every llama.cpp process: two that spin on all cores stop each other."""
_LIMITED = ("/bin/sh", "-c", 'ulimit -d "$1" && shift && exec "$@"', "sh")
_FIELD = re.compile(r"^(\w+):\s+(\d+) kB$", re.MULTILINE)


@dataclass(frozen=True, slots=True)
class WorkerSpec:
    """How a worker is started.

    Args:
        limit_bytes: what the kernel lets it allocate (``RLIMIT_DATA``); no limit by default.
        cache: where it keeps large tensors; nowhere by default.
        inside: a command that runs it elsewhere, such as in a network namespace.
    """

    limit_bytes: int | None = None
    cache: Path | None = None
    inside: Sequence[str] = ()
    port: int = field(default_factory=free_port)


@dataclass(frozen=True, slots=True)
class RunningWorker:
    """A worker's address on this machine, and its process."""

    address: str
    pid: int


@dataclass(frozen=True, slots=True)
class Taken:
    """What a process has of the memory: the most at any time, and its kinds at this moment."""

    peak_bytes: int
    private_bytes: int
    mapped_bytes: int


@asynccontextmanager
async def running_workers(
    binaries: LlamaBinaries, specs: Sequence[WorkerSpec]
) -> AsyncIterator[list[RunningWorker]]:
    """Run workers and end them again.

    Raises:
        ChildFailed: one does not come up.
    """
    async with AsyncExitStack() as stack:
        yield [await stack.enter_async_context(_running(binaries, spec)) for spec in specs]


def taken(pid: int) -> Taken:
    """Look at a process that runs."""
    text = Path(f"/proc/{pid}/status").read_text("utf-8")
    sizes = {name: int(number) * 1024 for name, number in _FIELD.findall(text)}
    return Taken(sizes["VmHWM"], sizes["RssAnon"], sizes["RssFile"])


def command(binaries: LlamaBinaries, spec: WorkerSpec) -> list[str]:
    """Return the command line of a worker."""
    assert binaries.rpc_server is not None
    limited = () if spec.limit_bytes is None else (*_LIMITED, str(spec.limit_bytes // 1024))
    program = (str(binaries.rpc_server), "-H", HOST, "-p", str(spec.port), "-t", str(THREADS))
    return [*spec.inside, *limited, *program, *["--cache"] * (spec.cache is not None)]


@asynccontextmanager
async def _running(binaries: LlamaBinaries, spec: WorkerSpec) -> AsyncIterator[RunningWorker]:
    variables: Mapping[str, str] = {} if spec.cache is None else {"LLAMA_CACHE": str(spec.cache)}
    child = await ChildProcess.start(
        command(binaries, spec), env={**binaries.environment, **variables}
    )
    try:
        await _wait_ready(child, spec)
        yield RunningWorker(f"{HOST}:{spec.port}", child.pid)
    finally:
        await child.stop()


async def _wait_ready(child: ChildProcess, spec: WorkerSpec) -> None:
    """Return once it answers, or at once where it cannot be reached from here."""
    clock = asyncio.get_running_loop().time
    end = clock() + START_TIMEOUT_S
    while not spec.inside:
        try:
            await probe(f"{HOST}:{spec.port}", 1.0)
        except WorkerFailed as error:
            if child.returncode is not None or clock() > end:
                raise ChildFailed(f"{error}\n{child.log_tail()}") from None
            await asyncio.sleep(0.05)
        else:
            return
