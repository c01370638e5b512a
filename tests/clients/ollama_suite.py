"""Runs the ``ollama`` package's own test-suite through a gateway: ``make clients``.

The suite is in the package's source distribution only, which pip fetches. Two of its tests are left
out: they are about the library's own parsing of source code, and need no server.
"""

import importlib.metadata
import os
import subprocess
import sys
import tarfile
import tempfile
from pathlib import Path

ROOT = Path(__file__).parents[2]


def main() -> int:
    """Return the suite's exit code."""
    version = importlib.metadata.version("ollama")
    with tempfile.TemporaryDirectory(prefix="sollol-clients-") as name:
        folder = Path(name)
        fetch = [os.environ.get("PYTHON", "python3"), "-m", "pip", "download", "--quiet"]
        fetch += ["--no-deps", "--no-binary", "ollama", "--dest", name, f"ollama=={version}"]
        subprocess.run(fetch, check=True)
        with tarfile.open(next(folder.glob("ollama-*.tar.gz"))) as archive:
            archive.extractall(folder, filter="data")
        tests = next(folder.glob("ollama-*/tests"))
        # A conftest of the suite, since a fixture of one goes before those of pytest-httpserver.
        conftest = "from tests.clients.ollama_suite_fixtures import gateway_url, httpserver\n"
        (tests / "conftest.py").write_text(conftest)
        command = [sys.executable, "-m", "pytest", "-q"]
        command += ["--rootdir", str(tests), "-c", os.devnull, "-p", "no:cacheprovider"]
        paths = os.pathsep.join([str(ROOT), os.environ.get("PYTHONPATH", "")])
        environment = os.environ | {"PYTHONPATH": paths}
        return subprocess.run(
            [*command, *sys.argv[1:], str(tests)], env=environment, check=False
        ).returncode


if __name__ == "__main__":
    sys.exit(main())
