"""Real processes, a gateway and nodes, for clients that run outside the test's event loop."""

import contextlib
import subprocess
import sys
import time
import urllib.request
from collections.abc import Iterator
from pathlib import Path

from sollol.ports import free_port

ROOT = Path(__file__).parents[2]
_TRIES = 100


@contextlib.contextmanager
def running_gateway_process(*nodes: str) -> Iterator[str]:
    """Run a gateway over ``nodes`` and yield its URL; on the way out, it must stop well."""
    port = free_port()
    command = [sys.executable, "-m", "sollol", "serve", "--no-embedded", "--port", str(port)]
    command += ["--set", "discovery.local=false", "--set", "probe.interval_s=0.2"]
    command += ["--set", "scheduling.state_file=off"]
    for node in nodes:
        command += ["--node", node]
    gateway = subprocess.Popen(command, cwd=ROOT)
    url = f"http://127.0.0.1:{port}"
    try:
        _wait_ready(f"{url}/ready")
        yield url
    finally:
        gateway.terminate()
        exit_code = gateway.wait(10)
    if exit_code:
        raise RuntimeError(f"the gateway ended with exit code {exit_code}")


@contextlib.contextmanager
def simulated_nodes(count: int, models: str) -> Iterator[list[str]]:
    """Run ``count`` simulated nodes with ``models`` (comma-separated) and yield their URLs."""
    ports = [free_port() for _ in range(count)]
    command = [sys.executable, "-m", "sollol.bench.sim", "--models", models]
    command += ["--time-scale", "0", *(f"--node={port}" for port in ports)]
    with subprocess.Popen(command, cwd=ROOT, stdout=subprocess.DEVNULL) as nodes:
        try:
            yield [f"http://127.0.0.1:{port}" for port in ports]
        finally:
            nodes.terminate()


def _wait_ready(url: str) -> None:
    for _ in range(_TRIES):
        with contextlib.suppress(OSError), urllib.request.urlopen(url, timeout=5):
            return
        time.sleep(0.1)
    raise RuntimeError(f"{url} does not answer")
