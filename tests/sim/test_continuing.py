"""A stream whose node fails in the middle goes on on another node, as one answer for the client."""

import json
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass, replace
from typing import Any

import httpx
import pytest

from sollol.bench.sim.config import SimConfig, SimModel
from sollol.bench.sim.faults import Fault, FaultKind
from tests.fleets import MODEL, Fleet, a_fleet
from tests.gateways import wait_for

pytestmark = pytest.mark.sim

CUTS: tuple[FaultKind, ...] = (
    "cut_after_n_records",
    "reset_after_n_records",
    "end_without_done_after_n",
    "error_record_after_n",
    "huge_line",
)
NODE = SimConfig(models=(MODEL,))
HI: Any = [{"role": "user", "content": "hi"}]
SIX = {"options": {"num_predict": 6}}
USAGE = {"stream": True, "stream_options": {"include_usage": True}}
CASES: Mapping[str, tuple[str, dict[str, Any]]] = {
    "chat": ("/api/chat", {"messages": HI} | SIX),
    "chat to its end": ("/api/chat", {"messages": [{"role": "user", "content": "m"}]}),
    "generate": ("/api/generate", {"prompt": "hi", "system": "Be brief."} | SIX),
    "raw": ("/api/generate", {"prompt": "hi", "raw": True} | SIX),
    "v1": ("/v1/chat/completions", {"messages": HI, "max_tokens": 6} | USAGE),
    "v1 without usage": ("/v1/chat/completions", {"messages": HI, "stream": True}),
}


@dataclass(frozen=True)
class Pair:
    """Two nodes, of which the first fails when it is told to."""

    fleet: Fleet

    async def whole(self, path: str, body: Any) -> str:
        """The answer of a node, without any gateway."""
        async with httpx.AsyncClient(base_url=self.fleet.nodes[1].url) as client:
            return (await client.post(path, json={"model": MODEL.name} | body)).text

    async def cut(self, path: str, body: Any, fault: Fault, **headers: str) -> str:
        """The answer to a request that the fault struck."""
        first = self.fleet.nodes[0]
        first.set_fault(replace(fault, path=path))  # not on a probe
        answer = httpx.Response(500)
        while first.state.faults.active:
            answer = await self.fleet.client.post(
                path, json={"model": MODEL.name} | body, headers=headers
            )
        return answer.text

    async def latest(self) -> dict[str, Any]:
        """The latest decision in the journal that has to do with a stream that broke off."""
        told = (await self.fleet.client.get("/sollol/v1/decisions?limit=5")).json()["decisions"]
        found: dict[str, Any] = next(t for t in told if t["attempts"][0]["error"])
        return found

    async def count(self, outcome: str) -> float:
        text = (await self.fleet.client.get("/metrics")).text
        label = f'sollol_continuations_total{{outcome="{outcome}"}}'
        return sum(float(x.split()[1]) for x in text.splitlines() if x.startswith(label))


@asynccontextmanager
async def a_pair(
    first: SimConfig = NODE,
    second: SimConfig = NODE,
    mid_stream: str = "continue",
    stall_s: float = 30.0,
) -> AsyncIterator[Pair]:
    failover = {"mid_stream": mid_stream, "eject_after": 10**6, "retry_reserve": 10**6}
    settings: Any = {"failover": failover, "scheduling": {"policy": "round_robin"}}
    settings["upstream"] = {"stall_timeout_s": stall_s}
    async with a_fleet(first, second, **settings) as fleet:
        yield Pair(fleet)


def records(text: str) -> list[dict[str, Any]]:
    lines = [line.removeprefix("data: ") for line in text.splitlines() if line]
    return [json.loads(line) for line in lines if line != "[DONE]"]


def comparable(path: str, text: str) -> list[dict[str, Any]]:
    """What must be equal of a joined stream and of one that was not interrupted."""
    found = records(text)
    for record in found:
        for name in ("id", "created", "created_at", "context"):
            record.pop(name, None)
        for name in [name for name in record if name.endswith("_duration")]:
            record.pop(name)
    assert path.startswith("/api/") or text.endswith("\n\ndata: [DONE]\n\n")
    return found


@pytest.mark.parametrize("case", CASES)
@pytest.mark.parametrize("kind", CUTS)
async def test_the_joined_answer_is_the_uninterrupted_one(case: str, kind: FaultKind) -> None:
    path, body = CASES[case]
    async with a_pair() as pair:
        whole = await pair.whole(path, body)
        expected = comparable(path, whole)
        count = whole.count("\n\n" if path.startswith("/v1/") else "\n")
        last = count - 1 if kind == "huge_line" else count  # which needs a record with text
        middle = 1 if count < 12 else count // 3  # a long answer has its limit nowhere near
        for cut_at in sorted({1, *range(1, last, middle), last - 1}):
            size = 9 << 20
            fault = Fault(kind, path=path, times=1, records=cut_at, size_bytes=size)
            joined = await pair.cut(path, body, fault)
            if kind == "huge_line" and '"content"' not in joined and "response" not in joined:
                continue
            assert comparable(path, joined) == expected, (cut_at, joined)
            assert len({r.get("id") for r in records(joined)}) == 1
        assert await pair.count("continued") >= 3
        assert await pair.count("failed") == await pair.count("refused") == 0


@pytest.mark.parametrize("case", CASES)
async def test_a_node_that_falls_silent_is_followed_by_another(case: str) -> None:
    path, body = CASES[case]
    async with a_pair(stall_s=0.5) as pair:
        expected = comparable(path, await pair.whole(path, body))
        fault = Fault("hang_after_n_records", path=path, times=1, records=3)
        assert comparable(path, await pair.cut(path, body, fault)) == expected


async def test_the_seam_is_told_of() -> None:
    path, body = CASES["chat"]
    async with a_pair() as pair:
        joined = records(
            await pair.cut(path, body, Fault("cut_after_n_records", times=1, records=4))
        )
        told = await pair.latest()
        assert told["outcome"] == "ok"
        assert told["continuation"] == {"outcome": "continued", "reason": "", "tokens": 4}
        steps = [(t["node"], t["error"], t["continues"]) for t in told["attempts"]]
        assert steps == [("a", "upstream_cut", False), ("b", "", True)]
        assert told["node"] == "b"
        assert joined[-1]["total_duration"] > 0
        assert told["attempts"][1]["measured"]["first_byte_s"] >= 0


CUT = Fault("cut_after_n_records", times=1, records=3)
TOOL = {"type": "function", "function": {"name": "f"}}
CUT_TEXT = "closed the connection"


@pytest.mark.parametrize(
    ("path", "fields", "reason"),
    [
        ("/api/chat", {"messages": HI, "format": "json"}, "a format"),
        ("/api/chat", {"messages": HI, "logprobs": True}, "probabilities"),
        ("/api/chat", {"messages": [*HI, {"role": "assistant", "content": "Lo"}]}, "beginning"),
        ("/api/generate", {"prompt": "hi", "context": [1, 2]}, "context"),
        ("/v1/chat/completions", {"messages": HI, "stream": True, "n": 2}, "several answers"),
    ],
)
async def test_what_cannot_be_exact_ends_in_an_error(
    path: str, fields: dict[str, Any], reason: str
) -> None:
    async with a_pair() as pair:
        ended = await pair.cut(path, fields, CUT)
        told = await pair.latest()
        assert told["continuation"]["outcome"] == "refused"
        assert reason in told["continuation"]["reason"]
        assert told["continuation"]["tokens"] == 3
        assert "error" in records(ended)[-1]
        assert (told["outcome"], len(told["attempts"])) == ("upstream_cut", 1)
        assert await pair.count("refused") == 1


async def test_a_template_that_closes_the_turn_is_found_out() -> None:
    closing = SimConfig(models=(SimModel(MODEL.name, size_gib=1.0, closes_turn=True),))
    async with a_pair(closing, closing) as pair:
        for _ in range(2):
            ended = records(await pair.cut(*CASES["chat"], CUT))
            assert len(ended) == 4
            assert "error" in ended[-1]
            reason = "the model's template does not go on with an answer"
            assert (await pair.latest())["continuation"]["reason"] == reason
        probes = [r for r in pair.fleet.nodes[1].requests if b'"Hi"' in (r.body or b"")]
        assert len(probes) == 2


async def test_another_digest_is_another_model() -> None:
    other = SimConfig(models=(SimModel(MODEL.name, size_gib=1.0, digest="0" * 64),))
    async with a_pair(other, NODE) as pair:  # of as many nodes each, the smaller digest counts
        ended = records(await pair.cut(*CASES["chat"], CUT))
        assert "error" in ended[-1]
        reason = (await pair.latest())["continuation"]["reason"]
        assert reason == "no other node has the same model on the same engine"
        assert (await pair.latest())["continuation"]["tokens"] == 3


async def test_a_second_node_that_is_not_up_is_none() -> None:
    async with a_pair() as pair:
        drained = {"draining": True}
        answer = await pair.fleet.client.patch("/sollol/v1/nodes/b", json=drained)
        assert answer.status_code == 200
        ended = records(await pair.cut(*CASES["chat"], CUT))
        assert "error" in ended[-1]
        told = await pair.latest()
        assert (told["continuation"]["outcome"], told["continuation"]["tokens"]) == ("refused", 3)
        assert len(told["attempts"]) == 1
        assert await pair.count("refused") == 1


async def test_thoughts_are_not_gone_on_with() -> None:
    thinker = SimModel("qwen3:1b", size_gib=1.0, capabilities=("completion", "thinking"))
    node = SimConfig(models=(thinker,))
    async with a_pair(node, node) as pair:
        ended = records(await pair.cut("/api/chat", {"model": "qwen3:1b", "messages": HI}, CUT))
        assert "error" in ended[-1]
        assert (await pair.latest())["continuation"]["reason"] == "the model was thinking"


async def test_there_is_one_second_leg() -> None:
    path, body = CASES["raw"]
    async with a_pair() as pair:
        pair.fleet.nodes[1].set_fault(Fault("cut_after_n_records", path=path, times=1, records=2))
        pair.fleet.nodes[0].set_fault(Fault("cut_after_n_records", path=path, times=1, records=2))
        answer = await pair.fleet.post(path, {"model": MODEL.name} | body)
        ended = records(answer.text)
        assert len(ended) == 5
        assert "error" in ended[-1]
        told = await pair.latest()
        assert told["continuation"]["outcome"] == "failed"
        assert [t["error"] for t in told["attempts"]] == ["upstream_cut"] * 2
        assert await pair.count("failed") == 1


async def test_a_second_node_that_says_no_leaves_the_first_error() -> None:
    path, body = CASES["raw"]
    async with a_pair() as pair:
        pair.fleet.nodes[1].set_fault(Fault("status", path=path, status=400, message="no"))
        ended = records(await pair.cut(path, body, CUT))
        assert "error" in ended[-1]
        told = await pair.latest()
        assert told["continuation"]["outcome"] == "refused"
        assert told["continuation"]["reason"] == "the node answered 400: no"


async def test_a_client_that_leaves_ends_the_second_leg() -> None:
    path, body = CASES["raw"]
    body = body | {"model": MODEL.name, "options": {"num_predict": 500}}
    paced = SimConfig(models=(MODEL,), chunk_interval_s=0.02)
    async with a_pair(NODE, paced) as pair:
        first, second = pair.fleet.nodes
        first.set_fault(replace(CUT, path=path))
        while True:
            async with pair.fleet.client.stream("POST", path, json=body) as answer:
                lines = answer.aiter_lines()
                for _ in range(5):
                    await anext(lines)
            if not first.state.faults.active:
                break
        await wait_for(lambda: pair.fleet.running.in_flight == 0)
        await wait_for(lambda: not second.state.engine.decoding)
        assert await pair.count("cancelled") == 1
        assert (await pair.latest())["continuation"]["outcome"] == "cancelled"


async def test_it_is_wanted_by_the_settings_or_by_the_request() -> None:
    path, body = CASES["chat"]
    async with a_pair(mid_stream="error") as pair:
        assert "error" in records(await pair.cut(path, body, CUT))[-1]
        assert (await pair.latest())["continuation"] is None
        wanted = {"X-Sollol-On-Cut": "continue"}
        assert records(await pair.cut(path, body, CUT, **wanted))[-1]["done"]
        wrong = {"X-Sollol-On-Cut": "maybe"}
        refused = await pair.fleet.client.post(path, json=body, headers=wrong)
        assert refused.status_code == 400
        assert "X-Sollol-On-Cut must be continue or error" in refused.json()["error"]
    async with a_pair() as pair:
        ended = await pair.cut(path, body, CUT, **{"X-Sollol-On-Cut": "error"})
        assert "error" in records(ended)[-1]
