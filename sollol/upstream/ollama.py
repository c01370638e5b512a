"""Reads the facts of an Ollama node. None of these routes ever makes it load a model."""

from collections.abc import Mapping
from http import HTTPStatus
from typing import Any

from sollol.types import Engine, Model, Resident
from sollol.upstream.control import ControlClient
from sollol.upstream.facts import NodeFacts
from sollol.upstream.json import json_object, objects
from sollol.wire.names import model_key

ShowCache = dict[str, Mapping[str, Any]]
"""Answers of ``/api/show`` by model digest, which say all that can be said of one."""


async def read_ollama_facts(client: ControlClient, shows: ShowCache) -> NodeFacts:
    """Read version, models on disk and models in memory.

    Args:
        client: carries the address, time-outs and credentials.
        shows: kept between calls, so that each digest is asked about once.

    Raises:
        SollolError: a route did not answer, or with an error status.
        ValueError: an answer is not what Ollama sends.
    """
    version = await client.recall("/api/version", _version)
    listed = await client.recall("/api/tags", _listed)
    resident = await client.recall("/api/ps", _loaded)
    models = listed
    if any(map(_needs_show, listed)):
        models = tuple([await _with_show(client, model, shows) for model in listed])
    return NodeFacts(Engine.OLLAMA, version, models, resident)


def _version(answer: dict[str, Any]) -> str:
    return str(answer.get("version", ""))


def _listed(answer: dict[str, Any]) -> tuple[Model, ...]:
    return tuple(_model(entry, {}) for entry in objects(answer.get("models"), "name"))


def _loaded(answer: dict[str, Any]) -> tuple[Resident, ...]:
    return tuple(_resident(entry) for entry in objects(answer.get("models"), "name"))


async def _with_show(client: ControlClient, model: Model, shows: ShowCache) -> Model:
    """Return a model with what the list did not tell, asking for it once for each digest."""
    if not _needs_show(model):
        return model
    if model.digest not in shows:
        show = await _show(client, model.name)
        if not show:
            return model
        shows[model.digest] = show
    return _model(model.entry, shows[model.digest])


async def _show(client: ControlClient, name: str) -> dict[str, Any]:
    """Return a model's facts; none when it was deleted since it was listed."""
    answer = await client.post("/api/show", {"model": name})
    if answer.status != HTTPStatus.OK:
        return {}
    return json_object("/api/show", answer.body)


def _needs_show(model: Model) -> bool:
    """Whether the list does not tell a model's capabilities, as with Ollama before 0.2x."""
    return bool(model.digest) and "capabilities" not in model.entry


def _model(entry: Mapping[str, Any], show: Mapping[str, Any]) -> Model:
    details = _mapping(entry.get("details"))
    capabilities = entry.get("capabilities") or show.get("capabilities") or []
    if not isinstance(capabilities, list):
        capabilities = []
    return Model(
        key=model_key(entry["name"]),
        name=entry["name"],
        digest=_text(entry.get("digest")),
        size_bytes=_count(entry.get("size")),
        modified_at=_text(entry.get("modified_at")),
        context_length=_count(details.get("context_length")) or _shown_context_length(show),
        capabilities=frozenset(name for name in capabilities if isinstance(name, str)),
        entry=entry,
    )


def _shown_context_length(show: Mapping[str, Any]) -> int | None:
    info = _mapping(show.get("model_info"))
    return _count(info.get(f"{info.get('general.architecture')}.context_length")) or None


def _resident(entry: dict[str, Any]) -> Resident:
    return Resident(
        key=model_key(entry["name"]),
        name=entry["name"],
        digest=_text(entry.get("digest")),
        size_bytes=_count(entry.get("size")),
        vram_bytes=_count(entry.get("size_vram")),
        context_length=_count(entry.get("context_length")) or None,
        expires_at=_text(entry.get("expires_at")),
        entry=entry,
    )


def _text(value: object) -> str:
    """Return a text; what a node says instead of one is taken for none."""
    return value if isinstance(value, str) else ""


def _count(value: object) -> int:
    return value if isinstance(value, int) and value > 0 else 0


def _mapping(value: object) -> Mapping[str, Any]:
    return value if isinstance(value, Mapping) else {}
