"""Models and names that cannot be run, one for each way in which files and callers can be wrong."""

import math
import os
import struct
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from sollol.bench.gguf_files import GgufSpec, header_bytes, write_gguf
from sollol.bench.model_kinds import Size, dense
from sollol.sharding.gguf import FieldType, Value
from tests.shards import IMAGE, Store

SPEC = dense(Size(layers=2, embedding=64, feed_forward=128))
HEADER = header_bytes(SPEC)
NOWHERE = f"sha256:{'0' * 64}"


Put = Callable[[Store, str], object]
"""Puts a model of a name into a store."""


@dataclass(frozen=True)
class BadModel:
    """A model to ask for, how it is put into the store, and what is to be answered.

    ``says``: what the answer has besides the name of the model: what is wrong, and what to do.
    ``asked``: another name to ask for than ``name``.
    """

    name: str
    status: int
    says: tuple[str, ...]
    put: Put = lambda store, name: None
    asked: str = ""

    @property
    def model(self) -> str:
        """What is asked for."""
        return self.asked or self.name


# -- manifests and blobs --------------------------------------------------------------------------


def manifest(text: bytes) -> Put:
    """A manifest with this text."""

    def put(store: Store, name: str) -> None:
        store.manifest(name, {}).write_bytes(text)

    return put


def layers(*made: Callable[[Store], Mapping[str, Any]]) -> Put:
    """A manifest that lists these layers, and no other."""

    def put(store: Store, name: str) -> None:
        store.manifest(name, {"schemaVersion": 2, "layers": [make(store) for make in made]})

    return put


def layer(digest: str, size: int) -> Callable[[Store], Mapping[str, Any]]:
    """A layer with weights that are not there."""
    return lambda store: {"mediaType": f"{IMAGE}model", "digest": digest, "size": size}


def text(kind: str) -> Callable[[Store], Mapping[str, Any]]:
    """A layer of another kind, which is there."""
    return lambda store: store.blob(b"{{ .Prompt }}", kind)


def directory(store: Store, name: str) -> None:
    """A directory in place of a manifest."""
    path = store.manifest(name, {})
    path.unlink()
    path.mkdir()


def resized(change: int) -> Put:
    """A blob that is longer or shorter than its manifest says."""

    def put(store: Store, name: str) -> None:
        blob = good(store, name)
        os.truncate(blob, blob.stat().st_size + change)

    return put


def good(store: Store, name: str, spec: GgufSpec = SPEC, **texts: str) -> Path:
    """A model without fault; returns the path of its weights."""
    file = write_gguf(store.root / f"{name}.gguf", spec)
    blob = store.add(name, file, **texts)
    file.unlink()
    return blob


def partly(store: Store, name: str) -> None:
    """A blob that is still being downloaded."""
    blob = good(store, name)
    blob.rename(f"{blob}-partial")


def linked(store: Store, name: str) -> None:
    """A blob that is a link out of the store."""
    blob = good(store, name)
    outside = store.root.parent / f"{name}-outside"
    blob.rename(outside)
    blob.symlink_to(outside)


# -- GGUF files -----------------------------------------------------------------------------------


def content(*pieces: bytes, data_bytes: int = 0) -> Put:
    """A model whose weights are these bytes, then so many zeros."""

    def put(store: Store, name: str) -> None:
        file = store.root / f"{name}.gguf"
        file.write_bytes(b"".join(pieces))
        os.truncate(file, file.stat().st_size + data_bytes)
        store.add(name, file)

    return put


def spec(change: Callable[[GgufSpec], GgufSpec]) -> Put:
    """A model that is written as one without fault, but for a change."""
    return lambda store, name: good(store, name, change(SPEC))


def fields(**changes: Value) -> Put:
    """A model with other fields; two underscores stand for a point."""
    changed = {key.replace("__", "."): value for key, value in changes.items()}
    return spec(lambda plain: replace(plain, fields={**plain.fields, **changed}))


def renamed(architecture: str) -> Put:
    """A model that says it is of an architecture."""
    own = {
        key.replace("llama.", f"{architecture}.", 1): value for key, value in SPEC.fields.items()
    }
    own["general.architecture"] = architecture
    return spec(lambda plain: replace(plain, fields=own))


def lacking(part: str) -> Put:
    """A model without some tensor."""
    return spec(
        lambda plain: replace(plain, tensors=[t for t in plain.tensors if part not in t.name])
    )


def counts(tensors: int, fields: int) -> bytes:
    """The first bytes of a file with so many."""
    return struct.pack("<4sIQQ", b"GGUF", 3, tensors, fields)


def field(kind: FieldType, value: bytes) -> bytes:
    """A field of a file with one field."""
    return counts(0, 1) + struct.pack("<QcI", 1, b"a", kind) + value


def tensor(kind: int, *dimensions: int) -> bytes:
    """A tensor of a file with one tensor."""
    shape = struct.pack(f"<I{len(dimensions)}Q", len(dimensions), *dimensions)
    return counts(1, 0) + struct.pack("<Qc", 1, b"t") + shape + struct.pack("<IQ", kind, 0)


def with_blob(kind: str) -> Put:
    """A model with a file beside it that is not what its manifest says."""
    return lambda store, name: good(store, name, SPEC, **{kind: "x" * 100})


# -- the table --------------------------------------------------------------------------------------

PULL = "Run: ollama pull"
AGAIN = "Pull or copy the model again"
ANOTHER = "Use a GGUF made for llama.cpp"


def damaged(name: str, what: str, *pieces: bytes, data_bytes: int = 0) -> BadModel:
    """A GGUF file of these bytes."""
    return BadModel(name, 500, (what, AGAIN), content(*pieces, data_bytes=data_bytes))


def no_name(name: str, asked: str) -> BadModel:
    """What Ollama takes for no name; said in Ollama's words."""
    return BadModel(name, 400, ("invalid model name",), asked=asked)


BAD_MODELS = (
    BadModel("manifest-not-json", 500, ("it is not JSON", PULL), manifest(b"{nope")),
    BadModel("manifest-empty", 500, ("it is not JSON", PULL), manifest(b"")),
    BadModel("manifest-without-layers", 500, ("no layers", PULL), manifest(b'{"layers":[]}')),
    BadModel("manifest-without-weights", 400, ("no weights", ANOTHER), layers(text("template"))),
    BadModel("digest-with-a-path", 500, ("no sha256", PULL), layers(layer("sha256:../../x", 1))),
    BadModel("negative-size", 500, ("has no size", PULL), layers(layer(NOWHERE, -1))),
    BadModel("manifest-is-a-directory", 404, ("not found",), directory),
    BadModel("safetensors", 400, ("safetensors, not GGUF", ANOTHER), layers(text("tensor"))),
    BadModel("blob-missing", 500, ("is missing", PULL), layers(layer(NOWHERE, 100))),
    BadModel("blob-partly-there", 500, ("only partly downloaded", PULL), partly),
    BadModel("blob-shorter", 500, ("in place of", PULL), resized(-1)),
    BadModel("blob-longer", 500, ("in place of", PULL), resized(1)),
    BadModel("blob-out-of-store", 500, ("leads out of the store", "Put the file itself"), linked),
    damaged("empty-file", "begins with nothing"),
    damaged("wrong-magic", "not with 'GGUF'", b"PK\3\4", HEADER[4:]),
    damaged("version-1", "it has version 1;", HEADER[:4], struct.pack("<I", 1), HEADER[8:]),
    damaged("version-99", "it has version 99;", HEADER[:4], struct.pack("<I", 99), HEADER[8:]),
    damaged("big-endian", "in the other order", HEADER[:4], struct.pack(">I", 3), HEADER[8:]),
    damaged("cut-in-fields", "ends inside its header", HEADER[:1000]),
    damaged("cut-in-tensors", "ends inside its header", HEADER[:-20]),
    damaged("cut-in-data", "its tensors reach to", HEADER, data_bytes=1000),
    damaged("huge-tensor-count", "claims 1152921504606846976 tensors", counts(1 << 60, 0)),
    damaged("huge-field-count", "and 1152921504606846976 fields", counts(0, 1 << 60)),
    damaged("huge-key", "claims a name of", counts(0, 1), struct.pack("<Q", 1 << 62)),
    damaged("huge-text", "ends inside", field(FieldType.STRING, b"\xff" * 8)),
    damaged("huge-array", "texts", field(FieldType.ARRAY, struct.pack("<IQ", 8, 1 << 62))),
    damaged("overflowing-shape", "its tensors reach to", tensor(0, 1 << 62, 1 << 62)),
    damaged("unknown-tensor-type", "the unknown type 250", tensor(250, 32)),
    BadModel("no-layers", 500, ("block_count is 0", AGAIN), fields(llama__block_count=0)),
    BadModel("negative-layers", 500, ("block_count is -1", AGAIN), fields(llama__block_count=-1)),
    BadModel("nan-layers", 500, ("block_count is nan", AGAIN), fields(llama__block_count=math.nan)),
    BadModel(
        "negative-heads",
        500,
        ("head_count_kv is -2", AGAIN),
        fields(llama__attention__head_count_kv=-2),
    ),
    BadModel(
        "split-part-missing",
        500,
        ("has 3 parts, but there are 1", AGAIN),
        fields(split__count=3, split__no=0),
    ),
    BadModel("no-embedding", 500, ("no tensor 'token_embd.weight'", AGAIN), lacking("token_embd")),
    BadModel("of-ollama-only", 400, ("never had Llama 3.2 Vision", ANOTHER), renamed("mllama")),
    BadModel("projector-only", 400, ("a part of one", ANOTHER), renamed("clip")),
    BadModel("adapter-only", 400, ("a part of one", ANOTHER), fields(general__type="adapter")),
    BadModel(
        "unknown-architecture",
        502,
        ("unknown model architecture: 'novel'", "install a newer one"),
        renamed("novel"),
    ),
    BadModel(
        "tensor-missing",
        502,
        ("missing tensor 'blk.1.ffn_up.weight'", "Pull the model again"),
        lacking("blk.1.ffn_up"),
    ),
    BadModel("bad-adapter", 502, ("lora adapter", "take one that is"), with_blob("adapter")),
    BadModel("bad-projector", 502, ("CLIP", "pull the model again"), with_blob("projector")),
    no_name("traversal", "../../etc/passwd"),
    no_name("traversal-inside", "a/../../b"),
    no_name("traversal-in-tag", "a:../../b"),
    no_name("absolute-path", "/etc/passwd"),
    no_name("path-of-a-file", "/etc/passwd.gguf"),
    no_name("nul-in-name", "good\0"),
    no_name("over-long-name", "x" * 5000),
    no_name("percent-encoded", "%2e%2e%2f%2e%2e%2fetc%2fpasswd"),
    no_name("no-digest", "good@sha256:00"),
    BadModel("nobody-has-it", 404, ("not found",)),
)
