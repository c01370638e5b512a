"""Models over several machines without llama.cpp: a real store, and coordinators that follow a script."""

import asyncio
import hashlib
import json
import os
import shutil
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from sollol.bench.gguf_files import write_gguf
from sollol.bench.model_kinds import Size, dense
from sollol.sharding.allocations import Allocation
from sollol.sharding.fleet import Found
from sollol.sharding.loading import LoadProgress
from sollol.sharding.memory import MIB
from sollol.sharding.models import LocalModel
from sollol.sharding.plan import Coordinator as Host, Fleet, Plan, Worker
from sollol.sharding.prediction import Link
from tests.llama_streams import STREAMS, answer
from tests.scripted_node import Node, Peer

IMAGE = "application/vnd.ollama.image."
GIB = 1 << 30


class Store:
    """An Ollama store; ``add`` puts models there."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self.blobs = root / "blobs"
        self.blobs.mkdir(parents=True)

    def blob(self, content: bytes, kind: str) -> dict[str, Any]:
        sha256 = hashlib.sha256(content).hexdigest()
        (self.blobs / f"sha256-{sha256}").write_bytes(content)
        return {"mediaType": IMAGE + kind, "digest": f"sha256:{sha256}", "size": len(content)}

    def weights(self, name: str, file: Path) -> dict[str, Any]:
        """Put a file there, by its name, as hashing a large one takes long."""
        sha256 = hashlib.sha256(name.encode()).hexdigest()
        blob = self.blobs / f"sha256-{sha256}"
        try:
            os.link(file, blob)
        except OSError:
            shutil.copyfile(file, blob)
        size = blob.stat().st_size
        return {"mediaType": IMAGE + "model", "digest": f"sha256:{sha256}", "size": size}

    def add(self, name: str, *files: Path, **texts: str) -> Path:
        """Add ``name:latest`` and return the path of its weights, or of the first part of them."""
        layers = [self.weights(f"{name} {number}", file) for number, file in enumerate(files)]
        layers += [self.blob(text.encode(), kind) for kind, text in texts.items()]
        told = {"model_format": "gguf", "model_family": "llama", "file_type": "F16"}
        config = self.blob(json.dumps(told).encode(), "config")
        self.manifest(name, {"schemaVersion": 2, "config": config, "layers": layers})
        return self.blobs / str(layers[0]["digest"]).replace(":", "-")

    def manifest(self, name: str, body: object) -> Path:
        path = self.root / "manifests/registry.ollama.ai/library" / name / "latest"
        path.parent.mkdir(parents=True)
        path.write_text(json.dumps(body))
        return path

    def small(self, *names: str, layers: int = 8) -> None:
        """Add small models whose weights are all zero."""
        for name in names:
            file = self.root / f"{name}.gguf"
            self.add(name, write_gguf(file, dense(Size(layers=layers))))
            file.unlink()


def _json(status: str, body: object) -> bytes:
    return answer(status, "application/json", json.dumps(body).encode())


class Scripted:
    """A coordinator: loads when it may, answers as a llama-server, ends when told to."""

    def __init__(
        self,
        workers: "ScriptedWorkers",
        plan: Plan,
        name: str,
        on_progress: Callable[[LoadProgress], None],
    ) -> None:
        self.plan = plan
        self.name = name
        self.pid: int | None = None
        self.api_key = "key"
        self.url = ""
        self.placement: Mapping[str, Allocation] = {}
        self.is_sending = True
        self.is_stopped = False
        self.asked = 0
        self.bodies: list[dict[str, Any]] = []
        self.hold = asyncio.Event()
        if not workers.hold_all:
            self.hold.set()
        self.on_progress = on_progress
        self._workers = workers
        self._node = Node(self._answer)
        self._end: asyncio.Future[str] = asyncio.get_running_loop().create_future()

    async def start(self, timeout_s: float) -> None:
        try:
            async with asyncio.timeout(timeout_s):
                await self._workers.may_load.wait()
            if self._workers.failures:
                raise self._workers.failures.pop(0)
        except BaseException:
            self.is_stopped = True
            raise
        await self._node.start()
        self.url = f"http://127.0.0.1:{self._node.port}"
        self.placement = {
            share.worker.name: Allocation(share.memory.weight_bytes / MIB)
            for share in self.plan.shares
        } | {"CPU": Allocation(1, compute_mib=2)}

    async def wait(self) -> str:
        return await asyncio.shield(self._end)

    async def stop(self, grace_s: float = 10.0) -> None:
        await self.die("it was stopped")

    async def die(self, reason: str) -> None:
        if not self.is_stopped:
            self.is_stopped = True
            await self._node.stop()
        if not self._end.done():
            self._end.set_result(reason)

    async def _answer(self, peer: Peer) -> None:
        while True:
            head, body = await peer.request()
            path = head.split()[1]
            if path in STREAMS:
                self.asked += 1
                self.bodies.append(json.loads(body))
                await self.hold.wait()
            streams = bool(body) and bool(json.loads(body).get("stream"))
            await peer.send(self._said(path, streams=streams))

    def _said(self, path: bytes, *, streams: bool) -> bytes:
        if path in STREAMS and self._workers.says:
            return self._workers.says
        if streams:
            return STREAMS[path]
        entry = {"id": self.name, "meta": {"n_ctx": 512, "n_params": 1000, "size": 2000}}
        known: dict[bytes, object] = {
            b"/health": {"status": "ok"},
            b"/props": {"total_slots": 1, "build_info": "b1", "chat_template": "x"},
            b"/v1/models": {"data": [entry]},
            b"/v1/chat/completions": {
                "choices": [{"message": {"content": "hello"}, "finish_reason": "stop"}],
                "usage": {"prompt_tokens": 3, "completion_tokens": 1},
            },
        }
        body = known.get(path)
        return _json("501 No", {"error": {}}) if body is None else _json("200 OK", body)


class ScriptedWorkers:
    """Finds workers as told and makes scripted coordinators.

    Attributes:
        memories: the workers there are, by address.
        failures: raised by the next coordinators when they start.
        may_load: loads wait for it.
        hold_all: new coordinators answer nothing before their ``hold`` is set.
        says: what they say instead of an answer.
        made: all coordinators, in order.
    """

    def __init__(self, **memories: int) -> None:
        self.memories = {f"10.0.0.{name[1:]}:50052": size for name, size in memories.items()}
        self.unusable: dict[str, str] = {}
        self.failures: list[Exception] = []
        self.may_load = asyncio.Event()
        self.may_load.set()
        self.hold_all = False
        self.says = b""
        self.made: list[Scripted] = []

    @property
    def settings(self) -> list[str]:
        return [f"{address}={size / GIB}" for address, size in self.memories.items()]

    async def run(self) -> None:
        """None of them is the gateway's own."""

    async def find(self, busy: frozenset[str]) -> Found:
        usable = [a for a in self.memories if a not in busy and a not in self.unusable]
        workers = tuple(Worker(a, a, self.memories[a], 20e9) for a in usable)
        links = {address: Link(0.0005, 1e8) for address in usable}
        host = Host("this machine", 8 * GIB, 20e9, links)
        return Found(Fleet(workers, (host,)), self.unusable)

    def coordinator(
        self, plan: Plan, model: LocalModel, name: str, on_progress: Callable[[LoadProgress], None]
    ) -> Scripted:
        made = Scripted(self, plan, name, on_progress)
        self.made.append(made)
        return made

    @property
    def running(self) -> list[Scripted]:
        return [each for each in self.made if each.url and not each.is_stopped]
