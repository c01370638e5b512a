"""Runs ``javascript.mjs``: the official JavaScript clients against a gateway over two nodes."""

import os
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

from tests.clients.process import running_gateway_process, simulated_nodes

PACKAGES = ("ollama@0.6.4", "openai@7.59.0", "@anthropic-ai/sdk@1.14.0")
MODELS = "llama3.2:3b,all-minilm"
SCRIPT = Path(__file__).with_suffix(".mjs")


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
        with simulated_nodes(2, MODELS) as urls, running_gateway_process(*urls) as gateway_url:
            environment = os.environ | {"GATEWAY_URL": gateway_url}
            command = ["node", "--test", "--test-timeout=60000", SCRIPT.name]
            return subprocess.run(command, cwd=folder, env=environment, check=False).returncode


if __name__ == "__main__":
    sys.exit(main())
