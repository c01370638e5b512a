"""Reads the header of a GGUF file: its metadata, and where its tensors are; never the weights.

The header of a model holds its vocabulary, so it has megabytes. The ``gguf`` package makes an
object of every token; what a plan needs of them is their number (docs/decisions/0006).

Source: https://github.com/ggml-org/ggml/blob/master/docs/gguf.md
"""

import os
import struct
from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import IntEnum
from pathlib import Path

from sollol.errors import ModelBroken
from sollol.sharding.cursor import Cursor, HeaderError
from sollol.sharding.tensor_types import TENSOR_TYPES

MAGIC = b"GGUF"
VERSIONS = (2, 3)
MAX_FIELDS = 1 << 16
MAX_TENSORS = 1 << 17
"""The largest models have some ten thousand, when each expert is a tensor of its own."""
MAX_STRINGS = 1 << 22
MAX_KEY_BYTES = 1 << 16
MAX_TENSOR_NAME_BYTES = 64
MAX_DIMENSIONS = 4
KEPT_STRING_BYTES = 1 << 20
"""A longer text is left out: a chat template is shorter, a tokenizer as JSON is not needed."""
KEPT_NUMBERS = 1024
"""A longer array is left out: those about layers are shorter, those about tokens not needed."""
MAX_KEPT_BYTES = 1 << 25
MAX_ALIGNMENT = 1 << 20
ADVICE = "Pull or copy the model again, or name another file"

Value = bool | int | float | str | tuple[bool | int | float, ...]


class FieldType(IntEnum):
    """How a value of the metadata is stored."""

    U8 = 0
    I8 = 1
    U16 = 2
    I16 = 3
    U32 = 4
    I32 = 5
    F32 = 6
    BOOL = 7
    STRING = 8
    ARRAY = 9
    U64 = 10
    I64 = 11
    F64 = 12


FORMATS = {
    FieldType.U8: "B",
    FieldType.I8: "b",
    FieldType.U16: "H",
    FieldType.I16: "h",
    FieldType.U32: "I",
    FieldType.I32: "i",
    FieldType.F32: "f",
    FieldType.BOOL: "?",
    FieldType.U64: "Q",
    FieldType.I64: "q",
    FieldType.F64: "d",
}


@dataclass(frozen=True, slots=True)
class Tensor:
    """A tensor: its name, its size, and its place after the header."""

    name: str
    dimensions: tuple[int, ...]
    size_bytes: int
    offset: int


@dataclass(frozen=True, slots=True)
class Header:
    """What a GGUF file says of itself.

    ``fields`` has no array of texts, no long array and no very long text; ``lengths`` has the
    number of elements of every array.
    """

    path: Path
    file_bytes: int
    header_bytes: int
    fields: Mapping[str, Value]
    lengths: Mapping[str, int]
    tensors: tuple[Tensor, ...]


@dataclass(slots=True)
class _Metadata:
    fields: dict[str, Value] = field(default_factory=dict)
    lengths: dict[str, int] = field(default_factory=dict)
    kept_bytes: int = 0


def read_header(path: Path) -> Header:
    """Read the header of a file. Blocks, for a tenth of a second with a large vocabulary.

    Raises:
        ModelBroken: it cannot be read, is not a GGUF file, or ends too early.
    """
    try:
        if not path.is_file():  # opening a pipe would wait for its writer
            raise HeaderError("there is no such file")
        with path.open("rb") as file:
            return _header(path, Cursor(file, os.fstat(file.fileno()).st_size))
    except OSError as error:
        raise ModelBroken(f"{path} cannot be read: {error.strerror}.") from error
    except HeaderError as error:
        raise ModelBroken(f"{path} is no usable GGUF file: {error}. {ADVICE}.") from error


def _header(path: Path, cursor: Cursor) -> Header:
    tensor_count, field_count = _read_counts(cursor)
    metadata = _Metadata()
    for _ in range(field_count):
        _read_field(cursor, metadata)
    tensors = tuple(_read_tensor(cursor) for _ in range(tensor_count))
    if len({tensor.name for tensor in tensors}) < tensor_count:
        raise HeaderError("two of its tensors have one name")
    header_bytes = _aligned(cursor.position, metadata.fields.get("general.alignment", 32))
    needed = header_bytes + max((t.offset + t.size_bytes for t in tensors), default=0)
    if needed > cursor.file_bytes:
        raise HeaderError(f"it has {cursor.file_bytes} bytes, but its tensors reach to {needed}")
    return Header(path, cursor.file_bytes, header_bytes, metadata.fields, metadata.lengths, tensors)


def _read_counts(cursor: Cursor) -> tuple[int, int]:
    if cursor.left_bytes < len(MAGIC) or (magic := cursor.take(len(MAGIC))) != MAGIC:
        begins = repr(magic)[1:] if cursor.position else "nothing"
        raise HeaderError(f"it begins with {begins}, not with 'GGUF'")
    version = _number(cursor, "I")
    if version not in VERSIONS:
        hint = ", that is, with its bytes in the other order" if version >= 1 << 16 else ""
        raise HeaderError(f"it has version {version}{hint}; versions 2 and 3 can be read")
    tensor_count, field_count = _number(cursor, "Q"), _number(cursor, "Q")
    if tensor_count > MAX_TENSORS or field_count > MAX_FIELDS:
        raise HeaderError(f"it claims {tensor_count} tensors and {field_count} fields")
    return tensor_count, field_count


def _read_field(cursor: Cursor, metadata: _Metadata) -> None:
    key = _text(cursor, MAX_KEY_BYTES)
    if key in metadata.fields or key in metadata.lengths:
        raise HeaderError(f"it has the field {key!r} twice")
    kind = _field_type(cursor)
    if kind is FieldType.ARRAY:
        value = _read_array(cursor, key, metadata)
    elif kind is FieldType.STRING:
        value = _read_string(cursor)
    else:
        value = _unpack(cursor, FORMATS[kind])[0]
    if value is not None:
        metadata.fields[key] = value
    metadata.kept_bytes += len(key) + (len(value) if isinstance(value, str | tuple) else 0)
    if metadata.kept_bytes > MAX_KEPT_BYTES:
        raise HeaderError(f"its fields have over {MAX_KEPT_BYTES} bytes")


def _read_array(cursor: Cursor, key: str, metadata: _Metadata) -> Value | None:
    kind, count = _field_type(cursor), _number(cursor, "Q")
    metadata.lengths[key] = count
    if kind is FieldType.ARRAY:
        raise HeaderError(f"its field {key!r} is an array of arrays")
    if kind is FieldType.STRING:
        if count > MAX_STRINGS:
            raise HeaderError(f"its field {key!r} claims {count} texts")
        cursor.skip_strings(count)
        return None
    code = FORMATS[kind]
    if count > KEPT_NUMBERS:
        cursor.skip(count * struct.calcsize(f"<{code}"))
        return None
    return _unpack(cursor, f"{count}{code}")


def _read_string(cursor: Cursor) -> str | None:
    size = _number(cursor, "Q")
    if size > KEPT_STRING_BYTES:
        cursor.skip(size)
        return None
    return cursor.take(size).decode(errors="replace")


def _read_tensor(cursor: Cursor) -> Tensor:
    name = _text(cursor, MAX_TENSOR_NAME_BYTES)
    dimension_count = _number(cursor, "I")
    if not 1 <= dimension_count <= MAX_DIMENSIONS:
        raise HeaderError(f"its tensor {name!r} has {dimension_count} dimensions")
    dimensions = _unpack(cursor, f"{dimension_count}Q")
    kind_number, offset = _number(cursor, "I"), _number(cursor, "Q")
    kind = TENSOR_TYPES.get(kind_number)
    if kind is None:
        raise HeaderError(f"its tensor {name!r} has the unknown type {kind_number}")
    row, *others = dimensions
    if row % kind.block_elements:
        raise HeaderError(f"its tensor {name!r} has rows of {row} elements of {kind.name}")
    size_bytes = kind.row_bytes(row)
    for count in others:
        size_bytes *= count
    return Tensor(name, dimensions, size_bytes, offset)


def _text(cursor: Cursor, max_bytes: int) -> str:
    size = _number(cursor, "Q")
    if size > max_bytes:
        raise HeaderError(f"it claims a name of {size} bytes")
    return cursor.take(size).decode(errors="replace")


def _field_type(cursor: Cursor) -> FieldType:
    number = _number(cursor, "I")
    try:
        return FieldType(number)
    except ValueError:
        raise HeaderError(f"it has a field of the unknown type {number}") from None


def _number(cursor: Cursor, code: str) -> int:
    number: int = _unpack(cursor, code)[0]
    return number


def _unpack(cursor: Cursor, code: str) -> "tuple[int, ...]":
    """Return values; floating point ones too, which the callers keep as they are."""
    layout = struct.Struct(f"<{code}")
    return layout.unpack(cursor.take(layout.size))


def _aligned(position: int, alignment: Value) -> int:
    if type(alignment) is not int or not 1 <= alignment <= MAX_ALIGNMENT:
        raise HeaderError(f"its alignment is {alignment!r}")
    return -(-position // alignment) * alignment
