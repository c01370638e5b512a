"""Requests for models that do something else than talk: hear, paint, or decide."""

import base64
import hashlib
import time
from email import message_from_bytes
from email.message import Message
from typing import Any

from sollol.bench.sim.bodies import ApiError, read_body
from sollol.bench.sim.call import Call, take_runner
from sollol.bench.sim.exchange import JSON, PLAIN_JSON
from sollol.bench.sim.lease import Lease
from sollol.bench.sim.models import StoredModel, find_model, require
from sollol.bench.sim.records import go_json
from sollol.bench.sim.text import answer_pieces, count_tokens, fill_schema, seed_of

_SPOKEN_TOKENS = 12
_MAX_STATE_BYTES = 64 << 10


async def transcribe(call: Call) -> None:
    """Serve ``POST /v1/audio/transcriptions``: words that depend on the recording alone."""
    form = _read_form(call)
    if "file" not in form:
        raise ApiError(400, "http: no such file", is_gin=True)
    name = form.get("model", b"").decode(errors="replace")
    call.name_model(name)
    if not name:
        raise ApiError(400, "model is required")
    stored = find_model(call.state.models, name)
    require(stored.model, name, "audio", "audio")
    recording = hashlib.sha256(form["file"]).hexdigest()
    await _run(call, stored, recording)
    said = answer_pieces(seed_of(stored.model.digest, recording), "", _SPOKEN_TOKENS)
    text = "".join(said or ())
    if form.get("response_format") == b"text":
        call.exchange.respond(200, text.encode(), b"text/plain")
        return
    call.exchange.respond(200, go_json({"text": text}) + b"\n", PLAIN_JSON)


async def make_image(call: Call) -> None:
    """Serve ``POST /v1/images/generations`` and ``edits``: bytes that depend on the prompt alone."""
    body = read_body(call.body, "ImageGenerationRequest", empty="EOF")
    name, prompt = body.get("model") or "", body.get("prompt") or ""
    for field in ("prompt", "model"):
        if not body.get(field):
            raise ApiError(400, f"{field} is required", is_gin=True)
    call.name_model(name)
    stored = find_model(call.state.models, name)
    require(stored.model, name, "image", "image generation")
    await _run(call, stored, prompt)
    image = base64.b64encode(seed_of(stored.model.digest, prompt)).decode()
    made = {"created": int(time.time()), "data": [{"b64_json": image}]}
    call.exchange.respond(200, go_json(made) + b"\n", PLAIN_JSON)


async def decide(call: Call) -> None:
    """Serve ``POST /v1/systemone``: an answer to each question."""
    if len(call.body) > _MAX_STATE_BYTES:
        raise ApiError(413, "request body must not exceed 64 KiB")
    body = read_body(call.body, "SystemOneRequest")
    name = body.get("model") or ""
    call.name_model(name)
    if not body.get("state"):
        raise ApiError(400, "state must not be empty")
    stored = find_model(call.state.models, name)
    require(stored.model, name, "decision", "decision")
    state, questions = go_json(body["state"]).decode(), body.get("questions") or {}
    await _run(call, stored, state)
    answers = {
        key: _decision(question, seed_of(stored.model.digest, f"{state} {key}"))
        for key, question in questions.items()
    }
    usage = {"input_tokens": count_tokens(state), "output_tokens": len(answers)}
    call.exchange.respond(200, go_json({"model": name, "answers": answers, "usage": usage}), JSON)


def _decision(question: dict[str, Any], seed: bytes) -> dict[str, Any]:
    kind, criteria = question.get("type"), question.get("criteria") or ()
    if kind == "noul":
        return {"type": kind, "noul": seed[0] / 255}
    if kind not in ("choice", "score") or not criteria:
        raise ApiError(400, "invalid question")
    names = list(criteria) if kind == "choice" else [str(place) for place in range(len(criteria))]
    picked = fill_schema({"enum": names}, seed)
    sure = {"probabilities": {name: float(name == picked) for name in names}, "confidence": 1.0}
    if kind == "choice":
        return {"type": kind, "choice": picked, **sure}
    legend = dict(zip(names, criteria, strict=True))
    return {"type": kind, "score": float(picked), "legend": legend, **sure}


async def _run(call: Call, stored: StoredModel, prompt: str) -> None:
    """Let the model read what it is given, in its turn."""
    runner, load_s = await take_runner(call, stored, {}, None)
    async with Lease(call.state.engine, runner, load_s) as lease:
        await lease.prefill(prompt)


def _read_form(call: Call) -> dict[str, bytes]:
    """Return the fields of a multipart form.

    Raises:
        ApiError: the body is none (400).
    """
    content_type = call.exchange.request.header(b"content-type")
    head = f"Content-Type: {content_type}\r\n\r\n".encode("latin-1")
    form = message_from_bytes(head + call.body)
    if form.get_content_type() != "multipart/form-data":
        reason = "request Content-Type isn't multipart/form-data"
        raise ApiError(400, f"failed to parse multipart form: {reason}", is_gin=True)
    parts = [part for part in form.walk() if not part.is_multipart()]
    return {_field_name(part): _bytes_of(part) for part in parts}


def _bytes_of(part: Message) -> bytes:
    payload = part.get_payload(decode=True)
    return payload if isinstance(payload, bytes) else b""


def _field_name(part: Message) -> str:
    return str(part.get_param("name", "", header="content-disposition"))
