"""A node in a network namespace of its own, so that its cable can be pulled."""

import asyncio
import os
import shutil
import subprocess
import sys
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import pytest

from sollol.bench.common.children import Children

_TOOLS = ("ip", "nsenter", "unshare")
_NODE_PORT = 11434
_INSIDE = "veth-node"


class FarNode:
    """A simulated node behind a cable."""

    def __init__(self, folder: Path, children: Children) -> None:
        place = os.getpid() % 16_384  # each worker of a test run has a /30 of its own
        network = f"10.{203 + place // 4096}.{place // 16 % 256}.{place % 16 * 4}"
        prefix = network.rpartition(".")[0]
        first = place % 16 * 4
        self.address = f"{prefix}.{first + 2}"
        self.url = f"http://{self.address}:{_NODE_PORT}"
        self._near = f"{prefix}.{first + 1}"
        self._outside = f"veth-{place}"
        self._children = children
        self._inside: list[str] = []

    async def start(self, *arguments: str) -> None:
        """Make the namespace and the cable, and start the node.

        Raises:
            pytest.skip.Exception: this machine does not allow it.
        """
        missing = [tool for tool in _TOOLS if shutil.which(tool) is None]
        if os.geteuid() != 0 or missing:
            pytest.skip(f"network namespaces need root and {', '.join(missing or _TOOLS)}")
        holder = self._children.start("namespace", ["unshare", "--net", "sleep", "infinity"])
        pid = str(holder.process.pid)
        await _wait_other_namespace(pid)
        self._inside = ["nsenter", "--target", pid, "--net"]
        if not _ran(
            "ip", "link", "add", self._outside, "type", "veth", "peer", _INSIDE, "netns", pid
        ):
            pytest.skip("this machine does not allow virtual network cables")
        _run("ip", "address", "add", f"{self._near}/30", "dev", self._outside)
        _run("ip", "link", "set", self._outside, "up")
        _run(*self._inside, "ip", "address", "add", f"{self.address}/30", "dev", _INSIDE)
        _run(*self._inside, "ip", "link", "set", _INSIDE, "up")
        node = ["-m", "sollol.bench.sim", "--host", self.address, "--port", str(_NODE_PORT)]
        child = self._children.start("far-node", [*self._inside, sys.executable, *node, *arguments])
        while b"http://" not in child.last_output().encode():
            child.check_alive()
            await asyncio.sleep(0.02)

    def remove_cable(self) -> None:
        """Take the cable away at once; the end of a namespace takes its time to do it."""
        if self._inside:
            _ran("ip", "link", "delete", self._outside)

    def pull_cable(self) -> None:
        """Let nothing through any more: the node says neither FIN nor RST."""
        _run(*self._inside, "ip", "link", "set", _INSIDE, "down")


@asynccontextmanager
async def far_node(folder: Path, *arguments: str) -> AsyncIterator[FarNode]:
    """Run a node; its namespace and its cable go with the process that holds them."""
    with Children(folder) as children:
        node = FarNode(folder, children)
        try:
            await node.start(*arguments)
            yield node
        finally:
            node.remove_cable()


async def _wait_other_namespace(pid: str) -> None:
    end = time.monotonic() + 5
    while os.readlink(f"/proc/{pid}/ns/net") == os.readlink("/proc/self/ns/net"):
        if time.monotonic() > end:
            pytest.skip("this machine does not allow network namespaces")
        await asyncio.sleep(0.01)


def _ran(*command: str) -> bool:
    return subprocess.run(command, capture_output=True, check=False).returncode == 0


def _run(*command: str) -> None:
    done = subprocess.run(command, capture_output=True, check=False)
    assert done.returncode == 0, (command, done.stderr)
