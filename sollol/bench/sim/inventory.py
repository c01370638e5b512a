"""What a node says about its models."""

from datetime import UTC, datetime
from typing import Any

from sollol.bench.sim.bodies import ApiError, read_body
from sollol.bench.sim.call import Call
from sollol.bench.sim.memory import Runner
from sollol.bench.sim.models import StoredModel
from sollol.bench.sim.names import full_name, short_name
from sollol.bench.sim.records import go_json, rfc3339
from sollol.bench.sim.state import NodeState

_PLAIN_JSON = b"application/json"
_FOREVER_NS = 2**63 - 1


def root(call: Call) -> None:
    """Serve ``/``."""
    call.exchange.respond(200, b"Ollama is running", b"text/plain; charset=utf-8")


def version(call: Call) -> None:
    """Serve ``/api/version``."""
    call.exchange.respond(200, go_json({"version": call.state.config.version}))


def tags(call: Call) -> None:
    """Serve ``/api/tags``: the models on disk."""
    models = [_tag(stored) for stored in call.state.models.newest_first()]
    call.exchange.respond(200, go_json({"models": models}))


def ps(call: Call) -> None:
    """Serve ``/api/ps``: the models in memory; one that is being loaded is not among them."""
    state = call.state
    now = state.loop.time()
    entries = [(_expires_ns(runner, state, now), runner) for runner in state.engine.loaded.values()]
    entries.sort(key=lambda entry: entry[0], reverse=True)
    models = [_loaded(runner, expires_ns) for expires_ns, runner in entries]
    call.exchange.respond(200, go_json({"models": models}))


def show(call: Call) -> None:
    """Serve ``/api/show``."""
    body = read_body(call.body, "ShowRequest")
    name = body.get("model") or body.get("name") or ""
    if not name:
        raise ApiError(400, "model is required")
    stored = _find_shown(call, name)
    model = stored.model
    blob = f"/home/ollama/.ollama/models/blobs/sha256-{model.digest}"
    info = {
        "general.architecture": model.family,
        "general.parameter_count": int(model.size_bytes / 0.62),
        f"{model.family}.context_length": model.context_length,
        f"{model.family}.embedding_length": model.embedding_length,
    }
    shown = {
        "modelfile": f"FROM {blob}\nTEMPLATE {{{{ .Prompt }}}}\n",
        "template": "{{ .Prompt }}",
        "details": _details(stored),
        "model_info": info,
        "capabilities": list(model.capabilities),
        "modified_at": _iso(stored.modified_at),
    }
    call.exchange.respond(200, go_json(shown))


def openai_models(call: Call) -> None:
    """Serve ``/v1/models``; with no models the list is null."""
    models = [_openai_entry(stored) for stored in call.state.models.newest_first()]
    shown = {"object": "list", "data": models or None}
    call.exchange.respond(200, go_json(shown) + b"\n", _PLAIN_JSON)


def openai_model(call: Call) -> None:
    """Serve ``/v1/models/:model``."""
    stored = _find_shown(call, call.exchange.request.path.removeprefix("/v1/models/"))
    call.exchange.respond(200, go_json(_openai_entry(stored)) + b"\n", _PLAIN_JSON)


def _find_shown(call: Call, name: str) -> StoredModel:
    full = full_name(name)
    if full is None:
        raise ApiError(400, "invalid model name")
    stored = call.state.models.find(name)
    if stored is None:
        raise ApiError(404, f"model '{short_name(full)}' not found")
    return stored


def _details(stored: StoredModel) -> dict[str, Any]:
    model = stored.model
    return {
        "parent_model": "",
        "format": "gguf",
        "family": model.family,
        "families": [model.family],
        "parameter_size": model.parameter_size,
        "quantization_level": model.quantization,
    }


def _tag(stored: StoredModel) -> dict[str, Any]:
    model = stored.model
    lengths = {
        "context_length": model.context_length,
        "embedding_length": model.embedding_length,
    }
    return {
        "name": stored.name,
        "model": stored.name,
        "modified_at": _iso(stored.modified_at),
        "size": model.size_bytes,
        "digest": model.digest,
        "details": {**_details(stored), **lengths},
        "capabilities": list(model.capabilities),
    }


def _loaded(runner: Runner, expires_ns: int) -> dict[str, Any]:
    return {
        "name": runner.name,
        "model": runner.name,
        "size": runner.size_bytes,
        "digest": runner.model.digest,
        "details": _details(StoredModel(runner.model, datetime.now(UTC))),
        "expires_at": rfc3339(expires_ns),
        "size_vram": runner.vram_bytes,
        "context_length": runner.num_ctx,
    }


def _expires_ns(runner: Runner, state: NodeState, now: float) -> int:
    """Return when a runner leaves; for one never idle yet, as if it became idle at this moment."""
    scale = state.config.time_scale or 1.0
    expires_at = runner.expires_at
    if expires_at is None:
        expires_at = now + runner.keep_alive_s * scale
    if expires_at == float("inf"):
        return state.epoch_ns + _FOREVER_NS
    return state.epoch_ns + int(expires_at * 1e9)


def _openai_entry(stored: StoredModel) -> dict[str, Any]:
    return {
        "id": stored.name,
        "object": "model",
        "created": int(stored.modified_at.timestamp()),
        "owned_by": "library",
    }


def _iso(moment: datetime) -> str:
    return moment.isoformat().replace("+00:00", "Z")
