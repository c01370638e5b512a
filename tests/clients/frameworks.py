"""Runs ``frameworks_checks.py``: LangChain, LiteLLM and LlamaIndex against a gateway over two nodes.

The libraries are many and large, so they are installed into an environment of their own.
"""

import os
import subprocess
import sys
import tempfile
from pathlib import Path

from tests.clients.process import running_gateway_process, simulated_nodes

PACKAGES = (
    "langchain-ollama==1.1.0",
    "litellm==1.110.2",
    "llama-index-llms-ollama==0.11.0",
    "llama-index-embeddings-ollama==0.10.0",
)
MODELS = "llama3.2:3b,qwen3:8b,all-minilm"
CHECKS = Path(__file__).with_name("frameworks_checks.py")
TIMEOUT_S = 300
UV = Path(sys.executable).with_name("uv")


def main() -> int:
    """Return the exit code of the checks."""
    with tempfile.TemporaryDirectory(prefix="sollol-clients-") as folder:
        python = Path(folder) / "venv" / "bin" / "python"
        venv = [str(UV), "venv", "--quiet", "--python", sys.executable, str(python.parents[1])]
        install = [str(UV), "pip", "install", "--quiet", "--python", str(python), *PACKAGES]
        for command in (venv, install):
            subprocess.run(command, cwd=folder, check=True)
        with simulated_nodes(2, MODELS) as urls, running_gateway_process(*urls) as gateway_url:
            # LiteLLM would fetch a list of prices at its start.
            own = {"GATEWAY_URL": gateway_url, "LITELLM_LOCAL_MODEL_COST_MAP": "True"}
            checks = [str(python), str(CHECKS)]
            done = subprocess.run(checks, env=os.environ | own, check=False, timeout=TIMEOUT_S)
        return done.returncode


if __name__ == "__main__":
    sys.exit(main())
