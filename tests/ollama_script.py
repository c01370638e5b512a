"""An Ollama whose answers are written out, for what a simulated one does not do."""

import asyncio
import json
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from typing import Any

from tests.scripted_node import Node, Peer

NOT_FOUND = b"404 page not found"


def plain(status: int, content_type: str, body: bytes) -> bytes:
    """Return a whole answer."""
    head = f"HTTP/1.1 {status} X\r\nContent-Type: {content_type}\r\nContent-Length: {len(body)}"
    return head.encode() + b"\r\n\r\n" + body


def sse(*events: bytes, end: bytes = b"0\r\n\r\n") -> bytes:
    """Return a streamed answer of events; ``end`` is what comes after the last chunk."""
    head = b"HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\nCache-Control: no-cache\r\n"
    chunks = b"".join(b"%x\r\n%b\r\n" % (len(event), event) for event in events)
    return head + b"Transfer-Encoding: chunked\r\n\r\n" + chunks + end


class OllamaScript:
    """Answers ``POST path`` with the bytes in ``answers``; ``seen`` lists what it was asked.

    A stream without its end is cut there, or kept open when ``holds``.
    """

    def __init__(self, version: str, models: tuple[str, ...], answers: Mapping[str, bytes]) -> None:
        self.holds = False
        self.answers = dict(answers)
        self.seen: list[tuple[bytes, bytes]] = []
        listed = [
            {"name": name, "model": name, "digest": "d", "size": 1, "capabilities": []}
            for name in models
        ]
        self.probes: dict[str, Any] = {
            "/api/version": {"version": version},
            "/api/tags": {"models": listed},
            "/api/ps": {"models": []},
        }
        self.node = Node(self._serve)

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.node.port}"

    async def _serve(self, peer: Peer) -> None:
        while True:
            head, body = await peer.request()
            method, target, _ = head.split(b" ", 2)
            probe = self.probes.get(target.decode())
            if method == b"GET" and probe is not None:
                await peer.send(plain(200, "application/json", json.dumps(probe).encode()))
                continue
            self.seen.append((target, body))
            path = target.decode().partition("?")[0]
            answer = self.answers.get(path, plain(404, "text/plain", NOT_FOUND))
            await peer.send(answer)
            if b"chunked" in answer and not answer.endswith(b"0\r\n\r\n"):
                if self.holds:
                    await peer.wait_gone()
                return  # a cut stream


@asynccontextmanager
async def openai_script(answers: Mapping[str, bytes]) -> AsyncIterator[OllamaScript]:
    """Run a server with the OpenAI API, which has one model, on a free port."""
    async with ollama_script(answers) as script:
        script.probes = {"/v1/models": {"object": "list", "data": [{"id": "m"}]}}
        yield script


@asynccontextmanager
async def ollama_script(
    answers: Mapping[str, bytes] | None = None,
    *,
    version: str = "0.40.0",
    models: tuple[str, ...] = ("m:latest",),
    hold: bool = False,
) -> AsyncIterator[OllamaScript]:
    """Run one on a free port."""
    script = OllamaScript(version, models, answers or {})
    script.holds = hold
    await script.node.start()
    try:
        yield script
    finally:
        await script.node.stop()
        await asyncio.sleep(0)
        assert not script.node.failures
