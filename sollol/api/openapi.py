"""One description of all routes: FastAPI's own, and those that nodes answer."""

import warnings
from typing import Any

from fastapi import FastAPI

from sollol.wire.designated import DESIGNATED_ROUTES
from sollol.wire.gotypes import GoType, Struct
from sollol.wire.kinds import BODY_KINDS, BodyKind
from sollol.wire.manage import BLOBS, MANAGE_KINDS, ManageKind

_JSON_TYPES = {"array", "object", "string", "number"}
_PASSED_ON = {"200": {"description": "The node's answer, passed on"}}


class DescribedApi(FastAPI):
    """FastAPI whose ``/openapi.json`` has the routes that it does not serve, too."""

    def openapi(self) -> dict[str, Any]:
        """Return the description."""
        if self.openapi_schema is None:
            with warnings.catch_warnings():  # of ids that GET and HEAD share; ours are below
                warnings.simplefilter("ignore")
                paths = super().openapi()["paths"]
            for kind in BODY_KINDS.values():
                paths[kind.path] = {"post": _forwarded(kind)}
            for change in MANAGE_KINDS.values():
                paths[change.path] = {change.method.lower(): _change(change)}
            paths[f"{BLOBS}{{digest}}"] = {"head": _blob("find"), "post": _blob("upload")}
            for route in DESIGNATED_ROUTES:
                path = f"{route.path}{{key}}" if route.path.endswith("/") else route.path
                paths[path] = {route.method.lower(): _designated(path)}
            for path, methods in paths.items():
                for method, operation in methods.items():
                    operation["operationId"] = f"{method} {path}"
        assert self.openapi_schema is not None
        return self.openapi_schema


def _forwarded(kind: BodyKind) -> dict[str, Any]:
    content_type = "multipart/form-data" if kind.is_multipart else "application/json"
    return {
        "tags": [kind.dialect.value],
        "summary": f"{kind.task.value}, answered by a node that has the model",
        "requestBody": _body(content_type, kind.struct),
        "responses": _PASSED_ON,
    }


def _change(kind: ManageKind) -> dict[str, Any]:
    return {
        "tags": ["models"],
        "summary": f"{kind.path.rpartition('/')[2]} on the nodes that it is for",
        "parameters": [_wanted_nodes()],
        "requestBody": _body("application/json", kind.struct),
        "responses": {"200": {"description": "Done, or the progress of all nodes as NDJSON"}},
    }


def _blob(what: str) -> dict[str, Any]:
    described: dict[str, Any] = {
        "tags": ["models"],
        "summary": f"{what} a file on the nodes of a new model",
        "parameters": [_in_path("digest"), _wanted_nodes()],
        "responses": {"200": {"description": "All of these nodes have it"}},
    }
    if what == "upload":
        binary = {"schema": {"type": "string", "format": "binary"}}
        content = {"application/octet-stream": binary}
        described["requestBody"] = {"required": True, "content": content}
        described["responses"]["201"] = {"description": "Uploaded"}
    return described


def _designated(path: str) -> dict[str, Any]:
    return {
        "tags": ["account"],
        "summary": "Answered by one Ollama node for all",
        "parameters": [_in_path("key")] if path.endswith("{key}") else [],
        "responses": _PASSED_ON,
    }


def _body(content_type: str, struct: Struct) -> dict[str, Any]:
    fields = {name: _field(go_type) for name, go_type in struct.items()}
    schema = {"type": "object", "properties": fields, "additionalProperties": True}
    return {"required": True, "content": {content_type: {"schema": schema}}}


def _field(go_type: GoType) -> dict[str, Any]:
    """Return the type of a field; nothing of one that takes several."""
    if len(go_type.accepts) != 1:
        return {}
    (kind,) = go_type.accepts
    if go_type.integers is not None:
        return {"type": "integer"}
    return {"type": kind if kind in _JSON_TYPES else "boolean"}


def _in_path(name: str) -> dict[str, Any]:
    return {"name": name, "in": "path", "required": True, "schema": {"type": "string"}}


def _wanted_nodes() -> dict[str, Any]:
    text = "ids of nodes with commas between them, or `all`"
    return {
        "name": "X-Sollol-Nodes",
        "in": "header",
        "description": text,
        "schema": {"type": "string"},
    }
