"""Requests that change what nodes have on disk: their bodies, and what Ollama checks in them first.

Only what decides which nodes are asked is read; the nodes get the body as it came.

Source: Ollama, api/types.go and server/routes.go; seen on the wire.
"""

import re
from collections.abc import Callable
from dataclasses import dataclass

import msgspec
from msgspec import Raw

from sollol.errors import InvalidBody, InvalidRequest
from sollol.wire import gotypes as go
from sollol.wire.gojson import Fields, decode, top_level
from sollol.wire.gotext import SPACE, quote
from sollol.wire.gotypes import decode_error
from sollol.wire.names import is_valid_name, model_key, parse_name

_STRINGS = go.GoType("map[string]string", frozenset({"object"}))
_DIGEST = re.compile(r"sha256[:-][0-9a-fA-F]{64}")
_MODEL_AND_NAME = {"model": go.STRING, "name": go.STRING}
_TRANSFER = {
    **_MODEL_AND_NAME,
    "insecure": go.BOOL,
    "username": go.STRING,
    "password": go.STRING,
    "stream": go.BOOL,
}


@dataclass(frozen=True, slots=True, eq=False)
class ManageKind:
    """A route that changes nodes, and what its body is decoded into."""

    method: str
    path: str
    struct_name: str
    struct: go.Struct
    check: Callable[["ManageBody"], None]
    """Raises InvalidRequest for what the route's handler refuses before anything else."""


class ManageBody(msgspec.Struct, frozen=True):
    """What was read of a body; it holds nothing of the body itself, which may be long.

    ``model`` is the one that is pulled, pushed, made, copied from or deleted; ``made_from`` and
    ``digests`` are what ``/api/create`` makes it of.
    """

    model: str
    stream: bool
    destination: str = ""
    made_from: str = ""
    digests: frozenset[str] = frozenset()

    @property
    def model_key(self) -> str:
        """The canonical name of the model."""
        return model_key(self.model)

    @property
    def source_key(self) -> str:
        """The canonical name of the model that it is made from."""
        return model_key(self.made_from)


def read_manage(kind: ManageKind, raw: bytes) -> ManageBody:
    """Return what is to be done.

    Raises:
        InvalidBody: not JSON, or a field has the wrong type; in Ollama's words.
        InvalidRequest: it names no model, or not by a valid name; in Ollama's words.
    """
    fields = top_level(raw, f"api.{kind.struct_name}", "missing request body")
    message = decode_error(kind.struct_name, kind.struct, fields.pairs())
    if message:
        raise InvalidBody(message)
    body = ManageBody(
        _text(fields, "source")
        if kind is COPY
        else _text(fields, "model") or _text(fields, "name"),
        fields.raws.get("stream") != Raw(b"false"),
        destination=_text(fields, "destination"),
        made_from=_text(fields, "from"),
        digests=_digests(fields) if kind is CREATE else frozenset(),
    )
    kind.check(body)
    return body


def read_digest(text: str) -> str:
    """Return the digest that the path of a blob names, as ``sha256:`` and lower-case digits.

    Raises:
        InvalidRequest: it is none; in Ollama's words.
    """
    if not _DIGEST.fullmatch(text):
        raise InvalidRequest("invalid digest format")
    return text.replace("-", ":").lower()


def _text(fields: Fields, name: str) -> str:
    raw = fields.last_set(name)
    return "" if raw is None else str(decode(raw))


def _digests(fields: Fields) -> frozenset[str]:
    """Return the blobs that a model is made of; a digest that is none is left to the node."""
    found: list[object] = []
    for name in ("files", "adapters", "draft_files"):
        named = fields.value(name)
        found += named.values() if isinstance(named, dict) else ()
    return frozenset(
        text.replace("-", ":").lower()
        for text in found
        if isinstance(text, str) and _DIGEST.fullmatch(text)
    )


def _check_valid(body: ManageBody) -> None:
    if not is_valid_name(body.model):
        raise InvalidRequest("invalid model name")


def _check_named(body: ManageBody) -> None:
    if not body.model.strip(SPACE):
        raise InvalidRequest("model is required")


def _check_delete(body: ManageBody) -> None:
    _check_named(body)
    if not _is_name(body.model):
        raise InvalidRequest(f"name {quote(body.model)} is invalid")


def _check_copy(body: ManageBody) -> None:
    for role, name in (("source", body.model), ("destination", body.destination)):
        if not _is_name(name):
            raise InvalidRequest(f"{role} {quote(name)} is invalid")


def _is_name(text: str) -> bool:
    try:
        parse_name(text)
    except ValueError:
        return False
    return True


PULL = ManageKind("POST", "/api/pull", "PullRequest", _TRANSFER, _check_valid)
PUSH = ManageKind("POST", "/api/push", "PushRequest", _TRANSFER, _check_named)
CREATE = ManageKind(
    "POST",
    "/api/create",
    "CreateRequest",
    {
        **_MODEL_AND_NAME,
        "stream": go.BOOL,
        "quantize": go.STRING,
        "from": go.STRING,
        "files": _STRINGS,
        "adapters": _STRINGS,
        "draft_files": _STRINGS,
        "template": go.STRING,
        "license": go.ANY,
        "system": go.STRING,
        "parameters": go.MAP,
        "messages": go.MESSAGES,
    },
    _check_valid,
)
COPY = ManageKind(
    "POST",
    "/api/copy",
    "CopyRequest",
    {"source": go.STRING, "destination": go.STRING},
    _check_copy,
)
DELETE = ManageKind("DELETE", "/api/delete", "DeleteRequest", _MODEL_AND_NAME, _check_delete)

MANAGE_KINDS = {kind.path: kind for kind in (PULL, PUSH, CREATE, COPY, DELETE)}
"""Every route that changes nodes, blobs aside, by its path."""

BLOBS = "/api/blobs/"
"""What the path of a blob begins with."""
