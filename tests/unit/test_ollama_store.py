"""Models of an Ollama store: every name that Ollama takes, and every way a store can be broken."""

import hashlib
import json
import os
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest

from sollol.bench.gguf_files import GgufSpec, write_gguf
from sollol.bench.model_kinds import Size, dense
from sollol.errors import (
    InvalidRequest,
    ModelBroken,
    ModelNotFound,
    SollolError,
    UnsupportedByEngine,
)
from sollol.sharding.manifest import MAX_LAYERS, ManifestError, parse_manifest
from sollol.sharding.models import read_model
from sollol.sharding.ollama_store import MAX_MANIFEST_BYTES, default_stores, find_model, is_current

IMAGE = "application/vnd.ollama.image."
GGUF = b"GGUF weights"


@dataclass
class Store:
    """Makes a store as Ollama lays it out."""

    root: Path
    layers: dict[str, list[dict[str, Any]]] = field(default_factory=dict)

    def blob(self, content: bytes, kind: str) -> dict[str, Any]:
        sha256 = hashlib.sha256(content).hexdigest()
        path = self.path(sha256)
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(content)
        return {"mediaType": IMAGE + kind, "digest": f"sha256:{sha256}", "size": len(content)}

    def path(self, sha256: str) -> Path:
        return self.root / "blobs" / f"sha256-{sha256}"

    def add(self, place: str, *blobs: tuple[str, bytes]) -> Path:
        layers = [self.blob(content, kind) for kind, content in blobs or [("model", GGUF)]]
        config = self.blob(b'{"model_format":"gguf"}', "config")
        return self.manifest(place, {"schemaVersion": 2, "config": config, "layers": layers})

    def manifest(self, place: str, body: object) -> Path:
        path = self.root / "manifests" / place
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(json.dumps(body))
        return path

    def find(self, name: str) -> Any:
        return find_model(name, [self.root])


@pytest.fixture
def store(tmp_path: Path) -> Store:
    return Store(tmp_path / "models")


LIBRARY = "registry.ollama.ai/library"
WEIGHTS_SHA = hashlib.sha256(GGUF).hexdigest()


@pytest.mark.parametrize(
    ("place", "names"),
    [
        (f"{LIBRARY}/llama3/latest", ["llama3", "LLAMA3:Latest", "library/llama3", "llama3:local",
                                      "registry.ollama.ai/library/llama3:latest"]),
        (f"{LIBRARY}/qwen3/0.6b-q8_0", ["qwen3:0.6b-q8_0", "https://registry.ollama.ai/library/qwen3:0.6b-q8_0"]),
        ("registry.ollama.ai/someone/own/v2", ["someone/own:v2"]),
        ("hf.co/bartowski/Llama-3.2-1B-GGUF/Q4_K_M", ["hf.co/bartowski/Llama-3.2-1B-GGUF:Q4_K_M",
                                                     "hf.co/bartowski/llama-3.2-1b-gguf:q4_k_m"]),
        ("localhost:5000/team/model/latest", ["localhost:5000/team/model"]),
    ],
)  # fmt: skip
def test_every_name_leads_to_its_files(store: Store, place: str, names: list[str]) -> None:
    manifest = store.add(place)
    for name in names:
        found = store.find(name)
        assert found.manifest == manifest
        assert found.parts == (store.path(WEIGHTS_SHA),)


def test_every_kind_of_layer_is_found(store: Store) -> None:
    store.add(
        f"{LIBRARY}/m/latest",
        *[("model", b"one"), ("model", b"two"), ("projector", b"p"), ("adapter", b"a")],
        *[("template", b"{{ .Prompt }}"), ("system", b"Be brief."), ("params", b'{"top_k":1}')],
        *[("license", b"MIT"), ("license", b"more")],
    )
    found = store.find("m")
    assert [path.read_bytes() for path in found.parts] == [b"one", b"two"]
    assert [path.read_bytes() for path in found.projectors] == [b"p"]
    assert [path.read_bytes() for path in found.adapters] == [b"a"]
    assert [path.read_bytes() for path in found.licenses] == [b"MIT", b"more"]
    assert (found.template, found.system) == ("{{ .Prompt }}", "Be brief.")
    assert (found.parameters, found.config) == ('{"top_k":1}', '{"model_format":"gguf"}')
    assert found.kinds[:4] == ("model", "model", "projector", "adapter")


def test_a_model_without_texts_has_none(store: Store) -> None:
    layer = store.blob(GGUF, "model")
    store.manifest(f"{LIBRARY}/m/latest", {"layers": [layer, store.blob(b"{{ . }}", "prompt")]})
    found = store.find("m")
    assert (found.system, found.parameters, found.config) == (None, None, None)
    assert found.template == "{{ . }}"  # its old name


def test_digests_name_a_manifest_or_weights(store: Store) -> None:
    store.add(f"{LIBRARY}/other/latest", ("model", b"other"))
    manifest = store.add(f"{LIBRARY}/m/latest")
    digest = hashlib.sha256(manifest.read_bytes()).hexdigest()
    assert store.find(f"sha256:{digest}").manifest == manifest
    assert store.find(f"m@sha256:{digest}").manifest == manifest
    assert store.find(f"renamed@sha256:{digest}").manifest == manifest
    assert store.find(f"sha256:{WEIGHTS_SHA}").parts == (store.path(WEIGHTS_SHA),)
    (store.root / "manifests/registry.ollama.ai/library/m/a-directory").mkdir()
    with pytest.raises(ModelNotFound):
        store.find(f"m@sha256:{'0' * 64}")


def test_the_first_store_with_the_name_counts(tmp_path: Path) -> None:
    stores = [Store(tmp_path / name) for name in ("none", "one", "two")]
    manifest = stores[1].add(f"{LIBRARY}/m/latest")
    stores[2].add(f"{LIBRARY}/m/latest")
    assert find_model("m", [store.root for store in stores]).manifest == manifest


def test_very_old_blobs_are_found(store: Store) -> None:
    store.add(f"{LIBRARY}/m/latest")
    path = store.path(WEIGHTS_SHA)
    old = path.rename(path.with_name(f"sha256:{WEIGHTS_SHA}"))
    assert store.find("m").parts == (old,)


def test_a_whole_store_may_be_a_link(store: Store, tmp_path: Path) -> None:
    store.add(f"{LIBRARY}/m/latest")
    (tmp_path / "link").symlink_to(store.root)
    assert find_model("m", [tmp_path / "link"]).parts


@pytest.mark.parametrize(
    "name",
    ["", "../../etc/passwd", "a/../b", "..", "a/b/c/d/../e", "m:../x", "m\x00", "a b", "/etc/passwd",
     "x" * 400, "m@sha256:12", "m@latest", "gpt-oss:120b-cloud", "m:cloud", "m:local:cloud"],
)  # fmt: skip
def test_what_is_no_name_is_refused(store: Store, name: str) -> None:
    store.add(f"{LIBRARY}/m/latest")
    with pytest.raises(InvalidRequest):
        store.find(name)


def test_a_missing_model_says_where_it_was_looked_for(store: Store) -> None:
    with pytest.raises(ModelNotFound, match=r"looked in .*models.*OLLAMA_MODELS"):
        store.find("nope")


def broken(store: Store, name: str = "m") -> str:
    with pytest.raises(ModelBroken) as caught:
        store.find(name)
    return str(caught.value)


def test_a_missing_blob_says_what_to_do(store: Store) -> None:
    store.add(f"{LIBRARY}/m/latest")
    path = store.path(WEIGHTS_SHA)
    path.unlink()
    assert f"(model, {len(GGUF)} bytes) is missing. Run: ollama pull m:latest" in broken(store)
    path.with_name(f"{path.name}-partial").touch()
    assert "only partly downloaded" in broken(store)


def test_a_truncated_blob_is_noticed(store: Store) -> None:
    store.add(f"{LIBRARY}/m/latest")
    path = store.path(WEIGHTS_SHA)
    path.write_bytes(GGUF[:-1])
    assert f"has {len(GGUF) - 1} bytes in place of {len(GGUF)}" in broken(store)


def test_links_out_of_the_store_are_refused(store: Store, tmp_path: Path) -> None:
    manifest = store.add(f"{LIBRARY}/m/latest")
    outside = tmp_path / "outside"
    outside.write_bytes(GGUF)
    path = store.path(WEIGHTS_SHA)
    path.unlink()
    path.symlink_to(outside)
    assert f"leads out of the store, to {outside}" in broken(store)
    outside.write_bytes(manifest.read_bytes())
    manifest.unlink()
    manifest.symlink_to(outside)
    assert "leads out of the store" in broken(store)
    assert "leads out of the store" in broken(store, f"sha256:{'0' * 64}")


def test_what_is_no_file_is_not_opened(store: Store) -> None:
    manifest = store.add(f"{LIBRARY}/m/latest")
    path = store.path(WEIGHTS_SHA)
    path.unlink()
    os.mkfifo(path)
    assert "is missing" in broken(store)
    manifest.unlink()
    os.mkfifo(manifest)
    with pytest.raises(ModelNotFound):
        store.find("m")


def test_a_huge_manifest_is_not_read(store: Store) -> None:
    path = store.manifest(f"{LIBRARY}/m/latest", {})
    os.truncate(path, MAX_MANIFEST_BYTES + 1)
    assert f"over {MAX_MANIFEST_BYTES} bytes" in broken(store)


def test_what_cannot_be_read_says_so(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    manifest = store.add(f"{LIBRARY}/m/latest")
    opened = Path.open

    def refusing(error: type[OSError]) -> Any:
        def opens(path: Path, *arguments: Any) -> Any:
            if path == manifest:
                raise error(5, "refused", str(path))
            return opened(path, *arguments)

        return opens

    monkeypatch.setattr(Path, "open", refusing(PermissionError))
    assert "may not be read by this user" in broken(store)
    monkeypatch.setattr(Path, "open", refusing(OSError))
    assert "cannot be read: refused" in broken(store)


DIGEST = f"sha256:{'a' * 64}"


@pytest.mark.parametrize(
    ("body", "reason"),
    [
        (b"", "not JSON"),
        (b"\xff\xfe", "not JSON"),
        (b"[" * 100_000, "not JSON"),
        (b"[]", "lists no layers"),
        (b'{"layers": []}', "lists no layers"),
        (b'{"layers": {}}', "lists no layers"),
        (b'{"layers": [1]}', "no sha256 digest"),
        (b'{"layers": [{"digest": 5}]}', "no sha256 digest"),
        (b'{"layers": [{"digest": "sha256:../../../etc/passwd"}]}', "no sha256 digest"),
        (b'{"layers": [{"digest": "%s"}]}' % DIGEST.encode(), "has no size"),
        (b'{"layers": [{"digest": "%s", "size": -1}]}' % DIGEST.encode(), "has no size"),
        (json.dumps({"layers": [1] * (MAX_LAYERS + 1)}).encode(), "4097 layers"),
    ],
)
def test_a_broken_manifest_is_refused_with_the_reason(
    store: Store, body: bytes, reason: str
) -> None:
    with pytest.raises(ManifestError, match=reason):
        parse_manifest(body)
    store.manifest(f"{LIBRARY}/m/latest", {}).write_bytes(body)
    assert reason in broken(store)


def test_a_layer_of_an_unknown_kind_is_no_harm() -> None:
    body = {"layers": [{"digest": DIGEST, "size": 1, "mediaType": 7}]}
    assert parse_manifest(json.dumps(body).encode()).layers[0].kind == ""


def test_default_stores(tmp_path: Path) -> None:
    own = tmp_path / ".ollama" / "models"
    service = Path("/usr/share/ollama/.ollama/models")
    assert default_stores("linux", tmp_path) == (own, service)
    assert default_stores("darwin", tmp_path) == (own,)
    assert default_stores("win32", tmp_path) == (own,)
    assert default_stores("linux", tmp_path, tmp_path / "given") == (tmp_path / "given",)


def test_a_model_is_read_by_name_and_by_path(store: Store, tmp_path: Path) -> None:
    path = write_gguf(tmp_path / "small.gguf", dense(Size(layers=2)))
    store.add(f"{LIBRARY}/small/latest", ("model", path.read_bytes()), ("projector", b"12345"))
    by_name, by_path = read_model("small", [store.root]), read_model(str(path), [])
    assert by_name.facts.units == by_path.facts.units
    assert (by_name.facts.side_bytes, by_path.facts.side_bytes) == (5, 0)
    assert (by_name.stored.name, by_path.stored.name) == ("small:latest", "small")


def test_a_tag_may_end_as_a_file_does(store: Store, tmp_path: Path) -> None:
    path = write_gguf(tmp_path / "small.gguf", dense(Size(layers=2)))
    store.add("hf.co/a/b/c.gguf", ("model", path.read_bytes()))
    assert read_model("hf.co/a/b:c.gguf", [store.root]).facts.layer_count == 2


def test_the_parts_of_a_split_file_are_found_by_any_of_them(tmp_path: Path) -> None:
    spec = dense(Size(layers=2))
    for number, part in enumerate((spec.tensors[:5], spec.tensors[5:])):
        own = {**(spec.fields if number == 0 else {}), "split.no": number, "split.count": 2}
        texts = spec.texts if number == 0 else {}
        write_gguf(tmp_path / f"big[1]-0000{number + 1}-of-00002.gguf", GgufSpec(own, part, texts))
    (tmp_path / "big1-00001-of-00002.gguf").touch()
    for number in (1, 2):
        found = read_model(str(tmp_path / f"big[1]-0000{number}-of-00002.gguf"), [])
        assert len(found.stored.parts) == 2
        assert found.facts.layer_count == 2


@pytest.mark.parametrize("name", ["none.gguf", "a-00001-of-00002.gguf", "a-1-of-00002.gguf"])
def test_a_missing_file_is_told(tmp_path: Path, name: str) -> None:
    with pytest.raises(ModelBroken, match="there is no such file"):
        read_model(str(tmp_path / name), [])


def test_a_model_of_safetensors_is_refused(store: Store) -> None:
    store.add(f"{LIBRARY}/m/latest", ("tensor", b"x"), ("json", b"{}"))
    error: type[SollolError] = UnsupportedByEngine
    with pytest.raises(error, match="safetensors"):
        read_model("m", [store.root])


def test_a_model_is_current_until_its_manifest_is_another_one(tmp_path: Path) -> None:
    store = Store(tmp_path)
    place = "registry.ollama.ai/library/m/latest"
    path = store.add(place)
    found = store.find("m")
    assert found.digest == hashlib.sha256(path.read_bytes()).hexdigest()
    assert is_current(found)
    whole = path.read_bytes()
    path.write_bytes(whole[:20])  # it is being written
    assert is_current(found)
    path.unlink()
    assert not is_current(found)
    path.mkdir()  # not to be read, for whatever reason
    assert is_current(found)
    path.rmdir()
    store.add(place, ("model", b"GGUF other weights"))
    assert not is_current(found)
    assert is_current(
        store.find(f"sha256:{hashlib.sha256(GGUF).hexdigest()}")
    )  # named by its weights
