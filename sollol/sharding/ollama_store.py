"""Finds the files of a model in the store that an Ollama on this machine fills.

The store is only read: Ollama deletes what it does not know there. Nothing outside of it is opened,
whatever a name, a manifest or a symbolic link says.
"""

import hashlib
from collections.abc import Iterable, Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from sollol.errors import InvalidRequest, ModelBroken, ModelNotFound, SollolError
from sollol.sharding.manifest import Layer, Manifest, ManifestError, digest_hex, parse_manifest
from sollol.wire.names import ModelName, Source, parse_name, parse_ref

MAX_MANIFEST_BYTES = 1 << 22
MAX_TEXT_BYTES = 1 << 22
"""Of a template, system prompt, parameters or description."""
MANIFESTS, BLOBS = "manifests", "blobs"
_SERVICE_HOME = Path("/usr/share/ollama")
"""The home of the user that Ollama's installer for Linux makes."""


@dataclass(frozen=True, slots=True)
class StoredModel:
    """The files of a model, and its texts.

    ``parts``: GGUF files of the weights, several if it is split. ``digest``: sha256 of the manifest, by which
    Ollama tells models apart; empty without one.
    """

    name: str
    manifest: Path | None
    parts: tuple[Path, ...]
    projectors: tuple[Path, ...] = ()
    adapters: tuple[Path, ...] = ()
    licenses: tuple[Path, ...] = ()
    template: str | None = None
    system: str | None = None
    messages: str | None = None
    parameters: str | None = None
    config: str | None = None
    kinds: tuple[str, ...] = ()
    digest: str = ""


def default_stores(platform: str, home: Path, given: Path | None = None) -> tuple[Path, ...]:
    """Return the directories where a store may be, the most likely first.

    Args:
        platform: as ``sys.platform``.
        home: the home directory of this user.
        given: ``OLLAMA_MODELS`` or the setting; then it is the only one.
    """
    if given is not None:
        return (given,)
    own = home / ".ollama" / "models"
    if platform == "linux":
        return own, _SERVICE_HOME / ".ollama" / "models"
    return (own,)


def find_model(text: str, stores: Sequence[Path]) -> StoredModel:
    """Return the files of a model; the first store that has the name counts. Blocks.

    Args:
        text: any name that Ollama takes, with or without ``@sha256:...`` of its manifest, or the
            digest of a manifest or of the weights alone.

    Raises:
        InvalidRequest: it is no name, or names a model that runs in the cloud.
        ModelNotFound: no store has it.
        ModelBroken: its manifest or a blob is missing, damaged or outside the store.
    """
    name, digest = _parsed(text)
    unreadable = []
    for directory in stores:
        try:
            store = _Store(directory)
            found = store.by_name(name, digest) or store.by_digest(digest or digest_hex(text))
        except PermissionError as error:
            unreadable.append(str(error.filename))
            continue
        except OSError as error:
            raise ModelBroken(f"{error.filename} cannot be read: {error.strerror}.") from error
        if found is not None:
            return found
    raise _missing(text, stores, unreadable)


def list_models(stores: Iterable[Path]) -> Iterator[StoredModel]:
    """Yield every model by the name that it has there; what is broken or unreadable is left out. Blocks.

    A name that two stores have is yielded for both, the first one first.
    """
    for directory in stores:
        store = _Store(directory)
        with suppress(OSError):
            yield from store.all()


def is_current(stored: StoredModel) -> bool:
    """Whether the store has these files still under the model's name. Blocks.

    Ollama writes manifests in place, so one that is not whole is about to be, and says nothing.
    """
    if stored.manifest is None:
        return True
    try:
        text = stored.manifest.read_bytes()
        if hashlib.sha256(text).hexdigest() != stored.digest:
            parse_manifest(text)
            return False
    except (FileNotFoundError, NotADirectoryError):
        return False
    except (OSError, ManifestError):
        return True
    return True


def _missing(text: str, stores: Iterable[Path], unreadable: Sequence[str]) -> SollolError:
    if unreadable:
        return ModelBroken(
            f"{unreadable[0]} may not be read by this user, so the model {text!r} cannot be "
            "looked for there. Run SOLLOL as a user who may (of the group ollama, for example)."
        )
    places = ", ".join(map(str, stores))
    return ModelNotFound(
        f"The model {text!r} is not in an Ollama store on this machine (looked in {places}). Pull "
        "it here, or say where the store is with sharding.store or OLLAMA_MODELS."
    )


def _parsed(text: str) -> tuple[ModelName, str | None]:
    """Return the parts of a name, and the digest after ``@``."""
    base, at, digest = text.partition("@")
    sha256 = digest_hex(digest) if at else None
    if at and sha256 is None:
        raise InvalidRequest(f"{digest!r} is no digest: it must be sha256: and 64 digits.")
    try:
        ref = parse_ref(base)
        if ref.source is Source.CLOUD:
            raise InvalidRequest(f"{text!r} runs at ollama.com; it has no file to split.")
        return parse_name(ref.base), sha256
    except ValueError as error:
        raise InvalidRequest(f"{text!r} is no name of a model: {error}.") from None


class _Store:
    """One directory with ``manifests`` and ``blobs``."""

    def __init__(self, directory: Path) -> None:
        self._root = directory.resolve()

    def by_name(self, name: ModelName, digest: str | None) -> StoredModel | None:
        path = self._manifest_path(name)
        if path is None:
            return None
        text = self._bytes(path, MAX_MANIFEST_BYTES)
        if digest is not None and hashlib.sha256(text).hexdigest() != digest:
            return None
        return self._model(name.display, path, text)

    def by_digest(self, digest: str | None) -> StoredModel | None:
        """Return the model whose manifest, as ``/api/tags`` tells, or whose weights have a hash."""
        if digest is None:
            return None
        for path in self._manifest_paths():
            text = self._bytes(path, MAX_MANIFEST_BYTES)
            if hashlib.sha256(text).hexdigest() == digest:
                return self._model(f"sha256:{digest}", path, text)
        path = self._root / BLOBS / f"sha256-{digest}"
        if not path.is_file():
            return None
        layer = Layer("model", digest, path.stat().st_size)
        return StoredModel(f"sha256:{digest}", None, (self._blob(layer),), kinds=("model",))

    def all(self) -> Iterator[StoredModel]:
        """Yield the models that are there as a whole."""
        for path in self._manifest_paths():
            with suppress(OSError, SollolError, ValueError):
                name = parse_name("/".join(path.parts[-4:-1]) + f":{path.name}")
                yield self._model(name.display, path, self._bytes(path, MAX_MANIFEST_BYTES))

    def _manifest_path(self, name: ModelName) -> Path | None:
        """Return the manifest's path; names keep their case but are compared without it."""
        path = self._root / MANIFESTS
        for part in (name.host, name.namespace, name.model, name.tag):
            exact = path / part
            same = (other for other in _entries(path) if other.name.lower() == part.lower())
            path = exact if exact.exists() else next(same, exact)
        return self._inside(path) if path.is_file() else None

    def _manifest_paths(self) -> Iterator[Path]:
        for path in sorted((self._root / MANIFESTS).glob("*/*/*/*")):
            if path.is_file():
                yield self._inside(path)

    def _model(self, name: str, path: Path, text: bytes) -> StoredModel:
        try:
            manifest = parse_manifest(text)
        except ManifestError as error:
            raise ModelBroken(
                f"The manifest {path} is damaged: {error}. Run: ollama pull {name}"
            ) from None
        return StoredModel(
            name,
            path,
            parts=self._blobs(manifest, "model", name),
            projectors=self._blobs(manifest, "projector", name),
            adapters=self._blobs(manifest, "adapter", name),
            licenses=self._blobs(manifest, "license", name),
            template=self._text(manifest, "template", name),
            system=self._text(manifest, "system", name),
            messages=self._text(manifest, "messages", name),
            parameters=self._text(manifest, "params", name),
            config=self._layer_text(manifest.config, name) if manifest.config else None,
            kinds=tuple(layer.kind for layer in manifest.layers),
            digest=hashlib.sha256(text).hexdigest(),
        )

    def _blobs(self, manifest: Manifest, kind: str, name: str) -> tuple[Path, ...]:
        return tuple(self._blob(layer, name) for layer in manifest.of_kind(kind))

    def _text(self, manifest: Manifest, kind: str, name: str) -> str | None:
        layers = manifest.of_kind(kind)
        return self._layer_text(layers[-1], name) if layers else None

    def _layer_text(self, layer: Layer, name: str) -> str:
        return self._bytes(self._blob(layer, name), MAX_TEXT_BYTES).decode(errors="replace")

    def _blob(self, layer: Layer, name: str = "") -> Path:
        """Return the path of a blob that is there as a whole."""
        again = f"Run: ollama pull {name}" if name else "Pull the model again."
        path = self._root / BLOBS / layer.file_name
        old_path = path.with_name(layer.file_name.replace("-", ":"))  # as very old stores have it
        path = old_path if old_path.is_file() else path
        if not path.is_file():
            raise ModelBroken(self._absence(path, layer, again))
        size = self._inside(path).stat().st_size
        if size != layer.size_bytes:
            raise ModelBroken(
                f"The blob {path} has {size} bytes in place of {layer.size_bytes}. {again}"
            )
        return path

    def _absence(self, path: Path, layer: Layer, again: str) -> str:
        if any(path.parent.glob(f"{path.name}-partial*")):
            return f"The blob {path} is only partly downloaded. {again}"
        what = layer.kind.rpartition("/")[2] or "unknown"
        return f"The blob {path} ({what}, {layer.size_bytes} bytes) is missing. {again}"

    def _inside(self, path: Path) -> Path:
        if not path.resolve().is_relative_to(self._root):
            raise ModelBroken(
                f"{path} leads out of the store, to {path.resolve()}. Put the file itself there, "
                "or make the whole store a link."
            )
        return path

    def _bytes(self, path: Path, max_bytes: int) -> bytes:
        with path.open("rb") as file:
            text = file.read(max_bytes + 1)
        if len(text) > max_bytes:
            raise ModelBroken(f"{path} has over {max_bytes} bytes. Pull the model again.")
        return text


def _entries(directory: Path) -> list[Path]:
    if not directory.is_dir():
        return []
    return sorted(directory.iterdir())
