"""Finds out what a plan may use: workers that answer, what they have, and this machine."""

import asyncio
from collections.abc import Container, Iterable, Mapping
from dataclasses import dataclass

from sollol.llamacpp.binaries import LlamaBinaries
from sollol.settings import ShardingSettings, WorkerSettings
from sollol.sharding.host_memory import available_bytes
from sollol.sharding.links import MeasuredLink, measure_link
from sollol.sharding.memory import GIB
from sollol.sharding.own_version import own_version
from sollol.sharding.plan import Coordinator, Fleet, Worker
from sollol.sharding.prediction import Link
from sollol.sharding.rpc import Probe, probe_all

THIS_MACHINE = "this machine"
_NOT_MEASURED = MeasuredLink(None, None)


@dataclass(frozen=True, slots=True)
class Seen:
    """What one worker of the settings answered; ``link`` has what could be measured."""

    worker: WorkerSettings
    probe: Probe
    link: MeasuredLink = _NOT_MEASURED


@dataclass(frozen=True, slots=True)
class Found:
    """Usable workers and this host, and why the others, by address, cannot be used."""

    fleet: Fleet
    unusable: Mapping[str, str]


async def find_fleet(
    settings: ShardingSettings, binaries: LlamaBinaries | None, busy: Container[str] = ()
) -> Found:
    """Ask all workers that are not busy, and return what a plan may use of them.

    Args:
        settings: the workers, and what each may take.
        binaries: what the coordinator is started from; see :func:`survey`.
        busy: addresses that a coordinator of ours uses; they are neither asked nor returned.
    """
    seen = await survey((one for one in settings.workers if one.address not in busy), binaries)
    usable = [one for one in seen if not one.probe.error]
    unusable = {one.worker.address: one.probe.error for one in seen if one.probe.error}
    return Found(fleet_of(settings, usable), unusable)


async def survey(
    workers: Iterable[WorkerSettings], binaries: LlamaBinaries | None
) -> tuple[Seen, ...]:
    """Ask workers side by side for their version, memory and link, and let go of them.

    Those that speak another protocol than ``binaries`` have an error. Where that is None or does
    not tell its version, the first worker that answers says which it should be.
    """
    asked = list(workers)
    expected = await own_version(binaries) if binaries is not None and asked else ()
    probes = await probe_all([worker.address for worker in asked], expected)
    links = await asyncio.gather(*(_link(probe) for probe in probes))
    return tuple(map(Seen, asked, probes, links))


def fleet_of(settings: ShardingSettings, seen: Iterable[Seen]) -> Fleet:
    """Return these workers, and this machine as the coordinator, as a plan takes them.

    What the settings say of a link counts before what was measured; where neither says anything,
    it is assumed.
    """
    available = available_bytes()
    told = tuple(seen)
    declared = settings.memory_gb
    host = Coordinator(
        name=THIS_MACHINE,
        memory_bytes=available if declared is None else min(int(declared * GIB), available),
        memory_bytes_per_s=settings.memory_gb_per_s * 1e9,
        links={one.worker.address: link_to(one) for one in told},
    )
    return Fleet(tuple(_worker(one) for one in told), (host,))


def link_to(seen: Seen) -> Link:
    """Return the link to a worker: as the settings say, else as measured, else as assumed."""
    settings = seen.worker
    round_trip_s, bytes_per_s = settings.link
    if settings.round_trip_s is None and seen.link.round_trip_s is not None:
        round_trip_s = seen.link.round_trip_s
    if settings.gbit_per_s is None and seen.link.bytes_per_s is not None:
        bytes_per_s = seen.link.bytes_per_s
    return Link(round_trip_s, bytes_per_s)


async def _link(probe: Probe) -> MeasuredLink:
    return _NOT_MEASURED if probe.error else await measure_link(probe.address)


def _worker(seen: Seen) -> Worker:
    settings, devices = seen.worker, seen.probe.devices
    memory_bytes = settings.memory_bytes
    if devices:
        memory_bytes = min(memory_bytes, sum(device.free_bytes for device in devices))
    return Worker(
        name=settings.address,
        host=THIS_MACHINE if settings.is_local else settings.address,
        memory_bytes=memory_bytes,
        memory_bytes_per_s=settings.memory_gb_per_s * 1e9,
    )
