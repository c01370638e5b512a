"""Models to measure: of real shapes, with weights that are random where it matters.

The first MiB of each tensor is random, so that the model computes real numbers and no two tensors
are one to a cache; the rest is a hole in the file. A file of 7 GB is there in a moment, and
reading it measures no disk.
"""

import random
import struct
from collections.abc import Callable, Mapping
from pathlib import Path

from sollol.bench.gguf_files import GgufSpec, write_gguf
from sollol.bench.model_kinds import Size, dense
from sollol.sharding.gguf import read_header
from sollol.sharding.memory import MIB

THIRTEEN_B = Size(40, 5120, 13824, 40, 40, 32000, "q4_0")
"""Llama 2 13B: 7.3 GB."""
SMALL = Size(32, 512, 1536, 8, 8, 512, "f16")
"""Computed in about 40 ms a token on one core: 220 MB."""
LARGE_TENSORS = Size(6, 4096, 11008, 32, 32, 4096, "q8_0")
"""Six layers of Llama 2 7B, 1.3 GB: all their tensors are large enough for a worker's cache."""
_HIGH = bytes((byte & 0x83) | 0x24 for byte in range(256))
"""Sign and two bits of the fraction stay; the exponent becomes -6."""
_SCALE = struct.pack("<e", 0.0015)


def write_random(path: Path, size: Size) -> Path:
    """Write a Llama of this size and return its path; the same bytes each time."""
    spec = dense(size)
    write_gguf(path, spec)
    rng = random.Random(path.name)
    kinds = _kinds(spec)
    header = read_header(path)
    with path.open("r+b") as file:
        for tensor in header.tensors:
            file.seek(header.header_bytes + tensor.offset)
            file.write(_MAKERS[kinds[tensor.name]](rng, min(tensor.size_bytes, MIB)))
    return path


def _kinds(spec: GgufSpec) -> Mapping[str, str]:
    return {tensor.name: tensor.kind for tensor in spec.tensors}


def _ones(rng: random.Random, count: int) -> bytes:
    """Return what norms are: single precision, and never huge."""
    return struct.pack("<f", 1.0) * (count // 4)


def _halves(rng: random.Random, count: int) -> bytes:
    """Return numbers of half precision between 1/64 and 1/32, of both signs."""
    made = bytearray(rng.randbytes(count // 2 * 2))
    made[1::2] = made[1::2].translate(_HIGH)
    return bytes(made)


def _blocks(block_bytes: int) -> Callable[[random.Random, int], bytes]:
    """Return a maker of quantised blocks, which begin with their scale."""

    def make(rng: random.Random, count: int) -> bytes:
        blocks = count // block_bytes
        made = bytearray(rng.randbytes(blocks * block_bytes))
        for at, byte in enumerate(_SCALE):
            made[at::block_bytes] = bytes([byte]) * blocks
        return bytes(made)

    return make


_MAKERS: Mapping[str, Callable[[random.Random, int], bytes]] = {
    "f32": _ones,
    "f16": _halves,
    "q4_0": _blocks(18),
    "q8_0": _blocks(34),
}
