"""Starts the node and the proxies in front of it, each on its cores."""

import http.client
import json
import sys
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from sollol.bench.common.children import Child, ChildFailed, Children
from sollol.bench.common.machine import Layout
from sollol.bench.data_plane.bodies import CHAT_ANSWER, CONTROL_ANSWERS
from sollol.bench.data_plane.nginx import node_command, proxy_command
from sollol.bench.data_plane.results import DIRECT, HTTPX, NGINX, SOLLOL
from sollol.ports import free_port

_SLOTS = 4000
_READY_TIMEOUT_S = 30.0


@dataclass(frozen=True, slots=True)
class Tools:
    """Programs that are not SOLLOL's; None where one is not installed."""

    nginx: str | None
    wrk: str | None


@dataclass(frozen=True, slots=True)
class Target:
    """Something that requests are sent to. ``child`` is what its CPU time is read from."""

    name: str
    port: int
    child: Child


@dataclass(frozen=True, slots=True)
class Bench:
    """What every part of the benchmark needs."""

    children: Children
    layout: Layout
    folder: Path
    tools: Tools

    def start_fixed_node(self, nginx: str) -> Target:
        """Start a node that answers with a fixed text, in microseconds."""
        port = free_port()
        folder = self.folder / f"node-{port}"
        command = node_command(nginx, folder, port, {**CONTROL_ANSWERS, "/api/chat": CHAT_ANSWER})
        child = self.children.start("node", command, self.layout.load)
        child.wait_listening(port)
        return Target(DIRECT, port, child)

    def start_stream_node(self) -> Target:
        """Start a node that streams."""
        port = free_port()
        child = self._start_module("data_plane.stream_node", "--port", str(port))
        child.wait_listening(port)
        return Target(DIRECT, port, child)

    def start_sim_node(self) -> Target:
        """Start a simulated Ollama, which takes blobs."""
        port = free_port()
        child = self._start_module("sim", "--port", str(port), "--models", "llama3.2:3b")
        child.wait_listening(port)
        return Target(DIRECT, port, child)

    def start_nginx(self, nginx: str, node: Target) -> Target:
        """Start nginx as a reverse proxy."""
        port = free_port()
        command = proxy_command(nginx, self.folder / f"proxy-{port}", port, node.port)
        child = self.children.start("nginx", command, self.layout.proxy)
        child.wait_listening(port)
        return Target(NGINX, port, child)

    def start_httpx(self, node: Target) -> Target:
        """Start the FastAPI and httpx proxy."""
        port = free_port()
        command = [
            sys.executable, "-m", "sollol.bench.data_plane.httpx_proxy",
            "--port", str(port), "--node", f"http://127.0.0.1:{node.port}",
        ]  # fmt: skip
        child = self.children.start("httpx-proxy", command, self.layout.proxy)
        child.wait_listening(port)
        return Target(HTTPX, port, child)

    def start_sollol(self, node: Target) -> Target:
        """Start the gateway as a person would, and wait until its node is up."""
        port = free_port()
        nodes = [{"url": f"http://127.0.0.1:{node.port}", "slots": _SLOTS}]
        command = [
            sys.executable, "-m", "sollol", "serve", "--port", str(port), "--no-embedded",
            "--log-level", "info", "--log-format", "json", "--set", "discovery.local=false",
            "--set", "scheduling.state_file=off",
        ]  # fmt: skip
        variables = {"SOLLOL_NODES": json.dumps(nodes)}
        child = self.children.start("sollol", command, self.layout.proxy, variables)
        child.wait_listening(port)
        target = Target(SOLLOL, port, child)
        _wait_ready(target)
        return target

    def start_client(self, module: str, *arguments: str) -> Child:
        """Start a load generator of ours."""
        return self._start_module(f"data_plane.{module}", *arguments)

    def _start_module(self, module: str, *arguments: str) -> Child:
        command = [sys.executable, "-m", f"sollol.bench.{module}", *arguments]
        return self.children.start(module, command, self.layout.load)


def get_json(port: int, path: str) -> tuple[int, Any]:
    """Return status and body of a GET.

    Raises:
        OSError, http.client.HTTPException, ValueError: no answer, or none in JSON.
    """
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=10)
    try:
        connection.request("GET", path)
        answer = connection.getresponse()
        return answer.status, json.loads(answer.read())
    finally:
        connection.close()


def _wait_ready(target: Target) -> None:
    end = time.monotonic() + _READY_TIMEOUT_S
    while time.monotonic() < end:
        target.child.check_alive()
        status, _ = get_json(target.port, "/ready")
        if status == http.client.OK:
            return
        time.sleep(0.1)
    raise ChildFailed(f"{target.name} is not ready\n{target.child.last_output()}")
