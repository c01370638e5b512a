"""Reads the facts of an Ollama node. None of these routes ever makes it load a model."""

from collections.abc import Mapping
from typing import Any

import httpx

from sollol.types import Engine, Model, Resident
from sollol.upstream.facts import NodeFacts
from sollol.upstream.json import get_object, json_object, objects
from sollol.wire.names import model_key

ShowCache = dict[str, Mapping[str, Any]]
"""Answers of ``/api/show`` by model digest, which say all that can be said of one."""


async def read_ollama_facts(client: httpx.AsyncClient, url: str, shows: ShowCache) -> NodeFacts:
    """Read version, models on disk and models in memory.

    Args:
        client: carries time-outs and credentials.
        url: the node's base URL without a trailing slash.
        shows: kept between calls, so that each digest is asked about once.

    Raises:
        httpx.HTTPError: a route did not answer, or with an error status.
        ValueError: an answer is not what Ollama sends.
    """
    version = await get_object(client, f"{url}/api/version")
    tags = await get_object(client, f"{url}/api/tags")
    loaded = await get_object(client, f"{url}/api/ps")
    models = []
    for entry in objects(tags.get("models"), "name"):
        if _needs_show(entry) and entry["digest"] not in shows:
            show = await _show(client, url, entry["name"])
            if show:
                shows[entry["digest"]] = show
        models.append(_model(entry, shows.get(entry.get("digest", ""), {})))
    return NodeFacts(
        engine=Engine.OLLAMA,
        version=str(version.get("version", "")),
        models=tuple(models),
        resident=tuple(_resident(entry) for entry in objects(loaded.get("models"), "name")),
    )


async def _show(client: httpx.AsyncClient, url: str, name: str) -> dict[str, Any]:
    """Return a model's facts; none when it was deleted since it was listed."""
    response = await client.post(f"{url}/api/show", json={"model": name})
    if response.status_code != httpx.codes.OK:
        return {}
    return json_object(response)


def _needs_show(entry: dict[str, Any]) -> bool:
    """Whether the list does not tell a model's capabilities, as with Ollama before 0.2x."""
    return bool(entry.get("digest")) and "capabilities" not in entry


def _model(entry: dict[str, Any], show: Mapping[str, Any]) -> Model:
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
