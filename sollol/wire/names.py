"""Ollama model names (and versions): their parts, the key that compares them, and the ``:cloud`` suffix rules.

A full name is ``host/namespace/model:tag``; the missing parts have defaults, and no part tells
upper from lower case. A suffix outside the name proper says where the model must run: ``:local``
here, ``:cloud`` (or ``-cloud`` after a tag) at ollama.com.

Source: Ollama, types/model/name.go and internal/modelref/modelref.go.
"""

import re
from dataclasses import dataclass
from enum import StrEnum
from functools import lru_cache

from sollol.wire.gotext import SPACE, quote

_HOST, _NAMESPACE, _TAG = "registry.ollama.ai", "library", "latest"
_MISSING = "!"  # stands for a part that a separator promises; no part may hold it

_is_host = re.compile(r"[A-Za-z0-9_][A-Za-z0-9_.:-]{0,349}", re.ASCII).fullmatch
_is_namespace = re.compile(r"[A-Za-z0-9_][A-Za-z0-9_-]{0,79}", re.ASCII).fullmatch
_is_part = re.compile(r"[A-Za-z0-9_][A-Za-z0-9_.-]{0,79}", re.ASCII).fullmatch

_LONGEST = 1024
"""Characters of the longest text worth remembering; every valid name is shorter."""


class Source(StrEnum):
    """Where a name says its model must run."""

    ANY = "any"
    LOCAL = "local"
    CLOUD = "cloud"


@dataclass(frozen=True, slots=True)
class ModelName:
    """A full model name, in the case its caller wrote it."""

    host: str
    namespace: str
    model: str
    tag: str

    @property
    def full(self) -> str:
        """All parts of it."""
        return f"{self.host}/{self.namespace}/{self.model}:{self.tag}"

    @property
    def key(self) -> str:
        """The text that equals another's exactly if Ollama takes both for the same model."""
        return self.full.lower()

    @property
    def display(self) -> str:
        """The shortest text that names the model, the tag always included."""
        short = f"{self.model}:{self.tag}"
        if self.host.lower() != _HOST:
            return f"{self.host}/{self.namespace}/{short}"
        if self.namespace.lower() != _NAMESPACE:
            return f"{self.namespace}/{short}"
        return short


@dataclass(frozen=True, slots=True)
class ModelRef:
    """A name without its suffix, and what the suffix said."""

    base: str
    source: Source


def parse_name(text: str) -> ModelName:
    """Return the parts of a name, defaults filled in; suffixes count as part of the tag.

    Raises:
        ValueError: a part is missing, too long or has a character it may not have.
    """
    rest, tag = text, ""
    if text.rfind(":") > text.rfind("/"):
        rest, tag = _cut_last(text, ":")
    rest, model = _cut_last(rest, "/")
    rest, namespace = _cut_last(rest, "/")
    host = rest.partition("://")[2] if "://" in rest else rest
    name = ModelName(host or _HOST, namespace or _NAMESPACE, model, tag or _TAG)
    if not (
        _is_host(name.host)
        and _is_namespace(name.namespace)
        and _is_part(name.model)
        and _is_part(name.tag)
    ):
        raise ValueError("invalid model name")
    return name


def parse_ref(text: str) -> ModelRef:
    """Return a caller's text split into a name and where its suffix says it runs.

    Raises:
        ValueError: two suffixes; the text of the error is Ollama's.
    """
    text = text.strip(SPACE)
    ref = _without_suffix(text)
    if ref.source != Source.ANY and _without_suffix(ref.base).source != Source.ANY:
        raise ValueError(f"use either :local or :cloud, not both: {quote(text)}")
    return ref


def is_valid_name(text: str) -> bool:
    """Return whether Ollama takes the text for a model name."""
    try:
        parse_name(parse_ref(text).base)
    except ValueError:
        return False
    return True


def model_key(text: str) -> str:
    """Return the canonical form of a model name, for comparing.

    ``llama3`` gives ``registry.ollama.ai/library/llama3:latest``, and so does ``LLaMA3:local``.
    A cloud model's key is that of the name Ollama lists it by: ``gpt-oss:20b:cloud`` and
    ``gpt-oss:20b-cloud`` have one key. A text that is no Ollama name (``/models/x.gguf``,
    ``org/name@rev``) is its own key.
    """
    return _model_key(text) if len(text) <= _LONGEST else text


def display_name(text: str) -> str:
    """Return a name as ``/api/show`` writes it in errors: ``nope`` gives ``nope:latest``.

    A text that is no Ollama name is returned as it is.
    """
    try:
        return parse_name(parse_ref(text).base).display
    except ValueError:
        return text


def full_name(text: str) -> str:
    """Return a name with all its parts, as Ollama writes it where it refuses tools.

    A text that is no Ollama name is returned as it is.
    """
    try:
        return parse_name(parse_ref(text).base).full
    except ValueError:
        return text


def shown_key(key: str) -> str:
    """Return the shortest name with a key that :func:`model_key` returned; a cloud model keeps its suffix."""
    try:
        return parse_name(key).display
    except ValueError:
        return key


def version_numbers(text: str) -> tuple[int, ...]:
    """Return a server's version for comparing: ``v0.33.0-rc2`` gives ``(0, 33, 0)``.

    A version that is no number gives an empty tuple, which is less than any other.
    """
    parts = text.lstrip("v").partition("-")[0].split(".")
    return tuple(int(part) for part in parts if part.isascii() and part.isdigit())


@lru_cache(maxsize=4096)
def _model_key(text: str) -> str:
    try:
        ref = parse_ref(text)
        listed = _cloud_name(ref.base) if ref.source == Source.CLOUD else ref.base
        return parse_name(listed).key
    except ValueError:
        return text


def _cloud_name(base: str) -> str:
    """Return the name under which Ollama lists a cloud model that was pulled."""
    has_tag = base.rfind(":") > base.rfind("/")
    return f"{base}-cloud" if has_tag else f"{base}:cloud"


def _without_suffix(text: str) -> ModelRef:
    base, colon, suffix = text.rpartition(":")
    suffix = suffix.strip(SPACE)
    if not colon:
        return ModelRef(text, Source.ANY)
    if suffix.lower() == "cloud":
        return ModelRef(base, Source.CLOUD)
    if suffix.lower() == "local":
        return ModelRef(base, Source.LOCAL)
    if suffix.lower().endswith("-cloud") and "/" not in suffix:
        return ModelRef(f"{base}:{suffix[: -len('-cloud')]}", Source.CLOUD)
    return ModelRef(text, Source.ANY)


def _cut_last(text: str, separator: str) -> tuple[str, str]:
    """Return what is before and after the last separator; without one, nothing is before it."""
    before, found, after = text.rpartition(separator)
    return (before or _MISSING, after or _MISSING) if found else ("", after)
