"""Bodies that a node gets otherwise than the caller sent them. Pure, but for the file of a long one."""

from collections.abc import Collection, Mapping
from typing import NamedTuple

import msgspec

from sollol.gateway.body import Body
from sollol.gateway.body_writer import spooled
from sollol.gateway.call import Call
from sollol.wire.edit import edited
from sollol.wire.kinds import BodyKind
from sollol.wire.multipart import peek_form, with_model
from sollol.wire.names import model_key
from sollol.wire.peek import Peek, peek

Headers = Mapping[bytes, bytes]


class Changes(NamedTuple):
    """What of a body is to be changed.

    ``model`` is the name of the model to ask for, empty for the caller's own; ``remove`` names fields
    to take out, in lower case; ``keep_alive`` is the JSON text to send under that name, if any.
    """

    model: str = ""
    remove: Collection[str] = ()
    keep_alive: bytes | None = None


def rewritten(kind: BodyKind, body: Body, seen: Peek, headers: Headers, changes: Changes) -> Body:
    """Return a body with other fields; the same one where nothing is to be changed.

    Args:
        seen: what was read of the body.
        headers: those of the request; a form needs its ``content-type``.

    Raises:
        Overloaded: the disk is full.
    """
    model, remove, keep_alive = changes
    if not model and not remove and keep_alive is None:
        return body
    if kind.is_multipart:  # which has no other field that we change
        return spooled(with_model(body.view(), headers[b"content-type"], model))
    replace = {} if keep_alive is None else {"keep_alive": keep_alive}
    if model:
        replace["model"] = msgspec.json.encode(model)
    return spooled(edited(seen.fields, remove=remove, replace=replace))


def for_model(call: Call, name: str) -> Call:
    """Return a call for another model; close its body when it is done.

    Raises:
        Overloaded: the disk is full.
    """
    headers = dict(call.headers)
    seen = seen_in(call.kind, call.body, headers)
    body = rewritten(call.kind, call.body, seen, headers, Changes(name))
    other = call.copy()
    other.body, other.model_key, other.others = body, model_key(name), ()
    return other


def seen_in(kind: BodyKind, body: Body, headers: Headers) -> Peek:
    """Return what routing needs from a body.

    Raises:
        InvalidBody: it is not what the route takes.
    """
    if kind.is_multipart:
        return peek_form(body.view(), headers.get(b"content-type", b""))
    return peek(kind, body.view())


class KeepAlive:
    """The operator's word on how long models stay in memory (``scheduling.keep_alive``)."""

    def __init__(self, text: str, *, overrides: bool) -> None:
        self._json = _keep_alive_json(text)
        self._overrides = overrides

    def of(self, kind: BodyKind, seen: Peek) -> bytes | None:
        """Return the JSON text to send with a request; None where it stays as it is.

        1. Only routes of Ollama that have the field. 2. A request to unload is not touched.
        """
        if "keep_alive" not in kind.struct:
            return None
        if seen.is_load_only and seen.keep_alive_zero:
            return None
        if not self._overrides and seen.fields.last_set("keep_alive") is not None:
            return None
        return self._json


def _keep_alive_json(text: str) -> bytes:
    try:
        seconds = float(text)
    except ValueError:
        return msgspec.json.encode(text)
    return msgspec.json.encode(int(seconds) if seconds.is_integer() else seconds)
