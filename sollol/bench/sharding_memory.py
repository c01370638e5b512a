"""Compares the memory that a plan foresees with what real llama.cpp programs take.

``python -m sollol.bench.sharding_memory`` writes the table of docs/architecture/sharding-memory.md.
"""

import argparse
import asyncio
import tempfile
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path

from sollol.bench.gguf_files import GgufSpec, write_gguf
from sollol.bench.model_kinds import KINDS, Size, dense
from sollol.bench.sharding.workers import WorkerSpec, running_workers
from sollol.llamacpp.binaries import LlamaBinaries, find_binaries
from sollol.llamacpp.server import LlamaServer, LlamaServerFailed
from sollol.sharding.allocation_log import AllocationLog
from sollol.sharding.allocations import Allocation
from sollol.sharding.command import Launch, server_arguments
from sollol.sharding.memory import MIB, DeviceMemory, MemoryModel, RunOptions
from sollol.sharding.models import read_model
from sollol.sharding.plan import Coordinator, Plan, Share, Worker
from sollol.sharding.prediction import Expectation

START_TIMEOUT_S = 60.0
PAGE = Path("docs/architecture/sharding-memory.md")
_BEGIN, _END = "<!-- table -->\n", "<!-- end of table -->\n"
_HEAD = """| model | context x slots | worker | weights | keys and values | states | compute | generates |
|---|---|---|---|---|---|---|---|
"""


@dataclass(frozen=True, slots=True)
class Case:
    """A model to load over two workers; ``share`` is the part of its units on the first."""

    name: str
    spec: Callable[[], GgufSpec]
    options: RunOptions
    share: float = 0.5


@dataclass(frozen=True, slots=True)
class Measurement:
    """What was foreseen and what was taken, on each worker in order."""

    case: Case
    foreseen: tuple[DeviceMemory, ...]
    taken: tuple[Allocation, ...]
    is_running: bool


def _quantised() -> GgufSpec:
    return dense(Size(kind="q8_0", embedding=1024, feed_forward=2816, heads=8, kv_heads=4))


def _four_bits() -> GgufSpec:
    return dense(Size(kind="q4_K", embedding=1024, feed_forward=2816, heads=8, kv_heads=4))


CASES = (
    Case("dense, GQA", KINDS["dense"], RunOptions(2048)),
    Case("dense, GQA", KINDS["dense"], RunOptions(3000, slots=3), share=0.25),
    Case("dense, weights q8_0", _quantised, RunOptions(2048)),
    Case("dense, weights q4_K", _four_bits, RunOptions(2048)),
    Case("dense, KV q8_0", _quantised, RunOptions(4096, 2, "q8_0", "q8_0")),
    Case("dense, KV q4_0", _quantised, RunOptions(4096, 2, "q4_0", "q4_0")),
    Case("dense, keys q8_0, values f16", _quantised, RunOptions(4096, 1, "q8_0", "f16")),
    Case("experts (Mixtral)", KINDS["experts"], RunOptions(2048), share=0.6),
    Case("sliding window (Gemma 3)", KINDS["sliding_window"], RunOptions(8192)),
    Case("sliding window (Gemma 3)", KINDS["sliding_window"], RunOptions(4096, slots=4)),
    Case("MLA (DeepSeek 2)", KINDS["latent_attention"], RunOptions(4096)),
    Case("MLA, converted long ago", KINDS["old_latent_attention"], RunOptions(4096)),
    Case("recurrent (Mamba)", KINDS["recurrent"], RunOptions(2048, slots=4)),
    Case("hybrid (Granite 4)", KINDS["hybrid"], RunOptions(4096, slots=2)),
    Case("short convolutions (LFM 2)", KINDS["short_convolution"], RunOptions(4096, slots=2)),
)


async def measure(case: Case, binaries: LlamaBinaries, directory: Path) -> Measurement:
    """Load a model over two workers and return what both say.

    Raises:
        LlamaServerFailed: a worker cannot be started, or nothing was loaded.
    """
    model = read_model(str(write_gguf(directory / "model.gguf", case.spec())), ())
    memory = MemoryModel(model.facts, case.options)
    first = max(round(case.share * len(model.facts.units)), 1)
    async with running_worker(binaries) as one, running_worker(binaries) as other:
        log = AllocationLog()
        plan = split_at(memory, [one, other], first)
        arguments = server_arguments(plan, model, Launch("model", directory, 1, {}))
        server = LlamaServer(binaries, arguments, on_line=log.read)
        is_running = await _is_started(server)
        taken = await log.allocations()
        await server.stop()
    if one not in taken or other not in taken:
        raise LlamaServerFailed(f"{case.name}: no worker holds anything:\n" + server.log_tail())
    foreseen = tuple(share.memory for share in plan.shares)
    return Measurement(case, foreseen, (taken[one], taken[other]), is_running)


def split_at(memory: MemoryModel, workers: Sequence[str], first: int) -> Plan:
    """Return the plan that puts the first units on the first worker."""
    ends = (0, first, len(memory.facts.units))
    shares = tuple(
        Share(Worker(name, name, 0, 1.0), begin, end, memory.device(begin, end))
        for name, begin, end in zip(workers, ends, ends[1:], strict=False)
    )
    needed = memory.coordinator_bytes()
    host = Coordinator("here", needed, 1.0, {})
    nothing = Expectation(0.0, 0.0, 0.0)
    return Plan(memory.facts, memory.options, host, needed, 0, shares, nothing)


async def _is_started(server: LlamaServer) -> bool:
    """Say whether the server answers; its warm-up has then computed a first batch."""
    try:
        await server.start(START_TIMEOUT_S)
    except LlamaServerFailed:
        return False
    return True


@asynccontextmanager
async def running_worker(binaries: LlamaBinaries) -> AsyncIterator[str]:
    """Run an RPC server and yield its ``host:port``."""
    async with running_workers(binaries, [WorkerSpec()]) as (worker,):
        yield worker.address


def table(measurements: Sequence[Measurement]) -> str:
    """Return the rows of the page."""
    return _HEAD + "".join(row for one in measurements for row in _rows(one))


def _rows(one: Measurement) -> list[str]:
    options = one.case.options
    pairs = zip(one.foreseen, one.taken, strict=True)
    return [
        f"| {one.case.name} | {options.context_length} x {options.slots} | {number} "
        f"| {_cell(foreseen.weight_bytes, taken.weight_mib)} "
        f"| {_cell(foreseen.cache_bytes, taken.cache_mib)} "
        f"| {_cell(foreseen.state_bytes, taken.state_mib)} "
        f"| {foreseen.compute_bytes / MIB:.1f} for {taken.compute_mib:.1f} "
        f"| {'yes' if one.is_running else 'no'} |\n"
        for number, (foreseen, taken) in enumerate(pairs, 1)
    ]


def _cell(foreseen_bytes: int, taken_mib: float) -> str:
    foreseen_mib = foreseen_bytes / MIB
    if not foreseen_mib and not taken_mib:
        return "-"
    return f"{foreseen_mib:.2f} = {taken_mib:.2f} ({foreseen_mib - taken_mib:+.2f})"


async def _measure_all() -> list[Measurement]:
    binaries = find_binaries()
    found = []
    with tempfile.TemporaryDirectory() as directory:
        for case in CASES:
            found.append(await measure(case, binaries, Path(directory)))
            print(*_rows(found[-1]), sep="", end="", flush=True)
    return found


def main() -> None:
    """Measure every case, and write the page where ``--write`` is given."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--write", action="store_true", help=f"put the table into {PAGE}")
    is_written = parser.parse_args().write
    rows = table(asyncio.run(_measure_all()))
    if is_written:
        text = PAGE.read_text(encoding="utf-8")
        before, _, rest = text.partition(_BEGIN)
        PAGE.write_text(f"{before}{_BEGIN}{rows}{_END}{rest.partition(_END)[2]}", encoding="utf-8")


if __name__ == "__main__":
    main()
