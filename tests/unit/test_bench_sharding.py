"""The bench of models over several machines: its models, its cable and its arithmetic."""

import socket
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from sollol.bench.common.children import ChildFailed
from sollol.bench.model_kinds import Size
from sollol.bench.sharding.fit import (
    Fit,
    Process,
    describe_fits,
    judge_fits,
    missing_memory,
)
from sollol.bench.sharding.gateway import Behind, describe_gateway, judge_gateway
from sollol.bench.sharding.lab import Lab
from sollol.bench.sharding.models import THIRTEEN_B, write_random
from sollol.bench.sharding.network import Far, describe_far, judge_far
from sollol.bench.sharding.relay import relay
from sollol.bench.sharding.speed import (
    Loads,
    Speeds,
    describe_loads,
    describe_speeds,
    judge_speeds,
)
from sollol.bench.sharding.workers import Taken, WorkerSpec, command
from sollol.llamacpp.binaries import LlamaBinaries
from sollol.sharding.gguf import read_header
from sollol.sharding.links import MeasuredLink
from sollol.sharding.memory import MIB, RunOptions

BINARIES = LlamaBinaries(Path("/llama-server"), Path("/rpc-server"), {})
TINY = Size(layers=4, embedding=256, feed_forward=512, kv_heads=8, vocabulary=512)


@pytest.mark.parametrize("kind", ["f16", "q8_0", "q4_0"])
def test_weights_are_random_small_numbers_and_the_same_each_time(tmp_path: Path, kind: str) -> None:
    path = write_random(tmp_path / "m.gguf", Size(2, 256, 512, 8, 8, 512, kind))
    header = read_header(path)
    data = path.read_bytes()
    pieces = [
        data[(start := header.header_bytes + t.offset) : start + t.size_bytes]
        for t in header.tensors
    ]
    matrices = [
        piece for t, piece in zip(header.tensors, pieces, strict=True) if len(t.dimensions) > 1
    ]
    assert len(set(matrices)) == len(matrices)
    norm = next(p for t, p in zip(header.tensors, pieces, strict=True) if len(t.dimensions) == 1)
    assert norm == b"\0\0\x80\x3f" * 256
    again = tmp_path / "again"
    again.mkdir()
    assert write_random(again / "m.gguf", Size(2, 256, 512, 8, 8, 512, kind)).read_bytes() == data


def test_the_rest_of_a_large_tensor_is_a_hole(tmp_path: Path) -> None:
    path = write_random(tmp_path / "m.gguf", Size(1, 2048, 8192, 16, 16, 512, "f16"))
    assert path.stat().st_size > 120 * MIB
    assert path.stat().st_blocks * 512 < 16 * MIB


def test_memory_for_so_many_workers_is_too_little_for_fewer(tmp_path: Path) -> None:
    lab = Lab.of(BINARIES, write_random(tmp_path / "m.gguf", TINY), RunOptions(8192))
    for count in (2, 3):
        assert lab.whole_bytes() / count < lab.memory_for(count) < lab.whole_bytes()
    with pytest.raises(ChildFailed, match="cannot be spread over 6 workers"):
        lab.memory_for(6)  # which five units cannot be


def test_the_13b_is_larger_than_each_of_its_workers(tmp_path: Path) -> None:
    lab = Lab.of(BINARIES, write_random(tmp_path / "m.gguf", THIRTEEN_B), RunOptions())
    assert 7.2e9 < lab.model.facts.file_bytes < 7.5e9
    for count in (2, 3):
        assert lab.memory_for(count) < lab.model.facts.file_bytes
    missing_memory(lab)


def test_one_process_is_planned_without_workers(tmp_path: Path) -> None:
    lab = Lab.of(BINARIES, write_random(tmp_path / "m.gguf", TINY), RunOptions(256))
    plan = lab.plan_alone()
    assert (plan.shares, plan.cpu_layers) == ((), 5)
    assert missing_memory(lab) == ""
    huge = Lab.of(BINARIES, write_random(tmp_path / "m.gguf", TINY), RunOptions(1 << 30))
    assert "of memory, and" in missing_memory(huge)
    with pytest.raises(ChildFailed, match="does not fit this machine"):
        huge.plan_alone()


def test_a_worker_is_limited_by_the_shell_that_becomes_it() -> None:
    plain = command(BINARIES, WorkerSpec(port=5))
    assert plain == ["/rpc-server", "-H", "127.0.0.1", "-p", "5", "-t", "1"]
    limited = WorkerSpec(limit_bytes=4096, cache=Path("/c"), inside=("nsenter", "-n"), port=5)
    words = command(BINARIES, limited)
    assert words[:3] == ["nsenter", "-n", "/bin/sh"]
    assert words[words.index("sh") :] == ["sh", "4", *plain, "--cache"]


def fit(peak: int, *, limit: int = 90) -> Fit:
    processes = [
        Process("worker 1", 100, Taken(101, 50, 10)),
        Process("coordinator", 100, Taken(peak, 9, 9)),
    ]
    return Fit(2, 100, limit, 1.0, 2.5, processes)


@pytest.mark.parametrize(("peak", "holds"), [(91, True), (109, True), (111, False), (89, False)])
def test_memory_is_held_against_the_plan(peak: int, holds: bool) -> None:
    runs, memory = judge_fits([fit(peak)])
    assert (runs.holds, memory.holds) == (True, holds)
    assert f"{peak - 100:+.1f}% (coordinator)" in memory.measured
    assert "| 2 workers: worker 1 |" in describe_fits([fit(peak)])


def test_a_worker_that_could_hold_all_proves_nothing() -> None:
    assert not judge_fits([fit(100, limit=100)])[0].holds


def test_speed_is_compared_round_by_round() -> None:
    good, slow = Speeds("a", [10, 20, 10], [9, 17, 9]), Speeds("b", [10, 10], [8, 8])
    assert [verdict.holds for verdict in judge_speeds([good, slow])] == [True, False]
    assert judge_speeds([good])[0].measured == "0.90x (0.85 to 0.90)"
    assert "| a | 0.90x (0.85 to 0.90) | 10.0 | 9.0 |" in describe_speeds([good])
    loads = describe_loads(Loads([1, 2], [2, 4], [3, 6], [1, 2]))
    assert "| 2 workers, filling their cache | 3.00x (3.00 to 3.00) | 4.50 |" in loads


def test_the_gateway_is_compared_round_by_round() -> None:
    (holds,) = judge_gateway(Behind([1.0, 2.0], [1.02, 2.04]))
    (fails,) = judge_gateway(Behind([1.0], [1.04]))
    assert (holds.holds, fails.holds) == (True, False)
    assert "| through SOLLOL | 1.02x (1.02 to 1.02) |" in describe_gateway(Behind([1.0], [1.02]))


def test_a_load_from_the_cache_is_compared_with_the_first() -> None:
    found = Far([MeasuredLink(0.0002, 125e6), MeasuredLink()], [10], [9], [10, 12], [2, 2], 10**9)
    (verdict,) = judge_far(found)
    assert (verdict.holds, verdict.measured) == (True, "5.50x (5.00 to 6.00)")
    text = describe_far(found)
    assert "0.20 ms and 1.00 Gbit/s, 0.00 ms and 0.00 Gbit/s" in text
    assert "| tokens/s over 2 workers, against loopback | 0.90x" in text


@contextmanager
def running_relay(target: int, delay_s: float) -> Iterator[int]:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        arguments = (listener, ("127.0.0.1", target), delay_s)
        thread = threading.Thread(target=relay, args=arguments)
        thread.start()
        yield listener.getsockname()[1]
        listener.shutdown(socket.SHUT_RDWR)
        thread.join(5)
    assert not thread.is_alive()


def wait_no_threads() -> None:
    for thread in threading.enumerate():
        if thread.daemon and thread.name.startswith("Thread-"):
            thread.join(5)


def test_a_relay_passes_on_all_bytes_and_the_end() -> None:
    sent = bytes(range(256)) * 4096
    with socket.create_server(("127.0.0.1", 0)) as server:
        with running_relay(server.getsockname()[1], 0.001) as port:
            with socket.create_connection(("127.0.0.1", port)) as near:
                far, _ = server.accept()
                writer = threading.Thread(target=near.sendall, args=(sent,))
                writer.start()
                got = b""
                while len(got) < len(sent):
                    got += far.recv(1 << 20)
                writer.join()
                assert got == sent
                near.shutdown(socket.SHUT_WR)
                assert far.recv(1) == b""
                far.sendall(b"answer")
                assert near.recv(10) == b"answer"
                far.close()
                assert near.recv(1) == b""
            wait_no_threads()


def test_a_relay_without_a_target_closes() -> None:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        with running_relay(free.getsockname()[1], 0) as port:
            with socket.create_connection(("127.0.0.1", port)) as near:
                assert near.recv(1) == b""
