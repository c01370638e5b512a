"""A model of the store as Ollama describes it in ``/api/tags`` and ``/api/show``. Pure.

Source: Ollama, server/routes.go, ListHandler and GetModelInfo; server/images.go, Capabilities.
"""

from collections.abc import Iterator, Mapping, Sequence
from math import prod
from typing import Any

import msgspec

from sollol.sharding.defaults import examples_of
from sollol.sharding.facts import CHAT_TEMPLATE, TOOL_TEMPLATE
from sollol.sharding.fields import ARCHITECTURE
from sollol.sharding.gguf import Header, Value
from sollol.sharding.ollama_store import StoredModel
from sollol.sharding.template import knows_tools
from sollol.types import Model
from sollol.wire.llama_facts import parameter_size
from sollol.wire.names import model_key

_MARKS = {"tools": ".Tools", "insert": ".Suffix", "thinking": ".Think"}
"""What a template of Ollama's names if the model can do it."""


def listed(stored: StoredModel, size_bytes: int, modified_at: str) -> Model:
    """Return a model as ``/api/tags`` lists it.

    Args:
        size_bytes: of all its files together.
        modified_at: RFC 3339; when it was pulled.
    """
    can = capabilities(stored)
    entry = {
        "name": stored.name,
        "model": stored.name,
        "modified_at": modified_at,
        "size": size_bytes,
        "digest": stored.digest,
        "details": details_of(stored),
        "capabilities": list(can),
    }
    return Model(
        key=model_key(stored.name),
        name=stored.name,
        digest=stored.digest,
        size_bytes=size_bytes,
        modified_at=modified_at,
        capabilities=frozenset(can),
        entry=entry,
    )


def shown(
    stored: StoredModel, headers: Sequence[Header], licenses: Sequence[str], modified_at: str
) -> dict[str, Any]:
    """Return the answer of ``/api/show``.

    Args:
        headers: of its GGUF files.
        licenses: their texts.
        modified_at: RFC 3339.
    """
    first = headers[0]
    count = sum(prod(tensor.dimensions) for header in headers for tensor in header.tensors)
    told = {
        "license": "\n".join(licenses),
        "modelfile": "\n".join(_modelfile(stored, licenses)) + "\n",
        "parameters": "\n".join(_parameters(stored)),
        "template": stored.template or str(first.fields.get(CHAT_TEMPLATE, "")),
        "system": stored.system or "",
        "messages": list(examples_of(stored.messages)),
        "details": details_of(stored, first, count),
        "model_info": _told_fields(first.fields) | {"general.parameter_count": count},
        "capabilities": list(capabilities(stored, first)),
        "modified_at": modified_at,
    }
    return {name: value for name, value in told.items() if value}


def capabilities(stored: StoredModel, header: Header | None = None) -> tuple[str, ...]:
    """Return Ollama's names for what a model can do, as far as its files tell."""
    template = stored.template or ""
    fields: Mapping[str, Value] = {} if header is None else header.fields
    embeds = f"{fields.get(ARCHITECTURE)}.pooling_type" in fields
    can = {"embedding": True} if embeds else {"completion": True}
    can |= {name: mark in template for name, mark in _MARKS.items()}
    if header is not None:
        in_file, for_tools = (str(fields.get(name, "")) for name in (CHAT_TEMPLATE, TOOL_TEMPLATE))
        can["tools"] = knows_tools(in_file, stored.template, for_tools)
    can["vision"] = bool(stored.projectors)
    return tuple(name for name, is_able in can.items() if is_able)


def _told_fields(fields: Mapping[str, Value]) -> dict[str, Value]:
    return {name: value for name, value in fields.items() if not name.startswith("tokenizer.")}


def details_of(
    stored: StoredModel, header: Header | None = None, parameters: int = 0
) -> dict[str, Any]:
    """Return what Ollama's lists call the details of a model.

    Args:
        header: of its GGUF file, for what the store does not tell.
        parameters: how many it has.
    """
    config = _mapping(stored.config)
    architecture = "" if header is None else str(header.fields.get(ARCHITECTURE, ""))
    family = str(config.get("model_family") or architecture)
    families = config.get("model_families")
    return {
        "parent_model": "",
        "format": str(config.get("model_format") or "gguf"),
        "family": family,
        "families": families if isinstance(families, list) else [family],
        "parameter_size": str(config.get("model_type") or parameter_size(parameters)),
        "quantization_level": str(config.get("file_type") or "unknown"),
    }


def _modelfile(stored: StoredModel, licenses: Sequence[str]) -> Iterator[str]:
    yield f"FROM {stored.name}"
    if stored.template:
        yield f'TEMPLATE """{stored.template}"""'
    if stored.system:
        yield f'SYSTEM """{stored.system}"""'
    for line in _parameters(stored):
        yield "PARAMETER " + " ".join(line.split(maxsplit=1))
    for license_text in licenses:
        yield f'LICENSE """{license_text}"""'
    for message in examples_of(stored.messages):
        yield f'MESSAGE {message["role"]} """{message["content"]}"""'


def _parameters(stored: StoredModel) -> Iterator[str]:
    for name, value in _mapping(stored.parameters).items():
        for each in value if isinstance(value, list) else [value]:
            text = f'"{each}"' if isinstance(each, str) else str(each)
            yield f"{name:<30} {text}"


def _mapping(text: str | None) -> Mapping[str, Any]:
    try:
        value = msgspec.json.decode(text or "{}")
    except (msgspec.DecodeError, RecursionError):
        return {}
    return value if isinstance(value, dict) else {}
