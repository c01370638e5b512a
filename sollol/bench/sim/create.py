"""``POST /api/create``: a model made of another one, or of uploaded files."""

import hashlib
from dataclasses import replace
from typing import Any

from sollol.bench.sim.bodies import ApiError, Body, read_body
from sollol.bench.sim.call import Call
from sollol.bench.sim.config import SimModel
from sollol.bench.sim.names import full_name, short_name
from sollol.bench.sim.records import go_json
from sollol.bench.sim.store import DIGEST, Records, pull_records, serve_progress

_BLOBS = "/home/ollama/.ollama/models/blobs"
_NAMING = ("model", "name", "stream")


async def create(call: Call) -> None:
    """Serve ``POST /api/create``. The same request gives the same digest on every node."""
    body = read_body(call.body, "CreateRequest")
    name = body.get("model") or body.get("name") or ""
    full = full_name(name) if name else None
    if full is None:
        raise ApiError(400, "invalid model name")
    call.name_model(name)
    files = _read_files(body)
    if not files and not body.get("from"):
        message = go_json({"error": "neither 'from' or 'files' was specified"})
        call.exchange.respond(400, message, b"application/json")
        return
    made: list[SimModel] = []
    if await serve_progress(call, body, _records(call, body, files, made)):
        call.state.models.add(made[0], short_name(full))


def _read_files(body: Body) -> dict[str, str]:
    files: dict[str, str] = {**(body.get("files") or {}), **(body.get("adapters") or {})}
    for path, digest in files.items():
        if path.startswith("/"):
            raise ApiError(400, "file path must be relative")
        if not DIGEST.fullmatch(digest):
            raise ApiError(400, "invalid digest format")
    return {path: digest.replace("-", ":").lower() for path, digest in files.items()}


def _records(call: Call, body: Body, files: dict[str, str], made: list[SimModel]) -> Records:
    """Return the progress; the model is in ``made`` before ``success``."""
    source: Any = body.get("from")
    base = SimModel("made of files")
    if source:
        stored = call.state.models.find(source)
        if stored is None:
            yield from _pulled(call, source, made)
            if not made:
                return
            base = made.pop()
        else:
            base = stored.model
    for digest in files.values():
        yield {"status": "parsing GGUF"}, 0.0
        if digest not in call.state.blobs:
            path = f"{_BLOBS}/{digest.replace(':', '-')}"
            yield {"error": f"open {path}: no such file or directory"}, 0.0
            return
        if digest not in call.state.gguf_blobs:
            yield {"error": "supplied file was not in GGUF format"}, 0.0
            return
    made.append(replace(base, digest=_digest(body, base)))
    for digest in files.values():
        yield {"status": f"using existing layer {digest}"}, 0.0
    yield {"status": "writing manifest"}, 0.0
    yield {"status": "success"}, 0.0


def _pulled(call: Call, source: str, made: list[SimModel]) -> Records:
    """Pull a model that the node lacks, as it does when another is made from it."""
    model = call.state.models.find_remote(source)
    for record, seconds in pull_records(call.state, model):
        if record.get("status") != "success":
            yield record, seconds
    if model is not None:
        call.state.models.add(model, short_name(full_name(source) or source))
        made.append(model)


def _digest(body: Body, base: SimModel) -> str:
    described = {key: value for key, value in body.items() if key not in _NAMING}
    return hashlib.sha256(base.digest.encode() + go_json(described)).hexdigest()
