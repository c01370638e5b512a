"""Ollama's model records for a model that a llama-server serves.

Fields that llama-server does not tell (the family, the file's digest and date) get stable stand-ins.
"""

import re
from collections.abc import Mapping
from dataclasses import dataclass
from hashlib import sha256
from typing import Any

_EPOCH = "1970-01-01T00:00:00Z"
_NEVER = "2318-01-01T00:00:00Z"  # what Ollama shows for keep_alive -1
_QUANT_SIZES = {"Extra small": "XS", "Small": "S", "Medium": "M", "Large": "L"}
_THINKING_WORDS = ("enable_thinking", "reasoning_effort", "<think>")


@dataclass(frozen=True, slots=True)
class LlamaModel:
    """What a llama-server tells of its model; zero and empty mean unknown.

    ``context_length`` is the window a request may use on this server, ``trained_context`` the
    model's own.
    """

    name: str
    digest: str
    size_bytes: int = 0
    parameters: int = 0
    quantization: str = "unknown"
    context_length: int = 0
    trained_context: int = 0
    embedding_length: int = 0
    capabilities: tuple[str, ...] = ()
    template: str = ""
    architecture: str = "unknown"
    modified_at: str = _EPOCH


def read_llama_model(
    entry: Mapping[str, Any],
    props: Mapping[str, Any],
    *,
    embeds: bool = False,
    architecture: str = "unknown",
    modified_at: str = _EPOCH,
) -> LlamaModel:
    """Return the facts of one model.

    Args:
        entry: its record in ``data`` of ``/v1/models``.
        props: the answer of ``/props``; empty if the node did not give it.
        embeds: the server was started with ``--embeddings``, which it does not tell.
        architecture: ``general.architecture`` of the GGUF, where known.
        modified_at: RFC 3339; llama-server tells the time of the question instead.
    """
    meta = _mapping(entry.get("meta"))
    name = str(entry.get("id") or "")
    size_bytes, parameters = _count(meta, "size"), _count(meta, "n_params")
    settings = _mapping(props.get("default_generation_settings"))
    return LlamaModel(
        name=name,
        digest=sha256(f"{name}\n{size_bytes}\n{parameters}".encode()).hexdigest(),
        size_bytes=size_bytes,
        parameters=parameters,
        quantization=quantization_level(str(meta.get("ftype") or props.get("model_ftype") or "")),
        context_length=_count(settings, "n_ctx") or _count(meta, "n_ctx"),
        trained_context=_count(meta, "n_ctx_train"),
        embedding_length=_count(meta, "n_embd"),
        capabilities=capabilities(props, embeds=embeds),
        template=str(props.get("chat_template") or ""),
        architecture=architecture,
        modified_at=modified_at,
    )


def capabilities(props: Mapping[str, Any], *, embeds: bool) -> tuple[str, ...]:
    """Return Ollama's names for what a model on a llama-server can do, as far as it tells."""
    template = str(props.get("chat_template") or "")
    template_caps = _mapping(props.get("chat_template_caps"))
    modalities = _mapping(props.get("modalities"))
    can = {
        "completion": True,
        "tools": bool(template_caps.get("supports_tools", "tools" in template)),
        "vision": bool(modalities.get("vision")),
        "audio": bool(modalities.get("audio")),
        "embedding": embeds,
        "thinking": any(word in template for word in _THINKING_WORDS),
    }
    return tuple(name for name, is_able in can.items() if is_able)


def tags_entry(model: LlamaModel) -> dict[str, Any]:
    """Return the model's record in ``/api/tags``."""
    return {
        "name": model.name,
        "model": model.name,
        "modified_at": model.modified_at,
        "size": model.size_bytes,
        "digest": model.digest,
        "details": _details(model) | _lengths(model),
        "capabilities": list(model.capabilities),
    }


def ps_entry(model: LlamaModel, *, vram_bytes: int = 0, expires_at: str = _NEVER) -> dict[str, Any]:
    """Return the model's record in ``/api/ps``; ``vram_bytes`` 0 means it runs on the CPU."""
    return {
        "name": model.name,
        "model": model.name,
        "size": model.size_bytes,
        "digest": model.digest,
        "details": _details(model),
        "expires_at": expires_at,
        "size_vram": vram_bytes,
        "context_length": model.context_length,
    }


def show_answer(model: LlamaModel) -> dict[str, Any]:
    """Return the answer of ``/api/show``."""
    architecture, window = model.architecture, model.context_length
    lengths = {
        f"{architecture}.context_length": model.trained_context or window,
        f"{architecture}.embedding_length": model.embedding_length,
        "general.parameter_count": model.parameters,
    }
    model_info = {"general.architecture": architecture}
    answer = {
        "modelfile": f"FROM {model.name}\n",
        "parameters": f"{'num_ctx':<30} {window}" if window else "",
        "template": model.template,
        "details": _details(model),
        "model_info": model_info | {name: value for name, value in lengths.items() if value},
        "capabilities": list(model.capabilities),
        "modified_at": model.modified_at,
    }
    return {name: value for name, value in answer.items() if value}


def parameter_size(parameters: int) -> str:
    """Return a count of parameters as Ollama writes it: ``268.10M``, ``7.6B``."""
    if parameters >= 1_000_000_000:
        billions = parameters / 1_000_000_000
        return f"{billions:.0f}B" if billions.is_integer() else f"{billions:.1f}B"
    if parameters >= 1_000_000:
        millions = parameters / 1_000_000
        return f"{millions:.0f}M" if millions.is_integer() else f"{millions:.2f}M"
    return f"{parameters / 1000:.0f}K" if parameters >= 1000 else str(parameters or "")


def quantization_level(ftype: str) -> str:
    """Return llama.cpp's words for a file type as GGUF's: ``Q4_K - Medium`` is ``Q4_K_M``."""
    text = ftype.removeprefix("(guessed)").strip()
    if " mix" in text:
        return text.split()[0].removesuffix("_S") + "_M"
    base, _, rest = text.partition(" - ")
    size = _QUANT_SIZES.get(rest.strip())
    name = re.sub(r"^(all|mostly) ", "", base).replace(" ", "_").upper()
    if not name:
        return "unknown"
    return f"{name}_{size}" if size else name


def _details(model: LlamaModel) -> dict[str, Any]:
    return {
        "parent_model": "",
        "format": "gguf",
        "family": model.architecture,
        "families": [model.architecture],
        "parameter_size": parameter_size(model.parameters),
        "quantization_level": model.quantization,
    }


def _lengths(model: LlamaModel) -> dict[str, int]:
    lengths = {
        "context_length": model.trained_context,
        "embedding_length": model.embedding_length,
    }
    return {name: value for name, value in lengths.items() if value}


def _mapping(value: object) -> Mapping[str, Any]:
    return value if isinstance(value, Mapping) else {}


def _count(facts: Mapping[str, Any], name: str) -> int:
    value = facts.get(name)
    return value if isinstance(value, int) and not isinstance(value, bool) and value > 0 else 0
