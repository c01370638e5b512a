"""The virtual node and the simulated node on a socket tell the same of the same requests."""

from dataclasses import dataclass, replace
from typing import Any

import httpx
import pytest

from sollol.bench.sim.config import SimConfig, SimModel
from sollol.bench.sim.node import SimNode
from sollol.bench.virtual.loop import EventLoop
from sollol.bench.virtual.node import VirtualNode, Visit

MODELS = (
    SimModel("small", size_gib=2.0),
    SimModel("middle", size_gib=5.0),
    SimModel("large", size_gib=9.0),
    SimModel("embeds", size_gib=0.5, capabilities=("embedding",)),
)
CONFIG = SimConfig(models=MODELS, vram_gib=12.0, kv_bytes_per_token=1024, reference_gib=4.0)


@dataclass(frozen=True)
class Step:
    model: str
    prompt_chars: int = 400
    known_chars: int = 0
    output: int = 20
    num_ctx: int = 0
    talk: str = "a"


SCRIPTS = {
    "loads and evictions": [
        Step(name, talk=talk)
        for name, talk in zip(
            ["small", "middle", "small", "large", "middle", "small"], "abcdef", strict=True
        )
    ],
    "other contexts": [
        Step("small", num_ctx=num_ctx, talk=talk)
        for num_ctx, talk in zip((0, 4096, 2048, 2048, 0), "abcde", strict=True)
    ],
    "a conversation": [
        Step("small", prompt_chars=1000),
        Step("small", prompt_chars=1800, known_chars=1000),
        Step("small", prompt_chars=900, talk="b"),
        Step("small", prompt_chars=2600, known_chars=1800),
    ],
    "lost with its model": [
        Step("small", prompt_chars=1000),
        Step("large"),
        Step("middle"),
        Step("small", prompt_chars=1800, known_chars=1000),
    ],
    "embeddings": [Step("embeds", prompt_chars=4000, output=0), Step("small"), Step("embeds")],
    "cut to the context": [Step("small", prompt_chars=4000, num_ctx=256)],
}


async def post(client: httpx.AsyncClient, step: Step) -> tuple[float, ...]:
    """Return what the answer says: seconds of load, prompt and output; tokens."""
    text = (step.talk * step.prompt_chars)[: step.prompt_chars]
    options: dict[str, Any] = {"num_ctx": step.num_ctx} if step.num_ctx else {}
    if step.model == "embeds":
        body: dict[str, Any] = {"model": step.model, "input": text, "options": options}
        said = (await client.post("/api/embed", json=body)).json()
    else:
        options["num_predict"] = step.output
        body = {"model": step.model, "prompt": text, "options": options, "raw": True}
        said = (await client.post("/api/generate", json={**body, "stream": False})).json()
    seconds = ("load_duration", "prompt_eval_duration", "eval_duration")
    counts = ("prompt_eval_count", "prompt_eval_cached_count")
    return (
        *(round(said.get(name, 0) / 1e9, 6) for name in seconds),
        *(said.get(name, 0) for name in counts),
    )


def visit(node: VirtualNode, loop: EventLoop, step: Step) -> tuple[float, ...]:
    """Send the same to the virtual node once it is idle."""
    ended: list[Visit] = []
    node.serve(
        Visit(
            step.model,
            prompt_tokens=step.prompt_chars // 4,
            output_tokens=step.output,
            known_tokens=step.known_chars // 4,
            conversation=ord(step.talk),
            options={"num_ctx": step.num_ctx} if step.num_ctx else {},
            ended=ended.append,
        )
    )
    loop.run(lambda: bool(ended))
    one = ended[0]
    prompt_s = 0.0 if step.model == "embeds" else one.prompt_s  # an embedding's is not told
    seconds = one.load_s, prompt_s, one.output_s
    return (*(round(s, 6) for s in seconds), one.prompt_tokens, one.cached_tokens)


@pytest.mark.parametrize("script", SCRIPTS.values(), ids=SCRIPTS)
@pytest.mark.parametrize("vram_gib", [12.0, 6.0])
async def test_both_simulations_agree(script: list[Step], vram_gib: float) -> None:
    config = replace(CONFIG, vram_gib=vram_gib, reports_cached_count=True)
    loop = EventLoop()
    virtual = VirtualNode(loop, "n", config)
    async with SimNode(config) as node, httpx.AsyncClient(base_url=node.url) as client:
        for step in script:
            assert await post(client, step) == visit(virtual, loop, step)
        kinds = [record.reason for record in node.loads]
        assert {kind: kinds.count(kind) for kind in virtual.memory.loads} == virtual.memory.loads
        assert len(node.evictions) == virtual.memory.unloads["room"]
        loaded = [runner.model.name for runner in node.state.engine.loaded.values()]
        assert loaded == [runner.model.name for runner in virtual.memory.loaded.values()]
