"""Requests that change what is on a node's disk: pull, push, copy, delete and blobs."""

import hashlib
import re
from collections.abc import Iterator
from typing import Any

from sollol.bench.sim.bodies import ApiError, Body, read_body
from sollol.bench.sim.call import Call
from sollol.bench.sim.config import GIB, SimModel
from sollol.bench.sim.exchange import Exchange
from sollol.bench.sim.faults import FaultyExchange
from sollol.bench.sim.http import Connection, Request
from sollol.bench.sim.names import full_name, short_name
from sollol.bench.sim.records import go_json
from sollol.bench.sim.state import NodeState

Records = Iterator[tuple[dict[str, Any], float]]
"""Progress records, each with the simulated seconds before it."""

_BLOBS = "/api/blobs/"
DIGEST = re.compile(r"sha256[:-][0-9a-fA-F]{64}")
_PULL_STEPS = 10
_PARAMS_BYTES = 1417  # the small layer beside the weights
_MAX_UNREAD_BYTES = 256 << 10  # net/http reads so much of an unwanted body to keep a connection


async def pull(call: Call) -> None:
    """Serve ``POST /api/pull``: progress records, at the speed of the node's line."""
    body = read_body(call.body, "PullRequest")
    name = body.get("model") or body.get("name") or ""
    full = full_name(name) if name else None
    if full is None:
        raise ApiError(400, "invalid model name")
    call.name_model(name)
    model = call.state.models.find_remote(name)
    if await serve_progress(call, body, pull_records(call.state, model)):
        _keep(call, model, full)


async def push(call: Call) -> None:
    """Serve ``POST /api/push``, as fast as a pull would be."""
    body = read_body(call.body, "PushRequest")
    name = body.get("model") or body.get("name") or ""
    if not name:
        raise ApiError(400, "model is required")
    call.name_model(name)
    await serve_progress(call, body, _push_records(call, name))


async def serve_progress(call: Call, body: Body, records: Records) -> bool:
    """Tell how something goes on; return whether it came to ``success``.

    Every record comes with the simulated seconds before it.
    """
    if body.get("stream") is False:
        told = list(records)
        await call.state.engine.spend(sum(seconds for _, seconds in told))
        last = told[-1][0]
        status = 500 if "error" in last else 200
        call.exchange.respond(status, go_json(last), b"application/json")
        return status == 200
    exchange = call.exchange
    if isinstance(exchange, FaultyExchange):
        exchange.error_record = go_json({"error": exchange.fault.text}) + b"\n"
    exchange.start_stream(b"application/x-ndjson")
    record: dict[str, Any] = {}
    for record, seconds in records:
        if seconds:
            await call.state.engine.spend(seconds)
        if not exchange.write_record(go_json(record) + b"\n"):
            record = {}
            break
    await exchange.end_stream()
    return record.get("status") == "success"


def _keep(call: Call, model: SimModel | None, full: str) -> None:
    if model is not None:
        call.state.models.add(model, short_name(full))


def pull_records(state: NodeState, model: SimModel | None) -> Records:
    """Return the progress of a pull."""
    yield {"status": "pulling manifest"}, 0.0
    if model is None:
        yield {"error": "pull model manifest: file does not exist"}, 0.0
        return
    yield from _layer(state, model.digest, model.size_bytes)
    params = hashlib.sha256(model.digest.encode()).hexdigest()
    yield from _layer(state, params, _PARAMS_BYTES)
    yield {"status": "verifying sha256 digest"}, 0.0
    yield {"status": "writing manifest"}, 0.0
    yield {"status": "success"}, 0.0


def _push_records(call: Call, name: str) -> Records:
    yield {"status": "retrieving manifest"}, 0.0
    stored = call.state.models.find(name)
    if stored is None:
        yield {"status": "couldn't retrieve manifest"}, 0.0
        path = (full_name(name) or name).replace(":", "/")
        error = f"open /home/ollama/.ollama/models/manifests/{path}: no such file or directory"
        yield {"error": error}, 0.0
        return
    digest, size = stored.model.digest, stored.model.size_bytes
    step_s = size / GIB / call.state.config.pull_gib_per_s / _PULL_STEPS
    start = {"status": f"pushing {digest[:12]}", "digest": f"sha256:{digest}", "total": size}
    yield start, 0.0
    for step in range(1, _PULL_STEPS + 1):
        yield {**start, "completed": size * step // _PULL_STEPS}, step_s
    yield {"status": "pushing manifest"}, 0.0
    yield {"status": "success"}, 0.0


def _layer(state: NodeState, digest: str, size: int) -> Records:
    start = {"status": f"pulling {digest[:12]}", "digest": f"sha256:{digest}", "total": size}
    held = {stored.model.digest for stored in state.models.newest_first()}
    if digest in held:
        yield {**start, "completed": size}, 0.0
        return
    yield start, 0.0
    step_s = size / GIB / state.config.pull_gib_per_s / _PULL_STEPS
    for step in range(1, _PULL_STEPS + 1):
        yield {**start, "completed": size * step // _PULL_STEPS}, step_s


def copy(call: Call) -> None:
    """Serve ``POST /api/copy``."""
    body = read_body(call.body, "CopyRequest")
    source, target = body.get("source") or "", body.get("destination") or ""
    for role, name in (("source", source), ("destination", target)):
        if not name or full_name(name) is None:
            raise ApiError(400, f'{role} "{name}" is invalid')
    stored = call.state.models.find(source)
    if stored is None:
        raise ApiError(404, f'model "{source}" not found')
    call.state.models.add(stored.model, short_name(full_name(target) or target))
    call.exchange.respond(200)


def delete(call: Call) -> None:
    """Serve ``DELETE /api/delete``; a loaded model stays in memory."""
    body = read_body(call.body, "DeleteRequest")
    name = body.get("model") or body.get("name") or ""
    if not name:
        raise ApiError(400, "model is required")
    if full_name(name) is None:
        raise ApiError(400, f'name "{name}" is invalid')
    if call.state.models.find(name) is None:
        raise ApiError(404, f"model '{name}' not found")
    call.state.models.remove(name)
    call.exchange.respond(200)


class BlobUpload:
    """The body of a blob as it arrives: hashed and counted, not kept but for its first bytes."""

    def __init__(self, state: NodeState, connection: Connection) -> None:
        self.hash = hashlib.sha256()
        self.magic = b""
        self._state = state
        self._connection = connection

    def feed(self, data: bytes) -> None:
        """Take the next bytes; at ``blob_bytes_per_s``, the rest has to wait."""
        self.hash.update(data)
        self.magic = (self.magic + data[:4])[:4]
        self._state.blob_bytes_received += len(data)
        rate = self._state.config.blob_bytes_per_s
        if rate:
            self._connection.hold_back(len(data) / rate)


def begin_upload(state: NodeState, connection: Connection, request: Request) -> bool:
    """Prepare for a blob's body; return whether the request is answered already.

    A node that has the blob answers at once. If more of the body is to come than Go reads in
    passing, it then closes the connection on the client that still sends.
    """
    if request.method != "POST" or not request.path.startswith(_BLOBS):
        return False
    digest = request.path.removeprefix(_BLOBS).replace("-", ":").lower()
    length = request.header(b"content-length")
    is_long = not length.isdigit() or int(length) > _MAX_UNREAD_BYTES
    if digest in state.blobs and (is_long or request.expects_continue):
        request.keep_alive = False
        Exchange(connection, request).respond(200)
        connection.close_unread()
        return True
    request.sink = BlobUpload(state, connection)
    return False


def blob_head(call: Call) -> None:
    """Serve ``HEAD /api/blobs/:digest``."""
    digest = _digest_of(call)
    if digest not in call.state.blobs:
        raise ApiError(404, f'blob "{digest}" not found')
    call.exchange.respond(200, bare=True)


def blob_post(call: Call) -> None:
    """Serve ``POST /api/blobs/:digest``, whose body has arrived."""
    digest = _digest_of(call)
    if digest in call.state.blobs:
        call.exchange.respond(200)
        return
    upload = call.exchange.request.sink
    assert isinstance(upload, BlobUpload)
    true_digest = f"sha256:{upload.hash.hexdigest()}"
    call.state.blobs.add(true_digest)
    if upload.magic == b"GGUF":
        call.state.gguf_blobs.add(true_digest)
    if true_digest != digest:
        raise ApiError(400, f'digest mismatch, expected "{digest}", got "{true_digest}"')
    call.exchange.respond(201)


def _digest_of(call: Call) -> str:
    digest = call.exchange.request.path.removeprefix(_BLOBS)
    if not DIGEST.fullmatch(digest):
        raise ApiError(400, "invalid digest format")
    return digest.replace("-", ":").lower()
