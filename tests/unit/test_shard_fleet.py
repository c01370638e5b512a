"""Which workers a plan may use, with what memory and which links."""

import socket
import stat
from contextlib import AsyncExitStack
from pathlib import Path

import pytest

from sollol.errors import WorkerFailed
from sollol.llamacpp.binaries import LlamaBinaries
from sollol.settings import ShardingSettings
from sollol.sharding.fleet import Found, Seen, find_fleet, fleet_of
from sollol.sharding.host_memory import available_bytes, total_bytes
from sollol.sharding.links import MeasuredLink
from sollol.sharding.own_version import own_version
from sollol.sharding.prediction import Link
from sollol.sharding.rpc import Device, Probe
from sollol.sharding.worker import WorkerOptions, check_listening
from tests.fake_worker import FakeWorker, fake_worker

GIB = 1 << 30


async def find(*workers: FakeWorker, busy: int | None = None, **more: object) -> Found:
    """Run fake workers of 4 GB each and look for them; ``busy`` is the number of one in use."""
    async with AsyncExitStack() as stack:
        for worker in workers:
            await stack.enter_async_context(fake_worker(worker))
        addresses = [worker.address for worker in workers]
        rows = [{"address": address, "memory_gb": 4, **more} for address in addresses]
        settings = ShardingSettings.model_validate({"workers": rows})
        return await find_fleet(settings, None, () if busy is None else addresses[busy : busy + 1])


async def test_a_worker_is_usable_with_the_lesser_of_what_it_has_and_may_take() -> None:
    large, small = FakeWorker(), FakeWorker(devices=((3 * GIB, 8 * GIB),))
    found = await find(large, small)
    assert [worker.memory_bytes for worker in found.fleet.workers] == [4 * GIB, 3 * GIB]
    assert found.unusable == {}
    (host,) = found.fleet.coordinators
    link = host.links[large.address]
    assert link.round_trip_s not in (0.0, 0.00005)
    assert link.bytes_per_s != 2.5e9


async def test_the_smallest_device_counts_for_all_of_a_worker() -> None:
    found = await find(FakeWorker(devices=((2 * GIB, 8 * GIB), (GIB, GIB))))
    assert found.fleet.workers[0].memory_bytes == 2 * GIB


async def test_settings_of_a_link_count_before_what_was_measured() -> None:
    worker = FakeWorker()
    found = await find(worker, round_trip_s=0.25, gbit_per_s=8)
    assert found.fleet.coordinators[0].links == {worker.address: Link(0.25, 1e9)}


async def test_what_cannot_be_used_has_a_reason() -> None:
    good, old = FakeWorker(), FakeWorker(version=(3, 9, 9))
    breaking = FakeWorker(breaks_at=15)
    found = await find(good, old, breaking)
    assert [worker.name for worker in found.fleet.workers] == [good.address]
    assert "version 3.9.9 of the protocol, and not 4.0.3" in found.unusable[old.address]
    assert "no RPC server answers" in found.unusable[breaking.address]


async def test_a_busy_worker_is_left_alone() -> None:
    free, busy = FakeWorker(), FakeWorker()
    found = await find(free, busy, busy=1)
    assert [worker.name for worker in found.fleet.workers] == [free.address]
    assert found.unusable == {}
    assert not busy.commands


def local(memory_gb: float, total: int) -> Seen:
    """Return a worker on this machine that says it has all of ``total`` free."""
    settings = ShardingSettings.model_validate({"workers": f"127.0.0.1={memory_gb}"})
    probe = Probe("127.0.0.1:50052", (4, 0, 3), (Device(total, total),))
    return Seen(settings.workers[0], probe, MeasuredLink())


def test_workers_that_use_the_memory_of_this_machine_get_it_once() -> None:
    all_of_it = total_bytes()
    seen = [local(all_of_it / GIB, all_of_it), local(all_of_it / GIB, all_of_it)]
    fleet = fleet_of(ShardingSettings(), seen)
    assert sum(one.memory_bytes for one in fleet.workers) < all_of_it
    assert fleet.workers[0].memory_bytes == pytest.approx(available_bytes() / 2, rel=0.1)


def test_memory_of_a_card_is_its_own() -> None:
    total = 2 * total_bytes()
    (worker,) = fleet_of(ShardingSettings(), [local(total / GIB, total)]).workers
    assert worker.memory_bytes == pytest.approx(total, abs=1)


def test_a_coordinator_gets_no_more_than_is_left() -> None:
    declared = ShardingSettings.model_validate({"memory_gb": 1})
    assert fleet_of(declared, ()).coordinators[0].memory_bytes == GIB
    boasting = ShardingSettings.model_validate({"memory_gb": 1 << 20})
    assert fleet_of(boasting, ()).coordinators[0].memory_bytes <= total_bytes()


def test_where_a_worker_cannot_listen_is_said_with_the_option_that_helps() -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        with pytest.raises(WorkerFailed, match=f"cannot listen at 127.0.0.1:{port}: .*--port"):
            check_listening(WorkerOptions(port=port))
    with pytest.raises(WorkerFailed, match=r"cannot listen at 192\.0\.2\.1:.*--host"):
        check_listening(WorkerOptions(host="192.0.2.1"))


def script(path: Path, text: str) -> Path:
    path.write_text(f"#!/bin/sh\n{text}\n")
    path.chmod(path.stat().st_mode | stat.S_IXUSR)
    return path


async def test_a_build_without_a_usable_rpc_server_tells_no_version(tmp_path: Path) -> None:
    ending, mute = script(tmp_path / "a", "exit 3"), script(tmp_path / "b", "exec sleep 60")
    for program in (None, tmp_path / "gone", ending, mute):
        assert await own_version(LlamaBinaries(tmp_path, program, {}), 0.3) == ()
