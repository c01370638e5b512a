"""``sollol worker`` and the gateway's own worker: real processes, and programs that are none."""

import asyncio
import os
import pwd
import re
import signal
import socket
import struct
import subprocess
import sys
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, suppress
from dataclasses import replace
from pathlib import Path

import psutil
import pytest

from sollol.bench.model_kinds import Size, dense
from sollol.cli.main import main
from sollol.errors import CoordinatorFailed, WorkerFailed
from sollol.llamacpp.binaries import ALLOCATION, LlamaBinaries, LlamaCppUnavailable, find_binaries
from sollol.llamacpp.process import allowed_environment
from sollol.llamacpp.restarts import CRASHES_TO_GIVE_UP, restart_delay_s
from sollol.ports import HOST, free_port
from sollol.settings.address import listening_host
from sollol.sharding.coordinator import CoordinatorProcess
from sollol.sharding.kept_weights import LIST_NAME, cache_directory
from sollol.sharding.memory import GIB
from sollol.sharding.rpc import DEVICE_COUNT, Device, Probe, probe
from sollol.sharding.worker import (
    LocalWorker,
    RpcWorker,
    WorkerOptions,
    memory_to_offer_gb,
    offered_gb,
    rpc_server_command,
)
from tests.gateways import wait_for
from tests.llamacpp.shards import (
    DEADLINE_S,
    NEEDS_WORKERS,
    llama_processes,
    made_model,
    plan_over,
)

NO_BINARIES = LlamaBinaries(Path("/bin/false"), None, {})


def at_once(*_: object) -> float:
    return 0.0


@pytest.fixture(autouse=True)
def no_process_left() -> Iterator[None]:
    yield
    assert llama_processes() == []


def scripted(directory: Path, text: str) -> LlamaBinaries:
    """Make an RPC server that is a shell script."""
    program = directory / "ggml-rpc-server"
    program.write_text(f"#!/bin/sh\n{text}\n")
    program.chmod(0o755)
    return LlamaBinaries(Path("/bin/false"), program, allowed_environment())


def options() -> WorkerOptions:
    return WorkerOptions(port=free_port(), threads=1, has_cache=False)


class Told:
    """Takes what a worker tells when it is ready, and lets tests wait for that."""

    def __init__(self) -> None:
        self.probes: asyncio.Queue[Probe] = asyncio.Queue()

    def __call__(self, told: Probe) -> None:
        self.probes.put_nowait(told)

    async def next(self) -> Probe:
        async with asyncio.timeout(DEADLINE_S):
            return await self.probes.get()


@asynccontextmanager
async def running(worker: RpcWorker | LocalWorker) -> AsyncIterator[None]:
    task = asyncio.create_task(worker.run())
    try:
        yield
    finally:
        task.cancel()
        with suppress(asyncio.CancelledError):
            await task


def server_process() -> psutil.Process:
    [found] = [
        child
        for child in psutil.Process().children(recursive=True)
        if "rpc-server" in child.cmdline()[0]
    ]
    return found


# -- what it decides --------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("text", "host"),
    [("127.0.0.1", "127.0.0.1"), ("localhost", "127.0.0.1"), (" 10.0.0.2", "10.0.0.2")],
)
def test_private_addresses_may_be_listened_on(text: str, host: str) -> None:
    assert listening_host(text) == host


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ("8.8.8.8", "is a public address.*VPN or an SSH tunnel"),
        ("0.0.0.0", "every address of this machine"),
        ("gpu1", "IPv4 address, such as 10"),
        ("::1", "IPv4 address"),
        ("--help", "IPv4 address"),
        ("", "IPv4 address"),
    ],
)
def test_other_addresses_are_refused(text: str, told: str) -> None:
    with pytest.raises(ValueError, match=told):
        listening_host(text)


@pytest.mark.parametrize(
    ("devices", "gb"),
    [
        ((Device(64 * GIB, 64 * GIB),), 20.0),  # a CPU calls all memory free
        ((Device(23 * GIB, 24 * GIB),), 23.0),
        ((Device(23 * GIB, 24 * GIB), Device(11 * GIB, 12 * GIB)), 34.0),
        ((Device(GIB // 9, 24 * GIB),), 0.1),
        ((), 0.0),
    ],
)
def test_what_a_worker_may_take(devices: tuple[Device, ...], gb: float) -> None:
    assert memory_to_offer_gb(devices, 20 * GIB, 64 * GIB) == gb


def test_the_command_has_what_is_asked_for() -> None:
    binaries = replace(NO_BINARIES, rpc_server=Path("/rpc"))
    cached = rpc_server_command(binaries, WorkerOptions("10.0.0.2", 9, threads=3))
    assert cached == ["/rpc", "--host", "10.0.0.2", "--port", "9", "--threads", "3", "--cache"]
    assert "--cache" not in rpc_server_command(binaries, WorkerOptions(has_cache=False))
    assert int(rpc_server_command(binaries, WorkerOptions())[6]) >= 1


# -- programs that are no RPC server ------------------------------------------------------------


async def test_a_llama_cpp_without_rpc_server_is_told() -> None:
    with pytest.raises(WorkerFailed, match="built with -DGGML_RPC=ON"):
        await RpcWorker(NO_BINARIES, options(), print).run()


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ("echo no such flag >&2; exit 3", r"exit code 3 \(no such flag\)"),
        ("kill -9 $$", "ended with signal 9$"),
        ("echo 'Failed to create server socket' >&2", "is the port taken"),
    ],
)
async def test_a_program_that_ends_at_once_is_told(tmp_path: Path, text: str, told: str) -> None:
    with pytest.raises(WorkerFailed, match=told):
        await RpcWorker(scripted(tmp_path, text), options(), print).run()


async def test_a_program_that_is_missing_is_told(tmp_path: Path) -> None:
    binaries = replace(NO_BINARIES, rpc_server=tmp_path / "nowhere")
    with pytest.raises(WorkerFailed, match=r"cannot run .*No such file"):
        await RpcWorker(binaries, options(), print).run()


async def test_a_taken_port_is_told() -> None:
    chosen = options()
    with socket.socket() as other:
        other.bind((HOST, chosen.port))
        other.listen()
        with pytest.raises(WorkerFailed, match=f"cannot listen at {chosen.address}: Address alrea"):
            await RpcWorker(NO_BINARIES, chosen, print).run()


async def test_an_address_of_another_machine_is_told() -> None:
    chosen = replace(options(), host="10.255.255.254")
    with pytest.raises(WorkerFailed, match="Cannot assign requested address"):
        await RpcWorker(NO_BINARIES, chosen, print).run()


async def test_one_that_answers_nobody_counts_as_used(tmp_path: Path) -> None:
    """It listens; a coordinator may have been faster than the question what it is."""
    listen = "import signal, socket, sys; s = socket.create_server(('127.0.0.1', int(sys.argv[4])))"
    silent = scripted(tmp_path, f'exec "{sys.executable}" -c "{listen}; signal.pause()" "$@"')
    told, chosen = Told(), options()
    async with running(RpcWorker(silent, chosen, told)):
        assert await told.next() == Probe(chosen.address)


async def test_a_gateway_without_llama_cpp_goes_on() -> None:
    def absent() -> LlamaBinaries:
        raise LlamaCppUnavailable("there is none")

    worker = LocalWorker(1.0, absent)
    await worker.run()
    assert worker.settings is None
    assert worker.ready.is_set()


# -- the real thing -------------------------------------------------------------------------------


class TestReal:
    pytestmark = NEEDS_WORKERS

    async def test_it_is_started_again_when_it_is_killed(self) -> None:
        told, chosen = Told(), options()
        async with running(RpcWorker(find_binaries(), chosen, told, restart_delay=at_once)):
            first = await told.next()
            assert (first.address, first.version[0] >= 4) == (chosen.address, True)
            assert offered_gb(first) > 0
            pid = server_process().pid
            assert server_process().environ().items() >= ALLOCATION.items()
            server_process().kill()
            assert (await told.next()).version == first.version
            assert server_process().pid != pid
            assert (await probe(chosen.address)).devices

    async def test_a_file_that_it_may_have_cut_short_is_dropped(self, tmp_path: Path) -> None:
        found = find_binaries()
        binaries = replace(
            found, environment={**found.environment, "XDG_CACHE_HOME": str(tmp_path)}
        )
        folder = cache_directory(binaries.environment)
        told, chosen = Told(), replace(options(), has_cache=True)
        async with running(RpcWorker(binaries, chosen, told, look_s=0.01)):
            await told.next()
            (folder / "00000000000000aa").write_bytes(b"whole")
            await wait_for(lambda: "00aa" in (folder / LIST_NAME).read_text())
        async with running(RpcWorker(binaries, chosen, told, restart_delay=at_once)):
            await told.next()
            (folder / "f42cfb619b3cade9").write_bytes(b"half of th")
            server_process().kill()
            await told.next()
        kept = sorted(path.name for path in folder.iterdir())
        assert kept == ["00000000000000aa", LIST_NAME]

    @pytest.mark.parametrize("is_directory", [False, True])
    async def test_what_ends_it_is_there_no_more_when_it_is_started_again(
        self, tmp_path: Path, is_directory: bool
    ) -> None:
        binaries = find_binaries()
        cache = {**binaries.environment, "XDG_CACHE_HOME": str(tmp_path)}
        folder = cache_directory(cache)
        model = made_model(tmp_path / "m.gguf", dense(Size(layers=2, feed_forward=12288)))
        told, chosen = Told(), replace(options(), has_cache=True)
        worker = RpcWorker(
            replace(binaries, environment=cache), chosen, told, restart_delay=at_once, look_s=0.01
        )

        async def load() -> None:
            plan = plan_over(model, [chosen.address])
            process = CoordinatorProcess(binaries, plan, model, name="m", threads=1)
            try:
                await process.start(DEADLINE_S)
            finally:
                await process.stop(grace_s=0)

        async with running(worker):
            await told.next()
            await load()
            [weights] = (path for path in folder.iterdir() if len(path.name) == 16)
            await wait_for(lambda: weights.name in (folder / LIST_NAME).read_text())
        if is_directory:
            weights.unlink()
            weights.mkdir()
        else:
            (folder / LIST_NAME).unlink()  # as of a file that was there before
            with weights.open("ab") as file:
                file.write(b"too long")
        async with running(worker):
            await told.next()
            if not is_directory:
                with pytest.raises(CoordinatorFailed):
                    await load()
                await told.next()
            await load()

    async def test_it_outlives_a_coordinator_that_ends_before_it_is_answered(self) -> None:
        told, chosen = Told(), options()
        async with running(RpcWorker(find_binaries(), chosen, told)):
            await told.next()
            pid = server_process().pid
            with socket.create_connection((chosen.host, chosen.port)) as coordinator:
                hello = struct.pack("<BQ24x", 14, 24)
                coordinator.sendall(hello + 50 * struct.pack("<BQ", DEVICE_COUNT, 0))
            assert (await probe(chosen.address)).devices
            assert server_process().pid == pid

    async def test_one_that_keeps_ending_is_given_up(self) -> None:
        told = Told()
        now = iter(range(100))
        delays = []

        def delay(deaths: object, at: float) -> float | None:
            assert isinstance(deaths, list) or deaths
            delays.append(restart_delay_s(deaths, at))  # type: ignore[arg-type]
            return 0.0 if delays[-1] is not None else None

        worker = RpcWorker(
            find_binaries(), options(), told, restart_delay=delay, clock=lambda: next(now)
        )
        task = asyncio.create_task(worker.run())
        for _ in range(CRASHES_TO_GIVE_UP):
            await told.next()
            server_process().kill()
        with pytest.raises(WorkerFailed, match=r"ended 5 times within 300 s, at last.*signal 9"):
            await task
        assert delays == [1.0, 2.0, 4.0, 8.0, None]

    async def test_the_gateway_has_one_as_long_as_it_runs(self) -> None:
        worker = LocalWorker(1.5)
        async with running(worker):
            async with asyncio.timeout(DEADLINE_S):
                await worker.ready.wait()
            assert worker.settings is not None
            assert worker.settings.memory_gb == 1.5
            assert worker.settings.is_local
            assert (await probe(worker.settings.address)).version
        assert worker.settings is None


# -- the command --------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("arguments", "told", "code"),
    [
        (["--host", "8.8.8.8"], "--host 8.8.8.8: 8.8.8.8 is a public address", 2),
        (["--llama-server", "/nowhere"], "there is no llama-server at /nowhere", 1),
        (["--memory-gb", "0"], "Invalid value for '--memory-gb'", 2),
        (["--memory-gb", "-1"], "Invalid value for '--memory-gb'", 2),
    ],
)
def test_the_command_says_what_is_wrong(
    arguments: list[str], told: str, code: int, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit) as ended:
        main(["worker", *arguments])
    assert ended.value.code == code
    assert told in capsys.readouterr().err


class TestCommand:
    pytestmark = NEEDS_WORKERS

    @pytest.mark.parametrize(
        ("number", "code"), [(signal.SIGTERM, 0), (signal.SIGINT, 130), (signal.SIGKILL, -9)]
    )
    def test_it_tells_when_it_is_ready_and_ends_with_its_server(
        self, number: signal.Signals, code: int
    ) -> None:
        port = free_port()
        arguments = ["worker", "--port", str(port), "--threads", "1", "--memory-gb", "2.5"]
        with command(*arguments) as process:
            assert process.stdout is not None
            line = process.stdout.readline()
            [server] = psutil.Process(process.pid).children()
            process.send_signal(number)
            assert process.wait(DEADLINE_S) == code
            server.wait(DEADLINE_S)
        told = r"ready \(RPC protocol \d+\.\d+\.\d+; weights are kept in /.*\); for the gateway: "
        assert re.fullmatch(rf"{told}sharding\.workers=127\.0\.0\.1:{port}=2\.5\n", line)

    def test_without_a_home_in_the_environment_it_is_that_of_the_user(
        self, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        for name in ("HOME", "XDG_CACHE_HOME"):
            monkeypatch.delenv(name, raising=False)
        with command("worker", "--port", str(free_port())) as process:
            assert process.stdout is not None
            line = process.stdout.readline()
            [server] = psutil.Process(process.pid).children()
            home = pwd.getpwuid(os.geteuid()).pw_dir
            assert server.environ()["HOME"] == home
            process.terminate()
            assert process.wait(DEADLINE_S) == 0
        assert f"weights are kept in {home}/.cache/llama.cpp/rpc" in line

    def test_a_taken_port_ends_it(self) -> None:
        with socket.socket() as other:
            other.bind((HOST, 0))
            other.listen()
            port = other.getsockname()[1]
            with command("worker", "--port", str(port), "--no-cache") as process:
                assert process.wait(DEADLINE_S) == 1
                assert process.stdout is not None
                assert "Address already in use" in process.stdout.read()

    def test_without_cache_it_offers_what_is_free(self) -> None:
        with command("worker", "--port", str(free_port()), "--no-cache") as process:
            assert process.stdout is not None
            line = process.stdout.readline()
            process.terminate()
            assert process.wait(DEADLINE_S) == 0
        assert "; no cache); for the gateway" in line
        assert float(line.rpartition("=")[2]) > 0


def command(*arguments: str) -> "subprocess.Popen[str]":
    return subprocess.Popen(
        [sys.executable, "-m", "sollol", *arguments],
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )
