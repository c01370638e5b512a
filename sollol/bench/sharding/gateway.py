"""What SOLLOL adds to a model over workers, against its coordinator asked directly."""

import json
import sys
import time
from collections.abc import Iterator, Mapping
from contextlib import AsyncExitStack, contextmanager
from dataclasses import dataclass, field
from pathlib import Path

import httpx

from sollol.bench.bench_children import Child, ChildFailed, Children
from sollol.bench.bench_numbers import Spread
from sollol.bench.bench_report import table
from sollol.bench.bench_targets import Verdict, factor
from sollol.bench.model_kinds import Size
from sollol.bench.sharding.lab import TIMEOUT_S, Lab
from sollol.bench.sharding.models import write_random
from sollol.bench.sharding.workers import THREADS, WorkerSpec, running_workers
from sollol.llamacpp.binaries import LlamaBinaries
from sollol.ports import free_port
from sollol.sharding.memory import GIB, RunOptions

WORKERS = 2
TOKENS = 48
ROUNDS = 15
MOST_OVERHEAD = 0.03
MODEL = "bench"
_OPTIONS = RunOptions(2048)


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
    binaries: LlamaBinaries, folder: Path, size: Size, rounds: int = ROUNDS
) -> Behind:
    """Ask two equal shards by turns: one of ``sollol serve``, and one started with the same flags.

    Raises:
        ChildFailed: one does not come up, or does not answer well.
    """
    store = folder / "store"
    path = write_random(_blob(store), size)
    lab = Lab.of(binaries, path, _OPTIONS)
    found = Behind()
    async with AsyncExitStack() as stack:
        specs = [WorkerSpec() for _ in range(2 * WORKERS)]
        workers = await stack.enter_async_context(running_workers(binaries, specs))
        own, others = workers[:WORKERS], workers[WORKERS:]
        memory_bytes = lab.memory_for(WORKERS)
        plan = await lab.plan([worker.address for worker in own], memory_bytes)
        direct = await stack.enter_async_context(lab.running(plan))
        settings = {
            "sharding.workers": ",".join(f"{w.address}={memory_bytes / GIB}" for w in others),
            "sharding.models": MODEL,
            "sharding.store": str(store),
            "sharding.context_length": str(_OPTIONS.context_length),
            "sharding.threads": str(THREADS),
        }
        url = stack.enter_context(_gateway(folder, settings))
        client = await stack.enter_async_context(
            httpx.AsyncClient(timeout=TIMEOUT_S, trust_env=False)
        )
        key = direct.coordinator.api_key
        for number in range(rounds + 1):
            direct_s = await _answer_s(client, direct.coordinator.url, key)
            gateway_s = await _answer_s(client, url, "")
            if number:  # the first also loads
                found.direct_s.append(direct_s)
                found.gateway_s.append(gateway_s)
    return found


def _blob(store: Path) -> Path:
    """Make an Ollama store with one model; return where its file belongs."""
    digest = "sha256:" + "0" * 64
    layers = [{"mediaType": "application/vnd.ollama.image.model", "digest": digest, "size": 1}]
    manifest = store / "manifests" / "registry.ollama.ai" / "library" / MODEL / "latest"
    blob = store / "blobs" / digest.replace(":", "-")
    for path in (manifest, blob):
        path.parent.mkdir(parents=True, exist_ok=True)
    manifest.write_text(json.dumps({"schemaVersion": 2, "layers": layers}), "utf-8")
    return blob


@contextmanager
def _gateway(folder: Path, settings: Mapping[str, str]) -> Iterator[str]:
    """Run ``sollol serve`` and yield its URL."""
    port = free_port()
    values = {"discovery.local": "false", "scheduling.state_file": "off", **settings}
    command = [sys.executable, "-m", "sollol", "serve", "--no-embedded", "--port", str(port)]
    command += ["--log-format", "json", *(f"--set={name}={text}" for name, text in values.items())]
    with Children(folder) as children:
        child: Child = children.start("gateway", command)
        child.wait_listening(port)
        yield f"http://127.0.0.1:{port}"


async def _answer_s(client: httpx.AsyncClient, url: str, key: str) -> float:
    """Return how long a streamed answer takes, from the request to its end."""
    body = {
        "model": MODEL,
        "messages": [{"role": "user", "content": "w1 w2 w3"}],
        "max_tokens": TOKENS,
        "temperature": 0,
        "stream": True,
        "ignore_eos": True,
        "cache_prompt": False,
    }
    headers = {"Authorization": f"Bearer {key}"} if key else {}
    started = time.perf_counter()
    chunks = 0
    async with client.stream(
        "POST", f"{url}/v1/chat/completions", json=body, headers=headers
    ) as answer:
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
        f"Two shards of one model (random, 0.2 GB) over {WORKERS} workers each, with the same flags: one "
        "is started by `sollol serve` at the first request, the other one is a `llama-server --rpc` of "
        f"the same command line that is asked directly. By turns, {ROUNDS} rounds of a streamed chat of "
        f"{TOKENS} tokens, from the request to the end of the answer.\n\n"
    )
    rows = [
        ("directly", "1.00x", f"{Spread.of(found.direct_s).median:.3f}"),
        ("through SOLLOL", factor(found.ratio), f"{Spread.of(found.gateway_s).median:.3f}"),
    ]
    return text + table(("", "against directly", "seconds"), rows)
