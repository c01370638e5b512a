"""What a part of a model takes, what llama-server's log says of it, and this machine's memory."""

from dataclasses import replace
from pathlib import Path

import pytest

from sollol.bench.gguf_files import write_gguf
from sollol.bench.model_kinds import KINDS
from sollol.errors import InvalidRequest
from sollol.sharding.allocations import Allocation, allocations
from sollol.sharding.cache_layout import LayerCache
from sollol.sharding.facts import ModelFacts, model_facts
from sollol.sharding.gguf import read_header
from sollol.sharding.host_memory import available_bytes
from sollol.sharding.memory import MIB, DeviceMemory, MemoryModel, RunOptions, cache_bytes, cells

CACHE = LayerCache(kv_heads=2, key_length=64, value_length=128)


@pytest.fixture
def facts(tmp_path: Path) -> ModelFacts:
    return model_facts([read_header(write_gguf(tmp_path / "m.gguf", KINDS["sliding_window"]()))])


@pytest.mark.parametrize(
    ("window", "context", "expected"),
    [(0, 1, 256), (0, 256, 256), (0, 257, 512), (512, 8192, 1024), (512, 700, 768), (600, 8192, 1280)],
)  # fmt: skip
def test_cells_of_a_slot(window: int, context: int, expected: int) -> None:
    assert cells(window, RunOptions(context)) == expected


@pytest.mark.parametrize(
    ("options", "expected"),
    [
        (RunOptions(256), 256 * 2 * (64 + 128) * 2),
        (RunOptions(256, 3), 3 * 256 * 2 * (64 + 128) * 2),
        (RunOptions(256, 1, "q8_0", "q8_0"), 256 * 2 * (68 + 136)),
        (RunOptions(256, 1, "q4_0", "f16"), 256 * 2 * (36 + 256)),
        (RunOptions(256, 1, "f32", "q5_1"), 256 * 2 * (256 + 96)),
    ],
)
def test_bytes_of_keys_and_values(options: RunOptions, expected: int) -> None:
    assert cache_bytes(CACHE, options) == expected


def test_types_that_do_not_go_with_a_model_are_refused() -> None:
    assert cache_bytes(LayerCache(), RunOptions(256, 1, "nonsense")) == 0
    with pytest.raises(InvalidRequest, match="'q9' is no type of a KV cache; use one of f32, f16"):
        cache_bytes(CACHE, RunOptions(256, 1, "q9"))
    with pytest.raises(InvalidRequest, match="Heads of 80 elements cannot be stored as q8_0"):
        cache_bytes(replace(CACHE, value_length=80), RunOptions(256, 1, "f16", "q8_0"))


def test_the_parts_of_a_model_add_up(facts: ModelFacts) -> None:
    memory = MemoryModel(facts, RunOptions(4096, 2))
    count = len(facts.units)
    whole = memory.device(0, count)
    for split in range(1, count):
        left, right = memory.device(0, split), memory.device(split, count)
        assert left.weight_bytes + right.weight_bytes == whole.weight_bytes
        assert left.cache_bytes + right.cache_bytes == whole.cache_bytes
    assert memory.device(3, 3) == DeviceMemory()


def test_masks_of_windows_and_logits_count_only_where_they_are(facts: ModelFacts) -> None:
    memory = MemoryModel(facts, RunOptions(8192))
    windowed, both = memory.device(0, 5), memory.device(0, 6)
    assert both.compute_bytes - windowed.compute_bytes == 512 * 8 * 8192
    output = memory.device(12, 13)
    assert output.compute_bytes == 512 * (8 * facts.activation_width + 4 * facts.vocabulary)


def test_the_largest_tensor_counts_only_while_the_rest_is_not_there() -> None:
    memory = DeviceMemory(1000, 100, 10, 1, largest_tensor_bytes=500)
    assert memory.total_bytes == 8 * MIB + 1500
    assert replace(memory, cache_bytes=600).total_bytes == 8 * MIB + 1611


def test_a_coordinator_needs_more_with_layers_of_its_own(facts: ModelFacts) -> None:
    memory = MemoryModel(replace(facts, side_bytes=5), RunOptions())
    without = MemoryModel(facts, RunOptions()).coordinator_bytes()
    assert memory.coordinator_bytes() == without + 5
    assert memory.coordinator_bytes(2) == without + 5 + memory.device(0, 2).total_bytes


def test_the_log_tells_what_each_worker_holds() -> None:
    log = """0.00.031.088 I load_tensors: offloaded 9/9 layers to GPU
0.00.031.097 I load_tensors:   CPU_Mapped model buffer size =     0.05 MiB
0.00.031.105 I load_tensors: RPC0[127.0.0.1:50301] model buffer size =     0.35 MiB
load_tensors: RPC0[10.0.0.2:50302] model buffer size =    1260.26 MiB
0.00.033.594 I llama_kv_cache: RPC0[127.0.0.1:50301] KV buffer size =     1.25 MiB
0.00.033.595 I llama_kv_cache: RPC0[127.0.0.1:50301] KV buffer size =     0.50 MiB
llama_memory_recurrent: RPC0[127.0.0.1:50301] RS buffer size =     0.37 MiB
0.00.037.989 I sched_reserve: RPC0[127.0.0.1:50301] compute buffer size =    10.68 MiB"""
    assert allocations(log.splitlines()) == {
        "CPU_Mapped": Allocation(weight_mib=0.05),
        "127.0.0.1:50301": Allocation(0.35, 1.75, 0.37, 10.68),
        "10.0.0.2:50302": Allocation(weight_mib=1260.26),
    }


def test_available_memory(tmp_path: Path) -> None:
    meminfo = tmp_path / "meminfo"
    meminfo.write_text("MemTotal: 100 kB\nMemAvailable:   50 kB\n")
    assert available_bytes(meminfo) == 51200
    meminfo.write_text("MemTotal: 100 kB\n")
    assert available_bytes(meminfo) > 1 << 26
    assert available_bytes(tmp_path / "none") > 1 << 26
