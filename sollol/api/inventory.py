"""The routes of Ollama and OpenAI that the gateway answers itself, from what it knows of nodes."""

from typing import Any

import msgspec
from fastapi import APIRouter, Response

from sollol import __version__
from sollol.api.served import Served
from sollol.errors import ModelNotFound
from sollol.nodes import catalog
from sollol.types import Dialect, Model
from sollol.wire.bodies import error_response
from sollol.wire.gotime import unix_time
from sollol.wire.names import display_name, model_key

OLLAMA_JSON = "application/json; charset=utf-8"
OPENAI_JSON = "application/json"


router = APIRouter(tags=["inventory"])


@router.api_route("/", methods=["GET", "HEAD"], summary="Says that the server is up")
async def _root() -> Response:
    return Response("Ollama is running", headers={"content-type": "text/plain; charset=utf-8"})


@router.api_route("/api/version", methods=["GET", "HEAD"], summary="Ollama version")
async def _version(gateway: Served) -> Response:
    body = {"version": catalog.version(gateway.registry.views())}
    return _json(body, OLLAMA_JSON, {"x-sollol-version": __version__})


@router.api_route("/api/tags", methods=["GET", "HEAD"], summary="Models on all nodes")
async def _tags(gateway: Served) -> Response:
    models = gateway.installed()
    return _json({"models": [model.entry for model in models]}, OLLAMA_JSON)


@router.get("/api/ps", summary="Models in memory")
async def _ps(gateway: Served) -> Response:
    return _json({"models": gateway.resident()}, OLLAMA_JSON)


@router.get("/v1/models", summary="Models on all nodes, as OpenAI lists them")
async def _models(gateway: Served) -> Response:
    entries = [_openai_entry(model) for model in gateway.installed()]
    return _json({"object": "list", "data": entries or None}, OPENAI_JSON, end=b"\n")


@router.get("/v1/models/{name}", summary="One model, as OpenAI describes it")
async def _model(gateway: Served, name: str) -> Response:
    for known in gateway.installed():
        if known.key == model_key(name):
            return _json({**_openai_entry(known), "id": name}, OPENAI_JSON, end=b"\n")
    error = ModelNotFound(f"model '{display_name(name)}' not found")
    status, content_type, body = error_response(Dialect.OPENAI, error)
    return Response(body, status, headers={"content-type": content_type.decode()})


def _openai_entry(model: Model) -> dict[str, Any]:
    return {
        "id": model.name,
        "object": "model",
        "created": int(unix_time(model.modified_at)),
        "owned_by": catalog.owner(model),
    }


def _json(
    body: Any, content_type: str, headers: dict[str, str] | None = None, *, end: bytes = b""
) -> Response:
    content = msgspec.json.encode(body) + end
    return Response(content, headers={"content-type": content_type, **(headers or {})})
