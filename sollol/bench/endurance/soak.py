"""``make soak``: very many small requests with faults and aborts; what does the gateway keep of them?"""

import asyncio
import random
import time
from contextlib import suppress
from pathlib import Path
from typing import Annotated

import typer

from sollol.bench.common.verdicts import Verdict
from sollol.bench.endurance.lab import Lab, WriteOption, report, run_async, running_lab, say
from sollol.bench.endurance.soak_figures import (
    GROWTH_BYTES,
    WARM_UP,
    Figures,
    Moment,
    describe,
    judge,
)
from sollol.bench.endurance.soak_load import (
    ABORT_SHARE,
    AT_ONCE,
    CHAT,
    EMBEDDER,
    FAULT_SHARE,
    REFUSE_EVERY,
    Load,
)
from sollol.bench.fleets import Fleet
from sollol.bench.sim.config import SimConfig, SimModel

PAGE = Path("docs/benchmarks/soak.md")
REQUESTS = 100_000
FIRST = 200
"""Requests before the first look at idle: so much is loaded and connected then."""
SAMPLE_S = 2.0
_SETTLE_S = 20.0
_MIB = 1024 * 1024
NODE = SimConfig(
    models=(SimModel(CHAT), SimModel(EMBEDDER, 0.3, ("embedding",))), slots=16, keep_requests=0
)
FLEET = Fleet("soak", dict.fromkeys("abcd", NODE))
SETTINGS = {"log.level": "error"}


async def look(lab: Lab, load: Load) -> Moment:
    """Look at the gateway's process and at its metrics."""
    metrics = await asyncio.to_thread(lab.metrics)
    sample = lab.sample()
    connections = int(metrics["sollol_node_connections"])
    return Moment(
        load.done,
        sample.rss_bytes,
        sample.files - connections,
        connections,
        int(metrics["sollol_node_in_flight"]),
        int(metrics["sollol_queue_length"]),
    )


async def look_at_idle(lab: Lab, load: Load) -> Moment:
    """Look when nothing runs any more, or as it is when that takes long."""
    with suppress(TimeoutError):
        async with asyncio.timeout(_SETTLE_S):
            while True:
                moment = await look(lab, load)
                if not moment.in_flight and not moment.waiting:
                    break
                await asyncio.sleep(0.1)
    return await look(lab, load)


async def measure(lab: Lab, requests: int, seed: int = 1) -> Figures:
    """Send the requests and look at the gateway meanwhile."""
    load = Load(lab.port, tuple(lab.nodes.control_ports.values()), random.Random(seed))
    await load.run(FIRST, is_rough=False)
    before = await look_at_idle(lab, load)
    moments: list[Moment] = []
    sampling = asyncio.ensure_future(_sample(lab, load, moments))
    cpu_s, begin = lab.gateway.cpu_s(), time.monotonic()
    await load.run(requests - FIRST)
    duration_s = time.monotonic() - begin
    cpu_s = lab.gateway.cpu_s() - cpu_s
    sampling.cancel()
    await asyncio.wait([sampling])
    await load.clear_faults()
    after = await look_at_idle(lab, load)
    return Figures(before, after, moments, load.outcomes, load.faults, cpu_s, duration_s)


async def _sample(lab: Lab, load: Load, moments: list[Moment]) -> None:
    while True:
        moments.append(await look(lab, load))
        say(f"{load.done:,} requests, {moments[-1].rss_bytes / _MIB:.1f} MiB")
        await asyncio.sleep(SAMPLE_S)


def intro(requests: int) -> str:
    """Return what the page says first."""
    return (
        "# Very many requests\n\n"
        f"`sollol serve` over {len(FLEET.nodes)} simulated nodes that answer at once, with {requests:,} small "
        f"requests, {AT_ONCE} at a time, each over a connection of its own: `/api/chat` (streamed and not), "
        "`/api/generate`, `/api/embed` and `/v1/chat/completions`. "
        f"For {FAULT_SHARE:.0%} of them a fault is switched on at a node, which the next request there of some "
        f"path meets; every {REFUSE_EVERY:,} requests a node drops its connections and refuses new ones for a "
        f"moment. In {ABORT_SHARE:.0%} the caller hangs up at a random moment. Memory is that of the gateway's "
        f"process, looked at every {SAMPLE_S:g} s; a line is fitted to it after the first {WARM_UP:.0%} of the "
        f"requests. The limit is {GROWTH_BYTES / _MIB:g} MiB over the rest. Files are those that the process has "
        "open, less its connections to nodes, of which idle ones are kept. What the gateway keeps is bounded but "
        "fills up first: the journal (`scheduling.journal_length`), conversations that nodes remember, caches, "
        "and connections to nodes that broke off, of which a thousand or so wait for the garbage collector; "
        "growth that goes on in the last half would be a leak. `make soak ARGS=--write` measures it "
        "and writes this page.\n"
    )


def run(
    write: WriteOption = False,
    requests: Annotated[
        int, typer.Option("--requests", min=2 * FIRST, help="How many are sent.")
    ] = REQUESTS,
) -> None:
    """Measure what the gateway keeps of very many requests; exits 1 when a limit fails."""
    figures: list[Figures] = []

    async def measuring(lab: Lab) -> None:
        figures.append(await measure(lab, requests))

    def all_of_it() -> tuple[str, list[Verdict], str]:
        with running_lab(FLEET, SETTINGS) as lab:
            run_async(measuring(lab))
        return intro(requests), judge(figures[0]), describe(figures[0])

    report(PAGE, all_of_it, write=write)


if __name__ == "__main__":
    typer.run(run)
