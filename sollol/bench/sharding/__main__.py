"""``make bench-sharding``: what a model over several workers takes and costs.

1. Fit: a model larger than each worker may be; its memory against the plan.
2. Speed: over workers on loopback against one process; how long loads take.
3. Gateway: what SOLLOL adds to a coordinator that is started by hand.
4. Network: 1 Gbit/s and 0.2 ms; what the workers' cache saves.
"""

import asyncio
import tempfile
from collections.abc import Awaitable, Callable
from enum import StrEnum
from pathlib import Path
from typing import Annotated

import typer

from sollol.bench.common.verdicts import Verdict
from sollol.bench.endurance.lab import WriteOption, report, run_async, say
from sollol.bench.sharding.fit import describe_fits, judge_fits, measure_fit, missing_memory
from sollol.bench.sharding.gateway import describe_gateway, judge_gateway, measure_gateway
from sollol.bench.sharding.lab import Lab
from sollol.bench.sharding.models import LARGE_TENSORS, SMALL, THIRTEEN_B, write_random
from sollol.bench.sharding.network import (
    Far,
    NoNamespaces,
    describe_far,
    judge_far,
    measure_far_loads,
    measure_far_speed,
    places,
)
from sollol.bench.sharding.speed import (
    ROUNDS,
    WORKERS,
    describe_loads,
    describe_speeds,
    judge_speeds,
    measure_loads,
    measure_speed,
)
from sollol.llamacpp.binaries import LlamaBinaries, LlamaCppUnavailable, find_binaries
from sollol.llamacpp.small_model import default_cache_dir, small_model
from sollol.sharding.memory import RunOptions

PAGE = Path("docs/benchmarks/sharding.md")
COUNTS = (2, 3)
LOAD_ROUNDS = 3
_SHORT = RunOptions(2048)

Section = tuple[list[Verdict], str]
Measure = Callable[[LlamaBinaries, Path], Awaitable[Section]]


class Part(StrEnum):
    """What can be measured alone."""

    FIT = "fit"
    SPEED = "speed"
    GATEWAY = "gateway"
    NETWORK = "network"


async def fit(binaries: LlamaBinaries, folder: Path) -> Section:
    """Run a 13B over workers that may take less than it has."""
    lab = Lab.of(binaries, write_random(folder / "13b.gguf", THIRTEEN_B), RunOptions())
    if why := missing_memory(lab):
        return [], f"## Memory\n\nNot measured: {why}.\n"
    fits = []
    for count in COUNTS:
        say(f"a 13B over {count} workers")
        fits.append(await measure_fit(lab, count))
    text = (
        "## Memory\n\n"
        "A Llama 2 13B of random weights (q4_0, 40 layers, 4,096 tokens of context as f16) over "
        "workers that may allocate what the plan is told, and no more: the kernel refuses the rest "
        "(`RLIMIT_DATA`). Most taken is `VmHWM`, all of the process that was resident at once; "
        "private memory (`RssAnon`) holds weights, context and buffers, and what is of files "
        "(`RssFile`) is the programs. The coordinator reads a file of this size (`--no-mmap`), so its page "
        "cache of the model is in nobody's figure, and the plan does not count it.\n\n"
    )
    return judge_fits(fits), text + describe_fits(fits)


async def speed(binaries: LlamaBinaries, folder: Path) -> Section:
    """Compare two workers on loopback with one process."""
    speeds = []
    for name, path in (
        ("random, 32 layers, 0.2 GB", write_random(folder / "small.gguf", SMALL)),
        ("Gemma 3 270M", await asyncio.to_thread(small_model, default_cache_dir())),
    ):
        say(f"speed: {name}")
        speeds.append(await measure_speed(Lab.of(binaries, path, _SHORT), name))
    say("loads on loopback")
    large = Lab.of(binaries, write_random(folder / "large.gguf", LARGE_TENSORS), _SHORT)
    loads = await measure_loads(large, folder, LOAD_ROUNDS)
    text = (
        "## Speed on one machine\n\n"
        f"The same llama-server with the same flags, once alone and once over {WORKERS} workers on "
        f"loopback, one thread each; both are up and answer by turns, {ROUNDS} rounds.\n\n"
        f"{describe_speeds(speeds)}\n"
        "Loads of six layers of a Llama 2 7B (1.3 GB, q8_0), from the start of the coordinator to "
        f"its answer, in turns, {LOAD_ROUNDS} rounds. The file is in the page cache, and most of it "
        "is a hole.\n\n"
    )
    return judge_speeds(speeds), text + describe_loads(loads)


async def gateway(binaries: LlamaBinaries, folder: Path) -> Section:
    """Compare a coordinator behind SOLLOL with one that is asked directly."""
    say("through the gateway")
    path = await asyncio.to_thread(small_model, default_cache_dir())
    found = await measure_gateway(binaries, path, folder)
    return judge_gateway(found), describe_gateway(found)


async def network(binaries: LlamaBinaries, folder: Path) -> Section:
    """Run models over workers at the end of a network cable."""
    found = Far()
    try:
        async with places(WORKERS) as there:
            say("speed over a network")
            small = Lab.of(binaries, write_random(folder / "small.gguf", SMALL), _SHORT)
            await measure_far_speed(small, there, ROUNDS, found)
            say("loads over a network")
            large = Lab.of(binaries, write_random(folder / "large.gguf", LARGE_TENSORS), _SHORT)
            await measure_far_loads(large, there, folder, LOAD_ROUNDS, found)
    except NoNamespaces as error:
        return [], f"## Over a network\n\nNot measured: {error}.\n"
    text = (
        "## Over a network of 1 Gbit/s\n\n"
        "Each worker in a network namespace of its own, at the end of a cable that the kernel limits "
        "to 1 Gbit/s each way; a relay beside it adds delay. The same models as above: the small one "
        "for tokens, by turns with two workers on loopback; six layers of a 7B for loads. Only "
        "tensors of more than 10 MiB are cached. What a load from the cache still takes: the coordinator "
        "reads the file and hashes every byte of it, one core for one byte after the other, and the workers "
        "read theirs.\n\n"
    )
    return judge_far(found), text + describe_far(found)


_PARTS: dict[Part, Measure] = {
    Part.FIT: fit,
    Part.SPEED: speed,
    Part.GATEWAY: gateway,
    Part.NETWORK: network,
}
_INTRO = (
    "# One model over several machines\n\n"
    "Real llama.cpp programs, found, planned and started as SOLLOL does it; all on one machine, so "
    "every figure is a ratio of two things measured in one run. `make bench-sharding ARGS=--write` "
    "measures it and writes this page.\n"
)


def run(
    write: WriteOption = False,
    only: Annotated[
        list[Part] | None, typer.Option("--only", help="Measure this part; may be repeated.")
    ] = None,
) -> None:
    """Measure models over several workers; exits 1 when a limit fails."""
    if write and only:
        raise typer.BadParameter("a page has all parts", param_hint="--only")
    try:
        binaries = find_binaries()
    except LlamaCppUnavailable as error:
        raise typer.BadParameter(str(error)) from None

    def all_of_it() -> tuple[str, list[Verdict], str]:
        verdicts: list[Verdict] = []
        texts: list[str] = []

        async def measure() -> None:
            with tempfile.TemporaryDirectory(prefix="sollol-sharding-") as folder:
                for part in only or Part:
                    found, text = await _PARTS[part](binaries, Path(folder))
                    verdicts.extend(found)
                    texts.append(text)

        run_async(measure())
        return _INTRO, verdicts, "\n".join(texts)

    report(PAGE, all_of_it, write=write)


if __name__ == "__main__":
    typer.run(run)
