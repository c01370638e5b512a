"""An Ollama manifest: which blobs make up a model. Pure.

Source: Ollama, manifest/manifest.go and server/images.go; config blob: server/model.go.
"""

import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import msgspec

IMAGE = "application/vnd.ollama.image."
_DIGEST = re.compile(r"sha256[:-]([0-9a-fA-F]{64})", re.ASCII).fullmatch
MAX_LAYERS = 4096


class ManifestError(Exception):
    """What is wrong with a manifest, as the middle of a sentence."""


@dataclass(frozen=True, slots=True)
class Layer:
    """A blob of a model: what it is (``model``, ``template``...), its hash, its size."""

    kind: str
    sha256: str
    size_bytes: int

    @property
    def file_name(self) -> str:
        """The name of its file in the store's ``blobs``."""
        return f"sha256-{self.sha256}"


@dataclass(frozen=True, slots=True)
class Manifest:
    """The blobs of a model in their order; ``config`` describes it."""

    config: Layer | None
    layers: tuple[Layer, ...]

    def of_kind(self, kind: str) -> tuple[Layer, ...]:
        """Return the layers of one kind, in order."""
        return tuple(layer for layer in self.layers if layer.kind == kind)


def parse_manifest(text: bytes) -> Manifest:
    """Return what a manifest says.

    Raises:
        ManifestError: it is no JSON, or lacks what a manifest has.
    """
    try:
        body = msgspec.json.decode(text)
    except (msgspec.DecodeError, RecursionError):
        raise ManifestError("it is not JSON") from None
    layers = body.get("layers") if isinstance(body, Mapping) else None
    if not isinstance(layers, list) or not layers:
        raise ManifestError("it lists no layers")
    if len(layers) > MAX_LAYERS:
        raise ManifestError(f"it lists {len(layers)} layers")
    config = body.get("config")
    return Manifest(
        _layer(config) if isinstance(config, Mapping) and config.get("digest") else None,
        tuple(_layer(layer) for layer in layers),
    )


def digest_hex(text: str) -> str | None:
    """Return the 64 digits of ``sha256:...`` or ``sha256-...``; None for any other text."""
    match = _DIGEST(text)
    return match[1].lower() if match else None


def _layer(value: object) -> Layer:
    layer: Mapping[str, Any] = value if isinstance(value, Mapping) else {}
    digest, size, media = (layer.get(key) for key in ("digest", "size", "mediaType"))
    sha256 = digest_hex(digest) if isinstance(digest, str) else None
    if sha256 is None:
        raise ManifestError("a layer has no sha256 digest")
    if type(size) is not int or size < 0:
        raise ManifestError(f"the layer {sha256[:12]} has no size")
    name = media if isinstance(media, str) else ""
    kind = name.removeprefix(IMAGE)
    return Layer("template" if kind == "prompt" else kind, sha256, size)
