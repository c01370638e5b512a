"""``make bench-overload``: ten times more than the nodes can do, and callers who only hold on.

1. Normal: a tenth of the capacity; how long an answer takes.
2. Capacity: more than the nodes can do for some seconds; answers a second.
3. Overload: ten times that. A part is urgent, and fits the capacity alone.
4. Recovery: normal again, from the first second after it.
5. Slow callers: a normal load while a thousand connections are held open, dripped into or not read.
"""

import asyncio
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import msgspec
import typer

from sollol.bench.common.numbers import percentile
from sollol.bench.common.verdicts import Verdict, table
from sollol.bench.endurance.callers import FLOOD, SlowCallers
from sollol.bench.endurance.lab import (
    Lab,
    Sample,
    WriteOption,
    mib,
    ms,
    report,
    run_async,
    running_lab,
    say,
)
from sollol.bench.fleets import Fleet
from sollol.bench.live.bodies import Sending
from sollol.bench.live.client import Generator, Received
from sollol.bench.sim.config import SimConfig, SimModel
from sollol.types import Task

PAGE = Path("docs/benchmarks/overload.md")
NODES, SLOTS, TOKENS, TOKEN_S = 4, 4, 4, 0.1
IDEAL_PER_S = NODES * SLOTS / (TOKENS * TOKEN_S)
"""Answers a second if the nodes never waited."""
NODE = SimConfig(models=(SimModel("m"),), slots=SLOTS, chunk_interval_s=TOKEN_S)
FLOODING = SimConfig(models=(SimModel(FLOOD),), slots=2)
FLEET = Fleet("overload", {**dict.fromkeys("abcd", NODE), "flooding": FLOODING})

QUEUE = 100
TIMES = 10
URGENT, USUAL = 9, 5
URGENT_EVERY = 14
"""Every so many requests one is urgent: 0.7 of the capacity."""
PATIENCE_S = 30.0
GROWTH_BYTES = 50 * 1024 * 1024
NORMAL_TIMES = 1.5
"""An answer that takes so many times the normal p95 is not normal."""

HEADER_TIMEOUT_S, STALL_S, WRITE_TIMEOUT_S = 3.0, 4.0, 5.0
SETTINGS = {
    "queue.max_length": QUEUE,
    "server.header_timeout_s": HEADER_TIMEOUT_S,
    "server.body_stall_timeout_s": STALL_S,
    "server.write_timeout_s": WRITE_TIMEOUT_S,
}
HELD = {"silent": 1000, "head_drip": 50, "body_drip": 50, "no_reader": 2}
BORNE_S = {
    "silent": HEADER_TIMEOUT_S,
    "head_drip": HEADER_TIMEOUT_S,
    "body_drip": STALL_S,
    "no_reader": WRITE_TIMEOUT_S,
}
_BODY = msgspec.json.encode(
    {
        "model": "m",
        "messages": [{"role": "user", "content": "x" * 2000}],
        "options": {"num_predict": TOKENS},
    }
)


@dataclass
class Figures:
    """What was measured; times are seconds."""

    normal: Sequence[Received] = ()
    capacity_per_s: float = 0.0
    overload: Sequence[Received] = ()
    goodput_per_s: float = 0.0
    cpu_s: float = 0.0
    recovery_s: float = 0.0
    before: Sample | None = None
    samples: Sequence[Sample] = ()
    alone_p99_s: float = 0.0
    beside_p99_s: float = 0.0
    lived_s: dict[str, list[float]] | None = None


def latency_s(one: Received) -> float:
    """Return the time from when a request was due to the end of its answer."""
    return one.ended_at - one.due_at


def served(received: Sequence[Received]) -> list[Received]:
    """Return those that were answered whole."""
    return [one for one in received if one.outcome == "served"]


def rate_per_s(received: Sequence[Received], skip_s: float) -> float:
    """Return the answers a second between ``skip_s`` after the first and the last arrival."""
    start, end = received[0].due_at + skip_s, received[-1].due_at
    return sum(start < one.ended_at <= end for one in served(received)) / (end - start)


def recovery_s(received: Sequence[Received], end: float, normal_s: float) -> float:
    """Return how long after ``end`` the last answer that took longer than normal was asked for."""
    slow = [one.due_at for one in received if one.outcome != "served" or latency_s(one) > normal_s]
    return max(0.0, max(slow, default=end) - end)


async def load(lab: Lab, per_s: float, seconds: float, every: int = 0) -> list[Received]:
    """Send at a rate, however long answers take; every so many is urgent."""
    sendings = [
        Sending(
            n / per_s,
            "m",
            "/api/chat",
            _BODY,
            URGENT if every and not n % every else USUAL,
            Task.CHAT,
        )
        for n in range(int(per_s * seconds))
    ]
    generator = Generator(sendings, 1.0, lambda *_: lab.port, lambda _: None)
    await generator.run(seconds + PATIENCE_S)
    return generator.received


async def measure(lab: Lab, figures: Figures, overload_s: float) -> None:
    """Measure everything, one after the other."""
    sampling = asyncio.ensure_future(lab.sampling())
    say("normal load")
    await load(lab, IDEAL_PER_S / 2, 3.0)
    figures.normal = await load(lab, IDEAL_PER_S / 10, 5.0)
    say("what fits")
    await load(lab, IDEAL_PER_S * 1.5, 2.0)
    figures.capacity_per_s = rate_per_s(await load(lab, IDEAL_PER_S * 1.3, 8.0), 2.0)
    figures.before = lab.sample()
    cpu_s = lab.gateway.cpu_s()
    say(f"{TIMES} times as much for {overload_s:g} s")
    many = asyncio.ensure_future(
        load(lab, figures.capacity_per_s * TIMES, overload_s, URGENT_EVERY)
    )
    await asyncio.sleep(overload_s)
    figures.cpu_s = lab.gateway.cpu_s() - cpu_s
    after = await load(lab, IDEAL_PER_S / 10, 10.0)
    figures.overload = await many
    figures.goodput_per_s = rate_per_s(figures.overload, 2.0)
    normal_s = NORMAL_TIMES * percentile(map(latency_s, figures.normal), 0.95)
    figures.recovery_s = recovery_s(after, figures.overload[-1].due_at, normal_s)
    await measure_slow_callers(lab, figures)
    sampling.cancel()
    await asyncio.wait([sampling])
    figures.samples = lab.samples


async def measure_slow_callers(lab: Lab, figures: Figures) -> None:
    """Measure a normal load alone, and beside callers who only hold on."""
    say("slow callers")
    seconds = max(BORNE_S.values())
    alone = await load(lab, IDEAL_PER_S / 4, seconds)
    callers = SlowCallers(lab.port)
    held = asyncio.ensure_future(callers.run(HELD))
    beside = await load(lab, IDEAL_PER_S / 4, seconds)
    with suppress(TimeoutError):
        await asyncio.wait_for(held, 2 * seconds)
    figures.alone_p99_s = percentile(map(latency_s, alone), 0.99)
    figures.beside_p99_s = percentile(map(latency_s, beside), 0.99)
    figures.lived_s = callers.lived_s


def judge(figures: Figures) -> list[Verdict]:
    """Hold the figures against the limits."""
    urgent = figures.overload[::URGENT_EVERY]
    share = len(served(urgent)) / len(urgent)
    goodput = figures.goodput_per_s / figures.capacity_per_s
    assert figures.before is not None
    grown = max(s.rss_bytes for s in figures.samples) - figures.before.rss_bytes
    odd = {one.outcome for one in figures.overload} - {"served", "http_503"}
    worse = figures.beside_p99_s / figures.alone_p99_s
    lived_s = figures.lived_s or {}
    return [
        Verdict("Answers a second, against what fits", ">= 95 %", f"{goodput:.1%}", goodput >= 0.95),
        Verdict("Urgent requests answered", ">= 99 %", f"{share:.2%}", share >= 0.99),
        Verdict("Endings that are neither an answer nor 503", "none", ", ".join(sorted(odd)) or "none", not odd),
        Verdict("Memory gained", f"<= {mib(GROWTH_BYTES)}", mib(grown), grown <= GROWTH_BYTES),
        Verdict("Until answers take the normal time again", "<= 5 s", f"{figures.recovery_s:.1f} s", figures.recovery_s <= 5.0),
        Verdict("p99 beside slow callers, against alone", "< 2x", f"{worse:.2f}x", worse < 2.0),
        *(_borne(kind, count, lived_s.get(kind, [])) for kind, count in HELD.items()),
    ]  # fmt: skip


def _borne(kind: str, count: int, lived_s: Sequence[float]) -> Verdict:
    limit_s = BORNE_S[kind] + 1.0
    longest_s = max(lived_s, default=0.0)
    text = f"{count:,} callers of the kind {kind}: closed after"
    measured = f"{longest_s:.1f} s at most, {len(lived_s):,} of them"
    return Verdict(
        text, f"<= {limit_s:g} s", measured, longest_s <= limit_s and len(lived_s) == count
    )


def describe(figures: Figures) -> str:
    """Return the figures behind the verdicts."""
    urgent = served(figures.overload[::URGENT_EVERY])
    usual = [o for n, o in enumerate(figures.overload) if n % URGENT_EVERY]
    shed = [one for one in figures.overload if one.outcome == "http_503"]
    early = [one for one in shed if latency_s(one) < 0.5]
    retry = [float(one.header("Retry-After") or 0) for one in shed]
    rows = [
        _times("Normal load", served(figures.normal)),
        _times("Overload, urgent", urgent),
        _times("Overload, usual", served(usual)),
        _times("Overload, refused", shed),
    ]
    assert figures.before is not None
    most = max(sample.rss_bytes for sample in figures.samples)
    return (
        "## Figures\n\n"
        + table(("", "requests", "p50", "p95", "p99"), rows)
        + f"\n- What fits: {figures.capacity_per_s:.1f} answers a second; in overload "
        f"{figures.goodput_per_s:.1f}, of {figures.capacity_per_s * TIMES:.0f} asked for.\n"
        f"- Of those refused, {len(early) / max(1, len(shed)):.1%} at the door, the others to make "
        f"room for more urgent ones; `Retry-After` {min(retry, default=0):.0f} to {max(retry, default=0):.0f} s.\n"
        f"- CPU of the gateway in overload: {figures.cpu_s:.1f} s, "
        f"{figures.cpu_s / len(figures.overload) * 1e6:.0f} us a request.\n"
        f"- Memory of the gateway: {mib(figures.before.rss_bytes)} before, {mib(most)} at most.\n"
        f"- Files open at once: {max(sample.files for sample in figures.samples):,}.\n"
        f"- A quarter of what fits, p99: {ms(figures.alone_p99_s)} alone, {ms(figures.beside_p99_s)} "
        "beside slow callers.\n"
    )


def _times(name: str, received: Sequence[Received]) -> tuple[str, ...]:
    seconds = [latency_s(one) for one in received]
    if not seconds:
        return name, "0", "-", "-", "-"
    return (
        name,
        f"{len(seconds):,}",
        *(ms(percentile(seconds, ratio)) for ratio in (0.5, 0.95, 0.99)),
    )


def intro(overload_s: float) -> str:
    """Return what the page says first."""
    return (
        "# Overload\n\n"
        f"`sollol serve` over {NODES} simulated nodes of {SLOTS} slots, each answer {TOKENS * TOKEN_S:g} s; "
        f"at most {QUEUE} requests wait (`queue.max_length`), about {QUEUE / IDEAL_PER_S:.1f} s of work, since "
        "what waits when the overload ends is what is left to recover from. "
        f"Requests come {TIMES} times as fast as the nodes can answer for {overload_s:g} s, each over a connection "
        f"of its own and however long others take; one in {URGENT_EVERY} has priority {URGENT}. Times count from "
        "when a request was due. `make bench-overload ARGS=--write` measures it and writes this page.\n"
    )


def run(
    write: WriteOption = False,
    seconds: Annotated[float, typer.Option("--seconds", help="How long the overload is.")] = 60.0,
) -> None:
    """Measure what the gateway does with far too many requests; exits 1 when a limit fails."""

    def all_of_it() -> tuple[str, list[Verdict], str]:
        figures = Figures()
        with running_lab(FLEET, SETTINGS) as lab:
            run_async(measure(lab, figures, seconds))
        return intro(seconds), judge(figures), describe(figures)

    report(PAGE, all_of_it, write=write)


if __name__ == "__main__":
    typer.run(run)
