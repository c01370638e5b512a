"""Writes small GGUF files that llama.cpp loads: real headers over weights that are all zero.

The weights are a hole in the file, so that a model of any size takes no space on the disk.
"""

import struct
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from sollol.sharding.gguf import FORMATS, MAGIC, FieldType, Value
from sollol.sharding.tensor_types import TENSOR_TYPES

ALIGNMENT = 32
_NUMBERS = {kind.name: number for number, kind in TENSOR_TYPES.items()}
_BYTE_TOKEN, _CONTROL, _UNKNOWN, _NORMAL = 6, 3, 2, 1
_KINDS = {
    "split.no": FieldType.U16,
    "split.count": FieldType.U16,
    "split.tensors.count": FieldType.I32,
}
"""How llama.cpp wants numbers that are not stored as others."""
_CHAT_TEMPLATE = "{% for m in messages %}{{ m['content'] }}{% endfor %}"


@dataclass(frozen=True, slots=True)
class TensorSpec:
    """A tensor to write: its name, dimensions (rows first, as in GGUF) and type."""

    name: str
    dimensions: tuple[int, ...]
    kind: str = "f16"

    @property
    def size_bytes(self) -> int:
        """What its elements take."""
        row, *others = self.dimensions
        size = TENSOR_TYPES[_NUMBERS[self.kind]].row_bytes(row)
        for count in others:
            size *= count
        return size


@dataclass(frozen=True, slots=True)
class GgufSpec:
    """A file to write. ``texts`` are arrays of texts, such as the vocabulary."""

    fields: Mapping[str, Value]
    tensors: Sequence[TensorSpec]
    texts: Mapping[str, Sequence[str]] = field(default_factory=dict)


def write_gguf(path: Path, spec: GgufSpec) -> Path:
    """Write a file and return its path."""
    header = header_bytes(spec)
    data_bytes = sum(_padded(tensor.size_bytes) for tensor in spec.tensors)
    with path.open("wb") as file:
        file.write(header)
        file.truncate(_padded(len(header)) + data_bytes)
    return path


def header_bytes(spec: GgufSpec) -> bytes:
    """Return the header of a file, up to the end of its last tensor's description."""
    pieces = [MAGIC, struct.pack("<IQQ", 3, len(spec.tensors), len(spec.fields) + len(spec.texts))]
    pieces += [_text(key) + _value(value, _KINDS.get(key)) for key, value in spec.fields.items()]
    pieces += [_text(key) + _texts(values) for key, values in spec.texts.items()]
    offset = 0
    for tensor in spec.tensors:
        pieces.append(_text(tensor.name))
        pieces.append(struct.pack("<I", len(tensor.dimensions)))
        pieces.append(struct.pack(f"<{len(tensor.dimensions)}Q", *tensor.dimensions))
        pieces.append(struct.pack("<IQ", _NUMBERS[tensor.kind], offset))
        offset += _padded(tensor.size_bytes)
    return b"".join(pieces)


def vocabulary(size: int) -> tuple[dict[str, Value], dict[str, list[str]]]:
    """Return the fields and texts of a tokenizer of ``size`` tokens, all bytes among them."""
    tokens = ["<unk>", "<s>", "</s>", *(f"<0x{byte:02X}>" for byte in range(256)), "\u2581"]
    tokens += [f"w{number}" for number in range(size - len(tokens))]
    kinds = [_UNKNOWN, _CONTROL, _CONTROL, *[_BYTE_TOKEN] * 256]
    kinds += [_NORMAL] * (size - len(kinds))
    fields: dict[str, Value] = {
        "tokenizer.ggml.model": "llama",
        "tokenizer.ggml.pre": "default",
        "tokenizer.ggml.scores": tuple(-float(number) for number in range(size)),
        "tokenizer.ggml.token_type": tuple(kinds),
        "tokenizer.ggml.bos_token_id": 1,
        "tokenizer.ggml.eos_token_id": 2,
        "tokenizer.ggml.unknown_token_id": 0,
        "tokenizer.chat_template": _CHAT_TEMPLATE,
    }
    return fields, {"tokenizer.ggml.tokens": tokens}


def _value(value: Value, kind: FieldType | None = None) -> bytes:
    if isinstance(value, str):
        return struct.pack("<I", FieldType.STRING) + _text(value)
    if isinstance(value, tuple):
        kind = _kind(value[0])
        code = f"<IIQ{len(value)}{FORMATS[kind]}"
        return struct.pack(code, FieldType.ARRAY, kind, len(value), *value)
    kind = _kind(value) if kind is None else kind
    return struct.pack(f"<I{FORMATS[kind]}", kind, value)


def _kind(value: bool | int | float) -> FieldType:
    if isinstance(value, bool):
        return FieldType.BOOL
    if isinstance(value, float):
        return FieldType.F32
    return FieldType.I32 if value < 0 else FieldType.U32


def _texts(values: Iterable[str]) -> bytes:
    texts = [_text(value) for value in values]
    head = struct.pack("<IIQ", FieldType.ARRAY, FieldType.STRING, len(texts))
    return head + b"".join(texts)


def _text(text: str) -> bytes:
    encoded = text.encode()
    return struct.pack("<Q", len(encoded)) + encoded


def _padded(size: int) -> int:
    return -(-size // ALIGNMENT) * ALIGNMENT
