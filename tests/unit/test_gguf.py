"""GGUF headers: what is read of a file, and how quickly a bad one is refused."""

import io
import os
import struct
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

import pytest
from hypothesis import given, settings, strategies as st

from sollol.bench.gguf_files import GgufSpec, TensorSpec, header_bytes, write_gguf
from sollol.bench.model_kinds import dense
from sollol.errors import ModelBroken
from sollol.sharding import gguf
from sollol.sharding.cursor import BUFFER_BYTES, Cursor, HeaderError
from sollol.sharding.gguf import FieldType, read_header

HEAD = struct.pack("<4sI", b"GGUF", 3)
ONE_TENSOR = GgufSpec({}, [TensorSpec("a", (32, 2), "q8_0")])


def text(value: str) -> bytes:
    return struct.pack("<Q", len(value)) + value.encode()


def counts(tensors: int, fields: int) -> bytes:
    return HEAD + struct.pack("<QQ", tensors, fields)


def field(key: str, kind: int, value: bytes) -> bytes:
    return text(key) + struct.pack("<I", kind) + value


def array(kind: int, count: int) -> bytes:
    return struct.pack("<IQ", kind, count)


def tensor(name: str, dimensions: tuple[int, ...], kind: int = 0) -> bytes:
    shape = struct.pack(f"<I{len(dimensions)}Q", len(dimensions), *dimensions)
    return text(name) + shape + struct.pack("<IQ", kind, 0)


def test_fields_lengths_and_tensors_are_read(tmp_path: Path) -> None:
    spec = GgufSpec(
        {"a": 7, "b": -7, "c": 0.5, "d": True, "e": "text", "f": (1, 2, 3), "long": (0,) * 2000},
        [TensorSpec("one", (64, 3), "q8_0"), TensorSpec("two", (5,), "f32")],
        {"words": ["x", "", "yz"]},
    )
    header = read_header(write_gguf(tmp_path / "a.gguf", spec))
    assert header.fields == {"a": 7, "b": -7, "c": 0.5, "d": True, "e": "text", "f": (1, 2, 3)}
    assert header.lengths == {"f": 3, "long": 2000, "words": 3}
    assert [(t.name, t.dimensions, t.size_bytes, t.offset) for t in header.tensors] == [
        ("one", (64, 3), 204, 0),
        ("two", (5,), 20, 224),
    ]
    assert header.header_bytes % 32 == 0
    assert header.file_bytes == header.header_bytes + 224 + 32


def test_version_2_and_another_alignment_are_read(tmp_path: Path) -> None:
    path = tmp_path / "a.gguf"
    path.write_bytes(
        struct.pack("<4sIQQ", b"GGUF", 2, 0, 1)
        + field("general.alignment", FieldType.U32, struct.pack("<I", 256))
        + bytes(300)
    )
    assert read_header(path).header_bytes == 256


def test_a_long_text_is_left_out(tmp_path: Path) -> None:
    spec = GgufSpec({"long": "x" * (gguf.KEPT_STRING_BYTES + 1), "short": 1}, [])
    header = read_header(write_gguf(tmp_path / "a.gguf", spec))
    assert header.fields == {"short": 1}


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        (b"", "begins with nothing"),
        (b"GG", "begins with nothing"),
        (b"PK\x03\x04" + bytes(50), "begins with 'PK"),
        (struct.pack("<4sIQQ", b"GGUF", 1, 0, 0), "version 1;"),
        (struct.pack("<4sI", b"GGUF", 0x03000000) + bytes(50), "in the other order"),
        (HEAD, "ends inside its header"),
        (counts(1 << 60, 0), "claims 1152921504606846976 tensors"),
        (counts(0, 1 << 40), "claims 0 tensors and 1099511627776 fields"),
        (counts(0, 1), "ends inside its header"),
        (counts(0, 1) + struct.pack("<Q", 1 << 62), "claims a name of"),
        (counts(0, 1) + text("a") + struct.pack("<I", 99), "unknown type 99"),
        (counts(0, 1) + field("a", 8, struct.pack("<Q", 1 << 62)), "ends inside"),
        (counts(0, 1) + field("a", 9, array(8, 1 << 50)), "claims 1125899906842624 texts"),
        (counts(0, 1) + field("a", 9, array(8, 1000)) + bytes(90), "ends inside"),
        (counts(0, 1) + field("a", 9, array(0, 1 << 60)), "ends inside"),
        (counts(0, 1) + field("a", 9, array(9, 1)), "array of arrays"),
        (counts(0, 2) + field("a", 0, b"x") * 2, "'a' twice"),
        (counts(1, 0) + tensor("t", ()), "0 dimensions"),
        (counts(1, 0) + tensor("t", (1,) * 5), "5 dimensions"),
        (counts(1, 0) + tensor("t", (32,), 77), "unknown type 77"),
        (counts(1, 0) + tensor("t", (33,), 8), "rows of 33 elements of q8_0"),
        (counts(1, 0) + tensor("t" * 65, (1,)), "claims a name of 65"),
        (counts(2, 0) + tensor("t", (1,)) * 2 + bytes(64), "two of its tensors have one name"),
        (counts(1, 0) + tensor("t", (1 << 62, 1 << 62)), "its tensors reach to"),
        (counts(0, 1) + field("general.alignment", 4, bytes(4)), "alignment is 0"),
        (counts(0, 1) + field("general.alignment", 8, text("x")), "alignment is 'x'"),
    ],
)
def test_a_bad_file_is_refused_with_the_reason(tmp_path: Path, content: bytes, reason: str) -> None:
    path = tmp_path / "bad.gguf"
    path.write_bytes(content)
    with pytest.raises(ModelBroken, match=reason) as caught:
        read_header(path)
    assert "Pull or copy the model again" in str(caught.value)


def test_too_many_kept_bytes_are_refused(tmp_path: Path) -> None:
    fields = {f"k{number}": "x" * gguf.KEPT_STRING_BYTES for number in range(33)}
    with pytest.raises(ModelBroken, match="its fields have over"):
        read_header(write_gguf(tmp_path / "a.gguf", GgufSpec(dict(fields), [])))


def test_a_truncated_file_says_how_much_is_missing(tmp_path: Path) -> None:
    path = write_gguf(tmp_path / "a.gguf", ONE_TENSOR)
    os.truncate(path, path.stat().st_size - 60)
    with pytest.raises(ModelBroken, match="it has 132 bytes, but its tensors reach to 164"):
        read_header(path)


@pytest.mark.parametrize("make", [Path.mkdir, os.mkfifo, lambda path: None])
def test_what_is_no_file_is_not_opened(tmp_path: Path, make: Callable[[Path], None]) -> None:
    make(tmp_path / "a.gguf")
    with pytest.raises(ModelBroken, match="there is no such file"):
        read_header(tmp_path / "a.gguf")


def test_a_file_that_may_not_be_read_says_so(tmp_path: Path) -> None:
    long = tmp_path / ("x" * 300)
    with pytest.raises(ModelBroken, match=r"cannot be read|no such file"):
        read_header(long)


def test_a_hole_of_a_terabyte_is_not_read(tmp_path: Path) -> None:
    path = tmp_path / "a.gguf"
    path.write_bytes(counts(0, 1) + field("a", 9, array(10, 1 << 37)))
    os.truncate(path, 1 << 41)
    assert read_header(path).lengths == {"a": 1 << 37}


@given(st.data())
@settings(deadline=None)
def test_any_cut_of_a_header_is_refused_and_nothing_else_happens(data: st.DataObject) -> None:
    whole = header_bytes(ONE_TENSOR)
    cut = data.draw(st.integers(0, len(whole) - 1))
    with pytest.raises(HeaderError):
        gguf._header(Path("cut"), Cursor(io.BytesIO(whole[:cut]), cut))


@given(st.data())
@settings(deadline=None)
def test_any_changed_byte_is_read_or_refused(data: st.DataObject) -> None:
    whole = bytearray(header_bytes(dense()))
    start = data.draw(st.integers(0, len(whole) - 1))
    whole[start : start + 8] = data.draw(st.binary(min_size=8, max_size=8))
    with suppress(HeaderError):
        gguf._header(Path("changed"), Cursor(io.BytesIO(bytes(whole)), 1 << 40))


def test_a_cursor_goes_over_strings_at_every_edge_of_its_buffer() -> None:
    for length in (BUFFER_BYTES - 17, BUFFER_BYTES - 9, BUFFER_BYTES - 1, BUFFER_BYTES * 2):
        content = text("x" * length) + text("yy") + text("") + b"end"
        cursor = Cursor(io.BytesIO(content), len(content))
        cursor.skip_strings(3)
        assert cursor.position == len(content) - 3
        assert cursor.take(3) == b"end"


def test_a_file_that_becomes_shorter_is_noticed() -> None:
    cursor = Cursor(io.BytesIO(b"short"), 100)
    with pytest.raises(HeaderError, match="became shorter"):
        cursor.take(50)
