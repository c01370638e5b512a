"""What SOLLOL adds to a model over workers, against its coordinator asked directly."""

import json
import shutil
import sys
import time
from collections.abc import Iterator, Mapping
from contextlib import AsyncExitStack, contextmanager
from dataclasses import dataclass, field
from pathlib import Path

import httpx

from sollol.bench.common.children import Child, ChildFailed, Children
from sollol.bench.common.numbers import Spread
from sollol.bench.common.verdicts import Verdict, factor, table
from sollol.bench.sharding.lab import TIMEOUT_S, Lab
from sollol.bench.sharding.workers import THREADS, WorkerSpec, running_workers
from sollol.llamacpp.binaries import LlamaBinaries
from sollol.ports import HOST, free_port
from sollol.sharding.memory import GIB, RunOptions

WORKERS = 2
TOKENS = 48
ROUNDS = 15
MOST_OVERHEAD = 0.03
MODEL = "bench"
_OPTIONS = RunOptions(2048)
_KEY = "LLAMA_API_KEY="


@dataclass
class Behind:
    """Seconds of the same streamed answer, round by round."""

    direct_s: list[float] = field(default_factory=list)
    gateway_s: list[float] = field(default_factory=list)

    @property
    def ratio(self) -> Spread:
        """Through the gateway against directly."""
        return Spread.of_ratios(self.gateway_s, self.direct_s)


async def measure_gateway(
    binaries: LlamaBinaries, path: Path, folder: Path, rounds: int = ROUNDS
) -> Behind:
    """Ask the coordinator of a shard of ``sollol serve`` by turns, through it and directly.

    Raises:
        ChildFailed: something does not come up, or does not answer well.
    """
    lab = Lab.of(binaries, path, _OPTIONS)
    memory_gb = lab.memory_for(WORKERS) / GIB
    found = Behind()
    async with AsyncExitStack() as stack:
        workers = await stack.enter_async_context(
            running_workers(binaries, [WorkerSpec() for _ in range(WORKERS)])
        )
        settings = {
            "sharding.workers": ",".join(f"{worker.address}={memory_gb}" for worker in workers),
            "sharding.models": MODEL,
            "sharding.store": str(_store(folder / "store", path)),
            "sharding.context_length": str(_OPTIONS.context_length),
            "sharding.threads": str(THREADS),
        }
        url, pid = stack.enter_context(_gateway(folder, settings))
        client = await stack.enter_async_context(
            httpx.AsyncClient(timeout=TIMEOUT_S, trust_env=False)
        )
        await _answer_s(client, url, "")  # loads
        direct = _coordinator(pid)
        for _ in range(rounds):
            found.direct_s.append(await _answer_s(client, *direct))
            found.gateway_s.append(await _answer_s(client, url, ""))
    return found


def _coordinator(gateway_pid: int) -> tuple[str, str]:
    """Return the URL and the key of the llama-server that a gateway started."""
    tasks = Path(f"/proc/{gateway_pid}/task").iterdir()
    children = [pid for task in tasks for pid in (task / "children").read_text().split()]
    for pid in children:
        words = Path(f"/proc/{pid}/cmdline").read_text().split("\0")
        if "--rpc" in words:
            variables = Path(f"/proc/{pid}/environ").read_text().split("\0")
            key = next(text for text in variables if text.startswith(_KEY))
            port = words[words.index("--port") + 1]
            return f"http://{HOST}:{port}", key.removeprefix(_KEY)
    raise ChildFailed("the gateway answers without a coordinator")


def _store(store: Path, path: Path) -> Path:
    """Make an Ollama store with one model, the file at ``path``; nobody checks its hash."""
    digest = "sha256:" + "0" * 64
    size = path.stat().st_size
    layers = [{"mediaType": "application/vnd.ollama.image.model", "digest": digest, "size": size}]
    manifest = store / "manifests" / "registry.ollama.ai" / "library" / MODEL / "latest"
    blob = store / "blobs" / digest.replace(":", "-")
    for made in (manifest, blob):
        made.parent.mkdir(parents=True)
    manifest.write_text(json.dumps({"schemaVersion": 2, "layers": layers}), "utf-8")
    shutil.copyfile(path, blob)
    return store


@contextmanager
def _gateway(folder: Path, settings: Mapping[str, str]) -> Iterator[tuple[str, int]]:
    """Run ``sollol serve`` and yield its URL and process id."""
    port = free_port()
    values = {"discovery.local": "false", "scheduling.state_file": "off", **settings}
    command = [sys.executable, "-m", "sollol", "serve", "--no-embedded", "--port", str(port)]
    command += ["--log-format", "json", *(f"--set={name}={text}" for name, text in values.items())]
    with Children(folder) as children:
        child: Child = children.start("gateway", command)
        child.wait_listening(port)
        yield f"http://{HOST}:{port}", child.process.pid


async def _answer_s(client: httpx.AsyncClient, url: str, key: str) -> float:
    """Return how long a streamed answer takes, from the request to its end."""
    body = {
        "model": MODEL,
        "prompt": "The history of",
        "max_tokens": TOKENS,
        "temperature": 0,
        "stream": True,
        "ignore_eos": True,
        "cache_prompt": False,
    }
    headers = {"Authorization": f"Bearer {key}"} if key else {}
    started = time.perf_counter()
    chunks = 0
    async with client.stream("POST", f"{url}/v1/completions", json=body, headers=headers) as answer:
        async for line in answer.aiter_lines():
            chunks += line.startswith("data: ")
    if answer.status_code != 200 or chunks < TOKENS:
        raise ChildFailed(f"{url} answers {answer.status_code} with {chunks} chunks")
    return time.perf_counter() - started


def judge_gateway(found: Behind) -> list[Verdict]:
    """Hold the answer through the gateway against the limit."""
    overhead = found.ratio.median - 1
    return [
        Verdict(
            f"An answer of {TOKENS} tokens through the gateway, against the coordinator directly",
            f"<= {1 + MOST_OVERHEAD:.2f}x",
            factor(found.ratio),
            overhead <= MOST_OVERHEAD,
        )
    ]


def describe_gateway(found: Behind) -> str:
    """Return the section of the page."""
    text = (
        "## Through the gateway\n\n"
        f"Gemma 3 270M over {WORKERS} workers, started by `sollol serve` at the first request. The same "
        "coordinator, a `llama-server --rpc`, is asked through the gateway and directly at its own port, "
        f"by turns, {ROUNDS} rounds of a streamed text of {TOKENS} tokens, from the request to the end of "
        "the answer.\n\n"
    )
    rows = [
        ("directly", "1.00x", f"{Spread.of(found.direct_s).median:.3f}"),
        ("through SOLLOL", factor(found.ratio), f"{Spread.of(found.gateway_s).median:.3f}"),
    ]
    return text + table(("", "against directly", "seconds"), rows)
