"""Finds out what a plan may use: workers that answer, what they have, and this machine."""

from collections.abc import Container, Iterable, Mapping, Sequence
from dataclasses import dataclass

from sollol.llamacpp.binaries import LlamaBinaries
from sollol.settings import ShardingSettings, WorkerSettings
from sollol.sharding.host_memory import available_bytes, total_bytes
from sollol.sharding.links import MeasuredLink, measure_link
from sollol.sharding.memory import GIB
from sollol.sharding.own_version import own_version
from sollol.sharding.plan import Coordinator, Fleet, Worker
from sollol.sharding.prediction import Link
from sollol.sharding.rpc import Probe, probe_all

THIS_MACHINE = "this machine"


@dataclass(frozen=True, slots=True)
class Seen:
    """A worker of the settings, what it answered, and what of the link to it was measured."""

    worker: WorkerSettings
    probe: Probe
    link: MeasuredLink

    @property
    def memory_bytes(self) -> int:
        """What it may take and has; a worker that did not answer is taken at its word.

        Devices of one worker get equal parts, so the smallest of them counts for all.
        """
        free = [device.free_bytes for device in self.probe.devices]
        has = [len(free) * min(free)] if free else []
        return min([self.worker.memory_bytes, *has])

    @property
    def shares_memory(self) -> bool:
        """Whether its memory is that of this machine: it runs here, and on a CPU."""
        sizes = [device.total_bytes for device in self.probe.devices]
        return self.worker.is_local and total_bytes() in sizes

    @property
    def best_link(self) -> Link:
        """The link to it: as the settings say, else as measured, else as assumed."""
        round_trip_s, bytes_per_s = self.worker.link
        if self.worker.round_trip_s is None and self.link.round_trip_s is not None:
            round_trip_s = self.link.round_trip_s
        if self.worker.gbit_per_s is None and self.link.bytes_per_s is not None:
            bytes_per_s = self.link.bytes_per_s
        return Link(round_trip_s, bytes_per_s)


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
    """Ask workers for their version, memory and link, and let go of them.

    Those that speak another protocol than ``binaries`` have an error. Where that is None or does
    not tell its version, the first worker that answers says which it should be. They are asked
    side by side, but links are measured one after the other, as all of them begin here.
    """
    asked = list(workers)
    expected = await own_version(binaries) if binaries is not None and asked else ()
    probes = await probe_all([worker.address for worker in asked], expected)
    links = [MeasuredLink() if one.error else await measure_link(one.address) for one in probes]
    return tuple(map(Seen, asked, probes, links))


def fleet_of(settings: ShardingSettings, seen: Sequence[Seen]) -> Fleet:
    """Return these workers, and this machine as the coordinator, as a plan takes them.

    What this machine has left counts for the coordinator, and once for all workers that use its
    memory: if they may take more together, each gets its part.
    """
    available = available_bytes()
    wanted = sum(one.memory_bytes for one in seen if one.shares_memory)
    part = min(available / wanted, 1.0) if wanted else 1.0
    declared = settings.memory_gb
    host = Coordinator(
        name=THIS_MACHINE,
        memory_bytes=available if declared is None else min(int(declared * GIB), available),
        memory_bytes_per_s=settings.memory_gb_per_s * 1e9,
        links={one.worker.address: one.best_link for one in seen},
    )
    return Fleet(tuple(_worker(one, part) for one in seen), (host,))


def _worker(seen: Seen, part: float) -> Worker:
    settings = seen.worker
    return Worker(
        name=settings.address,
        host=THIS_MACHINE if settings.is_local else settings.address,
        memory_bytes=int(seen.memory_bytes * part) if seen.shares_memory else seen.memory_bytes,
        memory_bytes_per_s=settings.memory_gb_per_s * 1e9,
    )
