"""Workers behind a real network of 1 Gbit/s: each in a network namespace, at the end of a cable.

The kernel shapes the rate (a token bucket on both ends of a virtual cable); a relay beside each
worker adds the delay, as not every kernel has ``netem``.
"""

import asyncio
import os
import shutil
import subprocess
import sys
from collections.abc import AsyncIterator, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path

from sollol.bench.common.children import ChildFailed
from sollol.bench.common.numbers import Spread
from sollol.bench.common.verdicts import Verdict, factor, table
from sollol.bench.sharding.lab import Lab
from sollol.bench.sharding.speed import TOKENS, WORKERS
from sollol.bench.sharding.workers import WorkerSpec, running_workers
from sollol.llamacpp.process import ChildProcess, allowed_environment
from sollol.ports import free_port
from sollol.sharding.links import MeasuredLink, measure_link

GBIT_PER_S = 1.0
ROUND_TRIP_S = 0.0002
LEAST_CACHE_GAIN = 5.0
_RELAY_DELAY_S = 0.00002
"""Each way; threads that wake up and the cable make up the rest of ``ROUND_TRIP_S``."""
_TOOLS = ("ip", "tc", "nsenter", "unshare")
_READY_TIMEOUT_S = 10.0


@dataclass
class Far:
    """What was measured over the network, and beside it on loopback."""

    links: Sequence[MeasuredLink] = ()
    near: list[float] = field(default_factory=list)
    far: list[float] = field(default_factory=list)
    cold_s: list[float] = field(default_factory=list)
    cached_s: list[float] = field(default_factory=list)
    file_bytes: int = 0


@dataclass(frozen=True, slots=True)
class Place:
    """A network namespace: a command that runs things inside, and its address out here."""

    inside: tuple[str, ...]
    host: str


class NoNamespaces(Exception):
    """This machine does not allow network namespaces; the text says what is missing."""


@asynccontextmanager
async def places(count: int) -> AsyncIterator[list[Place]]:
    """Make namespaces, each at the end of a shaped cable, and take them away again.

    Raises:
        NoNamespaces: it cannot be done here.
    """
    missing = [tool for tool in _TOOLS if shutil.which(tool) is None]
    if os.geteuid() != 0 or missing:
        raise NoNamespaces(f"network namespaces need root and {', '.join(missing or _TOOLS)}")
    async with AsyncExitStack() as stack:
        yield [await stack.enter_async_context(_place(number)) for number in range(count)]


@asynccontextmanager
async def _place(number: int) -> AsyncIterator[Place]:
    holder = await ChildProcess.start(
        [_path("unshare"), "--net", _path("sleep"), "infinity"], env=allowed_environment()
    )
    outside = f"shard{os.getpid() % 100_000}-{number}"
    try:
        await _wait_namespace(holder)
        network = f"10.254.{os.getpid() % 250}.{number * 4}"
        yield _cable(str(holder.pid), outside, network)
    finally:
        await asyncio.to_thread(_ran, "ip", "link", "delete", outside)
        await holder.stop(grace_s=0)


async def _wait_namespace(holder: ChildProcess) -> None:
    async with asyncio.timeout(_READY_TIMEOUT_S):
        while os.readlink(f"/proc/{holder.pid}/ns/net") == os.readlink("/proc/self/ns/net"):
            if holder.returncode is not None:
                raise NoNamespaces(f"no network namespace: {holder.log_tail()}")
            await asyncio.sleep(0.01)


def _cable(pid: str, outside: str, network: str) -> Place:
    prefix, _, first = network.rpartition(".")
    near, far = f"{prefix}.{int(first) + 1}", f"{prefix}.{int(first) + 2}"
    inside = (_path("nsenter"), "--target", pid, "--net")
    shape = ("root", "tbf", "rate", f"{GBIT_PER_S:g}gbit", "burst", "32kb", "latency", "100ms")
    for command in (
        ("ip", "link", "add", outside, "type", "veth", "peer", "cable", "netns", pid),
        ("ip", "address", "add", f"{near}/30", "dev", outside),
        ("ip", "link", "set", outside, "up"),
        (*inside, "ip", "address", "add", f"{far}/30", "dev", "cable"),
        (*inside, "ip", "link", "set", "cable", "up"),
        (*inside, "ip", "link", "set", "lo", "up"),
        ("tc", "qdisc", "add", "dev", outside, *shape),
        (*inside, "tc", "qdisc", "add", "dev", "cable", *shape),
    ):
        if reason := _ran(*command):
            raise NoNamespaces(f"{' '.join(command)}: {reason}")
    return Place(inside, far)


@asynccontextmanager
async def _far_workers(
    lab: Lab, there: Sequence[Place], cache: Path | None = None
) -> AsyncIterator[list[str]]:
    """Run a worker and its relay in each place; yield the addresses of the relays."""
    specs = [WorkerSpec(cache=cache, inside=place.inside) for place in there]
    async with AsyncExitStack() as stack:
        await stack.enter_async_context(running_workers(lab.binaries, specs))
        yield [
            await stack.enter_async_context(_relay(place, spec.port))
            for place, spec in zip(there, specs, strict=True)
        ]


@asynccontextmanager
async def _relay(place: Place, worker_port: int) -> AsyncIterator[str]:
    port = free_port()
    child = await ChildProcess.start(
        [
            *place.inside,
            *(sys.executable, "-m", "sollol.bench.sharding.relay"),
            *(place.host, str(port), str(worker_port), str(_RELAY_DELAY_S)),
        ],
        env={**allowed_environment(), "PYTHONPATH": os.pathsep.join(sys.path)},
    )
    address = f"{place.host}:{port}"
    try:
        await _wait_answer(child, address)
        yield address
    finally:
        await child.stop(grace_s=0)


async def _wait_answer(child: ChildProcess, address: str) -> None:
    clock = asyncio.get_running_loop().time
    end = clock() + _READY_TIMEOUT_S
    while (await measure_link(address)).round_trip_s is None:
        if child.returncode is not None or clock() > end:
            raise ChildFailed(f"no worker answers at {address}\n{child.log_tail()}")
        await asyncio.sleep(0.05)


async def measure_far_speed(lab: Lab, there: Sequence[Place], rounds: int, found: Far) -> None:
    """Ask a model over the network and on loopback by turns.

    Raises:
        ChildFailed: one does not come up, or does not answer well.
    """
    async with AsyncExitStack() as stack:
        addresses = await stack.enter_async_context(_far_workers(lab, there))
        found.links = [await measure_link(address) for address in addresses]
        near_workers = await stack.enter_async_context(
            running_workers(lab.binaries, [WorkerSpec() for _ in there])
        )
        nearby = [worker.address for worker in near_workers]
        plans = [await lab.plan(each, lab.memory_for(WORKERS)) for each in (addresses, nearby)]
        far, near = [await stack.enter_async_context(lab.running(plan)) for plan in plans]
        for one in (far, near):
            await one.complete(TOKENS)
        for _ in range(rounds):
            found.near.append(await near.complete(TOKENS))
            found.far.append(await far.complete(TOKENS))


async def measure_far_loads(
    lab: Lab, there: Sequence[Place], folder: Path, rounds: int, found: Far
) -> None:
    """Load a model over the network, first with an empty cache and then from it.

    Raises:
        ChildFailed: it does not come up.
    """
    found.file_bytes = lab.model.facts.file_bytes
    for number in range(rounds):
        cache = folder / f"far-cache-{number}"
        for seconds in (found.cold_s, found.cached_s):
            async with _far_workers(lab, there, cache) as addresses:
                plan = await lab.plan(addresses, lab.memory_for(WORKERS))
                async with lab.running(plan) as running:
                    seconds.append(running.load_s)
        await asyncio.to_thread(shutil.rmtree, cache)


def judge_far(found: Far) -> list[Verdict]:
    """Hold the second start against the first."""
    gain = Spread.of_ratios(found.cold_s, found.cached_s)
    return [
        Verdict(
            f"{found.file_bytes / 1e9:.1f} GB over {GBIT_PER_S:g} Gbit/s: a load from the workers' "
            "cache, against the first",
            f">= {LEAST_CACHE_GAIN:g}x faster",
            factor(gain),
            gain.median >= LEAST_CACHE_GAIN,
        )
    ]


def describe_far(found: Far) -> str:
    """Return the figures behind the verdict, and what a network costs each token."""
    links = ", ".join(
        f"{(link.round_trip_s or 0) * 1e3:.2f} ms and {(link.bytes_per_s or 0) * 8e-9:.2f} Gbit/s"
        for link in found.links
    )
    rows = [
        (
            f"tokens/s over {WORKERS} workers, against loopback",
            factor(Spread.of_ratios(found.far, found.near)),
            f"{Spread.of(found.far).median:.1f}",
            f"{Spread.of(found.near).median:.1f}",
        ),
        (
            "seconds of the first load, against one from the cache",
            factor(Spread.of_ratios(found.cold_s, found.cached_s)),
            f"{Spread.of(found.cold_s).median:.2f}",
            f"{Spread.of(found.cached_s).median:.2f}",
        ),
    ]
    return f"Links as SOLLOL measures them: {links}.\n\n" + table(
        ("", "ratio", "network, or first", "loopback, or cache"), rows
    )


def _path(program: str) -> str:
    found = shutil.which(program)
    if found is None:
        raise NoNamespaces(f"there is no {program}")
    return found


def _ran(*command: str) -> str:
    """Run a command; return what it says where it fails."""
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    return "" if done.returncode == 0 else done.stderr.strip() or "it failed"
