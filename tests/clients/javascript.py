"""Runs ``javascript.mjs``: the official JavaScript clients against a gateway over two nodes."""

import contextlib
import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

from sollol.bench.bench_children import free_port
from tests.clients.process import running_gateway_process

PACKAGES = ("ollama@0.6.4", "openai@7.59.0", "@anthropic-ai/sdk@1.14.0")
SCRIPT = Path(__file__).with_suffix(".mjs")


@contextlib.contextmanager
def simulated_nodes(count: int) -> Iterator[list[str]]:
    """Run ``count`` simulated nodes and yield their URLs."""
    ports = [free_port() for _ in range(count)]
    command = [sys.executable, "-m", "sollol.bench.sim", "--models", "llama3.2:3b,all-minilm"]
    command += ["--time-scale", "0", *(f"--node={port}" for port in ports)]
    with subprocess.Popen(command, stdout=subprocess.DEVNULL) as nodes:
        try:
            yield [f"http://127.0.0.1:{port}" for port in ports]
        finally:
            nodes.terminate()


def main() -> int:
    """Return the exit code of node's test runner; 0 with a word where there is no node."""
    if shutil.which("npm") is None:
        sys.stderr.write("skipped: npm is not installed\n")
        return 0
    with tempfile.TemporaryDirectory(prefix="sollol-clients-") as folder:
        shutil.copy(SCRIPT, folder)
        subprocess.run(
            ["npm", "install", "--silent", "--no-save", *PACKAGES], cwd=folder, check=True
        )
        with simulated_nodes(2) as urls, running_gateway_process(*urls) as gateway_url:
            environment = os.environ | {"GATEWAY_URL": gateway_url}
            command = ["node", "--test", "--test-timeout=60000", SCRIPT.name]
            return subprocess.run(command, cwd=folder, env=environment, check=False).returncode


if __name__ == "__main__":
    sys.exit(main())
